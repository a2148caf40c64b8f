//! The seams: a [`Subject`] answers one request at a time, a [`Meter`] performs a burst of them.

use std::thread;
use std::time::{Duration, Instant};

use super::{BenchError, Pinned, Samples, stamp_payload, stamps_of};

/// Something that echoes a payload and is timed from outside, one round trip at a time.
///
/// The daemon's client is one; so are the limits that it is compared with.
pub trait Subject {
    /// Sends `payload` and waits until `answer`, which is overwritten, is its echo. It comes with what
    /// it held last, so nobody need allocate, nor copy into it from a buffer of his own.
    ///
    /// The caller stamps the first and the last 8 bytes of every payload with the number of the
    /// operation, which is never zero and rises by one, and checks both in the answer.
    ///
    /// # Errors
    ///
    /// Any error ends the case: an answer that does not come must become one within a bounded time.
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError>;
}

/// Something that can perform a burst of operations and record what each took.
///
/// A [`Subject`] becomes one by [`Timed`]; a load with many requests in flight implements it
/// directly, records each latency and adds the wall time of the whole burst.
pub trait Meter {
    /// Performs the burst and adds it to `samples`.
    ///
    /// A meter leaves both cores quiet between bursts: whoever is measured next needs them.
    ///
    /// # Errors
    ///
    /// Any error ends the case.
    fn measure(&mut self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError>;
}

/// One uninterrupted series of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Bytes of each payload: a non-zero multiple of 8.
    pub payload_size: usize,
    /// Operations performed first and not recorded.
    pub warmup_count: u32,
    /// Operations recorded.
    pub operation_count: u32,
    /// What happens between two operations.
    pub pace: Pace,
    /// When this is spent the burst ends early with what it has.
    pub time_max: Duration,
}

/// What happens between two operations, and so what their figure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing: the interval between two completions is the figure, with one clock read in it.
    BackToBack,
    /// Both sides get this long to park; the figure runs from the request to its answer.
    Parked(Duration),
}

/// Times a [`Subject`] from a thread that is pinned for the length of each burst.
#[derive(Debug)]
pub struct Timed<S> {
    /// What is measured.
    pub subject: S,
    /// The core of the measuring side.
    pub client_core: usize,
}

impl<S: Subject> Meter for Timed<S> {
    fn measure(&mut self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        let _pinned = Pinned::to(self.client_core)?;
        time_round_trips(&mut self.subject, burst, samples)
    }
}

/// Performs a burst of round trips on the current thread and adds each to `samples`.
///
/// # Errors
///
/// The subject's own, [`BenchError::WrongAnswer`] when an answer is not the echo of its payload,
/// [`BenchError::OutOfTime`] when not even one operation was recorded in the time of the burst.
pub fn time_round_trips<S: Subject>(
    subject: &mut S,
    burst: &Burst,
    samples: &mut Samples,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + burst.time_max;
    let already = samples.count();
    let mut exchange = Exchange::new(subject, burst.payload_size)?;

    for _ in 0..burst.warmup_count {
        exchange.perform()?;
        if Instant::now() >= deadline {
            break;
        }
    }
    match burst.pace {
        Pace::BackToBack => {
            let mut completed = Instant::now();
            for _ in 0..burst.operation_count {
                exchange.perform()?;
                let now = Instant::now();
                samples.record(now - completed);
                samples.record_elapsed(1, now - completed);
                completed = now;
                if now >= deadline {
                    break;
                }
            }
        }
        Pace::Parked(pause) => {
            for _ in 0..burst.operation_count {
                thread::sleep(pause);
                let requested = Instant::now();
                exchange.perform()?;
                let interval = requested.elapsed();
                samples.record(interval);
                samples.record_elapsed(1, interval);
                if requested >= deadline {
                    break;
                }
            }
        }
    }
    if samples.count() == already {
        Err(BenchError::OutOfTime { time_max: burst.time_max })
    } else {
        Ok(())
    }
}

/// Stamped payloads to a subject and checked answers from it.
struct Exchange<'s, S> {
    subject: &'s mut S,
    payload: Vec<u8>,
    answer: Vec<u8>,
    /// Number of the last operation; zero exactly when there was none.
    stamp: u64,
}

