//! The data shard's state machine, without a clock or a system call: `(input, now) → output`.
//!
//! [`Table`] holds a shard's connections and decides which to visit; a visit takes frames from one
//! request ring, runs handlers or sends jobs, and publishes answers. What needs the system (ringing a
//! client's doorbell, closing a socket) goes out as an [`Output`]. So a seed can replay a whole run.
//!
//! The invariant to remember: every loop here has a budget, and nothing allocates after
//! [`Table::new`].

mod company;
mod counted;
mod handler;
mod in_flight;
mod routes;
mod run;
mod scratch;
mod table;
mod time;
mod visit;

pub use company::Company;
pub use handler::{Handler, Request, Responder};
pub use routes::{Route, Routes};
pub use table::{Adopted, NewConnection, Output, Table, TableOptions, Turn};
pub use time::{Clock, Timestamp};

use crate::metrics::CloseReason;
use crate::region::{RegionLayout, RegionMemory};
use crate::ring::{Consumer, Producer};
use crate::wire::{Fault, Features, FrameFlags, Goodbye, Status};

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client hung up.
    ClientLeft,
    /// Nothing happened for the idle timeout.
    Idle,
    /// The client broke the protocol.
    Fault(Fault),
    /// The client sent more than a message may have.
    TooLarge,
    /// The daemon stops.
    Shutdown,
}

impl Ending {
    /// The last word on the socket; nothing for a client that has hung up.
    #[must_use]
    pub fn goodbye(self) -> Option<Goodbye> {
        Some(match self {
            Self::ClientLeft => return None,
            Self::Idle => Goodbye::new(Status::IdleTimeout),
            Self::Fault(fault) => Goodbye::for_fault(fault),
            Self::TooLarge => Goodbye::new(Status::MessageTooLarge),
            Self::Shutdown => Goodbye::new(Status::ShuttingDown),
        })
    }

    /// The label under which the end is counted.
    #[must_use]
    pub const fn reason(self) -> CloseReason {
        match self {
            Self::ClientLeft => CloseReason::ClientLeft,
            Self::Idle => CloseReason::Idle,
            Self::Fault(_) => CloseReason::Fault,
            Self::TooLarge => CloseReason::TooLarge,
            Self::Shutdown => CloseReason::Shutdown,
        }
    }
}

/// What one connection did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStatistics {
    /// Requests taken up.
    pub requests: u64,
    /// Answer frames published.
    pub responses: u64,
    /// Bytes of request payload.
    pub request_bytes: u64,
    /// Bytes of answer payload.
    pub response_bytes: u64,
}

/// One connection: its memory, and our private half of it.
struct Connection<M> {
    memory: M,
    ends: Ends,
}

/// Our ends of a connection's two rings, and what we know of the connection. They own no memory:
/// each call is given the view of the connection's region.
struct Ends {
    requests: Consumer,
    responses: Producer,
    /// [`FrameFlags`] that a request may have.
    request_flags: u8,
    connection_id: u64,
    /// Index among the server's codecs.
    codec: u8,
    /// What the handshake granted, in bytes.
    message_size_max: u32,
    in_flight: in_flight::List,
    statistics: ConnectionStatistics,
    last_active: Timestamp,
    /// Bit `w` is set when worker `w` has ever had a job of this connection.
    workers_used: u32,
}

impl<M: RegionMemory> Connection<M> {
    fn new(new: NewConnection<M>, configured: u32, now: Timestamp) -> Self {
        let checked = new.features.contains(Features::PAYLOAD_CHECK);
        let again = new.features.contains(Features::HOME_AGAIN);
        let home_flags = FrameFlags::HOME | FrameFlags::AGAIN | FrameFlags::TAKEN;
        let flags = if again { home_flags } else { FrameFlags::empty() };
        let ends = Ends {
            requests: Consumer::new(new.layout.request_home(), checked).again(again),
            responses: Producer::new(new.layout.response_home(), checked).again(again),
            request_flags: flags.bits(),
            connection_id: new.connection_id,
            codec: new.codec,
            message_size_max: message_size_max(new.layout, configured),
            in_flight: in_flight::List::default(),
            statistics: ConnectionStatistics::default(),
            last_active: now,
            workers_used: 0,
        };
        Self { memory: new.memory, ends }
    }
}

/// Largest payload that a connection with this layout can carry each way, in bytes.
#[must_use]
pub fn message_size_max(layout: RegionLayout, configured: u32) -> u32 {
    use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE};
    let smaller = layout.request_capacity().min(layout.response_capacity());
    let fits = smaller - FRAME_ALIGNMENT - FRAME_HEADER_SIZE;
    u32::try_from(fits).unwrap_or(u32::MAX).min(configured)
}

#[cfg(test)]
mod tests;
