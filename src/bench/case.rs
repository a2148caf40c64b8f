//! One case: rounds of limits and subject between canaries, and the medians over them.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::result::whole;
use super::{
    BenchError, Burst, CaseResult, Figures, LimitResult, Meter, Pace, SCHEMA, Samples, Summary,
    median,
};

/// A round is rejected when the p50 of two of its canaries differ by more than this factor.
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
    /// Connections that the subject uses; only reported, as are the next two.
    pub connections: u32,
    /// Connections that are open, the used ones included.
    pub open: u32,
    /// Requests in flight on each used connection.
    pub window: u32,
    /// What each limit and the subject do in a round.
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
    /// What the subject is compared with, and what each is called; the most telling one first.
    pub limits: Vec<(Cow<'static, str>, &'m mut dyn Meter)>,
    /// What the case is about.
    pub subject: &'m mut dyn Meter,
}

/// How far a case has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rounds that count.
    pub kept: u32,
    /// Rounds that were thrown away.
    pub rejected: u32,
}

impl Case {
    /// A case of five rounds, with up to ten more for rejected ones, within a minute.
    #[must_use]
    pub fn new(name: impl Into<String>, connections: u32, burst: Burst) -> Self {
        Self {
            name: name.into(),
            connections,
            open: connections,
            window: 1,
            burst,
            round_count: 5,
            rejected_count_max: 10,
            time_max: Duration::from_secs(60),
        }
    }

    /// Runs the rounds and draws the medians over those that were kept; `progress` hears of each
    /// round, between bursts.
    ///
    /// Limits and subject change their order every round, so that a drift favours neither. The
    /// result may have fewer rounds than were wanted, and says how many.
    ///
    /// # Errors
    ///
    /// [`BenchError::Noisy`] when no round was kept, [`BenchError::OutOfTime`] when none started,
    /// and whatever a meter reports.
    pub fn run(
        &self,
        mut instruments: Instruments<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CaseResult, BenchError> {
        let started = Instant::now();
        let mut sides = Sides::new(&mut instruments);
        let mut so_far = Progress { kept: 0, rejected: 0 };

        // At most `round_count + rejected_count_max + 1` rounds.
        while so_far.kept < self.round_count
            && so_far.rejected <= self.rejected_count_max
            && started.elapsed() < self.time_max
        {
            let canaries_p50_ns = sides.run_round(&self.burst, so_far.kept % 2 == 1)?;
            if is_steady(&canaries_p50_ns) {
                sides.keep_round(canaries_p50_ns);
                so_far.kept += 1;
            } else {
                so_far.rejected += 1;
            }
            progress(so_far);
        }
        match so_far {
            Progress { kept: 0, rejected: 0 } => {
                Err(BenchError::OutOfTime { time_max: self.time_max })
            }
            Progress { kept: 0, rejected } => Err(BenchError::Noisy { rejected }),
            Progress { kept, rejected } => Ok(self.result_of(&sides, kept, rejected)),
        }
    }

    fn result_of(&self, sides: &Sides<'_, '_>, rounds: u32, rejected_rounds: u32) -> CaseResult {
        let (subject, limits) = sides.sides.split_last().expect("the subject is always there");
        let limits = limits.iter().map(|limit| LimitResult {
            curve: limit.all.curve(),
            ..LimitResult::over(limit.name.clone(), &limit.kept, &subject.kept)
        });
        CaseResult {
            schema: SCHEMA.into(),
            case: self.name.clone(),
            size: self.burst.payload_size,
            connections: self.connections,
            open: self.open,
            window: self.window,
            figures: Figures::over(&subject.kept),
            limits: limits.collect(),
            canary_p50_ns: whole(median(sides.canaries_p50_ns.iter().map(|p50| *p50 as f64))),
            rounds,
            rejected_rounds,
            curve: subject.all.curve(),
        }
    }
}

/// Everybody who is measured in a round, and what the kept rounds showed.
struct Sides<'i, 'm> {
    canary: &'i mut &'m mut dyn Meter,
    /// The limits, and last the subject.
    sides: Vec<Side<'i, 'm>>,
    /// Of all kept rounds.
    canaries_p50_ns: Vec<u64>,
}

struct Side<'i, 'm> {
    name: Cow<'static, str>,
    meter: &'i mut &'m mut dyn Meter,
    /// The round that is under way, or was last.
    round: Samples,
    /// One for each kept round.
    kept: Vec<Summary>,
    /// All kept rounds together.
    all: Samples,
}

impl<'i, 'm> Sides<'i, 'm> {
    fn new(instruments: &'i mut Instruments<'m>) -> Self {
        let Instruments { canary, limits, subject } = instruments;
        let side = |name, meter| Side {
            name,
            meter,
            round: Samples::new(),
            kept: Vec::new(),
            all: Samples::new(),
        };
        let limits = limits.iter_mut().map(|(name, meter)| side(name.clone(), meter));
        let mut sides: Vec<_> = limits.collect();
        sides.push(side("subject".into(), subject));
        Self { canary, sides, canaries_p50_ns: Vec::new() }
    }

