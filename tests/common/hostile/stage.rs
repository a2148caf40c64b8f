//! The stage: one daemon under attack, one honest client beside it, and the verdict on each row.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{Connection, RequestOptions};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::Daemon;

use super::honest::{HONEST_DEADLINE, Honest};
use super::latency::{Clock, Compared};
use super::seen::{check_seen, summary};
use super::{Again, Attack, PATIENCE, Runs, Seen, Siege, Until};

/// How long one run of a siege is.
const SIEGE: Duration = Duration::from_millis(130);

/// The daemon's counts of faults and of connections that ended, by name.
type Counts = BTreeMap<String, u64>;

/// One daemon under attack, and who else is there.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    honest: Honest,
    observer: Mutex<Connection>,
    page: PathBuf,
    rows: Mutex<Vec<Row>>,
    at_start: (usize, usize),
    _home: TempDir,
}

/// What the daemon held and had counted before an attack.
struct Before {
    held: (usize, usize),
    counts: Counts,
}

struct Row {
    name: &'static str,
    seen: String,
    verdict: Result<Fine, String>,
}

/// What there is to say of a row that is as it must be.
struct Fine {
    /// How long the first run took, if that is not fixed.
    took: Option<Duration>,
    /// `None` when this machine has not what it takes.
    compared: Option<Compared>,
}

impl Row {
    fn compared(&self) -> Option<&Compared> {
        self.verdict.as_ref().ok()?.compared.as_ref()
    }
}

impl fmt::Display for Fine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ok")?;
        if let Some(took) = self.took {
            write!(f, ", {} ms", took.as_millis())?;
        }
        match &self.compared {
            Some(compared) => write!(f, ", {compared}"),
            None => f.write_str(", not timed"),
        }
    }
}

