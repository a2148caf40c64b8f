//! How soon the kernel runs a thread of ours that wakes up. One of the few files with `unsafe`.
//!
//! Since Linux 6.6 the fair scheduler gives each thread a virtual deadline, one slice of time ahead
//! (EEVDF), and since 6.12 a thread may choose the length of its slice. A short one means an early
//! deadline: a thread that has just been woken runs before others that have longer ones, and in place
//! of one that is running (`PREEMPT_SHORT`). Its share of the processor stays what it was.
//!
//! The invariant to remember: only the slice of the calling thread changes, not its policy, its nice
//! value or what its children get; and nothing depends on whether it did.
#![allow(unsafe_code)]

use std::io;

/// The shortest slice that Linux grants, in nanoseconds.
const SLICE_NS: u64 = 100_000;
/// Size of `struct sched_attr` in its first version, which has all that is needed here, in bytes.
const ATTRIBUTES_SIZE: u32 = 48;

static_assertions::const_assert_eq!(size_of::<libc::sched_attr>(), ATTRIBUTES_SIZE as usize);

/// Asks for a short slice for the calling thread: for threads that do a little whenever they are woken
/// and then sleep. Threads and programs that it starts later have the usual slice.
///
/// Does nothing to a thread that is not scheduled as most are (`SCHED_OTHER`), because somebody has
/// chosen that. Before Linux 6.12 nothing changes either.
///
/// # Errors
///
/// The system's, where a filter forbids the calls. Everything works without it, only later beside
/// other work on the same core.
pub(crate) fn ask_for_short_slices() -> io::Result<()> {
    let mut attributes = attributes_of_this_thread()?;
    if attributes.sched_policy != libc::SCHED_OTHER.unsigned_abs() {
        return Ok(());
    }
    attributes.sched_runtime = SLICE_NS;
    attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: sched_setattr(2) only reads the attributes, whose size stands in their first field.
    let set = unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0 as libc::c_uint)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes_of_this_thread() -> io::Result<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: ATTRIBUTES_SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_getattr(2) writes at most as many bytes as it is told, which are there and may
    // hold anything: all fields are integers.
    let got = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            0,
            &raw mut attributes,
            ATTRIBUTES_SIZE,
            0 as libc::c_uint,
        )
    };
    if got == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// The slice of a thread that asks for nothing, before and after it has asked, and then of a thread
    /// that it starts.
    fn slices() -> [u64; 3] {
        let slice = || attributes_of_this_thread().unwrap().sched_runtime;
        let before = slice();
        ask_for_short_slices().unwrap();
        [before, slice(), thread::spawn(slice).join().unwrap()]
    }

    #[test]
    fn only_the_slice_of_the_thread_that_asks_changes() {
        let (before, [usual, short, childs], after) = thread::spawn(|| {
            let before = attributes_of_this_thread().unwrap();
            (before, slices(), attributes_of_this_thread().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(
            (before.sched_policy, before.sched_nice),
            (after.sched_policy, after.sched_nice)
        );
        if usual == 0 {
            println!("skipped: this kernel has no slices of a thread's own (Linux 6.12 has)");
            return;
        }
        assert_eq!((short, childs), (SLICE_NS, usual));
    }

    #[test]
    fn a_policy_that_somebody_chose_stays() {
        let after = thread::spawn(|| {
            let mut batch = attributes_of_this_thread().unwrap();
            batch.sched_policy = libc::SCHED_BATCH.unsigned_abs();
            // SAFETY: as in `ask_for_short_slices`.
            let set = unsafe {
                libc::syscall(libc::SYS_sched_setattr, 0, &raw const batch, 0 as libc::c_uint)
            };
            assert_eq!(set, 0);
            ask_for_short_slices().unwrap();
            attributes_of_this_thread().unwrap().sched_policy
        });
        assert_eq!(after.join().unwrap(), libc::SCHED_BATCH.unsigned_abs());
    }
}
