//! Latency histogram: fixed memory, one writer that never waits, any reader at any time.
//!
//! The idea is HdrHistogram's (Gil Tene, <https://hdrhistogram.org>): each power of two is cut into
//! equal sub-buckets, so the error is relative, and finding the bucket is a shift. With 16 of them,
//!
//! > every value in a bucket is within **1/16 (6.25 %)** of every other,
//!
//! since a bucket that starts at `m·2ˢ`, `16 ≤ m < 32`, spans `2ˢ` values. Below 32 ns the buckets
//! are 1 ns wide and exact. The 624 buckets (4,992 bytes) reach 2⁴² ns, 73 minutes; a longer time is
//! counted in the last bucket, and in the sum with its full length.

use core::array;

use crate::sync::Ordering::Relaxed;
use crate::sync::TallyU64;

/// Linear sub-buckets per power of two, as a power of two: the error is 1/2⁴.
const SUB_BUCKET_BITS: u32 = 4;
const SUB_BUCKET_COUNT: u64 = 1 << SUB_BUCKET_BITS;

/// The first power of two that no longer has buckets, as an exponent.
const VALUE_BITS: u32 = 42;

/// The largest value with a bucket of its own, in ns: about 73 minutes.
pub const VALUE_NS_MAX: u64 = (1 << VALUE_BITS) - 1;

/// How many buckets a histogram has: 16 for the values below 16, then 16 for each power of two.
pub const BUCKET_COUNT: usize =
    (1 << SUB_BUCKET_BITS) * (VALUE_BITS - SUB_BUCKET_BITS + 1) as usize;

const _: () = assert!(bucket_index(VALUE_NS_MAX) == BUCKET_COUNT - 1);
const _: () = assert!(VALUE_NS_MAX >= 3_600_000_000_000, "an hour fits");

/// A histogram of durations in ns, written by one shard and read by anyone.
///
/// Not promised: that a reader sees the buckets and the sum at the same instant. A record that is
/// under way may be in one and not yet in the other.
#[derive(Debug)]
pub struct Histogram {
    /// No count beside them: it is their sum, so the two can never disagree on the page.
    buckets: [TallyU64; BUCKET_COUNT],
    sum_ns: TallyU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| TallyU64::new(0)), sum_ns: TallyU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration of `ns` nanoseconds. Only the owning shard may call this.
    ///
    /// Wait-free and allocation-free: two relaxed loads and two relaxed stores.
    pub fn record(&self, ns: u64) {
        let bucket = &self.buckets[bucket_index(ns)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        // Note: wraps after 584 years of latency in total, or at once for a nonsensical duration.
        self.sum_ns.store(self.sum_ns.load(Relaxed).wrapping_add(ns), Relaxed);
    }

    /// Copies the state out.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot::default();
        self.merge_into(&mut snapshot);
        snapshot
    }

    /// Adds the state to `snapshot`, which may already hold other histograms.
    pub fn merge_into(&self, snapshot: &mut HistogramSnapshot) {
        for (target, source) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *target = target.wrapping_add(source.load(Relaxed));
        }
        snapshot.sum_ns = snapshot.sum_ns.wrapping_add(self.sum_ns.load(Relaxed));
    }
}

/// A histogram that stands still: for questions, and for adding shards together. 5,000 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: [u64; BUCKET_COUNT],
    sum_ns: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self { buckets: [0; BUCKET_COUNT], sum_ns: 0 }
    }
}

impl HistogramSnapshot {
    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (target, source) in self.buckets.iter_mut().zip(&other.buckets) {
            *target = target.wrapping_add(*source);
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All durations together, in ns, exact.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The duration in ns that a share `q` of all records did not exceed, or `None` when there are
    /// none. `q` is 0 to 1: 0.5 asks for the median, 0.999 for p99.9; what lies outside counts as
    /// the nearer end.
    ///
    /// The answer is the largest value of its bucket, as in HdrHistogram: never less than the true
    /// one, and at most 1/16 more. From [`VALUE_NS_MAX`] on, it means "at least".
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates, and the clamp brings what is left into range"
        )]
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);

        let mut seen = 0;
        let index = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        });
        index.map(bucket_last)
    }

    /// How many records are below each of `edges_ns`, which ascend. Exact where an edge starts a
    /// bucket ([`starts_bucket`]); elsewhere the bucket that holds the edge is left out.
    pub(super) fn counts_below<'a>(
        &'a self,
        edges_ns: &'a [u64],
    ) -> impl Iterator<Item = (u64, u64)> + 'a {
        let mut next = 0;
        let mut below = 0;
        edges_ns.iter().map(move |&edge_ns| {
            let end = bucket_index(edge_ns).max(next);
            below += self.buckets[next..end].iter().sum::<u64>();
            next = end;
            (edge_ns, below)
        })
    }
}

/// Whether `ns` is the first value of its bucket.
pub(super) const fn starts_bucket(ns: u64) -> bool {
    bucket_first(bucket_index(ns)) == ns
}

