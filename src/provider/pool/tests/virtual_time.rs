//! Time that stands still until everybody waits, and then jumps to the next timer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use super::super::seams::{Local, Time};
use crate::sync::{AtomicBool, Ordering};

/// A clock that begins at 1,000 s; clones are the same one.
#[derive(Clone, Default)]
pub(in super::super) struct VirtualTime(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    passed: Duration,
    timers_set: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
}

const BEGIN: Duration = Duration::from_secs(1000);

impl VirtualTime {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Moves on, and wakes whom that concerns.
    pub(in super::super) fn advance(&self, by: Duration) {
        let mut inner = self.lock();
        inner.passed += by;
        let now = BEGIN + inner.passed;
        while let Some(entry) = inner.timers.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().wake();
        }
    }

    /// How many timers anybody has ever waited for.
    pub(in super::super) fn timers_set(&self) -> u64 {
        self.lock().timers_set
    }

    /// Runs `work` to its end; time moves whenever everybody waits.
    pub(in super::super) fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        for _ in 0..1_000_000 {
            if let Some(output) = self.turn(work.as_mut()) {
                return output;
            }
            assert!(self.jump(), "everybody waits for nothing");
        }
        panic!("it never ends");
    }

    /// Lets `work` do what it can do for `duration`, and gives its output if it has ended.
    pub(in super::super) fn run_for<F: Future>(
        &self,
        duration: Duration,
        mut work: Pin<&mut F>,
    ) -> Option<F::Output> {
        let until = self.now() + duration;
        loop {
            if let Some(output) = self.turn(work.as_mut()) {
                return Some(output);
            }
            let next = self.lock().timers.first_key_value().map(|((at, _), _)| *at);
            match next {
                Some(at) if at <= until => assert!(self.jump()),
                _ => {
                    self.advance(until - self.now());
                    return None;
                }
            }
        }
    }

    /// Polls until nobody is woken any more.
    fn turn<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        while flag.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(output);
            }
        }
        None
    }

    /// To the next timer; false when there is none.
    fn jump(&self) -> bool {
        let next = self.lock().timers.first_key_value().map(|((at, _), _)| *at);
        next.inspect(|at| self.advance(at.saturating_sub(self.now()))).is_some()
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Time for VirtualTime {
    fn now(&self) -> Duration {
        BEGIN + self.lock().passed
    }

    fn today(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }

    fn sleep(&self, duration: Duration) -> Local<'static, ()> {
        let at = self.now() + duration;
        Box::pin(Sleep { time: self.clone(), at, id: None })
    }
}

struct Sleep {
    time: VirtualTime,
    at: Duration,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.time.now() >= self.at {
            return Poll::Ready(());
        }
        let id = self.id;
        let time = self.time.clone();
        let mut inner = time.lock();
        let id = id.unwrap_or_else(|| {
            inner.timers_set += 1;
            inner.timers_set
        });
        self.id = Some(id);
        inner.timers.insert((self.at, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.time.lock().timers.remove(&(self.at, id));
        }
    }
}
