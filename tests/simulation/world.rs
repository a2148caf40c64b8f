//! One run: a daemon's shard, its workers and its clients under a scheduler that a seed drives.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use annulus::connection::{Handler, Request, Responder, Route, Routes, Table, TableOptions};
use annulus::link::link;
use annulus::metrics::{BuildInfo, Metrics, MetricsOptions};
use annulus::pool::{BufferPool, TierIndex};
use annulus::protocol::{Codec, JsonCodec};
use annulus::sync::{AtomicU64, Ordering::Relaxed};
use annulus::wake::{ShardWaker, WorkerWaker};
use annulus::wire::Fault;
use annulus::{IpcError, MessageType};

use super::account;
use super::actors::Actors;
use super::client::Client;
use super::exchange::{Answer, Kind};
use super::plan::{Plan, Stop};
use super::shell::Shell;
use super::stage::Stage;
use super::worker::Worker;

/// Steps after the faults have stopped until everything must have come to rest.
const SETTLE_STEPS_MAX: u32 = 400_000;

/// Longest time in which nobody moves while a request could be taken, in nanoseconds. The shard tries
/// again after one millisecond.
const QUIET_NS_MAX: u64 = 1_500_000;

/// Who can take a step.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Shard,
    Client(usize),
    Worker(usize),
}

pub(crate) struct World {
    pub(crate) stage: Rc<Stage>,
    pub(crate) plan: Rc<Plan>,
    pub(crate) actors: Rc<RefCell<Actors>>,
    pub(crate) shell: Shell,
    pub(crate) pool: BufferPool,
    pub(crate) metrics: Arc<Metrics>,
    /// How often a synchronous handler ran: echo, and the others.
    pub(crate) handled: Arc<[AtomicU64; 2]>,
    candidates: Vec<(Actor, u64)>,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new(stage: Rc<Stage>) -> Self {
        let plan = Rc::new(Plan::draw(&stage));
        stage.note(|| format!("{plan:#?}"));
        let pool = BufferPool::new(plan.pool).unwrap();
        let waker = Arc::new(ShardWaker::new().unwrap());
        let (mut links, mut workers) = (Vec::new(), Vec::new());
        for index in 0..plan.worker_count {
            let (worker_waker, socket) = WorkerWaker::new().unwrap();
            let (shard_end, worker_end) =
                link(plan.slot_count, pool.clone(), Arc::clone(&waker), Arc::new(worker_waker))
                    .unwrap();
            links.push(shard_end);
            workers.push(Worker::new(index, worker_end, socket));
        }
        let metrics = Arc::new(Metrics::new(MetricsOptions {
            shard_count: 1,
            fault_names: &Fault::NAMES,
            started: SystemTime::UNIX_EPOCH,
            build: BuildInfo { version: "simulated", revision: "" },
        }));
        let handled = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let table = Table::new(TableOptions {
            slot_count: plan.slot_count,
            routes: Arc::new(routes(&plan, &handled)),
            codecs: Arc::new([Arc::new(JsonCodec) as Arc<dyn Codec>]),
            links,
            pool: pool.clone(),
            metrics: Arc::clone(&metrics),
            shard_index: 0,
            message_size_max: plan.message_size_max,
            spin_ns: plan.spin_ns,
            idle_timeout_ns: plan.idle_timeout_ns,
        });
        let actors = Rc::new(RefCell::new(Actors {
            clients: Vec::new(),
            workers,
            signals: Vec::new(),
            stage: Rc::clone(&stage),
            plan: Rc::clone(&plan),
        }));
        let shell = Shell::new(table, waker, &actors);
        Self {
            stage,
            plan,
            actors,
            shell,
            pool,
            metrics,
            handled,
            candidates: Vec::new(),
            steps: 0,
        }
    }

