//! One measurement, told to the processes that take part in it.
//!
//! The measuring process starts a *client*, the client starts a *responder*; each is this executable
//! again, gets the [`Scene`] as one argument and is pinned to its core before it does anything. Both
//! end with whoever started them, and by themselves when the scene's life is over. So a peer that
//! hangs, panics or takes its process down costs one row and nothing else.

use std::io::{Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::{Burst, Cores, Loan, Pace, Pinned, follow_parent};
use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

/// This executable, even if its file has been replaced meanwhile.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// What a responder prints when it can be reached.
const READY: &[u8] = b"ready\n";

/// How long one may take until then: an interpreter starts slowly on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(5);

/// Exit status of a process whose time is over.
const EXIT_TIME_OVER: i32 = 75;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    /// One after the other.
    Hot,
    /// Each after a pause in which both sides have gone to sleep.
    Cold,
    /// Always 64 in flight.
    Pipelined,
}

/// How both sides wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    Polls,
    Sleeps,
}

impl Load {
    pub(crate) const ALL: [Self; 3] = [Self::Hot, Self::Cold, Self::Pipelined];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Pipelined => "pipelined",
        }
    }
}

impl Wait {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Polls => "polls",
            Self::Sleeps => "sleeps",
        }
    }
}

/// One measurement of one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    pub(crate) peer: String,
    pub(crate) load: Load,
    pub(crate) wait: Wait,
    /// Bytes of a payload, one way.
    pub(crate) size: usize,
    pub(crate) server_core: usize,
    pub(crate) client_core: usize,
    /// A private directory, in memory where there is one, that goes with the measurement.
    pub(crate) directory: PathBuf,
    /// A name that no other process on this machine uses.
    pub(crate) label: String,
    /// Operations before those that count, and those at most.
    pub(crate) warmup_count: u32,
    pub(crate) operation_count: u32,
    /// How long both may take together.
    pub(crate) time_max_ms: u64,
    /// Seconds after which every process of the scene ends.
    pub(crate) life_s: u64,
    /// Who started this process.
    pub(crate) parent: u32,
    /// Numbers of the descriptors that the responder has inherited.
    pub(crate) lent: Vec<i32>,
}

impl Scene {
    /// Becomes the process that measures: on its core, bound to its parent's life and to its own.
    pub(crate) fn enter_as_client(&self) -> Result<Pinned> {
        self.enter(self.client_core)
    }

    /// Becomes the process that answers.
    pub(crate) fn enter_as_responder(&self) -> Result<Pinned> {
        self.enter(self.server_core)
    }

    fn enter(&self, core: usize) -> Result<Pinned> {
        follow_parent(self.parent.cast_signed())?;
        let life = Duration::from_secs(self.life_s);
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            thread::sleep(life);
            process::exit(EXIT_TIME_OVER);
        })?;
        Ok(Pinned::to(core)?)
    }

    /// The burst, for the library's own timing.
    pub(crate) fn burst(&self) -> Burst {
        Burst {
            payload_size: self.size,
            warmup_count: self.warmup_count,
            operation_count: self.operation_count,
            pace: match self.load {
                Load::Cold => Pace::Parked(PARK_TIME),
                Load::Hot | Load::Pipelined => Pace::BackToBack,
            },
            time_max: Duration::from_millis(self.time_max_ms),
        }
    }

    pub(crate) const fn cores(&self) -> Cores {
        Cores { server: self.server_core, client: self.client_core }
    }

    /// The path of a socket or file of this measurement.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts the responder with these descriptors and returns when it can be reached.
    pub(crate) fn start_responder(&self, descriptors: &[BorrowedFd<'_>]) -> Result<Responder> {
        let loans = descriptors.iter().map(Loan::of).collect::<Result<Vec<_>, _>>()?;
        let mut theirs = self.clone();
        theirs.parent = process::id();
        theirs.lent = loans.iter().map(Loan::number).collect();
        let mut command = Command::new(THIS_PROGRAM);
        command.arg("respond").arg(theirs.to_argument()?);
        Responder::start(command)
    }

    pub(crate) fn to_argument(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// How long both sides are left alone before a cold round trip.
pub(crate) const PARK_TIME: Duration = Duration::from_millis(1);

/// Tells whoever started this responder that it can be reached.
pub(crate) fn say_ready() -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(READY)?;
    Ok(stdout.flush()?)
}

/// A running responder, killed and reaped on drop.
pub(crate) struct Responder {
    child: Child,
    /// Kept open, so that a further line could not kill it.
    stdout: ChildStdout,
}

impl Responder {
    /// Starts `command` and waits until it says that it can be reached.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().expect("a pipe was asked for");
        let mut responder = Self { child, stdout };
        responder.wait_until_ready()?;
        Ok(responder)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let mut said = [0; READY.len()];
        let mut said_size = 0;
        // Bounded by the length of the line and by the deadline.
        while said_size < said.len() {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            let mut watched = [PollFd::new(&self.stdout, PollFlags::IN)];
            if poll(&mut watched, Some(&left))? == 0 {
                bail!("the responder was not ready within {START_TIME_MAX:?}");
            }
            match self.stdout.read(&mut said[said_size..])? {
                0 => bail!("the responder ended before it was ready"),
                size => said_size += size,
            }
        }
        if said != *READY {
            bail!("the responder said {:?}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Either may fail only because the child has already ended, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of one measurement, in shared memory if the machine has that.
pub(crate) fn private_directory() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("annulus-peers-");
        builder
    };
    match builder().tempdir_in(memory) {
        Ok(directory) => Ok(directory),
        Err(_) => builder().tempdir().context("cannot make a directory for a measurement"),
    }
}
