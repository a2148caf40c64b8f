//! Many requests in flight on many lanes, from one thread.
//!
//! The thread visits its lanes in turn: takes every answer that is there, tops the requests up to the
//! window, flushes once. Each answer is checked for its order and its stamps, so nothing is counted
//! that was not answered; one in [`TIMED_INTERVAL`] is timed, because reading the clock for each
//! would cost as much as the rest.

use std::hint;
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::{BenchError, Burst, Meter, Pinned, Samples, stamp_payload, stamps_of};

const WORD_SIZE: usize = 8;

/// One in this many requests is timed. Odd, so that over time every place of a window is.
const TIMED_INTERVAL: u32 = 61;

/// How many lanes ahead of a visit the lines that it will touch are asked for, and from how many lanes
/// on: what few touch is still in the core's own cache, or is being written.
const PREFETCH_DISTANCE: usize = 2;
const PREFETCH_LANES_MIN: usize = 64;

/// Visits to all lanes without any answer, between two looks at the clock and the other side.
const IDLE_ROUNDS_PER_LOOK: u32 = 4_096;

/// How long no answer at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// All lanes of one load.
#[derive(Debug)]
pub(super) struct Pipeline<L> {
    lanes: Vec<Loaded<L>>,
    window: u32,
    client_core: usize,
    payload: Vec<u8>,
    answer: Vec<u8>,
}

/// A lane and its requests in flight: those from the oldest stamp up to, but not including, the next.
#[derive(Debug)]
struct Loaded<L> {
    lane: L,
    /// The number of the next request, which it carries in its first and last word.
    next_stamp: u64,
    oldest_stamp: u64,
    /// The request that is timed, and when it was sent.
    timed: Option<(u64, Instant)>,
}

/// What is left to do in a burst.
struct Quota {
    unsent: u64,
    /// Requests until the next that is timed, for which the clock is read.
    untimed: u32,
    /// Nothing is sent after this.
    deadline: Instant,
}

impl<L: Lane> Pipeline<L> {
    /// A load of `window` requests of `payload_size` bytes in flight on each lane.
    pub(super) fn new(
        lanes: impl IntoIterator<Item = L>,
        window: u32,
        payload_size: usize,
        client_core: usize,
    ) -> Self {
        let loaded = |lane| Loaded { lane, next_stamp: 1, oldest_stamp: 1, timed: None };
        let lanes = lanes.into_iter().map(loaded).collect();
        let (payload, answer) = (vec![0; payload_size], vec![0; payload_size]);
        Self { lanes, window, client_core, payload, answer }
    }

    /// Sends and receives until `count` requests are answered, or all those that were sent before the
    /// deadline; the timed latencies go to `record`. Gives how many were answered.
    fn run(
        &mut self,
        count: u32,
        deadline: Instant,
        mut record: impl FnMut(Duration),
    ) -> Result<u64, BenchError> {
        let mut quota = Quota { unsent: count.into(), untimed: 0, deadline };
        let (mut sent, mut answered) = (0, 0);
        let mut idle_rounds = 0;
        let mut last_answer = Instant::now();
        let many = self.lanes.len() >= PREFETCH_LANES_MIN;
        // Bounded: sending ends with the quota, and silence stops the waiting.
        while quota.unsent > 0 || answered < sent {
            let answered_before = answered;
            for index in 0..self.lanes.len() {
                if many && let Some(ahead) = self.lanes.get(index + PREFETCH_DISTANCE) {
                    ahead.lane.prefetch();
                }
                let loaded = &mut self.lanes[index];
                answered += loaded.receive(&mut self.answer, &mut record)?;
                sent += loaded.send(&mut self.payload, self.window, &mut quota)?;
            }
            if answered != answered_before {
                idle_rounds = 0;
                continue;
            }
            hint::spin_loop();
            idle_rounds += 1;
            if idle_rounds == 1 {
                last_answer = Instant::now();
            } else if idle_rounds > IDLE_ROUNDS_PER_LOOK {
                idle_rounds = 1;
                self.look_around(last_answer)?;
            }
        }
        Ok(answered)
    }

