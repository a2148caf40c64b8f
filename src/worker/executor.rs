//! What a worker needs of its executor: tasks, time, and a doorbell to wait on. One of the few files
//! with `unsafe`.
//!
//! Everything here is tokio's, or glommio's where that runs the thread; the model checks have
//! `model.rs` in its place.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use futures_lite::AsyncReadExt;

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
