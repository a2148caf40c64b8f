//! Threads for what blocks, as many as there is work, up to a bound, and none while there is none.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A keyring that waits for its user must not hold up the names of other providers' hosts.
pub(super) const THREADS_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

#[derive(Clone)]
pub(super) struct Threads {
    /// Where the executor could run when it began: wherever its thread is by then, these may run there.
    cores: CpuSet,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
}

/// Where an outcome is left for the task that waits for it.
struct Letter<T> {
    outcome: Option<Outcome<T>>,
    waker: Option<Waker>,
}

impl Threads {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { cores: sched_getaffinity(None)?, state: Arc::default() })
    }

    /// Does `work` on one of the threads; its outcome, or its panic.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let letter = Arc::new(Mutex::new(Letter { outcome: None, waker: None }));
        let sent = Arc::clone(&letter);
        self.push(Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            let waker = {
                let mut letter = sent.lock().expect("no holder panics");
                letter.outcome = Some(outcome);
                letter.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        poll_fn(|context| {
            let mut letter = letter.lock().expect("no holder panics");
            match letter.outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    letter.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn push(&self, job: Job) {
        {
            let mut state = self.state();
            state.jobs.push_back(job);
            if state.threads == THREADS_MAX {
                return;
            }
            state.threads += 1;
        }
        let threads = self.clone();
        let thread = thread::Builder::new().name("annulus-block".into());
        let started = thread.spawn(move || {
            // Where it cannot, it runs where the executor does.
            let _ = sched_setaffinity(None, &threads.cores);
            threads.work();
        });
        if let Err(error) = started {
            tracing::warn!(%error, "cannot start a thread; what blocks is done on the executor's");
            self.work();
        }
    }

    /// Does jobs until there are none.
    fn work(&self) {
        // Ends with the jobs.
        loop {
            let job = {
                let mut state = self.state();
                match state.jobs.pop_front() {
                    Some(job) => job,
                    None => {
                        state.threads -= 1;
                        return;
                    }
                }
            };
            job();
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.state().threads
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}
