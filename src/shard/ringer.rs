//! Rings clients' doorbells without ever waiting, whatever a client does to its eventfd.
//!
//! Every write to an eventfd, io_uring's included, asks the open file whether it may block, and the
//! client shares that file: it can fill the counter and switch `O_NONBLOCK` on and off. io_uring
//! looks at the flag, eventfd looks again, and a client that clears it in between makes the shard
//! sleep in io_uring_enter(2). The kernel's own way to signal an eventfd (`eventfd_signal`, which
//! KVM's interrupts use) never waits and knows no flags: a full counter just stays full. From user
//! space it is reached through io_submit(2) with `IOCB_FLAG_RESFD`: the eventfd is signalled when an
//! operation completes, and a read of nothing from `/dev/null` completes at once.
//!
//! One of the few files with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};

use crate::sync::sound;

/// Rings after which the completions are taken out of the kernel's ring, which holds more.
const RINGS_PER_REAP: usize = 64;
/// Completions that the kernel's ring is asked to hold.
const COMPLETIONS: libc::c_long = 2 * RINGS_PER_REAP as libc::c_long;
/// Tries to submit one ring; the second finds an emptied ring of completions.
const TRIES: u32 = 3;

/// `struct iocb` of `linux/aio_abi.h`, little-endian.
#[repr(C)]
#[derive(Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    size: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_eventfd: u32,
}

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    control_block: u64,
    result: i64,
    result2: i64,
}

static_assertions::const_assert_eq!(size_of::<ControlBlock>(), 64);
static_assertions::const_assert_eq!(size_of::<Completion>(), 32);

/// `IOCB_CMD_PREAD` of `linux/aio_abi.h`.
const COMMAND_READ: u16 = 0;
/// `IOCB_FLAG_RESFD` of `linux/aio_abi.h`.
const FLAG_RESULT_EVENTFD: u32 = 1;

/// A context of io_submit(2), used for nothing but ringing.
#[derive(Debug)]
pub(super) struct Ringer {
    /// `aio_context_t`.
    context: libc::c_ulong,
    /// `/dev/null`: reading it takes no time and gives nothing.
    null: OwnedFd,
    /// Rings since the completions were last taken.
    unreaped: usize,
}

impl Ringer {
    /// A ringer for one thread.
    ///
    /// # Errors
    ///
    /// The system's: a kernel without `CONFIG_AIO`, or more contexts than `fs.aio-max-nr` allows.
    pub(super) fn new() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup(2) needs a pointer to a zeroed context that it may write: our variable.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, COMPLETIONS, &raw mut context) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { context, null, unreaped: 0 })
    }

    /// Adds one to the counter of `eventfd`, or leaves a full one full. Never waits.
    pub(super) fn ring(&mut self, eventfd: BorrowedFd<'_>) {
        if !sound("a doorbell is rung without waiting") {
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
            return;
        }
        if self.unreaped >= RINGS_PER_REAP {
            self.reap();
        }
        let block = ControlBlock {
            opcode: COMMAND_READ,
            file: self.null.as_raw_fd().unsigned_abs(),
            flags: FLAG_RESULT_EVENTFD,
            result_eventfd: eventfd.as_raw_fd().unsigned_abs(),
            ..ControlBlock::default()
        };
        for _ in 0..TRIES {
            if self.submit(&block) {
                self.unreaped += 1;
                return;
            }
            // No room for the completion, or no memory for a moment.
            self.reap();
        }
        tracing::warn!(error = %io::Error::last_os_error(), "cannot ring a client's doorbell");
    }

    /// Starts and ends the operation of `block`; false when there is no room for its completion.
    fn submit(&self, block: &ControlBlock) -> bool {
        let blocks = [ptr::from_ref(block)];
        let count: libc::c_long = 1;
        // SAFETY: io_submit(2) needs a context of io_setup(2), ours until `drop`, and as many valid
        // control blocks as announced: one, which it copies before it returns. `ring` made the
        // block: it names no memory (its buffer is empty) and two open descriptors, `null`, which
        // we own, and an eventfd that is borrowed for the call. The operation has completed when
        // the call returns, so neither is used afterwards.
        unsafe { libc::syscall(libc::SYS_io_submit, self.context, count, blocks.as_ptr()) == 1 }
    }

    /// Takes the completions, which say nothing, out of the kernel's ring. Never waits.
    fn reap(&mut self) {
        let mut completions = [Completion::default(); RINGS_PER_REAP];
        // SAFETY: io_getevents(2) needs our context and room for as many completions as it may
        // write: the array's length. It is asked to wait for none, so it needs no timeout.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0_i64,
                completions.len(),
                completions.as_mut_ptr(),
                ptr::null::<libc::timespec>(),
            )
        };
        self.unreaped = 0;
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        // SAFETY: io_destroy(2) needs a context of io_setup(2) that is not used again: ours.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn count(file: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(file, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn each_ring_counts_once_however_many_there_are() {
        let mut ringer = Ringer::new().unwrap();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        for rings in [1, 2, 5 * RINGS_PER_REAP as u64] {
            for _ in 0..rings {
                ringer.ring(bell.as_fd());
            }
            assert_eq!(count(&bell), rings);
        }
    }

    #[test]
    fn a_full_doorbell_that_blocks_does_not_block_us() {
        let mut ringer = Ringer::new().unwrap();
        let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        for _ in 0..100 {
            ringer.ring(bell.as_fd());
        }
        assert!(count(&bell) >= u64::MAX - 1);
    }

    /// The race that made a shard sleep in io_uring_enter(2) when it rang by a write.
    #[test]
    fn a_doorbell_that_is_switched_between_blocking_and_not_does_not_block_us() {
        let mut ringer = Ringer::new().unwrap();
        let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::fcntl_setfl(&bell, OFlags::NONBLOCK).unwrap();
                    rustix::fs::fcntl_setfl(&bell, OFlags::empty()).unwrap();
                }
            });
            for _ in 0..20_000 {
                ringer.ring(bell.as_fd());
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
