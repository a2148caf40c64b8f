//! The levels: what each does to the daemon, and the bars that it holds it against.

use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::{
    Burst, Cores, DaemonProcess, Launcher, Limit, LimitMeter, Meter as _, Pace, Samples, Summary,
};
use annulus::client::{ConnectOptions, Connection};
use annulus::footprint::Footprint;

use crate::Failure;
use crate::daemon::{self, Peak};
use crate::probe::Probes;
use crate::report::{Progress, Report};
use crate::team::Team;
use crate::work::{Outcome, Squad, Task, Work};

const KIB: u64 = 1 << 10;
pub(crate) const MB: f64 = 1e6;

/// Between two looks at the daemon's memory.
const SAMPLE_PERIOD: Duration = Duration::from_millis(50);
/// Between two looks at clients that time single answers: each takes a core away for some microseconds.
const RARE_PERIOD: Duration = Duration::from_secs(1);
/// When a level's clients are given up, compressed and full.
const TIME_MAX: Duration = Duration::from_secs(60);
const TIME_MAX_FULL: Duration = Duration::from_secs(3_600);

/// Level 4: most that the last cycle may own above the first.
const GROWTH_MAX: u64 = 256 * KIB;

/// How long an idle daemon may take to give back what its clients have left behind: a second, and more
/// than enough for the rest.
const GIVE_BACK_TIME: Duration = Duration::from_millis(1_300);

/// What every level starts from.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) annulus: PathBuf,
    pub(crate) full: bool,
    /// Divides the amounts.
    pub(crate) divisor: u32,
    pub(crate) plant_leak: bool,
    pub(crate) plant_request: bool,
}

impl Stage {
    pub(crate) fn connections(&self, count: u32) -> u32 {
        (count / self.divisor).max(1)
    }

    fn requests(&self, full: u64, compressed: u64) -> u64 {
        let count = if self.full { full } else { compressed };
        (count / u64::from(self.divisor)).max(1)
    }

    pub(crate) fn work(&self, daemon: &DaemonProcess, core: usize, task: Task) -> Work {
        let parent = process::id().cast_signed();
        Work { socket: daemon.socket(), parent, core, task }
    }

    /// Lets a team work while the daemon's memory is sampled.
    fn run(&self, daemon: &DaemonProcess, works: &[Work]) -> Result<(Vec<Outcome>, Peak), Failure> {
        self.run_within(self.time_max(), daemon, works)
    }

    /// When the clients are given up.
    fn time_max(&self) -> Duration {
        if self.full { TIME_MAX_FULL } else { TIME_MAX }
    }

    /// The same, for clients that are given up after `time_max`.
    pub(crate) fn run_within(
        &self,
        time_max: Duration,
        daemon: &DaemonProcess,
        works: &[Work],
    ) -> Result<(Vec<Outcome>, Peak), Failure> {
        let mut peak = Peak::default();
        let outcomes = run_beside(time_max, SAMPLE_PERIOD, works, || peak.sample(daemon))?;
        Ok((outcomes, peak))
    }
}

/// Lets a team work for `time_max` at most, and calls `look` every `period` meanwhile.
fn run_beside(
    time_max: Duration,
    period: Duration,
    works: &[Work],
    mut look: impl FnMut() -> Result<(), Failure>,
) -> Result<Vec<Outcome>, Failure> {
    let mut team = Team::start(works)?;
    let progress = Progress::new();
    team.begin()?;
    let started = Instant::now();
    while !team.has_ended()? {
        if started.elapsed() > time_max {
            return Err(format!("the clients were not done after {time_max:?}").into());
        }
        look()?;
        progress.at("seconds", started.elapsed().as_secs(), time_max.as_secs());
        thread::sleep(period);
    }
    team.outcomes()
}

