//! What the daemon counts, and how it is shown.
//!
//! A [`Metrics`] is made once, shared by `Arc`, and never allocates again until someone asks for a
//! page. Each data shard owns one [`ShardMetrics`], and the control thread one [`Closings`]:
//! **one writer per block, any reader**. That is what makes a count cost two plain moves on a cache
//! line that no other shard writes.
//!
//! Add a series in `series.rs`, a label value in `labels.rs`; each is one line.
//!
//! ```
//! use annulus::metrics::{BuildInfo, MessageKind, Metrics, MetricsOptions};
//!
//! let metrics = Metrics::new(MetricsOptions {
//!     shard_count: 2,
//!     fault_names: &["tail_overrun", "checksum"],
//!     started: std::time::SystemTime::now(),
//!     build: BuildInfo { version: "0.1.0", revision: "b0b6137" },
//! });
//! metrics.shard(0).request_received(MessageKind::Echo, 64);
//! metrics.shard(0).response_published(MessageKind::Echo, 64);
//! metrics.shard(0).request_finished(MessageKind::Echo, 220);
//! assert!(metrics.export_prometheus().contains("annulus_requests_total{type=\"echo\"} 1\n"));
//! ```

mod export;
mod exposition;
mod histogram;
mod instrument;
mod labels;
mod prometheus;
mod provider;
mod series;

use std::array;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

pub use export::{WriteFileError, write_file};
pub use histogram::{BUCKET_COUNT, Histogram, HistogramSnapshot, VALUE_NS_MAX};
pub use instrument::{Counter, Gauge};
pub use labels::{
    CloseReason, EndpointState, ErrorStatus, LeaseTier, MessageKind, ProviderOutcome,
};
pub use provider::ProviderMetrics;
pub use series::{Activity, ProviderUse, TierUse, Traffic};

/// How many kinds of fault can be told apart. The rows are inside the shard's block, so that a
/// block is one piece of memory.
pub const FAULT_COUNT_MAX: usize = 64;

/// What [`Metrics::new`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MetricsOptions {
    /// How many data shards there are.
    pub shard_count: usize,
    /// The names of all faults, in `snake_case`, by the index that [`Closings::fault`] takes.
    pub fault_names: &'static [&'static str],
    /// When the process started.
    pub started: SystemTime,
    /// Which build is running.
    pub build: BuildInfo,
}

/// Which build is running, as `annulus_build_info` shows it.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The package's version.
    pub version: &'static str,
    /// The commit that it was built from, where the build was told (`ANNULUS_REVISION`).
    pub revision: &'static str,
}

/// Everything the daemon counts.
#[derive(Debug)]
pub struct Metrics {
    shards: Box<[ShardMetrics]>,
    control: Closings,
    providers: OnceLock<Box<[Arc<ProviderMetrics>]>>,
    fault_names: &'static [&'static str],
    started: SystemTime,
    build: BuildInfo,
}

impl Metrics {
    /// Makes all instruments, at zero. A shard's block is about 36 KiB, most of it histograms.
    ///
    /// # Panics
    ///
    /// When there are more than [`FAULT_COUNT_MAX`] fault names.
    pub fn new(options: MetricsOptions) -> Self {
        let MetricsOptions { shard_count, fault_names, started, build } = options;
        let closings = || Closings::new(fault_names.len());
        Self {
            shards: (0..shard_count).map(|_| ShardMetrics::new(closings())).collect(),
            control: closings(),
            providers: OnceLock::new(),
            fault_names,
            started,
            build,
        }
    }

    /// The block of one data shard, which alone may write to it.
    ///
    /// # Panics
    ///
    /// When there is no such shard.
    pub fn shard(&self, shard_index: usize) -> &ShardMetrics {
        &self.shards[shard_index]
    }

    /// The block of the control thread, which alone may write to it: connections that it turned
    /// away before a shard saw them.
    pub fn control(&self) -> &Closings {
        &self.control
    }

    /// Puts the providers on the page; for the start, because only the first call counts.
    pub fn show_providers(&self, providers: impl IntoIterator<Item = Arc<ProviderMetrics>>) {
        // Not a mistake of anybody's to be told about: the page has its providers already.
        let _ = self.providers.set(providers.into_iter().collect());
    }

