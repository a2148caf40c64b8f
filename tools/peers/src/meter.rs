//! What a client does with its link: one request after the other, or always 64 in flight.
//!
//! Every payload carries its number in its first and last word, and every answer is checked for
//! both, so nothing is counted that was not answered.

use std::time::{Duration, Instant};

use annulus::bench::{
    BenchError, Burst, Samples, Subject, Summary, stamp_payload, stamps_of, time_round_trips,
};
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::scene::{Load, Scene, Wait};

/// Requests in flight under [`Load::Pipelined`].
pub(crate) const WINDOW: usize = 64;

/// Stamps between two reads of the clock under [`Load::Pipelined`]: a request has two, so a latency
/// of microseconds is off by the time of a few requests. A read for each would be a third of what the
/// fastest peers need.
const STAMPS_PER_READ: u32 = 16;

/// Polls between two looks at the clock; about a millisecond.
const POLLS_PER_LOOK: u32 = 1 << 16;

/// How long no answer at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The client's end of a connection.
pub(crate) trait Link {
    /// Sends `payload` and waits until `answer` holds what came back.
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()>;

    /// Sends `payload`, or keeps it until [`Link::flush`]; false when no more fits now.
    fn send(&mut self, payload: &[u8]) -> Result<bool>;

    /// Sends what was kept, and wakes the other side if need be.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Hands every answer that is there to `take`, in any order; waits until there is one.
    fn receive(&mut self, take: &mut Take<'_>) -> Result<()>;
}

/// What is done with an answer.
pub(crate) type Take<'t> = dyn FnMut(&[u8]) -> Result<()> + 't;

/// What one client measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// Round trips a second, pauses left out.
    pub(crate) per_s: f64,
}

impl From<Summary> for Figures {
    fn from(summary: Summary) -> Self {
        Self { p50_ns: summary.p50_ns, p99_ns: summary.p99_ns, per_s: summary.msgs_per_s }
    }
}

/// Performs the scene's burst.
pub(crate) fn measure(link: &mut dyn Link, scene: &Scene) -> Result<Figures> {
    let mut samples = Samples::new();
    match scene.load {
        Load::Hot | Load::Cold => {
            time_round_trips(&mut PingPong(link), &scene.burst(), &mut samples)?;
        }
        Load::Pipelined => time_window(link, &scene.burst(), scene.wait, &mut samples)?,
    }
    Ok(samples.summary().into())
}

/// A link, for the library's own timing.
struct PingPong<'l>(&'l mut dyn Link);

impl Subject for PingPong<'_> {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
        answer.resize(payload.len(), 0);
        self.0.round_trip(payload, answer).map_err(|error| BenchError::Subject(error.into()))
    }
}

fn time_window(
    link: &mut dyn Link,
    burst: &Burst,
    wait: Wait,
    samples: &mut Samples,
) -> Result<()> {
    let mut window = Window {
        link,
        sent_at: [None; WINDOW],
        payload: vec![0xA5; burst.payload_size],
        next_stamp: 1,
        clock: Clock::new(),
        wait,
    };
    // However slow the peer is, most of the time is for what is recorded.
    let warm = Instant::now() + burst.time_max / 4;
    window.run(burst.warmup_count, warm, |_| {})?;
    let started = Instant::now();
    let deadline = started + burst.time_max;
    window.run(burst.operation_count, deadline, |interval| samples.record(interval))?;
    let answered = samples.count();
    samples.record_elapsed(answered, started.elapsed());
    ensure!(samples.count() > 0, "no request was answered within {:?}", burst.time_max);
    Ok(())
}

/// Requests in flight and when they were sent, each at its stamp modulo their number.
struct Window<'l> {
    link: &'l mut dyn Link,
    sent_at: [Option<Instant>; WINDOW],
    payload: Vec<u8>,
    next_stamp: u64,
    clock: Clock,
    wait: Wait,
}

impl Window<'_> {
    /// Sends `count` requests, fewer when `deadline` comes before, and takes all their answers.
    fn run(
        &mut self,
        count: u32,
        deadline: Instant,
        mut record: impl FnMut(Duration),
    ) -> Result<()> {
        let mut unsent = count;
        let mut in_flight = 0_u32;
        // Bounded: the count and the deadline end the sending, and a link that is silent fails.
        loop {
            let first_stamp = self.next_stamp;
            while unsent > 0 && self.sent_at[slot_index(self.next_stamp)].is_none() {
                let now = self.clock.now();
                if now >= deadline {
                    unsent = 0;
                    break;
                }
                stamp_payload(&mut self.payload, self.next_stamp);
                if !self.link.send(&self.payload)? {
                    break;
                }
                self.sent_at[slot_index(self.next_stamp)] = Some(now);
                self.next_stamp += 1;
                unsent -= 1;
                in_flight += 1;
            }
            if self.next_stamp != first_stamp {
                self.link.flush()?;
            }
            if in_flight == 0 {
                return Ok(());
            }
            let Self { link, sent_at, payload, clock, wait, .. } = self;
            let mut has_slept = *wait == Wait::Sleeps;
            link.receive(&mut |answer| {
                if std::mem::take(&mut has_slept) {
                    clock.forget();
                }
                let stamp = check_answer(answer, payload.len())?;
                match sent_at[slot_index(stamp)].take() {
                    Some(sent_at) => record(clock.now().saturating_duration_since(sent_at)),
                    None => bail!("an answer carries {stamp:#x}, which nobody asked"),
                }
                in_flight -= 1;
                Ok(())
            })?;
        }
    }
}

