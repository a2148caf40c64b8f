//! `annulus bench`: what this machine and this build can do. Everything that measures is in
//! `annulus::bench`; here is only what is asked and what is printed.

mod progress;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use annulus::bench::{
    BenchError, Case, CaseResult, Cores, DaemonBench, DaemonCase, DaemonKind, DaemonProcess,
    IN_FLIGHT_SIZE_MAX, Launcher, LimitCase, Machine, PAYLOAD_SIZE_MAX, allow_open_files,
    daemon_cases, daemon_settings, limit_cases, report_page, result_tables, run_limits,
};

use self::progress::Steps;
use super::exit::Exit;
use super::failure::Failure;
use super::interrupt;
use super::session::Session;

/// The running executable, even if its file has been replaced meanwhile.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";

/// The daemon's life when something hangs: several times what all cases need.
const DAEMON_LIFE: Duration = Duration::from_secs(300);

/// What the limits are called together.
const LIMITS: &str = "limit";

/// The kinds of daemon, in the order in which they are started.
const DAEMON_KINDS: [DaemonKind; 3] = [DaemonKind::Pinned, DaemonKind::Free, DaemonKind::Crowded];

/// Measure a daemon of our own beside the limits of this machine
///
/// A daemon is started on a private socket and pinned to one core, this process to another. Each
/// case alternates with the bare exchange that it cannot beat: a cache line handed over and back for
/// hot round trips, eventfds across cores and on one for cold ones (there the daemon places itself),
/// slots of shared memory for throughput. Figures are medians over rounds; a round in which the
/// machine changed is thrown away. Takes about a minute.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure only cases whose name begins like this; repeatable. There are rtt_hot, rtt_cold_block,
    /// rtt_cold_spin, rtt_cold_async, throughput, open (many open connections, few of them active)
    /// and, when asked for, limit: the bare exchanges alone
    #[arg(long = "case", value_name = "NAME")]
    names: Vec<String>,

    /// Rounds that each median is over
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Requests in flight on each connection of throughput and open, instead of what the table shows
    /// for each
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: Option<u32>,

    /// Bytes of payload of the daemon's cases, instead of what the table shows for each: whole words of
    /// 8. Cases that differ in nothing else run once
    #[arg(long, value_name = "BYTES", value_parser = payload_size)]
    size: Option<usize>,

    /// Write a page with latency curves beside those of the limits
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let daemon_cases = chosen_daemon_cases(arguments);
    let limit_cases = chosen_limit_cases(arguments);
    if daemon_cases.is_empty() && limit_cases.is_empty() {
        let names = arguments.names.join(", ");
        return Err(Failure::new(Exit::Usage, format!("there is no case {names}")).advise(
            "there are rtt_hot, rtt_cold_block, rtt_cold_spin, rtt_cold_async, throughput, open \
             and limit",
        ));
    }
    daemon_cases.iter().try_for_each(check_memory)?;
    let cores = Cores::choose()?;
    if cfg!(debug_assertions) {
        session.output.note("note: this is a debug build, its figures mean little");
    }

    let cases = daemon_cases.iter().map(|case| &case.case);
    let rounds = cases.chain(limit_cases.iter().map(|case| &case.case));
    let steps = Steps::new(session, rounds.map(|case| u64::from(case.round_count)).sum());
    let mut report = Report { session, steps, results: Vec::new(), unmeasured: 0 };
    let outcome = measure(&mut report, &limit_cases, &daemon_cases, cores);
    // What was measured before something failed is still true.
    report.finish(arguments.report.as_deref()).and_then(|exit| outcome.map(|()| exit))
}

fn measure(
    report: &mut Report<'_>,
    limit_cases: &[LimitCase],
    daemon_cases: &[DaemonCase],
    cores: Cores,
) -> Result<(), Failure> {
    measure_limits(report, limit_cases, cores)?;
    for kind in DAEMON_KINDS {
        let of_kind = |case: &&DaemonCase| case.load.daemon() == kind;
        let mut cases: Vec<DaemonCase> = daemon_cases.iter().filter(of_kind).cloned().collect();
        // Before their daemon is started, which inherits the limit.
        cases.retain_mut(|case| report.fit(&mut case.case));
        if !cases.is_empty() {
            measure_daemon(report, kind, &cases, cores)?;
        }
    }
    Ok(())
}

fn measure_limits(
    report: &mut Report<'_>,
    cases: &[LimitCase],
    cores: Cores,
) -> Result<(), Failure> {
    for limit in cases {
        report.steps.begin(&limit.case);
        let (one, launcher) = (std::slice::from_ref(limit), Launcher::this_executable());
        let mut result = None;
        let outcome = run_limits(
            one,
            cores,
            &launcher,
            &mut |progress| report.steps.round(progress),
            |measured| result = Some(measured),
        );
        report.end(outcome.and(result.ok_or(BenchError::Noisy { rejected: 0 })))?;
    }
    Ok(())
}

