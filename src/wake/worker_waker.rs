//! The socket pair that wakes a worker executor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

/// The end of the pair that the worker reads from.
pub type WorkerDoorbell = OwnedFd;

/// Wakes one worker executor.
#[derive(Debug)]
pub struct WorkerWaker {
    socket: OwnedFd,
}

impl WorkerWaker {
    /// The waker and the end that the worker reads from.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor is left.
    pub fn new() -> io::Result<(Self, WorkerDoorbell)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self { socket: ours }, theirs))
    }

    /// Wakes the worker. A full socket means that it will wake anyway; a closed one that it is gone.
    pub fn wake(&self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&self.socket, &[1], flags);
    }
}

impl AsFd for WorkerWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
