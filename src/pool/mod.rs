//! Buffers for payloads that must outlive their frame: four tiers, made at start-up, leased out.
//!
//! A data shard copies a frame's payload into a [`Lease`] and hands it to a worker executor on
//! another thread; dropping the lease there gives the buffer back. Nothing here allocates after
//! start-up, and nothing waits: when a tier and the tiers above it have nothing free, the caller
//! gets `None` and leaves the frame in its ring.
//!
//! The invariant to remember: a buffer is leased exactly while its bit in `free` is zero.

mod bitmap;
mod lease;

pub use lease::{Lease, LeaseToken};

use std::io;
use std::sync::Arc;

use bitmap::Bitmap;

use crate::limits::PAGE_SIZE;
#[cfg(not(annulus_loom))]
use crate::region::Mapping as Buffers;
#[cfg(annulus_loom)]
use crate::stand_in::Buffers;
use crate::sync::{AtomicBool, AtomicU32, Ordering::Relaxed, sound};

/// Which tier a buffer belongs to, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TierIndex {
    /// 4 KiB.
    Small,
    /// 64 KiB.
    Medium,
    /// 1 MiB.
    Large,
    /// The largest message; its pages go back to the kernel after each use.
    Mapped,
}

impl TierIndex {
    /// Every tier, smallest first.
    pub const ALL: [Self; 4] = [Self::Small, Self::Medium, Self::Large, Self::Mapped];
}

/// How many buffers of what size each tier of a [`BufferPool`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Bytes of one buffer, for each tier.
    pub buffer_size: [u64; 4],
    /// Buffers, for each tier.
    pub count: [u32; 4],
}

impl PoolSizes {
    /// The tiers for `buffer_pool_size` buffers in all of them but the mapped one, and messages of up
    /// to `message_size_max` bytes.
    ///
    /// Of every twelve buffers eight are small, three medium and one large, at least one each.
    #[must_use]
    pub const fn for_config(buffer_pool_size: u32, message_size_max: u32) -> Self {
        let large = at_least_one(buffer_pool_size / 12);
        let medium = at_least_one(buffer_pool_size / 4);
        let small = at_least_one(buffer_pool_size.saturating_sub(large + medium));
        let largest = (message_size_max as u64).next_multiple_of(PAGE_SIZE);
        Self {
            buffer_size: [4 << 10, 64 << 10, 1 << 20, largest],
            count: [small, medium, large, 4],
        }
    }

    const fn tier_size(&self, tier: usize) -> u64 {
        self.buffer_size[tier] * self.count[tier] as u64
    }
}

const fn at_least_one(count: u32) -> u32 {
    if count == 0 { 1 } else { count }
}

/// The pool. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct BufferPool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// All buffers, tier after tier; untouched pages cost nothing.
    memory: Buffers,
    sizes: PoolSizes,
    /// One bit a buffer, set while it is free.
    free: [Bitmap; 4],
    /// Buffers that replies hold. Guards no memory, only the replies' share.
    replies: [AtomicU32; 4],
    /// Set when a buffer of a tier in [`KEPT`] comes back, whose pages its last holder may have
    /// touched. Guards no memory: it says where to look, `free` who may.
    touched: [AtomicBool; 4],
}

/// Tiers that keep their pages when a buffer comes back, because the next large message wants them,
/// and that are large enough to be worth a system call later.
const KEPT: [TierIndex; 2] = [TierIndex::Medium, TierIndex::Large];

impl BufferPool {
    /// A pool of these sizes; reserves address space, touches only its bitmaps.
    ///
    /// # Errors
    ///
    /// The system's, when the address space cannot be had.
    ///
    /// # Panics
    ///
    /// When a buffer size is not a multiple of the page, or the tiers are not in growing order.
    pub fn new(sizes: PoolSizes) -> io::Result<Self> {
        assert!(sizes.buffer_size.iter().all(|size| *size > 0 && size.is_multiple_of(PAGE_SIZE)));
        let total = (0..TierIndex::ALL.len()).map(|tier| sizes.tier_size(tier)).sum();
        let memory = Buffers::private(total)?;
        let free = sizes.count.map(Bitmap::all_set);
        let replies = std::array::from_fn(|_| AtomicU32::new(0));
        let touched = std::array::from_fn(|_| AtomicBool::new(false));
        Ok(Self { inner: Arc::new(Inner { memory, sizes, free, replies, touched }) })
    }

    /// Leases a buffer of at least `size` bytes: from the smallest tier that fits, or the next one
    /// that has any free. The lease is `size` bytes long.
    ///
    /// `None`: nothing that large is free now, or ever (see [`BufferPool::buffer_size_max`]).
    #[must_use]
    pub fn lease(&self, size: usize) -> Option<Lease> {
        self.lease_up_to(size, TierIndex::Mapped)
    }

    fn lease_up_to(&self, size: usize, largest: TierIndex) -> Option<Lease> {
        TierIndex::ALL
            .into_iter()
            .filter(|tier| *tier <= largest)
            .filter(|tier| self.inner.sizes.buffer_size[*tier as usize] >= size as u64)
            .find_map(|tier| {
                let index = self.inner.free[tier as usize].take()?;
                Some(Lease::new(self.clone(), tier, index, size))
            })
    }

