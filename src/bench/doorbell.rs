//! The least that a sleeping pair can do: wake each other through two eventfds.
//!
//! Both sides block in read(2). A child that dies closes neither eventfd, so the measuring side
//! keeps an [`Alarm`]: a thread that waits for the child's end and then rings the response doorbell
//! itself.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, retry_on_intr, write};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{BenchError, Subject};

/// What the alarm adds to the counter. Stamps are far smaller, so a reader knows it even when it
/// has been added to one, and the sum stays below the counter's maximum.
const ALARM: u64 = 1 << 63;

/// The two eventfds of one pair of processes. The counter's value is the stamp that travels.
#[derive(Debug)]
pub(super) struct Doorbells {
    pub(super) request: OwnedFd,
    pub(super) response: OwnedFd,
}

impl Doorbells {
    /// Two silent doorbells.
    pub(super) fn create() -> Result<Self, BenchError> {
        let make =
            || eventfd(0, EventfdFlags::CLOEXEC).map_err(BenchError::system("make an eventfd"));
        Ok(Self { request: make()?, response: make()? })
    }

    /// Answers for as long as this process lives; its watchdog and its parent bound that.
    pub(super) fn answer_forever(&self) -> Result<(), BenchError> {
        loop {
            let stamp = wait(&self.request)?;
            ring(&self.response, stamp)?;
        }
    }
}

/// The client's side. An eventfd carries 8 bytes; the rest of the answer is copied in this process,
/// which keeps the bookkeeping equal to that of a subject that carries it.
impl Subject for Doorbells {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
        answer.clear();
        answer.extend_from_slice(payload);
        let first = answer.first_chunk_mut().expect("a payload has a word");
        ring(&self.request, u64::from_ne_bytes(*first))?;
        let found = wait(&self.response)?;
        if found >= ALARM {
            return Err(BenchError::Silent { who: "eventfd responder" });
        }
        *first = found.to_ne_bytes();
        Ok(())
    }
}

/// Rings the response doorbell when the responder ends or its time is over.
#[derive(Debug)]
pub(super) struct Alarm(Option<JoinHandle<()>>);

impl Alarm {
    /// Watches the child `responder`, which has not been reaped, for at most `time_max`.
    pub(super) fn set(
        responder: Pid,
        response: impl AsFd,
        time_max: Duration,
    ) -> Result<Self, BenchError> {
        let responder = pidfd_open(responder, PidfdFlags::empty())
            .map_err(BenchError::system("watch the responder"))?;
        let response = response
            .as_fd()
            .try_clone_to_owned()
            .map_err(BenchError::system("duplicate a doorbell"))?;
        let timeout = Timespec::try_from(time_max).expect("a benchmark's bound fits a timespec");
        let watch = move || {
            let mut watched = [PollFd::new(&responder, PollFlags::IN)];
            // Whatever comes of it (the end, the time, a failure), the sleeper must not sleep on.
            let _ = retry_on_intr(|| poll(&mut watched, Some(&timeout)));
            let _ = ring(&response, ALARM);
        };
        let thread = thread::Builder::new().name("bench-alarm".into()).spawn(watch);
        thread.map(|handle| Self(Some(handle))).map_err(BenchError::system("start the alarm"))
    }
}

/// Waits for the watch to end, so the responder's guard must be dropped first.
impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

#[inline]
fn ring(doorbell: &OwnedFd, value: u64) -> Result<(), BenchError> {
    write(doorbell, &value.to_ne_bytes()).map(drop).map_err(BenchError::system("ring a doorbell"))
}

#[inline]
fn wait(doorbell: &OwnedFd) -> Result<u64, BenchError> {
    let mut value = [0; 8];
    read(doorbell, &mut value).map_err(BenchError::system("wait for a doorbell"))?;
    Ok(u64::from_ne_bytes(value))
}
