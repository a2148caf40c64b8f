//! An executor for threads that serve over the network: tasks, time, descriptors, work that blocks.
//!
//! glommio's executor pays for each of its sleeps: two timers set and taken back, its three urings
//! submitted to one by one, and a membarrier(2) that interrupts every other core on which the daemon
//! runs. A thread that is woken for each chunk of each stream spends most of its time on that. This one
//! sleeps in one epoll_pwait2(2), and has nothing to take back.
//!
//! It runs inside the one task of a glommio executor, as a data shard does: glommio makes the thread
//! and places it. Whoever calls [`spawn`], [`sleep`] and [`block`] on a thread that it does not run gets
//! glommio's, so the same code serves on both.
//!
//! The invariant to remember: only this thread runs and drops tasks. What other threads have of it are
//! wakers, which lead to [`Shared`] and nothing else.

mod blocking;
mod source;
mod timers;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll;

pub(crate) use self::source::Source;

use self::blocking::Threads;
use self::source::Sources;
use self::timers::{Sleep, Timers};
use crate::region::Doorbell;
use crate::sync::{AtomicBool, Ordering};

/// Tasks that run between two looks at the descriptors: those that wake each other without a pause
/// must not keep everybody else waiting.
const TASKS_PER_LOOK: usize = 256;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

/// What runs on this thread, if it is ours.
fn current() -> Option<Rc<Executor>> {
    CURRENT.with_borrow(Clone::clone)
}

/// True on a thread that our executor runs.
pub(crate) fn is_ours() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Runs `main`, and the tasks that are spawned meanwhile, until `main` has ended; the others are
/// dropped then.
///
/// # Errors
///
/// The system's, when no descriptor is left.
///
/// # Panics
///
/// With the panic of a task.
pub(crate) fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> io::Result<T> {
    let running = Running::enter()?;
    let output = Rc::new(RefCell::new(None));
    let end = Rc::clone(&output);
    running.0.spawn(async move {
        let ended = main.await;
        *end.borrow_mut() = Some(ended);
    });
    // Ends with `main`: each round runs what is ready, or sleeps.
    loop {
        running.0.run_ready();
        if let Some(ended) = output.borrow_mut().take() {
            return Ok(ended);
        }
        running.0.wait()?;
    }
}

/// Runs `task` beside the others, on this thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    match current() {
        Some(executor) => executor.spawn(task),
        None => {
            glommio::spawn_local(task).detach();
        }
    }
}

/// Waits. What is dropped earlier leaves nothing behind.
pub(crate) async fn sleep(duration: Duration) {
    match current() {
        Some(executor) => Sleep::new(executor, duration).await,
        None => glommio::timer::sleep(duration).await,
    }
}

/// Does `work`, which may take its time, on a thread of its own. Dropped, it goes on to its end, which
/// nobody learns of.
pub(crate) async fn block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match current() {
        Some(executor) => match executor.threads.run(work).await {
            Ok(output) => output,
            Err(panic) => resume_unwind(panic),
        },
        None => glommio::executor().spawn_blocking(work).await,
    }
}

/// The executor of one thread.
struct Executor {
    shared: Arc<Shared>,
    tasks: RefCell<Vec<Option<Task>>>,
    /// Places in `tasks` that are free.
    free: RefCell<Vec<usize>>,
    sources: Sources,
    timers: RefCell<Timers>,
    threads: Threads,
    epoll: OwnedFd,
    /// `main` has ended: nothing is spawned any more.
    is_closing: Cell<bool>,
}

struct Task {
    /// Taken out while it runs.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    ready: Arc<Ready>,
    waker: Waker,
}

/// What wakers and other threads see of an executor.
struct Shared {
    state: Mutex<State>,
    doorbell: Doorbell,
}

#[derive(Default)]
struct State {
    /// Tasks to run, the oldest first.
    ready: VecDeque<Arc<Ready>>,
    /// The thread is about to sleep, or does: who adds a task rings.
    is_parked: bool,
    /// The executor has ended: nothing runs any more.
    is_closed: bool,
}

/// One task, as its wakers know it.
struct Ready {
    place: usize,
    /// It is among the tasks to run.
    is_queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Both orderings pair with the swap in `run_task`: what was done before waking is seen there.
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_parked = {
            let mut state = self.shared.state();
            if state.is_closed {
                return;
            }
            state.ready.push_back(Arc::clone(self));
            std::mem::take(&mut state.is_parked)
        };
        if is_parked {
            self.shared.doorbell.ring();
        }
    }
}

