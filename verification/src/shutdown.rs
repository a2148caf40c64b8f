//! The end of a connection: the shard's whole table against a worker and a client that are in the
//! middle of something.

use std::cell::Cell;
use std::sync::Arc as StdArc;
use std::time::SystemTime;

use annulus::connection::{
    Adopted, Clock, Ending, NewConnection, Output, Route, Routes, Table, TableOptions, Timestamp,
    Turn,
};
use annulus::limits::{PAGE_SIZE, REPLY_INLINE_SIZE_MAX, WORD_SIZE};
use annulus::link::{JobKind, WorkerEnd, link};
use annulus::metrics::{BuildInfo, Metrics, MetricsOptions};
use annulus::pool::{BufferPool, TierIndex};
use annulus::protocol::{Codec, JsonCodec};
use annulus::region::{Doorbell, RegionLayout, RegionMemory, RegionView};
use annulus::ring::{Consumer, Producer};
use annulus::sync::{AtomicBool, AtomicU64, Ordering, spin_hint};
use annulus::wake::{ShardWaker, WorkerDoorbell, WorkerWaker};
use annulus::wire::{Fault, Features, FrameHeader, MessageType, Status};
use loom::thread;

use crate::link::{Worker, pool_of_one};
use crate::stage::{Bound, explore};

const LAYOUT: RegionLayout = RegionLayout::new(PAGE_SIZE, PAGE_SIZE);
pub(crate) const SLOW: MessageType = MessageType::user(0);

/// More turns than any of these models needs.
const TURNS_MAX: u32 = 200;

/// What a client and its shard share: the region, the doorbells and the socket.
pub(crate) struct Wire {
    words: Vec<AtomicU64>,
    request_rung: AtomicBool,
    /// The response doorbell and the socket: a client waits for both at once.
    client_bell: Doorbell,
    pub(crate) hung_up: AtomicBool,
    waker: StdArc<ShardWaker>,
}

impl Wire {
    fn new(waker: &StdArc<ShardWaker>) -> StdArc<Self> {
        let wire = Self {
            words: (0..LAYOUT.size() / WORD_SIZE).map(|_| AtomicU64::new(0)).collect(),
            request_rung: AtomicBool::new(false),
            client_bell: Doorbell::new().unwrap(),
            hung_up: AtomicBool::new(false),
            waker: StdArc::clone(waker),
        };
        wire.view().initialize();
        StdArc::new(wire)
    }

    fn view(&self) -> RegionView<'_> {
        RegionView::new(&self.words, LAYOUT)
    }

    /// The shard closes the socket: a word of its own, and whoever polls it wakes.
    fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        self.client_bell.ring();
    }
}

/// The shard's hold on the memory.
struct Mapped(StdArc<Wire>);

impl RegionMemory for Mapped {
    fn view(&self) -> RegionView<'_> {
        self.0.view()
    }
}

pub(crate) struct Client {
    pub(crate) wire: StdArc<Wire>,
    requests: Producer,
    responses: Consumer,
}

/// One answer frame: request id, status, whether it is the last one, and the payload.
type Answer = (u64, Status, bool, Vec<u8>);

impl Client {
    fn new(wire: &StdArc<Wire>) -> Self {
        Self {
            wire: StdArc::clone(wire),
            requests: Producer::new(LAYOUT.request_home(), false),
            responses: Consumer::new(LAYOUT.response_home(), false),
        }
    }

    /// Sends a request whose payload needs the one buffer that there is.
    pub(crate) fn send(&mut self, message_type: MessageType, request_id: u64) {
        self.send_with(message_type, request_id, &[1; 8]);
    }

    pub(crate) fn send_with(&mut self, message_type: MessageType, request_id: u64, payload: &[u8]) {
        let view = self.wire.view();
        let header = FrameHeader::request(message_type, request_id);
        self.requests.publish(view.request_ring(), header, payload).unwrap();
        if view.daemon_parked().take() {
            self.wire.request_rung.store(true, Ordering::Release);
            self.wire.waker.doorbell().ring();
        }
    }