    /// The latency of all finished requests of one type, over all shards.
    pub fn latency(&self, kind: MessageKind) -> HistogramSnapshot {
        let mut total = HistogramSnapshot::default();
        for shard in &self.shards {
            shard.kind(kind).latency.merge_into(&mut total);
        }
        total
    }
}

/// What one data shard counts. **That shard is the only writer.**
///
/// Aligned to 128 bytes, so that no two shards write to one cache line: lines have 64 bytes, and
/// x86-64 processors fetch them in pairs (Intel optimization manual, §"Hardware Prefetching").
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// What the shard does.
    pub activity: Activity,
    closings: Closings,
    tiers: [TierUse; LeaseTier::COUNT],
    kinds: [KindMetrics; MessageKind::COUNT],
}

impl ShardMetrics {
    fn new(closings: Closings) -> Self {
        Self {
            activity: Activity::default(),
            closings,
            tiers: Default::default(),
            kinds: Default::default(),
        }
    }

    /// A request was taken from a client's ring; its payload has `payload_size` bytes.
    pub fn request_received(&self, kind: MessageKind, payload_size: u64) {
        let traffic = &self.kind(kind).traffic;
        traffic.requests_total.increment();
        traffic.request_bytes_total.add(payload_size);
    }

    /// Several requests arrived, with payloads of `payload_size` bytes in all.
    pub fn requests_received(&self, kind: MessageKind, request_count: u64, payload_size: u64) {
        let traffic = &self.kind(kind).traffic;
        traffic.requests_total.add(request_count);
        traffic.request_bytes_total.add(payload_size);
    }

    /// A response frame, or one reply chunk, was published; its payload has `payload_size` bytes.
    pub fn response_published(&self, kind: MessageKind, payload_size: u64) {
        let traffic = &self.kind(kind).traffic;
        traffic.responses_total.increment();
        traffic.response_bytes_total.add(payload_size);
    }

    /// Several response frames were published at once, `payload_size` bytes in all.
    pub fn responses_published(&self, kind: MessageKind, frame_count: u64, payload_size: u64) {
        let traffic = &self.kind(kind).traffic;
        traffic.responses_total.add(frame_count);
        traffic.response_bytes_total.add(payload_size);
    }

    /// The last frame of an answer was published, `latency_ns` after the request was taken.
    pub fn request_finished(&self, kind: MessageKind, latency_ns: u64) {
        self.kind(kind).latency.record(latency_ns);
    }

    /// A request failed.
    pub fn request_failed(&self, kind: MessageKind, status: ErrorStatus) {
        self.kind(kind).errors[status as usize].increment();
    }

    /// A connection passed its handshake and is now served by this shard.
    pub fn connection_opened(&self) {
        self.activity.connections_accepted_total.increment();
        self.activity.connections_open.add(1);
    }

    /// A connection ended, or was refused. Only the former leaves one fewer open.
    pub fn connection_closed(&self, reason: CloseReason) {
        self.closings.closed(reason);
        if !reason.is_refusal() {
            self.activity.connections_open.sub(1);
        }
    }

    /// The peer broke the protocol; see [`Closings::fault`].
    pub fn fault(&self, fault_index: usize) {
        self.closings.fault(fault_index);
    }

    /// The shard's use of one tier of the buffer pool.
    pub fn tier(&self, tier: LeaseTier) -> &TierUse {
        &self.tiers[tier as usize]
    }

    fn kind(&self, kind: MessageKind) -> &KindMetrics {
        &self.kinds[kind as usize]
    }
}

/// What one shard counts for one message type.
#[derive(Debug, Default)]
struct KindMetrics {
    traffic: Traffic,
    errors: [Counter; ErrorStatus::COUNT],
    latency: Histogram,
}

/// Why connections ended or never began, and how peers broke the protocol. Aligned like
/// [`ShardMetrics`], since the control thread and each shard own one.
#[derive(Debug)]
#[repr(align(128))]
pub struct Closings {
    reasons: [Counter; CloseReason::COUNT],
    faults: [Counter; FAULT_COUNT_MAX],
    fault_count: usize,
}

impl Closings {
    fn new(fault_count: usize) -> Self {
        assert!(fault_count <= FAULT_COUNT_MAX, "{fault_count} faults, room for {FAULT_COUNT_MAX}");
        Self {
            reasons: Default::default(),
            faults: array::from_fn(|_| Counter::default()),
            fault_count,
        }
    }

