//! How the daemon's own threads wake each other.
//!
//! A data shard sleeps in its uring and polls one eventfd for all of this. A worker executor sleeps
//! in glommio, which cannot wait on an eventfd, so it reads from one end of a socket pair; its
//! cross-thread wakers allocate, which a data shard must not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::region::Doorbell;
use crate::ring::ParkFlag;
use crate::sync::AtomicU64;

/// Wakes one data shard.
#[derive(Debug)]
pub struct ShardWaker {
    parked: AtomicU64,
    doorbell: Doorbell,
}

impl ShardWaker {
    /// A waker for a shard that is about to start.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { parked: AtomicU64::new(0), doorbell: Doorbell::new()? })
    }

    /// The shard's flag: armed before it looks at everything once more and sleeps.
    #[must_use]
    pub const fn parked(&self) -> ParkFlag<'_> {
        ParkFlag::new(&self.parked)
    }

    /// After publishing something for the shard: wakes it if it sleeps.
    ///
    /// Several threads may call this. Two of them may both ring; the spare ring is harmless.
    pub fn wake_if_parked(&self) {
        if self.parked().take() {
            self.doorbell.ring();
        }
    }

    /// What the shard polls.
    #[must_use]
    pub const fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }
}

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
    pub fn new() -> io::Result<(Self, OwnedFd)> {
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