    #[cold]
    fn look_around(&mut self, last_answer: Instant) -> Result<(), BenchError> {
        for loaded in &mut self.lanes {
            loaded.lane.check_alive()?;
        }
        if last_answer.elapsed() > SILENCE_MAX {
            return Err(BenchError::Silent { who: "other side" });
        }
        Ok(())
    }

    /// One burst on the current thread: warm-up first, then what is recorded.
    pub(super) fn measure_burst(
        &mut self,
        burst: &Burst,
        samples: &mut Samples,
    ) -> Result<(), BenchError> {
        let size = burst.payload_size;
        if size != self.payload.len() || size < WORD_SIZE {
            return Err(BenchError::AnswerSize { size, expected: self.payload.len() });
        }
        // However slow the machine is, most of the time is for what is recorded.
        let warm = Instant::now() + burst.time_max / 4;
        self.run(burst.warmup_count, warm, |_| {})?;
        let started = Instant::now();
        let deadline = started + burst.time_max;
        let answered =
            self.run(burst.operation_count, deadline, |interval| samples.record(interval))?;
        samples.record_elapsed(answered, started.elapsed());
        if samples.count() == 0 {
            return Err(BenchError::OutOfTime { time_max: burst.time_max });
        }
        Ok(())
    }
}

impl<L: Lane> Meter for Pipeline<L> {
    fn measure(&mut self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        let _pinned = Pinned::to(self.client_core)?;
        self.measure_burst(burst, samples)
    }
}

impl<L: Lane> Loaded<L> {
    /// Takes the answers that are there; gives how many.
    #[inline]
    fn receive(
        &mut self,
        answer: &mut Vec<u8>,
        record: &mut impl FnMut(Duration),
    ) -> Result<u64, BenchError> {
        let oldest_before = self.oldest_stamp;
        // Bounded by what is in flight.
        while self.oldest_stamp != self.next_stamp && self.lane.try_receive(answer)? {
            let stamp = self.oldest_stamp;
            for found in stamps_of(answer) {
                if found != stamp {
                    return Err(BenchError::WrongAnswer { stamp, found });
                }
            }
            if let Some((_, sent)) = self.timed.take_if(|(timed, _)| *timed == stamp) {
                record(sent.elapsed());
            }
            self.oldest_stamp += 1;
        }
        Ok(self.oldest_stamp - oldest_before)
    }

    /// Sends requests until the window or the quota is used up, then flushes once; gives how many.
    #[inline]
    fn send(
        &mut self,
        payload: &mut [u8],
        window: u32,
        quota: &mut Quota,
    ) -> Result<u64, BenchError> {
        let first_stamp = self.next_stamp;
        let free = u64::from(window) - (first_stamp - self.oldest_stamp);
        for _ in 0..free.min(quota.unsent) {
            let stamp = self.next_stamp;
            stamp_payload(payload, stamp);
            if quota.untimed == 0 && !self.begin_timing(stamp, quota) {
                break;
            }
            if !self.lane.try_send(payload)? {
                break;
            }
            quota.untimed -= 1;
            quota.unsent -= 1;
            self.next_stamp += 1;
        }
        let sent = self.next_stamp - first_stamp;
        if sent > 0 {
            self.lane.flush();
        }
        Ok(sent)
    }

