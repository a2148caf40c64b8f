//! What an attack's connections are told, and what the daemon counts for it.

use std::collections::BTreeMap;
use std::fmt;

use annulus::wire::Status;

/// What one connection of an attack saw in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A Welcome with this status, and this fault.
    Refused(Status, Option<&'static str>),
    /// A Goodbye with this status, and this fault.
    Closed(Status, Option<&'static str>),
    /// A hang-up without a word.
    HungUp,
    /// It was served like anybody, and left.
    Served,
    /// Its request was answered with this status; it left.
    Answered(Status),
    /// It left, or died, without waiting for anything.
    Left,
    /// It left, or died, before its handshake was over.
    LeftEarly,
    /// Nothing happened for as long as the test has patience.
    Silent,
    /// This machine has not what it takes.
    Skipped(&'static str),
}

/// Closed for this fault.
pub(crate) const fn fault(name: &'static str) -> Seen {
    Seen::Closed(Status::Fault, Some(name))
}

/// Refused for this fault.
pub(crate) const fn refused(name: &'static str) -> Seen {
    Seen::Refused(Status::Fault, Some(name))
}

/// Refused for what it brought.
pub(crate) const fn region_refused(name: &'static str) -> Seen {
    Seen::Refused(Status::RegionRefused, Some(name))
}

impl Seen {
    /// The fault that the daemon counts for it.
    pub(super) fn fault(self) -> Option<&'static str> {
        match self {
            Self::Refused(_, fault) | Self::Closed(_, fault) => fault,
            Self::LeftEarly => Some("handshake_cut"),
            _ => None,
        }
    }

    /// The reason under which the daemon counts the end of the connection.
    pub(super) fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Refused(Status::Busy, _) => "refused_busy",
            Self::Refused(..) | Self::LeftEarly => "refused_handshake",
            Self::Closed(Status::Fault, _) => "fault",
            Self::Closed(Status::MessageTooLarge, _) => "too_large",
            Self::Closed(Status::IdleTimeout, _) => "idle",
            Self::Closed(..) => "shutdown",
            Self::HungUp | Self::Served | Self::Answered(_) | Self::Left => "client_left",
            Self::Silent | Self::Skipped(_) => return None,
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status, None) => write!(f, "refused: {status}"),
            Self::Refused(status, Some(fault)) => write!(f, "refused: {status}, {fault}"),
            Self::Closed(status, None) => write!(f, "closed: {status}"),
            Self::Closed(status, Some(fault)) => write!(f, "closed: {status}, {fault}"),
            Self::HungUp => f.write_str("hung up"),
            Self::Served => f.write_str("served"),
            Self::Answered(status) => write!(f, "answered: {status}"),
            Self::Left => f.write_str("left"),
            Self::LeftEarly => f.write_str("left early: handshake_cut"),
            Self::Silent => f.write_str("NOTHING HAPPENED"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

pub(super) fn check_seen(must: &[Seen], seen: &[Seen]) -> Result<(), String> {
    if seen.is_empty() {
        return Err("nobody reported anything".into());
    }
    let may = |seen: &&Seen| must.contains(seen) || matches!(seen, Seen::Skipped(_));
    match seen.iter().find(|seen| !may(seen)) {
        None => Ok(()),
        Some(other) => Err(format!("somebody saw \"{other}\"")),
    }
}

/// `3 × refused: …` for each different thing that was seen.
pub(super) fn summary(seen: &[Seen]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for seen in seen {
        *counts.entry(seen.to_string()).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(seen, count)| if count == 1 { seen } else { format!("{count} × {seen}") })
        .collect();
    parts.join("; ")
}