fn measure_daemon(
    report: &mut Report<'_>,
    kind: DaemonKind,
    cases: &[DaemonCase],
    cores: Cores,
) -> Result<(), Failure> {
    let mut settings = daemon_settings(kind, cores);
    if let (DaemonKind::Crowded, Some(open)) = (kind, cases.iter().map(|case| case.case.open).max())
    {
        settings.push(("ipc.max_connections", open.to_string()));
    }
    let daemon = start_daemon(&settings, DAEMON_LIFE)?;
    // It sleeps while the other is measured, and has no crowd.
    let baseline = match kind {
        DaemonKind::Crowded => Some(start_daemon(&settings, DAEMON_LIFE)?),
        DaemonKind::Pinned | DaemonKind::Free => None,
    };
    let mut bench = DaemonBench::new(&daemon, cores, Launcher::this_executable())?;
    if let Some(baseline) = &baseline {
        bench = bench.with_baseline(baseline);
    }
    for daemon_case in cases {
        report.steps.begin(&daemon_case.case);
        let outcome = bench.run(daemon_case, &mut |progress| report.steps.round(progress));
        report.end(outcome)?;
    }
    for daemon in [Some(daemon), baseline].into_iter().flatten() {
        daemon.stop()?;
    }
    Ok(())
}

/// Starts a daemon of our own that leaves nothing behind when the user interrupts us.
pub(super) fn start_daemon(
    settings: &[(&str, String)],
    life: Duration,
) -> Result<DaemonProcess, Failure> {
    let daemon = DaemonProcess::start(Path::new(THIS_PROGRAM), settings, life)?;
    let directory = daemon.directory().to_owned();
    // The daemon itself goes with us; the kernel sees to that.
    interrupt::tidy_up_with(move || drop(fs::remove_dir_all(directory)))?;
    Ok(daemon)
}

/// Each request carries its number in its first and last word.
fn payload_size(text: &str) -> Result<usize, String> {
    let size = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let is_possible = (1..=PAYLOAD_SIZE_MAX).contains(&size) && size.is_multiple_of(8);
    is_possible.then_some(size).ok_or(format!("not a multiple of 8 from 8 to {PAYLOAD_SIZE_MAX}"))
}

fn chosen_daemon_cases(arguments: &Arguments) -> Vec<DaemonCase> {
    let mut chosen: Vec<DaemonCase> = Vec::new();
    for mut case in daemon_cases() {
        if !arguments.names.is_empty() && !arguments.wants(&case.case.name) {
            continue;
        }
        case.case.round_count = arguments.rounds;
        if let (Some(window), true) = (arguments.window, case.load.is_pipelined()) {
            case.case.window = window;
        }
        if let Some(size) = arguments.size {
            case.case.burst.payload_size = size;
        }
        if !chosen.iter().any(|other| is_alike(other, &case)) {
            chosen.push(case);
        }
    }
    chosen
}

fn check_memory(DaemonCase { case, .. }: &DaemonCase) -> Result<(), Failure> {
    let (connections, window, size) = (case.connections, case.window, case.burst.payload_size);
    if u64::from(connections) * u64::from(window) * size as u64 <= IN_FLIGHT_SIZE_MAX as u64 {
        return Ok(());
    }
    let what = format!(
        "{}: {connections} connections with {window} requests of {size} bytes in flight are more than \
         {} MiB",
        case.name,
        IN_FLIGHT_SIZE_MAX >> 20
    );
    Err(Failure::new(Exit::Usage, what).advise("choose a smaller --window or --size"))
}

/// True for cases whose rows in the table would be the same.
fn is_alike(one: &DaemonCase, other: &DaemonCase) -> bool {
    let shown = |DaemonCase { load, case }: &DaemonCase| {
        (*load, case.burst.payload_size, case.connections, case.open, case.window)
    };
    shown(one) == shown(other)
}

fn chosen_limit_cases(arguments: &Arguments) -> Vec<LimitCase> {
    let mut cases = limit_cases();
    cases.retain(|case| {
        debug_assert!(case.case.name.starts_with(LIMITS));
        arguments.wants(&case.case.name)
    });
    for case in &mut cases {
        case.case.round_count = arguments.rounds;
    }
    cases
}

impl Arguments {
    fn wants(&self, case: &str) -> bool {
        self.names.iter().any(|name| !name.is_empty() && case.starts_with(name.as_str()))
    }
}

/// Tells what is measured and what came out.
struct Report<'s> {
    session: &'s Session,
    steps: Steps<'s>,
    results: Vec<CaseResult>,
    /// Cases for which the machine was too restless, or has not the means.
    unmeasured: u32,
}