    fn take(&mut self) -> Option<Answer> {
        let ring = self.wire.view().response_ring();
        let header = self.responses.poll(ring).expect("an honest daemon")?;
        let mut payload = vec![0; header.payload_size as usize];
        self.responses.copy_payload(ring, &header, &mut payload).expect("not checked");
        self.responses.release(ring, &header);
        Some((header.request_id, header.status(), header.is_last(), payload))
    }

    /// Takes answers, sleeping while there are none, until the daemon hangs up; then what is left.
    pub(crate) fn take_all(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let hung_up = self.wire.hung_up.load(Ordering::Acquire);
            while let Some(answer) = self.take() {
                answers.push(answer);
            }
            if hung_up {
                return answers;
            }
            let view = self.wire.view();
            view.client_parked().arm();
            let nothing = self.responses.is_empty(view.response_ring());
            if nothing && !self.wire.hung_up.load(Ordering::Acquire) {
                self.wire.client_bell.wait();
            }
            view.client_parked().disarm();
        }
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// A shard as its shell drives it, without a uring: see `shard::DataShard::run`.
pub(crate) struct Shard {
    table: Table<Mapped>,
    waker: StdArc<ShardWaker>,
    wires: [Option<StdArc<Wire>>; 1],
}

/// What all executions of a model share: counts, in which loom has no part.
pub(crate) fn metrics() -> StdArc<Metrics> {
    StdArc::new(Metrics::new(MetricsOptions {
        shard_count: 1,
        fault_names: &Fault::NAMES,
        started: SystemTime::UNIX_EPOCH,
        build: BuildInfo { version: "model", revision: "model" },
    }))
}

impl Shard {
    /// A shard with one slot, and the worker for [`SLOW`].
    fn new(pool: &BufferPool, metrics: &StdArc<Metrics>) -> (Self, Worker) {
        let (shard, end, _, doorbell) = Self::with_waker(pool, metrics);
        (shard, Worker { end, doorbell })
    }

    /// The same, with the parts from which a whole worker is made.
    pub(crate) fn with_waker(
        pool: &BufferPool,
        metrics: &StdArc<Metrics>,
    ) -> (Self, WorkerEnd, WorkerWaker, WorkerDoorbell) {
        let waker = StdArc::new(ShardWaker::new().unwrap());
        let (worker_waker, doorbell) = WorkerWaker::new().unwrap();
        let (link, end) =
            link(1, pool.clone(), StdArc::clone(&waker), StdArc::new(worker_waker.clone()))
                .unwrap();
        let mut routes = Routes::new();
        routes.set(SLOW, Route::Worker(0));
        let table = Table::new(TableOptions {
            slot_count: 1,
            routes: StdArc::new(routes),
            codecs: StdArc::new([StdArc::new(JsonCodec) as StdArc<dyn Codec>]),
            links: vec![link],
            pool: pool.clone(),
            metrics: StdArc::clone(metrics),
            shard_index: 0,
            message_size_max: 64,
            spin_ns: 0,
            idle_timeout_ns: None,
        });
        (Self { table, waker, wires: [None] }, end, worker_waker, doorbell)
    }

    pub(crate) fn connect(&mut self, connection_id: u64) -> Client {
        let wire = Wire::new(&self.waker);
        let new = NewConnection {
            memory: Mapped(StdArc::clone(&wire)),
            layout: LAYOUT,
            features: Features::empty(),
            codec: 0,
            connection_id,
        };
        let Adopted { slot } = self.table.adopt(new, Timestamp(0)).ok().expect("a free slot");
        let client = Client::new(&wire);
        self.wires[slot as usize] = Some(wire);
        client
    }

    /// Ends the connection, for a reason that the shell saw.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.table.end(0, ending);
        self.carry_out();
    }

    /// Finishes what is in flight and ends every connection.
    pub(crate) fn drain(&mut self) {
        self.table.drain(Timestamp(0));
        self.run_down();
    }

    /// Turns and sleeps until the connection has been sent so many frames.
    pub(crate) fn run_until_answered(&mut self, count: u64) {
        for _ in 0..TURNS_MAX {
            if self.table.statistics(0).expect("a connection").responses == count {
                return;
            }
            match self.turn() {
                Turn::Busy => {}
                Turn::Polling => spin_hint(),
                Turn::Parked => self.park(|| false),
            }
        }
        panic!("no answer came");
    }

