//! Who is to be woken when.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Executor;

/// Told apart from others of the same time by a number.
type Key = (Instant, u64);

#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Key, Rc<Timer>>,
    next_number: u64,
}

/// One that is set, as its sleeper knows it: to look at it costs no search, because a task looks at all
/// its deadlines whenever it runs.
pub(super) struct Timer {
    is_due: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Timers {
    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes one that is due out.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Rc<Timer>> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn set(&mut self, at: Instant, waker: Waker) -> (Key, Rc<Timer>) {
        let key = (at, self.next_number);
        self.next_number += 1;
        let timer = Rc::new(Timer { is_due: Cell::new(false), waker: RefCell::new(waker) });
        self.waiting.insert(key, Rc::clone(&timer));
        (key, timer)
    }
}

impl Timer {
    /// Wakes its sleeper.
    pub(super) fn ring(&self) {
        self.is_due.set(true);
        self.waker.borrow().wake_by_ref();
    }
}

/// Ends when its time has come.
pub(super) struct Sleep {
    executor: Rc<Executor>,
    /// None: so far away that the clock has no such time.
    at: Option<Instant>,
    /// Set when it was first polled.
    timer: Option<(Key, Rc<Timer>)>,
}

impl Sleep {
    pub(super) fn new(executor: Rc<Executor>, duration: Duration) -> Self {
        Self { executor, at: Instant::now().checked_add(duration), timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match (&self.timer, self.at) {
            (Some((_, timer)), _) if timer.is_due.get() => return Poll::Ready(()),
            (Some((_, timer)), _) => timer.waker.borrow_mut().clone_from(context.waker()),
            (None, Some(at)) if Instant::now() >= at => return Poll::Ready(()),
            (None, Some(at)) => {
                let set = self.executor.timers.borrow_mut().set(at, context.waker().clone());
                self.timer = Some(set);
            }
            (None, None) => {}
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((key, timer)) = self.timer.take()
            && !timer.is_due.get()
        {
            let _ = self.executor.timers.borrow_mut().waiting.remove(&key);
        }
    }
}
