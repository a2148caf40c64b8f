//! A shard's connections: slots made at start-up, a hot list, and what goes out to the shell.

use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlightTable;
use super::visit::{Shared, Visit};
use super::{Clock, Company, Connection, ConnectionStatistics, Ending, Routes, Timestamp};
use crate::limits::{
    BYTES_PER_TURN, FRAMES_PER_TURN, FRAMES_PER_VISIT, IN_FLIGHT_PER_CONNECTION,
    INTERACTIVE_PER_VISIT, INTERACTIVE_SIZE_MAX, MODELLED, REPLY_INLINE_SIZE_MAX,
};
use crate::link::{Forwarded, Job, JobKind, ShardEnd};
use crate::metrics::{LeaseTier, Metrics, ShardMetrics};
use crate::pool::{BufferPool, TierIndex};
use crate::protocol::Codec;
use crate::region::{RegionLayout, RegionMemory, Whereabouts};
use crate::sync::sound;
use crate::wire::{Features, Goodbye, Status};

/// Visits that must find nothing before a connection is parked, however long ago its last frame is.
///
/// With a thousand busy connections a turn takes longer than the spin budget, and time alone would park
/// each of them after every frame: 1,000 × 1 KiB ran at 2.9 M/s, most of the client's time ringing.
const QUIET_VISITS_MIN: u32 = if MODELLED { 1 } else { 32 };
/// How many slots ahead of a visit the line of the next request is asked for: a thousand connections
/// do not fit a core's own cache.
const PREFETCH_DISTANCE: usize = 4;
/// How long a connection that found no buffer, or no room with a worker, waits before it tries again.
/// Workers wait as long for a buffer.
const STARVED_RETRY: Duration = Duration::from_millis(1);
/// Bytes of the buffer into which most payloads are copied.
const SCRATCH_SIZE: usize = 64 * 1024;
static_assertions::const_assert!(SCRATCH_SIZE >= REPLY_INLINE_SIZE_MAX);

/// What a [`Table`] is made from.
pub struct TableOptions {
    /// Connections at one time.
    pub slot_count: usize,
    /// Handlers.
    pub routes: Arc<Routes>,
    /// Codecs, by the index that handshakes use.
    pub codecs: Arc<[Arc<dyn Codec>]>,
    /// One link for each worker executor.
    pub links: Vec<ShardEnd>,
    /// Buffers for payloads.
    pub pool: BufferPool,
    /// Where this shard counts.
    pub metrics: Arc<Metrics>,
    /// Which block of `metrics` is this shard's.
    pub shard_index: usize,
    /// Largest payload, in bytes.
    pub message_size_max: u32,
    /// How long a connection that went quiet is still polled, in nanoseconds.
    pub spin_ns: u64,
    /// Silence after which a connection is closed, in nanoseconds; `None`: never.
    pub idle_timeout_ns: Option<u64>,
}

/// A connection that has passed its handshake.
pub struct NewConnection<M> {
    /// The region.
    pub memory: M,
    /// Its layout, as the handshake said and the daemon checked.
    pub layout: RegionLayout,
    /// What was granted.
    pub features: Features,
    /// Index of the codec among the server's.
    pub codec: u8,
    /// Its number in the statistics.
    pub connection_id: u64,
}

/// Where a new connection was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Index of its slot.
    pub slot: u32,
}

/// What the shell around a table must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ring this client's doorbell.
    Ring {
        /// The connection's slot.
        slot: u32,
    },
    /// Say goodbye and close the socket; then tell [`Table::shell_released`].
    Close {
        /// The connection's slot.
        slot: u32,
        /// The last word, if there is one.
        goodbye: Option<Goodbye>,
    },
    /// The slot is free again: one connection fewer.
    Freed {
        /// The slot.
        slot: u32,
        /// What the connection did.
        statistics: ConnectionStatistics,
    },
}

/// What a turn amounted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was done: turn again.
    Busy,
    /// Nothing was done, but some connection is still polled.
    Polling,
    /// Nothing will happen before somebody rings or hangs up.
    Parked,
}

/// A connection's way through its slot: `Free → Serving → Closing → Free`.
enum State<M> {
    Free,
    Serving(Connection<M>),
    Closing(Closing),
}

