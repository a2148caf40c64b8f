//! A daemon at rest, and what its memory is with few connections and with many.

use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::{Cores, DaemonProcess};
use annulus::client::{ConnectOptions, Connection};
use annulus::wire::MessageType;

use crate::Failure;
use crate::activity::Activity;
use crate::daemon::{self, Peak};
use crate::levels::{MB, Stage, as_float, hold_below, hold_nothing_lost};
use crate::report::{Progress, Report};
use crate::team::Team;
use crate::work::{Squad, Task};

/// How long the daemon is watched.
const REST: Duration = Duration::from_secs(10);
/// How long it may take to come to rest: to have done nothing between two looks.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// When the clients of one exchange are given up, so that all together ends within a minute.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(15);
/// Messages of one exchange, on all connections together: one to three seconds.
const MESSAGES: u32 = 3_000_000;

const PAGE_SIZE: f64 = 4096.0;

/// 1,000 quiet connections for 10 s; then 100, and 1,000, that exchange 1 KiB.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let cores = Cores::choose()?;
    watch_at_rest(stage, cores, report)?;
    let few = exchange(stage, cores, 100, report)?;
    hold_memory(report, 100, &few, 2.0);
    let many = exchange(stage, cores, 1_000, report)?;
    hold_memory(report, 1_000, &many, 3.0);
    hold_below(report, "1000 connections x 1 KiB: anonymous memory", 0.6, many.anon_bytes);
    Ok(())
}

/// Each connection has exchanged one echo of 64 B, and then there is nothing to do.
fn watch_at_rest(stage: &Stage, cores: Cores, report: &mut Report) -> Result<(), Failure> {
    let daemon = daemon::start(&stage.annulus, cores)?;
    let connections = stage.connections(1_000);
    let squad = Squad { connections, requests: 1, payload_size: 64, window: 1 };
    let mut team = Team::start(&[stage.work(&daemon, cores.client, Task::Rest(squad))])?;
    let mut planted = None;
    if stage.plant_request {
        let options = ConnectOptions::new().socket_path(daemon.socket());
        planted = Some(Connection::connect(&options)?);
    }

    let settled = settle(&daemon)?;
    let rest = REST / stage.divisor.min(10);
    let progress = Progress::new();
    progress.at("at rest: seconds", 0, rest.as_secs());
    let (before, started) = (Activity::of_process(daemon.id())?, Instant::now());
    thread::sleep(rest / 2);
    if let Some(connection) = &mut planted {
        connection.call(MessageType::ECHO, b"planted", &mut Vec::new())?;
    }
    thread::sleep(rest / 2);
    let (after, lasted) = (Activity::of_process(daemon.id())?, started.elapsed());
    // Memory comes last: the kernel holds the lock of the daemon's mappings while it adds them up.
    let mut memory = Peak::default();
    memory.sample(&daemon)?;
    drop(progress);

    // A client that rests is told to begin when it is to end.
    team.begin()?;
    let answered = team.outcomes()?.iter().map(|outcome| outcome.answered).sum();
    daemon.stop()?;

    hold_nothing_lost(report, u64::from(connections), answered)?;
    let settled = settled.map_or_else(
        || format!("not within {SETTLE_TIME_MAX:?}"),
        |time| format!("after {:.1} s", time.as_secs_f64()),
    );
    report.show(&format!("{connections} quiet connections: came to rest"), settled);
    hold_rest(report, &after, &before, lasted);
    report.show("at rest: PSS", format!("{:.2} MB", as_float(memory.pss_bytes) / MB));
    report.show("at rest: its parts", parts(&memory, connections));
    Ok(())
}

/// Waits until the daemon has done nothing between two looks; returns how long that took, `None`
/// when it never came to rest.
fn settle(daemon: &DaemonProcess) -> Result<Option<Duration>, Failure> {
    let started = Instant::now();
    let mut before = Activity::of_process(daemon.id())?;
    while started.elapsed() < SETTLE_TIME_MAX {
        thread::sleep(LOOK_PERIOD);
        let now = Activity::of_process(daemon.id())?;
        if now == before {
            return Ok(Some(started.elapsed()));
        }
        before = now;
    }
    Ok(None)
}

/// Holds what the threads did against the bars, and names those that did something.
fn hold_rest(report: &mut Report, after: &Activity, before: &Activity, lasted: Duration) {
    let threads = after.since(before);
    let wake_ups: u64 = threads.iter().map(|thread| thread.wake_ups).sum();
    let cpu_ns: u64 = threads.iter().map(|thread| thread.cpu_ns).sum();
    let what = format!("at rest: wake-ups in {:.1} s, all threads", lasted.as_secs_f64());
    report.hold(&what, "0", wake_ups.to_string(), wake_ups == 0);
    let share = 100.0 * as_float(cpu_ns) / 1e9 / lasted.as_secs_f64();
    report.hold("at rest: CPU, all threads", "< 0.1 %", format!("{share:.4} %"), share < 0.1);
    for thread in threads {
        let did = format!("{} x, {} us of CPU", thread.wake_ups, thread.cpu_ns / 1_000);
        report.show(&format!("at rest: {} woke up", thread.name), did);
    }
}

/// Lets so many connections, one in flight on each, exchange 1 KiB while the memory is sampled.
fn exchange(
    stage: &Stage,
    cores: Cores,
    connections: u32,
    report: &mut Report,
) -> Result<Peak, Failure> {
    let daemon = daemon::start(&stage.annulus, cores)?;
    let requests = u64::from(MESSAGES / connections / stage.divisor).max(1);
    let squad = Squad { connections, requests, payload_size: 1024, window: 1 };
    let work = stage.work(&daemon, cores.client, Task::Echo(vec![squad]));
    let (outcomes, peak) = stage.run_within(EXCHANGE_TIME_MAX, &daemon, &[work])?;
    daemon.stop()?;
    let answered = outcomes.iter().map(|outcome| outcome.answered).sum();
    hold_nothing_lost(report, u64::from(connections) * requests, answered)?;
    Ok(peak)
}

/// Holds the whole memory of a daemon with so many busy connections, and shows its parts.
fn hold_memory(report: &mut Report, connections: u32, peak: &Peak, megabytes: f64) {
    let what = |part: &str| format!("{connections} connections x 1 KiB: {part}");
    hold_below(report, &what("PSS"), megabytes, peak.pss_bytes);
    report.show(&what("its parts"), parts(peak, connections));
    // The largest sample is from when they connected.
    let median = as_float(peak.pss_median_bytes()) / MB;
    report.show(&what("PSS, median"), format!("{median:.2} MB"));
}

/// The kinds of memory, and how much of each connection's region is in use. The daemon pays for half
/// of each page that its client has touched too.
fn parts(peak: &Peak, connections: u32) -> String {
    let megabytes = |bytes| as_float(bytes) / MB;
    let (anon, file) = (megabytes(peak.anon_bytes), megabytes(peak.file_bytes));
    let shmem = megabytes(peak.shmem_bytes);
    let pages = 2.0 * as_float(peak.shmem_bytes) / PAGE_SIZE / f64::from(connections);
    format!(
        "anonymous {anon:.2} MB, files {file:.2} MB, regions {shmem:.2} MB: {pages:.1} pages each"
    )
}