    /// The whole run.
    pub(crate) fn run(&mut self) {
        self.suffer();
        self.calm_down();
        if !self.stage.draining.get() {
            self.settle("after the faults", Self::is_at_rest);
            self.check_nothing_is_held();
            // Whoever is left can still be served.
            let count = self.stage.pick(&[1, 5, 70]);
            for client in &mut self.actors.borrow_mut().clients {
                client.ask_again(count);
            }
            self.settle("with new requests", Self::is_at_rest);
            self.check_nothing_is_held();
            self.shell.stop();
        }
        self.settle("after the stop", Self::is_finished);
        self.check_nothing_is_held();
        account::check(self);
    }

    /// The part with the faults.
    fn suffer(&mut self) {
        let stop_at = match self.plan.stop {
            Stop::AtRest => u32::MAX,
            Stop::UnderWay | Stop::Hard => {
                u32::try_from(self.stage.below(u64::from(self.plan.steps))).unwrap()
            }
        };
        for step in 0..self.plan.steps {
            if step == stop_at {
                self.shell.stop();
            }
            let many = self.actors.borrow().clients.len();
            if many < self.plan.client_total
                && self.shell.occupied < self.plan.slot_count
                && !self.stage.draining.get()
                && (many == 0 || self.stage.chance(50))
            {
                self.connect();
            }
            self.step();
        }
        if self.plan.stop != Stop::AtRest && !self.stage.draining.get() {
            self.shell.stop();
        }
    }

    fn connect(&mut self) {
        let index = self.actors.borrow().clients.len();
        self.stage.note(|| format!("client {index} connects"));
        self.actors.borrow_mut().clients.push(Client::new(index, &self.plan));
        self.shell.admit(index);
    }

    fn calm_down(&mut self) {
        self.stage.note(|| "no more faults".into());
        self.stage.calm.set(true);
        let mut actors = self.actors.borrow_mut();
        let Actors { clients, workers, signals, .. } = &mut *actors;
        for client in clients {
            client.calm_down(&self.stage, signals);
        }
        for worker in workers {
            worker.stalled_until = 0;
        }
        self.shell.stalled_until = 0;
        drop(actors);
        self.shell.take_signals();
    }

    /// Goes on until `done`. If that takes too long, or nothing moves any more, somebody waits for a
    /// wake-up that was lost.
    fn settle(&mut self, when: &str, done: fn(&Self) -> bool) {
        for _ in 0..SETTLE_STEPS_MAX {
            if done(self) {
                return;
            }
            if !self.step() && !done(self) {
                panic!("{when}: nobody moves, and somebody waits\n{}", self.describe());
            }
        }
        panic!("{when}: no rest after {SETTLE_STEPS_MAX} steps\n{}", self.describe());
    }

    fn is_at_rest(&self) -> bool {
        let actors = self.actors.borrow();
        self.shell.is_at_rest()
            && actors.clients.iter().all(Client::is_at_rest)
            && actors.workers.iter().all(Worker::is_at_rest)
            && self.shell.table.occupied_count()
                == actors.clients.iter().filter(|client| !client.is_gone()).count()
    }

    fn is_finished(&self) -> bool {
        let actors = self.actors.borrow();
        self.shell.is_finished()
            && actors.clients.iter().all(Client::is_gone)
            && actors.workers.iter().all(Worker::is_at_rest)
    }

    fn check_nothing_is_held(&self) {
        for tier in TierIndex::ALL {
            let (free, count) = (self.pool.free_count(tier), self.pool.count(tier));
            assert_eq!(free, count, "{:?} leases did not come home", tier);
        }
        let in_flight = self.shell.table.in_flight_count();
        assert_eq!(in_flight, 0, "requests in flight, and nobody asked for any");
    }

    /// Nobody moves before `next`. If that is long, no request may lie in a ring that the shard could
    /// take: somebody may still come and wake it by chance, but nobody has to.
    fn check_nobody_is_forgotten(&self, next: u64) {
        let now = self.stage.now();
        let actors = self.actors.borrow();
        if next - now < QUIET_NS_MAX
            || !self.shell.is_parked()
            || self.pool.free_count(TierIndex::Mapped) < 2
            || !actors.workers.iter().all(|worker| worker.takes_jobs(now))
        {
            return;
        }
        let forgotten = actors.clients.iter().find(|client| client.waits_for_the_shard(now));
        if let Some(client) = forgotten {
            let client = client.describe();
            drop(actors);
            panic!("a request waits for nothing: {client}\n{}", self.describe());
        }
    }

