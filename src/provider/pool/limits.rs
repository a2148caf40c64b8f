//! What we allow ourselves in a minute with one key, so that the provider need not refuse us.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::seams::Time;

type Limiter = RateLimiter<NotKeyed, InMemoryState, PoolClock, NoOpMiddleware<Duration>>;

/// The limits of one key.
pub(super) struct Limits {
    requests: Option<Limiter>,
    tokens: Option<(Limiter, NonZeroU32)>,
}

impl Limits {
    /// Full at first. A limit of 0 is none.
    pub(super) fn new(
        requests_per_minute: Option<u32>,
        tokens_per_minute: Option<u32>,
        time: &Arc<dyn Time>,
    ) -> Self {
        let limit = |per_minute: Option<u32>| {
            let per_minute = NonZeroU32::new(per_minute?)?;
            let clock = PoolClock(Arc::clone(time));
            Some((Limiter::direct_with_clock(Quota::per_minute(per_minute), clock), per_minute))
        };
        Self {
            requests: limit(requests_per_minute).map(|(limiter, _)| limiter),
            tokens: limit(tokens_per_minute),
        }
    }

    /// Takes one request with so many tokens.
    ///
    /// # Errors
    ///
    /// The time from which there is room again. One request may have been taken nevertheless, when
    /// only the tokens do not suffice: governor cannot give back.
    pub(super) fn take(&self, tokens: u32) -> Result<(), Duration> {
        if let Some(requests) = &self.requests {
            requests.check().map_err(|not_until| not_until.earliest_possible())?;
        }
        if let Some((limiter, per_minute)) = &self.tokens
            && let Some(tokens) = NonZeroU32::new(tokens)
        {
            // A request larger than the limit has a whole minute to itself.
            match limiter.check_n(tokens.min(*per_minute)) {
                Ok(result) => result.map_err(|not_until| not_until.earliest_possible())?,
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The pool's time, for governor.
#[derive(Clone)]
struct PoolClock(Arc<dyn Time>);

impl Clock for PoolClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::virtual_time::VirtualTime;
    use super::*;

    fn limits(requests: Option<u32>, tokens: Option<u32>) -> (Limits, VirtualTime) {
        let time = VirtualTime::default();
        let shared: Arc<dyn Time> = Arc::new(time.clone());
        (Limits::new(requests, tokens, &shared), time)
    }

    #[test]
    fn requests_above_the_limit_are_told_when_there_is_room() {
        let (limits, time) = limits(Some(2), None);
        assert_eq!((limits.take(1), limits.take(1)), (Ok(()), Ok(())));
        let until = limits.take(1).unwrap_err();
        assert_eq!(until, time.now() + Duration::from_secs(30));
        time.advance(Duration::from_secs(30));
        assert_eq!(limits.take(1), Ok(()));
        assert!(limits.take(1).is_err());
    }

    #[test]
    fn tokens_above_the_limit_are_too() {
        let (limits, time) = limits(None, Some(600));
        assert_eq!(limits.take(500), Ok(()));
        let until = limits.take(200).unwrap_err();
        assert_eq!(until, time.now() + Duration::from_secs(10));
        assert_eq!(limits.take(100), Ok(()));
    }

    #[test]
    fn a_request_larger_than_the_limit_takes_a_whole_minute() {
        let (limits, time) = limits(None, Some(600));
        assert_eq!(limits.take(u32::MAX), Ok(()));
        assert!(limits.take(1).is_err());
        time.advance(Duration::from_secs(60));
        assert_eq!(limits.take(600), Ok(()));
    }

    #[test]
    fn no_limit_is_none() {
        for none in [None, Some(0)] {
            let (limits, _) = limits(none, none);
            assert!((0..10_000).all(|_| limits.take(1_000_000) == Ok(())));
        }
    }
}