    /// A connection ended or was refused. A shard calls [`ShardMetrics::connection_closed`] instead.
    pub fn closed(&self, reason: CloseReason) {
        self.reasons[reason as usize].increment();
    }

    /// The peer broke the protocol. `fault_index` is the fault's place among
    /// [`MetricsOptions::fault_names`].
    ///
    /// # Panics
    ///
    /// When there is no such name: a fault that no page would show is a bug.
    pub fn fault(&self, fault_index: usize) {
        self.faults[..self.fault_count][fault_index].increment();
    }
}

#[cfg(test)]
mod tests {
    use std::mem;
    use std::thread;

    use super::*;

    fn metrics_of_two_shards() -> Metrics {
        Metrics::new(MetricsOptions {
            shard_count: 2,
            fault_names: &["tail_overrun", "checksum"],
            started: SystemTime::UNIX_EPOCH,
            build: BuildInfo { version: "1.2.3", revision: "abc" },
        })
    }

    #[test]
    fn blocks_of_two_writers_share_no_cache_line() {
        let metrics = metrics_of_two_shards();
        assert_eq!(&raw const metrics.shards[0] as usize % 128, 0);
        assert_eq!(mem::size_of::<ShardMetrics>() % 128, 0);
        assert_eq!(&raw const metrics.control as usize % 128, 0);
        assert_eq!(mem::size_of::<Closings>() % 128, 0);
    }

    #[test]
    fn block_is_as_small_as_its_doc_says() {
        assert!(mem::size_of::<ShardMetrics>() <= 37 * 1024, "{}", mem::size_of::<ShardMetrics>());
    }

    #[test]
    fn open_connections_are_those_accepted_less_those_closed() {
        let metrics = metrics_of_two_shards();
        let shard = metrics.shard(0);
        shard.connection_opened();
        shard.connection_opened();
        shard.connection_closed(CloseReason::Idle);
        assert_eq!(shard.activity.connections_accepted_total.value(), 2);
        assert_eq!(shard.activity.connections_open.value(), 1);
    }

    #[test]
    fn refused_connection_was_never_open() {
        let metrics = metrics_of_two_shards();
        for reason in [CloseReason::RefusedBusy, CloseReason::RefusedHandshake] {
            metrics.shard(0).connection_closed(reason);
        }
        assert_eq!(metrics.shard(0).activity.connections_open.value(), 0);
    }

    #[test]
    fn latency_adds_the_shards_and_keeps_the_types_apart() {
        let metrics = metrics_of_two_shards();
        metrics.shard(0).request_finished(MessageKind::Echo, 10);
        metrics.shard(1).request_finished(MessageKind::Echo, 20);
        metrics.shard(1).request_finished(MessageKind::Stream, 30);
        let echo = metrics.latency(MessageKind::Echo);
        assert_eq!((echo.count(), echo.sum_ns()), (2, 30));
    }

    #[test]
    fn nothing_is_lost_while_a_reader_looks_on() {
        const REQUEST_COUNT: u64 = 20_000;
        let metrics = Arc::new(metrics_of_two_shards());
        let writers: Vec<_> = (0..2)
            .map(|shard_index| {
                let metrics = Arc::clone(&metrics);
                thread::spawn(move || {
                    for latency_ns in 0..REQUEST_COUNT {
                        metrics.shard(shard_index).request_finished(MessageKind::Echo, latency_ns);
                    }
                })
            })
            .collect();

        let mut seen = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            let count = metrics.latency(MessageKind::Echo).count();
            assert!(count >= seen, "{count} after {seen}");
            seen = count;
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let total = metrics.latency(MessageKind::Echo);
        assert_eq!(total.count(), 2 * REQUEST_COUNT);
        assert_eq!(total.sum_ns(), REQUEST_COUNT * (REQUEST_COUNT - 1));
    }

    #[test]
    #[should_panic(expected = "the len is 2 but the index is 2")]
    fn fault_without_a_name_is_a_bug() {
        metrics_of_two_shards().control().fault(2);
    }

    #[test]
    #[should_panic(expected = "65 faults, room for 64")]
    fn more_faults_than_rows_are_refused_at_start() {
        Metrics::new(MetricsOptions {
            shard_count: 0,
            fault_names: &["again"; FAULT_COUNT_MAX + 1],
            started: SystemTime::UNIX_EPOCH,
            build: BuildInfo { version: "", revision: "" },
        });
    }
}
