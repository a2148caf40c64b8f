//! The stage of the hostile peer suite: one daemon, one honest client at work, attacks one by one.
//!
//! An attack is a row: a name, a function that does it, and what the offender may see. It reports
//! what each connection that it opened was told; the harness holds that against the row, and against
//! what the daemon counted, what the daemon still holds, and what the honest client met.
//!
//! The invariant to remember: every connection that an attack opens is one entry of what it
//! reports, because the daemon's counts are compared for equality.
#![allow(dead_code, reason = "each theme uses its own part")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{ConnectOptions, Connection, RequestOptions};
use annulus::region::{Region, RegionLayout};
use annulus::ring::{Consumer, Producer, PublishError};
use annulus::sync::AtomicU64 as Word;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{
    Features, FrameHeader, Goodbye, Hello, Position, Status, WELCOME_SIZE, Welcome,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;
use tempfile::TempDir;
use zerocopy::IntoBytes as _;

use crate::common::{Daemon, send_with_descriptors};

/// What must come comes within this. Shorter than elsewhere: one wrong row waits several times.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of each ring of an offender, unless it asks for others.
pub(crate) const CAPACITY: u64 = 1 << 16;
/// How long an honest request may take before it counts as failed.
const HONEST_DEADLINE: Duration = Duration::from_secs(10);
/// How much worse than beside a well-behaved client the honest client's p99 may be.
const RATIO_MAX: f64 = 3.0;
/// Windows of a siege for each side, and how long each is.
const WINDOWS: usize = 3;
const WINDOW: Duration = Duration::from_millis(130);
/// Comparisons before a siege counts as lost: other work runs on the same cores.
const ATTEMPTS: usize = 6;

/// What one connection of an attack saw in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A Welcome with this status, and this fault.
    Refused(Status, Option<&'static str>),
    /// A Goodbye with this status, and this fault.
    Closed(Status, Option<&'static str>),
    /// A hang-up without a word.
    HungUp,
    /// It was served like anybody, and left.
    Served,
    /// Its request was answered with this status; it left.
    Answered(Status),
    /// It left, or died, without waiting for anything.
    Left,
    /// It left, or died, before its handshake was over.
    LeftEarly,
    /// Nothing happened for as long as the test has patience.
    Silent,
    /// This machine has not what it takes.
    Skipped(&'static str),
}

/// Closed for this fault.
pub(crate) const fn fault(name: &'static str) -> Seen {
    Seen::Closed(Status::Fault, Some(name))
}

/// Refused for this fault.
pub(crate) const fn refused(name: &'static str) -> Seen {
    Seen::Refused(Status::Fault, Some(name))
}

/// Refused for what it brought.
pub(crate) const fn region_refused(name: &'static str) -> Seen {
    Seen::Refused(Status::RegionRefused, Some(name))
}

impl Seen {
    /// The fault that the daemon counts for it.
    fn fault(self) -> Option<&'static str> {
        match self {
            Self::Refused(_, fault) | Self::Closed(_, fault) => fault,
            Self::LeftEarly => Some("handshake_cut"),
            _ => None,
        }
    }

    /// The reason under which the daemon counts the end of the connection.
    fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Refused(Status::Busy, _) => "refused_busy",
            Self::Refused(..) | Self::LeftEarly => "refused_handshake",
            Self::Closed(Status::Fault, _) => "fault",
            Self::Closed(Status::MessageTooLarge, _) => "too_large",
            Self::Closed(Status::IdleTimeout, _) => "idle",
            Self::Closed(..) => "shutdown",
            Self::HungUp | Self::Served | Self::Answered(_) | Self::Left => "client_left",
            Self::Silent | Self::Skipped(_) => return None,
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status, None) => write!(f, "refused: {status}"),
            Self::Refused(status, Some(fault)) => write!(f, "refused: {status}, {fault}"),
            Self::Closed(status, None) => write!(f, "closed: {status}"),
            Self::Closed(status, Some(fault)) => write!(f, "closed: {status}, {fault}"),
            Self::HungUp => f.write_str("hung up"),
            Self::Served => f.write_str("served"),
            Self::Answered(status) => write!(f, "answered: {status}"),
            Self::Left => f.write_str("left"),
            Self::LeftEarly => f.write_str("left early: handshake_cut"),
            Self::Silent => f.write_str("NOTHING HAPPENED"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// One attack that is over at once.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Stage) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
}

/// One attack that goes on for a while, beside which latency is measured.
pub(crate) struct Siege {
    pub(crate) name: &'static str,
    pub(crate) attack: fn(&Stage, Until) -> Vec<Seen>,
    /// A well-behaved client that works as much in the attacker's place.
    pub(crate) twin: fn(&Stage, Until) -> Vec<Seen>,
    /// What each offender may see.
    pub(crate) must: &'static [Seen],
}

/// When a siege's window is over.
#[derive(Clone, Copy)]
pub(crate) struct Until(Instant);

impl Until {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn goes_on(self) -> bool {
        Instant::now() < self.0
    }

    /// Does nothing for the rest of the window.
    pub(crate) fn rest(self) {
        thread::sleep(self.0.saturating_duration_since(Instant::now()));
    }
}

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
        for siege in sieges.iter().filter(|siege| is_chosen(siege.name)) {
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

/// False for the rows that `ANNULUS_ROWS` leaves out: tools/canaries asks only those that must find a
/// bug.
fn is_chosen(name: &str) -> bool {
    std::env::var("ANNULUS_ROWS").map_or(true, |rows| rows.split('|').any(|row| row == name))
}

fn check_seen(must: &[Seen], seen: &[Seen]) -> Result<(), String> {
    if seen.is_empty() {
        return Err("nobody reported anything".into());
    }
    let may = |seen: &&Seen| must.contains(seen) || matches!(seen, Seen::Skipped(_));
    match seen.iter().find(|seen| !may(seen)) {
        None => Ok(()),
        Some(other) => Err(format!("somebody saw \"{other}\"")),
    }
}

/// `3 × refused: …` for each different thing that was seen.
fn summary(seen: &[Seen]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for seen in seen {
        *counts.entry(seen.to_string()).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(seen, count)| if count == 1 { seen } else { format!("{count} × {seen}") })
        .collect();
    parts.join("; ")
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

/// p99 of the honest client's echoes and heartbeats in one window, in nanoseconds.
type Latency = [u64; 2];

fn compare(beside_attack: &[Latency], beside_twin: &[Latency]) -> Result<String, String> {
    let median = |windows: &[Latency], which: usize| {
        let mut values: Vec<u64> = windows.iter().map(|window| window[which]).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(u64::MAX)
    };
    let mut texts = Vec::new();
    let mut worst = 0.0_f64;
    let long = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
    if (0..2).any(|which| median(beside_twin, which) >= long) {
        // Beside such a twin nothing could fail.
        return Err("the honest client got nothing done beside the twin".into());
    }
    for (which, name) in ["echo", "heartbeat"].into_iter().enumerate() {
        let (attack, twin) = (median(beside_attack, which), median(beside_twin, which));
        let micros = |nanos: u64| nanos / 1000;
        texts.push(format!(
            "{name} p99 {} µs, beside the twin {} µs",
            micros(attack),
            micros(twin)
        ));
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test")]
        let ratio = attack as f64 / twin.max(1) as f64;
        worst = worst.max(ratio);
    }
    let text = format!("{} ({worst:.2} ×)", texts.join("; "));
    if worst <= RATIO_MAX { Ok(text) } else { Err(text) }
}

/// A client that does what clients do, for the whole run, and minds every error.
struct Honest {
    shared: Arc<HonestShared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

#[derive(Default)]
struct HonestShared {
    stop: AtomicBool,
    over: AtomicBool,
    /// Rounds so far: each has something of everything.
    rounds: AtomicU64,
    /// Nanoseconds of each echo and each heartbeat of this window.
    samples: Mutex<[Vec<u64>; 2]>,
}

impl Honest {
    fn start(options: ConnectOptions) -> Self {
        let shared = Arc::new(HonestShared::default());
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let done = ours.work(&options);
            ours.over.store(true, Ordering::Relaxed);
            done
        });
        Self { shared, thread: Some(thread) }
    }

    fn stop(&mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => Err("it panicked".into()),
            None => Ok(()),
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

impl HonestShared {
    /// Bounded by `stop`; every request by its deadline.
    fn work(&self, options: &ConnectOptions) -> Result<(), String> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: annulus::IpcError| format!("{what}: {error}")
        };
        let mut connection = Connection::connect(options).map_err(failed("connect"))?;
        let mut answer = Vec::new();
        let prompt = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"maxTokens":4}"#;
        // Scratch is 64 KiB, so the largest one needs a buffer of the pool.
        let payloads: Vec<Vec<u8>> = [64, 5_000, 70_000]
            .map(|size| (0..size).map(|index| (index % 251) as u8).collect())
            .into();
        let mut call = |message_type, payload: &[u8], answer: &mut Vec<u8>| {
            let options = RequestOptions::within(HONEST_DEADLINE);
            let began = Instant::now();
            connection
                .call_with(message_type, payload, options, answer)
                .map(|()| u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
        };
        while !self.stop.load(Ordering::Relaxed) {
            for payload in &payloads[1..] {
                let what = format!("an echo of {} bytes", payload.len());
                call(MessageType::ECHO, payload, &mut answer).map_err(failed(&what))?;
                if answer != *payload {
                    return Err(format!("{what} came back changed"));
                }
            }
            call(MessageType::COMPLETE, prompt, &mut answer).map_err(failed("complete"))?;
            for _ in 0..12 {
                for _ in 0..2 {
                    let took = call(MessageType::ECHO, &payloads[0], &mut answer)
                        .map_err(failed("an echo"))?;
                    if answer != payloads[0] {
                        return Err("an echo came back changed".into());
                    }
                    self.samples.lock().unwrap()[0].push(took);
                }
                let took = call(MessageType::HEARTBEAT, b"", &mut answer)
                    .map_err(failed("a heartbeat"))?;
                self.samples.lock().unwrap()[1].push(took);
                thread::sleep(Duration::from_micros(50));
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn begin_window(&self) {
        *self.samples.lock().unwrap() = Default::default();
    }

    /// The window's p99, or nothing when too little was measured to have one.
    fn end_window(&self) -> Option<Latency> {
        let mut samples = std::mem::take(&mut *self.samples.lock().unwrap());
        let p99 = |samples: &mut Vec<u64>| {
            samples.sort_unstable();
            samples.get((samples.len() * 99 / 100).min(samples.len().saturating_sub(1))).copied()
        };
        let [echoes, heartbeats] = &mut samples;
        // Note: a window without one answer is as slow as the window is long.
        let long = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        Some([p99(echoes).unwrap_or(long), p99(heartbeats).unwrap_or(long)])
    }

    /// Waits until the honest client has done all that it does so many times more.
    fn wait_for_rounds(&self, count: u64) -> Result<(), String> {
        let goal = self.rounds.load(Ordering::Relaxed) + count;
        let patience = Instant::now() + PATIENCE;
        while self.rounds.load(Ordering::Relaxed) < goal {
            if self.over.load(Ordering::Relaxed) || Instant::now() >= patience {
                return Err("the honest client met an error or was starved".into());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}

/// What an offender brings to its handshake.
pub(crate) struct Gifts {
    pub(crate) region: OwnedFd,
    pub(crate) request_doorbell: OwnedFd,
    pub(crate) response_doorbell: OwnedFd,
}

impl Gifts {
    /// What an honest client brings for two rings of this capacity, and its mapping.
    pub(crate) fn honest(request_capacity: u64, response_capacity: u64) -> (Region, Self) {
        let layout = RegionLayout::new(request_capacity, response_capacity);
        let (mapped, region) = Region::create(layout).unwrap();
        let (request_doorbell, response_doorbell) = (bell(), bell());
        (mapped, Self { region, request_doorbell, response_doorbell })
    }

    pub(crate) fn all(&self) -> [BorrowedFd<'_>; 3] {
        [self.region.as_fd(), self.request_doorbell.as_fd(), self.response_doorbell.as_fd()]
    }
}

pub(crate) fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// A Hello that the daemon accepts, for rings of [`CAPACITY`].
pub(crate) fn hello() -> Hello {
    Hello::new(CAPACITY, CAPACITY, 1, Features::empty())
}

pub(crate) fn connect(stage: &Stage) -> UnixStream {
    let socket = UnixStream::connect(stage.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a Hello with three descriptors and gives what the daemon says.
pub(crate) fn offer(stage: &Stage, hello: &Hello, gifts: &Gifts) -> Seen {
    let socket = connect(stage);
    send_with_descriptors(&socket, hello.as_bytes(), &gifts.all());
    answer(&socket)
}

/// What a Welcome says; served means that it was one.
pub(crate) fn answer(mut socket: &UnixStream) -> Seen {
    let mut bytes = [0; WELCOME_SIZE];
    match socket.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => return Seen::Silent,
        Err(_) => return Seen::HungUp,
    }
    let welcome = Welcome::decode(&bytes).unwrap();
    match Status::from_wire(welcome.status) {
        Status::Ok => Seen::Served,
        status => Seen::Refused(status, welcome.fault_name()),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A client past its handshake that owns its descriptors and its memory.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    pub(crate) region: Region,
    pub(crate) gifts: Gifts,
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    pub(crate) welcome: Welcome,
    /// Polls without ever sleeping, as an attacker does that wants all of a core.
    pub(crate) spins: bool,
}

impl Peer {
    pub(crate) fn connect(stage: &Stage) -> Self {
        Self::with(stage, CAPACITY, Features::empty())
    }

    pub(crate) fn with(stage: &Stage, capacity: u64, features: Features) -> Self {
        Self::at(&stage.socket(), capacity, features)
    }

    pub(crate) fn at(socket: &std::path::Path, capacity: u64, features: Features) -> Self {
        let (region, gifts) = Gifts::honest(capacity, capacity);
        Self::bringing(socket, region, gifts, features)
    }

    pub(crate) fn bringing(
        socket: &std::path::Path,
        region: Region,
        gifts: Gifts,
        features: Features,
    ) -> Self {
        let layout = region.layout();
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (request, response) = (layout.request_capacity(), layout.response_capacity());
        let hello = Hello::new(request, response, 1, features);
        send_with_descriptors(&socket, hello.as_bytes(), &gifts.all());
        let mut bytes = [0; WELCOME_SIZE];
        (&socket).read_exact(&mut bytes).unwrap();
        let welcome = Welcome::decode(&bytes).unwrap();
        assert_eq!(welcome.status, 0, "{:?}", welcome.fault_name());
        let checked = features.contains(Features::PAYLOAD_CHECK);
        let producer = Producer::new(layout.request_home(), checked);
        let consumer = Consumer::new(layout.response_home(), checked);
        Self { socket, region, gifts, producer, consumer, welcome, spins: false }
    }

    /// A peer whose handshake was made by hand.
    pub(crate) fn welcomed(socket: UnixStream, region: Region, gifts: Gifts) -> Self {
        let layout = region.layout();
        let producer = Producer::new(layout.request_home(), false);
        let consumer = Consumer::new(layout.response_home(), false);
        let welcome = Welcome::refusal(Status::Ok);
        Self { socket, region, gifts, producer, consumer, welcome, spins: false }
    }

    /// The word at a file offset.
    pub(crate) fn word(&self, offset: u64) -> &Word {
        &self.region.words()[usize::try_from(offset / 8).unwrap()]
    }

    /// The word of one line of the shared header.
    pub(crate) fn line(&self, line: u64) -> &Word {
        self.word(self.region.layout().header_offset() + 64 * line)
    }

    /// File offset of a position in the request ring.
    pub(crate) fn request_offset(&self, position: Position) -> u64 {
        let layout = self.region.layout();
        layout.request_offset() + position.0 % layout.request_capacity()
    }

    /// Publishes a frame as it should be; false when the ring is full.
    pub(crate) fn publish(&mut self, header: FrameHeader, payload: &[u8]) -> bool {
        let ring = self.region.view().request_ring();
        match self.producer.publish(ring, header, payload) {
            Ok(()) => true,
            Err(PublishError::Full) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// Publishes a request and rings if the daemon is parked.
    pub(crate) fn send(&mut self, message_type: MessageType, id: u64, payload: &[u8]) {
        let sent = self.try_send(message_type, id, payload);
        assert!(sent, "the request ring is full");
    }

    pub(crate) fn try_send(&mut self, message_type: MessageType, id: u64, payload: &[u8]) -> bool {
        let sent = self.publish(FrameHeader::request(message_type, id), payload);
        self.notify();
        sent
    }

    /// Publishes these words, whatever they are, at a position of the request ring.
    pub(crate) fn put(&self, position: Position, words: [u64; 4]) {
        let at = self.request_offset(position);
        for (index, word) in (0_u64..).zip(words).skip(1) {
            self.word(at + 8 * index).store(word, Relaxed);
        }
        self.word(at).store(words[0], Release);
        self.notify();
    }

    /// Seals a header for the tail and publishes it, without a payload and without moving the tail.
    pub(crate) fn put_sealed(&self, header: FrameHeader) {
        let tail = self.producer.tail();
        self.put(tail, header.sealed(tail));
    }

    pub(crate) fn notify(&self) {
        if self.region.view().daemon_parked().take() {
            self.ring();
        }
    }

    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.gifts.request_doorbell, &1_u64.to_ne_bytes());
    }

    /// The next frame of an answer, if one comes in time.
    pub(crate) fn receive(&mut self, within: Duration) -> Option<(FrameHeader, Vec<u8>)> {
        let until = Until::after(within);
        let mut polls = 0_u32;
        loop {
            if let Some(taken) = self.take() {
                return Some(taken);
            }
            if !until.goes_on() {
                return None;
            }
            polls += 1;
            if polls.is_multiple_of(64) {
                if self.region.view().daemon_blocked().take() {
                    self.ring();
                }
                if !self.spins {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// The next frame of an answer, if it is there.
    pub(crate) fn take(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let ring = self.region.view().response_ring();
        let header = self.consumer.poll(ring).ok()??;
        let mut payload = vec![0; header.payload_size as usize];
        self.consumer.copy_payload(ring, &header, &mut payload).unwrap();
        self.consumer.release(ring, &header);
        Some((header, payload))
    }

    /// The last frame that answers `id`; others are taken and dropped.
    pub(crate) fn answer_to(&mut self, id: u64) -> Seen {
        let until = Until::after(PATIENCE);
        while until.goes_on() {
            match self.receive(Duration::from_secs(1)) {
                Some((header, _)) if header.request_id == id && header.is_last() => {
                    return match header.status() {
                        Status::Ok => Seen::Served,
                        status => Seen::Answered(status),
                    };
                }
                _ => {}
            }
        }
        Seen::Silent
    }

    /// Asks for an echo: served when it comes back whole, else what the socket says.
    pub(crate) fn is_served(&mut self) -> Seen {
        let payload = *b"still here?";
        let id = u64::MAX - self.producer.tail().0;
        let until = Until::after(PATIENCE);
        let mut sent = false;
        while until.goes_on() {
            sent = sent || self.try_send(MessageType::ECHO, id, &payload);
            match self.receive(Duration::from_millis(20)) {
                Some((header, answer)) if header.request_id == id => {
                    return if answer == payload { Seen::Served } else { Seen::Silent };
                }
                Some(_) => {}
                None if self.is_over() => return self.goodbye(),
                None => {}
            }
        }
        Seen::Silent
    }

    /// True when the daemon has hung up.
    pub(crate) fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut files = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::RDHUP)];
        poll(&mut files, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Waits for the daemon's last word.
    pub(crate) fn goodbye(&mut self) -> Seen {
        let mut bytes = Vec::new();
        let ended = self.socket.read_to_end(&mut bytes);
        match (Goodbye::decode(&bytes), ended) {
            (Some(goodbye), _) => {
                Seen::Closed(Status::from_wire(goodbye.status), goodbye.fault_name())
            }
            (None, Err(error)) if is_timeout(&error) => Seen::Silent,
            (None, _) => Seen::HungUp,
        }
    }
}

/// A well-behaved client that comes, asks for an echo and leaves, again and again.
pub(crate) fn comes_and_goes(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut seen = Vec::new();
    while until.goes_on() {
        let mut peer = Peer::connect(stage);
        seen.push(peer.is_served());
    }
    seen
}

/// A well-behaved client that has eight requests of this type under way all the time.
fn busy(mut peer: Peer, until: Until, message_type: MessageType) -> Vec<Seen> {
    const AT_ONCE: u64 = 8;
    let mut id = 0;
    while until.goes_on() {
        for _ in 0..AT_ONCE {
            id += 1;
            peer.send(message_type, id, &[7; 64]);
        }
        let mut answers = 0;
        while answers < AT_ONCE {
            let Some((header, _)) = peer.receive(PATIENCE) else { return vec![Seen::Silent] };
            answers += u64::from(header.is_last());
        }
    }
    vec![Seen::Left]
}

/// The twin of an attacker that never sleeps: echoes all the time, polling.
pub(crate) fn spinning_echoes(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    busy(peer, until, MessageType::ECHO)
}

/// The same with requests that a worker answers.
pub(crate) fn spinning_heartbeats(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    busy(peer, until, MessageType::HEARTBEAT)
}

/// Well-behaved clients that keep as many cores busy as one that connects without end: one comes
/// and goes, for the control thread, and one asks for echoes all the time.
pub(crate) fn comes_and_goes_beside_echoes(stage: &Stage, until: Until) -> Vec<Seen> {
    thread::scope(|scope| {
        let echoes = scope.spawn(|| spinning_echoes(stage, until));
        let mut seen = comes_and_goes(stage, until);
        seen.extend(echoes.join().unwrap());
        seen
    })
}
