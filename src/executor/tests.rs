use std::cell::Cell;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use futures_lite::future::{or, poll_once, yield_now};
use rustix::thread::CpuSet;

use super::testing::{run, task};
use super::*;

/// Fails a test that would wait for ever.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let too_late = async {
        sleep(Duration::from_secs(20)).await;
        panic!("nobody woke it");
    };
    or(work, too_late).await
}

/// Counts how often it was dropped.
struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        // Too late for a task, and no reason to fail.
        spawn(async {});
    }
}

#[test]
fn tasks_end_with_main() {
    let dropped = Rc::new(Cell::new(0));
    let token = Rc::clone(&dropped);
    run(async move {
        for _ in 0..5 {
            let token = Dropped(Rc::clone(&token));
            spawn(async move {
                let _token = token;
                pending::<()>().await;
            });
        }
        yield_now().await;
        assert_eq!(token.get(), 0);
    });
    assert_eq!(dropped.get(), 5);
}

#[test]
fn a_sleep_lasts_and_the_longest_one_is_none() {
    run(async {
        let begun = Instant::now();
        in_time(sleep(Duration::from_millis(30))).await;
        assert!(begun.elapsed() >= Duration::from_millis(30));
        let mut endless = pin!(sleep(Duration::MAX));
        assert!(poll_once(&mut endless).await.is_none());
    });
}

#[derive(Default)]
struct Crowd {
    inside: usize,
    most: usize,
}

#[test]
fn what_blocks_runs_on_a_few_threads() {
    let crowd = Arc::new((Mutex::new(Crowd::default()), Condvar::new()));
    let shared = Arc::clone(&crowd);
    run(async move {
        let begin = |_| {
            let shared = Arc::clone(&shared);
            task(block(move || {
                let (crowd, came) = &*shared;
                let mut crowd = crowd.lock().unwrap();
                crowd.inside += 1;
                crowd.most = crowd.most.max(crowd.inside);
                came.notify_all();
                // In vain, if so many cannot be there at once.
                let too_few = |crowd: &mut Crowd| crowd.most < BLOCKING_THREADS_MAX;
                let waited = came.wait_timeout_while(crowd, Duration::from_secs(2), too_few);
                drop(waited);
                // One more would come meanwhile.
                thread::sleep(Duration::from_millis(20));
                shared.0.lock().unwrap().inside -= 1;
            }))
        };
        let tasks: Vec<_> = (0..4 * BLOCKING_THREADS_MAX).map(begin).collect();
        for task in tasks {
            in_time(task).await;
        }
    });
    assert_eq!(crowd.0.lock().unwrap().most, BLOCKING_THREADS_MAX);
}

#[test]
fn what_blocks_runs_wherever_the_runtime_could_when_it_began() {
    let all = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)).unwrap();
    run(async move {
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
        let cores = in_time(block(|| sched_getaffinity(None).unwrap())).await;
        assert!(cores == all);
    });
}

#[test]
fn nobody_waits_for_what_blocks_at_the_end() {
    let (release, released) = mpsc::channel::<()>();
    let begun = Instant::now();
    run(async move {
        let mut blocked = pin!(block(move || released.recv_timeout(Duration::from_secs(20))));
        assert!(poll_once(&mut blocked).await.is_none());
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(release);
}

#[test]
fn a_panic_of_what_blocks_is_the_callers() {
    run(async {
        let failed = AssertUnwindSafe(async { block(|| panic!("out of order")).await });
        let failed = futures_lite::FutureExt::catch_unwind(failed);
        assert!(in_time(failed).await.is_err());
        assert_eq!(in_time(block(|| 7)).await, 7);
    });
}