/// A closed connection, until the shell and every worker have let go of its slot.
#[derive(Clone, Copy)]
struct Closing {
    /// Workers, as bits, that have not been told yet: their job rings were full.
    untold: u32,
    /// Workers that may still publish replies.
    unacknowledged: u32,
    shell_done: bool,
    connection_id: u64,
    statistics: ConnectionStatistics,
}

struct Slot<M> {
    state: State<M>,
    /// When the last visit found something; meaningful while hot.
    quiet_since: Timestamp,
    /// Visits since then that found nothing.
    quiet_visits: u32,
    hot: bool,
    /// Waits for space in its response ring.
    blocked: bool,
    /// Is in [`Table::starved`].
    starved: bool,
    /// The last visit found more than one request, or a large one.
    bulk: bool,
    /// Is in [`Table::interactive`].
    listed: bool,
    /// What its client was told about [`Table::beside`].
    told: Option<u32>,
}

/// All connections of one data shard.
pub struct Table<M> {
    options: TableOptions,
    slots: Box<[Slot<M>]>,
    slot_count: u32,
    free: Vec<u32>,
    /// Slots that are polled every round.
    hot: Vec<u32>,
    /// Where in `hot` this round goes on.
    round_at: usize,
    /// Hot slots that keep at most one request under way, and those that have just become hot: looked
    /// at between any two visits to others. Some that are no longer either, which are taken out when
    /// they are met.
    interactive: Vec<u32>,
    /// Where in `interactive` the next look goes on.
    interactive_at: usize,
    /// Slots that wait for a buffer or a worker; polled again when a worker has news, or when
    /// `retry_starved_at` has come: a worker that takes a job or drops a lease tells nobody.
    starved: Vec<u32>,
    /// Meaningful while `starved` is not empty.
    retry_starved_at: Timestamp,
    /// Closed slots whose workers must still be told.
    untold: Vec<u32>,
    in_flight: InFlightTable,
    scratch: Box<[u8]>,
    outputs: Vec<Output>,
    /// What all visits did, to tell how much a turn has done.
    work: Work,
    draining: bool,
    /// The core that the shard shares with its client on purpose.
    beside: Option<u32>,
    /// The clients that went quiet since the shard last asked.
    company: Company,
}

impl<M: RegionMemory> Table<M> {
    /// An empty table. Everything that it will ever need is made here.
    #[must_use]
    pub fn new(options: TableOptions) -> Self {
        let count = options.slot_count;
        let slot_count = u32::try_from(count).expect("fewer than 2³² connections");
        let slot = |_| Slot {
            state: State::Free,
            quiet_since: Timestamp::default(),
            quiet_visits: 0,
            hot: false,
            blocked: false,
            starved: false,
            bulk: false,
            listed: false,
            told: None,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            slot_count,
            free: (0..slot_count).rev().collect(),
            hot: Vec::with_capacity(count),
            round_at: 0,
            interactive: Vec::with_capacity(count),
            interactive_at: 0,
            starved: Vec::with_capacity(count),
            retry_starved_at: Timestamp::default(),
            untold: Vec::with_capacity(count),
            // Every connection's share: some that never read their answers take nobody else's. What
            // is not used is not touched.
            in_flight: InFlightTable::new(count * IN_FLIGHT_PER_CONNECTION as usize),
            scratch: vec![0; SCRATCH_SIZE].into_boxed_slice(),
            outputs: Vec::with_capacity(Self::outputs_max(count)),
            work: Work::default(),
            draining: false,
            beside: None,
            company: Company::Nobody,
            options,
        }
    }

    /// Outputs that one turn can make: one of each kind for each of `slot_count` slots that it visits,
    /// and a ring for each interactive one that is served in between.
    pub(crate) const fn outputs_max(slot_count: usize) -> usize {
        3 * slot_count + FRAMES_PER_TURN * INTERACTIVE_PER_VISIT + 8
    }

    /// Takes over a connection and polls it.
    ///
    /// # Errors
    ///
    /// The connection itself, when every slot is taken.
    pub fn adopt(
        &mut self,
        new: NewConnection<M>,
        now: Timestamp,
    ) -> Result<Adopted, NewConnection<M>> {
        let Some(slot) = self.free.pop() else { return Err(new) };
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Serving(Connection::new(new, self.options.message_size_max, now));
        entry.told = None;
        self.metrics().connection_opened();
        self.unpark(slot, now);
        Ok(Adopted { slot })
    }

