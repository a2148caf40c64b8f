//! The connections to one host, and who may have the next: a pure state machine.
//!
//! Three invariants: no more than `connections_max` are open or being opened; who asked first is
//! served first; nothing that could be granted is kept while somebody waits. Whoever changes a host
//! calls [`Host::feed`] afterwards, which keeps the last.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::boot_instant::BootInstant;

/// What a host may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections open or being opened.
    pub(super) connections_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub(super) streams_max: usize,
    /// How long a connection without a request stays open.
    pub(super) idle: Duration,
}

/// What a host asks of a connection.
pub(super) trait Usable {
    /// Whether it can still take a request, as far as is known.
    fn is_usable(&self) -> bool;

    /// Closes it at once.
    fn close(&self);
}

/// What who asked gets: `E` is a connection for one request at a time, `S` one that is shared.
pub(super) enum Grant<E, S> {
    /// One that was idle.
    Exclusive(E),
    /// A stream on the shared connection of this number.
    Stream(u64, S),
    /// The right to open one.
    Open,
}

pub(super) struct Host<E, S> {
    limits: Limits,
    /// While a connection that is expected to be shared is being opened, nobody opens another.
    expects_shared: bool,
    /// Connections open or being opened.
    open_count: usize,
    opening_count: usize,
    /// The one used last is at the end, and is used first: the others may then grow old and close.
    idle: Vec<Idle<E>>,
    shared: Vec<Shared<S>>,
    next_ticket: u64,
    /// Who waits, by ticket.
    waiting: BTreeMap<u64, Option<Waker>>,
    /// What waits to be claimed.
    granted: BTreeMap<u64, Grant<E, S>>,
}

struct Idle<E> {
    id: u64,
    since: BootInstant,
    connection: E,
}

struct Shared<S> {
    id: u64,
    connection: S,
    stream_count: usize,
    /// What the peer allows; one stream until it has said, which is in its first bytes.
    streams_max: Option<usize>,
    /// Since when there are no streams, if there are none.
    idle_since: BootInstant,
    /// Gets no more streams, and is closed after its last one.
    is_draining: bool,
}

/// How a stream ended, for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection goes on.
    Over,
    /// It gets no more streams.
    Drain,
    /// The peer refused it, beside as many as there are: that is what it takes, whatever it said.
    Crowded,
}

/// How a connection stands with its idle limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Idleness {
    Busy,
    /// It may be idle for this long yet.
    Left(Duration),
    /// It was idle for too long, and is no longer granted.
    Expired,
}

impl<E: Usable, S: Usable + Clone> Host<E, S> {
    /// A host without connections; `expects_shared` until the first one shows what it speaks.
    pub(super) fn new(limits: Limits, expects_shared: bool) -> Self {
        Self {
            limits,
            expects_shared,
            open_count: 0,
            opening_count: 0,
            idle: Vec::new(),
            shared: Vec::new(),
            next_ticket: 0,
            waiting: BTreeMap::new(),
            granted: BTreeMap::new(),
        }
    }

    /// A grant at once, or a ticket to [`claim`](Self::claim) with.
    pub(super) fn ask(&mut self, now: BootInstant) -> Result<Grant<E, S>, u64> {
        if self.waiting.is_empty()
            && let Some(grant) = self.next_grant(now)
        {
            return Ok(grant);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, None);
        Err(ticket)
    }

