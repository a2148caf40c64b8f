//! What a worker needs of its executor: tasks, time, and a doorbell to wait on. One of the few files
//! with `unsafe`.
//!
//! Everything here is glommio's; the model checks have `model.rs` in its place.
#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use futures_lite::AsyncReadExt;
use glommio::net::UnixStream;
pub(super) use glommio::timer::sleep;

use crate::wake::WorkerDoorbell;

/// Runs `task` beside the others, on this thread.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// The worker's end of its waker.
pub(super) struct Doorbell {
    socket: UnixStream,
}

impl Doorbell {
    /// To be called on the executor that will wait.
    pub(super) fn new(socket: WorkerDoorbell) -> Self {
        // SAFETY: `from_raw_fd` needs a descriptor that nobody else owns: `into_raw_fd` gave it up.
        Self { socket: unsafe { UnixStream::from_raw_fd(socket.into_raw_fd()) } }
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