/// Level 1: 1,000 connections at once, 5,000 × 1 KiB each.
pub(crate) fn connection_bomb(
    stage: &Stage,
    many_processes: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let cores = Cores::choose()?;
    show_machine(stage, cores, "before", report)?;
    let daemon = daemon::start(&stage.annulus, cores)?;
    let (processes, connections) =
        if many_processes { (stage.connections(50), 20) } else { (1, stage.connections(1_000)) };
    let squad = Squad {
        connections,
        requests: stage.requests(5_000, 5_000),
        payload_size: 1024,
        window: 1,
    };
    let work = stage.work(&daemon, cores.client, Task::Echo(vec![squad]));
    let (outcomes, peak) = stage.run(&daemon, &vec![work; processes as usize])?;
    daemon.stop()?;
    show_machine(stage, cores, "after", report)?;

    let sent = u64::from(processes * connections) * squad.requests;
    let answered = outcomes.iter().map(|outcome| outcome.answered).sum();
    let seconds = outcomes.iter().map(|outcome| outcome.seconds).fold(0.0, f64::max);
    hold_nothing_lost(report, sent, answered)?;
    let rate = as_float(answered) / seconds / 1e6;
    let (bar, least) = if many_processes { (">= 1 M msg/s", 1.0) } else { (">= 5 M msg/s", 5.0) };
    let what =
        format!("rate, {processes} processes x {connections} connections, 1 in flight on each");
    report.hold(&what, bar, format!("{rate:.2} M msg/s"), rate >= least);
    hold_below(report, "daemon's PSS, clients' regions in part", 3.0, peak.pss_bytes);
    hold_below(report, "daemon's anonymous memory", 0.6, peak.anon_bytes);
    Ok(())
}

/// Level 2: 500 connections × 1,000 × 4 KiB and 100 × 500 × 1 MiB together.
pub(crate) fn memory_destruction(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let cores = Cores::choose()?;
    let daemon = daemon::start(&stage.annulus, cores)?;
    let small = Squad {
        connections: stage.connections(500),
        requests: stage.requests(1_000, 1_000),
        payload_size: 4 << 10,
        window: 4,
    };
    let large = Squad {
        connections: stage.connections(100),
        requests: stage.requests(500, 50),
        payload_size: 1 << 20,
        window: 1,
    };
    let work = stage.work(&daemon, cores.client, Task::Echo(vec![small, large]));
    let (outcomes, peak) = stage.run(&daemon, &[work])?;
    daemon.stop()?;

    let total = |squad: Squad| u64::from(squad.connections) * squad.requests;
    let answered = outcomes.iter().map(|outcome| outcome.answered).sum();
    hold_nothing_lost(report, total(small) + total(large), answered)?;
    hold_below(report, "daemon's own memory (Pss_Anon + Pss_File)", 3.0, peak.owned_bytes);
    report.show("memory samples", peak.samples.to_string());
    let seconds = outcomes.iter().map(|outcome| outcome.seconds).fold(0.0, f64::max);
    report.show("time", format!("{seconds:.1} s"));
    Ok(())
}

/// Level 3: 999 connections saturate with 4 KiB, one sends 10,000 timed probes of 1 KiB; as many while
/// the 999 rest.
pub(crate) fn latency_torture(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let cores = Cores::choose()?;
    show_machine(stage, cores, "before", report)?;
    let daemon = daemon::start(&stage.annulus, cores)?;
    let squad = Squad {
        connections: stage.connections(999),
        requests: u64::MAX,
        payload_size: 4 << 10,
        window: 4,
    };
    let probes = u32::try_from(stage.requests(10_000, 10_000))?;
    let task = Task::Probe { daemon: daemon.id(), squad, probes };
    let work = stage.work(&daemon, cores.client, task);
    // The memory of a thousand mappings takes milliseconds of a core to read, which a probe would wait.
    let outcomes = run_beside(stage.time_max(), RARE_PERIOD, &[work], || Ok(()))?;
    daemon.stop()?;
    show_machine(stage, cores, "after", report)?;

    let outcome = outcomes.first().ok_or("no client reported")?;
    let (quiet, loaded) = (outcome.quiet, outcome.saturated);
    let slow = |probes: Probes| 100.0 * as_float(probes.slow) / as_float(probes.count.max(1));
    report.show("idle probe: p50, p99.9", format!("{} ns, {} ns", quiet.p50_ns, quiet.p999_ns));
    report.show("idle probe: at or over 10 us", format!("{:.2} %", slow(quiet)));
    report.show("probe: p50", format!("{} ns", loaded.p50_ns));
    let share = slow(loaded);
    report.hold("probe: at or over 10 us", "< 1 %", format!("{share:.2} %"), share < 1.0);
    let above = loaded.p999_ns.saturating_sub(quiet.p999_ns);
    report.hold(
        "probe: p99.9 above the idle one's",
        "< 50 us",
        format!("{above} ns"),
        above < 50_000,
    );
    for (probe, probes) in [("idle probe", quiet), ("probe", loaded)] {
        let what = format!("{probe}: met somebody else on a core; p99.9 of the others");
        report.show(&what, format!("{} x; {} ns", probes.displaced, probes.undisplaced_p999_ns));
    }
    let backlog = 100.0 * as_float(loaded.beside_backlog) / as_float(loaded.count.max(1));
    report.show("probes answered before the backlog", format!("{backlog:.1} %"));
    Ok(())
}

