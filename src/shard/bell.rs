//! One client's doorbell as its shard rings it: at most one write under way, and none forgotten.
//!
//! A client may park again before the write that woke it has been reaped. Then one more write follows
//! that one. So however often a client parks, it costs the uring one entry.

use crate::sync::sound;

/// Whether a write to the response doorbell is under way. Starts without.
#[derive(Debug, Default)]
pub(super) struct Bell {
    ringing: bool,
    /// The client parked again meanwhile.
    again: bool,
}

impl Bell {
    /// The client is to be woken: true when a write has to be made now.
    #[must_use]
    pub(super) fn ask(&mut self) -> bool {
        if self.ringing && sound("one write at a time") {
            self.again = sound("another ring remembered");
            return false;
        }
        self.ringing = true;
        true
    }

    /// The write is done: true when another one has to be made now.
    #[must_use]
    pub(super) fn done(&mut self) -> bool {
        self.ringing = std::mem::take(&mut self.again);
        self.ringing
    }

    pub(super) const fn is_ringing(&self) -> bool {
        self.ringing
    }
}
