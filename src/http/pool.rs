//! The connections of a client: who holds one, and what becomes of it.
//!
//! Everything that is held gives itself back by being dropped: an [`Exclusive`] closes its
//! connection, a [`Stream`] ends, a [`Slot`] makes room, a place in the queue goes to the next.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;

use super::boot_instant::BootInstant;
use super::endpoint::Endpoint;
use super::host::{End, Grant, Host, Idleness, Limits, Usable};
use super::line::Line;
use super::tap::Tap;
use crate::executor;

/// A stream that ends unanswered after this long, on a connection that brought nothing meanwhile,
/// gives reason to think that the connection is dead; a shorter one is only a hasty client.
const SUSPECT_AFTER: Duration = Duration::from_secs(5);

type PooledHost = Host<Exclusive, Shared>;

pub(super) struct Pool {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By origin; these come from the configuration, so there are few.
    hosts: HashMap<Arc<str>, PooledHost>,
    next_id: u64,
}

/// What a request is sent with.
pub(super) enum Lease {
    Exclusive(Exclusive),
    Stream(Stream),
    Open(Slot),
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Waits for a connection, or for the right to open one.
    pub(super) async fn lease(self: &Arc<Self>, endpoint: &Endpoint) -> Lease {
        let place = |ticket| Place { pool: self, origin: &endpoint.origin, ticket };
        let asked = {
            let mut state = self.state.lock().expect("no holder panics");
            let hosts = state.hosts.entry(Arc::clone(&endpoint.origin));
            // Only TLS tells us that a server speaks HTTP/2.
            let host = hosts.or_insert_with(|| Host::new(self.limits, endpoint.is_https));
            host.ask(BootInstant::now())
        };
        let grant = match asked {
            Ok(grant) => grant,
            Err(ticket) => {
                let place = place(ticket);
                poll_fn(|context| {
                    let claim = |host: &mut PooledHost, _| host.claim(ticket, context.waker());
                    self.act(place.origin, claim).map_or(Poll::Pending, Poll::Ready)
                })
                .await
            }
        };
        match grant {
            Grant::Exclusive(exclusive) => Lease::Exclusive(exclusive),
            Grant::Stream(id, shared) => {
                Lease::Stream(Stream::new(self, &endpoint.origin, id, shared, true))
            }
            Grant::Open => Lease::Open(Slot {
                pool: Arc::clone(self),
                origin: Arc::clone(&endpoint.origin),
                phase: Phase::Opening { has_failed: false },
            }),
        }
    }

    /// Closes what is idle at this origin.
    pub(super) fn drop_idle(&self, origin: &Arc<str>) {
        self.act(origin, |host, _| host.drop_idle());
    }

    /// Nobody will ask any more: what has no request closes now, and the rest after its last.
    pub(super) fn retire(&self) {
        let origins: Vec<_> = {
            let state = self.state.lock().expect("no holder panics");
            state.hosts.keys().cloned().collect()
        };
        for origin in &origins {
            cut(self.act(origin, |host, _| host.retire()));
        }
    }

    /// Puts a connection that has answered in full back.
    pub(super) fn give_back(&self, origin: &Arc<str>, mut exclusive: Exclusive) {
        exclusive.is_reused = true;
        self.act(origin, |host, now| host.give_back(exclusive.id, exclusive, now));
    }

    /// Changes a host, and serves those who wait.
    fn act<T>(
        &self,
        origin: &Arc<str>,
        change: impl FnOnce(&mut PooledHost, BootInstant) -> T,
    ) -> T {
        let mut woken = Vec::new();
        let result = {
            let mut state = self.state.lock().expect("no holder panics");
            let host = state.hosts.get_mut(origin).expect("who holds something has leased it");
            let now = BootInstant::now();
            let result = change(host, now);
            host.feed(now, &mut woken);
            result
        };
        for waker in woken {
            waker.wake();
        }
        result
    }

    fn new_id(&self) -> u64 {
        let mut state = self.state.lock().expect("no holder panics");
        state.next_id += 1;
        state.next_id
    }
}

/// A place in the queue. What it got but nobody took goes to the next.
struct Place<'a> {
    pool: &'a Arc<Pool>,
    origin: &'a Arc<str>,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.act(self.origin, |host, now| match host.forget(self.ticket) {
            Some(Grant::Exclusive(exclusive)) => host.give_back(exclusive.id, exclusive, now),
            Some(Grant::Stream(id, _)) => cut(host.end_stream(id, End::Over, now)),
            Some(Grant::Open) => host.not_opened(false),
            None => {}
        });
    }
}

/// Closes what has had its last stream.
fn cut(connections: impl IntoIterator<Item = Shared>) {
    for shared in connections {
        shared.close();
    }
}

/// One of the connections that a host may have, open or being opened.
pub(super) struct Slot {
    pool: Arc<Pool>,
    origin: Arc<str>,
    phase: Phase,
}

enum Phase {
    Opening { has_failed: bool },
    Open { id: u64 },
}

impl Slot {
    /// The connection could not be opened.
    pub(super) fn fail(mut self) {
        self.phase = Phase::Opening { has_failed: true };
    }