impl Stage {
    /// Starts a daemon with these settings, and an honest client beside it.
    pub(crate) fn new(settings: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let page = home.path().join("annulus.prom");
        let export = format!("metrics.export_path={}", page.display());
        let mut settings = settings.to_vec();
        settings.push(&export);
        let daemon = Daemon::start(&settings);
        let observer = Mutex::new(daemon.connect());
        let honest = Honest::start(daemon.options());
        honest.shared.wait_for_rounds(2).unwrap();
        let at_start = daemon.held();
        let rows = Mutex::default();
        Self { daemon, honest, observer, page, rows, at_start, _home: home }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    /// The daemon's metrics page.
    fn page(&self) -> Result<String, String> {
        let mut answer = Vec::new();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let options = RequestOptions::within(HONEST_DEADLINE);
        observer
            .call_with(MessageType::METRICS, b"", options, &mut answer)
            .map_err(|error| format!("the daemon does not answer: {error}"))?;
        Ok(String::from_utf8(answer).unwrap())
    }

    /// What the daemon holds and has counted. `None`, with a note, when it does not answer: then
    /// there is no use in going on.
    fn before(&self, name: &'static str) -> Option<Before> {
        match self.look() {
            Ok(before) => Some(before),
            Err(wrong) => {
                self.note(name, &[], Err(format!("not begun: {wrong}")));
                None
            }
        }
    }

    fn look(&self) -> Result<Before, String> {
        let counts = counts(&self.page()?);
        Ok(Before { held: self.daemon.held(), counts })
    }

    /// Runs each attack, asks what became of it, and compares its cost with that of its twin.
    pub(crate) fn suffer(&self, attacks: &[Attack]) {
        for attack in attacks.iter().filter(|attack| is_chosen(attack.name)) {
            println!("... {}", attack.name);
            let Some(before) = self.before(attack.name) else { return };
            let began = Instant::now();
            let ran = catch_unwind(AssertUnwindSafe(|| (attack.run)(self)));
            let took = began.elapsed();
            // The other rows are still worth knowing.
            let (seen, verdict) = match ran {
                Err(_) => (Vec::new(), Err("it panicked, see above".into())),
                Ok(seen) => {
                    let verdict = check_seen(attack.must, &seen)
                        .and_then(|()| self.judge(&seen, &before))
                        .and_then(|()| self.time(attack, Runs::NONE.and(&seen, took)))
                        .map(|compared| Fine { took: Some(took), compared });
                    (seen, verdict)
                }
            };
            self.note(attack.name, &seen, verdict);
        }
    }

    /// Besieges the daemon, and compares the cost with that of a twin.
    pub(crate) fn withstand(&self, sieges: &[Siege]) {
        for siege in sieges.iter().filter(|siege| is_chosen(siege.name)) {
            println!("... {}", siege.name);
            let Some(before) = self.before(siege.name) else { return };
            let attack = || {
                let until = Until::after(SIEGE);
                let seen = (siege.attack)(self, until);
                until.rest();
                seen
            };
            let twin = || {
                let until = Until::after(SIEGE);
                let seen = (siege.twin)(self, until);
                until.rest();
                seen
            };
            let (seen, compared) =
                self.compare(siege.must, &before, (Again::AtOnce, SIEGE), attack, twin);
            let fine = |compared| Fine { took: None, compared: Some(compared) };
            self.note(siege.name, &seen, compared.map(fine));
        }
    }

    /// Repeats an attack that was as it must be. `None` when there is nothing to repeat.
    fn time(&self, attack: &Attack, first: Runs) -> Result<Option<Compared>, String> {
        if first.are_idle() {
            return Ok(None);
        }
        let before = self.look()?;
        let runs = Cell::new(first);
        let again = || {
            let began = Instant::now();
            let seen = (attack.run)(self);
            runs.set(runs.get().and(&seen, began.elapsed()));
            seen
        };
        let twin = || (attack.timed.twin)(self, runs.get().one());
        let how = (attack.timed.again, first.time());
        self.compare(attack.must, &before, how, again, twin).1.map(Some)
    }

    /// Compares the honest client's p99 beside an attack and beside its twin, and judges what both
    /// saw in all windows. Gives what the attackers saw.
    fn compare(
        &self,
        must: &[Seen],
        before: &Before,
        (again, run): (Again, Duration),
        attack: impl Fn() -> Vec<Seen>,
        twin: impl Fn() -> Vec<Seen>,
    ) -> (Vec<Seen>, Result<Compared, String>) {
        let (mut seen, mut twins) = (Vec::new(), Vec::new());
        let settle = || self.daemon.wait_until_it_holds(before.held);
        let clock = Clock { honest: &self.honest.shared, settle: &settle, again };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            clock.compare(run, || seen.extend(attack()), || twins.extend(twin()))
        }));
        let Ok(compared) = ran else {
            return (seen, Err("it panicked while it was timed, see above".into()));
        };
        let well = |twin: &Seen| matches!(twin, Seen::Left | Seen::Served);
        let all: Vec<Seen> = seen.iter().chain(&twins).copied().collect();
        let verdict = check_seen(must, &seen)
            .and_then(|()| match twins.iter().all(well) {
                true => self.judge(&all, before),
                false => Err(format!("twins saw {}", summary(&twins))),
            })
            .and(compared);
        (seen, verdict)
    }

    fn note(&self, name: &'static str, seen: &[Seen], verdict: Result<Fine, String>) {
        let seen = summary(seen);
        match &verdict {
            Ok(fine) => println!("    {seen}; {fine}"),
            Err(wrong) => println!("    {seen}; {wrong}"),
        }
        self.rows.lock().unwrap().push(Row { name, seen, verdict });
    }

    /// Whether the daemon has counted what was seen and nothing else, holds no more than before,
    /// and serves the honest client.
    fn judge(&self, seen: &[Seen], before: &Before) -> Result<(), String> {
        let mut expected = before.counts.clone();
        for seen in seen {
            let names = [seen.fault().map(|it| ("fault", it)), seen.reason().map(|it| ("end", it))];
            for (kind, name) in names.into_iter().flatten() {
                *expected.entry(format!("{kind} {name}")).or_default() += 1;
            }
        }
        let total = |counts: &Counts| counts.values().sum::<u64>();
        let mut counted = counts(&self.page()?);
        let patience = Instant::now() + PATIENCE;
        while total(&counted) < total(&expected) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
            counted = counts(&self.page()?);
        }
        if counted != expected {
            let of = |counts: &Counts| difference(&before.counts, counts);
            return Err(format!("counted {:?}, must be {:?}", of(&counted), of(&expected)));
        }
        let mut holds = self.daemon.held();
        while (holds.0 > before.held.0 || holds.1 > before.held.1) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
            holds = self.daemon.held();
        }
        if holds.0 > before.held.0 || holds.1 > before.held.1 {
            return Err(format!("held {:?} descriptors and regions, now {holds:?}", before.held));
        }
        self.honest.shared.wait_for_rounds(1)
    }

    /// Ends the play: prints the table, fails if a row is wrong, stops the daemon, and fails if anything
    /// else was wrong.
    pub(crate) fn finish(mut self) {
        // First of all, because a daemon that hangs does not stop.
        let rows = std::mem::take(self.rows.get_mut().unwrap());
        print_table(&rows);
        let wrong: Vec<_> = rows.iter().filter(|row| row.verdict.is_err()).collect();
        let names: Vec<_> = wrong.iter().map(|row| row.name).collect();
        assert!(names.is_empty(), "{names:?}: see the table above");

        let last = self.page().map(|page| counts(&page)).unwrap_or_default();
        let rounds = self.honest.shared.rounds.load(Ordering::Relaxed);
        let honest = self.honest.stop();
        drop(self.observer);
        // Ours have left of their own will, and not because the daemon stopped.
        self.daemon.wait_until_it_holds((self.at_start.0, 0));
        let held = self.daemon.held();
        self.daemon.signal(Signal::TERM);
        let (code, said) = self.daemon.exit();
        let file = counts(&std::fs::read_to_string(&self.page).unwrap_or_default());
        println!("the honest client made {rounds} rounds; exit {code:?}");
        assert_eq!(honest, Ok(()), "the honest client");
        assert!(held.0 <= self.at_start.0 && held.1 <= self.at_start.1, "{held:?} held at the end");
        assert_eq!(code, Some(0), "the daemon's exit: {said}");
        assert!(!said.contains("panic"), "{said}");
        // Our own connections leave after the last look.
        let same = |counts: &Counts| {
            let mut counts = counts.clone();
            counts.remove("end client_left");
            counts
        };
        assert_eq!(same(&file), same(&last), "the metrics file and the page");
    }
}

