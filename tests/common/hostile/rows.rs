//! The rows of a theme: what is done, and what whoever does it may see.

use std::thread;
use std::time::{Duration, Instant};

use super::{Seen, Stage};

/// One attack that is over at once.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Stage) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
}

/// One attack that goes on for a while, beside which latency is measured.
pub(crate) struct Siege {
    pub(crate) name: &'static str,
    pub(crate) attack: fn(&Stage, Until) -> Vec<Seen>,
    /// A well-behaved client that works as much in the attacker's place.
    pub(crate) twin: fn(&Stage, Until) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
}

/// When a siege's window is over.
#[derive(Clone, Copy)]
pub(crate) struct Until(Instant);

impl Until {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn goes_on(self) -> bool {
        Instant::now() < self.0
    }

    /// Does nothing for the rest of the window.
    pub(crate) fn rest(self) {
        thread::sleep(self.0.saturating_duration_since(Instant::now()));
    }
}
