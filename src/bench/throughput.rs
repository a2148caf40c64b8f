//! Many requests in flight on many connections, from one thread.
//!
//! The thread visits its connections in turn: takes every answer that is there, tops the requests
//! up to the window, rings once. Each answer is checked for its id and its stamps, so nothing is
//! counted that was not answered.

use std::hint;
use std::time::{Duration, Instant};

use super::{BenchError, Burst, Meter, Pinned, Samples};
use crate::client::{ConnectOptions, Connection, Received, WaitPolicy};
use crate::descriptors;
use crate::limits::{RING_CAPACITY_MAX, RING_CAPACITY_MIN, SYNC_REPLY_SIZE_MIN};
use crate::wire::{MessageType, Status, span};

const WORD_SIZE: usize = 8;

/// Descriptors of one connection while it is made: socket, region, two doorbells.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;
/// Descriptors of everything else in this process.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Bytes of a response ring that must be free before the daemon takes a request at all; a ring with
/// less beside its window would measure backpressure.
const ROOM_FOR_REPLY: u64 = 4 * SYNC_REPLY_SIZE_MIN as u64;

/// Stamps between two reads of the clock: a message has two, so they are off by 8 messages at most,
/// a microsecond or two of a latency that has tens.
const STAMPS_PER_READ: u32 = 16;

/// Visits to all connections without any answer, between two looks at the clock and the sockets.
const IDLE_ROUNDS_PER_LOOK: u32 = 4_096;

/// How long no answer at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// All connections of one load.
#[derive(Debug)]
pub(super) struct Pipeline {
    lanes: Vec<Lane>,
    client_core: usize,
    payload: Vec<u8>,
    answer: Vec<u8>,
}

/// One connection and its requests in flight.
#[derive(Debug)]
struct Lane {
    connection: Connection,
    /// One slot for each request that may be in flight, at its stamp modulo their number.
    slots: Vec<Option<Sent>>,
    /// The number of the next request, which it carries in its first and last word.
    next_stamp: u64,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    request_id: u64,
    stamp: u64,
    at: Instant,
}

/// What is left to do in a burst.
struct Quota {
    unsent: u64,
    unanswered: u64,
}

/// A clock that is read once for several stamps. A read waits for all loads that are under way, so
/// one for each message keeps the next connection's lines from being fetched meanwhile: with it,
/// 1,000 × 1 KiB measured its own clock.
struct Stopwatch {
    now: Instant,
    stamps_left: u32,
}

impl Pipeline {
    /// Opens `connections` connections with rings just large enough for `window` requests of
    /// `payload_size` bytes: a ring that never runs empty is walked from end to end, and its size
    /// is memory.
    ///
    /// # Errors
    ///
    /// The limit on open files is too low, or a connection is refused.
    pub(super) fn connect(
        options: ConnectOptions,
        connections: u32,
        window: usize,
        payload_size: usize,
        client_core: usize,
    ) -> Result<Self, BenchError> {
        let descriptors = u64::from(connections) * DESCRIPTORS_PER_CONNECTION;
        descriptors::raise_limit(descriptors + DESCRIPTORS_RESERVED)
            .map_err(std::io::Error::other)
            .map_err(BenchError::system("open so many connections"))?;
        let frame_size = u32::try_from(payload_size).map_or(RING_CAPACITY_MAX, span);
        let in_flight_size = frame_size.saturating_mul(window as u64).min(RING_CAPACITY_MAX);
        let capacity = (2 * in_flight_size + ROOM_FOR_REPLY)
            .next_power_of_two()
            .clamp(RING_CAPACITY_MIN, RING_CAPACITY_MAX);
        let options =
            options.wait(WaitPolicy::SPIN).request_capacity(capacity).response_capacity(capacity);
        let lane = |_| {
            let connection = Connection::connect(&options).map_err(BenchError::subject)?;
            Ok(Lane { connection, slots: vec![None; window], next_stamp: 1 })
        };
        let lanes = (0..connections).map(lane).collect::<Result<_, BenchError>>()?;
        let (payload, answer) = (vec![0; payload_size], vec![0; payload_size]);
        Ok(Self { lanes, client_core, payload, answer })
    }

