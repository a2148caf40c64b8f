//! A shard's connections: how each comes, stays and goes, and what goes out to the shell.
//! The order in which they are served is in `service`.

mod recent_use;
mod service;
mod slot;
mod work;

use std::sync::Arc;

use self::recent_use::RecentUse;
use self::slot::{Closing, Slot, State};
use self::work::Work;
use super::in_flight::InFlightTable;
use super::scratch::Scratch;
use super::{Company, Connection, ConnectionStatistics, Ending, Routes, Timestamp};
use crate::limits::{FRAMES_PER_TURN, IN_FLIGHT_PER_CONNECTION, INTERACTIVE_PER_VISIT};
use crate::link::{Job, JobKind, ShardEnd};
use crate::metrics::{LeaseTier, Metrics, ShardMetrics};
use crate::pool::{BufferPool, TierIndex};
use crate::protocol::Codec;
use crate::region::{RegionLayout, RegionMemory};
use crate::sync::sound;
use crate::wire::{Features, Goodbye, Status};

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

/// All connections of one data shard.
pub struct Table<M> {
    options: TableOptions,
    /// Those that have ever been used, in memory for all of them: one that has never been costs none.
    slots: Vec<Slot<M>>,
    /// Which of `slots` are free.
    free: Vec<u32>,
    /// Slots that are polled every round.
    hot: Vec<u32>,
    /// How many of them have asked.
    asking_count: usize,
    /// Where in `hot` this round goes on.
    round_at: usize,
    /// Hot slots that keep at most one request under way, and those that have just become hot with
    /// little use before: looked at between any two visits to others. Some that are no longer either,
    /// which are taken out when they are met.
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
    scratch: Scratch,
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
        Self {
            slots: Vec::with_capacity(count),
            free: Vec::with_capacity(count),
            hot: Vec::with_capacity(count),
            asking_count: 0,
            round_at: 0,
            interactive: Vec::with_capacity(count),
            interactive_at: 0,
            starved: Vec::with_capacity(count),
            retry_starved_at: Timestamp::default(),
            untold: Vec::with_capacity(count),
            // Every connection's share: some that never read their answers take nobody else's. What
            // is not used is not touched.
            in_flight: InFlightTable::new(count * IN_FLIGHT_PER_CONNECTION as usize),
            scratch: Scratch::new(),
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
        let Some(slot) = self.free_slot() else { return Err(new) };
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Serving(Connection::new(new, self.options.message_size_max, now));
        entry.told = None;
        entry.recent = RecentUse::default();
        entry.single_visits = 0;
        self.metrics().connection_opened();
        self.unpark(slot, now);
        Ok(Adopted { slot })
    }

    /// Takes a free slot: one that was used before, so that few are ever touched.
    fn free_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.slots_used();
        // Without allocating: there is memory for as many.
        (self.slots.len() < self.options.slot_count).then(|| self.slots.push(Slot::new()))?;
        Some(slot)
    }

    /// Slots that have ever been used; they are the lowest.
    fn slots_used(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("fewer than 2³² connections")
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
        for slot in 0..self.slots_used() {
            self.close(slot, Ending::Shutdown);
        }
    }

    /// Connections that are not wholly gone.
    #[must_use]
    pub fn occupied_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when nobody is connected, and connections that were have left pages that can go back.
    #[must_use]
    pub fn has_idle_pages(&self) -> bool {
        self.occupied_count() == 0 && self.options.links.iter().any(ShardEnd::has_idle_pages)
    }

    /// Returns the pages of all reply rings to the kernel, one system call for each worker; after
    /// [`Table::has_idle_pages`] has said that there are some.
    pub fn give_back_pages(&mut self) {
        self.options.links.iter_mut().for_each(ShardEnd::give_back_pages);
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

    /// The shard sits on the core of its client from now on, or no longer. There a connection is not
    /// polled once it is quiet: that would keep its client from running.
    pub fn sit_beside(&mut self, core: Option<u32>) {
        self.beside = core;
        // Bounded: the hot ones; who is parked is told when it is hot again.
        for &slot in &self.hot {
            self.slots[slot as usize].tell(core);
        }
    }

    /// Tells the client of `slot`, which is not polled, where the shard sits: for whoever is followed, because
    /// it may ask and poll before the shard runs again.
    pub fn tell(&mut self, slot: u32) {
        self.slots[slot as usize].tell(self.beside);
    }

    /// Who has asked since the last call, of those that have become quiet. Who only gets a worker's
    /// replies is not among them: it is the worker that wakes the shard for these, from wherever it is.
    pub fn take_company(&mut self) -> Company {
        std::mem::take(&mut self.company)
    }

    /// Counts turns for the metrics, several at once: one turn can be as short as counting it.
    pub fn count_turns(&self, count: u64) {
        self.metrics().activity.turns_total.add(count);
    }

    /// Closes connections that have been silent for the idle timeout; gives the time at which the
    /// next one will have been.
    pub fn close_idle(&mut self, now: Timestamp) -> Option<Timestamp> {
        let timeout = self.options.idle_timeout_ns?;
        let mut next: Option<Timestamp> = None;
        for slot in 0..self.slots_used() {
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
        match &self.slots.get(slot as usize)?.state {
            State::Serving(connection) => Some(connection.ends.statistics),
            State::Closing(closing) => Some(closing.statistics),
            State::Free => None,
        }
    }

    fn metrics(&self) -> &ShardMetrics {
        self.options.metrics.shard(self.options.shard_index)
    }

    fn show_leases(&self) {
        for (tier, label) in TierIndex::ALL.into_iter().zip(LeaseTier::ALL) {
            let pool = &self.options.pool;
            let used = pool.count(tier) - pool.free_count(tier);
            self.metrics().tier(*label).leases_in_use.set(u64::from(used));
        }
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
