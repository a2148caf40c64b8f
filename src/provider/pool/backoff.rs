//! How long to wait before the next try, and the pool's dice.

use std::time::Duration;

/// The wait before the first new try, at most; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait that we choose ourselves.
const LONGEST: Duration = Duration::from_secs(8);
/// The longest wait that we let an upstream choose for a request under way. The vendors' own clients
/// do the same; beyond it the client is told instead.
pub(super) const HINT_MAX: Duration = Duration::from_secs(60);

/// The longest wait after `failures` failures in a row, 1 at least: 0.5 s · 2ⁿ, 8 s at most.
pub(super) fn ceiling(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// A wait with full jitter: anything up to the ceiling, so that those who failed together do not come
/// back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
pub(super) fn wait(failures: u32, dice: &mut Dice) -> Duration {
    ceiling(failures).mul_f64(dice.roll())
}

/// Random enough to spread load, and nothing else: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to but not including 1.
    pub(super) fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The upper 53 bits fit a float exactly.
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An index into `weights`, each with the chance of its weight; none without a positive weight.
    pub(super) fn pick(&mut self, weights: &[u32]) -> Option<usize> {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let mut left = self.roll() * total;
        let mut last = None;
        for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            last = Some(index);
            left -= f64::from(*weight);
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_from_half_a_second_to_eight() {
        let ceilings: Vec<u128> =
            [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|n| ceiling(n).as_millis()).into();
        assert_eq!(ceilings, [500, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn waits_are_anywhere_below_the_ceiling() {
        let mut dice = Dice::new(1);
        let waits: Vec<_> = (0..1000).map(|_| wait(2, &mut dice)).collect();
        assert!(waits.iter().all(|wait| *wait < ceiling(2)));
        let low = waits.iter().filter(|wait| **wait < ceiling(2) / 2).count();
        assert!((400..600).contains(&low), "{low}");
    }

    #[test]
    fn picks_follow_the_weights_and_never_a_weight_of_zero() {
        let mut dice = Dice::new(7);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[dice.pick(&[1, 0, 2, 1]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((1800..2200).contains(&counts[2]), "{counts:?}");
        assert_eq!(dice.pick(&[0, 0]), None);
        assert_eq!(dice.pick(&[]), None);
    }
}
