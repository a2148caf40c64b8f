//! What is on the Prometheus page, in which order; `exposition.rs` knows how it is written.
//!
//! What a client meets (requests, latency, faults, closed connections) is summed over the shards:
//! which shard served it is an accident of placement. What a shard does has the label `shard`. Every
//! series is present from the start, at 0, so a rate never misses the first event.

use std::fmt::{self, Display, Write};
use std::time::UNIX_EPOCH;

use super::exposition::{Labels, Page, Seconds};
use super::histogram::starts_bucket;
use super::series::{Series, SeriesKind};
use super::{Activity, TierUse, Traffic};
use super::{CloseReason, Closings, ErrorStatus, LeaseTier, MessageKind, Metrics, ShardMetrics};

/// The `le` edges of the latency histogram, in ns. Close together where a decision hangs on them: a
/// hot round trip (a fraction of 1 µs), a cold one (15 to 80 µs), a model's answer (0.1 to 10 s).
///
/// Each starts a bucket of [`Histogram`](super::Histogram), so the counts are exact and never
/// interpolated. They count what is below the edge, where `le` says "at most": a recorded time has
/// lost its fraction of a ns, so the two differ only for a time that meets the edge exactly.
#[rustfmt::skip]
const EDGES_NS: [u64; 24] = [
    128, 192, 256, 384, 512, 768, 1 << 10,                         // hot: up to 1 µs
    1 << 12, 1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18,          // cold: up to 262 µs
    1 << 20, 1 << 22, 1 << 24, 1 << 26,                            // between: up to 67 ms
    1 << 28, 1 << 29, 1 << 30, 1 << 31, 1 << 32, 1 << 34, 1 << 37, // a model: up to 137 s
];

const _: () = {
    let mut index = 0;
    while index < EDGES_NS.len() {
        assert!(starts_bucket(EDGES_NS[index]), "an edge must start a bucket");
        assert!(index == 0 || EDGES_NS[index - 1] < EDGES_NS[index], "edges must ascend");
        index += 1;
    }
};

/// Room for the page of two shards, in bytes. A longer one grows the string.
const TEXT_SIZE: usize = 48 * 1024;

impl Metrics {
    /// The page as a string, to be served as `text/plain; version=0.0.4`. Allocates, so it is not
    /// for data shards.
    pub fn export_prometheus(&self) -> String {
        let mut text = String::with_capacity(TEXT_SIZE);
        self.write_prometheus(&mut text).expect("a String takes all text");
        text
    }

    /// Writes the page to `out`, without allocating.
    ///
    /// # Errors
    ///
    /// Only what `out` reports; the page then ends anywhere and must not be served.
    pub fn write_prometheus(&self, out: &mut impl Write) -> fmt::Result {
        let page = &mut Page::new(out);
        self.write_process(page)?;
        self.write_requests(page)?;
        self.write_closings(page)?;
        self.write_shards(page)?;
        self.write_providers(page)
    }

    fn write_process(&self, page: &mut Page<impl Write>) -> fmt::Result {
        let name = "annulus_build_info";
        page.family(name, "Always 1; the labels say which build runs.", SeriesKind::Gauge)?;
        let labels: Labels =
            &[("version", &self.build.version), ("revision", &self.build.revision)];
        page.sample(name, labels, 1)?;

        // No `annulus_`: this name is common to all exporters, and so are the alerts on it.
        let name = "process_start_time_seconds";
        page.family(name, "Start of the process, in seconds since 1970.", SeriesKind::Gauge)?;
        let since_1970 = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.sample(name, &[], since_1970.as_secs_f64())
    }

    fn write_requests(&self, page: &mut Page<impl Write>) -> fmt::Result {
        for series in Traffic::SERIES {
            page.family(series.name, series.help, series.kind)?;
            for &kind in MessageKind::ALL {
                let total = self.sum(|shard| (series.value)(&shard.kind(kind).traffic));
                page.sample(series.name, &[("type", &kind.label())], total)?;
            }
        }

        let name = "annulus_errors_total";
        page.family(name, "Requests that failed.", SeriesKind::Counter)?;
        for &kind in MessageKind::ALL {
            for &status in ErrorStatus::ALL {
                let total = self.sum(|shard| shard.kind(kind).errors[status as usize].value());
                let labels: Labels = &[("type", &kind.label()), ("status", &status.label())];
                page.sample(name, labels, total)?;
            }
        }

        let name = "annulus_request_duration_seconds";
        let help = "From taking a request to publishing the last frame of its answer.";
        page.family(name, help, SeriesKind::Histogram)?;
        for &kind in MessageKind::ALL {
            let latency = self.latency(kind);
            let bucket = "annulus_request_duration_seconds_bucket";
            let kind: &dyn Display = &kind.label();
            for (edge_ns, below) in latency.counts_below(&EDGES_NS) {
                page.sample(bucket, &[("type", kind), ("le", &Seconds(edge_ns))], below)?;
            }
            page.sample(bucket, &[("type", kind), ("le", &"+Inf")], latency.count())?;
            let (sum, count) =
                ("annulus_request_duration_seconds_sum", "annulus_request_duration_seconds_count");
            page.sample(sum, &[("type", kind)], Seconds(latency.sum_ns()))?;
            page.sample(count, &[("type", kind)], latency.count())?;
        }
        Ok(())
    }