/// A clock that is read once for several stamps.
struct Clock {
    now: Instant,
    stamps_left: u32,
}

impl Clock {
    fn new() -> Self {
        Self { now: Instant::now(), stamps_left: STAMPS_PER_READ }
    }

    /// The next stamp reads it: nobody knows how long a sleep was.
    fn forget(&mut self) {
        self.stamps_left = 0;
    }

    #[inline]
    fn now(&mut self) -> Instant {
        if self.stamps_left == 0 {
            *self = Self::new();
        }
        self.stamps_left -= 1;
        self.now
    }
}

#[allow(clippy::cast_possible_truncation, reason = "less than the number of slots")]
const fn slot_index(stamp: u64) -> usize {
    (stamp % WINDOW as u64) as usize
}

/// The stamp of an answer that is as long as its request and whole.
fn check_answer(answer: &[u8], size: usize) -> Result<u64> {
    ensure!(answer.len() == size, "an answer has {} bytes instead of {size}", answer.len());
    let [first, last] = stamps_of(answer);
    ensure!(first == last, "an answer begins with {first:#x} and ends with {last:#x}");
    Ok(first)
}

/// The first word of some bytes, which are at least as long.
#[inline]
pub(crate) fn stamp_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(*bytes.first_chunk().expect("a payload has a word"))
}

/// Bounds a loop that polls.
pub(crate) struct Patience {
    polls: u32,
    deadline: Option<Instant>,
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self { polls: 0, deadline: None }
    }

    /// One turn without anything found.
    #[inline]
    pub(crate) fn spin(&mut self) -> Result<()> {
        std::hint::spin_loop();
        self.polls += 1;
        if self.polls == POLLS_PER_LOOK { self.look() } else { Ok(()) }
    }

    #[cold]
    fn look(&mut self) -> Result<()> {
        self.polls = 0;
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + SILENCE_MAX);
        ensure!(now < deadline, "no answer within {SILENCE_MAX:?}");
        Ok(())
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
        pace: annulus::bench::Pace::BackToBack,
        time_max: Duration::from_secs(5),
    };

    type Spoil = fn(&mut Vec<u8>);

    /// Echoes, newest first, and spoils the answer to one stamp.
    #[derive(Default)]
    struct Echo {
        kept: VecDeque<Vec<u8>>,
        in_flight_max: usize,
        spoil: Option<Spoil>,
    }

    impl Link for Echo {
        fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
            answer.copy_from_slice(payload);
            Ok(())
        }

        fn send(&mut self, payload: &[u8]) -> Result<bool> {
            let mut kept = payload.to_vec();
            if stamp_of(payload) == 500
                && let Some(spoil) = self.spoil
            {
                spoil(&mut kept);
            }
            self.kept.push_front(kept);
            self.in_flight_max = self.in_flight_max.max(self.kept.len());
            Ok(true)
        }

        fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
            self.kept.drain(..).try_for_each(|answer| take(&answer))
        }
    }

    fn window_over(echo: &mut Echo) -> Result<u64> {
        let mut samples = Samples::new();
        time_window(echo, &BURST, Wait::Polls, &mut samples).map(|()| samples.count())
    }

    #[test]
    fn the_window_is_filled_and_every_answer_counted_in_any_order() {
        let mut echo = Echo::default();
        assert_eq!(window_over(&mut echo).unwrap(), 1_000);
        assert_eq!(echo.in_flight_max, WINDOW);
    }

    #[test]
    fn a_wrong_a_torn_and_a_short_answer_are_found() {
        let spoils: [(Spoil, &str); 3] = [
            (|answer| stamp_payload(answer, 9_999), "nobody asked"),
            (|answer| answer[63] ^= 1, "begins with"),
            (|answer| answer.truncate(56), "56 bytes instead of 64"),
        ];
        for (spoil, complaint) in spoils {
            let mut echo = Echo { spoil: Some(spoil), ..Echo::default() };
            let found = window_over(&mut echo).unwrap_err().to_string();
            assert!(found.contains(complaint), "{found}");
        }
    }
}