/// The bucket that counts `ns`.
#[expect(clippy::cast_possible_truncation, reason = "at most BUCKET_COUNT - 1, asserted above")]
const fn bucket_index(ns: u64) -> usize {
    let ns = if ns > VALUE_NS_MAX { VALUE_NS_MAX } else { ns };
    // Setting bit 4 changes nothing from 16 on, and gives the values below it shift 0: no branch.
    let shift = (ns | SUB_BUCKET_COUNT).ilog2() - SUB_BUCKET_BITS;
    // `ns >> shift` keeps the five leading bits, 16 to 31; the rows of 16 therefore join up.
    ((shift as u64 * SUB_BUCKET_COUNT) + (ns >> shift)) as usize
}

/// The smallest value of a bucket, in ns.
const fn bucket_first(index: usize) -> u64 {
    let index = index as u64;
    let shift = bucket_shift(index);
    (index - shift * SUB_BUCKET_COUNT) << shift
}

/// The largest value of a bucket, in ns.
const fn bucket_last(index: usize) -> u64 {
    bucket_first(index) + (1 << bucket_shift(index as u64)) - 1
}

/// The width of a bucket in ns, as an exponent of two.
const fn bucket_shift(index: u64) -> u64 {
    (index / SUB_BUCKET_COUNT).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram_of(values: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
        let histogram = Histogram::default();
        values.into_iter().for_each(|ns| histogram.record(ns));
        histogram.snapshot()
    }

    #[test]
    fn buckets_cover_every_value_once() {
        assert_eq!(bucket_first(0), 0);
        for index in 0..BUCKET_COUNT {
            assert_eq!(bucket_index(bucket_first(index)), index);
            assert_eq!(bucket_index(bucket_last(index)), index);
            if index + 1 < BUCKET_COUNT {
                assert_eq!(bucket_last(index) + 1, bucket_first(index + 1));
            }
        }
        assert_eq!(bucket_last(BUCKET_COUNT - 1), VALUE_NS_MAX);
    }

    #[test]
    fn values_of_a_bucket_are_within_a_sixteenth_of_each_other() {
        for index in 0..BUCKET_COUNT {
            let (first, last) = (bucket_first(index), bucket_last(index));
            assert!((last - first) * 16 < first.max(1), "bucket {index}: {first} to {last} ns");
        }
    }

    #[test]
    fn quantile_is_never_less_and_at_most_a_sixteenth_more() {
        for index in 0..BUCKET_COUNT {
            for ns in [bucket_first(index), bucket_last(index)] {
                let answer = histogram_of([ns]).quantile(0.5).unwrap();
                assert!(ns <= answer && (answer - ns) * 16 <= ns, "{ns} ns answered {answer}");
            }
        }
    }

    #[test]
    fn longer_than_the_range_is_counted_in_the_last_bucket() {
        let snapshot = histogram_of([VALUE_NS_MAX + 1, 1 << 60]);
        assert_eq!(snapshot.buckets[BUCKET_COUNT - 1], 2);
        assert_eq!(snapshot.quantile(1.0), Some(VALUE_NS_MAX));
        assert_eq!(snapshot.sum_ns(), (1 << 42) + (1 << 60));
    }

    #[test]
    fn zero_is_a_value_too() {
        assert_eq!(histogram_of([0]).quantile(0.5), Some(0));
    }

    #[test]
    fn quantiles_of_a_known_series_have_their_rank() {
        let snapshot = histogram_of(1..=20);
        assert_eq!((snapshot.count(), snapshot.sum_ns()), (20, 210));
        let asked = [0.0, 0.05, 0.5, 0.51, 0.95, 1.0].map(|q| snapshot.quantile(q).unwrap());
        assert_eq!(asked, [1, 1, 10, 11, 19, 20]);
    }

    #[test]
    fn quantile_outside_its_range_is_the_nearer_end() {
        let snapshot = histogram_of([3, 7]);
        let asked = [-1.0, f64::NAN, f64::NEG_INFINITY].map(|q| snapshot.quantile(q));
        assert_eq!(asked, [Some(3); 3]);
        assert_eq!([2.0, f64::INFINITY].map(|q| snapshot.quantile(q)), [Some(7); 2]);
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(HistogramSnapshot::default().quantile(0.5), None);
    }

    #[test]
    fn merging_equals_recording_together() {
        let mut merged = histogram_of([5, 500, 50_000]);
        merged.merge(&histogram_of([7, 500]));
        assert_eq!(merged, histogram_of([5, 7, 500, 500, 50_000]));
    }

    #[test]
    fn counts_below_edges_are_cumulative_and_leave_the_edge_itself_out() {
        let snapshot = histogram_of([1, 127, 128, 191, 192, 1 << 41]);
        let counts: Vec<_> = snapshot.counts_below(&[64, 128, 192, 256]).collect();
        assert_eq!(counts, [(64, 1), (128, 2), (192, 4), (256, 5)]);
    }
}