    /// What the ticket got; without anything yet, `waker` is woken when it gets something.
    pub(super) fn claim(&mut self, ticket: u64, waker: &Waker) -> Option<Grant<E, S>> {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            *waiting = Some(waker.clone());
        }
        self.granted.remove(&ticket)
    }

    /// The ticket is no longer wanted. What it got is the caller's to give back.
    pub(super) fn forget(&mut self, ticket: u64) -> Option<Grant<E, S>> {
        self.waiting.remove(&ticket);
        self.granted.remove(&ticket)
    }

    /// Serves those who wait, in their order, as far as possible. Pushes whom to wake.
    pub(super) fn feed(&mut self, now: BootInstant, woken: &mut Vec<Waker>) {
        // Ends with the waiting or with the grants.
        while let Some(ticket) = self.waiting.keys().next().copied() {
            let Some(grant) = self.next_grant(now) else { return };
            woken.extend(self.waiting.remove(&ticket).flatten());
            self.granted.insert(ticket, grant);
        }
    }

    fn next_grant(&mut self, now: BootInstant) -> Option<Grant<E, S>> {
        // What is no longer usable is dropped here, and so closed. After the machine was suspended, this
        // comes before the timer of `idleness`.
        while let Some(Idle { since, connection, .. }) = self.idle.pop() {
            if connection.is_usable() && now.since(since) < self.limits.idle {
                return Some(Grant::Exclusive(connection));
            }
        }
        self.shared.retain(|shared| {
            let is_old =
                shared.stream_count == 0 && now.since(shared.idle_since) >= self.limits.idle;
            if is_old {
                shared.connection.close();
            }
            !is_old
        });
        let has_room = |shared: &&mut Shared<S>| {
            !shared.is_draining
                && shared.stream_count < shared.streams_max.unwrap_or(1)
                && shared.connection.is_usable()
        };
        if let Some(shared) = self.shared.iter_mut().find(has_room) {
            shared.stream_count += 1;
            return Some(Grant::Stream(shared.id, shared.connection.clone()));
        }
        let is_opening = |shared: &Shared<S>| !shared.is_draining && shared.streams_max.is_none();
        let awaits_shared =
            self.expects_shared && (self.opening_count > 0 || self.shared.iter().any(is_opening));
        if awaits_shared || self.open_count >= self.limits.connections_max {
            return None;
        }
        self.open_count += 1;
        self.opening_count += 1;
        Some(Grant::Open)
    }

    /// A connection was opened for one request at a time; the one who did has it.
    pub(super) fn opened_exclusive(&mut self) {
        self.opening_count -= 1;
        self.expects_shared = false;
    }

    /// A shared connection was opened; the one who did has its first stream. The others wait until
    /// [`limit_streams`](Self::limit_streams) says how many more it takes.
    pub(super) fn opened_shared(&mut self, id: u64, connection: S, now: BootInstant) {
        self.opening_count -= 1;
        self.expects_shared = true;
        self.shared.push(Shared {
            id,
            connection,
            stream_count: 1,
            streams_max: None,
            idle_since: now,
            is_draining: false,
        });
    }

    /// The peer takes so many streams at once on the shared connection `id`, for the time being.
    pub(super) fn limit_streams(&mut self, id: u64, streams_max: usize) {
        if let Some(shared) = self.shared.iter_mut().find(|shared| shared.id == id) {
            shared.streams_max = Some(streams_max.min(self.limits.streams_max));
        }
    }

    /// A connection could not be opened, or (if not `has_failed`) is no longer wanted.
    ///
    /// After a failure the others no longer wait for one another: each learns of it in its own time.
    pub(super) fn not_opened(&mut self, has_failed: bool) {
        self.open_count -= 1;
        self.opening_count -= 1;
        self.expects_shared &= !has_failed;
    }

    /// The connection `id` is closed, whatever it was doing.
    pub(super) fn closed(&mut self, id: u64) {
        self.open_count -= 1;
        self.idle.retain(|idle| idle.id != id);
        self.shared.retain(|shared| shared.id != id);
    }

    /// The connection `id` is ready for another request.
    pub(super) fn give_back(&mut self, id: u64, connection: E, now: BootInstant) {
        if self.limits.idle.is_zero() {
            return;
        }
        self.idle.push(Idle { id, since: now, connection });
    }

    /// Closes what is idle, for it is probably as dead as the one that was just found to be.
    pub(super) fn drop_idle(&mut self) {
        self.idle.clear();
    }

    /// Nobody will ask any more: closes what is idle, and lets the rest close after its last request.
    /// Returns what is shared and to be closed now.
    pub(super) fn retire(&mut self) -> Vec<S> {
        self.idle.clear();
        // What is given back from now on is already too old.
        self.limits.idle = Duration::ZERO;
        for shared in &mut self.shared {
            shared.is_draining = true;
        }
        let unused = self.shared.iter().filter(|shared| shared.stream_count == 0);
        unused.map(|shared| shared.connection.clone()).collect()
    }

    /// A stream of the connection `id` has ended. Returns the connection when it is to be closed.
    pub(super) fn end_stream(&mut self, id: u64, end: End, now: BootInstant) -> Option<S> {
        let shared = self.shared.iter_mut().find(|shared| shared.id == id)?;
        shared.stream_count -= 1;
        shared.idle_since = now;
        shared.is_draining |= match end {
            End::Over => false,
            End::Drain => true,
            End::Crowded => {
                shared.streams_max = Some(shared.stream_count);
                // One that takes nothing at all is of no use.
                shared.stream_count == 0
            }
        };
        let is_over = shared.is_draining && shared.stream_count == 0;
        is_over.then(|| shared.connection.clone())
    }

    /// Asks how long the connection `id` may be idle yet. One that may not is forgotten.
    pub(super) fn idleness(&mut self, id: u64, now: BootInstant) -> Idleness {
        let idle_since = |host: &Self| {
            let idle = host.idle.iter().find(|idle| idle.id == id).map(|idle| idle.since);
            let unused = |shared: &&Shared<S>| shared.id == id && shared.stream_count == 0;
            idle.or_else(|| host.shared.iter().find(unused).map(|shared| shared.idle_since))
        };
        let Some(since) = idle_since(self) else { return Idleness::Busy };
        let left = self.limits.idle.saturating_sub(now.since(since));
        if !left.is_zero() {
            return Idleness::Left(left);
        }
        self.idle.retain(|idle| idle.id != id);
        self.shared.retain(|shared| shared.id != id);
        Idleness::Expired
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LIMITS: Limits =
        Limits { connections_max: 2, streams_max: 2, idle: Duration::from_secs(10) };

    /// Usable unless negative.
    #[derive(Debug, Clone, PartialEq)]
    struct Fake(i32);

    impl Usable for Fake {
        fn is_usable(&self) -> bool {
            self.0 >= 0
        }

        fn close(&self) {
            CLOSED.with_borrow_mut(|closed| closed.push(self.0));
        }
    }

    thread_local! {
        static CLOSED: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
    }

    type FakeHost = Host<Fake, Fake>;

    fn exclusive() -> (FakeHost, BootInstant) {
        (Host::new(LIMITS, false), BootInstant::now())
    }

    #[track_caller]
    fn open(host: &mut FakeHost, now: BootInstant) {
        assert!(matches!(host.ask(now), Ok(Grant::Open)));
    }

    #[track_caller]
    fn wait(host: &mut FakeHost, now: BootInstant) -> u64 {
        host.ask(now).err().expect("it has to wait")
    }

    fn claim(host: &mut FakeHost, ticket: u64) -> Option<Grant<Fake, Fake>> {
        host.claim(ticket, Waker::noop())
    }

    #[test]
    fn an_idle_connection_is_used_again_and_the_last_one_first() {
        let (mut host, now) = exclusive();
        for _ in 0..2 {
            open(&mut host, now);
            host.opened_exclusive();
        }
        host.give_back(1, Fake(1), now);
        host.give_back(2, Fake(2), now);
        assert!(matches!(host.ask(now), Ok(Grant::Exclusive(Fake(2)))));
        assert!(matches!(host.ask(now), Ok(Grant::Exclusive(Fake(1)))));
        wait(&mut host, now);
    }

    #[test]
    fn who_asked_first_is_served_first_and_nobody_passes_by() {
        let (mut host, now) = exclusive();
        for _ in 0..2 {
            open(&mut host, now);
            host.opened_exclusive();
        }
        let first = wait(&mut host, now);
        let second = wait(&mut host, now);
        host.give_back(1, Fake(1), now);
        // Not fed yet: whoever asks now still has to wait.
        let third = wait(&mut host, now);
        let mut woken = Vec::new();
        host.claim(first, Waker::noop());
        host.feed(now, &mut woken);
        assert_eq!(woken.len(), 1);
        assert!(claim(&mut host, second).is_none());
        assert!(matches!(claim(&mut host, first), Some(Grant::Exclusive(Fake(1)))));

        // A closed connection makes room for a new one.
        host.closed(1);
        host.feed(now, &mut woken);
        assert!(matches!(claim(&mut host, second), Some(Grant::Open)));
        assert!(claim(&mut host, third).is_none());
    }

    #[test]
    fn what_a_forgotten_ticket_got_goes_to_the_next() {
        let (mut host, now) = exclusive();
        open(&mut host, now);
        open(&mut host, now);
        let (first, second) = (wait(&mut host, now), wait(&mut host, now));
        host.not_opened(true);
        host.feed(now, &mut Vec::new());
        assert!(matches!(host.forget(first), Some(Grant::Open)));
        host.not_opened(false);
        host.feed(now, &mut Vec::new());
        assert!(matches!(claim(&mut host, second), Some(Grant::Open)));
        assert!(host.forget(second).is_none());
        assert_eq!((host.open_count, host.opening_count), (2, 2));
    }

    #[test]
    fn dead_and_old_connections_are_not_granted() {
        let (mut host, now) = exclusive();
        open(&mut host, now);
        open(&mut host, now);
        host.opened_exclusive();
        host.opened_exclusive();
        host.give_back(1, Fake(1), now);
        host.give_back(2, Fake(-1), now);
        let late = now + LIMITS.idle;
        let ticket = wait(&mut host, late);
        assert!(host.idle.is_empty(), "both were dropped");
        host.closed(1);
        host.closed(2);
        host.feed(late, &mut Vec::new());
        assert!(matches!(claim(&mut host, ticket), Some(Grant::Open)));
    }

    #[test]
    fn a_shared_connection_that_is_old_before_its_timer_says_so_is_closed_and_not_granted() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        CLOSED.take();
        for id in [1, 2] {
            open(&mut host, now);
            host.opened_shared(id, Fake(i32::try_from(id).unwrap()), now);
            host.limit_streams(id, 1);
        }
        host.end_stream(1, End::Over, now);
        let late = now + LIMITS.idle;
        let ticket = wait(&mut host, late);
        assert_eq!(CLOSED.take(), [1], "the other has a stream");
        host.closed(1);
        host.feed(late, &mut Vec::new());
        assert!(matches!(claim(&mut host, ticket), Some(Grant::Open)));
        host.end_stream(2, End::Over, late);
        assert!(matches!(host.ask(late), Ok(Grant::Stream(2, _))), "idle since a moment ago");
    }

    #[test]
    fn a_shared_connection_feeds_all_who_waited_for_it_up_to_its_streams() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        open(&mut host, now);
        let tickets = [wait(&mut host, now), wait(&mut host, now), wait(&mut host, now)];
        host.opened_shared(1, Fake(1), now);
        host.feed(now, &mut Vec::new());
        assert!(claim(&mut host, tickets[0]).is_none(), "nobody knows how many it takes");
        host.limit_streams(1, usize::MAX);
        host.feed(now, &mut Vec::new());
        assert!(matches!(claim(&mut host, tickets[0]), Some(Grant::Stream(1, _))));
        // It is full, so the next one opens another.
        assert!(matches!(claim(&mut host, tickets[1]), Some(Grant::Open)));
        assert!(claim(&mut host, tickets[2]).is_none());
        assert!(host.end_stream(1, End::Over, now).is_none());
        host.feed(now, &mut Vec::new());
        assert!(matches!(claim(&mut host, tickets[2]), Some(Grant::Stream(1, _))));
    }

    #[test]
    fn after_a_failure_nobody_waits_for_somebody_elses_connection() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        open(&mut host, now);
        let tickets = [wait(&mut host, now), wait(&mut host, now)];
        host.not_opened(true);
        host.feed(now, &mut Vec::new());
        for ticket in tickets {
            assert!(matches!(claim(&mut host, ticket), Some(Grant::Open)));
        }
    }

    #[test]
    fn a_draining_connection_gets_no_more_streams_and_closes_after_its_last() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        open(&mut host, now);
        host.opened_shared(1, Fake(1), now);
        host.limit_streams(1, 100);
        assert!(matches!(host.ask(now), Ok(Grant::Stream(1, _))));
        assert!(host.end_stream(1, End::Drain, now).is_none());
        open(&mut host, now);
        assert_eq!(host.end_stream(1, End::Over, now), Some(Fake(1)));
        host.closed(1);
        assert_eq!(host.end_stream(1, End::Over, now), None, "it is gone");
    }

    #[test]
    fn a_peer_that_takes_fewer_streams_than_we_would_gets_no_more_than_those() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        open(&mut host, now);
        host.opened_shared(1, Fake(1), now);
        host.limit_streams(1, 1);
        // It is full: another connection.
        open(&mut host, now);
        host.opened_shared(2, Fake(2), now);
        host.limit_streams(2, 100);
        assert!(matches!(host.ask(now), Ok(Grant::Stream(2, _))));
        // No more connections are allowed: wait.
        let waiting = wait(&mut host, now);
        // A limit that is lowered holds for the next, and one that is raised for who waits.
        host.limit_streams(2, 1);
        host.end_stream(2, End::Over, now);
        host.feed(now, &mut Vec::new());
        assert!(claim(&mut host, waiting).is_none());
        host.limit_streams(1, 2);
        host.feed(now, &mut Vec::new());
        assert!(matches!(claim(&mut host, waiting), Some(Grant::Stream(1, _))));
    }

    #[test]
    fn a_refused_stream_shows_how_many_a_connection_takes() {
        let now = BootInstant::now();
        let mut host: FakeHost = Host::new(LIMITS, true);
        open(&mut host, now);
        host.opened_shared(1, Fake(1), now);
        host.limit_streams(1, 100);
        assert!(matches!(host.ask(now), Ok(Grant::Stream(1, _))));
        assert_eq!(host.end_stream(1, End::Crowded, now), None);
        open(&mut host, now);
        host.opened_shared(2, Fake(2), now);
        host.limit_streams(2, 100);
        // The first one takes none but the one that it had.
        assert!(matches!(host.ask(now), Ok(Grant::Stream(2, _))));
        host.end_stream(1, End::Over, now);
        assert!(matches!(host.ask(now), Ok(Grant::Stream(1, _))));
        assert_eq!(host.end_stream(1, End::Crowded, now), Some(Fake(1)), "it takes nothing");
    }

    #[test]
    fn a_retired_host_keeps_nothing() {
        let (mut host, now) = exclusive();
        open(&mut host, now);
        host.opened_exclusive();
        host.give_back(1, Fake(1), now);
        open_shared_twice(&mut host, now);
        assert_eq!(host.retire(), [Fake(2)], "the other one has a stream");
        assert!(host.idle.is_empty());
        host.give_back(1, Fake(1), now);
        assert!(host.idle.is_empty());
        assert_eq!(host.end_stream(3, End::Over, now), Some(Fake(3)));
    }

    /// Connection 2 without a stream and connection 3 with one.
    fn open_shared_twice(host: &mut FakeHost, now: BootInstant) {
        let kept = host.idle.pop().unwrap();
        host.limits.connections_max += 1;
        open(host, now);
        host.opened_shared(2, Fake(2), now);
        host.shared[0].is_draining = true;
        open(host, now);
        host.opened_shared(3, Fake(3), now);
        host.end_stream(2, End::Over, now);
        host.idle.push(kept);
    }

    #[test]
    fn idleness_begins_with_the_last_request() {
        let (mut host, now) = exclusive();
        open(&mut host, now);
        host.opened_exclusive();
        assert_eq!(host.idleness(1, now), Idleness::Busy);
        host.give_back(1, Fake(1), now);
        let second = Duration::from_secs(1);
        assert_eq!(host.idleness(1, now + second), Idleness::Left(second * 9));
        assert_eq!(host.idleness(1, now + second * 10), Idleness::Expired);
        assert!(host.idle.is_empty());

        open(&mut host, now);
        host.opened_shared(2, Fake(2), now);
        assert_eq!(host.idleness(2, now + second * 10), Idleness::Busy);
        host.end_stream(2, End::Over, now + second * 10);
        assert_eq!(host.idleness(2, now + second * 11), Idleness::Left(second * 9));
        assert_eq!(host.idleness(2, now + second * 20), Idleness::Expired);
        assert!(host.shared.is_empty());
    }
}
