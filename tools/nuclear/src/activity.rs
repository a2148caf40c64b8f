//! What the threads of a process have done, as the kernel accounts for it (proc_pid_task(5)).
//!
//! The invariant to remember: a look wakes nobody. It reads counters that the kernel keeps anyway,
//! and a thread that sleeps through two looks has the same ones in both.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::Failure;

/// One thread, since it was born or between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) name: String,
    /// Context switches of either kind: each is a thread that had been woken and gave up its core.
    pub(crate) wake_ups: u64,
    /// Time on a core, in nanoseconds.
    pub(crate) cpu_ns: u64,
}

/// All threads of a process at one moment, by their ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Activity(BTreeMap<u32, Thread>);

impl Activity {
    /// Looks at the process `id`.
    pub(crate) fn of_process(id: u32) -> Result<Self, Failure> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{id}/task"))? {
            let entry = entry?;
            let thread_id = entry.file_name().to_string_lossy().parse()?;
            if let Some(thread) = Thread::look(&entry.path())? {
                threads.insert(thread_id, thread);
            }
        }
        Ok(Self(threads))
    }

    /// The threads that did something since `before`, and what. One that has ended since counts as
    /// one wake-up, because it had to be woken for that; one that was born and ended between the
    /// two looks is not seen.
    pub(crate) fn since(&self, before: &Self) -> Vec<Thread> {
        let ended =
            before.0.iter().filter(|(id, _)| !self.0.contains_key(id)).map(|(_, thread)| Thread {
                name: format!("{} (ended)", thread.name),
                wake_ups: 1,
                cpu_ns: 0,
            });
        let alive = self.0.iter().map(|(id, now)| {
            let then = before.0.get(id).cloned().unwrap_or_default();
            Thread {
                name: now.name.clone(),
                wake_ups: now.wake_ups.saturating_sub(then.wake_ups),
                cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
            }
        });
        ended.chain(alive).filter(|thread| thread.wake_ups > 0 || thread.cpu_ns > 0).collect()
    }
}

impl Thread {
    /// Reads the counters in `directory`; `None` when the thread has just ended.
    fn look(directory: &Path) -> Result<Option<Self>, Failure> {
        let read = |file: &str| match fs::read_to_string(directory.join(file)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if has_ended(&error) => Ok(None),
            Err(error) => {
                Err(format!("cannot read {file} of a thread of the daemon: {error}").into())
            }
        };
        let texts: [Result<_, Failure>; 3] = ["comm", "status", "schedstat"].map(read);
        let [Some(name), Some(status), Some(times)] = texts.map(Result::transpose) else {
            return Ok(None);
        };
        Self::parse(&name?, &status?, &times?).map(Some)
    }

    fn parse(name: &str, status: &str, times: &str) -> Result<Self, Failure> {
        let switches = |kind: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'));
            let count = line.and_then(|count| count.trim().parse::<u64>().ok());
            count.ok_or_else(|| format!("no {kind} in a thread's status"))
        };
        let cpu_ns = times.split_whitespace().next().and_then(|time| time.parse().ok());
        Ok(Self {
            name: name.trim().to_owned(),
            wake_ups: switches("voluntary_ctxt_switches")?
                + switches("nonvoluntary_ctxt_switches")?,
            cpu_ns: cpu_ns.ok_or("no time in a thread's schedstat")?,
        })
    }
}

/// Whether a file is unreadable because its thread is gone: before it was opened, or since.
fn has_ended(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn only_the_thread_that_was_woken_has_done_something() {
        let (wake, told) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel();
        let sleeper = thread::Builder::new().name("sleeper".into()).spawn(move || {
            for () in told {
                answer.send(()).unwrap();
            }
        });
        let (_asleep, never) = mpsc::channel::<()>();
        let other = thread::Builder::new().name("other".into()).spawn(move || never.recv());
        thread::sleep(std::time::Duration::from_millis(200));

        let before = Activity::of_process(std::process::id()).unwrap();
        for _ in 0..3 {
            wake.send(()).unwrap();
            answered.recv().unwrap();
            thread::sleep(std::time::Duration::from_millis(20));
        }
        let did = Activity::of_process(std::process::id()).unwrap().since(&before);
        let named = |name: &str| did.iter().find(|thread| thread.name == name);
        let woken = named("sleeper").unwrap();
        assert!(woken.wake_ups >= 3 && woken.cpu_ns > 0, "{woken:?}");
        assert_eq!(named("other"), None);
        drop((wake, _asleep));
        sleeper.unwrap().join().unwrap();
        other.unwrap().join().unwrap().unwrap_err();
    }

    #[test]
    fn a_thread_that_has_ended_was_woken_once() {
        let thread = Thread { name: "helper".into(), wake_ups: 9, cpu_ns: 9 };
        let before = Activity(BTreeMap::from([(7, thread)]));
        let did = Activity(BTreeMap::new()).since(&before);
        let ended = Thread { name: "helper (ended)".into(), wake_ups: 1, cpu_ns: 0 };
        assert_eq!(did, [ended]);
    }

    #[test]
    fn a_kernel_without_a_counter_is_reported_by_its_name() {
        let failure = Thread::parse("x", "voluntary_ctxt_switches:\t1\n", "1 2 3").unwrap_err();
        assert!(failure.to_string().contains("nonvoluntary"), "{failure}");
    }
}
