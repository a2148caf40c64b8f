//! How much was done.

use crate::connection::ConnectionStatistics;
use crate::limits::{BYTES_PER_TURN, FRAMES_PER_TURN};

/// Requests that were taken up, and bytes of their payloads; modulo 2⁶⁴.
#[derive(Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Work {
    #[inline]
    pub(super) fn of(statistics: &ConnectionStatistics) -> Self {
        Self { frames: statistics.requests, bytes: statistics.request_bytes }
    }

    #[inline]
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            frames: self.frames.wrapping_sub(before.frames),
            bytes: self.bytes.wrapping_sub(before.bytes),
        }
    }

    #[inline]
    pub(super) fn plus(self, more: Self) -> Self {
        Self {
            frames: self.frames.wrapping_add(more.frames),
            bytes: self.bytes.wrapping_add(more.bytes),
        }
    }

    /// True when a turn that began `before` has done its share.
    #[inline]
    pub(super) fn is_much_since(self, before: Self) -> bool {
        let done = self.since(before);
        done.frames >= FRAMES_PER_TURN as u64 || done.bytes >= BYTES_PER_TURN
    }
}
