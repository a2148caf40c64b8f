//! How the daemon's own threads wake each other.
//!
//! A data shard sleeps in its uring and polls one eventfd for all of this. A worker executor sleeps
//! in tokio and reads from one end of a socket pair: its own wakers take a lock, which a data shard must
//! not wait for.

#[cfg(not(annulus_loom))]
mod worker_waker;

use std::io;

#[cfg(not(annulus_loom))]
pub use worker_waker::{WorkerDoorbell, WorkerWaker};

use crate::region::Doorbell;
use crate::ring::ParkFlag;
#[cfg(annulus_loom)]
pub use crate::stand_in::{WorkerDoorbell, WorkerWaker};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// In place of a core: the shard is on its own.
const NOWHERE: u32 = u32::MAX;

/// Wakes one data shard, and tells where that happens.
#[derive(Debug)]
pub struct ShardWaker {
    parked: AtomicU64,
    doorbell: Doorbell,
    /// A hint, which orders nothing.
    beside: AtomicU32,
}

impl ShardWaker {
    /// A waker for a shard that is about to start.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            parked: AtomicU64::new(0),
            doorbell: Doorbell::new()?,
            beside: AtomicU32::new(NOWHERE),
        })
    }

    /// The shard's flag: armed before it looks at everything once more and sleeps.
    #[must_use]
    pub const fn parked(&self) -> ParkFlag<'_> {
        ParkFlag::new(&self.parked)
    }

    /// After publishing something for the shard: wakes it if it sleeps.
    ///
    /// Several threads may call this. Two of them may both ring; the spare ring is harmless.
    pub fn wake_if_parked(&self) {
        if self.parked().take() {
            self.doorbell.ring();
        }
    }

    /// The shard sits on this core of its client from now on, or on its own.
    pub fn sit_beside(&self, core: Option<u32>) {
        self.beside.store(core.unwrap_or(NOWHERE), Ordering::Relaxed);
    }

    /// The core of the client beside which the shard sits: where both would be in the way of each
    /// other thread, and it in theirs.
    #[must_use]
    pub fn beside(&self) -> Option<u32> {
        Some(self.beside.load(Ordering::Relaxed)).filter(|core| *core != NOWHERE)
    }

    /// What the shard polls.
    #[must_use]
    pub const fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }
}
