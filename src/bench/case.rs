//! One case: rounds of limit and subject, each between two canaries, and the medians over them.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{BenchError, Burst, Meter, Pace, Samples, Summary, median};

/// What [`CaseResult::schema`] says; a change of meaning changes the number.
pub const SCHEMA: &str = "annulus.bench/1";

/// A round is rejected when the canary's p50 changed by more than this factor, either way, while it
/// ran.
pub const CANARY_SHIFT_MAX: f64 = 1.5;

/// What the canary does: 3 to 10 ms of cache lines.
const CANARY_BURST: Burst = Burst {
    payload_size: 64,
    warmup_count: 2_000,
    operation_count: 20_000,
    pace: Pace::BackToBack,
    time_max: Duration::from_secs(2),
};

/// What is run, how often, and within which bounds.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in results, `group/variant`.
    pub name: String,
    /// Connections that the subject uses; only reported.
    pub connections: u32,
    /// What the limit and the subject each do in a round.
    pub burst: Burst,
    /// Rounds that are wanted.
    pub round_count: u32,
    /// Rejected rounds that are run again; one more and the case ends with what it has.
    pub rejected_count_max: u32,
    /// No round starts after this.
    pub time_max: Duration,
}

/// What a case is run with.
#[allow(missing_debug_implementations, reason = "meters need not be printable")]
pub struct Instruments<'m> {
    /// Notices that the machine changed: a cache-line meter on the same two cores.
    pub canary: &'m mut dyn Meter,
    /// What the subject is compared with, or `None` where nothing comparable exists (throughput).
    pub limit: Option<&'m mut dyn Meter>,
    /// What the case is about.
    pub subject: &'m mut dyn Meter,
}

impl Case {
    /// A case of five rounds, with up to ten more for rejected ones, within a minute.
    #[must_use]
    pub fn new(name: impl Into<String>, connections: u32, burst: Burst) -> Self {
        Self {
            name: name.into(),
            connections,
            burst,
            round_count: 5,
            rejected_count_max: 10,
            time_max: Duration::from_secs(60),
        }
    }

    /// Runs the rounds and draws the medians over those that were kept.
    ///
    /// Limit and subject change places every round, so that a drift favours neither. The result may
    /// have fewer rounds than were wanted, and says how many.
    ///
    /// # Errors
    ///
    /// [`BenchError::Noisy`] when no round was kept, [`BenchError::OutOfTime`] when none started,
    /// and whatever a meter reports.
    pub fn run(&self, mut instruments: Instruments<'_>) -> Result<CaseResult, BenchError> {
        let started = Instant::now();
        let mut samples = Samples::new();
        let mut kept = Vec::with_capacity(self.round_count as usize);
        let mut rejected = 0;

        // At most `round_count + rejected_count_max + 1` rounds.
        while kept.len() < self.round_count as usize
            && rejected <= self.rejected_count_max
            && started.elapsed() < self.time_max
        {
            let subject_first = kept.len() % 2 == 1;
            match self.run_round(&mut instruments, subject_first, &mut samples)? {
                round if round.is_steady() => kept.push(round),
                _ => rejected += 1,
            }
        }
        match (kept.is_empty(), rejected) {
            (true, 0) => Err(BenchError::OutOfTime { time_max: self.time_max }),
            (true, rejected) => Err(BenchError::Noisy { rejected }),
            (false, _) => Ok(self.result_of(&kept, rejected)),
        }
    }

    fn run_round(
        &self,
        instruments: &mut Instruments<'_>,
        subject_first: bool,
        samples: &mut Samples,
    ) -> Result<Round, BenchError> {
        let mut summary_of = |meter: &mut dyn Meter, burst: &Burst| {
            samples.clear();
            meter.measure(burst, samples)?;
            Ok::<_, BenchError>(samples.summary())
        };
        let Instruments { canary, limit, subject } = instruments;

        let canary_before = summary_of(*canary, &CANARY_BURST)?;
        let mut early = None;
        if subject_first {
            early = Some(summary_of(*subject, &self.burst)?);
        }
        let limit = match limit {
            Some(limit) => Some(summary_of(*limit, &self.burst)?),
            None => None,
        };
        let subject = match early {
            Some(summary) => summary,
            None => summary_of(*subject, &self.burst)?,
        };
        let canary_after = summary_of(*canary, &CANARY_BURST)?;
        Ok(Round { canaries_p50_ns: [canary_before.p50_ns, canary_after.p50_ns], limit, subject })
    }