impl Report<'_> {
    /// Makes a case's crowd as small as the system wants it; false when nothing of it fits. Says so.
    fn fit(&self, case: &mut Case) -> bool {
        let (wanted, outcome) = (case.open, allow_open_files(case));
        let name = &case.name;
        match outcome {
            Ok(None) => true,
            Ok(Some(limit)) => {
                let open = case.open;
                self.steps.note(&format!("note: {name} with {open} open, not {wanted}: {limit}"));
                true
            }
            Err(error) => {
                self.steps.note(&format!("skipped: {name} with {wanted} open: {error}"));
                false
            }
        }
    }

    /// Keeps a result, and writes it out at once for a machine. A restless machine ends only the
    /// case.
    fn end(&mut self, outcome: Result<CaseResult, BenchError>) -> Result<(), Failure> {
        self.steps.end();
        match outcome {
            Ok(result) => {
                if self.session.output.json {
                    self.session.output.line(&result.to_json_line())?;
                }
                self.results.push(result);
            }
            Err(error) if error.ends_only_its_case() => {
                self.unmeasured += 1;
                self.steps.note(&format!("annulus: not measured: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn finish(self, page: Option<&Path>) -> Result<Exit, Failure> {
        let Self { session, steps, results, unmeasured } = self;
        drop(steps);
        if !results.is_empty() {
            if !session.output.json {
                session.output.raw(table_of(session, &results)?.as_bytes())?;
            }
            if let Some(page) = page {
                fs::write(page, report_page(&results, &Machine::of_this()))
                    .map_err(Failure::io("write", page.display()))?;
            }
        }
        Ok(if unmeasured == 0 { Exit::Ok } else { Exit::Failed })
    }
}

/// The results as tables, with a blank line between them.
pub(super) fn table_of(session: &Session, results: &[CaseResult]) -> Result<String, Failure> {
    let mut text = Vec::new();
    for (index, table) in result_tables(results).iter().enumerate() {
        if index > 0 {
            text.push(b'\n');
        }
        table
            .write(&mut text, session.output.paint.style())
            .map_err(Failure::io("write", "a table"))?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use annulus::bench::Load;

    use super::*;

    fn arguments(names: &[&str]) -> Arguments {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Arguments { names, rounds: 2, window: None, size: None, report: None }
    }

    #[test]
    fn without_names_every_daemon_case_is_measured_and_no_limit_alone() {
        let all = arguments(&[]);
        assert_eq!(chosen_daemon_cases(&all).len(), daemon_cases().len());
        assert!(chosen_limit_cases(&all).is_empty());
    }

    #[test]
    fn a_name_chooses_what_begins_like_it() {
        let hot = arguments(&["rtt_hot"]);
        let chosen = chosen_daemon_cases(&hot);
        assert!(!chosen.is_empty() && chosen.iter().all(|case| case.case.name == "rtt_hot"));
        assert!(chosen.iter().all(|case| case.case.round_count == 2));
        assert_eq!(chosen_daemon_cases(&arguments(&["rtt_cold"])).len(), 3);
        assert!(!chosen_limit_cases(&arguments(&["limit/eventfd"])).is_empty());
        assert!(chosen_daemon_cases(&arguments(&["", "nothing"])).is_empty());
    }

    #[test]
    fn a_window_is_for_loads_alone() {
        let narrow = Arguments { window: Some(3), ..arguments(&[]) };
        for DaemonCase { load, case } in chosen_daemon_cases(&narrow) {
            assert_eq!(case.window, if load.is_pipelined() { 3 } else { 1 });
        }
    }

    #[test]
    fn a_size_is_for_every_case_and_what_is_alike_runs_once() {
        let long = Arguments { size: Some(992), ..arguments(&[]) };
        let chosen = chosen_daemon_cases(&long);
        assert!(chosen.iter().all(|case| case.case.burst.payload_size == 992));
        let count = |load| chosen.iter().filter(|case| case.load == load).count();
        assert_eq!((count(Load::Hot), count(Load::Pipelined)), (1, 4));
        assert_eq!(chosen_daemon_cases(&arguments(&[])).len(), daemon_cases().len());
    }

    #[test]
    fn what_would_take_too_much_memory_is_refused() {
        let chosen = |window, size| {
            let case = Arguments { window: Some(window), size, ..arguments(&[]) };
            chosen_daemon_cases(&case).iter().all(|case| check_memory(case).is_ok())
        };
        assert!(chosen(64, None) && chosen(64, Some(PAYLOAD_SIZE_MAX)));
        assert!(!chosen(1024, Some(PAYLOAD_SIZE_MAX)));
    }

    #[test]
    fn a_size_that_cannot_be_stamped_is_refused() {
        assert_eq!(payload_size("8"), Ok(8));
        assert_eq!(payload_size("4096"), Ok(PAYLOAD_SIZE_MAX));
        for bad in ["", "x", "-8", "0", "12", "4104"] {
            assert!(payload_size(bad).is_err(), "{bad}");
        }
    }
}