    /// Sends and receives until `quota` is used up; the latencies go to `record`.
    fn run(
        &mut self,
        mut quota: Quota,
        deadline: Instant,
        mut record: impl FnMut(Duration),
    ) -> Result<(), BenchError> {
        let mut idle_rounds = 0;
        let mut last_answer = Instant::now();
        let mut watch = Stopwatch::new();
        // Bounded: answers count down, time stops the sending, silence stops the waiting.
        while quota.unanswered > 0 {
            let unanswered = quota.unanswered;
            for lane in &mut self.lanes {
                lane.receive(&mut self.answer, &mut quota, &mut watch, &mut record)?;
                lane.send(&mut self.payload, &mut quota, &mut watch, deadline)?;
            }
            if quota.unanswered != unanswered {
                idle_rounds = 0;
                continue;
            }
            // Nobody knows how long nothing came.
            watch.stamps_left = 0;
            hint::spin_loop();
            idle_rounds += 1;
            if idle_rounds == 1 {
                last_answer = Instant::now();
            } else if idle_rounds > IDLE_ROUNDS_PER_LOOK {
                idle_rounds = 1;
                self.look_around(last_answer)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn look_around(&mut self, last_answer: Instant) -> Result<(), BenchError> {
        for lane in &mut self.lanes {
            lane.connection.check_alive().map_err(BenchError::subject)?;
        }
        if last_answer.elapsed() > SILENCE_MAX {
            return Err(BenchError::Silent { who: "daemon" });
        }
        Ok(())
    }
}

impl Meter for Pipeline {
    fn measure(&mut self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        if burst.payload_size != self.payload.len() || burst.payload_size < WORD_SIZE {
            let size = burst.payload_size;
            return Err(BenchError::AnswerSize { size, expected: self.payload.len() });
        }
        let _pinned = Pinned::to(self.client_core)?;
        // However slow the machine is, most of the time is for what is recorded.
        let warm = Instant::now() + burst.time_max / 4;
        self.run(Quota::of(burst.warmup_count), warm, |_| {})?;
        let started = Instant::now();
        let deadline = started + burst.time_max;
        self.run(Quota::of(burst.operation_count), deadline, |interval| samples.record(interval))?;
        samples.record_elapsed(started.elapsed());
        if samples.count() == 0 {
            return Err(BenchError::OutOfTime { time_max: burst.time_max });
        }
        Ok(())
    }
}

impl Quota {
    fn of(count: u32) -> Self {
        Self { unsent: count.into(), unanswered: count.into() }
    }

    /// Sends nothing more; what is in flight is still awaited.
    fn stop(&mut self) {
        self.unanswered -= self.unsent;
        self.unsent = 0;
    }
}

impl Stopwatch {
    fn new() -> Self {
        Self { now: Instant::now(), stamps_left: STAMPS_PER_READ }
    }

    /// The time, no older than the last few messages.
    #[inline]
    fn now(&mut self) -> Instant {
        if self.stamps_left == 0 {
            *self = Self::new();
        }
        self.stamps_left -= 1;
        self.now
    }
}

impl Lane {
    /// Takes every answer that is there.
    #[inline]
    fn receive(
        &mut self,
        answer: &mut Vec<u8>,
        quota: &mut Quota,
        watch: &mut Stopwatch,
        record: &mut impl FnMut(Duration),
    ) -> Result<(), BenchError> {
        // Bounded: no more answers than requests in flight.
        while let Some(received) =
            self.connection.try_receive(answer).map_err(BenchError::subject)?
        {
            let sent = self.settle(received, answer)?;
            record(watch.now() - sent.at);
            quota.unanswered -= 1;
        }
        Ok(())
    }

    /// Matches an answer with its request, which is then no longer in flight.
    #[inline]
    fn settle(&mut self, received: Received, answer: &[u8]) -> Result<Sent, BenchError> {
        let stamp = first_word(answer);
        let window = self.slots.len() as u64;
        let slot = &mut self.slots[slot_index(stamp, window)];
        let fits = |sent: &Sent| {
            sent.stamp == stamp
                && sent.request_id == received.request_id
                && last_word(answer) == stamp
                && received.last
                && received.status == Status::Ok
        };
        slot.take_if(|sent| fits(sent))
            .ok_or(BenchError::WrongAnswer { stamp: received.request_id, found: stamp })
    }

    /// Sends requests until the window or the quota is full, then rings once.
    #[inline]
    fn send(
        &mut self,
        payload: &mut [u8],
        quota: &mut Quota,
        watch: &mut Stopwatch,
        deadline: Instant,
    ) -> Result<(), BenchError> {
        let window = self.slots.len() as u64;
        let first_stamp = self.next_stamp;
        // Bounded by the window: a slot that was filled here stays so until an answer comes.
        while quota.unsent > 0 {
            let stamp = self.next_stamp;
            let slot = &mut self.slots[slot_index(stamp, window)];
            if slot.is_some() {
                break;
            }
            let at = watch.now();
            if at >= deadline {
                quota.stop();
                break;
            }
            stamp_payload(payload, stamp);
            let sent = self.connection.try_send(MessageType::ECHO, payload);
            let Some(request_id) = sent.map_err(BenchError::subject)? else {
                break;
            };
            *slot = Some(Sent { request_id, stamp, at });
            self.next_stamp += 1;
            quota.unsent -= 1;
        }
        if self.next_stamp != first_stamp {
            self.connection.notify();
        }
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "less than the number of slots")]
const fn slot_index(stamp: u64, window: u64) -> usize {
    (stamp % window) as usize
}

fn stamp_payload(payload: &mut [u8], stamp: u64) {
    let end = payload.len() - WORD_SIZE;
    payload[..WORD_SIZE].copy_from_slice(&stamp.to_ne_bytes());
    payload[end..].copy_from_slice(&stamp.to_ne_bytes());
}

/// The first word; zero, which is no stamp, when there is none.
fn first_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word))
}

fn last_word(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |word| u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_payload_carry_the_stamp() {
        let mut payload = [0; 64];
        stamp_payload(&mut payload, 7);
        assert_eq!((first_word(&payload), last_word(&payload)), (7, 7));
        assert_eq!(first_word(&[1, 2]), 0);
    }
}