    /// An HTTP/1 connection is open: the slot is its task's, and the result the opener's.
    pub(super) fn open_exclusive(mut self, line: Arc<Line>, tap: Arc<Tap>) -> (Self, Exclusive) {
        let id = self.pool.new_id();
        self.phase = Phase::Open { id };
        self.pool.act(&self.origin, |host, _| host.opened_exclusive());
        (self, Exclusive { id, line, tap, is_reused: false })
    }

    /// An HTTP/2 connection is open: the slot is its task's, and the result the opener's. Who waits
    /// gets no stream of it before [`StreamLimit::is`] has said how many there are.
    pub(super) fn open_shared(
        mut self,
        sender: http2::SendRequest<Full<Bytes>>,
        tap: Arc<Tap>,
    ) -> (Self, Stream) {
        let id = self.pool.new_id();
        self.phase = Phase::Open { id };
        let shared = Shared { sender, tap };
        self.pool.act(&self.origin, |host, now| host.opened_shared(id, shared.clone(), now));
        let stream = Stream::new(&self.pool, &self.origin, id, shared, false);
        (self, stream)
    }

    /// Where the limit of an open HTTP/2 connection's streams is told.
    pub(super) fn stream_limit(&self) -> Option<StreamLimit> {
        let Phase::Open { id } = self.phase else { return None };
        Some(StreamLimit { pool: Arc::clone(&self.pool), origin: Arc::clone(&self.origin), id })
    }

    /// Ends when the connection has been idle for too long; by then nobody is given it any more.
    pub(super) async fn expired(&self) {
        let Phase::Open { id } = self.phase else { return };
        let idle = self.pool.limits.idle;
        let mut wait = idle;
        // Ends with the connection at the latest.
        loop {
            executor::sleep(wait).await;
            wait = match self.pool.act(&self.origin, |host, now| host.idleness(id, now)) {
                Idleness::Busy => idle,
                Idleness::Left(left) => left,
                Idleness::Expired => return,
            };
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.act(&self.origin, |host, _| match self.phase {
            Phase::Opening { has_failed } => host.not_opened(has_failed),
            Phase::Open { id } => host.closed(id),
        });
    }
}

/// Tells the pool how many streams the peer of an HTTP/2 connection takes.
pub(super) struct StreamLimit {
    pool: Arc<Pool>,
    origin: Arc<str>,
    id: u64,
}

impl StreamLimit {
    pub(super) fn is(&self, streams_max: usize) {
        self.pool.act(&self.origin, |host, _| host.limit_streams(self.id, streams_max));
    }
}

/// An HTTP/1 connection, for one request. Closes when it is dropped.
pub(super) struct Exclusive {
    id: u64,
    pub(super) line: Arc<Line>,
    pub(super) tap: Arc<Tap>,
    /// Whether it has answered a request before, so that it may have been dead for a while.
    pub(super) is_reused: bool,
}

impl Usable for Exclusive {
    fn is_usable(&self) -> bool {
        !self.line.is_closed()
    }

    fn close(&self) {
        self.tap.cut();
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.close();
    }
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    tap: Arc<Tap>,
}

impl Usable for Shared {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    fn close(&self) {
        self.tap.cut();
    }
}

/// One request's place on an HTTP/2 connection. Resetting what is not over is hyper's, which does it
/// when the response is dropped; this only counts.
pub(super) struct Stream {
    pool: Arc<Pool>,
    origin: Arc<str>,
    id: u64,
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    tap: Arc<Tap>,
    pub(super) is_reused: bool,
    begun: Instant,
    received_before: u64,
    outcome: Outcome,
}

#[derive(PartialEq, Eq)]
enum Outcome {
    /// Not over yet; dropped now, it was given up.
    Unknown,
    Known(End),
}

impl Stream {
    fn new(pool: &Arc<Pool>, origin: &Arc<str>, id: u64, shared: Shared, is_reused: bool) -> Self {
        Self {
            pool: Arc::clone(pool),
            origin: Arc::clone(origin),
            id,
            received_before: shared.tap.received(),
            sender: shared.sender,
            tap: shared.tap,
            is_reused,
            begun: Instant::now(),
            outcome: Outcome::Unknown,
        }
    }

    /// The response was read to its end.
    pub(super) fn finish(mut self) {
        self.outcome = Outcome::Known(End::Over);
    }

    /// The connection takes no more requests: nobody else is to be given it, even before its own
    /// task has found out.
    pub(super) fn refuse(mut self) {
        self.outcome = Outcome::Known(End::Drain);
    }

    /// The peer has more streams already than it will take.
    pub(super) fn crowd(mut self) {
        self.outcome = Outcome::Known(End::Crowded);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let end = match self.outcome {
            Outcome::Known(end) => end,
            Outcome::Unknown => {
                let is_suspect = self.begun.elapsed() >= SUSPECT_AFTER
                    && self.tap.received() == self.received_before;
                if is_suspect { End::Drain } else { End::Over }
            }
        };
        let end = |host: &mut PooledHost, now| host.end_stream(self.id, end, now);
        cut(self.pool.act(&self.origin, end));
    }
}
