//! What a case came to: medians over its rounds, of the subject and of each limit beside it.
//!
//! The invariant to remember: a ratio is the median of the ratios of single rounds, never a ratio of
//! medians. Both sides of it saw the same state of the machine.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{CurvePoint, Summary, median};

/// What [`CaseResult::schema`] says; a change of meaning changes the number.
pub const SCHEMA: &str = "annulus.bench/2";

/// The figures of one side of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Nanoseconds that half of the operations did not exceed; the median over the rounds, as are
    /// the next three.
    pub p50_ns: u64,
    /// Nanoseconds that 90 % did not exceed.
    pub p90_ns: u64,
    /// Nanoseconds that 99 % did not exceed.
    pub p99_ns: u64,
    /// Nanoseconds that 99.9 % did not exceed.
    pub p999_ns: u64,
    /// The slowest operation of all kept rounds.
    pub max_ns: u64,
    /// Round trips a second, pauses left out; the median over the rounds.
    pub msgs_per_s: u64,
}

/// The figures of a limit, and how the subject compares. A ratio above 1 says that the subject is
/// slower; to three decimals; null where the limit took no time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitResult {
    /// What was exchanged, in a few words.
    pub limit: Cow<'static, str>,
    /// Its figures in the same rounds.
    #[serde(flatten)]
    pub figures: Figures,
    /// The subject's p50 over the limit's.
    pub ratio_p50: Option<f64>,
    /// The subject's p99 over the limit's.
    pub ratio_p99: Option<f64>,
    /// The subject's time for each message over the limit's: their rates, the other way round.
    pub ratio_time: Option<f64>,
    /// The limit's latencies over all kept rounds; for pictures, not in JSON.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
}

/// The figures of one case. One JSON object, on one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// [`SCHEMA`].
    pub schema: Cow<'static, str>,
    /// [`Case::name`](super::Case::name).
    pub case: String,
    /// Bytes of a payload, one way.
    pub size: usize,
    /// Connections that the subject used.
    pub connections: u32,
    /// Connections that were open, the used ones included.
    pub open: u32,
    /// Requests in flight on each used connection.
    pub window: u32,
    /// The subject's figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What it is compared with, the first one first; empty where there is nothing.
    pub limits: Vec<LimitResult>,
    /// The canary's p50 over the kept rounds: figures of two runs compare only if theirs do.
    pub canary_p50_ns: u64,
    /// Rounds that the medians are over.
    pub rounds: u32,
    /// Rounds thrown away because the canary moved.
    pub rejected_rounds: u32,
    /// The subject's latencies over all kept rounds; for pictures, not in JSON.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
}

impl CaseResult {
    /// Whether several requests were in flight: the rate says more than a latency then.
    #[must_use]
    pub const fn is_pipelined(&self) -> bool {
        self.connections > 1 || self.window > 1
    }

    /// The result as one line of JSON, without the newline.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and strings serialise")
    }
}

impl Figures {
    /// Medians over the rounds, and the largest maximum.
    pub(super) fn over(rounds: &[Summary]) -> Self {
        let middle = |figure: fn(&Summary) -> f64| whole(median(rounds.iter().map(figure)));
        Self {
            p50_ns: middle(|summary| summary.p50_ns as f64),
            p90_ns: middle(|summary| summary.p90_ns as f64),
            p99_ns: middle(|summary| summary.p99_ns as f64),
            p999_ns: middle(|summary| summary.p999_ns as f64),
            max_ns: rounds.iter().map(|summary| summary.max_ns).max().unwrap_or_default(),
            msgs_per_s: middle(|summary| summary.msgs_per_s),
        }
    }
}

impl LimitResult {
    /// Compares `subject` with `limit`, round by round; both have one summary a round.
    pub(super) fn over(limit: Cow<'static, str>, rounds: &[Summary], subject: &[Summary]) -> Self {
        let ratio = |time: fn(&Summary) -> f64| {
            let of_rounds = rounds.iter().zip(subject).map(|(limit, subject)| {
                // A limit without a time gives no number, which the median must not meet.
                Some(time(subject) / time(limit)).filter(|ratio| ratio.is_finite())
            });
            median(of_rounds.flatten()).map(|ratio| (ratio * 1000.0).round() / 1000.0)
        };
        Self {
            limit,
            figures: Figures::over(rounds),
            ratio_p50: ratio(|summary| summary.p50_ns as f64),
            ratio_p99: ratio(|summary| summary.p99_ns as f64),
            ratio_time: ratio(|summary| 1.0 / summary.msgs_per_s),
            curve: Vec::new(),
        }
    }
}

