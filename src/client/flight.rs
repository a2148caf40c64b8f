//! One request of a shared client on its way: credit, send, answer; for a blocked thread or a task.
//!
//! The invariant to remember: whatever happens to its owner, a flight gives back what it holds. One
//! that is dropped early leaves the queue, returns its credit, or is cancelled.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::lead::Leader;
use super::options::RequestOptions;
use super::shared::{Shared, end_error};
use super::slot::{Delivery, Ready, Slot, SlotState, lock};
use super::wait::{SpacePace, Step, deadline_ms};
use crate::error::IpcError;
use crate::wire::{FrameHeader, MessageType};

/// Payloads from this size on, in bytes, are worth a look after their answer: pages to give back.
const LARGE_PAYLOAD: usize = 256 * 1024 - 64;

/// What all clones of a client own together; the last one to go hangs up.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The driver may hold the link for a moment longer; the daemon need not wait for that.
        self.shared.link.hang_up();
        if let Some(driver) = &lock(&self.shared.lead).driver {
            driver.stop();
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for a credit.
    Queued,
    /// Has a credit.
    Granted,
    /// In the table: an answer would find it.
    Registered,
    /// Published.
    Sent,
    /// Holds nothing.
    Done,
}

/// One request.
pub(super) struct Flight {
    handle: Arc<Handle>,
    slot: Arc<Slot>,
    header: FrameHeader,
    deadline: Option<Instant>,
    stage: Stage,
    /// Counted among the tasks of [`Lead`](super::lead::Lead).
    is_task: bool,
    is_large: bool,
}

impl Flight {
    /// Takes a credit or a place in the queue for one.
    ///
    /// # Errors
    ///
    /// [`IpcError::MessageTooLarge`], or the connection is over.
    pub(super) fn begin(
        handle: &Arc<Handle>,
        message_type: MessageType,
        size: usize,
        delivery: Delivery,
        options: RequestOptions,
    ) -> Result<Self, IpcError> {
        let shared = &handle.shared;
        shared.link.check_size(size)?;
        let slot = Slot::new(delivery);
        let granted = shared.request_credit(&slot)?;
        Ok(Self {
            handle: Arc::clone(handle),
            slot,
            header: FrameHeader::request(message_type, shared.next_id()),
            deadline: options.deadline_at(),
            stage: if granted { Stage::Granted } else { Stage::Queued },
            is_task: false,
            is_large: size >= LARGE_PAYLOAD,
        })
    }

    // For a thread.

