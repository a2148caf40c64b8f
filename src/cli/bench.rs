//! `annulus bench`: what this machine and this build can do. Everything that measures is in
//! `annulus::bench`; here is only what is asked and what is printed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use annulus::bench::{
    CaseResult, Cores, DaemonBench, DaemonCase, DaemonProcess, Launcher, LimitCase, daemon_cases,
    daemon_settings, limit_cases, result_table, run_limits,
};

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

/// Measure a daemon of our own beside the limits of this machine
///
/// A daemon is started on a private socket and pinned to one core, this process to another. Each
/// case alternates with the bare exchange that it cannot beat: a cache line handed over and back
/// for hot round trips, an eventfd for cold ones. Figures are medians over rounds; a round in which
/// the machine changed is thrown away. Takes less than a minute.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure only cases whose name begins like this; repeatable. There are rtt_hot, rtt_cold,
    /// throughput, and, when asked for, limit: the bare exchanges alone
    #[arg(long = "case", value_name = "NAME")]
    names: Vec<String>,

    /// Rounds that each median is over
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let daemon_cases = chosen_daemon_cases(arguments);
    let limit_cases = chosen_limit_cases(arguments);
    if daemon_cases.is_empty() && limit_cases.is_empty() {
        let names = arguments.names.join(", ");
        return Err(Failure::new(Exit::Usage, format!("there is no case {names}"))
            .advise("there are rtt_hot, rtt_cold, throughput and limit"));
    }
    let cores = Cores::choose()?;
    if cfg!(debug_assertions) {
        session.output.note("note: this is a debug build, its figures mean little");
    }

    let mut report = Report { session, results: Vec::new(), broken: None };
    measure_limits(&mut report, &limit_cases, cores)?;
    if !daemon_cases.is_empty() {
        measure_daemon(&mut report, &daemon_cases, cores)?;
    }
    report.finish()
}

fn measure_limits(
    report: &mut Report<'_>,
    cases: &[LimitCase],
    cores: Cores,
) -> Result<(), Failure> {
    for limit in cases {
        report.begin(&limit.case.name, limit.case.burst.payload_size, 1);
        let (one, launcher) = (std::slice::from_ref(limit), Launcher::this_executable());
        run_limits(one, cores, &launcher, |result| report.end(result))?;
        report.check()?;
    }
    Ok(())
}

fn measure_daemon(
    report: &mut Report<'_>,
    cases: &[DaemonCase],
    cores: Cores,
) -> Result<(), Failure> {
    let daemon = start_daemon(&daemon_settings(cores), DAEMON_LIFE)?;
    let mut bench = DaemonBench::new(&daemon, cores, Launcher::this_executable())?;
    for daemon_case in cases {
        let case = &daemon_case.case;
        report.begin(&case.name, case.burst.payload_size, case.connections);
        report.end(bench.run(daemon_case)?);
        report.check()?;
    }
    daemon.stop()?;
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

fn chosen_daemon_cases(arguments: &Arguments) -> Vec<DaemonCase> {
    let mut cases = daemon_cases();
    cases.retain(|case| arguments.names.is_empty() || arguments.wants(&case.case.name));
    for case in &mut cases {
        case.case.round_count = arguments.rounds;
    }
    cases
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
    results: Vec<CaseResult>,
    /// Why standard output takes no more.
    broken: Option<Failure>,
}

impl Report<'_> {
    fn begin(&self, name: &str, size: usize, connections: u32) {
        if !self.session.output.json || self.session.verbosity() > 0 {
            let plural = if connections == 1 { "" } else { "s" };
            let line = format!("measuring {name}, {size} B, {connections} connection{plural}");
            self.session.output.note(&self.session.output.paint_stderr.dim(&line));
        }
    }

    /// Keeps a result for the table, or writes it out at once.
    fn end(&mut self, result: CaseResult) {
        if self.session.output.json {
            self.broken = self.session.output.line(&result.to_json_line()).err();
        } else {
            self.results.push(result);
        }
    }

    /// Ends the run when nobody reads it any more.
    fn check(&mut self) -> Result<(), Failure> {
        self.broken.take().map_or(Ok(()), Err)
    }

    fn finish(self) -> Result<Exit, Failure> {
        if !self.results.is_empty() {
            self.session.output.raw(table_of(self.session, &self.results)?.as_bytes())?;
        }
        Ok(Exit::Ok)
    }
}

/// The results as a table, and one line that says how to read it.
pub(super) fn table_of(session: &Session, results: &[CaseResult]) -> Result<String, Failure> {
    let mut table = Vec::new();
    result_table(results)
        .write(&mut table, session.output.paint.style())
        .map_err(Failure::io("write", "a table"))?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(names: &[&str]) -> Arguments {
        Arguments { names: names.iter().map(|&name| name.to_owned()).collect(), rounds: 2 }
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
        assert!(!chosen_limit_cases(&arguments(&["limit/eventfd"])).is_empty());
        assert!(chosen_daemon_cases(&arguments(&["", "nothing"])).is_empty());
    }
}
