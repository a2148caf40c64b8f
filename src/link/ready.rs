//! Which slots have news, as two levels of bits: one word says which words to look at.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    sound,
};

/// A set of slots; the worker adds, the shard takes all.
pub(super) struct ReadySet {
    /// Bit `w % 64` is set when word `w` may be non-zero.
    summary: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl ReadySet {
    pub(super) fn new(slot_count: usize) -> Self {
        let words = (0..slot_count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { summary: AtomicU64::new(0), words }
    }

    /// Adds `slot`; what its ring holds was published before.
    pub(super) fn add(&self, slot: usize) {
        let word = slot / 64;
        // Both pair with the swaps in `take_each`; the word first, so that the summary never lies.
        let ordering = if sound("release in add") { Release } else { Relaxed };
        self.words[word].fetch_or(1 << (slot % 64), ordering);
        self.summary.fetch_or(1 << (word % 64), Release);
    }

    /// True when nothing is in the set; one load.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.summary.load(Relaxed) == 0
    }

    /// Takes every slot out and gives each to `visit`.
    pub(super) fn take_each(&self, mut visit: impl FnMut(u32)) {
        if self.is_empty() {
            return;
        }
        let summary = self.summary.swap(0, AcqRel);
        for (word, index) in self.words.iter().zip(0_u32..) {
            if summary & (1 << (index % 64)) == 0 {
                continue;
            }
            let early = sound("news taken before the ring is read");
            let mut bits = if early { word.swap(0, AcqRel) } else { word.load(Acquire) };
            // Bounded: 64 bits, one cleared each time.
            while bits != 0 {
                visit(index * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
            if !early {
                word.store(0, Relaxed);
            }
        }
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_slot_added_is_taken_once() {
        let set = ReadySet::new(10_000);
        let slots = [0, 63, 64, 4095, 4096, 9999];
        for slot in slots {
            set.add(slot as usize);
            set.add(slot as usize);
        }
        let mut taken = Vec::new();
        set.take_each(|slot| taken.push(slot));
        assert_eq!(taken, slots);
        assert!(set.is_empty());
        set.take_each(|slot| panic!("{slot} was taken twice"));
    }
}
