//! The data shard's own uring: what it waits for, and what it asks the kernel to do.
//!
//! One of the few files with `unsafe`: an entry names a descriptor, and the kernel uses it after the
//! call. The descriptors are closed only when all operations on them have completed (see
//! `Descriptors` in the shard). No entry names a buffer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Entries of the submission queue; it is submitted when full.
const ENTRIES: u32 = 64;
/// Fewest and most entries of the completion queue.
const COMPLETIONS_MIN: u32 = 512;
const COMPLETIONS_MAX: u32 = 32 * 1024;
/// `IORING_ENTER_GETEVENTS` of io_uring_enter(2).
const ENTER_GETEVENTS: u32 = 1;

/// What an operation was for; comes back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The shard's own doorbell: mail, or news from a worker.
    Wake,
    /// A client's request doorbell has been rung.
    Doorbell(SlotKey),
    /// A client's socket has bytes or was hung up.
    Socket(SlotKey),
    /// An operation that was asked to end had already ended; says nothing by itself.
    Removed,
}

/// A slot and which of its connections is meant: completions may come after the slot has moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotKey {
    pub(super) slot: u32,
    /// Modulo 2²⁴.
    pub(super) generation: u32,
}

impl Purpose {
    const fn user_data(self) -> u64 {
        let (kind, key) = match self {
            Self::Wake => (0, SlotKey { slot: 0, generation: 0 }),
            Self::Doorbell(key) => (1, key),
            Self::Socket(key) => (2, key),
            Self::Removed => (3, SlotKey { slot: 0, generation: 0 }),
        };
        kind << 56 | (key.generation as u64 & 0x00FF_FFFF) << 32 | key.slot as u64
    }

    fn from_user_data(data: u64) -> Self {
        // Note: cannot truncate: both are masked to their width.
        let key = SlotKey {
            slot: (data & 0xFFFF_FFFF) as u32,
            generation: (data >> 32 & 0x00FF_FFFF) as u32,
        };
        match data >> 56 {
            1 => Self::Doorbell(key),
            2 => Self::Socket(key),
            3 => Self::Removed,
            _ => Self::Wake,
        }
    }
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) purpose: Purpose,
    /// The operation's result: poll bits, or a negated errno.
    pub(super) result: i32,
    /// True when the operation goes on: a multishot poll that is still armed.
    pub(super) more: bool,
}

pub(super) struct Uring {
    ring: IoUring,
}

impl Uring {
    /// A uring that only this thread uses, whose completions are made when it enters the kernel.
    ///
    /// # Errors
    ///
    /// The system's; io_uring may be disabled (`kernel.io_uring_disabled`).
    pub(super) fn new(connection_count: usize) -> io::Result<Self> {
        // A connection has two polls, the shard's own doorbell one, and a cancel that succeeds completes only
        // what it has cancelled. So there is room for one of each.
        let completions = u32::try_from(2 * connection_count + 1).unwrap_or(u32::MAX);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completions.clamp(COMPLETIONS_MIN, COMPLETIONS_MAX).next_power_of_two())
            .build(ENTRIES)?;
        Ok(Self { ring })
    }

    /// Watches `file` until told otherwise: readable, or hung up.
    pub(super) fn watch(&mut self, file: BorrowedFd<'_>, purpose: Purpose) {
        let events = (libc_poll::IN | libc_poll::RDHUP) as u32;
        let entry = opcode::PollAdd::new(Fd(file.as_raw_fd()), events).multi(true).build();
        self.push(entry, purpose);
    }

    /// Ends the operation that was started for `purpose`; its last completion comes without `more`.
    ///
    /// By `IORING_OP_ASYNC_CANCEL`, for polls too: `IORING_OP_POLL_REMOVE` gives up with EALREADY
    /// on a poll that is just being triggered, and leaves it armed.
    pub(super) fn cancel(&mut self, purpose: Purpose) {
        let cancel = opcode::AsyncCancel::new(purpose.user_data()).build();
        self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS), Purpose::Removed);
    }

    /// Submits what was pushed. Never waits.
    pub(super) fn submit(&mut self) {
        if !self.ring.submission().is_empty() {
            // What cannot be submitted now stays in the queue for the next time.
            let _ = self.ring.submit();
        }
    }

    /// True when the kernel has completions that it makes only when we enter, or such as found no room: who is
    /// watched may complete more than once before anybody looks. One line to look at.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        let enters = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        enters || !self.ring.completion().is_empty()
    }

    /// Submits, and lets the kernel make completions. Never waits.
    pub(super) fn enter(&mut self) {
        // The crate asks for events only when it is to wait for some, hence the raw call.
        let to_submit = u32::try_from(self.ring.submission().len()).unwrap_or(ENTRIES);
        // SAFETY: `enter` needs arguments that the kernel accepts as they are: as many entries as
        // the queue holds, nothing to wait for, a flag of io_uring_enter(2), and no argument.
        let _ = unsafe { self.ring.submitter().enter::<()>(to_submit, 0, ENTER_GETEVENTS, None) };
    }

    /// Submits, then sleeps until something completes or `timeout` is over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        // Any error (a signal, the timeout) only means that we look again.
        let _ = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
    }

    /// The next completion.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let entry: cqueue::Entry = self.ring.completion().next()?;
        Some(Event {
            purpose: Purpose::from_user_data(entry.user_data()),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
        })
    }

    fn push(&mut self, entry: squeue::Entry, purpose: Purpose) {
        let entry = entry.user_data(purpose.user_data());
        // Bounded: submitting a full queue empties it.
        for _ in 0..3 {
            // SAFETY: `push` needs descriptors and buffers that stay valid until completion. There
            // are no buffers. Descriptors: the caller owns them and closes them only after their
            // operations' last completions (`DataShard::release_if_done`).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            let _ = self.ring.submit();
        }
        panic!("the kernel does not take submissions");
    }
}

