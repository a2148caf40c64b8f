//! A data shard: an executor with one task, on a core of its own where `shards.cores` names one,
//! which drives a [`Table`] and its own uring.
//!
//! The shell around the state machine: it owns descriptors, reads the clock, sleeps and wakes.
//! After start-up it allocates nothing and waits only where it parks.

mod follow;
mod place;
mod ringer;
mod uring;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rustix::net::{SendFlags, Shutdown};
use rustix::thread::CpuSet;
use zerocopy::IntoBytes;

use self::place::Place;
use self::ringer::Ringer;
use self::uring::{Event, Purpose, SlotKey, Uring};
use crate::connection::{
    Clock, Company, Ending, NewConnection, Output, Table, TableOptions, Timestamp, Turn,
};
use crate::limits::ARRIVALS_MAX;
use crate::pool::BufferPool;
use crate::region::Region;
use crate::sync::{AtomicBool, AtomicU32, Ordering, sound};
use crate::wake::ShardWaker;
use crate::wire::{Fault, Goodbye};

/// Turns without work between two readings of the clock. A turn that polls several connections costs less
/// than that, one that polls a single one looks four times and takes 90 ns.
const IDLE_TURNS_PER_CLOCK: u32 = 4;
/// Turns between two looks at everything that is not a hot connection, unless time passes faster.
const TURNS_PER_LOOK: u64 = 4;
/// Longest time between two such looks while turns are long.
const LOOK_INTERVAL_NS: u64 = 5_000;
/// Shortest time between two parks at which buffers give their pages back: a client that sends a
/// large message every few milliseconds shall not wait for fresh pages each time.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// How long workers may take to let go of the connections that a drain did not see out. One that hangs
/// or is gone never does.
const WORKERS_GRACE: Duration = Duration::from_secs(1);

/// A connection on its way from the control thread to its shard.
pub(crate) struct Arrival {
    pub(crate) connection: NewConnection<Region>,
    pub(crate) descriptors: Descriptors,
}

/// The descriptors of one connection.
pub(crate) struct Descriptors {
    /// Hung up by whichever side leaves.
    pub(crate) socket: OwnedFd,
    /// The client rings it.
    pub(crate) request_doorbell: OwnedFd,
    /// We ring it.
    pub(crate) response_doorbell: OwnedFd,
}

/// What a shard shares with the control thread.
pub(crate) struct ShardShared {
    /// New connections. Short, because a queue is touched as a whole when it is made: whoever finds it
    /// full waits.
    pub(crate) arrivals: ArrayQueue<Arrival>,
    /// Wakes the shard for any of these.
    pub(crate) waker: Arc<ShardWaker>,
    /// Set to drain and stop.
    pub(crate) stopping: AtomicBool,
    /// Connections that occupy a slot, or are about to.
    pub(crate) occupied: AtomicU32,
}

impl ShardShared {
    pub(crate) fn new(waker: Arc<ShardWaker>) -> Self {
        Self {
            arrivals: ArrayQueue::new(ARRIVALS_MAX),
            waker,
            stopping: AtomicBool::new(false),
            occupied: AtomicU32::new(0),
        }
    }