fn print_table(rows: &[Row]) {
    println!("\n| attack | seen | verdict |\n|---|---|---|");
    for Row { name, seen, verdict } in rows {
        let verdict = match verdict {
            Ok(fine) => fine.to_string(),
            Err(wrong) => format!("WRONG: {wrong}"),
        };
        println!("| {name} | {seen} | {verdict} |");
    }
    let all: Vec<_> = rows.iter().filter_map(Row::compared).collect();
    let ratio = all.iter().map(|one| one.ratio).fold(0.0, f64::max);
    let (more, most) = all.iter().fold((0, 0), |(more, most), one| {
        (more + usize::from(one.attempt > 1), most.max(one.attempt))
    });
    println!(
        "\n{} attacks; {} timed: at most {ratio:.2} ×; {more} at a later attempt, the {most}th at most",
        rows.len(),
        all.len()
    );
}

/// Faults and ends on a metrics page.
fn counts(page: &str) -> Counts {
    let kinds = [
        ("annulus_faults_total{fault=\"", "fault"),
        ("annulus_connections_closed_total{reason=\"", "end"),
    ];
    page.lines()
        .filter_map(|line| {
            let (kind, rest) =
                kinds.iter().find_map(|(start, kind)| Some((kind, line.strip_prefix(start)?)))?;
            let (name, value) = rest.split_once("\"} ")?;
            Some((format!("{kind} {name}"), value.parse().ok()?))
        })
        .collect()
}

fn difference(before: &Counts, after: &Counts) -> Counts {
    let grown = |(name, count): (&String, &u64)| {
        let grown = count - before.get(name).copied().unwrap_or_default().min(*count);
        (grown > 0).then(|| (name.clone(), grown))
    };
    after.iter().filter_map(grown).collect()
}

/// False for the rows that `ANNULUS_ROWS` leaves out: tools/canaries asks only those that must find a
/// bug.
fn is_chosen(name: &str) -> bool {
    std::env::var("ANNULUS_ROWS").map_or(true, |rows| rows.split('|').any(|row| row == name))
}