impl Executor {
    fn new() -> io::Result<Self> {
        let shared = Shared { state: Mutex::default(), doorbell: Doorbell::new()? };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Sources::watch_doorbell(epoll.as_fd(), shared.doorbell.as_fd())?;
        Ok(Self {
            shared: Arc::new(shared),
            tasks: RefCell::default(),
            free: RefCell::default(),
            sources: Sources::default(),
            timers: RefCell::default(),
            threads: Threads::new()?,
            epoll,
            is_closing: Cell::new(false),
        })
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.is_closing.get() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            tasks.len() - 1
        });
        let is_queued = AtomicBool::new(false);
        let ready = Arc::new(Ready { place, is_queued, shared: Arc::clone(&self.shared) });
        let waker = Waker::from(Arc::clone(&ready));
        waker.wake_by_ref();
        tasks[place] = Some(Task { future: Some(Box::pin(task)), ready, waker });
    }

    /// Runs tasks until none is ready or it is time to look at the descriptors.
    fn run_ready(&self) {
        for _ in 0..TASKS_PER_LOOK {
            let Some(ready) = self.shared.state().ready.pop_front() else { return };
            self.run_task(&ready);
        }
    }

    fn run_task(&self, ready: &Arc<Ready>) {
        // Before it runs, so that who wakes it meanwhile has it run again. Pairs with the swap in
        // `wake_by_ref`.
        ready.is_queued.swap(false, Ordering::AcqRel);
        let taken = {
            let mut tasks = self.tasks.borrow_mut();
            // Its place may be another's by now: wakers outlive their task.
            let task = tasks[ready.place].as_mut().filter(|task| Arc::ptr_eq(&task.ready, ready));
            task.and_then(|task| Some((task.future.take()?, task.waker.clone())))
        };
        let Some((mut future, waker)) = taken else { return };
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = {
            let mut tasks = self.tasks.borrow_mut();
            match polled {
                Poll::Pending => {
                    if let Some(task) = &mut tasks[ready.place] {
                        task.future = Some(future);
                    }
                    return;
                }
                Poll::Ready(()) => tasks[ready.place].take(),
            }
        };
        self.free.borrow_mut().push(ready.place);
        // Outside of every borrow: what they hold may spawn, or wake, when it is dropped.
        drop((future, ended));
    }

    /// Waits for a descriptor, a timer or another thread; not at all while a task is ready.
    fn wait(&self) -> io::Result<()> {
        let is_idle = {
            let mut state = self.shared.state();
            // Seen by whoever adds a task from now on, under the same lock: no ring is lost.
            state.is_parked = state.ready.is_empty();
            state.is_parked
        };
        let timeout = match self.timers.borrow().next() {
            _ if !is_idle => Some(Duration::ZERO),
            next => next.map(|at| at.saturating_duration_since(Instant::now())),
        };
        let waited = self.sources.wait(self.epoll.as_fd(), timeout);
        self.shared.state().is_parked = false;
        self.sources.wake(waited?);
        self.wake_sleepers();
        Ok(())
    }

    fn wake_sleepers(&self) {
        if self.timers.borrow().next().is_none() {
            return;
        }
        let now = Instant::now();
        // Bounded: each round takes one out, and what is set meanwhile is due later.
        loop {
            // Outside of the borrow: a waker may run anything.
            let due = self.timers.borrow_mut().take_due(now);
            let Some(timer) = due else { return };
            timer.ring();
        }
    }
}

/// The executor that runs on this thread until this is dropped.
struct Running(Rc<Executor>);

impl Running {
    fn enter() -> io::Result<Self> {
        let executor = Rc::new(Executor::new()?);
        let other = CURRENT.replace(Some(Rc::clone(&executor)));
        assert!(other.is_none(), "one executor to a thread");
        Ok(Self(executor))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_closing.set(true);
        // Tasks lead to the executor: they go first, and while it can still be asked. Bounded: no
        // task comes any more.
        loop {
            let task = self.0.tasks.borrow_mut().pop();
            let Some(task) = task else { break };
            drop(task);
        }
        // What is queued leads to the queue.
        let queued = {
            let mut state = self.0.shared.state();
            state.is_closed = true;
            std::mem::take(&mut state.ready)
        };
        drop(queued);
        CURRENT.take();
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
