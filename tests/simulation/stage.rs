//! What every actor of a run shares: one source of chance, one clock, one trace.
//!
//! The invariant to remember: the seed is the only source of chance, and virtual time the only time.

use std::cell::{Cell, RefCell};

use annulus::connection::{Clock, Timestamp};

/// The stage of one run.
pub(crate) struct Stage {
    dice: RefCell<fastrand::Rng>,
    now_ns: Cell<u64>,
    trace: Option<RefCell<Vec<String>>>,
    /// No more faults, no more stalls: from here on everything must come to rest.
    pub(crate) calm: Cell<bool>,
    /// The daemon has been told to stop.
    pub(crate) draining: Cell<bool>,
    /// The daemon ends connections without waiting for what is in flight.
    pub(crate) hard: Cell<bool>,
}

impl Stage {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self {
            dice: RefCell::new(fastrand::Rng::with_seed(seed)),
            now_ns: Cell::new(0),
            trace: traced.then(RefCell::default),
            calm: Cell::new(false),
            draining: Cell::new(false),
            hard: Cell::new(false),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now_ns.get()
    }

    pub(crate) fn advance_to(&self, now_ns: u64) {
        self.now_ns.set(self.now_ns.get().max(now_ns));
    }

    /// A number below `bound`; 0 when `bound` is.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.dice.borrow_mut().u64(0..bound) }
    }

    /// An index below `bound`.
    pub(crate) fn index(&self, bound: usize) -> usize {
        self.dice.borrow_mut().usize(0..bound)
    }

    /// True in `per_mille` of a thousand cases. 0 draws nothing.
    pub(crate) fn chance(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// Writes a line of the trace, if anyone wants it.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(format!("{:>12} ns  {}", self.now(), line()));
        }
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.trace.as_ref().map(RefCell::take).unwrap_or_default()
    }
}

impl Clock for Stage {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ns.get())
    }
}