    fn result_of(&self, kept: &[Round], rejected_rounds: u32) -> CaseResult {
        let subject = |figure: fn(&Summary) -> f64| {
            whole(median(kept.iter().map(|round| figure(&round.subject))))
        };
        let limit = |figure: fn(&Summary) -> f64| {
            let of_rounds =
                median(kept.iter().filter_map(|round| round.limit.as_ref()).map(figure));
            of_rounds.map(|middle| whole(Some(middle)))
        };
        let canary =
            kept.iter().flat_map(|round| round.canaries_p50_ns).map(|p50_ns| p50_ns as f64);
        CaseResult {
            schema: SCHEMA.into(),
            case: self.name.clone(),
            size: self.burst.payload_size,
            connections: self.connections,
            p50_ns: subject(|summary| summary.p50_ns as f64),
            p99_ns: subject(|summary| summary.p99_ns as f64),
            p999_ns: subject(|summary| summary.p999_ns as f64),
            msgs_per_s: subject(|summary| summary.msgs_per_s),
            limit_p50_ns: limit(|summary| summary.p50_ns as f64),
            limit_p99_ns: limit(|summary| summary.p99_ns as f64),
            ratio_p50: median(kept.iter().filter_map(Round::ratio_p50))
                .map(|ratio| (ratio * 1000.0).round() / 1000.0),
            canary_p50_ns: whole(median(canary)),
            rounds: u32::try_from(kept.len()).expect("no more rounds than were wanted"),
            rejected_rounds,
        }
    }
}

/// What one round measured.
#[derive(Debug)]
struct Round {
    /// Before and after.
    canaries_p50_ns: [u64; 2],
    limit: Option<Summary>,
    subject: Summary,
}

impl Round {
    /// Whether the machine was, as far as the canary tells, the same throughout.
    fn is_steady(&self) -> bool {
        let [before, after] = self.canaries_p50_ns.map(|p50_ns| p50_ns as f64);
        before.max(after) <= before.min(after) * CANARY_SHIFT_MAX
    }

    fn ratio_p50(&self) -> Option<f64> {
        let limit = self.limit.as_ref().filter(|limit| limit.p50_ns > 0)?;
        Some(self.subject.p50_ns as f64 / limit.p50_ns as f64)
    }
}

/// A median as a whole number; figures are far below 2^53 and never negative.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and float casts saturate"
)]
fn whole(middle: Option<f64>) -> u64 {
    middle.unwrap_or_default().round() as u64
}

/// The figures of one case: medians over its rounds. One JSON object, on one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// [`SCHEMA`].
    pub schema: Cow<'static, str>,
    /// [`Case::name`].
    pub case: String,
    /// Bytes of a payload, one way.
    pub size: usize,
    /// Connections that the subject used.
    pub connections: u32,
    /// Nanoseconds that half of the operations did not exceed.
    pub p50_ns: u64,
    /// Nanoseconds that 99 % did not exceed.
    pub p99_ns: u64,
    /// Nanoseconds that 99.9 % did not exceed.
    pub p999_ns: u64,
    /// Round trips a second, pauses left out.
    pub msgs_per_s: u64,
    /// The limit's p50 in the same rounds; null where there is none to compare with.
    pub limit_p50_ns: Option<u64>,
    /// The limit's p99 in the same rounds; null likewise.
    pub limit_p99_ns: Option<u64>,
    /// Median of the per-round ratios of the two p50 (not the ratio of their medians), to three
    /// decimals; null likewise.
    pub ratio_p50: Option<f64>,
    /// The canary's p50 over the kept rounds: figures of two runs compare only if theirs do.
    pub canary_p50_ns: u64,
    /// Rounds that the medians are over.
    pub rounds: u32,
    /// Rounds thrown away because the canary moved.
    pub rejected_rounds: u32,
}