/// Level 4: 120 cycles of 100 to 500 connections with autocomplete, chat and file analysis.
pub(crate) fn leak_detection(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    const CYCLES: u32 = 120;
    let cores = Cores::choose()?;
    let daemon = daemon::start(&stage.annulus, cores)?;
    let quiet = daemon::descriptor_count(&daemon)?;
    let cycles = if stage.divisor == 1 { CYCLES } else { (CYCLES / stage.divisor).max(8) };
    // The first cycles warm up what is made on demand; after the tenth part nothing may grow.
    let settled = (cycles / 10).max(1);
    let progress = Progress::new();
    let (mut owned, mut leaked, mut answered) = (Vec::new(), Vec::new(), 0);
    for cycle in 0..cycles {
        progress.at("cycle", u64::from(cycle), u64::from(cycles));
        // 500 first, so that the first cycle has met all that a later one meets.
        let connections = stage.connections(500 - cycle % 5 * 100);
        let work = stage.work(&daemon, cores.client, Task::Mixed { connections });
        let mut team = Team::start(&[work])?;
        team.begin()?;
        answered += team.outcomes()?.iter().map(|outcome| outcome.answered).sum::<u64>();
        if stage.plant_leak {
            let options = ConnectOptions::new().socket_path(daemon.socket());
            leaked.push(Connection::connect(&options)?);
        }
        if !daemon::drain(&daemon, quiet)? {
            let bar = "all closed after each cycle";
            let open = daemon::descriptor_count(&daemon)?;
            let figure = format!("{open} descriptors instead of {quiet} after cycle {cycle}");
            report.hold("connections", bar, figure, false);
            return Ok(());
        }
        if [0, settled, cycles - 1].contains(&cycle) {
            // These are compared, so all that an idle daemon gives back has to be back.
            thread::sleep(GIVE_BACK_TIME);
            owned.push(Footprint::of_process(daemon.id())?);
        }
    }
    daemon.stop()?;
    drop(progress);

    let &[first, settled, last] = owned.as_slice() else {
        return Err("three cycles are needed".into());
    };
    report.show("cycles, requests", format!("{cycles}, {answered}"));
    report.show("own memory after the first cycle", format!("{} KiB", first.owned_bytes() / KIB));
    let growth = last.owned_bytes().saturating_sub(first.owned_bytes());
    let figure = format!("{} KiB", growth / KIB);
    report.hold(
        "own memory, last cycle above the first",
        "<= 256 KiB",
        figure,
        growth <= GROWTH_MAX,
    );
    let heap = last.pss_anon_bytes.saturating_sub(settled.pss_anon_bytes);
    let figure = format!("{} KiB", heap / KIB);
    report.hold("anonymous memory, last above the settled", "0 KiB", figure, heap == 0);
    Ok(())
}

/// The bare exchange of a cache line between both cores: the machine's own speed and noise.
fn show_machine(
    stage: &Stage,
    cores: Cores,
    when: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let launcher = Launcher::new(&stage.annulus, ["bench-responder".into()]);
    let mut meter = LimitMeter::new(Limit::CacheLine, cores, launcher)?;
    let burst = Burst {
        payload_size: 64,
        warmup_count: 10_000,
        operation_count: 200_000,
        pace: Pace::BackToBack,
        time_max: Duration::from_secs(1),
    };
    let mut samples = Samples::new();
    meter.measure(&burst, &mut samples)?;
    let Summary { p50_ns, p99_ns, p999_ns, .. } = samples.summary();
    let figure = format!("p50 {p50_ns} ns, p99 {p99_ns} ns, p99.9 {p999_ns} ns");
    report.show(&format!("cache line between the cores, {when}"), figure);
    Ok(())
}

/// Holds that every request was answered. One that was not is no missed bar: the level has failed.
pub(crate) fn hold_nothing_lost(
    report: &mut Report,
    sent: u64,
    answered: u64,
) -> Result<(), Failure> {
    let figure = format!("{answered} of {sent}");
    report.hold("good answers", "every one", figure.clone(), answered == sent);
    if answered == sent { Ok(()) } else { Err(format!("good answers: {figure}").into()) }
}

pub(crate) fn hold_below(report: &mut Report, what: &str, megabytes: f64, bytes: u64) {
    let seen = as_float(bytes) / MB;
    report.hold(what, &format!("< {megabytes} MB"), format!("{seen:.2} MB"), seen < megabytes);
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes far below 2^53")]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}