    /// Lets somebody take a step, now or when time has come; false when nobody ever will.
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.shell.kernel();
        let now = self.stage.now();
        let mut next = self.shell.kernel_at();
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let mut consider = |actor, weight, at: Option<u64>| match at {
            Some(at) if at <= now => candidates.push((actor, weight)),
            Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            None => {}
        };
        consider(Actor::Shard, self.plan.shard_weight, self.shell.ready_at(now));
        let mut actors = self.actors.borrow_mut();
        for (index, client) in actors.clients.iter().enumerate() {
            consider(Actor::Client(index), 2, client.ready_at(now));
        }
        for (index, worker) in actors.workers.iter_mut().enumerate() {
            consider(Actor::Worker(index), self.plan.worker_weight, worker.ready_at(now));
        }
        drop(actors);
        let total: u64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.stage.below(total);
        let chosen = candidates.iter().find(|(_, weight)| {
            let is_chosen = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_chosen
        });
        let Some((actor, _)) = chosen.copied() else {
            self.candidates = candidates;
            return match next {
                Some(next) => {
                    self.check_nobody_is_forgotten(next);
                    self.stage.advance_to(next);
                    true
                }
                None => false,
            };
        };
        match actor {
            Actor::Shard => self.shell.step(),
            Actor::Client(index) => self.actors.borrow_mut().step_client(index),
            Actor::Worker(index) => self.actors.borrow_mut().step_worker(index),
        }
        self.shell.take_signals();
        // A shard that only polls is left to it for longer.
        let idles = candidates.len() == 1 && self.shell.is_polling();
        let pace = if idles { 1 + self.plan.spin_ns / 4 } else { 150 };
        let pace = next.map_or(pace, |next| pace.min(next.saturating_sub(now).max(1)));
        self.stage.advance_to(now + 1 + self.stage.below(pace));
        self.candidates = candidates;
        true
    }

    fn describe(&self) -> String {
        let mut actors = self.actors.borrow_mut();
        let mut lines = vec![self.shell.describe()];
        lines.extend(actors.clients.iter().filter(|who| !who.is_gone()).map(Client::describe));
        lines.extend(actors.workers.iter_mut().map(Worker::describe));
        let free = TierIndex::ALL.map(|tier| self.pool.free_count(tier));
        lines.push(format!(
            "free buffers {free:?}, in flight {}",
            self.shell.table.in_flight_count()
        ));
        lines.join("\n")
    }
}

/// The handlers of the simulated daemon.
fn routes(plan: &Plan, handled: &Arc<[AtomicU64; 2]>) -> Routes {
    let mut routes = Routes::new();
    for kind in Kind::SYNCHRONOUS {
        let handled = Arc::clone(handled);
        let handler = move |request: &Request<'_>, responder: &mut Responder<'_>| {
            let row = usize::from(request.message_type() != MessageType::ECHO);
            handled[row].fetch_add(1, Relaxed);
            match kind {
                // Unlike `panic!` this does not write a report.
                Kind::Panics => std::panic::resume_unwind(Box::new("on purpose")),
                Kind::Fails => Err(IpcError::InvalidRequest { detail: "never right".into() }),
                Kind::TooMuch => responder.reply(&vec![0; request.payload().len().max(4096) + 64]),
                _ => {
                    let (connection, id) = (request.connection_id(), request.request_id());
                    let answer = Answer::new(kind, connection, id, request.payload(), usize::MAX);
                    for chunk in &answer.chunks {
                        responder.chunk(chunk)?;
                    }
                    responder.reply(&answer.last)
                }
            }
        };
        if kind != Kind::Unknown {
            let handler: Arc<dyn Handler> = Arc::new(handler);
            routes.set(kind.message_type(), Route::Synchronous(handler));
        }
    }
    for worker in 0..plan.worker_count {
        routes.set(Kind::Work(worker).message_type(), Route::Worker(worker));
    }
    routes
}
