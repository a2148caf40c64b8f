//! Exclusive use of a pooled buffer, given back on drop. One of the few files with `unsafe`.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::{BufferPool, TierIndex};

/// A buffer that is yours until you drop it, on any thread.
///
/// Its bytes are whatever the last holder left: fill it before you read it.
pub struct Lease {
    pool: BufferPool,
    tier: TierIndex,
    index: u32,
    size: usize,
    /// Counts among the tier's replies.
    is_reply: bool,
}

/// A lease on its way through a ring to another thread: as numbers.
///
/// A token that is lost keeps its buffer leased for ever; it is turned back exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub(crate) u64);

impl Lease {
    /// The caller has just taken `index` from the tier's free set.
    pub(super) fn new(pool: BufferPool, tier: TierIndex, index: u32, size: usize) -> Self {
        debug_assert!(size as u64 <= pool.inner.sizes.buffer_size[tier as usize]);
        Self { pool, tier, index, size, is_reply: false }
    }

    /// The same for a reply, which the caller has counted.
    pub(super) fn for_reply(pool: BufferPool, tier: TierIndex, index: u32, size: usize) -> Self {
        let mut lease = Self::new(pool, tier, index, size);
        lease.is_reply = true;
        lease
    }

    /// Turns the lease into a token; nothing is given back.
    #[must_use]
    pub fn into_token(self) -> LeaseToken {
        let lease = ManuallyDrop::new(self);
        // SAFETY: `read` needs a valid value that is not used again: `lease` is never dropped, so
        // the pool's count is taken over here and dropped here.
        drop(unsafe { std::ptr::read(&raw const lease.pool) });
        LeaseToken(
            lease.size as u64
                | (u64::from(lease.index) << 40)
                | (u64::from(lease.is_reply) << 61)
                | ((lease.tier as u64) << 62),
        )
    }

    /// Turns a token of `pool` back into its lease.
    ///
    /// # Panics
    ///
    /// When the token does not name a buffer of this pool that is leased: a bug in the daemon.
    #[cfg(any(feature = "server", annulus_loom))]
    #[must_use]
    pub(crate) fn from_token(pool: &BufferPool, token: LeaseToken) -> Self {
        let tier = TierIndex::ALL[(token.0 >> 62) as usize];
        let index = (token.0 >> 40) as u32 & 0x001F_FFFF;
        let size = (token.0 & ((1 << 40) - 1)) as usize;
        assert!(index < pool.count(tier));
        assert!(size as u64 <= pool.inner.sizes.buffer_size[tier as usize]);
        let is_reply = token.0 >> 61 & 1 != 0;
        Self { pool: pool.clone(), tier, index, size, is_reply }
    }

    /// Which tier the buffer came from.
    #[must_use]
    pub const fn tier(&self) -> TierIndex {
        self.tier
    }

    fn start(&self) -> *mut u8 {
        // `index` is below the tier's count: it came from the tier's free set.
        self.pool.inner.memory.at(self.pool.offset(self.tier, self.index))
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `size` bytes from `start` lie in the mapping, which holds all tiers
        // (`BufferPool::new`): `size` is at most the tier's buffer size, checked where a lease is
        // made. Nobody else can reach them: the buffer's bit is taken until this lease drops,
        // `Bitmap::take` being the only way to it.
        unsafe { std::slice::from_raw_parts(self.start(), self.size) }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.size) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(self.tier, self.index, self.is_reply);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes may be somebody's prompt.
        f.debug_struct("Lease")
            .field("tier", &self.tier)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;
    use crate::pool::PoolSizes;

    fn pool() -> BufferPool {
        BufferPool::new(PoolSizes {
            buffer_size: [4 << 10, 64 << 10, 1 << 20, 10 << 20],
            count: [3, 2, 1, 1],
        })
        .unwrap()
    }

    #[test]
    fn the_smallest_tier_that_fits_serves_and_larger_ones_help_out() {
        let pool = pool();
        let leases: Vec<Lease> = (0..4).map(|_| pool.lease(100).unwrap()).collect();
        let tiers: Vec<TierIndex> = leases.iter().map(Lease::tier).collect();
        assert_eq!(
            tiers,
            [TierIndex::Small, TierIndex::Small, TierIndex::Small, TierIndex::Medium]
        );
        assert_eq!(pool.lease(4097).unwrap().tier(), TierIndex::Medium);
        assert!(pool.lease((10 << 20) + 1).is_none());
    }

