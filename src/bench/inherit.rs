//! Hands descriptors to a child process by number.
//!
//! Descriptors are close-on-exec throughout the crate. A [`Loan`] is a duplicate that is not, and
//! that exists only while the child is being started, so that no other child is likely to inherit
//! it.

#![allow(
    unsafe_code,
    reason = "a number given as an argument becomes a descriptor here, and only here"
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::BenchError;

/// An inheritable duplicate of a descriptor; drop it once the child is started.
#[derive(Debug)]
pub struct Loan(OwnedFd);

impl Loan {
    /// Duplicates `descriptor` without close-on-exec.
    ///
    /// # Errors
    ///
    /// [`BenchError::System`]: no descriptor is left.
    pub fn of(descriptor: impl AsFd) -> Result<Self, BenchError> {
        rustix::io::dup(descriptor)
            .map(Self)
            .map_err(BenchError::system("duplicate a descriptor for the responder"))
    }

    /// The number under which the child finds it.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Takes up the descriptor that the parent lent under `number`, after checking that it is what
/// `/proc/self/fd` calls `kind` (a prefix: `/memfd:`, `anon_inode:[eventfd]`).
///
/// # Errors
///
/// [`BenchError::System`]: no such descriptor is open here, or it is something else.
pub fn adopt(number: RawFd, kind: &str) -> Result<OwnedFd, BenchError> {
    let found = fs::read_link(format!("/proc/self/fd/{number}"))
        .map_err(BenchError::system("find a lent descriptor"))?;
    if !found.to_string_lossy().starts_with(kind) {
        let other =
            io::Error::other(format!("descriptor {number} is {}, not {kind}", found.display()));
        return Err(BenchError::System { operation: "take up a lent descriptor", source: other });
    }
    // SAFETY: `borrow_raw` needs a descriptor that is open (just looked up; a responder has no
    // other thread that closes any) and stays open for the borrow, which ends with this statement:
    // what is kept is a duplicate, so ownership of `number` itself is never claimed.
    let lent = unsafe { BorrowedFd::borrow_raw(number) };
    lent.try_clone_to_owned().map_err(BenchError::system("take up a lent descriptor"))
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    const EVENTFD: &str = "anon_inode:[eventfd]";

    #[test]
    fn a_loan_is_inheritable_and_what_is_adopted_is_not() {
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let loan = Loan::of(&doorbell).unwrap();
        assert_eq!(fcntl_getfd(&loan.0).unwrap(), FdFlags::empty());
        let adopted = adopt(loan.number(), EVENTFD).unwrap();
        assert_eq!(fcntl_getfd(&adopted).unwrap(), FdFlags::CLOEXEC);
    }

    #[test]
    fn a_wrong_number_or_kind_is_refused() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(adopt(file.as_raw_fd(), EVENTFD).unwrap_err().to_string().contains("/dev/null"));
        assert!(adopt(-1, EVENTFD).is_err());
    }
}
