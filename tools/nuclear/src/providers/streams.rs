//! Very many streams at once: whether all are served whole, what memory the daemon has, and what the
//! others on the same daemon notice.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::{DaemonProcess, Pinned, Samples};
use annulus::client::{ConnectOptions, Connection};
use annulus::wire::MessageType;

use super::upstream::Upstream;
use super::windows::Windows;
use super::{Scene, quantiles};
use crate::Failure;
use crate::daemon::Peak;
use crate::levels::{as_float, hold_below, hold_nothing_lost};
use crate::report::Report;

/// Streams, as windows of so many each.
const WINDOWS: u32 = 25;
const STREAMS: usize = 40;
const RATE: u32 = 5;
const CHUNKS: u32 = 60;
const START_GAP: Duration = Duration::from_micros(1_700);
/// Between two looks of the clients at their rings: their own work is not what is measured.
const NAP: Duration = Duration::from_millis(2);

/// Echoes, quiet and beside the streams.
const PROBES: u32 = 2_000;
const PROBE_PERIOD: Duration = Duration::from_millis(2);
const PROBE_SIZE: usize = 1024;
/// How long the streams may take to begin.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(60);
/// Looks at the daemon's memory.
const LOOKS: u32 = 10;
const LOOK_PERIOD: Duration = Duration::from_millis(50);

pub(super) fn measure(
    scene: &Scene<'_>,
    upstream: &Upstream,
    report: &mut Report,
) -> Result<(), Failure> {
    let daemon = scene.start_daemon_on_all(upstream)?;
    let socket = daemon.socket();
    let probes = scene.stage.connections(PROBES).max(100);
    let chunks = CHUNKS / scene.stage.divisor.min(4);
    let model = format!("fake-chunks-{chunks}_rate-{RATE}_stamp");
    let windows = Windows {
        model: &model,
        windows: scene.stage.connections(WINDOWS) as usize,
        streams: STREAMS,
        gap: START_GAP,
        skipped: 0,
        nap: Some(NAP),
    };
    let streams = (windows.windows * windows.streams) as u64;
    // The first connection wakes what is made on demand.
    let core = scene.cores.client;
    echo(&socket, 100, core)?;
    let idle = echo(&socket, probes, core)?;
    let mut before = Peak::default();
    before.sample(&daemon)?;

    let (begun, all_begun) = mpsc::channel();
    let (seen, busy, peak) = thread::scope(|scope| {
        let socket = &socket;
        let watcher = scope.spawn(move || {
            // It fails only when nobody waits any more.
            windows.watch(socket, move || begun.send(()).unwrap_or_default())
        });
        // Where the streams fail, the channel closes and their error is the one to show.
        let busy = match all_begun.recv_timeout(BEGIN_TIME_MAX) {
            Ok(()) => Some((echo(socket, probes, core)?, look(&daemon)?)),
            Err(_) => None,
        };
        let seen = watcher.join().map_err(|_| "the clients of the streams panicked")??;
        let (busy, peak) = busy.ok_or("not all streams were open at once")?;
        Ok::<_, Failure>((seen, busy, peak))
    })?;
    daemon.stop()?;

    report.hold(
        "streams whole",
        "every one",
        format!("{} of {streams}", seen.whole),
        seen.whole == streams,
    );
    hold_nothing_lost(report, streams * u64::from(chunks), seen.chunks)?;
    report.show("own memory before", format!("{:.2} MB", as_float(before.owned_bytes) / 1e6));
    let what = format!("own memory, {streams} streams of {RATE} chunks/s");
    hold_below(report, &what, 24.0, peak.owned_bytes);
    report.show("its anonymous part", format!("{:.2} MB", as_float(peak.anon_bytes) / 1e6));
    report.show("echo, idle", quantiles(&idle));
    report.show("echo, beside the streams", quantiles(&busy));
    let ratio = as_float(busy.summary().p99_ns) / as_float(idle.summary().p99_ns.max(1));
    report.hold("echo p99 beside the streams to idle", "< 2", format!("{ratio:.2}"), ratio < 2.0);
    Ok(())
}

/// Echoes one after the other, with pauses, from a thread that keeps to `core`.
fn echo(socket: &Path, count: u32, core: usize) -> Result<Samples, Failure> {
    let _there = Pinned::to(core)?;
    let mut connection = Connection::connect(&ConnectOptions::new().socket_path(socket))?;
    let (payload, mut answer) = (vec![7; PROBE_SIZE], Vec::new());
    let mut samples = Samples::new();
    for _ in 0..count {
        thread::sleep(PROBE_PERIOD);
        let asked = Instant::now();
        connection.call(MessageType::ECHO, &payload, &mut answer)?;
        samples.record(asked.elapsed());
        if answer != payload {
            return Err("an echo came back changed".into());
        }
    }
    Ok(samples)
}

fn look(daemon: &DaemonProcess) -> Result<Peak, Failure> {
    let mut peak = Peak::default();
    for _ in 0..LOOKS {
        peak.sample(daemon)?;
        thread::sleep(LOOK_PERIOD);
    }
    Ok(peak)
}
