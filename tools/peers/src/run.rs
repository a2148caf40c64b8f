//! The run: every peer in every round, each beside the limit of its load and between two canaries.

use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use annulus::bench::{
    Burst, CANARY_SHIFT_MAX, Cores, Launcher, Limit, LimitMeter, Meter as _, Pace, Samples,
};
use anyhow::{Context as _, Result, bail};

use crate::meter::Figures;
use crate::peers::{self, Peer};
use crate::scene::{Load, Scene, THIS_PROGRAM, Wait, private_directory};

/// What the canary does: 3 to 10 ms of cache lines.
const CANARY_BURST: Burst = Burst {
    payload_size: 64,
    warmup_count: 2_000,
    operation_count: 20_000,
    pace: Pace::BackToBack,
    time_max: Duration::from_secs(1),
};

/// Times that a measurement is tried again because the cores moved.
const REJECTED_COUNT_MAX: u32 = 3;

/// Seconds that a measurement may take beyond its burst; an interpreter starts slowly.
const START_TIME_MAX_S: u64 = 6;

/// Bytes of what a failed peer said that are shown.
const COMPLAINT_SIZE_MAX: usize = 120;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) round_count: u32,
    /// Milliseconds of a burst at most.
    pub(crate) burst_ms: u64,
    /// Cold round trips of a burst.
    pub(crate) cold_count: u32,
    /// No measurement starts after this.
    pub(crate) time_max: Duration,
}

impl Extent {
    pub(crate) const FULL: Self =
        Self { round_count: 3, burst_ms: 200, cold_count: 120, time_max: Duration::from_secs(290) };
    pub(crate) const QUICK: Self =
        Self { round_count: 1, burst_ms: 80, cold_count: 50, time_max: Duration::from_secs(55) };
}

/// One load at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) load: Load,
    pub(crate) size: usize,
}

/// What came of one peer in one case.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) peer: &'static dyn Peer,
    pub(crate) wait: Option<Wait>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) rejected_count: u32,
    /// Why there are no rounds, or fewer.
    pub(crate) skipped: Option<String>,
    /// What went wrong: no answer, a wrong one, an end.
    pub(crate) failed: Option<String>,
}

/// What one round measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) figures: Figures,
    /// Those of the limit, right before or after; none for the limit itself.
    pub(crate) limit: Option<Figures>,
    /// The canary's p50, the mean of before and after.
    pub(crate) canary_ns: f64,
}

