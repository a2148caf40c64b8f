//! What a worker needs of its executor: tasks, time, a doorbell to wait on, and where it runs.
//!
//! The model checks have `model.rs` in its place.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

pub(super) use crate::executor::{sleep, spawn};
use crate::wake::WorkerDoorbell;

/// The worker's end of its waker.
pub(super) struct Doorbell {
    socket: UnixStream,
}

impl Doorbell {
    /// To be called on the executor that will wait.
    ///
    /// # Errors
    ///
    /// The system's, when it cannot be waited for.
    pub(super) fn new(socket: WorkerDoorbell) -> io::Result<Self> {
        Ok(Self { socket: UnixStream::from_std(socket.into())? })
    }

    /// Waits for a ring and takes all there are; false when nobody can ring any more.
    ///
    /// # Errors
    ///
    /// The system's: the daemon is going down.
    pub(super) async fn rung(&mut self) -> io::Result<bool> {
        let mut rings = [0; 64];
        Ok(self.socket.read(&mut rings).await? > 0)
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
