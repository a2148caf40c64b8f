//! The other process: the same executable, started again to answer.
//!
//! A responder outlives nobody. Its parent kills and reaps it when the [`Responder`] is dropped;
//! the kernel kills it when the thread that started it ends; and a watchdog ends it when its time
//! is over.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use super::cache_line::CacheLine;
use super::doorbell::Doorbells;
use super::inherit::{Loan, adopt};
use super::pin::pin_for_good;
use super::slots::Slots;
use super::{BenchError, Cores, follow_parent};

/// The hidden subcommand that makes this executable a responder.
const SUBCOMMAND: &str = "bench-responder";

/// Exit status of a responder whose time is over.
const EXIT_TIME_OVER: i32 = 75;

/// How the responder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResponderKind {
    /// Polls a slot of shared memory. One descriptor: the memory.
    CacheLine,
    /// Polls slots of shared memory in turn. One descriptor: the memory.
    Slots,
    /// Blocks on an eventfd. Two descriptors: the request and the response doorbell.
    Eventfd,
}

impl ResponderKind {
    fn word(self) -> &'static str {
        match self {
            Self::CacheLine => "cache-line",
            Self::Slots => "slots",
            Self::Eventfd => "eventfd",
        }
    }
}

/// Arguments of the hidden subcommand `bench-responder`; all positional, written by the parent.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ResponderArguments {
    /// How to answer.
    pub kind: ResponderKind,
    /// Bytes of one message.
    pub payload_size: usize,
    /// Messages that may be under way; only slots can have more than one.
    pub slot_count: u32,
    /// Core to run on.
    pub core: usize,
    /// Process id of the parent, without which there is nobody to answer.
    pub parent: i32,
    /// Seconds after which to end in any case.
    pub seconds: u64,
    /// Numbers of the inherited descriptors, as many as the kind needs.
    #[arg(required = true, num_args = 1..=2)]
    pub descriptors: Vec<i32>,
}

impl ResponderArguments {
    /// Runs the responder; it returns only to report why it could not start or go on.
    ///
    /// # Errors
    ///
    /// [`BenchError::System`]: the parent is gone, a descriptor is not what it should be, or the
    /// core is not allowed.
    pub fn run(&self) -> Result<(), BenchError> {
        follow_parent(self.parent)?;
        start_watchdog(Duration::from_secs(self.seconds))?;
        pin_for_good(self.core)?;
        match (self.kind, self.descriptors.as_slice()) {
            (ResponderKind::CacheLine, &[memory]) => {
                CacheLine::open(adopt(memory, "/memfd:")?, self.payload_size)?.answer_forever()
            }
            (ResponderKind::Slots, &[memory]) => {
                let memory = adopt(memory, "/memfd:")?;
                let slots = Slots::open(memory, self.payload_size, self.slot_count as usize)?;
                slots.answer_forever()
            }
            (ResponderKind::Eventfd, &[request, response]) => {
                let adopt = |number| adopt(number, "anon_inode:[eventfd]");
                Doorbells { request: adopt(request)?, response: adopt(response)? }.answer_forever()
            }
            (_, descriptors) => {
                let count = std::io::Error::other(format!("{} were lent", descriptors.len()));
                Err(BenchError::System { operation: "take up the lent descriptors", source: count })
            }
        }
    }

    fn to_words(&self) -> Vec<OsString> {
        let numbers = [
            self.payload_size.to_string(),
            self.slot_count.to_string(),
            self.core.to_string(),
            self.parent.to_string(),
            self.seconds.to_string(),
        ];
        let descriptors = self.descriptors.iter().map(ToString::to_string);
        [self.kind.word().to_owned()]
            .into_iter()
            .chain(numbers)
            .chain(descriptors)
            .map(OsString::from)
            .collect()
    }
}

/// Ends the process after `time`. A thread rather than a deadline, so that neither the polling nor
/// the blocking loop pays for it.
fn start_watchdog(time: Duration) -> Result<(), BenchError> {
    let watch = move || {
        thread::sleep(time);
        process::exit(EXIT_TIME_OVER);
    };
    let thread = thread::Builder::new().name("bench-watchdog".into()).spawn(watch);
    thread.map(drop).map_err(BenchError::system("start the watchdog"))
}

/// How to start this executable again as a responder.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    leading_words: Vec<OsString>,
}