impl<'s, S: Subject> Exchange<'s, S> {
    fn new(subject: &'s mut S, payload_size: usize) -> Result<Self, BenchError> {
        if payload_size == 0 || !payload_size.is_multiple_of(8) {
            return Err(BenchError::PayloadSize { size: payload_size, size_max: usize::MAX });
        }
        Ok(Self {
            subject,
            payload: vec![0xA5; payload_size],
            answer: vec![0; payload_size],
            stamp: 0,
        })
    }

    #[inline]
    fn perform(&mut self) -> Result<(), BenchError> {
        self.stamp += 1;
        stamp_payload(&mut self.payload, self.stamp);

        self.subject.round_trip(&self.payload, &mut self.answer)?;

        if self.answer.len() != self.payload.len() {
            let (size, expected) = (self.answer.len(), self.payload.len());
            return Err(BenchError::AnswerSize { size, expected });
        }
        match stamps_of(&self.answer).into_iter().find(|&found| found != self.stamp) {
            Some(found) => Err(BenchError::WrongAnswer { stamp: self.stamp, found }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Burst = Burst {
        payload_size: 64,
        warmup_count: 3,
        operation_count: 10,
        pace: Pace::BackToBack,
        time_max: Duration::from_secs(5),
    };

    /// Echoes, and forgets the last word of operation `torn_at`.
    struct Echo {
        calls: u64,
        torn_at: u64,
    }

    impl Subject for Echo {
        fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
            self.calls += 1;
            let kept = payload.len() - if self.calls == self.torn_at { 8 } else { 0 };
            answer.resize(payload.len(), 0);
            answer[..kept].copy_from_slice(&payload[..kept]);
            Ok(())
        }
    }

    #[test]
    fn warmup_is_performed_and_not_recorded() {
        let (mut echo, mut samples) = (Echo { calls: 0, torn_at: 0 }, Samples::new());
        time_round_trips(&mut echo, &BURST, &mut samples).unwrap();
        assert_eq!((echo.calls, samples.count()), (13, 10));
    }

    #[test]
    fn a_torn_answer_is_found() {
        let (mut echo, mut samples) = (Echo { calls: 0, torn_at: 5 }, Samples::new());
        let found = time_round_trips(&mut echo, &BURST, &mut samples).unwrap_err();
        assert!(matches!(found, BenchError::WrongAnswer { stamp: 5, found: 4 }), "{found}");
    }

    /// Echoes all but the last word.
    struct Cut;

    impl Subject for Cut {
        fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
            answer.clear();
            answer.extend_from_slice(&payload[..payload.len() - 8]);
            Ok(())
        }
    }

    #[test]
    fn an_answer_of_another_size_is_found() {
        let found = time_round_trips(&mut Cut, &BURST, &mut Samples::new()).unwrap_err();
        assert!(matches!(found, BenchError::AnswerSize { size: 56, expected: 64 }), "{found}");
    }

    #[test]
    fn a_pause_is_not_part_of_the_figure() {
        let (mut echo, mut samples) = (Echo { calls: 0, torn_at: 0 }, Samples::new());
        let parked = Burst { pace: Pace::Parked(Duration::from_millis(5)), ..BURST };
        time_round_trips(&mut echo, &parked, &mut samples).unwrap();
        assert!(samples.summary().p50_ns < 5_000_000);
    }

    #[test]
    fn a_spent_burst_ends_early_with_what_it_has() {
        let (mut echo, mut samples) = (Echo { calls: 0, torn_at: 0 }, Samples::new());
        let spent = Burst { time_max: Duration::ZERO, ..BURST };
        time_round_trips(&mut echo, &spent, &mut samples).unwrap();
        assert_eq!((echo.calls, samples.count()), (2, 1));
    }

    #[test]
    fn a_payload_of_no_whole_words_is_refused() {
        let mut echo = Echo { calls: 0, torn_at: 0 };
        for payload_size in [0, 12] {
            let odd = Burst { payload_size, ..BURST };
            let refused = time_round_trips(&mut echo, &odd, &mut Samples::new());
            assert!(matches!(refused, Err(BenchError::PayloadSize { .. })));
        }
    }
}
