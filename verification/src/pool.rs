//! The free set of the buffer pool, with loom's cells for buffers: loom fails the model when two
//! accesses are not ordered.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::bitmap::Bitmap;
use crate::stage::{Bound, explore, explore_misuse};

struct Pool {
    free: Bitmap,
    buffers: Vec<UnsafeCell<u32>>,
}

impl Pool {
    fn new(count: u32) -> Arc<Self> {
        let buffers = (0..count).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { free: Bitmap::all_set(count), buffers })
    }

    /// Leases a buffer, writes to it, gives it back. False when none was free.
    fn use_one(&self) -> bool {
        let Some(number) = self.free.take() else { return false };
        // loom counts the access; nothing is dereferenced.
        self.buffers[number as usize].with_mut(|_| ());
        self.free.give(number);
        true
    }
}

#[test]
fn a_buffer_has_one_holder_at_a_time_and_comes_back_in_every_execution() {
    explore(Bound::None, || {
        let pool = Pool::new(1);
        let there = Arc::clone(&pool);
        let other = thread::spawn(move || there.use_one());
        let ours = pool.use_one();
        let theirs = other.join().unwrap();
        assert!(ours || theirs, "one of the two found it free");
        assert_eq!(pool.free.count(), 1);
    });
}

#[test]
fn pages_are_given_back_only_while_nobody_holds_the_buffer_in_every_execution() {
    explore(Bound::None, || {
        let pool = Pool::new(1);
        let there = Arc::clone(&pool);
        let user = thread::spawn(move || there.use_one());
        if pool.free.take_number(0) {
            pool.buffers[0].with_mut(|_| ());
            pool.free.give(0);
        }
        user.join().unwrap();
        assert_eq!(pool.free.count(), 1);
    });
}

#[test]
fn as_many_holders_as_buffers_never_find_the_pool_empty_in_every_execution() {
    explore(Bound::None, || {
        let pool = Pool::new(2);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.free.take().expect("two holders, two buffers"))
            })
            .collect();
        let taken: Vec<u32> = others.into_iter().map(|other| other.join().unwrap()).collect();
        assert_ne!(taken[0], taken[1], "one buffer was handed out twice");
        assert_eq!((pool.free.take(), pool.free.count()), (None, 0));
    });
}

#[test]
fn a_buffer_given_on_by_another_thread_comes_back_once_in_every_execution() {
    explore(Bound::None, || {
        let pool = Pool::new(1);
        let number = pool.free.take().unwrap();
        pool.buffers[number as usize].with_mut(|_| ());
        // As with a lease that travels to a worker: given back over there.
        let there = Arc::clone(&pool);
        let worker = thread::spawn(move || {
            there.buffers[number as usize].with_mut(|_| ());
            there.free.give(number);
        });
        let again = pool.use_one();
        worker.join().unwrap();
        assert_eq!(pool.free.count(), 1);
        assert!(again || pool.use_one());
    });
}

#[test]
fn a_buffer_given_back_by_two_threads_is_a_bug_that_panics_in_every_execution() {
    explore_misuse(Bound::None, "given back twice", || {
        let pool = Pool::new(1);
        let number = pool.free.take().unwrap();
        let there = Arc::clone(&pool);
        let other = thread::spawn(move || there.free.give(number));
        pool.free.give(number);
        other.join().unwrap();
    });
}
