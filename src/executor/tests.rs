use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;

use futures_lite::future::{or, poll_once, yield_now};

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

/// Non-blocking, and read by tasks.
struct Reader {
    source: Source,
    socket: UnixStream,
}

impl Reader {
    fn pair() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Self { source: Source::new(&ours).unwrap(), socket: ours }, theirs)
    }

    async fn read(&self, target: &mut [u8]) -> usize {
        let received =
            poll_fn(|context| self.source.poll_receive(context, &self.socket, &mut *target));
        received.await.unwrap()
    }
}

#[test]
fn tasks_run_in_the_order_in_which_they_were_woken_and_end_with_main() {
    let (order, dropped) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
    let (ran, token) = (Rc::clone(&order), Rc::clone(&dropped));
    run(async move {
        for number in 0..5 {
            let (ran, token) = (Rc::clone(&ran), Dropped(Rc::clone(&token)));
            spawn(async move {
                ran.borrow_mut().push(number);
                yield_now().await;
                ran.borrow_mut().push(number + 10);
                let _token = token;
                pending::<()>().await;
            });
        }
        for _ in 0..3 {
            yield_now().await;
        }
    });
    assert_eq!(*order.borrow(), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    assert_eq!(dropped.get(), 5);
    assert!(!is_ours());
}

#[test]
fn a_place_is_used_again_and_wakers_of_the_task_before_wake_nobody() {
    run(async {
        let kept = Rc::new(RefCell::new(None));
        let (keep, executor) = (Rc::clone(&kept), current().unwrap());
        spawn(poll_fn(move |context| {
            *keep.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        }));
        yield_now().await;
        let before = executor.tasks.borrow().len();
        let polls = Rc::new(Cell::new(0));
        let count = Rc::clone(&polls);
        spawn(poll_fn(move |_| {
            count.set(count.get() + 1);
            Poll::<()>::Pending
        }));
        yield_now().await;
        assert_eq!((executor.tasks.borrow().len(), polls.get()), (before, 1));
        kept.take().unwrap().wake();
        yield_now().await;
        yield_now().await;
        assert_eq!(polls.get(), 1);
    });
}

#[test]
fn sleepers_wake_in_the_order_of_their_times_and_not_before() {
    run(async {
        let begun = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30, 10, 20]
            .map(|ms| {
                let order = Rc::clone(&order);
                task(async move {
                    sleep(Duration::from_millis(ms)).await;
                    assert!(begun.elapsed() >= Duration::from_millis(ms));
                    order.borrow_mut().push(ms);
                })
            })
            .into();
        for task in tasks {
            in_time(task).await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
    });
}

#[test]
fn a_sleep_that_is_dropped_leaves_nothing_and_the_longest_one_is_none() {
    run(async {
        let executor = current().unwrap();
        {
            let mut short = pin!(sleep(Duration::from_millis(5)));
            let mut endless = pin!(sleep(Duration::MAX));
            assert!(poll_once(&mut short).await.is_none());
            assert!(poll_once(&mut endless).await.is_none());
            assert_eq!(executor.timers.borrow().next().into_iter().count(), 1);
        }
        assert_eq!(executor.timers.borrow().next(), None);
    });
}

/// The other thread wakes at every point of going to sleep.
#[test]
fn a_task_that_another_thread_wakes_runs() {
    run(async {
        let (ask, asked) = mpsc::channel::<Waker>();
        let thread = thread::spawn(move || {
            for (index, waker) in asked.iter().enumerate() {
                // Bounded. The executor goes to sleep meanwhile.
                for _ in 0..index % 500 {
                    std::hint::spin_loop();
                }
                waker.wake();
            }
        });
        for _ in 0..20_000 {
            let mut is_asked = false;
            let answered = poll_fn(|context| {
                if is_asked {
                    return Poll::Ready(());
                }
                is_asked = true;
                ask.send(context.waker().clone()).unwrap();
                Poll::Pending
            });
            in_time(answered).await;
        }
        drop(ask);
        thread.join().unwrap();
    });
}

#[test]
fn who_waits_for_bytes_is_woken_for_each_of_them() {
    run(async {
        let (reader, mut writer) = Reader::pair();
        let thread = thread::spawn(move || {
            for count in 1..=2_000_u64 {
                writer.write_all(&[7; 10]).unwrap();
                for _ in 0..count % 1_000 {
                    std::hint::spin_loop();
                }
            }
        });
        let mut received = 0;
        while received < 20_000 {
            received += in_time(reader.read(&mut [0; 64])).await;
        }
        assert_eq!(in_time(reader.read(&mut [0; 64])).await, 0);
        thread.join().unwrap();
    });
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_seen() {
    run(async {
        let (reader, mut writer) = Reader::pair();
        writer.write_all(b"last").unwrap();
        drop(writer);
        // One edge tells of both.
        yield_now().await;
        assert_eq!(in_time(reader.read(&mut [0; 64])).await, 4);
        assert_eq!(in_time(reader.read(&mut [0; 64])).await, 0);
    });
}

#[test]
fn a_late_event_of_a_closed_descriptor_wakes_nobody_else() {
    run(async {
        let executor = current().unwrap();
        let (first, _first_writer) = Reader::pair();
        let data = source_data(&first);
        drop(first);
        let (second, _second_writer) = Reader::pair();
        assert_ne!(source_data(&second), data, "the same place, another descriptor");
        assert_eq!(source::split(source_data(&second))[0], source::split(data)[0]);
        executor.sources.tell(data);
        let readable = poll_fn(|context| second.source.poll_readable(context));
        assert!(poll_once(readable).await.is_none());
        executor.sources.tell(source_data(&second));
        in_time(poll_fn(|context| second.source.poll_readable(context))).await;
    });
}

fn source_data(reader: &Reader) -> u64 {
    reader.source.data()
}

#[test]
fn tasks_that_never_rest_keep_neither_descriptors_nor_timers_waiting() {
    run(async {
        spawn(async {
            loop {
                yield_now().await;
            }
        });
        let (reader, mut writer) = Reader::pair();
        for _ in 0..10 {
            writer.write_all(b"x").unwrap();
            assert_eq!(in_time(reader.read(&mut [0; 4])).await, 1);
            sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn what_blocks_runs_on_a_few_threads_that_end() {
    run(async {
        let executor = current().unwrap();
        let all = Arc::new(Barrier::new(blocking::THREADS_MAX));
        let begin = |number: usize| {
            let all = Arc::clone(&all);
            // Four must run at once, or none of them ends.
            task(block(move || {
                all.wait();
                number
            }))
        };
        let tasks: Vec<_> = (0..4 * blocking::THREADS_MAX).map(begin).collect();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(in_time(task).await, number);
        }
        // Bounded by the test's time.
        in_time(async {
            while executor.threads.count() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    });
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

#[test]
fn a_panic_of_a_task_ends_the_executor_and_the_thread_can_have_another() {
    let dropped = Rc::new(Cell::new(0));
    let token = Dropped(Rc::clone(&dropped));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        run(async move {
            spawn(async move {
                let _token = token;
                pending::<()>().await;
            });
            yield_now().await;
            spawn(async { panic!("a task") });
            pending::<()>().await;
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(dropped.get(), 1);
    assert_eq!(run(async { 3 }), 3);
}

#[test]
fn where_glommio_runs_the_thread_its_own_are_used() {
    glommio::LocalExecutor::default().run(async {
        assert!(!is_ours());
        let ran = Rc::new(Cell::new(false));
        let set = Rc::clone(&ran);
        spawn(async move { set.set(true) });
        sleep(Duration::from_millis(1)).await;
        assert!(ran.get());
        assert_eq!(block(|| 5).await, 5);
    });
}