/// Measures every peer in every case.
pub(crate) fn run(cases: &[Case], peers: &[&'static dyn Peer], extent: Extent) -> Result<Vec<Row>> {
    let cores = Cores::choose()?;
    let mut bench = Bench {
        cores,
        extent,
        canary: LimitMeter::new(Limit::CacheLine, cores, Launcher::this_executable())?,
        samples: Samples::new(),
    };
    let mut rows: Vec<Row> = cases
        .iter()
        .flat_map(|&case| peers.iter().map(move |&peer| Row::new(case, peer)))
        .collect();
    let deadline = Instant::now() + extent.time_max;
    let mut progress = Progress::new(rows.len() * extent.round_count as usize);
    for round_index in 0..extent.round_count {
        for row in &mut rows {
            progress.step(round_index, row);
            if row.skipped.is_some() || row.failed.is_some() {
                continue;
            }
            if Instant::now() >= deadline {
                row.skipped = Some("the time of the run was over".to_owned());
                continue;
            }
            bench.measure(row, round_index % 2 == 1);
        }
    }
    progress.clear();
    Ok(rows)
}

impl Row {
    fn new(case: Case, peer: &'static dyn Peer) -> Self {
        let (wait, skipped) = match (peer.wait(case.load), peer.missing()) {
            (Ok(wait), None) => (Some(wait), None),
            (Ok(wait), Some(reason)) => (Some(wait), Some(reason)),
            (Err(reason), _) => (None, Some(reason.to_owned())),
        };
        Self { case, peer, wait, rounds: Vec::new(), rejected_count: 0, skipped, failed: None }
    }
}

/// What measures.
struct Bench {
    cores: Cores,
    extent: Extent,
    canary: LimitMeter,
    samples: Samples,
}

impl Bench {
    /// Adds a round to `row`, or the reason why there is none.
    fn measure(&mut self, row: &mut Row, subject_first: bool) {
        let Some(wait) = row.wait else { return };
        for _ in 0..=REJECTED_COUNT_MAX {
            match self.round(row.case, row.peer, wait, subject_first) {
                Ok(Some(round)) => return row.rounds.push(round),
                Ok(None) => row.rejected_count += 1,
                Err(error) => {
                    row.failed = Some(format!("{error:#}"));
                    return;
                }
            }
        }
        if row.rounds.is_empty() {
            row.skipped = Some("the cores moved during every try".to_owned());
        }
    }

    /// One round; none when the cores moved apart or together while it ran.
    fn round(
        &mut self,
        case: Case,
        peer: &'static dyn Peer,
        wait: Wait,
        subject_first: bool,
    ) -> Result<Option<Round>> {
        let limit_peer = peers::limit_of(case.load);
        let has_limit = limit_peer.name() != peer.name();
        let before = self.canary_ns()?;
        let early = if subject_first { Some(self.play(case, peer, wait)?) } else { None };
        let limit = if has_limit {
            let wait = limit_peer.wait(case.load).map_err(anyhow::Error::msg)?;
            Some(self.play(case, limit_peer, wait)?)
        } else {
            None
        };
        let figures = match early {
            Some(figures) => figures,
            None => self.play(case, peer, wait)?,
        };
        let after = self.canary_ns()?;
        if before.max(after) > before.min(after) * CANARY_SHIFT_MAX {
            return Ok(None);
        }
        Ok(Some(Round { figures, limit, canary_ns: f64::midpoint(before, after) }))
    }

    fn canary_ns(&mut self) -> Result<f64> {
        self.samples.clear();
        self.canary.measure(&CANARY_BURST, &mut self.samples)?;
        Ok(self.samples.summary().p50_ns as f64)
    }

    /// Has a client of its own measure the peer once.
    fn play(&self, case: Case, peer: &'static dyn Peer, wait: Wait) -> Result<Figures> {
        let directory = private_directory()?;
        let label = directory.path().file_name().context("a directory has a name")?;
        let label = label.to_string_lossy().into_owned();
        let _shared_memory = SharedMemory(&label);
        let scene = self.scene(case, peer, wait, directory.path(), &label);
        let log = fs::File::create(scene.path("log"))?;
        // The client's life bounds this wait.
        let output = Command::new(THIS_PROGRAM)
            .arg("client")
            .arg(scene.to_argument()?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .and_then(process::Child::wait_with_output)
            .context("cannot start a client")?;
        if !output.status.success() {
            bail!("{}", complaint(&scene.path("log"), output.status));
        }
        serde_json::from_slice(&output.stdout).context("the client printed no figures")
    }

    fn scene(
        &self,
        Case { load, size }: Case,
        peer: &'static dyn Peer,
        wait: Wait,
        directory: &Path,
        label: &str,
    ) -> Scene {
        let (warmup_count, operation_count) = match load {
            Load::Hot if wait == Wait::Sleeps => (100, 200_000),
            Load::Hot => (500, 200_000),
            Load::Cold => (5, self.extent.cold_count),
            Load::Pipelined => (100_000, 2_000_000),
        };
        Scene {
            peer: peer.name().to_owned(),
            load,
            wait,
            size,
            server_core: self.cores.server,
            client_core: self.cores.client,
            directory: directory.to_owned(),
            label: label.to_owned(),
            warmup_count,
            operation_count,
            time_max_ms: if load == Load::Cold {
                4 * self.extent.burst_ms
            } else {
                self.extent.burst_ms
            },
            life_s: START_TIME_MAX_S + self.extent.burst_ms.div_ceil(1_000),
            parent: process::id(),
            lent: Vec::new(),
        }
    }
}

/// Removes what a killed responder leaves in shared memory under the label of its measurement.
struct SharedMemory<'l>(&'l str);

impl Drop for SharedMemory<'_> {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir("/dev/shm") else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            // The directory of that name is removed by its own guard.
            if name.to_string_lossy().starts_with(self.0) && name != self.0 {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The first thing that a failed client or responder said.
fn complaint(log: &Path, status: process::ExitStatus) -> String {
    let said = fs::read_to_string(log).unwrap_or_default();
    match said.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => line.chars().take(COMPLAINT_SIZE_MAX).collect(),
        None => format!("it ended with {status} and did not say why"),
    }
}

/// A line on standard error that says where the run is; a terminal sees it change.
struct Progress {
    is_shown: bool,
    done: usize,
    count: usize,
    began: Instant,
}

impl Progress {
    fn new(count: usize) -> Self {
        let is_shown = std::io::stderr().is_terminal();
        Self { is_shown, done: 0, count, began: Instant::now() }
    }

    fn step(&mut self, round_index: u32, row: &Row) {
        self.done += 1;
        if self.is_shown {
            let Self { done, count, .. } = self;
            let Case { load, size } = row.case;
            eprint!(
                "\r\x1b[K[{done}/{count}] {} s, round {}: {} {size} B, {}",
                self.began.elapsed().as_secs(),
                round_index + 1,
                load.name(),
                row.peer.name(),
            );
        }
    }

    fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// Runs a program on one core, bound to the life of whoever started this process.
pub(crate) fn exec_on_core(core: usize, program: &str, arguments: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt as _;

    let parent = rustix::process::getppid().context("nobody started this process")?;
    annulus::bench::follow_parent(parent.as_raw_nonzero().into())?;
    let pinned = annulus::bench::Pinned::to(core)?;
    let error = Command::new(program).args(arguments).exec();
    drop(pinned);
    Err(error).with_context(|| format!("cannot start {program}"))
}

/// The client's process: measures and prints the figures.
pub(crate) fn run_client(scene: &Scene) -> Result<()> {
    let _pinned = scene.enter_as_client()?;
    let figures = peers::find(&scene.peer)?.measure(scene)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// The responder's process: answers until it is ended.
pub(crate) fn run_responder(scene: &Scene) -> Result<()> {
    let _pinned = scene.enter_as_responder()?;
    peers::find(&scene.peer)?.respond(scene)
}