/// A median as a whole number; figures are far below 2^53 and never negative.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and float casts saturate"
)]
pub(super) fn whole(middle: Option<f64>) -> u64 {
    middle.unwrap_or_default().round() as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A round trip beside one limit, for the tests of whatever shows results.
    pub(in super::super) fn example() -> CaseResult {
        let figures = Figures {
            p50_ns: 240,
            p90_ns: 260,
            p99_ns: 371,
            p999_ns: 900,
            max_ns: 80_000,
            msgs_per_s: 4_100_000,
        };
        let curve = |scale: u64| {
            let point = |(share, interval_ns)| CurvePoint { share, interval_ns };
            [(0.0, 100 * scale), (0.5, 120 * scale), (0.9, 130 * scale), (0.99, 200 * scale)]
                .map(point)
                .to_vec()
        };
        CaseResult {
            schema: SCHEMA.into(),
            case: "rtt_hot".into(),
            size: 64,
            connections: 1,
            open: 1,
            window: 1,
            figures,
            limits: vec![LimitResult {
                limit: "cache line".into(),
                figures: Figures { p50_ns: 140, p99_ns: 200, ..figures },
                ratio_p50: Some(1.714),
                ratio_p99: Some(1.855),
                ratio_time: Some(1.7),
                curve: curve(1),
            }],
            canary_p50_ns: 140,
            rounds: 5,
            rejected_rounds: 2,
            curve: curve(2),
        }
    }

    fn summary(p50_ns: u64, msgs_per_s: f64) -> Summary {
        Summary { p50_ns, p99_ns: 2 * p50_ns, max_ns: 9 * p50_ns, msgs_per_s, ..Summary::default() }
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let limit = [summary(100, 1e6), summary(200, 1e6), summary(400, 1e6)];
        let subject = [summary(200, 5e5), summary(600, 1e6), summary(400, 2e6)];
        let result = LimitResult::over("x".into(), &limit, &subject);
        // Ratios 2, 3 and 1; medians 400 and 200.
        assert_eq!((result.ratio_p50, result.ratio_p99), (Some(2.0), Some(2.0)));
        // Twice the time, the same, half.
        assert_eq!(result.ratio_time, Some(1.0));
        assert_eq!((Figures::over(&subject).p50_ns, result.figures.p50_ns), (400, 200));
    }

    #[test]
    fn a_limit_without_a_time_has_no_ratio() {
        let result = LimitResult::over("x".into(), &[summary(0, 0.0)], &[summary(5, 1.0)]);
        assert_eq!((result.ratio_p50, result.ratio_time), (None, Some(0.0)));
    }

    #[test]
    fn the_maximum_is_that_of_all_rounds() {
        let rounds = [summary(1, 1.0), summary(50, 1.0), summary(2, 1.0)];
        assert_eq!(Figures::over(&rounds).max_ns, 450);
    }

    #[test]
    fn a_result_is_one_line_of_json_without_its_curves() {
        let result = example();
        let line = result.to_json_line();
        let expected = concat!(
            r#"{"schema":"annulus.bench/2","case":"rtt_hot","size":64,"connections":1,"open":1,"#,
            r#""window":1,"p50_ns":240,"p90_ns":260,"p99_ns":371,"p999_ns":900,"max_ns":80000,"#,
            r#""msgs_per_s":4100000,"limits":[{"limit":"cache line","p50_ns":140,"p90_ns":260,"#,
            r#""p99_ns":200,"p999_ns":900,"max_ns":80000,"msgs_per_s":4100000,"ratio_p50":1.714,"#,
            r#""ratio_p99":1.855,"ratio_time":1.7}],"canary_p50_ns":140,"rounds":5,"#,
            r#""rejected_rounds":2}"#,
        );
        assert_eq!(line, expected);
        let mut bare = result;
        bare.curve.clear();
        bare.limits[0].curve.clear();
        assert_eq!(serde_json::from_str::<CaseResult>(&line).unwrap(), bare);
    }
}
