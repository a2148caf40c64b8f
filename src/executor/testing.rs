//! What tests need of a runtime beyond what the daemon does: tasks that are waited for, or given up.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::{JoinHandle, spawn_local};

/// Runs a test, whose runtime fails only where the system has no descriptor left.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    super::run(test).unwrap()
}

/// Runs `future` beside the others. Dropped, the task drops it.
pub(crate) fn task<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    Task(spawn_local(future))
}

pub(crate) struct Task<T>(JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap())
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
