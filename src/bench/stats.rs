//! Samples of one burst and the figures drawn from them.
//!
//! A histogram is made once, before anything is timed: recording into it never allocates.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant decimal digits that a recorded interval keeps.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Longest interval that is told apart, in nanoseconds; a longer one is recorded as this.
const INTERVAL_NS_MAX: u64 = 60_000_000_000;

/// How fine a curve is, and how far it goes: to one operation in a million.
const POINTS_PER_DECADE: u32 = 12;
const CURVE_DECADES_MAX: f64 = 6.0;

/// The intervals of one burst, in nanoseconds, with three significant digits.
#[derive(Clone, Debug)]
pub struct Samples {
    histogram: Histogram<u64>,
    /// Operations that were done, recorded or not, and the time in which they were: for the rate.
    operation_count: u64,
    elapsed: Duration,
}

/// One point of a latency curve: `share` of the operations took no longer than `interval_ns`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// From 0 up to, but not including, 1.
    pub share: f64,
    /// Nanoseconds.
    pub interval_ns: u64,
}

impl Samples {
    /// An empty set, with all the memory that it will ever use (about 200 KiB).
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, INTERVAL_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants and in range");
        Self { histogram, operation_count: 0, elapsed: Duration::ZERO }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.operation_count = 0;
        self.elapsed = Duration::ZERO;
    }

    /// Adds all that `other` holds.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.operation_count += other.operation_count;
        self.elapsed += other.elapsed;
    }

    /// Adds the interval of one operation.
    #[inline]
    pub fn record(&mut self, interval: Duration) {
        // Note: cannot truncate below the histogram's own bound, which saturates first.
        let nanoseconds = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanoseconds);
    }

    /// Adds operations, whether the interval of each was recorded or not, and the time in which they
    /// were done: the sum of the intervals when they follow each other, the wall time when they
    /// overlap.
    #[inline]
    pub fn record_elapsed(&mut self, operation_count: u64, elapsed: Duration) {
        self.operation_count += operation_count;
        self.elapsed += elapsed;
    }

    /// How many intervals were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The figures of this burst; all zero when nothing was recorded.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let seconds = self.elapsed.as_secs_f64();
        Summary {
            p50_ns: self.histogram.value_at_quantile(0.50),
            p90_ns: self.histogram.value_at_quantile(0.90),
            p99_ns: self.histogram.value_at_quantile(0.99),
            p999_ns: self.histogram.value_at_quantile(0.999),
            max_ns: self.histogram.max(),
            msgs_per_s: if seconds > 0.0 { self.operation_count as f64 / seconds } else { 0.0 },
        }
    }

    /// The latencies as a curve: `POINTS_PER_DECADE` points for each tenfold rarer operation, as far
    /// as there are operations to tell apart. Empty when nothing was recorded.
    #[must_use]
    pub fn curve(&self) -> Vec<CurvePoint> {
        if self.count() == 0 {
            return Vec::new();
        }
        let decades = (self.count() as f64).log10().min(CURVE_DECADES_MAX);
        let point = |step: u32| {
            let share = 1.0 - 10_f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE));
            CurvePoint { share, interval_ns: self.histogram.value_at_quantile(share) }
        };
        // Bounded: at most `CURVE_DECADES_MAX` decades.
        (0..)
            .take_while(|step| f64::from(*step) <= decades * f64::from(POINTS_PER_DECADE))
            .map(point)
            .collect()
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}

/// The figures of one burst. Intervals are nanoseconds; a quantile is the smallest recorded value
/// that at least that share of the operations did not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Half of the operations took no longer.
    pub p50_ns: u64,
    /// 90 % took no longer.
    pub p90_ns: u64,
    /// 99 % took no longer.
    pub p99_ns: u64,
    /// 99.9 % took no longer.
    pub p999_ns: u64,
    /// The slowest operation.
    pub max_ns: u64,
    /// Operations a second, pauses left out.
    pub msgs_per_s: f64,
}

/// The middle value, or the mean of the two middle ones; `None` for no values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], upper)
    } else {
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_ramp_are_its_ranks() {
        let mut samples = Samples::new();
        for nanoseconds in 1..=1000 {
            samples.record(Duration::from_nanos(nanoseconds));
            samples.record_elapsed(1, Duration::from_nanos(nanoseconds));
        }
        let summary = samples.summary();
        assert_eq!((summary.p50_ns, summary.p90_ns, summary.p99_ns), (500, 900, 990));
        assert_eq!((summary.p999_ns, summary.max_ns), (999, 1000));
        // 1000 operations in 500.5 µs.
        assert!((summary.msgs_per_s - 1_998_001.998).abs() < 0.01);
    }

    #[test]
    fn an_interval_beyond_the_bound_is_kept_as_the_bound() {
        let mut samples = Samples::new();
        samples.record(Duration::from_secs(3600));
        assert_eq!(samples.count(), 1);
        let max_ns = samples.summary().max_ns;
        let nearby = INTERVAL_NS_MAX..INTERVAL_NS_MAX + INTERVAL_NS_MAX / 500;
        assert!(nearby.contains(&max_ns), "{max_ns}");
    }

    #[test]
    fn cleared_samples_are_as_new() {
        let mut samples = Samples::new();
        samples.record(Duration::from_nanos(7));
        samples.record_elapsed(1, Duration::from_nanos(7));
        samples.clear();
        assert_eq!(samples.summary(), Summary::default());
    }

    #[test]
    fn a_curve_rises_as_far_as_there_are_operations_to_tell_apart() {
        let mut samples = Samples::new();
        assert!(samples.curve().is_empty());
        for nanoseconds in 1..=1000 {
            samples.record(Duration::from_nanos(nanoseconds));
        }
        let curve = samples.curve();
        // Three decades of a thousand operations, both ends included.
        assert_eq!(curve.len(), 3 * POINTS_PER_DECADE as usize + 1);
        assert!(curve.is_sorted_by(|a, b| a.share < b.share && a.interval_ns <= b.interval_ns));
        let last = curve[curve.len() - 1];
        assert!((last.share - 0.999).abs() < 1e-9 && last.interval_ns == 999, "{last:?}");
    }

    #[test]
    fn added_samples_are_those_of_both() {
        let mut samples = Samples::new();
        let mut other = Samples::new();
        samples.record(Duration::from_nanos(10));
        other.record(Duration::from_nanos(30));
        other.record_elapsed(8, Duration::from_micros(2));
        samples.add(&other);
        let summary = samples.summary();
        assert_eq!((samples.count(), summary.p50_ns, summary.max_ns), (2, 10, 30));
        assert!((summary.msgs_per_s - 4e6).abs() < 1.0, "operations that were not recorded count");
    }

    #[test]
    fn median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }
}