    /// One turn and what it asks for.
    pub(crate) fn turn(&mut self) -> Turn {
        let turn = self.table.turn(Timestamp(0), &Still);
        self.carry_out();
        turn
    }

    fn carry_out(&mut self) {
        let outputs: Vec<_> = self.table.take_outputs().collect();
        for output in outputs {
            match output {
                Output::Ring { slot } => {
                    if let Some(wire) = &self.wires[slot as usize] {
                        wire.client_bell.ring();
                    }
                }
                Output::Close { slot, .. } => {
                    if let Some(wire) = self.wires[slot as usize].take() {
                        wire.hang_up();
                    }
                    self.table.shell_released(slot);
                    self.carry_out();
                }
                Output::Freed { .. } => {}
            }
        }
    }

    /// Turns and sleeps until every connection is gone. `look_around` comes before each turn, and
    /// `look` once more before the shard sleeps.
    fn run(&mut self, look: impl Fn() -> bool, mut look_around: impl FnMut(&mut Self)) {
        for _ in 0..TURNS_MAX {
            look_around(self);
            match self.turn() {
                Turn::Busy => {}
                Turn::Polling => spin_hint(),
                Turn::Parked if self.table.occupied_count() == 0 => return,
                Turn::Parked => self.park(&look),
            }
        }
        panic!("a shard with so little to do does not come to an end");
    }

    /// The same for a shard that nobody tells anything.
    pub(crate) fn run_down(&mut self) {
        self.run(|| false, |_| ());
    }

    fn park(&mut self, look: impl Fn() -> bool) {
        let rung = |shard: &Self| {
            shard.wires[0].as_ref().is_some_and(|wire| wire.request_rung.load(Ordering::Acquire))
        };
        let parked = self.waker.parked();
        parked.arm();
        // The doorbells are in the uring, which does not sleep on one that has been rung.
        if !self.table.has_news() && !look() && !rung(self) {
            self.waker.doorbell().wait();
        }
        parked.disarm();
        if rung(self) {
            if let Some(wire) = &self.wires[0] {
                wire.request_rung.store(false, Ordering::Relaxed);
            }
            self.table.doorbell(0, Timestamp(0));
        }
    }
}

/// Answers requests until a connection is closed: `chunks` parts and an end for each.
fn serve_until_closed(worker: &mut Worker, chunk: &[u8]) {
    loop {
        let job = worker.next();
        match job.kind {
            JobKind::Request { header, payload, .. } => {
                drop(payload);
                worker.publish(job.slot, header.chunk(), chunk);
                worker.publish(
                    job.slot,
                    header.answer(Status::Ok),
                    &job.connection_id.to_le_bytes(),
                );
            }
            JobKind::Cancel { .. } => {}
            JobKind::Closed => {
                worker.acknowledge(job.slot);
                return;
            }
        }
    }
}

#[test]
fn a_slot_is_reused_only_after_the_last_reply_of_its_former_connection_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = Shard::new(&pool, &metrics);
        let mut former = shard.connect(1);
        former.send(SLOW, 7);
        assert_eq!(shard.turn(), Turn::Busy);
        let worker = thread::spawn(move || {
            // One reply in a lease, one in the ring, at any time before, during and after the close.
            serve_until_closed(&mut worker, &[1; REPLY_INLINE_SIZE_MAX + 8]);
            worker
        });
        shard.end(Ending::ClientLeft);
        shard.run_down();
        let mut worker = worker.join().unwrap();
        assert_eq!(pool.free_count(TierIndex::Small), 1, "a late lease did not come back");

        // The same slot and the same request id: nothing of the former connection may appear.
        let mut next = shard.connect(2);
        next.send(SLOW, 7);
        assert_eq!(shard.turn(), Turn::Busy);
        assert_eq!(next.take(), None);
        let job = worker.next();
        assert_eq!((job.slot, job.connection_id), (0, 2));
        let JobKind::Request { header, .. } = job.kind else { panic!("another job") };
        worker.publish(0, header.answer(Status::Ok), b"fresh");
        shard.turn();
        assert_eq!(next.take(), Some((7, Status::Ok, true, b"fresh".to_vec())));
        assert_eq!(next.take(), None);
    });
}