    /// Measures every side once, with a canary before, between and after: one that saw the cores move
    /// apart and back again would otherwise be missed. Gives the p50 of the canaries.
    fn run_round(&mut self, burst: &Burst, subject_first: bool) -> Result<Vec<u64>, BenchError> {
        let mut canary = Samples::new();
        let mut canaries_p50_ns = Vec::with_capacity(self.sides.len() + 1);
        let mut look = |meter: &mut dyn Meter| {
            canary.clear();
            meter.measure(&CANARY_BURST, &mut canary)?;
            canaries_p50_ns.push(canary.summary().p50_ns);
            Ok::<_, BenchError>(())
        };
        let mut order: Vec<_> = self.sides.iter_mut().collect();
        if subject_first {
            order.reverse();
        }
        look(*self.canary)?;
        for side in order {
            side.round.clear();
            side.meter.measure(burst, &mut side.round)?;
            look(*self.canary)?;
        }
        Ok(canaries_p50_ns)
    }

    fn keep_round(&mut self, canaries_p50_ns: Vec<u64>) {
        self.canaries_p50_ns.extend(canaries_p50_ns);
        for side in &mut self.sides {
            side.kept.push(side.round.summary());
            side.all.add(&side.round);
        }
    }
}

/// Whether the machine was, as far as the canaries tell, the same throughout.
fn is_steady(canaries_p50_ns: &[u64]) -> bool {
    let slowest = canaries_p50_ns.iter().copied().max().unwrap_or_default() as f64;
    let fastest = canaries_p50_ns.iter().copied().min().unwrap_or_default() as f64;
    slowest <= fastest * CANARY_SHIFT_MAX
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

    impl Meter for Script<'_> {
        fn measure(&mut self, _: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
            let interval_ns = self.intervals_ns[self.played.min(self.intervals_ns.len() - 1)];
            self.played += 1;
            self.log.borrow_mut().push(self.letter);
            samples.record(Duration::from_nanos(interval_ns));
            samples.record_elapsed(1, Duration::from_nanos(interval_ns));
            Ok(())
        }
    }

    /// What a case came to, and who was measured in which order; rounds as `progress` heard of them.
    struct Played {
        outcome: Result<CaseResult, BenchError>,
        order: String,
        heard: Vec<Progress>,
    }

    /// Runs `case` against scripts; each limit has a letter of its own.
    fn play(case: &Case, canary: &[u64], limits: &[(char, &[u64])], subject: &[u64]) -> Played {
        let log = RefCell::default();
        let script = |letter, intervals_ns: &[u64]| Script {
            letter,
            intervals_ns: intervals_ns.to_vec(),
            played: 0,
            log: &log,
        };
        let (mut canary, mut subject) = (script('c', canary), script('S', subject));
        let mut limits: Vec<_> =
            limits.iter().map(|(letter, intervals)| script(*letter, intervals)).collect();
        let mut heard = Vec::new();
        let limits = limits
            .iter_mut()
            .map(|limit| (limit.letter.to_string().into(), limit as &mut dyn Meter))
            .collect();
        let instruments = Instruments { canary: &mut canary, limits, subject: &mut subject };
        let outcome = case.run(instruments, &mut |progress| heard.push(progress));
        Played { outcome, order: log.take(), heard }
    }

