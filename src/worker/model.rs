//! What the model checks have in place of tokio, and how they run a worker. Not compiled into the
//! program.
//!
//! One executor for each of loom's threads. The invariant to remember: it sleeps only in loom, and
//! only when no task has been woken, so that a task whose wake-up got lost is a deadlock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{AsyncHandler, WorkerOptions, WorkerStop};
use crate::link::WorkerEnd;
use crate::protocol::Codec;
use crate::wake::{WorkerDoorbell, WorkerWaker};
use crate::wire::MessageType;

loom::thread_local! {
    static EXECUTOR: RefCell<Executor> = RefCell::default();
}

/// What the tasks of one thread have left for their executor.
#[derive(Default)]
struct Executor {
    spawned: Vec<Task>,
    /// Who sleeps; all wake as soon as nobody has anything else to do.
    sleepers: Vec<Waker>,
    /// Who waits for the doorbell, and which one.
    waiting: Option<(Waker, WorkerDoorbell)>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Set while its task has something to do.
struct Woken(Mutex<bool>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.0.lock().expect("no holder panics") = true;
    }
}

impl Woken {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(true)))
    }

    fn take(&self) -> bool {
        mem::take(&mut *self.0.lock().expect("no holder panics"))
    }
}

fn with<R>(act: impl FnOnce(&mut Executor) -> R) -> R {
    EXECUTOR.with(|executor| act(&mut executor.borrow_mut()))
}

/// In which order tasks run that have been woken together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As tokio does.
    OldestFirst,
    /// Nothing may depend on tokio's order.
    NewestFirst,
}

/// Runs `main` and the tasks that it spawns until `main` has ended.
fn block_on<R>(main: impl Future<Output = R>, order: Order) -> R {
    let mut main = pin!(main);
    let main_woken = Woken::new();
    let mut tasks: Vec<(Task, Arc<Woken>)> = Vec::new();
    // Bounded by loom, which counts its steps.
    loop {
        let mut idle = true;
        if main_woken.take() {
            idle = false;
            let waker = Waker::from(Arc::clone(&main_woken));
            if let Poll::Ready(result) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
        }
        tasks.retain_mut(|(task, woken)| {
            if !woken.take() {
                return true;
            }
            idle = false;
            let waker = Waker::from(Arc::clone(woken));
            task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
        });
        for task in with(|executor| mem::take(&mut executor.spawned)) {
            idle = false;
            let place = if order == Order::OldestFirst { tasks.len() } else { 0 };
            tasks.insert(place, (task, Woken::new()));
        }
        if !idle {
            continue;
        }
        let sleepers = with(|executor| mem::take(&mut executor.sleepers));
        if sleepers.is_empty() {
            let (waker, doorbell) =
                with(|executor| executor.waiting.take()).expect("somebody waits for the doorbell");
            doorbell.wait_for_ring();
            waker.wake();
        } else {
            loom::thread::yield_now();
            sleepers.into_iter().for_each(Waker::wake);
        }
    }
}

/// Runs `task` beside the others, on this thread.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    with(|executor| executor.spawned.push(Box::pin(task)));
}

/// Ends once the others have nothing to do; models have no clock.
pub(super) async fn sleep(_duration: Duration) {
    let mut asleep = false;
    poll_fn(|context| {
        if asleep {
            return Poll::Ready(());
        }
        asleep = true;
        with(|executor| executor.sleepers.push(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// The worker's end of its waker.
pub(super) struct Doorbell {
    rings: WorkerDoorbell,
}

impl Doorbell {
    pub(super) fn new(rings: WorkerDoorbell) -> io::Result<Self> {
        Ok(Self { rings })
    }

    /// Waits for a ring and takes all there are.
    pub(super) async fn rung(&mut self) -> io::Result<bool> {
        poll_fn(|context| {
            if self.rings.take() {
                return Poll::Ready(Ok(true));
            }
            let waiting = (context.waker().clone(), Arc::clone(&self.rings));
            with(|executor| executor.waiting = Some(waiting));
            Poll::Pending
        })
        .await
    }
}

/// Models have no cores.
pub(super) struct Cores;

impl Cores {
    pub(super) fn of_this_thread() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) fn run_on_all_but(&self, _taken: impl Iterator<Item = u32>) {}
}

/// A worker executor that has not started.
pub struct Worker(WorkerOptions);

/// Ends a worker executor.
#[derive(Clone)]
pub struct Stop(Arc<WorkerStop>);

impl Worker {
    /// A worker with one handler, for the shard at the other end of `link`; `waker` and `doorbell`
    /// are the two ends of what wakes it.
    #[must_use]
    pub fn new(
        link: WorkerEnd,
        (message_type, handler): (MessageType, Arc<dyn AsyncHandler>),
        codec: Arc<dyn Codec>,
        waker: WorkerWaker,
        doorbell: WorkerDoorbell,
    ) -> (Self, Stop) {
        let stop = Arc::new(WorkerStop::new(Arc::new(waker)));
        let options = WorkerOptions {
            links: vec![link],
            handlers: HashMap::from([(message_type, handler)]),
            codecs: Arc::new([codec]),
            request_timeout: None,
            doorbell,
            stop: Arc::clone(&stop),
        };
        (Self(options), Stop(stop))
    }

    /// Serves on this thread until it is told to stop.
    pub fn run(self, order: Order) {
        block_on(super::run(self.0, || {}), order).expect("nothing here fails");
        // What tasks have left belongs to this execution.
        with(mem::take);
    }
}

impl Stop {
    /// As `IpcServer` does once its shards have stopped.
    pub fn stop(&self) {
        self.0.stop();
    }
}