#[test]
fn a_connection_that_ends_with_its_reply_ring_full_frees_its_slot_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = Shard::new(&pool, &metrics);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        assert_eq!(shard.turn(), Turn::Busy);
        let JobKind::Request { header, .. } = worker.next().kind else { panic!("another job") };
        // The client reads nothing, so response ring and reply ring fill up and the shard parks.
        let mut turn = Turn::Busy;
        while worker.end.publish(0, header.chunk(), &[1; 32]).is_ok() || turn == Turn::Busy {
            turn = shard.turn();
        }
        while shard.turn() != Turn::Parked {}
        let worker = thread::spawn(move || {
            worker.publish(0, header.answer(Status::Ok), &[]);
            serve_until_closed(&mut worker, &[]);
        });
        shard.end(Ending::ClientLeft);
        shard.run_down();
        worker.join().unwrap();
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_then_hangs_up_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = Shard::new(&pool, &metrics);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        assert_eq!(shard.turn(), Turn::Busy);
        let worker = thread::spawn(move || serve_until_closed(&mut worker, &[2; 8]));
        shard.drain();
        worker.join().unwrap();
        // The whole answer, once, before the socket closed.
        assert!(client.wire.hung_up.load(Ordering::Acquire));
        let answers = client.take_all();
        assert_eq!(
            answers,
            [
                (7, Status::Ok, false, vec![2; 8]),
                (7, Status::Ok, true, 1_u64.to_le_bytes().to_vec()),
            ]
        );
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn a_parked_shard_misses_neither_the_order_to_stop_nor_the_last_reply_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = Shard::new(&pool, &metrics);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        assert_eq!(shard.turn(), Turn::Busy);
        let stopping = StdArc::new(AtomicBool::new(false));
        let (order, waker) = (StdArc::clone(&stopping), StdArc::clone(&shard.waker));
        // As `ShardShared::stop`.
        let control = thread::spawn(move || {
            order.store(true, Ordering::Release);
            waker.wake_if_parked();
        });
        let worker = thread::spawn(move || serve_until_closed(&mut worker, &[]));
        let draining = Cell::new(false);
        // An order that has been taken is no reason to stay awake.
        let ordered = || stopping.load(Ordering::Acquire) && !draining.get();
        shard.run(ordered, |shard| {
            if ordered() {
                draining.set(true);
                shard.table.drain(Timestamp(0));
            }
        });
        control.join().unwrap();
        worker.join().unwrap();
        assert_eq!(client.take_all().iter().filter(|answer| answer.2).count(), 1);
    });
}

#[test]
fn a_client_sees_every_frame_that_came_before_the_hang_up_and_sleeps_through_neither_within_3_preemptions()
 {
    let metrics = metrics();
    explore(Bound::Preemptions(3), move || {
        let pool = pool_of_one();
        let (mut shard, worker) = Shard::new(&pool, &metrics);
        let mut client = shard.connect(1);
        let reader = thread::spawn(move || {
            client.send(MessageType::user(9), 1);
            client.take_all()
        });
        // Nobody serves that type: the answer comes from the shard itself, then it stops.
        let mut answered = false;
        shard.run(
            || false,
            |shard| {
                let count = shard.table.statistics(0).map_or(0, |statistics| statistics.responses);
                if count == 1 && !answered {
                    answered = true;
                    shard.table.drain(Timestamp(0));
                }
            },
        );
        let answers = reader.join().unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].0, answers[0].1), (1, Status::UnknownMessageType));
        drop(worker);
    });
}

#[test]
fn a_request_that_meets_a_drain_is_answered_once_or_the_hang_up_tells_within_3_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(3), move || {
        let pool = pool_of_one();
        let (mut shard, worker) = Shard::new(&pool, &metrics);
        let mut client = shard.connect(1);
        let reader = thread::spawn(move || {
            client.send(MessageType::user(9), 1);
            client.take_all()
        });
        shard.drain();
        let answers = reader.join().unwrap();
        assert!(answers.len() <= 1, "answered twice");
        for (id, status, last, _) in answers {
            assert_eq!((id, status, last), (1, Status::ShuttingDown, true));
        }
        drop(worker);
    });
}
