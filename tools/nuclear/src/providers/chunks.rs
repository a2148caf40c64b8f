//! When a chunk that an upstream has sent is in its client's ring.

use std::time::Duration;

use annulus::bench::Pinned;

use super::upstream::Upstream;
use super::windows::Windows;
use super::{Scene, bare, micros, quantiles};
use crate::Failure;
use crate::levels::hold_nothing_lost;
use crate::report::Report;

/// Streams, as windows of so many each.
const WINDOWS: u32 = 10;
const STREAMS: usize = 20;
const RATE: u32 = 50;
/// Between the starts of two streams: no part of the time between two chunks, so that the chunks of
/// all streams spread over that.
const START_GAP: Duration = Duration::from_micros(3_100);
/// Chunks of each stream, and how many of them come while others still begin.
const CHUNKS: u32 = 300;
const SKIPPED: u64 = 40;

/// Bars, in microseconds.
const P50_MAX: f64 = 20.0;
const P99_MAX: f64 = 100.0;

pub(super) fn measure(
    scene: &Scene<'_>,
    upstream: &Upstream,
    report: &mut Report,
) -> Result<(), Failure> {
    let chunks = (CHUNKS / scene.stage.divisor).max(60);
    let model = format!("fake-chunks-{chunks}_rate-{RATE}_stamp");
    let windows = Windows {
        model: &model,
        windows: scene.stage.connections(WINDOWS) as usize,
        streams: STREAMS,
        gap: START_GAP,
        skipped: SKIPPED,
        nap: None,
    };
    let streams = windows.windows * windows.streams;
    let daemon = scene.start_daemon(upstream)?;
    let core = Pinned::to(scene.cores.client)?;
    let bare = upstream
        .plain_address()
        .map(|address| bare::watch(address, &model, streams, windows.gap, SKIPPED));
    let bare = bare.transpose()?;
    let seen = windows.watch(&daemon.socket(), || {})?;
    drop(core);
    daemon.stop()?;

    hold_nothing_lost(report, streams as u64 * u64::from(chunks), seen.chunks)?;
    let whole = seen.samples.summary();
    report.show("sent until in the client's ring", quantiles(&seen.samples));
    let read = bare.map(|(samples, _)| samples);
    if let Some(read) = &read {
        report.show("sent until readable, no daemon", quantiles(read));
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