    /// Asks the shard to drain and stop.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release); // Pairs with `is_stopping`.
        self.waker.wake_if_parked();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// What the shell keeps for each slot.
#[derive(Default)]
struct Seat {
    descriptors: Option<Descriptors>,
    /// Told apart from earlier connections of the slot.
    generation: u32,
    /// Operations of the uring that still name these descriptors.
    operations: u32,
    closing: bool,
}

struct MonotonicClock(Instant);

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The shard, on its own thread.
pub(crate) struct DataShard {
    table: Table<Region>,
    uring: Uring,
    ringer: Ringer,
    place: Place,
    /// For the slots that have been used, lowest first, in memory for all of them.
    seats: Vec<Seat>,
    shared: Arc<ShardShared>,
    clock: MonotonicClock,
    /// How long a drain may take.
    shutdown_timeout: Duration,
    /// When the drain must be over; when it was not, until when workers may let go.
    drain_until: Option<Timestamp>,
    /// The drain was not over in time, and every connection was ended.
    has_ended_all: bool,
    outputs: Vec<Output>,
    /// Buffers give their pages back when the shard parks after this.
    pool: BufferPool,
    give_back_after: Timestamp,
    /// When the next connection may have been silent for too long, or earlier: what happens in the
    /// meantime only makes it later.
    idle_due: Option<Timestamp>,
}

impl DataShard {
    /// Makes everything that the shard needs; on the thread that will run it, and on the cores that
    /// are to be its own. Clients on the cores `followed` are followed when it parks.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no uring or no ringer.
    pub(crate) fn new(
        options: TableOptions,
        shared: Arc<ShardShared>,
        shutdown_timeout: Duration,
        followed: CpuSet,
    ) -> std::io::Result<Self> {
        let slot_count = options.slot_count;
        let pool = options.pool.clone();
        let mut uring = Uring::new(slot_count)?;
        uring.watch(shared.waker.doorbell().as_fd(), Purpose::Wake);
        uring.enter();
        Ok(Self {
            table: Table::new(options),
            uring,
            ringer: Ringer::new()?,
            place: Place::new(followed)?,
            seats: Vec::with_capacity(slot_count),
            shared,
            clock: MonotonicClock(Instant::now()),
            shutdown_timeout,
            drain_until: None,
            has_ended_all: false,
            outputs: Vec::with_capacity(Table::<Region>::outputs_max(slot_count) + slot_count),
            pool,
            give_back_after: Timestamp::default(),
            idle_due: None,
        })
    }

    /// Serves until it was told to stop and has drained.
    pub(crate) fn run(&mut self) {
        let mut now = self.clock.now();
        let mut looked_at = now;
        // Turns since the last look, and turns that found nothing since the last read of the clock.
        let (mut turns, mut idle_turns) = (0, 0);
        // Bounded by the daemon's life: each round either works, polls for the spin budget, or
        // sleeps.
        loop {
            turns += 1;
            if turns >= TURNS_PER_LOOK || now.since(looked_at) > LOOK_INTERVAL_NS {
                looked_at = now;
                self.table.count_turns(std::mem::take(&mut turns));
                self.look_around(now);
            }
            let turn = self.table.turn(now, &self.clock);
            let rings = self.table.has_outputs();
            if rings {
                self.carry_out();
                self.uring.submit();
            }
            match turn {
                Turn::Busy => {
                    idle_turns = 0;
                    now = self.clock.now();
                    // A worker's replies keep nobody from working.
                    let asking = self.table.asking_count();
                    if asking > 0
                        && self.place.beside().is_some()
                        && self.place.busy(rings, asking, now)
                    {
                        self.sit_beside(None);
                    }
                }
                Turn::Polling => {
                    idle_turns += 1;
                    if idle_turns >= IDLE_TURNS_PER_CLOCK {
                        idle_turns = 0;
                        now = self.clock.now();
                    }
                }
                Turn::Parked if self.is_finished(now) => return,
                Turn::Parked => {
                    self.park(now);
                    now = self.clock.now();
                    looked_at = now;
                    self.attend(now);
                }
            }
        }
    }

    /// Everything that is not a hot connection: the uring, newcomers, the order to stop.
    fn look_around(&mut self, now: Timestamp) {
        if self.uring.has_work() {
            self.uring.enter();
        }
        self.attend(now);
    }

    /// What the uring has completed, newcomers, the order to stop.
    fn attend(&mut self, now: Timestamp) {
        self.take_events(now);
        if !self.shared.arrivals.is_empty() {
            self.take_arrivals(now);
        }
        if self.shared.is_stopping() {
            self.drain(now);
        }
        if self.idle_due.is_some_and(|due| now >= due) {
            self.idle_due = self.table.close_idle(now);
        }
        self.carry_out();
        self.uring.submit();
    }

    fn is_finished(&self, now: Timestamp) -> bool {
        let Some(until) = self.drain_until else { return false };
        self.table.occupied_count() == 0 || (self.has_ended_all && now >= until)
    }

