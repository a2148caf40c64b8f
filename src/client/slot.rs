//! Where one request of a shared client waits: its frames arrive here, and its owner is woken here.
//!
//! The invariant to remember: wakers are called and dropped with no lock of this crate held but the
//! receiving end's, because what they do is not ours.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::link::Lost;
use crate::wire::{Fault, FrameHeader, Status};

/// Locks, also after another thread panicked: every critical section here leaves a sound state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of an answer's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Put together; the owner is woken when the answer is whole.
    Whole,
    /// Handed over one by one.
    Chunks,
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum End {
    /// With the daemon's last frame; the bytes are its detail unless the status is `Ok`.
    Answered(Status, Vec<u8>),
    /// With the connection.
    Lost(Lost),
}

/// One request's place; shared by its owner and whoever pumps.
#[derive(Debug)]
pub(super) struct Slot {
    delivery: Delivery,
    state: Mutex<SlotState>,
    changed: Condvar,
}

/// What a slot's owner waits for.
#[derive(Debug, Default)]
pub(super) struct SlotState {
    /// A credit that the owner had queued for is here.
    granted: bool,
    /// The answer so far.
    pub(super) whole: Vec<u8>,
    /// Chunks that the owner has not taken.
    pub(super) chunks: VecDeque<Vec<u8>>,
    pub(super) end: Option<End>,
    /// The owner, a blocked thread, now leads.
    promoted: bool,
    waker: Option<Waker>,
}

impl SlotState {
    /// The credit has come, or never will.
    pub(super) fn credit_settled(&self) -> bool {
        self.granted || self.end.is_some()
    }

    /// The answer is whole, or never will be.
    pub(super) const fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// There is a chunk to take, or there will be none.
    pub(super) fn has_next(&self) -> bool {
        !self.chunks.is_empty() || self.end.is_some()
    }
}

/// What an owner waits for: one of the questions above.
pub(super) type Ready = fn(&SlotState) -> bool;

impl Slot {
    pub(super) fn new(delivery: Delivery) -> Arc<Self> {
        let state = Mutex::new(SlotState::default());
        Arc::new(Self { delivery, state, changed: Condvar::new() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SlotState> {
        lock(&self.state)
    }

    pub(super) fn is(&self, ready: Ready) -> bool {
        ready(&self.state())
    }

    /// True when `ready`; otherwise `waker` will be called once that may have changed.
    pub(super) fn is_or_register(&self, ready: Ready, waker: &Waker) -> bool {
        let mut state = self.state();
        if ready(&state) {
            return true;
        }
        let old = match &state.waker {
            Some(known) if known.will_wake(waker) => None,
            _ => state.waker.replace(waker.clone()),
        };
        drop(state);
        drop(old);
        false
    }

    /// Blocks until `ready`, until this thread is promoted, or until the deadline.
    pub(super) fn follow(&self, deadline: Option<Instant>, ready: Ready) {
        let mut state = self.state();
        while !ready(&state) && !state.promoted {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Tells the owner, a blocked thread, that it leads now.
    pub(super) fn promote(&self) {
        self.state().promoted = true;
        self.changed.notify_one();
    }

    /// The owner has taken its promotion.
    pub(super) fn accept_promotion(&self) {
        self.state().promoted = false;
    }

    /// The credit that the owner queued for is here.
    pub(super) fn grant(&self) {
        self.update(|state| state.granted = true);
    }

    /// The connection is over. What has arrived stays.
    pub(super) fn lose(&self, lost: Lost) {
        self.update(|state| {
            state.end.get_or_insert(End::Lost(lost));
        });
    }

    /// Takes a frame; `copy` fills the buffer that it is given with the payload.
    ///
    /// # Errors
    ///
    /// The fault in the payload.
    pub(super) fn deliver(
        &self,
        header: &FrameHeader,
        copy: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (size, status) = (header.payload_size as usize, header.status());
        let mut state = self.state();
        let mut detail = Vec::new();
        if status != Status::Ok {
            detail = vec![0; size];
            copy(&mut detail)?;
        } else if self.delivery == Delivery::Whole {
            let start = state.whole.len();
            state.whole.resize(start + size, 0);
            copy(&mut state.whole[start..])?;
        } else {
            let mut chunk = vec![0; size];
            copy(&mut chunk)?;
            // An empty last frame only says that the stream is over.
            if size != 0 || !header.is_last() {
                state.chunks.push_back(chunk);
            }
        }
        if header.is_last() {
            state.end.get_or_insert(End::Answered(status, detail));
        } else if self.delivery == Delivery::Whole {
            return Ok(());
        }
        self.wake(state);
        Ok(())
    }

    fn update(&self, change: impl FnOnce(&mut SlotState)) {
        let mut state = self.state();
        change(&mut state);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, SlotState>) {
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
