//! The simulated shell around the real table: its seats and its uring as `annulus::shard` has them, with
//! completions that come when the seed wants. It watches what the table asks for.
//!
//! The invariant to remember: after *close* the table asks nothing more for that connection but *freed*,
//! once, when the shell and every worker have let go.

mod judge;
mod uring;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use annulus::connection::{ConnectionStatistics, NewConnection, Output, Table, Timestamp, Turn};
use annulus::wake::ShardWaker;
use annulus::wire::Goodbye;

use super::actors::{Actors, SharedRegion};
use super::client::Signal;
use super::plan::{Plan, Stop};
use super::stage::Stage;
use uring::{Event, Key};

/// How long a graceful stop may take.
const SHUTDOWN_TIMEOUT_NS: u64 = 10_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// It has set its flag and is about to look once more.
    Armed,
    Parked {
        until: Option<u64>,
    },
    Finished,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    client: Option<usize>,
    generation: u32,
    operations: u32,
    ringing: bool,
    ring_again: bool,
    closing: bool,
}

/// What the simulation knows of the connection in a slot.
#[derive(Clone, Copy, Debug)]
struct Occupant {
    client: usize,
    closed: bool,
    released: bool,
    active_at: u64,
    seen: ConnectionStatistics,
}

/// What happened, for the final account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShellCounts {
    pub(crate) adopted: u64,
    pub(crate) client_left: u64,
    pub(crate) idle: u64,
    pub(crate) fault: u64,
    pub(crate) too_large: u64,
    pub(crate) shutdown: u64,
    pub(crate) doorbells: u64,
    pub(crate) rings: u64,
    /// Sums over all connections that were freed.
    pub(crate) requests: u64,
    pub(crate) responses: u64,
}

pub(crate) struct Shell {
    pub(crate) table: Table<SharedRegion>,
    waker: Arc<ShardWaker>,
    actors: Rc<RefCell<Actors>>,
    stage: Rc<Stage>,
    plan: Rc<Plan>,
    seats: Vec<Seat>,
    occupants: Vec<Option<Occupant>>,
    /// Those whose slots were taken again before the shell heard that they are free.
    former: Vec<(u32, Occupant)>,
    events: Vec<(u64, Event)>,
    /// Clients that have shaken hands, and whether each has rung or left since.
    arrivals: VecDeque<usize>,
    early: Vec<Signal>,
    /// Connections that occupy a slot, or are about to.
    pub(crate) occupied: usize,
    stopping: bool,
    drain_until: Option<u64>,
    idle_due: Option<u64>,
    parks: u32,
    state: State,
    is_polling: bool,
    pub(crate) stalled_until: u64,
    pub(crate) counts: ShellCounts,
}

impl Shell {
    pub(crate) fn new(
        table: Table<SharedRegion>,
        waker: Arc<ShardWaker>,
        actors: &Rc<RefCell<Actors>>,
    ) -> Self {
        let (stage, plan) = {
            let actors = actors.borrow();
            (Rc::clone(&actors.stage), Rc::clone(&actors.plan))
        };
        Self {
            table,
            waker,
            actors: Rc::clone(actors),
            seats: vec![Seat::default(); plan.slot_count],
            occupants: vec![None; plan.slot_count],
            former: Vec::new(),
            stage,
            plan,
            events: Vec::new(),
            arrivals: VecDeque::new(),
            early: Vec::new(),
            occupied: 0,
            stopping: false,
            drain_until: None,
            idle_due: None,
            parks: 0,
            state: State::Running,
            is_polling: false,
            stalled_until: 0,
            counts: ShellCounts::default(),
        }
    }

    /// The control thread passes a client that has shaken hands.
    pub(crate) fn admit(&mut self, client: usize) {
        self.occupied += 1;
        self.arrivals.push_back(client);
        self.waker.wake_if_parked();
    }