    fn case(round_count: u32, rejected_count_max: u32) -> Case {
        Case { round_count, rejected_count_max, ..Case::new("fake/echo", 1, BURST) }
    }

    #[test]
    fn limits_and_subject_change_places_between_canaries() {
        let played = play(&case(3, 0), &[100], &[('L', &[100])], &[200]);
        assert_eq!(played.order, "cLcSc cScLc cLcSc".replace(' ', ""));
        assert_eq!(played.outcome.unwrap().rounds, 3);
        let played = play(&case(2, 0), &[100], &[('L', &[100]), ('M', &[50])], &[200]);
        assert_eq!(played.order, "cLcMcSc cScMcLc".replace(' ', ""));
        assert_eq!(play(&case(1, 0), &[100], &[], &[200]).order, "cSc");
    }

    #[test]
    fn each_limit_is_compared_in_its_own_rounds() {
        let limits: [(char, &[u64]); 2] = [('L', &[100, 200, 400]), ('M', &[50])];
        let result = play(&case(3, 0), &[100], &limits, &[200, 600, 400]).outcome.unwrap();
        let ratios: Vec<_> = result.limits.iter().map(|limit| limit.ratio_p50).collect();
        assert_eq!(ratios, [Some(2.0), Some(8.0)]);
        assert_eq!((result.figures.p50_ns, result.limits[0].limit.as_ref()), (400, "L"));
    }

    #[test]
    fn a_round_in_which_the_canary_moved_is_rejected_and_run_again() {
        // Round 1 gets slower, round 2 faster, by more than half; rounds 3 and 4 hold.
        let canary = [100, 100, 151, 300, 100, 100, 100, 150, 100];
        let limits: [(char, &[u64]); 1] = [('L', &[7, 7, 100])];
        let played = play(&case(2, 5), &canary, &limits, &[9, 9, 200, 220]);
        let result = played.outcome.unwrap();
        assert_eq!((result.rounds, result.rejected_rounds), (2, 2));
        assert_eq!(result.figures.p50_ns, 210, "rejected rounds leave no trace");
        assert_eq!((result.figures.max_ns, result.limits[0].figures.p50_ns), (220, 100));
        assert!(result.curve.iter().all(|point| point.interval_ns >= 200), "nor in the curve");
        assert_eq!(result.canary_p50_ns, 100);
        let heard = |kept, rejected| Progress { kept, rejected };
        assert_eq!(played.heard, [heard(0, 1), heard(0, 2), heard(1, 2), heard(2, 2)]);
    }

    #[test]
    fn cores_that_moved_apart_and_back_within_a_round_are_seen() {
        let canary = [100, 300, 100, 100];
        let played = play(&case(1, 5), &canary, &[('L', &[100])], &[200]);
        assert_eq!(played.outcome.unwrap().rejected_rounds, 1);
    }

    #[test]
    fn a_machine_that_never_holds_still_is_an_error_after_bounded_rounds() {
        let moving: Vec<u64> = [100, 400].repeat(40);
        let played = play(&case(5, 3), &moving, &[('L', &[100])], &[200]);
        assert!(matches!(played.outcome, Err(BenchError::Noisy { rejected: 4 })));
        assert_eq!(played.order.matches('S').count(), 4);
    }

    #[test]
    fn kept_rounds_count_even_if_there_are_fewer_than_wanted() {
        let canary = [100, 100, 100, 100, 100, 400];
        let played = play(&case(5, 0), &canary, &[('L', &[100])], &[200]);
        let result = played.outcome.unwrap();
        assert_eq!((result.rounds, result.rejected_rounds), (1, 1));
    }

    #[test]
    fn a_case_without_time_says_so() {
        let spent = Case { time_max: Duration::ZERO, ..case(1, 0) };
        let played = play(&spent, &[100], &[], &[200]);
        assert!(matches!(played.outcome, Err(BenchError::OutOfTime { .. })));
        assert!(played.order.is_empty() && played.heard.is_empty());
    }
}
