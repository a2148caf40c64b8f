//! One endpoint of a provider: its breaker, its load, and which of several is chosen.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::Dice;
use super::seams::Transport;
use crate::provider::breaker::{BreakerSettings, CircuitBreaker};

/// How much of the average a new time is.
const NEW_SHARE: f64 = 0.25;
/// After so long, an average counts half: an endpoint that was slow once is asked again.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// One endpoint.
pub(super) struct EndpointState {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) weight: u32,
    pub(super) breaker: CircuitBreaker,
    /// Requests under way to it.
    pub(super) in_flight: u32,
    first_output: Option<Average>,
}

/// The moving average of the time to the first output.
#[derive(Debug, Clone, Copy)]
struct Average {
    secs: f64,
    updated: Duration,
}

impl EndpointState {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        weight: u32,
        breaker: BreakerSettings,
    ) -> Self {
        Self {
            transport,
            weight: weight.max(1),
            breaker: CircuitBreaker::new(breaker),
            in_flight: 0,
            first_output: None,
        }
    }

    /// The first output of an answer took so long.
    pub(super) fn first_output(&mut self, took: Duration, now: Duration) {
        let new = took.as_secs_f64();
        let secs = self
            .first_output
            .map_or(new, |average| average.secs + NEW_SHARE * (new - average.secs));
        self.first_output = Some(Average { secs, updated: now });
    }

    /// The average as it counts now, in seconds; unknown before the first answer.
    fn expected(&self, now: Duration) -> Option<f64> {
        let Average { secs, updated } = self.first_output?;
        let age = now.saturating_sub(updated).as_secs_f64();
        // A millisecond at least, so that the load still counts.
        Some((secs * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())).max(0.001))
    }

    /// What one more request means to it, for its weight.
    fn load(&self) -> f64 {
        f64::from(self.in_flight + 1) / f64::from(self.weight)
    }
}

/// The better of two that the dice choose, each with the chance of its weight (M. Mitzenmacher, "The
/// Power of Two Choices", 2001): nearly as good as the best of all, without everybody running to it.
pub(super) fn choose(
    endpoints: &[EndpointState],
    candidates: &[usize],
    dice: &mut Dice,
    now: Duration,
) -> Option<usize> {
    let mut weights: Vec<u32> = candidates.iter().map(|index| endpoints[*index].weight).collect();
    let first = dice.pick(&weights)?;
    weights[first] = 0;
    let Some(second) = dice.pick(&weights) else {
        return Some(candidates[first]);
    };
    let (first, second) = (candidates[first], candidates[second]);
    let (a, b) = (&endpoints[first], &endpoints[second]);
    // Nobody is preferred for times that are not known.
    let times = a.expected(now).zip(b.expected(now)).unwrap_or((1.0, 1.0));
    Some(if a.load() * times.0 <= b.load() * times.1 { first } else { second })
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::Unreachable;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoints(weights: &[u32]) -> Vec<EndpointState> {
        let endpoint = |weight: &u32| {
            EndpointState::new(Arc::new(Unreachable), *weight, BreakerSettings::default())
        };
        weights.iter().map(endpoint).collect()
    }

    /// How often each is chosen, when no request ever ends.
    fn shares(endpoints: &mut [EndpointState], count: u32) -> Vec<u32> {
        let candidates: Vec<usize> = (0..endpoints.len()).collect();
        let mut dice = Dice::new(3);
        for _ in 0..count {
            let chosen = choose(endpoints, &candidates, &mut dice, SECOND).unwrap();
            endpoints[chosen].in_flight += 1;
        }
        endpoints.iter().map(|endpoint| endpoint.in_flight).collect()
    }

    #[test]
    fn load_follows_the_weights() {
        let shares = shares(&mut endpoints(&[1, 3, 0]), 500);
        for (share, expected) in shares.iter().zip([100, 300, 100]) {
            assert!(share.abs_diff(expected) < 30, "{shares:?}");
        }
    }

    #[test]
    fn the_faster_one_gets_more_until_its_advantage_is_old() {
        let mut both = endpoints(&[1, 1]);
        both[0].first_output(SECOND, SECOND);
        both[1].first_output(4 * SECOND, SECOND);
        let shares = shares(&mut both, 100);
        assert!(shares[0].abs_diff(80) < 5, "{shares:?}");
        let later = SECOND + 60 * HALF_LIFE;
        assert_eq!(both[0].expected(later), both[1].expected(later));
    }

    #[test]
    fn an_unknown_time_is_neither_good_nor_bad() {
        let mut both = endpoints(&[1, 1]);
        both[0].first_output(60 * SECOND, SECOND);
        let shares = shares(&mut both, 100);
        assert_eq!(shares, [50, 50]);
    }

    #[test]
    fn only_candidates_are_chosen() {
        let all = endpoints(&[1, 1, 1]);
        let mut dice = Dice::new(0);
        assert!((0..50).all(|_| choose(&all, &[2], &mut dice, SECOND) == Some(2)));
        assert_eq!(choose(&all, &[], &mut dice, SECOND), None);
    }
}
