//! What a worker knows of one connection: its requests, and how to reach its reply ring.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::crowd::Crowd;
#[cfg(not(annulus_loom))]
use super::executor;
#[cfg(annulus_loom)]
use super::model as executor;
use crate::error::IpcError;
use crate::link::{Job, ReplyError, WorkerEnd};
use crate::sync::sound;
use crate::wire::{FrameHeader, Position};

/// How long a reply that found no buffer waits before it tries again; buffers are given back by
/// other connections, which do not know of us.
const LEASE_RETRY: Duration = Duration::from_millis(1);

/// A task that waits for space in one slot's reply ring.
struct Waiter {
    slot: u32,
    /// Where the ring's head was when there was no space.
    head: Position,
    news: Rc<News>,
}

/// What a waiter is told, and how.
struct News {
    told: Cell<bool>,
    waker: RefCell<Waker>,
}

impl News {
    fn tell(&self) {
        self.told.set(true);
        self.waker.borrow().wake_by_ref();
    }
}

/// The worker's end of one link, shared by its tasks (all on one thread).
pub(super) struct LinkState {
    end: RefCell<WorkerEnd>,
    /// Tasks that wait for space in some reply ring.
    waiters: RefCell<Vec<Waiter>>,
}

impl LinkState {
    pub(super) fn new(end: WorkerEnd) -> Self {
        Self { end: RefCell::new(end), waiters: RefCell::default() }
    }

    pub(super) fn take_job(&self) -> Option<Job> {
        self.end.borrow_mut().take()
    }

    pub(super) fn has_job(&self) -> bool {
        self.end.borrow().has_job()
    }

    pub(super) fn shard_beside(&self) -> Option<u32> {
        self.end.borrow().shard_beside()
    }

    pub(super) fn arm(&self) {
        self.end.borrow().arm();
    }

    pub(super) fn disarm(&self) {
        self.end.borrow().disarm();
    }

    /// Wakes who waits for a slot in whose reply ring the shard has freed space since.
    ///
    /// Not everybody: thousands of requests of clients that never read would otherwise try again
    /// each time that anybody asks for anything.
    pub(super) fn wake_waiters(&self) {
        let mut end = self.end.borrow_mut();
        self.waiters.borrow_mut().retain(|waiter| {
            let waits = end.will_ring(waiter.slot, waiter.head);
            if !waits {
                waiter.news.tell();
            }
            waits
        });
    }

    /// Wakes who waits for this slot, whose connection is gone.
    fn wake_waiters_of(&self, slot: u32) {
        self.waiters.borrow_mut().retain(|waiter| {
            if waiter.slot == slot {
                waiter.news.tell();
            }
            waiter.slot != slot
        });
    }

    /// Ends when the shard has freed space for `slot`. The caller has just found its ring full.
    async fn wait(&self, slot: u32) {
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let news = Rc::new(News { told: Cell::new(false), waker: RefCell::new(waker) });
        let head = self.end.borrow().head_seen(slot);
        self.waiters.borrow_mut().push(Waiter { slot, head, news: Rc::clone(&news) });
        let place = Place { link: self, news };
        poll_fn(|context| {
            if place.news.told.get() {
                return Poll::Ready(());
            }
            // Polled for another reason: a handler may wait for several things at once.
            place.news.waker.borrow_mut().clone_from(context.waker());
            Poll::Pending
        })
        .await;
    }
}

/// A waiter's place among the others, given up when this is dropped.
struct Place<'a> {
    link: &'a LinkState,
    news: Rc<News>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Who was told is no longer among them.
        if !self.news.told.get() {
            let is_other = |waiter: &Waiter| !Rc::ptr_eq(&waiter.news, &self.news);
            self.link.waiters.borrow_mut().retain(is_other);
        }
    }
}

/// The connections of one shard that have had requests here, by slot.
pub(super) struct Sessions {
    link: Rc<LinkState>,
    crowd: Rc<Crowd>,
    by_slot: HashMap<u32, Rc<Session>>,
}

impl Sessions {
    pub(super) fn new(link: Rc<LinkState>, crowd: Rc<Crowd>) -> Self {
        Self { link, crowd, by_slot: HashMap::new() }
    }

    /// The session of the connection in `slot`.
    pub(super) fn open(&mut self, slot: u32, connection_id: u64) -> Rc<Session> {
        let (link, crowd) = (&self.link, &self.crowd);
        Rc::clone(self.by_slot.entry(slot).or_insert_with(|| {
            Rc::new(Session {
                link: Rc::clone(link),
                crowd: Rc::clone(crowd),
                slot,
                connection_id,
                closed: Cell::new(false),
                tickets: RefCell::default(),
            })
        }))
    }

