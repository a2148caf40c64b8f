//! The rows of a theme: what is done, what whoever does it may see, and who takes the attacker's
//! place when the honest client's latency is compared.

use std::thread;
use std::time::{Duration, Instant};

use super::{Seen, Stage};

/// One attack that is over at once.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Stage) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
    /// How it is made to last as long as a p99 needs, and beside whom.
    pub(crate) timed: Timed,
}

/// One attack that goes on for a while.
pub(crate) struct Siege {
    pub(crate) name: &'static str,
    pub(crate) attack: fn(&Stage, Until) -> Vec<Seen>,
    /// A well-behaved client that works as much in the attacker's place.
    pub(crate) twin: fn(&Stage, Until) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
}

/// How an attack is repeated in a window, and the well-behaved client that does the same amount of
/// work in the windows between. Each row says so itself, because only its author knows.
#[derive(Clone, Copy)]
pub(crate) struct Timed {
    pub(super) again: Again,
    pub(super) twin: fn(&Stage, Work) -> Vec<Seen>,
}

/// When an attack may begin again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The next run meets nothing of this one that it would mind.
    AtOnce,
    /// The next run needs what this one holds: places, or buffers. The clock stands meanwhile.
    WhenLetGo,
}

/// Repeats the attack without a pause.
pub(crate) const fn again(twin: fn(&Stage, Work) -> Vec<Seen>) -> Timed {
    Timed { again: Again::AtOnce, twin }
}

/// Repeats the attack once the daemon holds nothing more of the last run.
pub(crate) const fn again_when_let_go(twin: fn(&Stage, Work) -> Vec<Seen>) -> Timed {
    Timed { again: Again::WhenLetGo, twin }
}

/// What one run of an attack is on average, for its twin to do as much.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) connections: usize,
    pub(crate) until: Until,
}

/// The runs of an attack so far.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    count: u32,
    connections: usize,
    time: Duration,
}

impl Runs {
    pub(super) const NONE: Self = Self { count: 0, connections: 0, time: Duration::ZERO };

    /// With one more, which saw this and took so long.
    pub(super) fn and(self, seen: &[Seen], time: Duration) -> Self {
        let connections = seen.iter().filter(|seen| !matches!(seen, Seen::Skipped(_))).count();
        Self {
            count: self.count + 1,
            connections: self.connections + connections,
            time: self.time + time,
        }
    }

    /// True when this machine has not what it takes.
    pub(super) fn are_idle(self) -> bool {
        self.connections == 0
    }

    /// How long one of them takes.
    pub(super) fn time(self) -> Duration {
        self.time / self.count.max(1)
    }

    /// The work of one run that begins now.
    pub(super) fn one(self) -> Work {
        let count = self.count.max(1);
        Work {
            connections: self.connections.div_ceil(count as usize),
            until: Until::after(self.time()),
        }
    }
}

/// When a run is over.
#[derive(Clone, Copy)]
pub(crate) struct Until(Instant);

impl Until {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn goes_on(self) -> bool {
        Instant::now() < self.0
    }

    /// What is left of it.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Does nothing for the rest of it.
    pub(crate) fn rest(self) {
        thread::sleep(self.left());
    }
}
