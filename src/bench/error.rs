//! Why a measurement could not be made.

use std::io;
use std::time::Duration;

use crate::descriptors::DescriptorLimit;

/// Why a measurement could not be made. None of these leaves a process behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The system refused an operation of start-up or of an exchange.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was attempted, in words that follow "cannot".
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// Two processes that poll need two cores. Widen the affinity mask (taskset(1), the cpuset of
    /// the container) and run again.
    #[error("only core {core} is allowed to this process; the benchmark needs two")]
    OneCore {
        /// The only allowed core.
        core: usize,
    },

    /// Both sides of a polling exchange were put on one core, where each would spin away its
    /// partner's time slice.
    #[error("a polling exchange needs two different cores, not core {core} twice")]
    SharedCore {
        /// The core that both sides were given.
        core: usize,
    },

    /// A payload is a whole, non-zero number of 8-byte words and fits the slot it travels in.
    #[error("a payload of {size} bytes does not fit: use a multiple of 8 from 8 to {size_max}")]
    PayloadSize {
        /// Bytes asked for.
        size: usize,
        /// Most bytes possible.
        size_max: usize,
    },

    /// The other side ended, or gave no answer for seconds.
    #[error("the {who} ended or stopped answering")]
    Silent {
        /// Which side.
        who: &'static str,
    },

    /// The system allows too few open files for the connections of this case.
    #[error(transparent)]
    Descriptors(#[from] DescriptorLimit),

    /// An answer was not a copy of its request.
    #[error("the answer to operation {stamp} carries {found:#x} instead of its stamp")]
    WrongAnswer {
        /// The operation's number, which its request carried in the first and last word.
        stamp: u64,
        /// The first word that differs.
        found: u64,
    },

    /// An answer was not as long as its request.
    #[error("an answer has {size} bytes instead of {expected}")]
    AnswerSize {
        /// Bytes found.
        size: usize,
        /// Bytes sent.
        expected: usize,
    },

    /// The machine never stayed the same for a whole round. Run again when it is quieter.
    #[error("all {rejected} rounds were rejected: the cache-line canary moved during each")]
    Noisy {
        /// How many rounds were tried.
        rejected: u32,
    },

    /// The time of a burst or a case was spent before anything was recorded.
    #[error("nothing was recorded within {time_max:?}")]
    OutOfTime {
        /// The bound that was met.
        time_max: Duration,
    },

    /// A daemon to measure could not be started.
    #[error("no daemon could be started: {reason}")]
    NotStarted {
        /// What it said last.
        reason: String,
    },

    /// The subject failed in a way of its own.
    #[error("the subject failed: {0}")]
    Subject(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BenchError {
    /// Whether other cases may still be measured: this one met a restless machine, or one that
    /// lacks what it needs.
    #[must_use]
    pub const fn ends_only_its_case(&self) -> bool {
        matches!(self, Self::Noisy { .. } | Self::OutOfTime { .. } | Self::Descriptors(_))
    }

    /// What a subject met; for `map_err`.
    pub(super) fn subject(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Subject(Box::new(error))
    }

    /// Names the operation that a system error interrupted; for `map_err`.
    pub(super) fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { operation, source: source.into() }
    }
}
