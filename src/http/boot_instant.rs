//! When something happened, by a clock that goes on while the machine is suspended.
//!
//! A laptop that was closed for an hour has connections that no peer and no router on the way knows any
//! more, and names that may mean something else where it was opened. `std::time::Instant` does not
//! count that hour (`CLOCK_MONOTONIC`), so by it they are as good as new.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment by `CLOCK_BOOTTIME`, clock_gettime(2). Never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BootInstant(Duration);

impl BootInstant {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(time.try_into().expect("time since the start is never negative"))
    }

    /// Time from `earlier` to `self`, zero when it is not earlier.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let first = BootInstant::now();
        let second = Duration::from_secs(1);
        assert_eq!((first + second).since(first), second);
        assert_eq!(first.since(first + second), Duration::ZERO);
        assert!(BootInstant::now() >= first);
    }
}