    /// Sleeps until a doorbell, a hang-up, mail, news or a deadline.
    fn park(&mut self, now: Timestamp) {
        let company = self.table.take_company();
        if self.place.park(company, now) {
            self.sit_beside(self.place.beside());
            if let Company::Together { slot, .. } = company {
                self.table.tell(slot);
            }
        }
        if self.has_idle_pages() && now >= self.give_back_after {
            self.pool.give_back_pages();
            if self.table.has_idle_pages() {
                self.table.give_back_pages();
            }
            self.give_back_after = now.after(GIVE_BACK_INTERVAL);
        }
        let waker = Arc::clone(&self.shared.waker);
        waker.parked().arm();
        // The last look at everything that rings only a parked shard.
        let stopping = self.shared.is_stopping() && self.drain_until.is_none();
        if self.table.has_news() || !self.shared.arrivals.is_empty() || stopping {
            waker.parked().disarm();
            return;
        }
        // Pages that it is too early to give back wake the shard once, and then no more.
        let give_back_at = self.has_idle_pages().then_some(self.give_back_after);
        let until = [self.idle_due, self.drain_until, self.table.starved_until(), give_back_at]
            .into_iter()
            .flatten()
            .min();
        let timeout = until.map(|until| Duration::from_nanos(until.since(now)));
        self.uring.wait(timeout);
        waker.parked().disarm();
    }

    /// The place has changed.
    #[cold]
    fn sit_beside(&mut self, core: Option<u32>) {
        self.table.sit_beside(core);
        self.shared.waker.sit_beside(core);
    }

    fn has_idle_pages(&self) -> bool {
        self.pool.has_idle_pages() || self.table.has_idle_pages()
    }

    fn take_arrivals(&mut self, now: Timestamp) {
        // Bounded: each takes a slot, and there are no more arrivals than slots.
        while let Some(Arrival { connection, descriptors }) = self.shared.arrivals.pop() {
            let Ok(adopted) = self.table.adopt(connection, now) else {
                // The control thread admits no more than there are slots.
                debug_assert!(false, "an arrival found no slot");
                self.shared.occupied.fetch_sub(1, Ordering::AcqRel);
                continue;
            };
            // Bounded, and without allocating: there is a place for each slot.
            while self.seats.len() <= adopted.slot as usize {
                self.seats.push(Seat::default());
            }
            let seat = &mut self.seats[adopted.slot as usize];
            let key = SlotKey { slot: adopted.slot, generation: seat.generation };
            self.uring.watch(descriptors.socket.as_fd(), Purpose::Socket(key));
            self.uring.watch(descriptors.request_doorbell.as_fd(), Purpose::Doorbell(key));
            // Whoever was silent before it is due no later.
            self.idle_due = self.idle_due.or(Some(now));
            seat.operations = 2;
            seat.descriptors = Some(descriptors);
        }
    }

    fn drain(&mut self, now: Timestamp) {
        match self.drain_until {
            None => {
                self.drain_until = Some(now.after(self.shutdown_timeout));
                self.table.drain(now);
            }
            Some(until) if now >= until && !self.has_ended_all => {
                self.table.end_all();
                self.has_ended_all = true;
                self.drain_until = Some(now.after(WORKERS_GRACE));
            }
            Some(_) => {}
        }
    }

    fn take_events(&mut self, now: Timestamp) {
        // Bounded: it fills meanwhile only where a push finds the submission queue full, only watches that have
        // ended are pushed, and a watch ends where its completion finds no room.
        while let Some(event) = self.uring.next_event() {
            match event.purpose {
                Purpose::Wake if !event.more => {
                    let waker = Arc::clone(&self.shared.waker);
                    self.uring.watch(waker.doorbell().as_fd(), Purpose::Wake);
                }
                Purpose::Wake | Purpose::Removed => {}
                Purpose::Doorbell(key) | Purpose::Socket(key) => {
                    self.take_seat_event(event, key, now);
                }
            }
        }
    }

