//! What tests need of an executor beyond what the daemon does: tasks that are waited for, or given up.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Runs a test, whose executor fails only where the system has no descriptor left.
pub(crate) fn run<T: 'static>(test: impl Future<Output = T> + 'static) -> T {
    super::run(test).unwrap()
}

/// Runs `future` beside the others. Dropped, the task drops it.
pub(crate) fn task<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let state = Rc::new(RefCell::new(State::default()));
    let shared = Rc::clone(&state);
    let mut future = Box::pin(future);
    super::spawn(poll_fn(move |context| {
        if shared.borrow().is_cancelled {
            return Poll::Ready(());
        }
        let polled = future.as_mut().poll(context);
        let mut state = shared.borrow_mut();
        let Poll::Ready(output) = polled else {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.output = Some(output);
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(())
    }));
    Task(state)
}

pub(crate) struct Task<T>(Rc<RefCell<State<T>>>);

struct State<T> {
    output: Option<T>,
    is_cancelled: bool,
    /// Of the task itself.
    waker: Option<Waker>,
    /// Of who waits for it.
    waiting: Option<Waker>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { output: None, is_cancelled: false, waker: None, waiting: None }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        match state.output.take() {
            Some(output) => Poll::Ready(output),
            None => {
                state.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.is_cancelled = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
