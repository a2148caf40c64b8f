//! A set of small numbers that any thread may give to and take from, without locks or memory.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
    sound,
};

/// Bits that stand for free buffers.
///
/// Taking a bit is an acquire and giving it back a release, so that what one holder of the buffer
/// did happens before what the next one does.
#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Box<[AtomicU64]>,
}

impl Bitmap {
    /// The numbers 0 to `count - 1`.
    pub(crate) fn all_set(count: u32) -> Self {
        let word = |index: u32| {
            let rest = count - index * 64;
            if rest >= 64 { u64::MAX } else { (1 << rest) - 1 }
        };
        Self { words: (0..count.div_ceil(64)).map(|index| AtomicU64::new(word(index))).collect() }
    }

    /// Takes the lowest number: buffers used recently are used again, the others stay untouched.
    pub(crate) fn take(&self) -> Option<u32> {
        for (word, index) in self.words.iter().zip(0_u32..) {
            let mut seen = word.load(Relaxed);
            // Bounded: each failure means that another thread took or gave one of these 64.
            while seen != 0 {
                let bit = seen.trailing_zeros();
                // Pairs with the release in `give`.
                match word.compare_exchange_weak(seen, seen & (seen - 1), AcqRel, Relaxed) {
                    Ok(_) => return Some(index * 64 + bit),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Takes `number` if it is there.
    pub(crate) fn take_number(&self, number: u32) -> bool {
        let bit = 1 << (number % 64);
        // Pairs with the release in `give`.
        self.words[(number / 64) as usize].fetch_and(!bit, AcqRel) & bit != 0
    }

    /// Gives `number` back.
    ///
    /// # Panics
    ///
    /// When it was not taken: a buffer given back twice would serve two holders.
    pub(crate) fn give(&self, number: u32) {
        let bit = 1 << (number % 64);
        let ordering = if sound("release in give") { Release } else { Relaxed };
        let before = self.words[(number / 64) as usize].fetch_or(bit, ordering);
        assert!(before & bit == 0, "buffer {number} was given back twice");
    }

    /// How many numbers are in the set now.
    pub(crate) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.load(Relaxed).count_ones()).sum()
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_taken_once_and_can_come_back() {
        for count in [1, 63, 64, 65, 130] {
            let bitmap = Bitmap::all_set(count);
            let taken: Vec<u32> = std::iter::from_fn(|| bitmap.take()).collect();
            assert_eq!(taken, (0..count).collect::<Vec<_>>());
            bitmap.give(count - 1);
            assert_eq!((bitmap.count(), bitmap.take()), (1, Some(count - 1)));
        }
    }

    #[test]
    fn a_number_is_taken_by_name_only_while_it_is_there() {
        let bitmap = Bitmap::all_set(70);
        assert!(bitmap.take_number(69) && !bitmap.take_number(69));
        bitmap.give(69);
        assert_eq!(bitmap.count(), 70);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_number_given_back_twice_is_a_bug() {
        Bitmap::all_set(4).give(2);
    }
}