    /// A client has rung its doorbell: polls it again.
    pub fn doorbell(&mut self, slot: u32, now: Timestamp) {
        self.metrics().activity.doorbells_received_total.increment();
        if sound("a doorbell is heard") {
            self.unpark(slot, now);
        }
    }

    /// Ends a connection, for a reason that the shell saw.
    pub fn end(&mut self, slot: u32, ending: Ending) {
        self.close(slot, ending);
    }

    /// The shell has closed everything that a slot had.
    pub fn shell_released(&mut self, slot: u32) {
        if let State::Closing(closing) = &mut self.slots[slot as usize].state {
            closing.shell_done = true;
        }
        self.free_if_done(slot);
    }

    /// Starts to drain: what is in flight is finished, new requests are refused, and each connection
    /// is closed when it has nothing left.
    pub fn drain(&mut self, now: Timestamp) {
        self.draining = true;
        self.unpark_all(now);
    }

    /// Ends every connection now.
    pub fn end_all(&mut self) {
        for slot in 0..self.slot_count {
            self.close(slot, Ending::Shutdown);
        }
    }

    /// Connections that are not wholly gone.
    #[must_use]
    pub fn occupied_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Requests that wait for an asynchronous handler, over all connections.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.count()
    }

    /// What the shell has to do, in order; empty after the call.
    pub fn take_outputs(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.outputs.drain(..)
    }

    /// True when [`Table::take_outputs`] has something to give.
    #[inline]
    #[must_use]
    pub fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// True between two turns of one round: some of the hot connections are still to be visited.
    #[must_use]
    pub const fn is_in_round(&self) -> bool {
        self.round_at > 0
    }

    /// News from workers, then a part of a round, in which every hot connection is visited once: up to
    /// [`FRAMES_PER_TURN`] and [`BYTES_PER_TURN`], so that the shell hears of doorbells meanwhile.
    ///
    /// A visit takes no more than its budget, which is deficit round robin with frames too large for a
    /// budget taken whole. After each visit to a connection with a backlog come the *interactive* ones,
    /// as the new flows of fq_codel (RFC 8290 §4.2) come before the old: who has just become hot, and
    /// who had no more than one small request when it was last visited. That is one who waits for its
    /// answer before it goes on, so it cannot take more than a frame each time; and there are at most
    /// [`INTERACTIVE_PER_VISIT`] of those, so a backlog is worked off whatever they do.
    pub fn turn(&mut self, now: Timestamp, clock: &dyn Clock) -> Turn {
        let mut busy = self.take_news(now);
        if self.starved_until().is_some_and(|until| now >= until) {
            self.unpark_starved(now);
        }
        if !self.untold.is_empty() {
            self.tell_workers();
        }
        let before = self.work;
        // Bounded: each step either moves on or makes the list shorter.
        while let Some(&slot) = self.hot.get(self.round_at) {
            if self.round_at > 0 && !sound("a turn visits every polled connection") {
                break;
            }
            if let Some(&ahead) = self.hot.get(self.round_at + PREFETCH_DISTANCE) {
                self.slots[ahead as usize].touch();
            }
            match self.visit(slot, now, clock) {
                Visited::Busy => busy = true,
                Visited::Quiet => {}
                Visited::Cooled => {
                    self.hot.swap_remove(self.round_at);
                    self.slots[slot as usize].hot = false;
                    continue;
                }
            }
            self.round_at += 1;
            if self.slots[slot as usize].bulk {
                self.serve_interactive(now, clock);
            }
            if self.work.is_much_since(before) && self.round_at < self.hot.len() {
                return Turn::Busy;
            }
        }
        self.round_at = 0;
        if busy {
            // What was done may have given a buffer back.
            self.unpark_starved(now);
        }
        match (busy, self.hot.is_empty() && self.untold.is_empty()) {
            (true, _) => Turn::Busy,
            (false, false) => Turn::Polling,
            (false, true) => {
                // What was forwarded since the last news gave its buffers back.
                self.show_leases();
                self.metrics().activity.parks_total.increment();
                Turn::Parked
            }
        }
    }

    /// The shard sits on the core of its client from now on, or no longer. There a connection is not
    /// polled once it is quiet: that would keep its client from running.
    pub fn sit_beside(&mut self, core: Option<u32>) {
        self.beside = core;
        // Bounded: the hot ones; who is parked is told when it is hot again.
        for &slot in &self.hot {
            self.slots[slot as usize].tell(core);
        }
    }

    /// Who was served since the last call, of those that have become quiet.
    pub fn take_company(&mut self) -> Company {
        std::mem::take(&mut self.company)
    }

    /// Connections that are polled.
    #[must_use]
    pub fn hot_count(&self) -> usize {
        self.hot.len()
    }

    /// True when a turn would find something to do: looked at once more after the shard has announced
    /// that it parks.
    #[must_use]
    pub fn has_news(&self) -> bool {
        // After a turn that found nothing, only `close_idle` makes a connection hot.
        !self.hot.is_empty() || self.workers_have_news()
    }

    fn workers_have_news(&self) -> bool {
        self.options.links.iter().any(ShardEnd::has_news)
    }

    /// Counts turns for the metrics, several at once: one turn can be as short as counting it.
    pub fn count_turns(&self, count: u64) {
        self.metrics().activity.turns_total.add(count);
    }

    /// When the shard must turn again although nothing woke it: some connection waits for a buffer or
    /// for room with a worker.
    #[inline]
    #[must_use]
    pub fn starved_until(&self) -> Option<Timestamp> {
        let waits = !self.starved.is_empty() && sound("who waits for a worker tries again");
        waits.then_some(self.retry_starved_at)
    }

    /// Closes connections that have been silent for the idle timeout; gives the time at which the
    /// next one will have been.
    pub fn close_idle(&mut self, now: Timestamp) -> Option<Timestamp> {
        let timeout = self.options.idle_timeout_ns?;
        let mut next: Option<Timestamp> = None;
        for slot in 0..self.slot_count {
            let entry = &self.slots[slot as usize];
            let State::Serving(connection) = &entry.state else { continue };
            let view = connection.memory.view();
            // A client that has done its part and not rung, because it was stopped before it could, is
            // looked at once more: it publishes, or it frees the space that it is blocked for.
            let moved = if entry.blocked {
                !connection.ends.responses.is_unmoved(view.response_ring())
            } else {
                !entry.starved && !connection.ends.requests.is_empty(view.request_ring())
            };
            // A client that waits for us is not idle; one that does not read its answers is.
            let waits = entry.starved || connection.ends.in_flight.count() > 0;
            let moved = moved && sound("who waits for us is not idle");
            let waits = moved || (waits && !entry.blocked);
            let silent_since = if waits { now } else { connection.ends.last_active };
            let due = Timestamp(silent_since.0.saturating_add(timeout));
            if moved {
                self.unpark(slot, now);
            }
            if due <= now {
                self.close(slot, Ending::Idle);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }

    /// What the connection in `slot` did so far.
    #[must_use]
    pub fn statistics(&self, slot: u32) -> Option<ConnectionStatistics> {
        match &self.slots[slot as usize].state {
            State::Serving(connection) => Some(connection.ends.statistics),
            State::Closing(closing) => Some(closing.statistics),
            State::Free => None,
        }
    }

    fn metrics(&self) -> &ShardMetrics {
        self.options.metrics.shard(self.options.shard_index)
    }

    /// Polls `slot` from now on.
    fn unpark(&mut self, slot: u32, now: Timestamp) {
        let entry = &mut self.slots[slot as usize];
        if !matches!(entry.state, State::Serving(_)) {
            return;
        }
        entry.quiet_since = now;
        if !entry.hot {
            entry.warm(self.beside);
            self.hot.push(slot);
            self.list(slot);
        }
    }

    /// Counts `slot` among the interactive from now on.
    #[inline]
    fn list(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !entry.listed {
            entry.listed = true;
            // Note: cannot grow: each slot is in the list at most once.
            self.interactive.push(slot);
        }
    }

    fn unpark_all(&mut self, now: Timestamp) {
        for slot in 0..self.slot_count {
            self.unpark(slot, now);
        }
    }

    /// Makes every slot hot for which a worker has published something.
    fn take_news(&mut self, now: Timestamp) -> bool {
        if !self.workers_have_news() {
            return false;
        }
        let Self { options, slots, hot, interactive, beside, .. } = self;
        for link in &options.links {
            link.take_news(|index| {
                let entry = &mut slots[index as usize];
                entry.quiet_since = now;
                if !entry.hot {
                    entry.warm(*beside);
                    hot.push(index);
                    if !entry.listed {
                        entry.listed = true;
                        interactive.push(index);
                    }
                }
            });
        }
        self.unpark_starved(now);
        self.show_leases();
        true
    }

    /// Polls again who waits for a buffer or a worker.
    fn unpark_starved(&mut self, now: Timestamp) {
        // Bounded: each slot is in the list at most once.
        while let Some(slot) = self.starved.pop() {
            self.slots[slot as usize].starved = false;
            self.unpark(slot, now);
        }
    }

    /// Serves one request each of some interactive connections that have one.
    fn serve_interactive(&mut self, now: Timestamp, clock: &dyn Clock) {
        for _ in 0..INTERACTIVE_PER_VISIT.min(self.interactive.len()) {
            if self.interactive_at >= self.interactive.len() {
                self.interactive_at = 0;
            }
            let Some(&slot) = self.interactive.get(self.interactive_at) else { return };
            let entry = &mut self.slots[slot as usize];
            if !entry.hot || entry.bulk {
                entry.listed = false;
                self.interactive.swap_remove(self.interactive_at);
                continue;
            }
            self.interactive_at += 1;
            if entry.has_request() {
                self.serve(slot, 1, now, clock);
            }
        }
    }

    fn show_leases(&self) {
        for (tier, label) in TierIndex::ALL.into_iter().zip(LeaseTier::ALL) {
            let pool = &self.options.pool;
            let used = pool.count(tier) - pool.free_count(tier);
            self.metrics().tier(*label).leases_in_use.set(u64::from(used));
        }
    }

    /// Visits one hot slot: replies first, they are older than any request.
    fn visit(&mut self, slot: u32, now: Timestamp, clock: &dyn Clock) -> Visited {
        match &self.slots[slot as usize].state {
            State::Serving(_) => match self.serve(slot, FRAMES_PER_VISIT, now, clock) {
                None => Visited::Busy,
                Some(idle) => self.visit_quiet(slot, idle, now),
            },
            _ => self.visit_closing(slot),
        }
    }

    /// Does what there is to do for a slot that is serving; gives what stood in the way when there
    /// was nothing.
    #[inline]
    fn serve(
        &mut self,
        slot: u32,
        frames_max: u32,
        now: Timestamp,
        clock: &dyn Clock,
    ) -> Option<Visit> {
        let entry = &mut self.slots[slot as usize];
        let State::Serving(connection) = &mut entry.state else { return None };
        let mut shared = Shared {
            routes: &self.options.routes,
            codecs: &self.options.codecs,
            links: &mut self.options.links,
            in_flight: &mut self.in_flight,
            pool: &self.options.pool,
            scratch: &mut self.scratch,
            metrics: self.options.metrics.shard(self.options.shard_index),
            clock,
            draining: self.draining,
        };
        let Connection { memory, ends } = connection;
        let view = memory.view();
        let before = Work::of(&ends.statistics);
        let replies = ends.forward_replies(view, slot, &mut shared, now);
        let requests = match replies {
            Visit::End(_) => replies,
            _ => ends.visit(view, slot, &mut shared, now, frames_max),
        };
        if let Visit::End(ending) = requests {
            self.close(slot, ending);
            // Its goodbye waits in the outputs, and its slot for the workers.
            return None;
        }
        let done = Work::of(&ends.statistics).since(before);
        self.work = self.work.plus(done);
        let busy = replies == Visit::Busy || requests == Visit::Busy;
        entry.blocked = replies == Visit::BlockedOnClient || requests == Visit::BlockedOnClient;
        if busy {
            entry.quiet_since = now;
            entry.quiet_visits = 0;
            // Where only one could be taken, another that waits is more than one.
            entry.bulk = done.frames > 1
                || done.bytes > INTERACTIVE_SIZE_MAX
                || (frames_max == 1 && !ends.requests.is_empty(view.request_ring()));
            let interactive = !entry.bulk;
            if view.client_parked().take() {
                self.outputs.push(Output::Ring { slot });
                self.metrics().activity.doorbells_sent_total.increment();
            } else {
                self.metrics().activity.doorbells_suppressed_total.increment();
            }
            if interactive {
                self.list(slot);
            }
            return None;
        }
        if entry.blocked && view.client_parked().take() {
            // There may be new padding in its ring, which only a client that looks can free.
            self.outputs.push(Output::Ring { slot });
            self.metrics().activity.doorbells_sent_total.increment();
        }
        Some(requests)
    }

    /// Nothing was done for `slot`: decides whether it stays hot.
    fn visit_quiet(&mut self, slot: u32, requests: Visit, now: Timestamp) -> Visited {
        let entry = &mut self.slots[slot as usize];
        let State::Serving(connection) = &mut entry.state else { return Visited::Cooled };
        let is_done = connection.ends.in_flight.count() == 0 || !sound("a drain waits for answers");
        if self.draining && is_done && requests == Visit::Quiet {
            self.close(slot, Ending::Shutdown);
            return Visited::Busy;
        }
        entry.quiet_visits += 1;
        let polls = entry.quiet_visits < QUIET_VISITS_MIN
            || now.since(entry.quiet_since) < self.options.spin_ns;
        if polls && self.beside.is_none() {
            return Visited::Quiet;
        }
        if requests == Visit::BlockedOnWorker {
            if self.starved.is_empty() {
                self.retry_starved_at = now.after(STARVED_RETRY);
            }
            if !entry.starved {
                entry.starved = true;
                self.starved.push(slot);
            }
            // One whose replies wait for space as well has to hear from its client, too.
            if !entry.blocked {
                self.metrics().activity.backpressure_total.increment();
                return Visited::Cooled;
            }
        }
        let view = connection.memory.view();
        view.daemon_parked().arm();
        if entry.blocked {
            view.daemon_blocked().arm();
        }
        // The last look: whoever published or freed something before it could see the flag does not
        // ring. A blocked connection waits for space only, whatever its request ring holds.
        let found = if entry.blocked {
            !connection.ends.responses.is_unmoved(view.response_ring())
        } else {
            !connection.ends.requests.is_empty(view.request_ring())
                && sound("last look for a request")
        };
        if found {
            view.daemon_parked().disarm();
            view.daemon_blocked().disarm();
            entry.quiet_since = now;
            return Visited::Quiet;
        }
        self.company.join(slot, view.client_core().load());
        if entry.blocked {
            self.metrics().activity.backpressure_total.increment();
        }
        Visited::Cooled
    }

    /// A closed connection's workers may still have something to drop.
    fn visit_closing(&mut self, slot: u32) -> Visited {
        let State::Closing(closing) = &mut self.slots[slot as usize].state else {
            return Visited::Cooled;
        };
        for (worker, link) in self.options.links.iter_mut().enumerate() {
            // Bounded: a reply ring holds few frames, and the worker adds none for a connection
            // that it knows to be closed.
            loop {
                match link.discard(slot as usize) {
                    Forwarded::Nothing => break,
                    Forwarded::Closed => closing.unacknowledged &= !(1 << worker),
                    _ => {}
                }
            }
        }
        self.free_if_done(slot);
        Visited::Cooled
    }

    /// Ends a connection: its requests are dropped, its memory unmapped, the shell and its workers
    /// told. Does nothing to a slot that is not serving.
    fn close(&mut self, slot: u32, ending: Ending) {
        let entry = &mut self.slots[slot as usize];
        let State::Serving(connection) = &mut entry.state else { return };
        // Who leaves no longer wants what is in flight.
        let metrics = self.options.metrics.shard(self.options.shard_index);
        self.in_flight.clear(&mut connection.ends.in_flight, |request| {
            metrics.failed(request.kind, Status::Cancelled);
        });
        let closing = Closing {
            untold: connection.ends.workers_used,
            unacknowledged: if sound("a slot waits for its workers") {
                connection.ends.workers_used
            } else {
                0
            },
            shell_done: false,
            connection_id: connection.ends.connection_id,
            statistics: connection.ends.statistics,
        };
        // Drops the connection and with it the mapping.
        entry.state = State::Closing(closing);
        entry.blocked = false;
        if closing.unacknowledged != 0
            && !entry.hot
            && sound("a closed connection's replies are dropped")
        {
            // Its reply ring may be full of what its client did not read, with no news to come:
            // emptied in the next turn, or the worker's last word would find no space.
            entry.hot = true;
            self.hot.push(slot);
        }
        self.outputs.push(Output::Close { slot, goodbye: ending.goodbye() });
        self.metrics().connection_closed(ending.reason());
        if let Ending::Fault(fault) = ending {
            self.metrics().fault(fault.index());
        }
        if closing.untold != 0 {
            self.untold.push(slot);
            self.tell_workers();
        }
    }

    /// Tells workers of closed connections; those whose job rings are full, next turn.
    fn tell_workers(&mut self) {
        let Self { options, slots, untold, .. } = self;
        untold.retain(|slot| {
            let State::Closing(closing) = &mut slots[*slot as usize].state else { return false };
            for (worker, link) in options.links.iter_mut().enumerate() {
                if closing.untold & (1 << worker) != 0 && link.has_room() {
                    let connection_id = closing.connection_id;
                    link.send(Job { slot: *slot, connection_id, kind: JobKind::Closed });
                    closing.untold &= !(1 << worker);
                }
            }
            closing.untold != 0
        });
    }

    fn free_if_done(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if let State::Closing(Closing { unacknowledged: 0, shell_done: true, statistics, .. }) =
            entry.state
        {
            entry.state = State::Free;
            self.free.push(slot);
            self.outputs.push(Output::Freed { slot, statistics });
        }
    }
}

impl<M: RegionMemory> Slot<M> {
    /// Asks for the lines at which the next request will appear.
    #[inline]
    fn touch(&self) {
        if let State::Serving(connection) = &self.state {
            connection.ends.requests.prefetch(connection.memory.view().request_ring());
        }
    }

    /// True when a request waits to be taken.
    #[inline]
    fn has_request(&self) -> bool {
        match &self.state {
            State::Serving(connection) => {
                !connection.ends.requests.is_empty(connection.memory.view().request_ring())
            }
            _ => false,
        }
    }

    /// Tells the client on which core the shard sits beside it, unless it knows.
    fn tell(&mut self, core: Option<u32>) {
        if self.told == core {
            return;
        }
        if let State::Serving(connection) = &self.state {
            let place = core.map(|core| Whereabouts { core, polls: false });
            connection.memory.view().daemon_core().store(place);
            self.told = core;
        }
    }

    /// Marks the slot as polled, and tells its client that nobody need ring.
    fn warm(&mut self, beside: Option<u32>) {
        self.hot = true;
        self.quiet_visits = 0;
        self.bulk = false;
        self.tell(beside);
        if let State::Serving(connection) = &self.state {
            connection.memory.view().daemon_parked().disarm();
            connection.memory.view().daemon_blocked().disarm();
        }
    }
}

/// Requests that were taken up, and bytes of their payloads; modulo 2⁶⁴.
#[derive(Clone, Copy, Default)]
struct Work {
    frames: u64,
    bytes: u64,
}

impl Work {
    #[inline]
    fn of(statistics: &ConnectionStatistics) -> Self {
        Self { frames: statistics.requests, bytes: statistics.request_bytes }
    }

    #[inline]
    fn since(self, before: Self) -> Self {
        Self {
            frames: self.frames.wrapping_sub(before.frames),
            bytes: self.bytes.wrapping_sub(before.bytes),
        }
    }

    #[inline]
    fn plus(self, more: Self) -> Self {
        Self {
            frames: self.frames.wrapping_add(more.frames),
            bytes: self.bytes.wrapping_add(more.bytes),
        }
    }

    /// True when a turn that began `before` has done its share.
    #[inline]
    fn is_much_since(self, before: Self) -> bool {
        let done = self.since(before);
        done.frames >= FRAMES_PER_TURN as u64 || done.bytes >= BYTES_PER_TURN
    }
}

/// What a visit means for the hot list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visited {
    Busy,
    Quiet,
    /// Not polled any more.
    Cooled,
}
