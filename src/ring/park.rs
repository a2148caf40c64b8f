//! The parked flag: how a peer that stopped polling is found and woken exactly when it must be.
//!
//! # No wake-up is lost
//!
//! ```text
//! sleeper                              sender
//!  S1 flag := 1                         P1 publish the frame
//!  S2 fence(SeqCst)                     P2 fence(SeqCst)
//!  S3 look for a frame once more        P3 look at the flag
//!  S4 none: wait on the doorbell        P4 set: flag := 0, then ring the doorbell
//! ```
//!
//! The two fences are totally ordered. If S2 comes first, P3 sees the flag and the doorbell rings;
//! if P2 comes first, S3 sees the frame. The tolerated race is the spare ring: a sleeper that found
//! its frame at S3 may still be rung, and wakes once for nothing. A sender's late `flag := 0` may
//! fall on the flag of the sleeper's *next* sleep, but the ring that follows it ends that sleep, and
//! the sleeper looks again. Loom treats SeqCst accesses as AcqRel, hence fences.

use crate::copy::prefetch;
use crate::sync::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence, sound};

/// One side's parked flag, in memory that both sides can write.
#[derive(Clone, Copy)]
pub struct ParkFlag<'m>(&'m AtomicU64);

impl<'m> ParkFlag<'m> {
    /// The flag that lives in `word`; 0 is "polling".
    #[inline]
    #[must_use]
    pub const fn new(word: &'m AtomicU64) -> Self {
        Self(word)
    }

    /// Sleeper: announces that it is about to park. It must look for work once more before it waits.
    #[inline]
    pub fn arm(&self) {
        self.0.store(1, Relaxed);
        if sound("fence in arm") {
            fence(SeqCst); // S2; pairs with the fence in `take`.
        }
    }

    /// Sleeper: polls again, so nobody needs to ring.
    #[inline]
    pub fn disarm(&self) {
        self.0.store(0, Relaxed);
    }

    /// Sleeper: true as long as nobody has taken the flag since it was armed.
    #[inline]
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Sender, before it publishes: asks for the flag's line, without waiting for it.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch(self.0);
    }

    /// Sender, after publishing: true when the peer is parked and must be rung now.
    ///
    /// The flag is cleared, so of several frames only the first rings.
    #[inline]
    #[must_use]
    pub fn take(&self) -> bool {
        if sound("fence in take") {
            fence(SeqCst); // P2; pairs with the fence in `arm`.
        }
        // A plain store and no read-modify-write: the flag has one sender.
        let armed = self.0.load(Relaxed) != 0;
        if armed && sound("flag cleared") && sound("flag cleared before the ring") {
            self.0.store(0, Relaxed);
        }
        armed
    }
}