impl Launcher {
    /// The running executable, even if its file has been replaced meanwhile, with the subcommand
    /// `bench-responder`.
    #[must_use]
    pub fn this_executable() -> Self {
        Self { program: "/proc/self/exe".into(), leading_words: vec![SUBCOMMAND.into()] }
    }

    /// Another program that ends up in [`ResponderArguments::run`]: `leading_words` come before its
    /// arguments.
    #[must_use]
    pub fn new(
        program: impl Into<PathBuf>,
        leading_words: impl IntoIterator<Item = OsString>,
    ) -> Self {
        Self { program: program.into(), leading_words: leading_words.into_iter().collect() }
    }

    /// Starts a responder on `cores.server` that lives at most `time_max` (rounded up to seconds).
    pub(super) fn start(
        &self,
        kind: ResponderKind,
        payload_size: usize,
        slot_count: u32,
        cores: Cores,
        time_max: Duration,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Responder, BenchError> {
        // Inheritable until the end of this function, when the child has its own.
        let loans = descriptors.iter().map(Loan::of).collect::<Result<Vec<_>, _>>()?;
        let arguments = ResponderArguments {
            kind,
            payload_size,
            slot_count,
            core: cores.server,
            parent: rustix::process::getpid().as_raw_nonzero().into(),
            seconds: time_max.as_secs() + 1,
            descriptors: loans.iter().map(Loan::number).collect(),
        };
        let child = Command::new(&self.program)
            .arg0("annulus")
            .args(&self.leading_words)
            .args(arguments.to_words())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(BenchError::system("start the responder"))?;
        Ok(Responder(child))
    }
}

/// A running responder, killed and reaped on drop. Drop it on the thread that started it.
#[derive(Debug)]
pub(super) struct Responder(Child);

impl Responder {
    pub(super) fn id(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Either may fail only because the child has already ended, which is the aim.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::AsFd as _;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        arguments: ResponderArguments,
    }

    /// A launcher for tests: the test executable again, told to run [`entry`] alone.
    pub(in super::super) fn test_launcher() -> Launcher {
        let words = [
            "--exact",
            "bench::responder::tests::entry",
            "--test-threads=1",
            "--nocapture",
            SUBCOMMAND,
        ];
        Launcher::new("/proc/self/exe", words.map(OsString::from))
    }

    /// Not a test but the door into the responder when the test executable is started again: the
    /// test harness takes the further words for filters that match nothing.
    #[test]
    fn entry() {
        let words: Vec<_> = std::env::args_os().skip_while(|word| word != SUBCOMMAND).collect();
        if !words.is_empty() {
            Words::parse_from(words)
                .arguments
                .run()
                .expect("a responder answers until it is killed");
        }
    }

    #[test]
    fn arguments_survive_the_command_line() {
        for kind in [ResponderKind::CacheLine, ResponderKind::Slots, ResponderKind::Eventfd] {
            let sent = ResponderArguments {
                kind,
                payload_size: 64,
                slot_count: 3,
                core: 1,
                parent: 77,
                seconds: 9,
                descriptors: vec![5, 6],
            };
            let words = [OsString::from(SUBCOMMAND)].into_iter().chain(sent.to_words());
            assert_eq!(Words::parse_from(words).arguments, sent);
        }
    }

    #[test]
    fn a_responder_whose_parent_is_another_process_ends_at_once() {
        let stranger = ResponderArguments {
            kind: ResponderKind::Eventfd,
            payload_size: 8,
            slot_count: 1,
            core: 0,
            parent: 1,
            seconds: 5,
            descriptors: vec![0, 0],
        };
        // In a child, because the death signal would stay with this process.
        let launcher = test_launcher();
        let ended = Command::new(&launcher.program)
            .args(&launcher.leading_words)
            .args(stranger.to_words())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && complaint.contains("it has ended"), "{complaint}");
    }

    #[test]
    fn a_dropped_responder_is_gone() {
        let doorbells = Doorbells::create().unwrap();
        let lent = [doorbells.request.as_fd(), doorbells.response.as_fd()];
        let core = rustix::thread::sched_getcpu();
        let cores = Cores { server: core, client: core };
        let responder = test_launcher()
            .start(ResponderKind::Eventfd, 8, 1, cores, Duration::from_secs(5), &lent)
            .unwrap();
        let id = responder.id();
        drop(responder);
        assert!(rustix::process::test_kill_process(id).is_err(), "killed and reaped");
    }
}