    fn take_seat_event(&mut self, event: Event, key: SlotKey, now: Timestamp) {
        let seat = &mut self.seats[key.slot as usize];
        if seat.generation != key.generation {
            // Cannot be: a generation ends only when all its operations have completed.
            debug_assert!(false, "a completion for an earlier connection");
            return;
        }
        if !event.more {
            seat.operations -= 1;
        }
        if seat.closing {
            self.release_if_done(key.slot);
            return;
        }
        match event.purpose {
            // A watch that the kernel refuses would be refused again.
            Purpose::Doorbell(_) | Purpose::Socket(_) if event.result < 0 => {
                self.table.end(key.slot, Ending::ClientLeft);
            }
            Purpose::Doorbell(_) => {
                self.table.doorbell(key.slot, now);
                self.rewatch(event, key);
            }
            _ => {
                let ending = self.judge_socket(key.slot);
                match ending {
                    Some(ending) => self.table.end(key.slot, ending),
                    None => self.rewatch(event, key),
                }
            }
        }
    }

    /// A multishot poll ends when the kernel runs short of completions: watches again.
    fn rewatch(&mut self, event: Event, key: SlotKey) {
        let seat = &mut self.seats[key.slot as usize];
        if let (false, Some(descriptors)) = (event.more, &seat.descriptors) {
            seat.operations += 1;
            match event.purpose {
                Purpose::Doorbell(_) => {
                    self.uring.watch(descriptors.request_doorbell.as_fd(), event.purpose);
                }
                _ => self.uring.watch(descriptors.socket.as_fd(), event.purpose),
            }
        }
    }

    /// What a readable socket means: its client has left, or talks out of turn.
    fn judge_socket(&self, slot: u32) -> Option<Ending> {
        let descriptors = self.seats[slot as usize].descriptors.as_ref()?;
        // A socket that is closed with bytes unread resets its peer, who may miss the goodbye.
        let mut bytes = [0_u8; 256];
        let flags = rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&descriptors.socket, &mut bytes, flags) {
            Ok((0, _)) => Some(Ending::ClientLeft),
            Ok(_) if sound("bytes on the socket are a fault") => {
                Some(Ending::Fault(Fault::SocketBytes))
            }
            Ok(_) => None,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(_) => Some(Ending::ClientLeft),
        }
    }

    /// Does what the table asked for.
    fn carry_out(&mut self) {
        // Bounded: carrying out an output makes at most one more.
        loop {
            self.outputs.extend(self.table.take_outputs());
            if self.outputs.is_empty() {
                return;
            }
            for index in 0..self.outputs.len() {
                match self.outputs[index] {
                    Output::Ring { slot } => self.ring(slot),
                    Output::Close { slot, goodbye } => self.close(slot, goodbye),
                    Output::Freed { .. } => {
                        self.shared.occupied.fetch_sub(1, Ordering::AcqRel);
                    }
                }
            }
            self.outputs.clear();
        }
    }

    fn ring(&mut self, slot: u32) {
        let seat = &self.seats[slot as usize];
        match &seat.descriptors {
            Some(descriptors) if !seat.closing => {
                self.ringer.ring(descriptors.response_doorbell.as_fd());
            }
            _ => {}
        }
    }

    /// Says why, hangs up, and ends all operations on the slot's descriptors.
    fn close(&mut self, slot: u32, goodbye: Option<Goodbye>) {
        let seat = &mut self.seats[slot as usize];
        let Some(descriptors) = &seat.descriptors else { return };
        seat.closing = true;
        self.place.forget(slot);
        if goodbye.is_some() && !sound("a goodbye takes no time") {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(goodbye) = goodbye {
            // A client that does not even take 64 bytes gets none.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&descriptors.socket, goodbye.as_bytes(), flags);
        }
        let _ = rustix::net::shutdown(&descriptors.socket, Shutdown::Both);
        let key = SlotKey { slot, generation: seat.generation };
        self.uring.cancel(Purpose::Socket(key));
        self.uring.cancel(Purpose::Doorbell(key));
        self.release_if_done(slot);
    }

    /// Closes a slot's descriptors once no operation names them.
    fn release_if_done(&mut self, slot: u32) {
        let seat = &mut self.seats[slot as usize];
        if !seat.closing || seat.operations > 0 || seat.descriptors.is_none() {
            return;
        }
        let generation = (seat.generation + 1) & 0x00FF_FFFF;
        *seat = Seat { generation, ..Seat::default() };
        self.table.shell_released(slot);
    }
}
