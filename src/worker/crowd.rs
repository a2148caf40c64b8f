//! Where a worker runs while it has many requests at once: not where a data shard sits with its client.
//!
//! With few requests the kernel may put the worker on that core, and does: there each is on its way
//! without waking another core. But a worker with many streams runs a little thousands of times a
//! second, and an editor's keystroke and the shard that answers it would wait behind it each time.
//!
//! The invariant to remember: no request waits for this, and whoever looks at the shards' places does
//! so only while there is a crowd that does something, so that an idle daemon makes no wake-ups.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

#[cfg(not(annulus_loom))]
use super::executor;
#[cfg(annulus_loom)]
use super::model as executor;
use super::session::LinkState;

/// Requests at once that are a crowd, and how few are no longer one.
const CROWD_MIN: usize = 32;
const CROWD_ENDS: usize = 16;
/// Between two looks at where the shards sit. They move when a client begins to ask, so this is how
/// long that one shares its core.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// The requests that a worker has at once.
pub(super) struct Crowd {
    links: Vec<Rc<LinkState>>,
    requests: Cell<usize>,
    /// Somebody looks at where the shards sit.
    watched: Cell<bool>,
    /// A request has begun, has said something or has ended since the last look.
    stirred: Cell<bool>,
    /// Who looks, while nothing stirs.
    resting: RefCell<Option<Waker>>,
}

/// One of them; it has left when this is dropped.
pub(super) struct Member(Rc<Crowd>);

impl Crowd {
    /// Of a worker with these links.
    pub(super) fn new(links: Vec<Rc<LinkState>>) -> Rc<Self> {
        Rc::new(Self {
            links,
            requests: Cell::new(0),
            watched: Cell::new(false),
            stirred: Cell::new(false),
            resting: RefCell::default(),
        })
    }

    /// One more request.
    pub(super) fn join(self: &Rc<Self>) -> Member {
        self.requests.set(self.requests.get() + 1);
        self.stir();
        if self.requests.get() >= CROWD_MIN && !self.watched.replace(true) {
            let crowd = Rc::clone(self);
            executor::spawn(async move { crowd.keep_aside().await });
        }
        Member(Rc::clone(self))
    }

    /// One of them does something.
    pub(super) fn stir(&self) {
        if !self.stirred.replace(true)
            && let Some(watcher) = self.resting.borrow_mut().take()
        {
            watcher.wake();
        }
    }

