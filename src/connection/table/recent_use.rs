//! How much a connection was lately served, which tells a keystroke from a flood.
//!
//! A flood pauses, too: whoever fills a thousand connections in turn leaves each alone for
//! milliseconds, and each then looks as if it had just become active, as a flow that has run empty
//! does to fq_codel (RFC 8290 §4.2). A leaky bucket remembers: what is served goes in, time takes it
//! out, and who comes back with a full one does not go first.

use super::work::Work;
use crate::connection::Timestamp;
use crate::limits::{
    FRAME_SERVICE_BYTES, RECENT_LIGHT_MAX, RECENT_MAX, RECENT_NS_PER_BYTE, SINGLE_VISITS_MIN,
};

/// A leaky bucket of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentUse {
    bytes: u64,
    /// When `bytes` was true.
    at: Timestamp,
}

impl RecentUse {
    /// Counts what was done for the connection.
    #[inline]
    pub(super) fn add(&mut self, done: Work, now: Timestamp) {
        let added = done.bytes.saturating_add(done.frames.saturating_mul(FRAME_SERVICE_BYTES));
        *self = Self { bytes: self.left(now).saturating_add(added).min(RECENT_MAX), at: now };
    }

    /// True for a connection that was served little, or whose last visits found one small request each.
    #[inline]
    pub(super) fn may_go_first(&self, single_visits: u8, now: Timestamp) -> bool {
        single_visits >= SINGLE_VISITS_MIN || self.is_light(now)
    }

    /// True for a connection that was served little.
    #[inline]
    pub(super) fn is_light(&self, now: Timestamp) -> bool {
        self.left(now) <= RECENT_LIGHT_MAX
    }

    /// What time has left of it.
    #[inline]
    fn left(&self, now: Timestamp) -> u64 {
        self.bytes.saturating_sub(now.since(self.at) / RECENT_NS_PER_BYTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn work(frames: u64, bytes: u64) -> Work {
        Work { frames, bytes }
    }

    #[test]
    fn a_typist_stays_light() {
        let mut recent = RecentUse::default();
        // 48 KiB of context ten times a second.
        for stroke in 0..100 {
            let now = Timestamp(stroke * 100 * MS);
            assert!(recent.is_light(now), "keystroke {stroke}");
            recent.add(work(1, 48 << 10), now);
        }
    }

    #[test]
    fn a_flood_with_pauses_is_not_light() {
        let mut recent = RecentUse::default();
        // Four requests of 4 KiB, then 10 ms of nothing.
        for burst in 0..100 {
            let now = Timestamp(burst * 10 * MS);
            assert_eq!(recent.is_light(now), burst < 5, "burst {burst}");
            recent.add(work(4, 16 << 10), now);
        }
    }

    #[test]
    fn many_small_frames_are_a_flood() {
        let mut recent = RecentUse::default();
        recent.add(work(1_000, 0), Timestamp(0));
        assert!(!recent.is_light(Timestamp(MS)));
    }

    #[test]
    fn the_largest_use_is_forgotten_in_34_ms() {
        let mut recent = RecentUse::default();
        recent.add(work(u64::MAX, u64::MAX), Timestamp(0));
        assert!(!recent.is_light(Timestamp(33 * MS)));
        assert!(recent.is_light(Timestamp(34 * MS)));
    }
}
