//! When a chunk that an upstream has sent is in its client's ring.

use std::time::Duration;

use super::upstream::Upstream;
use super::windows::Windows;
use super::{bare, micros, quantiles, start_daemon};
use crate::Failure;
use crate::levels::{Stage, hold_nothing_lost};
use crate::report::Report;

/// Streams, as windows of so many each.
const WINDOWS: u32 = 10;
const STREAMS: usize = 20;
const RATE: u32 = 50;
/// Chunks of each stream, and how many of them come while others still begin.
const CHUNKS: u32 = 300;
const SKIPPED: u64 = 20;

/// Bars, in microseconds.
const P50_MAX: f64 = 20.0;
const P99_MAX: f64 = 100.0;

pub(super) fn measure(
    stage: &Stage,
    upstream: &Upstream,
    report: &mut Report,
) -> Result<(), Failure> {
    let chunks = (CHUNKS / stage.divisor).max(40);
    let model = format!("fake-chunks-{chunks}_rate-{RATE}_stamp");
    let windows = Windows {
        model: &model,
        windows: stage.connections(WINDOWS) as usize,
        streams: STREAMS,
        // Spread over the time between two chunks of one stream, so that they do not all come at once.
        gap: Duration::from_secs(1) / RATE / (WINDOWS * 20),
        skipped: SKIPPED,
        nap: None,
    };
    let streams = windows.windows * windows.streams;
    let bare = upstream
        .plain_address()
        .map(|address| bare::watch(address, &model, streams, windows.gap, SKIPPED));
    let bare = bare.transpose()?;
    let daemon = start_daemon(stage, upstream)?;
    let seen = windows.watch(&daemon.socket(), || {})?;
    daemon.stop()?;

    hold_nothing_lost(report, streams as u64 * u64::from(chunks), seen.chunks)?;
    let whole = seen.samples.summary();
    report.show("sent until in the client's ring", quantiles(&seen.samples));
    let read = bare.map(|(samples, _)| samples);
    if let Some(read) = &read {
        report.show("sent until read, no daemon", quantiles(read));
    }
    let read = read.map(|samples| samples.summary()).unwrap_or_default();
    for (name, most, ours, theirs) in
        [("p50", P50_MAX, whole.p50_ns, read.p50_ns), ("p99", P99_MAX, whole.p99_ns, read.p99_ns)]
    {
        let above = micros(ours.saturating_sub(theirs));
        let what = format!("{streams} streams x {RATE}/s: readable until in the ring, {name}");
        report.hold(&what, &format!("< {most} us"), format!("{above:.1} us"), above < most);
    }
    Ok(())
}
