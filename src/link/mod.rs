//! The link between one data shard and one worker executor: a job ring one way, and a reply ring for
//! each connection slot the other.
//!
//! The same ring code as between processes, over the daemon's own memory. A reply ring of its own
//! gives each client its own backpressure: one that does not read stops its own streams, up to the
//! provider's socket, and nobody else's. The memory is reserved at start-up and untouched until used.
//!
//! The invariant to remember: the shard end is used by the shard's thread only, the worker end by
//! the worker's thread only; everything shared is words.

mod job;
mod ready;
mod shard_end;
mod worker_end;

pub use job::{Job, JobKind};
pub use shard_end::{Forwarded, ShardEnd};
pub use worker_end::{ReplyError, WorkerEnd};

use std::io;
use std::sync::Arc;

use ready::ReadySet;

use crate::limits::{JOB_RING_CAPACITY, LINE_SIZE, PAGE_SIZE, REPLY_RING_CAPACITY, WORD_SIZE};
use crate::pool::BufferPool;
use crate::region::Mapping;
use crate::ring::{Home, ParkFlag, RingView};
use crate::sync::AtomicU64;
use crate::wake::{ShardWaker, WorkerWaker};

const LINE: usize = (LINE_SIZE / WORD_SIZE) as usize;
/// Reply rings keep to their first page while they are quiet.
const REPLY_HOME: Home = Home { offset: 0, size: PAGE_SIZE, phase: 0, early: false };

/// What both ends see.
struct Shared {
    /// Header lines, then the job ring, then the reply rings.
    memory: Mapping,
    slot_count: usize,
    /// Slots whose reply ring has something new.
    ready: ReadySet,
    pool: BufferPool,
    shard: Arc<ShardWaker>,
    worker: Arc<WorkerWaker>,
}

/// Makes a link for a shard of `slot_count` slots; leases come from `pool`.
///
/// # Errors
///
/// The system's, when the address space cannot be had.
pub fn link(
    slot_count: usize,
    pool: BufferPool,
    shard: Arc<ShardWaker>,
    worker: Arc<WorkerWaker>,
) -> io::Result<(ShardEnd, WorkerEnd)> {
    let header = header_size(slot_count);
    let size = header + JOB_RING_CAPACITY + slot_count as u64 * REPLY_RING_CAPACITY;
    let shared = Arc::new(Shared {
        memory: Mapping::private(size)?,
        slot_count,
        ready: ReadySet::new(slot_count),
        pool,
        shard,
        worker,
    });
    Ok((ShardEnd::new(Arc::clone(&shared)), WorkerEnd::new(shared)))
}

/// Bytes of the header: a line for the job ring's head, one for the job ring's parked flag, and for
/// each slot a line with its reply ring's head and its *worker waits for space* flag.
const fn header_size(slot_count: usize) -> u64 {
    ((2 + slot_count as u64) * LINE_SIZE).next_multiple_of(PAGE_SIZE)
}

impl Shared {
    fn jobs(&self) -> RingView<'_> {
        let words = self.memory.words();
        let start = (header_size(self.slot_count) / WORD_SIZE) as usize;
        let count = (JOB_RING_CAPACITY / WORD_SIZE) as usize;
        RingView::new(&words[start..start + count], &words[0])
    }

    fn replies(&self, slot: usize) -> RingView<'_> {
        let words = self.memory.words();
        let count = (REPLY_RING_CAPACITY / WORD_SIZE) as usize;
        let start = (self.replies_start(slot) / WORD_SIZE) as usize;
        RingView::new(&words[start..start + count], self.slot_word(slot, 0))
    }

    /// Returns the pages of all reply rings, which are empty and into which nobody publishes before a
    /// slot has its next connection: an empty ring is zeros from its head on, as are fresh pages.
    fn give_back_replies(&self) {
        let (start, end) = (self.replies_start(0), self.replies_start(self.slot_count));
        // A failure leaves the pages where they are: memory is kept longer, nothing is wrong.
        let _ = self.memory.discard(start, end);
    }

    /// Offset of a slot's reply ring in `memory`.
    fn replies_start(&self, slot: usize) -> u64 {
        header_size(self.slot_count) + JOB_RING_CAPACITY + slot as u64 * REPLY_RING_CAPACITY
    }

    /// Set while the worker's executor sleeps.
    fn worker_parked(&self) -> ParkFlag<'_> {
        ParkFlag::new(&self.memory.words()[LINE])
    }

    /// Set while a task of the worker waits for space in this slot's reply ring.
    fn worker_blocked(&self, slot: usize) -> ParkFlag<'_> {
        ParkFlag::new(self.slot_word(slot, 1))
    }

    fn slot_word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.memory.words()[(2 + slot) * LINE + word]
    }
}

#[cfg(test)]
mod tests;
