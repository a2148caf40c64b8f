//! What a worker needs of its executor: tasks, time, and a doorbell to wait on. One of the few files
//! with `unsafe`.
//!
//! Everything here is tokio's, or glommio's where that runs the thread; the model checks have
//! `model.rs` in its place.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use futures_lite::AsyncReadExt;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::executor;
pub(super) use crate::executor::{sleep, spawn};
use crate::wake::WorkerDoorbell;

/// The worker's end of its waker.
pub(super) enum Doorbell {
    Tokio(tokio::net::UnixStream),
    Glommio(glommio::net::UnixStream),
}

impl Doorbell {
    /// To be called on the executor that will wait.
    ///
    /// # Errors
    ///
    /// The system's, when it cannot be waited for.
    pub(super) fn new(socket: WorkerDoorbell) -> io::Result<Self> {
        if executor::is_tokio() {
            return Ok(Self::Tokio(tokio::net::UnixStream::from_std(socket.into())?));
        }
        // SAFETY: `from_raw_fd` needs a descriptor that nobody else owns: `into_raw_fd` gave it up.
        Ok(Self::Glommio(unsafe { glommio::net::UnixStream::from_raw_fd(socket.into_raw_fd()) }))
    }

    /// Waits for a ring and takes all there are; false when nobody can ring any more.
    ///
    /// # Errors
    ///
    /// The system's: the daemon is going down.
    pub(super) async fn rung(&mut self) -> io::Result<bool> {
        let mut rings = [0; 64];
        let count = match self {
            Self::Tokio(socket) => tokio::io::AsyncReadExt::read(socket, &mut rings).await?,
            Self::Glommio(socket) => socket.read(&mut rings).await?,
        };
        Ok(count > 0)
    }
}

/// Which cores this thread may run on.
pub(super) struct Cores(CpuSet);

impl Cores {
    /// Those that it may run on now.
    ///
    /// # Errors
    ///
    /// The system's, when it does not say.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        Ok(Self(sched_getaffinity(None)?))
    }

    /// Has this thread run on all of them but these, where that leaves any.
    pub(super) fn run_on_all_but(&self, taken: impl Iterator<Item = u32>) {
        let mut left = self.0;
        for core in taken.map(|core| core as usize).filter(|core| *core < CpuSet::MAX_CPU) {
            left.unset(core);
        }
        if left.count() == 0 {
            left = self.0;
        }
        // A refusal is the system's affair: then it has taken the cores away, and places the thread.
        let _ = sched_setaffinity(None, &left);
    }
}
