//! Honest latency figures: every case runs beside the limit of the machine that runs it.
//!
//! A round trip of 220 ns says little alone; next to a bare cache-line ping-pong of 130 ns, taken
//! on the same two cores in the same second, it says what the code costs. So a [`Case`] alternates
//! its subject with a limit, round by round, and reports the median of the per-round ratios.
//!
//! The host under a virtual machine moves a pair of cores between a near and a far state, and
//! whatever polls is two to three times slower in the far one. A short cache-line burst before,
//! between and after the bursts of each round, the *canary*, shows such a move, and the round is
//! rejected.
//!
//! **How time is taken.** Back to back, one operation is the interval between two consecutive
//! completions: one clock read each, which (some 25 ns) is part of the figure, as are the check of
//! the answer and the bookkeeping. Nothing is subtracted, neither from the subject nor from the
//! limit. With a pause before each operation, the interval runs from just before the request to the
//! return of the answer.
//!
//! **The map.** [`Subject`] and [`Meter`] are the seams. Pure: `case` (rounds, rejection, medians),
//! `stamp`, `stats`, `result`, `table`, `report` (a page with curves). Touching the machine: `pin`,
//! `limit` (the measuring side), `responder` (the child process that answers), `cache_line`, `slots`
//! and `doorbell` (what the two exchange). `mapping` and `inherit` alone contain `unsafe`. About the
//! daemon: `daemon` (one of our own, as a child), `cases` (what is measured of it), `runner`
//! (against a daemon), `echo` (one request at a time), `throughput` (many in flight) over `lane`.
//!
//! Everything is bounded: operations by a count, bursts and cases by a time, responders by a
//! lifetime of their own.

mod cache_line;
mod case;
mod cases;
mod daemon;
mod doorbell;
mod echo;
mod error;
mod inherit;
mod lane;
mod limit;
mod mapping;
mod meter;
mod pin;
mod report;
mod responder;
mod result;
mod runner;
mod slots;
mod stamp;
mod stats;
mod table;
mod throughput;

pub use cache_line::SIZE_MAX as PAYLOAD_SIZE_MAX;
pub use case::{CANARY_SHIFT_MAX, Case, Instruments, Progress};
pub use cases::{DaemonCase, DaemonKind, Load, Waiting, daemon_cases, daemon_settings};
pub use daemon::{DaemonProcess, follow_parent};
pub use error::BenchError;
pub use inherit::{Loan, adopt};
pub use limit::{Limit, LimitCase, LimitMeter, limit_cases, run_limits};
pub use mapping::SharedWords;
pub use meter::{Burst, Meter, Pace, Subject, Timed, time_round_trips};
pub use pin::{Cores, Pinned};
pub use report::{Machine, report_page};
pub use responder::{Launcher, ResponderArguments, ResponderKind};
pub use result::{CaseResult, Figures, LimitResult, SCHEMA};
pub use runner::{DaemonBench, allow_open_files};
pub use slots::SIZE_MAX as IN_FLIGHT_SIZE_MAX;
pub use stamp::{stamp_payload, stamps_of};
pub use stats::{CurvePoint, Samples, Summary, median};
pub use table::{
    Alignment, Style, Table, duration_text, rate_text, ratio_text, result_tables, rounds_text,
};
