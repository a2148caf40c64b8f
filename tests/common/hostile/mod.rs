//! The stage of the hostile peer suite: one daemon, one honest client at work, attacks one by one.
//!
//! An attack is a row: a name, a function that does it, and what the offender may see. It reports
//! what each connection that it opened was told; the harness holds that against the row, and against
//! what the daemon counted, what the daemon still holds, and what the honest client met. Then the
//! attack is repeated beside the honest client's clock, in turn with a well-behaved twin.
//!
//! The invariant to remember: every connection that an attack opens is one entry of what it
//! reports, because the daemon's counts are compared for equality.
#![allow(dead_code, reason = "each theme uses its own part")]

mod honest;
mod latency;
mod peer;
mod rows;
mod seen;
mod stage;
mod twins;

use std::time::Duration;

#[allow(unused_imports, reason = "each theme uses its own part")]
pub(crate) use peer::{
    CAPACITY, Gifts, Peer, answer, answer_and_leave, bell, connect, hello, last_word, offer,
};
use rows::{Again, Runs};
#[allow(unused_imports, reason = "each theme uses its own part")]
pub(crate) use rows::{Attack, Siege, Timed, Until, Work, again, again_when_let_go};
#[allow(unused_imports, reason = "each theme uses its own part")]
pub(crate) use seen::{Seen, fault, refused, region_refused};
pub(crate) use stage::Stage;
#[allow(unused_imports, reason = "each theme uses its own part")]
pub(crate) use twins::{
    busy, comes_and_goes, comes_and_goes_beside_echoes, crowd, long_visits, one_after_the_other,
    overlapping_visits, spinning_crowd, spinning_echoes, spinning_flood, spinning_heartbeats,
    two_spinning, visits,
};

/// What must come comes within this. Shorter than elsewhere: one wrong row waits several times.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
