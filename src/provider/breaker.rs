//! A circuit breaker: asks nothing of an endpoint that keeps failing, and finds out, one request at a
//! time, when it is back.
//!
//! ```text
//!            failures_max in a row                     open_for has passed
//!  closed ─────────────────────────▶ open ──────────────────────────────────▶ half-open
//!    ▲                                ▲                                          │ │
//!    │                                └── a failure, or probes_max without result ┘ │
//!    └─────────────────────────────────────────────────────────── successes_min ───┘
//! ```
//!
//! Pure: time is an argument, from whichever fixed point the caller likes. The invariant to remember:
//! **while half-open, at most one request is under way**, and a verdict counts only for the period
//! in which its request began. Source of the pattern: M. Nygard, "Release It!", chapter 5.

use std::time::Duration;

/// When a breaker opens, and what it takes to close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it; 1 at least.
    pub failures_max: u32,
    /// Successful probes that close it; between 1 and `probes_max`.
    pub successes_min: u32,
    /// How long it stays open before the first probe.
    pub open_for: Duration,
    /// Probes in one half-open period; those that were cancelled do not count.
    pub probes_max: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures_max: 5, successes_min: 2, open_for: Duration::from_secs(60), probes_max: 3 }
    }
}

/// What a breaker does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets all through.
    Closed,
    /// Lets none through.
    Open,
    /// Lets one through at a time.
    HalfOpen,
}

/// How a request ended, as far as the endpoint's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint did what it is there for.
    Success,
    /// The endpoint failed.
    Failure,
    /// The endpoint answered, but that says nothing about its health: a refused request or key, a
    /// limit.
    Inconclusive,
}

/// How often what happened, since the breaker was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BreakerCounts {
    /// Transitions to open.
    pub opened: u64,
    /// Transitions to half-open.
    pub half_opened: u64,
    /// Transitions to closed.
    pub closed: u64,
    /// Requests that were turned away.
    pub rejected: u64,
}

/// Leave to send one request, to be given back with [`CircuitBreaker::report`] or
/// [`CircuitBreaker::cancel`]: a probe's permit that is lost keeps a half-open breaker from ever
/// closing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not given back keeps a half-open breaker from closing"]
pub struct Permit {
    /// The period in which it was given.
    period: u64,
}

/// Guards one endpoint. See the module.
#[derive(Debug, Clone)]
pub struct CircuitBreaker {
    settings: BreakerSettings,
    phase: Phase,
    /// Somebody has taken the decision away from us.
    is_forced: bool,
    /// Goes up with each transition, so that late verdicts are told apart.
    period: u64,
    counts: BreakerCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Duration },
    HalfOpen { probes: u32, successes: u32, in_flight: bool },
}

impl CircuitBreaker {
    /// A closed breaker. Settings that could never close it again are brought into range.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        let probes_max = settings.probes_max.max(1);
        let settings = BreakerSettings {
            failures_max: settings.failures_max.max(1),
            successes_min: settings.successes_min.clamp(1, probes_max),
            probes_max,
            ..settings
        };
        Self {
            settings,
            phase: Phase::Closed { failures: 0 },
            is_forced: false,
            period: 0,
            counts: BreakerCounts::default(),
        }
    }

    /// Leave to send a request now; `None`, which is counted, when there is none to be had.
    pub fn try_acquire(&mut self, now: Duration) -> Option<Permit> {
        if let Phase::Open { until } = self.phase
            && !self.is_forced
            && now >= until
        {
            self.enter(Phase::HalfOpen { probes: 0, successes: 0, in_flight: false });
        }
        match &mut self.phase {
            Phase::Closed { .. } => {}
            Phase::HalfOpen { probes, in_flight, .. } if !*in_flight => {
                *in_flight = true;
                *probes += 1;
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } => {
                self.counts.rejected += 1;
                return None;
            }
        }
        Some(Permit { period: self.period })
    }

    /// Whether [`CircuitBreaker::try_acquire`] would give a permit now.
    #[must_use]
    pub fn is_ready(&self, now: Duration) -> bool {
        match self.phase {
            Phase::Closed { .. } => true,
            Phase::Open { until } => !self.is_forced && now >= until,
            Phase::HalfOpen { in_flight, .. } => !in_flight,
        }
    }

    /// Gives a permit back with what came of it. A verdict from an earlier period changes nothing.
    pub fn report(&mut self, permit: Permit, verdict: Verdict, now: Duration) {
        if permit.period != self.period || self.is_forced {
            return;
        }
        match (&mut self.phase, verdict) {
            (Phase::Closed { failures }, Verdict::Success) => *failures = 0,
            (Phase::Closed { failures }, Verdict::Failure) => {
                *failures += 1;
                if *failures >= self.settings.failures_max {
                    self.open(now);
                }
            }
            (Phase::Closed { .. }, Verdict::Inconclusive) => {}
            (Phase::HalfOpen { .. }, Verdict::Failure) => self.open(now),
            (Phase::HalfOpen { probes, successes, in_flight }, verdict) => {
                *in_flight = false;
                *successes += u32::from(verdict == Verdict::Success);
                if *successes >= self.settings.successes_min {
                    self.enter(Phase::Closed { failures: 0 });
                } else if *probes >= self.settings.probes_max {
                    self.open(now);
                }
            }
            // No permit is given while it is open.
            (Phase::Open { .. }, _) => {}
        }
    }

    /// Gives a permit back without a verdict, because its request was cancelled: somebody else may
    /// probe in its place.
    pub fn cancel(&mut self, permit: Permit) {
        if permit.period != self.period {
            return;
        }
        if let Phase::HalfOpen { probes, in_flight, .. } = &mut self.phase {
            *in_flight = false;
            *probes -= 1;
        }
    }

    /// Lets nothing through until told otherwise.
    pub fn force_open(&mut self) {
        self.is_forced = true;
        self.enter(Phase::Open { until: Duration::MAX });
    }

    /// Lets everything through until told otherwise.
    pub fn force_close(&mut self) {
        self.is_forced = true;
        self.enter(Phase::Closed { failures: 0 });
    }

    /// Decides by itself again, from a fresh closed state, if it was forced.
    pub fn automatic(&mut self) {
        if self.is_forced {
            self.is_forced = false;
            self.enter(Phase::Closed { failures: 0 });
        }
    }

    /// Whether it was forced open or closed.
    #[must_use]
    pub const fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// What it does with requests. An open breaker becomes half-open with the first request after
    /// its time, not before.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often what happened so far.
    #[must_use]
    pub const fn counts(&self) -> BreakerCounts {
        self.counts
    }

    /// A request went elsewhere because this breaker was not ready for it.
    pub(super) fn count_rejection(&mut self) {
        self.counts.rejected += 1;
    }

    fn open(&mut self, now: Duration) {
        self.enter(Phase::Open { until: now.saturating_add(self.settings.open_for) });
    }

    fn enter(&mut self, phase: Phase) {
        let before = self.state();
        self.phase = phase;
        self.period += 1;
        let after = self.state();
        if before != after {
            match after {
                BreakerState::Closed => self.counts.closed += 1,
                BreakerState::Open => self.counts.opened += 1,
                BreakerState::HalfOpen => self.counts.half_opened += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests;
