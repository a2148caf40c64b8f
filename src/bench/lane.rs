//! What a pipelined load sends over: a connection to the daemon, or the bare limit of one.

use super::BenchError;
use crate::client::{ConnectOptions, Connection, WaitPolicy};
use crate::limits::{RING_CAPACITY_MAX, RING_CAPACITY_MIN, SYNC_REPLY_SIZE_MIN};
use crate::wire::{MessageType, Status, span};

/// Bytes of a response ring that must be free before the daemon takes a request at all: room for two
/// of the largest synchronous replies, and some for headers. A ring with less beside its window would
/// measure backpressure.
const ROOM_FOR_REPLY: u64 = 3 * SYNC_REPLY_SIZE_MIN as u64;

/// A way to somebody who echoes payloads, in order.
pub(super) trait Lane {
    /// Sends one payload; false when there is no room for it now.
    fn try_send(&mut self, payload: &[u8]) -> Result<bool, BenchError>;

    /// Makes sure that what was sent is seen. Once after a batch.
    fn flush(&mut self);

    /// Puts the next answer into `answer`; false when there is none yet.
    fn try_receive(&mut self, answer: &mut Vec<u8>) -> Result<bool, BenchError>;

    /// Asks for what the next receive and send will touch, where that is likely to be elsewhere.
    fn prefetch(&self) {}

    /// Looks whether the other side is still there.
    fn check_alive(&mut self) -> Result<(), BenchError>;
}

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct ConnectionLane {
    connection: Connection,
    /// The id of the request whose answer is next: the daemon answers echoes at once, so in order.
    /// Zero exactly when nothing has been sent.
    next_id: u64,
}

impl ConnectionLane {
    /// Opens a connection with rings just large enough for `window` requests of `payload_size`
    /// bytes. On a thousand connections those of the default size have page tables of their own, which
    /// cost a fifth of the rate (docs/decisions.md, "A busy ring starts over").
    pub(super) fn connect(
        options: &ConnectOptions,
        window: u32,
        payload_size: usize,
    ) -> Result<Self, BenchError> {
        let frame_size = u32::try_from(payload_size).map_or(RING_CAPACITY_MAX, span);
        // One frame more, which padding at the ring's end may take.
        let frame_count = u64::from(window) + 1;
        let in_flight_size = frame_size.saturating_mul(frame_count).min(RING_CAPACITY_MAX);
        let capacity = (in_flight_size + ROOM_FOR_REPLY)
            .next_power_of_two()
            .clamp(RING_CAPACITY_MIN, RING_CAPACITY_MAX);
        let options = options
            .clone()
            .wait(WaitPolicy::SPIN)
            .request_capacity(capacity)
            .response_capacity(capacity);
        let connection = Connection::connect(&options).map_err(BenchError::subject)?;
        Ok(Self { connection, next_id: 0 })
    }
}

impl Lane for ConnectionLane {
    #[inline]
    fn try_send(&mut self, payload: &[u8]) -> Result<bool, BenchError> {
        let sent = self.connection.try_send(MessageType::ECHO, payload);
        let Some(id) = sent.map_err(BenchError::subject)? else { return Ok(false) };
        if self.next_id == 0 {
            self.next_id = id;
        }
        Ok(true)
    }

    #[inline]
    fn flush(&mut self) {
        self.connection.notify();
    }

    #[inline]
    fn try_receive(&mut self, answer: &mut Vec<u8>) -> Result<bool, BenchError> {
        let received = self.connection.try_receive(answer);
        let Some(received) = received.map_err(BenchError::subject)? else { return Ok(false) };
        let expected = self.next_id;
        if received.request_id != expected || received.status != Status::Ok || !received.last {
            return Err(BenchError::WrongAnswer { stamp: expected, found: received.request_id });
        }
        self.next_id += 1;
        Ok(true)
    }

    #[inline]
    fn prefetch(&self) {
        self.connection.prefetch();
    }

    fn check_alive(&mut self) -> Result<(), BenchError> {
        self.connection.check_alive().map_err(BenchError::subject)
    }
}