impl CaseResult {
    /// The result as one line of JSON, without the newline.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and strings serialise")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const BURST: Burst = Burst {
        payload_size: 64,
        warmup_count: 0,
        operation_count: 1,
        pace: Pace::BackToBack,
        time_max: Duration::from_secs(1),
    };

    /// Plays back intervals, the last one for ever, and writes its letter into a log.
    struct Script<'l> {
        letter: char,
        intervals_ns: Vec<u64>,
        played: usize,
        log: &'l RefCell<String>,
    }

    impl<'l> Script<'l> {
        fn new(letter: char, intervals_ns: &[u64], log: &'l RefCell<String>) -> Self {
            Self { letter, intervals_ns: intervals_ns.to_vec(), played: 0, log }
        }
    }

    impl Meter for Script<'_> {
        fn measure(&mut self, _: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
            let interval_ns = self.intervals_ns[self.played.min(self.intervals_ns.len() - 1)];
            self.played += 1;
            self.log.borrow_mut().push(self.letter);
            samples.record(Duration::from_nanos(interval_ns));
            samples.record_elapsed(Duration::from_nanos(interval_ns));
            Ok(())
        }
    }

    /// Runs `case` against scripts; gives the outcome and who was measured in which order.
    fn play(
        case: &Case,
        canary: &[u64],
        limit: Option<&[u64]>,
        subject: &[u64],
    ) -> (Result<CaseResult, BenchError>, String) {
        let log = RefCell::default();
        let mut canary = Script::new('c', canary, &log);
        let mut limit = limit.map(|intervals| Script::new('L', intervals, &log));
        let mut subject = Script::new('S', subject, &log);
        let outcome = case.run(Instruments {
            canary: &mut canary,
            limit: limit.as_mut().map(|limit| limit as &mut dyn Meter),
            subject: &mut subject,
        });
        (outcome, log.into_inner())
    }

    fn case(round_count: u32, rejected_count_max: u32) -> Case {
        Case { round_count, rejected_count_max, ..Case::new("fake/echo", 1, BURST) }
    }

    #[test]
    fn limit_and_subject_change_places_between_canaries() {
        let (outcome, order) = play(&case(3, 0), &[100], Some(&[100]), &[200]);
        assert_eq!(order, "cLSc cSLc cLSc".replace(' ', ""));
        assert_eq!((outcome.unwrap().rounds, order.len()), (3, 12));
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let (outcome, _) = play(&case(3, 0), &[100], Some(&[100, 200, 400]), &[200, 600, 400]);
        let result = outcome.unwrap();
        // Ratios 2, 3 and 1; medians 400 and 200.
        assert_eq!(result.ratio_p50, Some(2.0));
        assert_eq!((result.p50_ns, result.limit_p50_ns), (400, Some(200)));
    }

    #[test]
    fn a_round_in_which_the_canary_moved_is_rejected_and_run_again() {
        // Round 1 gets slower, round 2 faster, by more than half; rounds 3 and 4 hold.
        let (outcome, _) = play(
            &case(2, 5),
            &[100, 151, 300, 100, 100, 150, 100],
            Some(&[100]),
            &[9, 9, 200, 220],
        );
        let result = outcome.unwrap();
        assert_eq!((result.rounds, result.rejected_rounds), (2, 2));
        assert_eq!(result.p50_ns, 210, "rejected rounds leave no trace");
        assert_eq!(result.canary_p50_ns, 100);
    }

    #[test]
    fn a_machine_that_never_holds_still_is_an_error_after_bounded_rounds() {
        let moving: Vec<u64> = [100, 400].repeat(20);
        let (outcome, order) = play(&case(5, 3), &moving, Some(&[100]), &[200]);
        assert!(matches!(outcome, Err(BenchError::Noisy { rejected: 4 })));
        assert_eq!(order.matches('S').count(), 4);
    }

    #[test]
    fn kept_rounds_count_even_if_there_are_fewer_than_wanted() {
        let (outcome, _) = play(&case(5, 0), &[100, 100, 100, 400], Some(&[100]), &[200]);
        let result = outcome.unwrap();
        assert_eq!((result.rounds, result.rejected_rounds), (1, 1));
    }

    #[test]
    fn a_case_without_time_says_so() {
        let spent = Case { time_max: Duration::ZERO, ..case(1, 0) };
        let (outcome, order) = play(&spent, &[100], None, &[200]);
        assert!(matches!(outcome, Err(BenchError::OutOfTime { .. })));
        assert!(order.is_empty());
    }

    #[test]
    fn a_result_is_one_line_of_json_with_null_for_no_limit() {
        let (outcome, _) = play(&case(1, 0), &[100], None, &[200]);
        let result = outcome.unwrap();
        let line = result.to_json_line();
        let expected = concat!(
            r#"{"schema":"annulus.bench/1","case":"fake/echo","size":64,"connections":1,"#,
            r#""p50_ns":200,"p99_ns":200,"p999_ns":200,"msgs_per_s":5000000,"#,
            r#""limit_p50_ns":null,"limit_p99_ns":null,"ratio_p50":null,"#,
            r#""canary_p50_ns":100,"rounds":1,"rejected_rounds":0}"#,
        );
        assert_eq!(line, expected);
        assert_eq!(serde_json::from_str::<CaseResult>(&line).unwrap(), result);
    }
}