    /// Cancels a request, if it is still there.
    pub(super) fn cancel(&self, slot: u32, connection_id: u64, request_id: u64) {
        let Some(session) = self.by_slot.get(&slot) else { return };
        debug_assert_eq!(session.connection_id, connection_id);
        if let Some(ticket) = session.tickets.borrow().get(&request_id) {
            ticket.cancel();
        }
    }

    /// Drops all requests of the connection in `slot` and tells the shard when that is done.
    pub(super) fn close(&mut self, slot: u32) {
        if let Some(session) = self.by_slot.remove(&slot) {
            // From here on nothing is published for it; its tasks end when they are next polled.
            session.closed.set(true);
            for ticket in session.tickets.borrow().values() {
                ticket.cancel();
            }
            // Those that wait for space would otherwise sleep on.
            self.link.wake_waiters_of(slot);
        }
        let link = Rc::clone(&self.link);
        executor::spawn(async move {
            // Bounded: the shard empties the reply ring of a closed connection.
            while link.end.borrow_mut().acknowledge_closed(slot).is_err() {
                link.wait(slot).await;
            }
        });
    }
}

/// One connection.
pub(super) struct Session {
    link: Rc<LinkState>,
    crowd: Rc<Crowd>,
    slot: u32,
    connection_id: u64,
    closed: Cell<bool>,
    tickets: RefCell<HashMap<u64, Rc<Ticket>>>,
}

impl Session {
    /// A new request.
    pub(super) fn admit(&self, request_id: u64) -> Rc<Ticket> {
        let ticket = Rc::new(Ticket::default());
        self.tickets.borrow_mut().insert(request_id, Rc::clone(&ticket));
        ticket
    }

    /// The request has ended; the client may have used its id again since its last frame.
    pub(super) fn retire(&self, request_id: u64, ticket: &Rc<Ticket>) {
        let mut tickets = self.tickets.borrow_mut();
        if tickets.get(&request_id).is_some_and(|known| Rc::ptr_eq(known, ticket)) {
            tickets.remove(&request_id);
        }
    }

    /// Publishes one frame; waits while there is no space.
    pub(super) async fn publish(
        &self,
        header: FrameHeader,
        payload: &[u8],
        ticket: &Ticket,
    ) -> Result<(), IpcError> {
        // Bounded by the client: it reads, or it is closed for not reading.
        loop {
            if self.closed.get() && sound("closed session keeps silent") {
                return Err(IpcError::Cancelled);
            }
            let published = self.link.end.borrow_mut().publish(self.slot, header, payload);
            match published {
                Ok(()) => {
                    self.crowd.stir();
                    if header.is_last() {
                        ticket.answered.set(true);
                    }
                    return Ok(());
                }
                Err(ReplyError::Full) => self.link.wait(self.slot).await,
                // Not among the waiters: a retry each millisecond would pile up their wakers.
                Err(ReplyError::NoLease) => executor::sleep(LEASE_RETRY).await,
                Err(ReplyError::TooLarge) => {
                    let max = self.link.end.borrow().pool().buffer_size_max();
                    return Err(IpcError::MessageTooLarge { size: payload.len() as u64, max });
                }
            }
        }
    }
}

/// One request's life on this worker.
#[derive(Default)]
pub(super) struct Ticket {
    cancelled: Cell<bool>,
    answered: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Ticket {
    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    fn cancel(&self) {
        self.cancelled.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ends when the request is cancelled.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| {
            if self.cancelled.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Context;

    use super::*;
    use crate::link::link;
    use crate::pool::{BufferPool, PoolSizes};
    use crate::wake::{ShardWaker, WorkerWaker};
    use crate::wire::MessageType;

    #[test]
    fn who_waits_for_space_is_there_once_however_often_it_is_polled_and_gone_when_it_is_dropped() {
        let (waker, _doorbell) = WorkerWaker::new().unwrap();
        let shard = Arc::new(ShardWaker::new().unwrap());
        let pool = BufferPool::new(PoolSizes::for_config(12, 1 << 20)).unwrap();
        let (_shard_end, end) = link(1, pool, shard, Arc::new(waker)).unwrap();
        let link = LinkState::new(end);
        let chunk = FrameHeader::request(MessageType::STREAM, 1).chunk();
        // Bounded by the reply ring.
        while link.end.borrow_mut().publish(0, chunk, b"some text").is_ok() {}

        let mut context = Context::from_waker(Waker::noop());
        {
            let mut waits = pin!(link.wait(0));
            for _ in 0..100 {
                assert!(waits.as_mut().poll(&mut context).is_pending(), "there is no space");
                link.wake_waiters();
                assert_eq!(link.waiters.borrow().len(), 1);
            }
        }
        assert!(link.waiters.borrow().is_empty());

        let mut waits = pin!(link.wait(0));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        link.wake_waiters_of(0);
        assert!(waits.as_mut().poll(&mut context).is_ready());
        assert!(link.waiters.borrow().is_empty());
    }
}