    fn write_closings(&self, page: &mut Page<impl Write>) -> fmt::Result {
        let sum = |value: &dyn Fn(&Closings) -> u64| {
            self.sum(|shard| value(&shard.closings)).wrapping_add(value(&self.control))
        };

        let name = "annulus_connections_closed_total";
        page.family(name, "Connections that ended, or were refused.", SeriesKind::Counter)?;
        for &reason in CloseReason::ALL {
            let total = sum(&|closings| closings.reasons[reason as usize].value());
            page.sample(name, &[("reason", &reason.label())], total)?;
        }

        let name = "annulus_faults_total";
        page.family(name, "Peers that broke the protocol.", SeriesKind::Counter)?;
        for (index, fault) in self.fault_names.iter().enumerate() {
            let total = sum(&|closings| closings.faults[index].value());
            page.sample(name, &[("fault", fault)], total)?;
        }
        Ok(())
    }

    fn write_shards(&self, page: &mut Page<impl Write>) -> fmt::Result {
        for Series { name, help, kind, value } in Activity::SERIES {
            page.family(name, help, *kind)?;
            for (shard_index, shard) in self.shards.iter().enumerate() {
                page.sample(name, &[("shard", &shard_index)], value(&shard.activity))?;
            }
        }
        for Series { name, help, kind, value } in TierUse::SERIES {
            page.family(name, help, *kind)?;
            for (shard_index, shard) in self.shards.iter().enumerate() {
                for &tier in LeaseTier::ALL {
                    let labels: Labels = &[("shard", &shard_index), ("tier", &tier.label())];
                    page.sample(name, labels, value(shard.tier(tier)))?;
                }
            }
        }
        Ok(())
    }

    fn sum(&self, value: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(value).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::exposition::tests::check;
    use super::super::{BuildInfo, MetricsOptions};
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(MetricsOptions {
            shard_count: 2,
            fault_names: &["tail_overrun", "checksum"],
            started: UNIX_EPOCH + Duration::from_millis(1_500),
            build: BuildInfo { version: "1.2.3", revision: "a\\b\"c\nd" },
        })
    }

    #[test]
    fn page_follows_the_format() {
        let samples = check(&metrics().export_prometheus()).unwrap();
        assert!(samples.len() > 300, "{}", samples.len());
    }

    #[test]
    fn what_clients_meet_is_summed_and_what_a_shard_does_is_not() {
        let metrics = metrics();
        for shard_index in 0..2 {
            let shard = metrics.shard(shard_index);
            shard.request_received(MessageKind::Stream, 1_000);
            shard.response_published(MessageKind::Stream, 10);
            shard.request_failed(MessageKind::Stream, ErrorStatus::Timeout);
            shard.connection_opened();
            shard.connection_closed(CloseReason::Fault);
            shard.fault(1);
        }
        metrics.control().closed(CloseReason::RefusedBusy);
        metrics.control().fault(1);
        metrics.shard(1).activity.turns_total.add(5);
        metrics.shard(1).tier(LeaseTier::Kib64).leases_in_use.set(4);

        let samples = check(&metrics.export_prometheus()).unwrap();
        for (series, value) in [
            ("annulus_requests_total{type=\"stream\"}", 2.0),
            ("annulus_request_bytes_total{type=\"stream\"}", 2_000.0),
            ("annulus_responses_total{type=\"stream\"}", 2.0),
            ("annulus_response_bytes_total{type=\"stream\"}", 20.0),
            ("annulus_requests_total{type=\"echo\"}", 0.0),
            ("annulus_errors_total{type=\"stream\",status=\"timeout\"}", 2.0),
            ("annulus_connections_closed_total{reason=\"fault\"}", 2.0),
            ("annulus_connections_closed_total{reason=\"refused_busy\"}", 1.0),
            ("annulus_faults_total{fault=\"checksum\"}", 3.0),
            ("annulus_connections_open{shard=\"0\"}", 0.0),
            ("annulus_connections_accepted_total{shard=\"0\"}", 1.0),
            ("annulus_turns_total{shard=\"0\"}", 0.0),
            ("annulus_turns_total{shard=\"1\"}", 5.0),
            ("annulus_leases_in_use{shard=\"1\",tier=\"64KiB\"}", 4.0),
            ("process_start_time_seconds", 1.5),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}");
        }
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_end_at_the_count() {
        let metrics = metrics();
        let recorded = [0, 127, 128, 255, 256, 1 << 37, u64::MAX >> 20];
        for ns in recorded {
            metrics.shard(0).request_finished(MessageKind::Echo, ns);
        }
        let page = metrics.export_prometheus();
        let samples = check(&page).unwrap();
        let name = "annulus_request_duration_seconds";

        for edge_ns in EDGES_NS {
            let series = format!("{name}_bucket{{type=\"echo\",le=\"{}\"}}", Seconds(edge_ns));
            let below = recorded.iter().filter(|&&ns| ns < edge_ns).count();
            assert_eq!(samples.get(&series), Some(&(below as f64)), "{series}");
        }
        assert_eq!(samples[&format!("{name}_bucket{{type=\"echo\",le=\"+Inf\"}}")], 7.0);
        assert_eq!(samples[&format!("{name}_count{{type=\"echo\"}}")], 7.0);
        let sum = Seconds(recorded.iter().sum());
        assert!(page.contains(&format!("\n{name}_sum{{type=\"echo\"}} {sum}\n")), "{sum}");
    }

    #[test]
    fn label_values_are_escaped() {
        let page = metrics().export_prometheus();
        let line = r#"annulus_build_info{version="1.2.3",revision="a\\b\"c\nd"} 1"#;
        assert!(page.lines().any(|found| found == line));
    }

    #[test]
    fn failing_writer_is_reported() {
        struct Full;
        impl Write for Full {
            fn write_str(&mut self, _: &str) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        assert!(metrics().write_prometheus(&mut Full).is_err());
    }
}