    /// Ends when a request has done something since it was last asked.
    async fn has_stirred(&self) {
        poll_fn(|context| {
            if self.stirred.replace(false) {
                return Poll::Ready(());
            }
            *self.resting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Keeps this thread off the cores where shards sit with their clients while there is a crowd.
    async fn keep_aside(&self) {
        // Without knowing which cores it had, the thread could not have them back.
        if let Ok(cores) = executor::Cores::of_this_thread() {
            let mut left = Vec::new();
            // Bounded by the requests' deadlines.
            while self.requests.get() > CROWD_ENDS {
                let taken: Vec<u32> =
                    self.links.iter().filter_map(|link| link.shard_beside()).collect();
                if taken != left {
                    cores.run_on_all_but(taken.iter().copied());
                    left = taken;
                }
                executor::sleep(LOOK_PERIOD).await;
                self.has_stirred().await;
            }
            if !left.is_empty() {
                cores.run_on_all_but(std::iter::empty());
            }
        }
        self.watched.set(false);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.stir();
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use std::sync::Arc;

    use futures_lite::FutureExt;
    use rustix::thread::sched_getaffinity;

    use super::*;
    use crate::link::link;
    use crate::pool::{BufferPool, PoolSizes};
    use crate::wake::{ShardWaker, WorkerWaker};

    /// Runs a test with a shard's waker and a crowd of nobody, on an executor and thread of its own,
    /// with the cores that the thread may run on.
    fn run<T>(test: impl AsyncFnOnce(Arc<ShardWaker>, Rc<Crowd>, Vec<u32>) -> T) -> T {
        let shard = Arc::new(ShardWaker::new().unwrap());
        let (waker, _doorbell) = WorkerWaker::new().unwrap();
        let pool = BufferPool::new(PoolSizes::for_config(12, 1 << 20)).unwrap();
        let (_shard_end, end) = link(1, pool, Arc::clone(&shard), Arc::new(waker)).unwrap();
        let crowd = Crowd::new(vec![Rc::new(LinkState::new(end))]);
        let too_late = async {
            executor::sleep(Duration::from_secs(60)).await;
            panic!("the test hangs");
        };
        crate::executor::run(test(shard, crowd, cores()).or(too_late)).unwrap()
    }

    fn cores() -> Vec<u32> {
        let cores = sched_getaffinity(None).unwrap();
        (0..1024).filter(|core| cores.is_set(*core as usize)).collect()
    }

    /// Waits until this thread may run on these cores alone.
    async fn moved_to(expected: &[u32]) {
        // Bounded by the limit of the whole test.
        while cores() != expected {
            executor::sleep(LOOK_PERIOD).await;
        }
    }

    async fn some_looks() {
        executor::sleep(LOOK_PERIOD * 5).await;
    }

    fn members(crowd: &Rc<Crowd>, count: usize) -> Vec<Member> {
        (0..count).map(|_| crowd.join()).collect()
    }

    #[test]
    fn a_crowd_keeps_off_the_core_where_a_shard_sits_and_comes_back_when_it_is_none() {
        run(async |shard, crowd, all| {
            let [taken, others @ ..] = all.as_slice() else { unreachable!("it runs somewhere") };
            if others.is_empty() {
                println!("skipped: there is one core, so nobody can keep off it");
                return;
            }
            let mut requests = members(&crowd, CROWD_MIN);
            shard.sit_beside(Some(*taken));
            moved_to(others).await;
            shard.sit_beside(None);
            crowd.stir();
            moved_to(&all).await;
            // While nothing stirs, nobody is in anybody's way.
            while crowd.stirred.get() || crowd.resting.borrow().is_none() {
                executor::sleep(LOOK_PERIOD).await;
            }
            shard.sit_beside(Some(*taken));
            some_looks().await;
            assert_eq!(cores(), all);
            crowd.stir();
            moved_to(others).await;
            // As many as it takes not to be one any more, and not earlier.
            requests.truncate(CROWD_ENDS + 1);
            some_looks().await;
            assert_eq!(cores(), others);
            requests.truncate(CROWD_ENDS);
            moved_to(&all).await;
            // The next crowd is watched again.
            requests.extend(members(&crowd, CROWD_MIN));
            moved_to(others).await;
        });
    }

    #[test]
    fn a_few_requests_stay_beside_the_shard() {
        run(async |shard, crowd, all| {
            shard.sit_beside(all.first().copied());
            let _requests = members(&crowd, CROWD_MIN - 1);
            some_looks().await;
            assert_eq!(cores(), all);
        });
    }

    #[test]
    fn a_crowd_does_not_leave_its_only_cores_nor_believe_in_cores_that_are_not_there() {
        run(async |shard, crowd, all| {
            let only = executor::Cores::of_this_thread().unwrap();
            only.run_on_all_but(all.iter().copied());
            assert_eq!(cores(), all);
            let _requests = members(&crowd, CROWD_MIN);
            shard.sit_beside(Some(u32::MAX - 1));
            some_looks().await;
            assert_eq!(cores(), all);
        });
    }

    #[test]
    fn nobody_looks_at_the_shards_once_a_crowd_has_left() {
        run(async |_shard, crowd, _all| {
            drop(members(&crowd, CROWD_MIN));
            // Bounded by the limit of the whole test. Whoever looks holds the crowd.
            while Rc::strong_count(&crowd) > 1 {
                executor::sleep(LOOK_PERIOD).await;
            }
            assert!(!crowd.watched.get());
        });
    }
}
