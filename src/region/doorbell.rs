//! The eventfd that wakes a parked peer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// An eventfd (eventfd(2)), non-blocking and closed on exec.
///
/// Ringing it before the sleeper waits is not lost: the count stays until it is read.
#[derive(Debug)]
pub struct Doorbell {
    file: OwnedFd,
}

impl Doorbell {
    /// A doorbell that nobody has rung.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// A doorbell that came with a handshake and was checked there.
    #[must_use]
    pub const fn from_descriptor(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Wakes the sleeper. A full counter already will, so it is no error.
    ///
    /// Only for a doorbell of our own: one whose open file a peer shares may have been made blocking.
    pub fn ring(&self) {
        loop {
            match rustix::io::write(&self.file, &1_u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // Nothing else can happen to a valid eventfd; a lost peer shows on its socket.
                _ => return,
            }
        }
    }

    /// Takes all rings so far; true when there were any.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.file, &mut count).is_ok()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_taken_together() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.take());
        doorbell.ring();
        doorbell.ring();
        assert!(doorbell.take());
        assert!(!doorbell.take());
    }
}