    #[test]
    fn an_empty_pool_says_so_and_recovers() {
        let pool = pool();
        let held: Vec<Lease> = std::iter::from_fn(|| pool.lease(1)).collect();
        assert_eq!(held.len(), 7);
        drop(held);
        assert_eq!(TierIndex::ALL.map(|tier| pool.free_count(tier)), [3, 2, 1, 1]);
    }

    #[test]
    fn requests_leave_the_last_of_the_largest_buffers_to_replies() {
        let pool = pool();
        let requests: Vec<Lease> = std::iter::from_fn(|| pool.lease_for_request(1)).collect();
        assert_eq!(requests.len(), 6);
        assert!(pool.lease_for_request(10 << 20).is_none());
        assert_eq!(pool.lease(1).unwrap().tier(), TierIndex::Mapped);
    }

    #[test]
    fn replies_leave_half_of_each_tier_to_requests() {
        let pool = BufferPool::new(PoolSizes::for_config(48, 1 << 21)).unwrap();
        let held: Vec<Lease> = std::iter::from_fn(|| pool.lease_for_reply(1)).collect();
        let free = TierIndex::ALL.map(|tier| pool.free_count(tier));
        assert_eq!(free, TierIndex::ALL.map(|tier| pool.count(tier) / 2));
        assert!(pool.lease_for_reply(1).is_none());
        drop(held);
        assert!(pool.lease_for_reply(1 << 21).is_some());
    }

    #[cfg(feature = "server")]
    #[test]
    fn a_token_remembers_that_a_reply_holds_the_buffer() {
        let pool = pool();
        let token = pool.lease_for_reply(70_000).unwrap().into_token();
        assert!(pool.lease_for_reply(70_000).is_some(), "the mapped tier helps out");
        drop(Lease::from_token(&pool, token));
        assert_eq!(pool.lease_for_reply(70_000).unwrap().tier(), TierIndex::Large);
    }

    #[test]
    fn with_every_other_buffer_held_by_requests_a_reply_finds_one() {
        let pool = pool();
        let _requests: Vec<Lease> = std::iter::from_fn(|| pool.lease_for_request(1)).collect();
        assert_eq!(pool.lease_for_reply(1).unwrap().tier(), TierIndex::Mapped);
    }

    #[test]
    fn leases_do_not_overlap() {
        let pool = pool();
        let mut held: Vec<Lease> = std::iter::from_fn(|| pool.lease(4096)).collect();
        for (lease, mark) in held.iter_mut().zip(1_u8..) {
            lease.fill(mark);
        }
        for (lease, mark) in held.iter().zip(1_u8..) {
            assert!(lease.iter().all(|byte| *byte == mark));
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn a_token_carries_a_lease_to_another_thread() {
        let pool = pool();
        let mut lease = pool.lease(70_000).unwrap();
        lease.fill(9);
        let token = lease.into_token();
        let there = pool.clone();
        std::thread::spawn(move || {
            let lease = Lease::from_token(&there, token);
            assert_eq!((lease.len(), lease[69_999], lease.tier()), (70_000, 9, TierIndex::Large));
        })
        .join()
        .unwrap();
        assert_eq!(pool.free_count(TierIndex::Large), 1);
    }

    #[test]
    fn free_buffers_give_their_pages_back_when_asked_and_leased_ones_keep_theirs() {
        let pool = pool();
        let mut free = pool.lease(64 << 10).unwrap();
        let mut held = pool.lease(64 << 10).unwrap();
        free.fill(1);
        held.fill(2);
        assert!(!pool.has_idle_pages());
        drop(free);
        assert!(pool.has_idle_pages());
        pool.give_back_pages();
        assert!(!pool.has_idle_pages());
        assert_eq!(pool.free_count(TierIndex::Medium), 1);
        assert!(held.iter().all(|byte| *byte == 2));
        assert!(pool.lease(64 << 10).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_mapped_tier_gives_its_pages_back() {
        let pool = pool();
        let mut lease = pool.lease(10 << 20).unwrap();
        lease.fill(1);
        drop(lease);
        assert!(pool.lease(10 << 20).unwrap().iter().all(|byte| *byte == 0));
    }
}