    /// Sends the request, blocking until there is a credit and space.
    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), IpcError> {
        if self.stage == Stage::Queued {
            self.block(SlotState::credit_settled)?;
            self.credit_came()?;
        }
        self.register()?;
        let mut pace = SpacePace::new();
        while !self.try_publish(payload)? {
            self.shared().try_pump();
            match pace.step(self.deadline) {
                Step::Poll | Step::Park => {}
                Step::LookAtSocket => self.shared().try_look_around(),
                Step::Expired => return Err(self.expire()),
            }
        }
        Ok(())
    }

    /// Blocks until the answer is whole.
    pub(super) fn whole(&mut self) -> Result<Vec<u8>, IpcError> {
        self.block(SlotState::ended)?;
        self.take_whole()
    }

    /// Blocks until there is another chunk; `None` after the last.
    pub(super) fn next_chunk(&mut self) -> Option<Result<Vec<u8>, IpcError>> {
        if self.stage == Stage::Done {
            return None;
        }
        if let Err(error) = self.block(SlotState::has_next) {
            return Some(Err(error));
        }
        self.take_chunk()
    }

    fn block(&mut self, ready: Ready) -> Result<(), IpcError> {
        let ready = self.shared().wait_blocking(&self.slot, self.deadline, ready);
        if ready { Ok(()) } else { Err(self.expire()) }
    }

    // For a task.

    /// Sends the request; pending while there is no credit or no space.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        payload: &[u8],
    ) -> Poll<Result<(), IpcError>> {
        if self.stage == Stage::Queued {
            match self.poll_slot(cx, SlotState::credit_settled) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            }
            self.credit_came()?;
        }
        if self.stage == Stage::Granted {
            self.register()?;
        }
        if self.stage != Stage::Registered || self.try_publish(payload)? {
            return Poll::Ready(Ok(()));
        }
        self.shared().try_pump();
        self.check_deadline()?;
        self.attend(cx, true)?;
        Poll::Pending
    }

    /// The whole answer.
    pub(super) fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, IpcError>> {
        match self.poll_slot(cx, SlotState::ended) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(self.take_whole()),
        }
    }

    /// The next chunk; `None` after the last.
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<u8>, IpcError>>> {
        if self.stage == Stage::Done {
            return Poll::Ready(None);
        }
        match self.poll_slot(cx, SlotState::has_next) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => Poll::Ready(self.take_chunk()),
        }
    }

    fn poll_slot(&mut self, cx: &mut Context<'_>, ready: Ready) -> Poll<Result<(), IpcError>> {
        if !self.slot.is(ready) {
            self.check_deadline()?;
            self.shared().try_pump();
            if !self.slot.is_or_register(ready, cx.waker()) {
                self.attend(cx, false)?;
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes sure that somebody wakes this task: for its answer, its deadline, or space.
    fn attend(&mut self, cx: &Context<'_>, wants_space: bool) -> Result<(), IpcError> {
        let shared = Arc::clone(self.shared());
        let mut old = None;
        let mut lead = lock(&shared.lead);
        let lead_now = &mut *lead;
        if !self.is_task {
            self.is_task = true;
            lead_now.tasks += 1;
        }
        let mut ring = wants_space;
        if let Some(deadline) = self.deadline {
            let key = (deadline, self.header.request_id);
            old = lead_now.timers.insert(key, cx.waker().clone());
            ring |= lead_now.timers.first_key_value().is_some_and(|(first, _)| *first == key);
        }
        let waiters = &mut lead_now.space_waiters;
        if wants_space && !waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        if lead_now.leader == Leader::Nobody {
            lead_now.leader = Leader::Driver;
            ring = true;
        }
        let ensured = shared.ensure_driver(lead_now);
        if ring {
            lead_now.ring_driver();
        }
        if ensured.is_err() && lead_now.leader == Leader::Driver {
            lead_now.leader = Leader::Nobody;
        }
        drop(lead);
        drop(old);
        // A loss after our last look woke whoever was registered then; space waiters look here.
        if wants_space {
            shared.check_open()?;
        }
        ensured
    }

    // For both.

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    fn credit_came(&mut self) -> Result<(), IpcError> {
        let lost = match &self.slot.state().end {
            Some(end) => end_error(end),
            None => None,
        };
        match lost {
            None => {
                self.stage = Stage::Granted;
                Ok(())
            }
            Some(error) => {
                // The queue was emptied with the connection.
                self.settle(Stage::Done);
                Err(error)
            }
        }
    }

    fn register(&mut self) -> Result<(), IpcError> {
        self.shared().register(self.header.request_id, &self.slot)?;
        self.stage = Stage::Registered;
        Ok(())
    }

    fn try_publish(&mut self, payload: &[u8]) -> Result<bool, IpcError> {
        self.header.deadline_ms = deadline_ms(self.deadline);
        let published = self.shared().publish(self.header, payload)?;
        if published {
            self.stage = Stage::Sent;
        }
        Ok(published)
    }

    fn take_whole(&mut self) -> Result<Vec<u8>, IpcError> {
        let mut state = self.slot.state();
        let whole = std::mem::take(&mut state.whole);
        let error = state.end.as_ref().and_then(end_error);
        drop(state);
        self.settle(Stage::Done);
        error.map_or(Ok(whole), Err)
    }

    fn take_chunk(&mut self) -> Option<Result<Vec<u8>, IpcError>> {
        let mut state = self.slot.state();
        if let Some(chunk) = state.chunks.pop_front() {
            return Some(Ok(chunk));
        }
        let error = state.end.as_ref().and_then(end_error);
        drop(state);
        self.settle(Stage::Done);
        error.map(Err)
    }

    fn check_deadline(&mut self) -> Result<(), IpcError> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(self.expire());
        }
        Ok(())
    }

    fn expire(&mut self) -> IpcError {
        self.give_up();
        IpcError::Timeout
    }

    /// Gives back whatever this flight holds; what still comes for it is swallowed.
    fn give_up(&mut self) {
        let (shared, id) = (self.shared(), self.header.request_id);
        match self.stage {
            Stage::Queued => shared.leave_queue(&self.slot),
            Stage::Granted => shared.return_credit(),
            Stage::Registered => shared.unregister(id),
            Stage::Sent => shared.abandon(id),
            Stage::Done => {}
        }
        self.settle(Stage::Done);
    }

    /// No longer a task that waits; with a large request, its pages may go back.
    fn settle(&mut self, stage: Stage) {
        self.stage = stage;
        if self.is_task {
            self.is_task = false;
            let mut lead = lock(&self.handle.shared.lead);
            lead.tasks -= 1;
            let key = self.deadline.map(|deadline| (deadline, self.header.request_id));
            let timer = key.and_then(|key| lead.timers.remove(&key));
            drop(lead);
            drop(timer);
        }
        if std::mem::take(&mut self.is_large) {
            self.shared().tidy();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.give_up();
    }
}