/// poll(2) bits as io_uring takes them.
mod libc_poll {
    pub(super) const IN: i32 = 0x001;
    pub(super) const RDHUP: i32 = 0x2000;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Doorbell;
    use std::os::fd::AsFd;

    fn drain(uring: &mut Uring) -> Vec<Event> {
        uring.enter();
        std::iter::from_fn(|| uring.next_event()).collect()
    }

    #[test]
    fn a_purpose_survives_the_kernel() {
        let key = SlotKey { slot: u32::MAX, generation: 0x00FF_FFFF };
        for purpose in
            [Purpose::Wake, Purpose::Doorbell(key), Purpose::Socket(key), Purpose::Removed]
        {
            assert_eq!(Purpose::from_user_data(purpose.user_data()), purpose);
        }
    }

    #[test]
    fn every_ring_of_a_watched_doorbell_completes_without_a_read() {
        let mut uring = Uring::new(1).unwrap();
        let doorbell = Doorbell::new().unwrap();
        uring.watch(doorbell.as_fd(), Purpose::Wake);
        assert!(drain(&mut uring).is_empty());
        for _ in 0..3 {
            doorbell.ring();
            let events = drain(&mut uring);
            assert_eq!(events.len(), 1);
            assert!(events[0].more);
        }
        uring.cancel(Purpose::Wake);
        let last: Vec<bool> = drain(&mut uring)
            .iter()
            .filter(|event| event.purpose == Purpose::Wake)
            .map(|event| event.more)
            .collect();
        assert_eq!(last, [false]);
    }

    #[test]
    fn completions_that_found_no_room_are_known_and_come() {
        const COUNT: u32 = COMPLETIONS_MIN + 88;
        let mut uring = Uring::new(1).unwrap();
        let doorbells: Vec<_> = (0..COUNT).map(|_| Doorbell::new().unwrap()).collect();
        for (slot, doorbell) in (0..).zip(&doorbells) {
            let key = SlotKey { slot, generation: 0 };
            uring.watch(doorbell.as_fd(), Purpose::Doorbell(key));
        }
        assert!(drain(&mut uring).is_empty());
        doorbells.iter().for_each(Doorbell::ring);

        // Entered again and again before anybody looks, as when a full queue is submitted; a kernel makes as few
        // as 20 completions at a time.
        (0..COUNT).for_each(|_| uring.enter());
        let mut events: Vec<Event> = std::iter::from_fn(|| uring.next_event()).collect();
        assert_eq!(events.len(), COMPLETIONS_MIN as usize);
        // Bounded: a turn of each.
        for _ in 0..COUNT {
            if uring.has_work() {
                events.append(&mut drain(&mut uring));
            }
        }
        let mut slots: Vec<u32> = events
            .into_iter()
            .map(|event| match event.purpose {
                Purpose::Doorbell(key) => key.slot,
                other => panic!("{other:?}"),
            })
            .collect();
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..COUNT));
    }

    #[test]
    fn a_wait_ends_with_its_timeout() {
        let mut uring = Uring::new(1).unwrap();
        uring.wait(Some(Duration::from_millis(1)));
        assert!(uring.next_event().is_none());
    }
}