    /// Times the request `stamp`, unless another of this lane still is; false when the time is up.
    #[cold]
    fn begin_timing(&mut self, stamp: u64, quota: &mut Quota) -> bool {
        let now = Instant::now();
        if now >= quota.deadline {
            quota.unsent = 0;
            return false;
        }
        self.timed.get_or_insert((stamp, now));
        quota.untimed = TIMED_INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const BURST: Burst = Burst {
        payload_size: 64,
        warmup_count: 10,
        operation_count: 1_000,
        pace: super::super::Pace::BackToBack,
        time_max: Duration::from_secs(5),
    };

    /// Echoes with room for `room` requests; answer number `spoilt` loses its last word.
    #[derive(Default)]
    struct Queue {
        room: usize,
        answered: u64,
        spoilt: u64,
        deaf: bool,
        queue: VecDeque<Vec<u8>>,
        in_flight_max: usize,
        flushes: u64,
    }

    impl Lane for Queue {
        fn try_send(&mut self, payload: &[u8]) -> Result<bool, BenchError> {
            if self.queue.len() == self.room {
                return Ok(false);
            }
            self.queue.push_back(payload.to_vec());
            self.in_flight_max = self.in_flight_max.max(self.queue.len());
            Ok(true)
        }

        fn flush(&mut self) {
            self.flushes += 1;
        }

        fn try_receive(&mut self, answer: &mut Vec<u8>) -> Result<bool, BenchError> {
            if self.deaf {
                return Ok(false);
            }
            let Some(found) = self.queue.pop_front() else { return Ok(false) };
            *answer = found;
            self.answered += 1;
            if self.answered == self.spoilt {
                answer.pop();
            }
            Ok(true)
        }

        fn check_alive(&mut self) -> Result<(), BenchError> {
            Err(BenchError::Silent { who: "queue" })
        }
    }

    fn pipeline(lanes: Vec<Queue>, window: u32) -> Pipeline<Queue> {
        Pipeline::new(lanes, window, 64, 0)
    }

    fn queue(room: usize) -> Queue {
        Queue { room, ..Queue::default() }
    }

    #[test]
    fn every_request_is_answered_and_one_in_so_many_timed() {
        let mut pipeline = pipeline(vec![queue(100), queue(100), queue(100)], 8);
        let mut samples = Samples::new();
        pipeline.measure_burst(&BURST, &mut samples).unwrap();
        let answered: u64 = pipeline.lanes.iter().map(|loaded| loaded.lane.answered).sum();
        assert_eq!(answered, 1_010);
        // The first of each run of so many, so that a short burst has a latency, too.
        assert_eq!(samples.count(), 1_000_u64.div_ceil(TIMED_INTERVAL.into()));
        assert!(pipeline.lanes.iter().all(|loaded| loaded.lane.in_flight_max == 8));
        assert!(samples.summary().msgs_per_s > 0.0);
    }

    #[test]
    fn a_full_lane_is_tried_again_and_a_batch_is_flushed_once() {
        let mut pipeline = pipeline(vec![queue(3)], 8);
        pipeline.measure_burst(&BURST, &mut Samples::new()).unwrap();
        let lane = &pipeline.lanes[0].lane;
        assert_eq!((lane.in_flight_max, lane.answered), (3, 1_010));
        assert_eq!(lane.flushes, 4 + 334, "batches of three");
    }

    #[test]
    fn an_answer_cut_short_is_found() {
        let mut pipeline = pipeline(vec![Queue { spoilt: 70, ..queue(100) }], 8);
        let found = pipeline.measure_burst(&BURST, &mut Samples::new()).unwrap_err();
        assert!(matches!(found, BenchError::WrongAnswer { stamp: 70, .. }), "{found}");
    }

    #[test]
    fn nobody_waits_for_a_side_that_is_gone() {
        let mut pipeline = pipeline(vec![Queue { deaf: true, ..queue(100) }], 8);
        let found = pipeline.measure_burst(&BURST, &mut Samples::new()).unwrap_err();
        assert!(matches!(found, BenchError::Silent { who: "queue" }), "{found}");
    }

    #[test]
    fn a_spent_burst_ends_when_what_was_sent_is_answered() {
        let mut pipeline = pipeline(vec![queue(100)], 8);
        let spent = Burst { time_max: Duration::ZERO, ..BURST };
        let found = pipeline.measure_burst(&spent, &mut Samples::new());
        assert!(matches!(found, Err(BenchError::OutOfTime { .. })));
        assert_eq!(pipeline.lanes[0].lane.queue.len(), 0);
    }
}