    /// The control thread asks the shard to stop.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.stage.draining.set(true);
        self.stage.note(|| "the daemon is told to stop".into());
        self.waker.wake_if_parked();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Nothing is on its way to the shard, and it sleeps.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Parked { .. })
            && self.events.is_empty()
            && self.arrivals.is_empty()
    }

    /// It sleeps, and nothing keeps it from waking.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. }) && self.stalled_until <= self.stage.now()
    }

    /// True when only time ends what it does.
    pub(crate) fn is_polling(&self) -> bool {
        self.state == State::Running && self.is_polling
    }

    /// When it can take its next step; `None`: not before it is woken.
    pub(crate) fn ready_at(&mut self, now: u64) -> Option<u64> {
        if self.waker.doorbell().take() {
            let at = self.later();
            self.events.push((at, Event::Wake));
        }
        let ready = match self.state {
            State::Finished => return None,
            State::Running | State::Armed => now,
            State::Parked { until } => {
                let completion =
                    self.events.iter().filter(|(_, event)| !event.is_kernels()).map(|(at, _)| *at);
                completion.chain(until).min()?
            }
        };
        Some(ready.max(now).max(self.stalled_until))
    }

    /// One step of the shard's loop.
    pub(crate) fn step(&mut self) {
        let now = self.stage.now();
        if !self.stage.calm.get() && self.stage.chance(self.plan.faults.shard_stall) {
            self.stalled_until = now + self.stage.below(self.plan.faults.stall_ns_max);
            return;
        }
        match self.state {
            State::Finished => {}
            State::Running => {
                if self.stage.chance(250) {
                    self.look_around(now);
                }
                self.turn(now);
            }
            State::Armed => self.sleep(now),
            State::Parked { .. } => {
                self.stage.note(|| "the shard wakes".into());
                self.waker.parked().disarm();
                self.state = State::Running;
                self.look_around(now);
            }
        }
    }

    fn turn(&mut self, now: u64) {
        // Somebody may have rung since, between two looks of the shard.
        self.take_signals();
        let promised = self.promised();
        let mut turn = self.table.turn(Timestamp(now), &*self.stage);
        self.carry_out(now);
        // Bounded: a turn that does not end its round has taken many frames.
        while self.table.is_in_round() {
            let next = self.table.turn(Timestamp(now), &*self.stage);
            self.carry_out(now);
            turn = if next == Turn::Polling { Turn::Busy } else { next };
        }
        self.check_progress(now, &promised);
        self.is_polling = turn == Turn::Polling;
        if turn != Turn::Parked {
            return;
        }
        if self.drain_until.is_some() && self.table.occupied_count() == 0 {
            self.stage.note(|| "the shard has finished".into());
            self.state = State::Finished;
            return;
        }
        // Beside a client in every third sleep, where no connection is polled for the spin budget.
        self.parks += 1;
        self.table.sit_beside(self.parks.is_multiple_of(3).then_some(0));
        self.waker.parked().arm();
        self.state = State::Armed;
    }

    /// The last look at everything that rings only a parked shard, then sleep.
    fn sleep(&mut self, now: u64) {
        let stopping = self.stopping && self.drain_until.is_none();
        if self.table.has_news() || !self.arrivals.is_empty() || stopping {
            self.waker.parked().disarm();
            self.state = State::Running;
            return;
        }
        self.stage.note(|| "the shard parks".into());
        let starved = self.table.starved_until().map(|until| until.0);
        let until = [self.idle_due, self.drain_until, starved].into_iter().flatten().min();
        self.state = State::Parked { until: until.map(|until| until.max(now)) };
    }

    fn look_around(&mut self, now: u64) {
        self.take_events(now);
        self.take_arrivals(now);
        if self.stopping {
            self.drain(now);
        }
        if self.idle_due.is_some_and(|due| now >= due) {
            self.idle_due = self.table.close_idle(Timestamp(now)).map(|due| due.0);
        }
        self.carry_out(now);
    }

    fn drain(&mut self, now: u64) {
        let timeout = if self.plan.stop == Stop::Hard { 0 } else { SHUTDOWN_TIMEOUT_NS };
        match self.drain_until {
            None => {
                self.drain_until = Some(now + timeout);
                self.table.drain(Timestamp(now));
            }
            Some(until) if now >= until && self.table.occupied_count() > 0 => {
                self.stage.hard.set(true);
                self.table.end_all();
            }
            Some(_) => {}
        }
    }

    fn take_arrivals(&mut self, now: u64) {
        while let Some(client) = self.arrivals.pop_front() {
            let connection = NewConnection {
                memory: SharedRegion::new(client, self.plan.layout, &self.actors),
                layout: self.plan.layout,
                features: self.plan.features(),
                codec: 0,
                connection_id: client as u64 + 1,
            };
            let adopted = self.table.adopt(connection, Timestamp(now));
            let slot = adopted.ok().expect("the control thread admits no more than slots").slot;
            self.stage.note(|| format!("client {client} is adopted in slot {slot}"));
            self.counts.adopted += 1;
            let seat = &mut self.seats[slot as usize];
            assert!(seat.client.is_none(), "slot {slot} is taken");
            *seat = Seat { client: Some(client), operations: 2, ..*seat };
            let seen = ConnectionStatistics::default();
            let occupant =
                Occupant { client, closed: false, released: false, active_at: now, seen };
            let former = self.occupants[slot as usize].replace(occupant);
            if let Some(former) = former {
                // The table has freed it, and its word for that still waits to be taken.
                assert!(former.closed && former.released, "slot {slot} was not free: {former:?}");
                self.former.push((slot, former));
            }
            self.idle_due = self.idle_due.or(Some(now));
            let early = std::mem::take(&mut self.early);
            for signal in early {
                if signal.client() == client {
                    self.raise(slot, signal);
                } else {
                    self.early.push(signal);
                }
            }
        }
    }

    fn carry_out(&mut self, now: u64) {
        // Bounded: carrying out an output makes at most one more.
        loop {
            let outputs: Vec<Output> = self.table.take_outputs().collect();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Ring { slot } => {
                        let occupant = self.occupants[slot as usize];
                        assert!(occupant.is_some_and(|who| !who.closed), "a ring after the close");
                        self.counts.rings += 1;
                        self.ring(slot);
                    }
                    Output::Close { slot, goodbye } => self.close(slot, goodbye, now),
                    Output::Freed { slot, statistics } => {
                        let occupant = match self.former.iter().position(|(of, _)| *of == slot) {
                            Some(index) => Some(self.former.swap_remove(index).1),
                            None => self.occupants[slot as usize].take(),
                        };
                        assert!(
                            occupant.is_some_and(|who| who.closed && who.released),
                            "slot {slot} was freed too early: {occupant:?}"
                        );
                        self.stage.note(|| format!("slot {slot} is free"));
                        self.counts.requests += statistics.requests;
                        self.counts.responses += statistics.responses;
                        self.occupied -= 1;
                    }
                }
            }
        }
    }

    fn ring(&mut self, slot: u32) {
        let at = self.later();
        let seat = &mut self.seats[slot as usize];
        if seat.client.is_none() || seat.closing {
            return;
        }
        if seat.ringing {
            seat.ring_again = true;
            return;
        }
        seat.ringing = true;
        seat.operations += 1;
        self.events.push((at, Event::Write(Key { slot, generation: seat.generation })));
    }

    fn close(&mut self, slot: u32, goodbye: Option<Goodbye>, now: u64) {
        let occupant = self.occupants[slot as usize].as_mut().expect("a close of a free slot");
        assert!(!occupant.closed, "slot {slot} was closed twice");
        occupant.closed = true;
        let Occupant { client, active_at, .. } = *occupant;
        self.judge_close(client, goodbye, now, active_at);
        let hang_up = self.later();
        self.actors.borrow_mut().clients[client].hang_up = Some((hang_up, goodbye));
        // Every operation on its descriptors is cancelled; one completion each, at any time.
        let seat = &mut self.seats[slot as usize];
        seat.closing = true;
        let key = Key { slot, generation: seat.generation };
        let is_cut = self.stage.chance(500);
        self.events.retain(|(_, event)| match event {
            Event::Doorbell(of) | Event::Socket(of, _) => *of != key,
            Event::Write(of) => *of != key || !is_cut,
            _ => true,
        });
        let pending = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Write(of) | Event::Rung(of) if *of == key));
        let open = self.seats[slot as usize].operations - u32::try_from(pending.count()).unwrap();
        for _ in 0..open {
            let at = self.later();
            self.events.push((at, Event::Ended(key)));
        }
        self.release_if_done(slot);
    }

    fn release_if_done(&mut self, slot: u32) {
        let seat = &mut self.seats[slot as usize];
        if !seat.closing || seat.operations > 0 || seat.client.is_none() {
            return;
        }
        *seat = Seat { generation: seat.generation + 1, ..Seat::default() };
        if let Some(occupant) = &mut self.occupants[slot as usize] {
            occupant.released = true;
        }
        self.table.shell_released(slot);
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "shard {:?}, occupied {}, events {:?}, arrivals {:?}",
            self.state, self.occupied, self.events, self.arrivals
        )
    }
}

impl Signal {
    const fn client(self) -> usize {
        match self {
            Self::Ring(client) | Self::HangUp(client) | Self::Chatter(client) => client,
        }
    }
}
