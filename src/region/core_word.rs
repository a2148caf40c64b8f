//! Where the other side runs: one optional word each way, so that a wake-up need not cross cores.
//!
//! A hint and no more. Nothing depends on it but how long a wake-up takes, it may be stale or a lie,
//! and 0 says nothing; so its accesses are relaxed and a reader must be able to do without.

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// The low half of the word holds one more than the core's number.
const CORE: u64 = 0xFFFF_FFFF;
/// Says that the side polls, before it parks or without end.
const POLLS: u64 = 1 << 32;

/// Where a side runs and how it waits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Number of the core, as the kernel counts them; whoever reads it checks that there is such a
    /// core.
    pub core: u32,
    /// Polls, for a while before it parks or without end, where the other side can run meanwhile.
    pub polls: bool,
}

/// One side's word, in memory that both sides can write.
#[derive(Clone, Copy)]
pub struct CoreWord<'m>(&'m AtomicU64);

impl<'m> CoreWord<'m> {
    /// What `word` says; 0 is nothing.
    #[inline]
    #[must_use]
    pub const fn new(word: &'m AtomicU64) -> Self {
        Self(word)
    }

    /// Says where the side runs, or takes it back.
    #[inline]
    pub fn store(&self, place: Option<Whereabouts>) {
        let value = place.map_or(0, |Whereabouts { core, polls }| {
            // Note: cannot overflow its half: no kernel numbers 2³² cores.
            u64::from(core.wrapping_add(1)) | if polls { POLLS } else { 0 }
        });
        self.0.store(value, Relaxed);
    }

    /// What the other side said last.
    #[inline]
    #[must_use]
    pub fn load(&self) -> Option<Whereabouts> {
        let value = self.0.load(Relaxed);
        // Note: cannot truncate: masked to its half.
        let core = ((value & CORE) as u32).checked_sub(1)?;
        Some(Whereabouts { core, polls: value & POLLS != 0 })
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_zero_says_nothing() {
        let word = AtomicU64::new(0);
        let word = CoreWord::new(&word);
        assert_eq!(word.load(), None);
        for (core, polls) in [(0, false), (1, true), (1023, false), (u32::MAX - 1, true)] {
            word.store(Some(Whereabouts { core, polls }));
            assert_eq!(word.load(), Some(Whereabouts { core, polls }));
        }
        word.store(None);
        assert_eq!(word.load(), None);
    }

    #[test]
    fn bits_that_mean_nothing_are_ignored() {
        let word = AtomicU64::new(0xFFFF_FFFE << 32 | 8);
        assert_eq!(CoreWord::new(&word).load(), Some(Whereabouts { core: 7, polls: false }));
    }
}
