//! The stage: one daemon under attack, one honest client beside it, and the verdict on each row.

use std::collections::BTreeMap;
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
use super::latency::{WINDOW, compare};
use super::seen::{check_seen, summary};
use super::{Attack, PATIENCE, Seen, Siege, Until};

/// Windows of a siege for each side, and how long each is.
const WINDOWS: usize = 3;
/// Comparisons before a siege counts as lost: other work runs on the same cores.
const ATTEMPTS: usize = 6;

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

struct Row {
    name: &'static str,
    seen: String,
    verdict: Result<String, String>,
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
    fn before(&self, name: &'static str) -> Option<((usize, usize), Counts)> {
        match self.page() {
            Ok(page) => Some((self.daemon.held(), counts(&page))),
            Err(wrong) => {
                self.note(name, &[], Err(format!("not begun: {wrong}")));
                None
            }
        }
    }

    /// Runs each attack and asks after each what became of it.
    pub(crate) fn suffer(&self, attacks: &[Attack]) {
        for attack in attacks {
            println!("... {}", attack.name);
            let Some(before) = self.before(attack.name) else { return };
            let began = Instant::now();
            let ran = catch_unwind(AssertUnwindSafe(|| (attack.run)(self)));
            let took = began.elapsed();
            // The other rows are still worth knowing.
            let (seen, verdict) = match ran {
                Err(_) => (Vec::new(), Err("it panicked, see above".into())),
                Ok(seen) => {
                    let verdict = self.judge(attack.must, &seen, &before.1, before.0);
                    (seen, verdict)
                }
            };
            let verdict = verdict.map(|()| format!("ok, {} ms", took.as_millis()));
            self.note(attack.name, &seen, verdict);
        }
    }

    /// Besieges the daemon and compares the honest client's p99 with that beside a twin.
    pub(crate) fn withstand(&self, sieges: &[Siege]) {
        for siege in sieges {
            println!("... {}", siege.name);
            let Some(before) = self.before(siege.name) else { return };
            let (mut seen, mut twins) = (Vec::new(), Vec::new());
            let mut compared = Err(String::new());
            // Bounded: the first attempt within the bar ends it.
            for attempt in 1..=ATTEMPTS {
                let (mut beside_attack, mut beside_twin) = (Vec::new(), Vec::new());
                for window in 0..2 * WINDOWS {
                    // What the last window left behind is not this one's.
                    self.daemon.wait_until_it_holds(before.0);
                    let _ = self.honest.shared.wait_for_rounds(1);
                    // Attack, twin, twin, attack, …: a drift of the machine meets both alike.
                    let attacking = window % 4 == 0 || window % 4 == 3;
                    self.honest.shared.begin_window();
                    let until = Until::after(WINDOW);
                    if attacking {
                        seen.extend((siege.attack)(self, until));
                    } else {
                        twins.extend((siege.twin)(self, until));
                    }
                    until.rest();
                    let p99 = self.honest.shared.end_window();
                    if attacking { &mut beside_attack } else { &mut beside_twin }.extend(p99);
                }
                compared = compare(&beside_attack, &beside_twin)
                    .map(|text| format!("ok at attempt {attempt}, {text}"));
                if compared.is_ok() {
                    break;
                }
            }
            let well = twins.iter().all(|twin| matches!(twin, Seen::Left | Seen::Served));
            let all: Vec<Seen> = seen.iter().chain(&twins).copied().collect();
            let verdict = check_seen(siege.must, &seen)
                .and_then(|()| if well { Ok(()) } else { Err(format!("twins saw {twins:?}")) })
                .and_then(|()| self.judge(&[], &all, &before.1, before.0))
                .and(compared);
            self.note(siege.name, &seen, verdict);
        }
    }

    fn note(&self, name: &'static str, seen: &[Seen], verdict: Result<String, String>) {
        let seen = summary(seen);
        println!("    {seen}; {}", verdict.as_ref().unwrap_or_else(|wrong| wrong));
        self.rows.lock().unwrap().push(Row { name, seen, verdict });
    }

    /// Everything that must be seen after an attack. An empty `must` leaves that to the caller.
    fn judge(
        &self,
        must: &[Seen],
        seen: &[Seen],
        counts_before: &Counts,
        held: (usize, usize),
    ) -> Result<(), String> {
        if !must.is_empty() {
            check_seen(must, seen)?;
        }
        let mut expected = counts_before.clone();
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
            let of = |counts: &Counts| difference(counts_before, counts);
            return Err(format!("counted {:?}, must be {:?}", of(&counted), of(&expected)));
        }
        let mut holds = self.daemon.held();
        while (holds.0 > held.0 || holds.1 > held.1) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
            holds = self.daemon.held();
        }
        if holds.0 > held.0 || holds.1 > held.1 {
            return Err(format!("held {held:?} descriptors and regions, now {holds:?}"));
        }
        self.honest.shared.wait_for_rounds(1)
    }

    /// Ends the play: prints the table, stops the daemon, and fails if anything was wrong.
    pub(crate) fn finish(mut self) {
        let last = self.page().map(|page| counts(&page)).unwrap_or_default();
        let rounds = self.honest.shared.rounds.load(Ordering::Relaxed);
        let honest = self.honest.stop();
        drop(self.observer);
        let held = self.daemon.held();
        self.daemon.signal(Signal::TERM);
        let (code, said) = self.daemon.exit();
        let file = counts(&std::fs::read_to_string(&self.page).unwrap_or_default());

        let rows = self.rows.into_inner().unwrap();
        println!("\n| attack | seen | verdict |\n|---|---|---|");
        for Row { name, seen, verdict } in &rows {
            let verdict = match verdict {
                Ok(fine) => fine.clone(),
                Err(wrong) => format!("WRONG: {wrong}"),
            };
            println!("| {name} | {seen} | {verdict} |");
        }
        println!("\n{} attacks; the honest client made {rounds} rounds; exit {code:?}", rows.len());
        let wrong: Vec<_> = rows.iter().filter(|row| row.verdict.is_err()).collect();
        let names: Vec<_> = wrong.iter().map(|row| row.name).collect();
        assert!(names.is_empty(), "{names:?}: see the table above");
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
