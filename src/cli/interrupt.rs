//! Ctrl-C for commands that have something to end first: a request, a daemon's directory.
//!
//! A thread sleeps in a blocking read until a signal comes; nothing polls.

use std::future::poll_fn;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exit::Exit;
use super::failure::Failure;

/// Something to await: the user's first Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    happened: bool,
    waker: Option<Waker>,
}

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP. The second signal ends the program at once.
    ///
    /// # Errors
    ///
    /// The signals cannot be watched.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let state = Arc::new(Mutex::new(State::default()));
        let theirs = Arc::clone(&state);
        on_signals(move || {
            let mut state = lock(&theirs);
            state.happened = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        })?;
        Ok(Self(state))
    }

    /// Ready when the first signal has come, however long ago.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            let mut state = lock(&self.0);
            if state.happened {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Runs `tidy` when the user interrupts the program, and ends it with [`Exit::Interrupted`]. A
/// second signal does not wait for `tidy`.
///
/// # Errors
///
/// The signals cannot be watched.
pub(crate) fn tidy_up_with(tidy: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    on_signals(move || {
        // On a thread of its own, so that the next signal is heard.
        thread::spawn(move || {
            tidy();
            leave()
        });
    })
}

/// Calls `first` at the first signal and ends the program at the second.
fn on_signals(first: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(Failure::io("watch", "the signals SIGINT, SIGTERM and SIGHUP"))?;
    let watch = move || {
        let mut first = Some(first);
        for _ in signals.forever() {
            match first.take() {
                Some(first) => first(),
                None => leave(),
            }
        }
    };
    thread::Builder::new()
        .name("annulus-signals".into())
        .spawn(watch)
        .map(drop)
        .map_err(Failure::io("start", "the thread that watches signals"))
}

fn leave() -> ! {
    process::exit(Exit::Interrupted.code().into());
}

/// Nothing can panic while the lock is held, so a poisoned one is as good as any.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