    /// [`BufferPool::lease`] for a request on its way to a worker: leaves the last buffer of the
    /// largest tier alone.
    ///
    /// A handler may keep its request while it waits for a buffer for its reply. If requests could
    /// hold every buffer, all of them would wait for ever; so the last one goes to replies only, which
    /// wait for nothing but their client.
    #[must_use]
    pub fn lease_for_request(&self, size: usize) -> Option<Lease> {
        let is_last = self.free_count(TierIndex::Mapped) <= 1 && sound("one buffer is for replies");
        // Note: replies may take a buffer between this look and the lease. That is harmless: requests
        // still hold all but one at most, because one thread leases for requests.
        self.lease_up_to(size, if is_last { TierIndex::Large } else { TierIndex::Mapped })
    }

    /// [`BufferPool::lease`] for a reply, which waits until its client reads it: replies hold at most
    /// half of each tier, rounded up, because a request's buffer comes back by itself and a reply's may not.
    #[must_use]
    pub fn lease_for_reply(&self, size: usize) -> Option<Lease> {
        TierIndex::ALL
            .into_iter()
            .filter(|tier| self.inner.sizes.buffer_size[*tier as usize] >= size as u64)
            .find_map(|tier| {
                let replies = &self.inner.replies[tier as usize];
                // Counted first, so that two threads take no more than the share between them. One may
                // find it taken for the moment in which the other finds out; it tries again.
                let share = self.count(tier).div_ceil(2);
                let index = (replies.fetch_add(1, Relaxed) < share)
                    .then(|| self.inner.free[tier as usize].take())
                    .flatten();
                if index.is_none() {
                    replies.fetch_sub(1, Relaxed);
                }
                Some(Lease::for_reply(self.clone(), tier, index?, size))
            })
    }

    /// The smallest tier whose buffers have `size` bytes; the largest where none has.
    #[must_use]
    pub fn tier_for(&self, size: usize) -> TierIndex {
        let fits = |tier: &TierIndex| self.inner.sizes.buffer_size[*tier as usize] >= size as u64;
        TierIndex::ALL.into_iter().find(fits).unwrap_or(TierIndex::Mapped)
    }

    /// Bytes of the largest lease.
    #[must_use]
    pub fn buffer_size_max(&self) -> u64 {
        self.inner.sizes.buffer_size[TierIndex::Mapped as usize]
    }

    /// Buffers of `tier` that are free now; other threads may change it at once.
    #[must_use]
    pub fn free_count(&self, tier: TierIndex) -> u32 {
        self.inner.free[tier as usize].count()
    }

    /// Buffers of `tier` in all.
    #[must_use]
    pub fn count(&self, tier: TierIndex) -> u32 {
        self.inner.sizes.count[tier as usize]
    }

    /// True when [`BufferPool::give_back_pages`] would find something: two loads.
    #[inline]
    #[must_use]
    pub fn has_idle_pages(&self) -> bool {
        KEPT.iter().any(|tier| self.inner.touched[*tier as usize].load(Relaxed))
    }

    /// Returns the pages of all free buffers of 64 KiB and 1 MiB to the kernel, if any was used since
    /// the last time; one system call a buffer. For who has nothing else to do: the next large message
    /// waits for its pages again.
    pub fn give_back_pages(&self) {
        for tier in KEPT {
            if !self.inner.touched[tier as usize].swap(false, Relaxed) {
                continue;
            }
            for index in 0..self.count(tier) {
                // Taken meanwhile, so that nobody is given it; one that is leased says so again when
                // it comes back.
                if self.inner.free[tier as usize].take_number(index) {
                    self.discard(tier, index);
                    self.inner.free[tier as usize].give(index);
                }
            }
        }
    }

    /// Offset of a buffer in `memory`.
    fn offset(&self, tier: TierIndex, index: u32) -> u64 {
        let tier = tier as usize;
        let before: u64 = (0..tier).map(|lower| self.inner.sizes.tier_size(lower)).sum();
        before + u64::from(index) * self.inner.sizes.buffer_size[tier]
    }

    /// Takes a buffer back. Called once for each lease, by its drop.
    fn give_back(&self, tier: TierIndex, index: u32, is_reply: bool) {
        if is_reply {
            self.inner.replies[tier as usize].fetch_sub(1, Relaxed);
        }
        if tier == TierIndex::Mapped {
            self.discard(tier, index);
        }
        self.inner.free[tier as usize].give(index);
        if KEPT.contains(&tier) {
            // After it is free: who looks in between finds it on the next look.
            self.inner.touched[tier as usize].store(true, Relaxed);
        }
    }

    fn discard(&self, tier: TierIndex, index: u32) {
        let start = self.offset(tier, index);
        let end = start + self.inner.sizes.buffer_size[tier as usize];
        // A failure leaves the pages where they are: memory is kept longer, nothing is wrong.
        let _ = self.inner.memory.discard(start, end);
    }
}
