//! Many connections on one thread, each with a window of echoes in flight.
//!
//! Every request carries a stamp in its first and last word. An answer counts only when it has the
//! id, the size and both stamps of a request that is still in flight, so none can be lost, doubled,
//! cut or mixed up unseen.

use std::path::Path;
use std::time::{Duration, Instant};

use annulus::bench::{stamp_payload, stamps_of};
use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::descriptors;
use annulus::wire::{MessageType, Status};

use crate::Failure;

/// How long no answer at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Descriptors of one connection, and of everything else.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;
const DESCRIPTORS_RESERVED: u64 = 64;

/// How many connections ahead of a visit the lines that it will touch are asked for, and from how many
/// connections on: what few touch is still in the core's own cache, or is being written.
const PREFETCH_DISTANCE: usize = 2;
const PREFETCH_LANES_MIN: usize = 64;

/// A ring is so many times its window of frames: what is being consumed still takes its place.
const RING_SLACK: usize = 2;
/// Room beside the payloads, and for the daemon's least reply.
const RING_ROOM: usize = 16 << 10;

/// One connection and its window.
#[derive(Debug)]
pub(crate) struct Lane {
    connection: Connection,
    payload: usize,
    /// Ids in flight, at their stamp modulo the window; 0 is none.
    ids: Vec<u64>,
    next_stamp: u64,
    in_flight: usize,
    unsent: u64,
}

/// Opens `count` connections for `window` requests of `payload_size` bytes each.
pub(crate) fn connect(
    socket: &Path,
    count: u32,
    payload_size: usize,
    window: usize,
    requests: u64,
) -> Result<Vec<Lane>, Failure> {
    let capacity = (RING_SLACK * window * (payload_size + 64) + RING_ROOM).next_power_of_two();
    let options = ConnectOptions::new()
        .socket_path(socket)
        .connect_timeout(SILENCE_MAX)
        .wait(WaitPolicy::SPIN)
        .request_capacity(capacity as u64)
        .response_capacity(capacity as u64);
    let lane = |_| {
        let connection = Connection::connect(&options)?;
        let ids = vec![0; window];
        Ok(Lane {
            connection,
            payload: payload_size,
            ids,
            next_stamp: 1,
            in_flight: 0,
            unsent: requests,
        })
    };
    (0..count).map(lane).collect()
}

/// Allows this process `count` connections.
pub(crate) fn allow(count: u32) -> Result<(), Failure> {
    let descriptors = u64::from(count) * DESCRIPTORS_PER_CONNECTION + DESCRIPTORS_RESERVED;
    descriptors::raise_limit(descriptors).map_err(|error| error.to_string())?;
    Ok(())
}

/// Exchanges what every lane has left to send; returns how many answers were good.
pub(crate) fn run(lanes: &mut [Lane]) -> Result<u64, Failure> {
    let size_max = lanes.iter().map(|lane| lane.payload).max().unwrap_or(0);
    let (mut payload, mut answer) = (vec![0; size_max], Vec::with_capacity(size_max));
    let mut answered = 0;
    let mut last_answer = Instant::now();
    let many = lanes.len() >= PREFETCH_LANES_MIN;
    // Bounded: requests count down, silence ends the wait.
    loop {
        let mut open = false;
        let before = answered;
        for index in 0..lanes.len() {
            if many && let Some(ahead) = lanes.get(index + PREFETCH_DISTANCE) {
                ahead.connection.prefetch();
            }
            let lane = &mut lanes[index];
            answered += lane.visit(&mut payload, &mut answer)?;
            open |= lane.unsent > 0 || lane.in_flight > 0;
        }
        if !open {
            return Ok(answered);
        }
        if answered != before {
            last_answer = Instant::now();
        } else if last_answer.elapsed() > SILENCE_MAX {
            return Err("no answer came for 20 s".into());
        }
    }
}

impl Lane {
    /// Takes the answers that are there and fills the window; returns how many came.
    pub(crate) fn visit(
        &mut self,
        payload: &mut [u8],
        answer: &mut Vec<u8>,
    ) -> Result<u64, Failure> {
        let mut answered = 0;
        while self.in_flight > 0 && self.take(answer)? {
            answered += 1;
        }
        self.fill(&mut payload[..self.payload_size()])?;
        Ok(answered)
    }

    /// Bytes of each of its requests.
    pub(crate) fn payload_size(&self) -> usize {
        self.payload
    }

    /// Whether requests are in flight, as far as is known without looking.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// Takes one answer and checks it; false when there is none.
    pub(crate) fn take(&mut self, answer: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(received) = self.connection.try_receive(answer)? else {
            return Ok(false);
        };
        let [first, last] = stamps_of(answer);
        let index = slot(first, self.ids.len());
        let good = received.status == Status::Ok
            && received.last
            && first == last
            && answer.len() == self.payload
            && self.ids[index] == received.request_id;
        if !good {
            let (id, status) = (received.request_id, received.status);
            return Err(format!("wrong answer to {id}: {status:?}, stamps {first} {last}").into());
        }
        self.ids[index] = 0;
        self.in_flight -= 1;
        Ok(true)
    }

    /// Sends until the window is full or nothing is left, then rings once.
    pub(crate) fn fill(&mut self, payload: &mut [u8]) -> Result<(), Failure> {
        let first_stamp = self.next_stamp;
        // Bounded by the window.
        while self.unsent > 0 {
            let (stamp, index) = (self.next_stamp, slot(self.next_stamp, self.ids.len()));
            if self.ids[index] != 0 {
                break;
            }
            stamp_payload(payload, stamp);
            let Some(id) = self.connection.try_send(MessageType::ECHO, payload)? else {
                break;
            };
            self.ids[index] = id;
            self.next_stamp += 1;
            self.in_flight += 1;
            self.unsent -= 1;
        }
        if self.next_stamp != first_stamp {
            self.connection.notify();
        }
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "less than the window")]
fn slot(stamp: u64, window: usize) -> usize {
    (stamp % window as u64) as usize
}
