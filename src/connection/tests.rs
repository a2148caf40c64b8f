//! The table over plain memory, with a clock that only the test moves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::error::IpcError;
use crate::limits::{IN_FLIGHT_PER_CONNECTION, SYNC_REPLY_SIZE_MIN};
use crate::link::{JobKind, WorkerEnd, link};
use crate::metrics::{BuildInfo, LeaseTier, Metrics, MetricsOptions};
use crate::pool::{BufferPool, Lease, PoolSizes, TierIndex};
use crate::protocol::{Codec, JsonCodec};
use crate::region::{RegionView, Whereabouts};
use crate::ring::PublishError;
use crate::sync::AtomicU64;
use crate::wake::{ShardWaker, WorkerWaker};
use crate::wire::{FrameHeader, MessageType};

const LAYOUT: RegionLayout = RegionLayout::new(1 << 14, 1 << 14);
const SPIN_NS: u64 = 1000;
const PANICS: MessageType = MessageType::user(0);
const FAILS: MessageType = MessageType::user(1);
const CHUNKS: MessageType = MessageType::user(2);
const TOO_MUCH: MessageType = MessageType::user(3);
const SLOW: MessageType = MessageType::user(4);
const LONG: MessageType = MessageType::user(5);

/// A region on the heap, shared by both sides.
#[derive(Clone)]
struct HeapRegion(Arc<Vec<AtomicU64>>, Rc<RefCell<Option<Interruption>>>);

/// What happens when the region has been looked at so many times more.
struct Interruption {
    looks_left: u32,
    act: Box<dyn FnOnce()>,
}

impl HeapRegion {
    fn new() -> Self {
        let words = (0..LAYOUT.size() / 8).map(|_| AtomicU64::new(0)).collect();
        let region = Self(Arc::new(words), Rc::default());
        region.view().initialize();
        region
    }

    /// Lets `act` happen just before the look after `looks_left` others.
    fn interrupt(&self, looks_left: u32, act: impl FnOnce() + 'static) {
        *self.1.borrow_mut() = Some(Interruption { looks_left, act: Box::new(act) });
    }
}

impl RegionMemory for HeapRegion {
    fn view(&self) -> RegionView<'_> {
        let interruption = self.1.take();
        match interruption {
            Some(Interruption { looks_left: 0, act }) => act(),
            Some(Interruption { looks_left, act }) => self.interrupt(looks_left - 1, act),
            None => {}
        }
        RegionView::new(&self.0, LAYOUT)
    }
}

#[derive(Default)]
struct ManualClock(Cell<u64>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.get())
    }
}

struct Client {
    region: HeapRegion,
    requests: Producer,
    responses: Consumer,
    slot: u32,
}

type Answer = (u64, Status, bool, Vec<u8>);

impl Client {
    fn send(
        &mut self,
        message_type: MessageType,
        id: u64,
        payload: &[u8],
    ) -> Result<(), PublishError> {
        let header = FrameHeader::request(message_type, id);
        self.requests.publish(self.region.view().request_ring(), header, payload)
    }

    fn receive(&mut self) -> Option<Answer> {
        let ring = self.region.view().response_ring();
        let header = self.responses.poll(ring).unwrap()?;
        let mut payload = vec![0; header.payload_size as usize];
        self.responses.copy_payload(ring, &header, &mut payload).unwrap();
        self.responses.release(ring, &header);
        Some((header.request_id, header.status(), header.is_last(), payload))
    }
}

struct Shard {
    table: Table<HeapRegion>,
    worker: WorkerEnd,
    clock: ManualClock,
    metrics: Arc<Metrics>,
    outputs: Vec<Output>,
}

impl Shard {
    fn new(slot_count: usize) -> Self {
        let mut routes = Routes::new();
        let mut set = |message_type, handler: Arc<dyn Handler>| {
            routes.set(message_type, Route::Synchronous(handler));
        };
        set(
            MessageType::ECHO,
            Arc::new(|request: &Request<'_>, responder: &mut Responder<'_>| {
                responder.reply(request.payload())
            }),
        );
        set(
            PANICS,
            Arc::new(|_: &Request<'_>, _: &mut Responder<'_>| -> Result<(), IpcError> {
                panic!("on purpose")
            }),
        );
        set(
            FAILS,
            Arc::new(|_: &Request<'_>, _: &mut Responder<'_>| {
                Err(IpcError::InvalidRequest { detail: "never right".into() })
            }),
        );
        set(
            CHUNKS,
            Arc::new(|_: &Request<'_>, responder: &mut Responder<'_>| {
                responder.chunk(b"one")?;
                responder.chunk(b"two")
            }),
        );
        set(
            TOO_MUCH,
            Arc::new(|_: &Request<'_>, responder: &mut Responder<'_>| {
                responder.reply(&[0; SYNC_REPLY_SIZE_MIN as usize + 64])
            }),
        );
        let long = |_: &Request<'_>, responder: &mut Responder<'_>| {
            responder.chunk(&[1; 32])?;
            responder.reply(&[2; 3900])
        };
        routes.set(LONG, Route::Synchronous(Arc::new(long)));
        routes.set(SLOW, Route::Worker(0));
        let pool = BufferPool::new(PoolSizes::for_config(12, 1 << 20)).unwrap();
        let (waker, _) = WorkerWaker::new().unwrap();
        let waker = (Arc::new(ShardWaker::new().unwrap()), Arc::new(waker));
        let (shard, worker) = link(slot_count, pool.clone(), waker.0, waker.1).unwrap();
        let metrics = Arc::new(Metrics::new(MetricsOptions {
            shard_count: 1,
            fault_names: &Fault::NAMES,
            started: SystemTime::now(),
            build: BuildInfo { version: "test", revision: "test" },
        }));
        let table = Table::new(TableOptions {
            slot_count,
            routes: Arc::new(routes),
            codecs: Arc::new([Arc::new(JsonCodec) as Arc<dyn Codec>]),
            links: vec![shard],
            pool,
            metrics: Arc::clone(&metrics),
            shard_index: 0,
            message_size_max: 8192,
            spin_ns: SPIN_NS,
            idle_timeout_ns: Some(1_000_000),
        });
        Self { table, worker, clock: ManualClock::default(), metrics, outputs: Vec::new() }
    }

    fn connect(&mut self) -> Client {
        let region = HeapRegion::new();
        let new = NewConnection {
            memory: region.clone(),
            layout: LAYOUT,
            features: Features::empty(),
            codec: 0,
            connection_id: 1,
        };
        let adopted = self.table.adopt(new, self.clock.now()).ok().expect("a free slot");
        Client {
            region,
            requests: Producer::new(LAYOUT.request_home(), false),
            responses: Consumer::new(LAYOUT.response_home(), false),
            slot: adopted.slot,
        }
    }

    /// Turns until nothing happens any more, at one moment of time.
    fn settle(&mut self) -> Turn {
        for _ in 0..1000 {
            let turn = self.table.turn(self.clock.now(), &self.clock);
            self.outputs.extend(self.table.take_outputs());
            if turn != Turn::Busy {
                return turn;
            }
        }
        panic!("a shard with bounded work did not settle");
    }

    /// Lets the spin budget pass.
    fn cool(&mut self) -> Turn {
        self.clock.0.set(self.clock.0.get() + SPIN_NS);
        // A connection is parked only after many visits that found nothing.
        (0..100).map(|_| self.settle()).last().expect("a turn")
    }

    fn closed(&self, slot: u32) -> Option<Status> {
        self.outputs.iter().find_map(|output| match output {
            Output::Close { slot: closed, goodbye } if *closed == slot => {
                Some(goodbye.map_or(Status::Ok, |goodbye| Status::from_wire(goodbye.status)))
            }
            _ => None,
        })
    }

    /// The fault that the connection in `slot` was closed for, by its name.
    fn fault(&self, slot: u32) -> Option<&'static str> {
        self.outputs
            .iter()
            .find_map(|output| match output {
                Output::Close { slot: closed, goodbye } if *closed == slot => goodbye.as_ref(),
                _ => None,
            })?
            .fault_name()
    }
}

#[test]
fn who_waits_for_one_answer_comes_before_those_with_a_backlog() {
    const BULK: usize = 20;
    let mut shard = Shard::new(BULK + 2);
    let mut bulk: Vec<Client> = (0..BULK).map(|_| shard.connect()).collect();
    let mut quiet = shard.connect();
    for client in &mut bulk {
        (0..40).for_each(|id| client.send(MessageType::ECHO, id, b"much").unwrap());
    }
    // Whatever its place in the round, each answer comes within a turn, while others have a backlog.
    for id in 0..10 {
        quiet.send(MessageType::ECHO, id, b"one").unwrap();
        shard.table.turn(shard.clock.now(), &shard.clock);
        assert!(shard.table.is_in_round());
        assert_eq!(quiet.receive(), Some((id, Status::Ok, true, b"one".to_vec())));
    }
    // So does the first answer of one that has just come.
    let mut fresh = shard.connect();
    fresh.send(MessageType::ECHO, 1, b"first").unwrap();
    shard.table.turn(shard.clock.now(), &shard.clock);
    assert!(fresh.receive().is_some());
}

#[test]
fn a_flood_that_comes_back_does_not_go_before_a_keystroke() {
    const BULK: usize = 40;
    const TYPISTS: usize = 20;
    let mut shard = Shard::new(BULK + TYPISTS);
    let mut bulk: Vec<Client> = (0..BULK).map(|_| shard.connect()).collect();
    // Each pauses until it is not polled any more, and floods again.
    for burst in 0..5 {
        for client in &mut bulk {
            (0..40).for_each(|id| client.send(MessageType::ECHO, id, b"much").unwrap());
            shard.table.doorbell(client.slot, shard.clock.now());
        }
        if burst == 4 {
            break;
        }
        // What is left of this round, then all others.
        shard.settle();
        shard.settle();
        shard.cool();
        assert_eq!(shard.table.hot_count(), 0);
        for client in &mut bulk {
            while client.receive().is_some() {}
        }
    }
    let mut typists: Vec<Client> = (0..TYPISTS).map(|_| shard.connect()).collect();
    for typist in &mut typists {
        typist.send(MessageType::ECHO, 1, b"key").unwrap();
    }
    shard.table.turn(shard.clock.now(), &shard.clock);
    assert!(shard.table.is_in_round());
    assert!(typists.iter_mut().all(|typist| typist.receive().is_some()));
}

#[test]
fn padding_behind_a_request_is_no_second_request() {
    let mut shard = Shard::new(2);
    let (mut bulk, mut typist) = (shard.connect(), shard.connect());
    // Longer than a half of home: every third one is followed by padding.
    for id in 0..20 {
        bulk.send(MessageType::ECHO, id, &[7; 7200]).unwrap();
        typist.send(MessageType::ECHO, id, &[7; 1024]).unwrap();
        shard.table.turn(shard.clock.now(), &shard.clock);
        // Served in between, and the turn is over before its own visit.
        assert!(shard.table.is_in_round() && typist.receive().is_some());
        assert!(shard.table.is_interactive(typist.slot), "request {id}");
        shard.settle();
        shard.settle();
        assert!(bulk.receive().is_some());
    }
}

#[test]
fn many_who_wait_for_one_answer_do_not_keep_a_backlog_from_being_worked_off() {
    let mut shard = Shard::new(40);
    let mut bulk = shard.connect();
    let mut others: Vec<Client> = (0..39).map(|_| shard.connect()).collect();
    (0..60).for_each(|id| bulk.send(MessageType::ECHO, id, b"much").unwrap());
    let mut answers = 0;
    // Bounded: two rounds take it, and a round has no more turns than connections.
    for id in 0..80 {
        for client in &mut others {
            let _ = client.send(MessageType::ECHO, id, b"one");
            while client.receive().is_some() {}
        }
        shard.table.turn(shard.clock.now(), &shard.clock);
        answers += std::iter::from_fn(|| bulk.receive()).count();
    }
    assert_eq!(answers, 60);
}

#[test]
fn each_kind_of_failure_has_its_answer_and_the_connection_goes_on() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    for (id, message_type) in [
        (1, PANICS),
        (2, FAILS),
        (3, MessageType::user(99)),
        (4, TOO_MUCH),
        (5, CHUNKS),
        (6, MessageType::ECHO),
    ] {
        client.send(message_type, id, b"ping").unwrap();
    }
    shard.settle();
    let mut next = || client.receive().unwrap();
    let (id, status, last, _) = next();
    assert_eq!((id, status, last), (1, Status::HandlerPanic, true));
    let (id, status, last, text) = next();
    assert_eq!((id, status, last), (2, Status::InvalidRequest, true));
    assert_eq!(text, b"never right");
    assert_eq!(next().1, Status::UnknownMessageType);
    assert_eq!(next().1, Status::MessageTooLarge);
    assert_eq!(next(), (5, Status::Ok, false, b"one".to_vec()));
    assert_eq!(next(), (5, Status::Ok, false, b"two".to_vec()));
    assert_eq!(next(), (5, Status::Ok, true, Vec::new()));
    assert_eq!(next(), (6, Status::Ok, true, b"ping".to_vec()));
    assert_eq!(shard.closed(client.slot), None);
}

#[test]
fn too_large_is_answered_and_closes() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    client.send(MessageType::ECHO, 9, &[0; 8193]).unwrap();
    shard.settle();
    assert_eq!(client.receive().unwrap().1, Status::MessageTooLarge);
    assert_eq!(shard.closed(client.slot), Some(Status::MessageTooLarge));
}

#[test]
fn a_fault_closes_its_connection_and_nobody_elses() {
    let mut shard = Shard::new(2);
    let (mut honest, hostile) = (shard.connect(), shard.connect());
    let home = LAYOUT.request_offset() + LAYOUT.request_home().offset;
    hostile.region.0[(home / 8) as usize].store(0xDEAD, crate::sync::Ordering::Relaxed);
    honest.send(MessageType::ECHO, 1, b"still here").unwrap();
    shard.settle();
    assert_eq!(shard.closed(hostile.slot), Some(Status::Fault));
    assert_eq!(honest.receive().unwrap().3, b"still here");
    let page = shard.metrics.export_prometheus();
    assert!(page.contains("frame_mark"), "{page}");
}

#[test]
fn a_quiet_connection_parks_and_its_doorbell_wakes_it() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(shard.cool(), Turn::Parked);
    client.send(MessageType::ECHO, 1, b"x").unwrap();
    assert_eq!(shard.settle(), Turn::Parked);
    assert!(client.region.view().daemon_parked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
    assert!(!client.region.view().daemon_parked().take(), "a polled connection needs no ring");
}

/// Whatever a client does while its shard is about to park, and whether or not it finds the shard's flag
/// set: it gets an answer. `prepare` sets the scene, `act` says whether the client rings.
#[track_caller]
fn at_every_look(prepare: fn(&mut Shard, &mut Client), act: fn(&mut Client) -> bool) {
    // Bounded: a connection that is quiet is looked at a few hundred times before it parks.
    for look in 0..2000 {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        prepare(&mut shard, &mut client);
        let (slot, region) = (client.slot, client.region.clone());
        let client = Rc::new(RefCell::new(client));
        let (rang, actor) = (Rc::new(Cell::new(None)), Rc::clone(&client));
        let told = Rc::clone(&rang);
        region.interrupt(look, move || told.set(Some(act(&mut actor.borrow_mut()))));
        shard.cool();
        let Some(rang) = rang.get() else {
            assert!(look > 30, "the shard looked at its client");
            return;
        };
        if rang {
            shard.table.doorbell(slot, shard.clock.now());
        }
        shard.settle();
        assert!(client.borrow_mut().receive().is_some(), "nobody woke the shard, look {look}");
    }
    panic!("the shard never parks");
}

#[test]
fn a_request_between_any_two_looks_of_its_shard_is_taken() {
    at_every_look(
        |shard, _| assert_eq!(shard.settle(), Turn::Polling),
        |client| {
            client.send(MessageType::ECHO, 1, b"x").unwrap();
            client.region.view().daemon_parked().take()
        },
    );
}

#[test]
fn space_that_is_freed_between_any_two_looks_of_its_shard_is_used() {
    at_every_look(
        |shard, client| {
            // Bounded: both rings fill.
            for id in 0.. {
                if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                    shard.settle();
                    if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                        break;
                    }
                }
            }
        },
        |client| {
            while client.receive().is_some() {}
            client.region.view().daemon_blocked().take()
        },
    );
}

#[test]
fn a_parked_client_is_rung_once_for_many_answers() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.region.view().client_parked().arm();
    for id in 0..5 {
        client.send(MessageType::ECHO, id, b"x").unwrap();
    }
    shard.settle();
    let rings = shard.outputs.iter().filter(|output| matches!(output, Output::Ring { .. })).count();
    assert_eq!(rings, 1);
}

#[test]
fn a_full_response_ring_is_backpressure_and_nothing_is_lost() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    let (mut sent, mut received) = (0, 0);
    for round in 0..2000 {
        if client.send(MessageType::ECHO, sent, &[7; 1000]).is_ok() {
            sent += 1;
        } else {
            shard.settle();
        }
        // A client that reads rarely.
        if round % 40 == 39 {
            while let Some((id, ..)) = client.receive() {
                assert_eq!(id, received);
                received += 1;
            }
        }
    }
    for _ in 0..100 {
        shard.settle();
        while let Some((id, ..)) = client.receive() {
            assert_eq!(id, received);
            received += 1;
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn a_blocked_connection_parks_and_asks_for_a_ring_when_there_is_space() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    for id in 0.. {
        if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
            shard.settle();
            if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                break;
            }
        }
    }
    assert_eq!(shard.cool(), Turn::Parked);
    while client.receive().is_some() {}
    assert!(client.region.view().daemon_blocked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
}

#[test]
fn jobs_go_to_the_worker_and_their_answers_come_back_in_any_order() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    for id in [1, 2] {
        client.send(SLOW, id, &[7; 10]).unwrap();
    }
    shard.settle();
    let mut headers = Vec::new();
    while let Some(job) = shard.worker.take() {
        let JobKind::Request { header, payload, .. } = job.kind else { panic!("another kind") };
        assert_eq!(payload.unwrap()[0], 7);
        headers.push(header);
    }
    shard.worker.publish(client.slot, headers[1].chunk(), b"part").unwrap();
    shard.worker.publish(client.slot, headers[1].answer(Status::Ok), b"two").unwrap();
    shard.worker.publish(client.slot, headers[0].answer(Status::Ok), b"one").unwrap();
    shard.settle();
    assert_eq!(client.receive().unwrap(), (2, Status::Ok, false, b"part".to_vec()));
    assert_eq!(client.receive().unwrap(), (2, Status::Ok, true, b"two".to_vec()));
    assert_eq!(client.receive().unwrap(), (1, Status::Ok, true, b"one".to_vec()));
}

#[test]
fn a_message_type_of_the_daemons_own_is_a_fault() {
    for number in [MessageType::USER_LAST.to_wire() + 1, u16::MAX] {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        client.send(MessageType::from_wire(number), 1, b"").unwrap();
        shard.settle();
        let reserved = Fault::ReservedMessageType { message_type: number };
        assert_eq!(shard.fault(client.slot), Some(reserved.name()));
    }
}

#[test]
fn an_id_in_flight_twice_is_a_fault_and_one_too_many_is_busy() {
    let mut shard = Shard::new(2);
    let (mut greedy, mut wrong) = (shard.connect(), shard.connect());
    for id in 0..=u64::from(IN_FLIGHT_PER_CONNECTION) {
        greedy.send(SLOW, id, b"").unwrap();
    }
    wrong.send(SLOW, 5, b"").unwrap();
    wrong.send(SLOW, 5, b"").unwrap();
    shard.settle();
    let (id, status, last, _) = greedy.receive().unwrap();
    assert_eq!((id, status, last), (u64::from(IN_FLIGHT_PER_CONNECTION), Status::Busy, true));
    let in_use = Fault::RequestIdInUse { request_id: 5 };
    assert_eq!(shard.fault(wrong.slot), Some(in_use.name()));
    assert_eq!(shard.closed(greedy.slot), None);
}

#[test]
fn cancel_reaches_the_worker_and_a_foreign_id_nobody() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    client.send(MessageType::CANCEL, 1, b"").unwrap();
    client.send(MessageType::CANCEL, 77, b"").unwrap();
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Cancel { request_id: 1 }));
    assert!(shard.worker.take().is_none());
    assert!(client.receive().is_none(), "a cancel has no answer of its own");
}

#[test]
fn a_slot_is_free_again_when_shell_and_worker_have_let_go() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"payload").unwrap();
    shard.settle();
    shard.table.end(client.slot, Ending::ClientLeft);
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 1);
    shard.table.shell_released(client.slot);
    assert_eq!(shard.table.occupied_count(), 1, "the worker may still publish");
    // Late replies are dropped, the acknowledgement frees the slot.
    let header = FrameHeader::request(SLOW, 1);
    shard.worker.publish(client.slot, header.answer(Status::Ok), b"late").unwrap();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Closed));
    shard.worker.acknowledge_closed(client.slot).unwrap();
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 0);
    let mut next = shard.connect();
    next.send(MessageType::ECHO, 1, b"fresh").unwrap();
    shard.settle();
    assert_eq!(next.receive().unwrap().3, b"fresh");
}

#[test]
fn silence_closes_a_connection_but_waiting_for_us_is_not_silence() {
    let mut shard = Shard::new(2);
    let (silent, mut waiting) = (shard.connect(), shard.connect());
    waiting.send(SLOW, 1, b"").unwrap();
    shard.settle();
    shard.clock.0.set(1_000_000);
    // Who waits for us now may be silent from then on.
    let again = Some(Timestamp(2_000_000));
    assert_eq!(shard.table.close_idle(shard.clock.now()), again);
    shard.settle();
    assert_eq!(shard.closed(silent.slot), Some(Status::IdleTimeout));
    assert_eq!(shard.closed(waiting.slot), None);
}

#[test]
fn draining_finishes_what_is_in_flight_and_refuses_what_is_new() {
    let mut shard = Shard::new(2);
    let (idle, mut busy) = (shard.connect(), shard.connect());
    busy.send(SLOW, 1, b"").unwrap();
    shard.settle();
    shard.table.drain(shard.clock.now());
    busy.send(MessageType::ECHO, 2, b"new").unwrap();
    shard.settle();
    assert_eq!(shard.closed(idle.slot), Some(Status::ShuttingDown));
    assert_eq!(busy.receive().unwrap().1, Status::ShuttingDown);
    assert_eq!(shard.closed(busy.slot), None);
    let header = FrameHeader::request(SLOW, 1);
    shard.worker.publish(busy.slot, header.answer(Status::Ok), b"whole").unwrap();
    shard.settle();
    assert_eq!(busy.receive().unwrap(), (1, Status::Ok, true, b"whole".to_vec()));
    assert_eq!(shard.closed(busy.slot), Some(Status::ShuttingDown));
}

#[test]
fn a_table_without_slots_gives_the_connection_back() {
    let mut shard = Shard::new(1);
    let _first = shard.connect();
    let new = NewConnection {
        memory: HeapRegion::new(),
        layout: LAYOUT,
        features: Features::empty(),
        codec: 0,
        connection_id: 2,
    };
    assert!(shard.table.adopt(new, Timestamp(0)).is_err());
}

#[test]
fn an_answer_of_several_frames_finds_its_room_wherever_the_ring_stands() {
    for before in 0..40 {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        for id in 0..before {
            client.send(MessageType::ECHO, id, b"x").unwrap();
            shard.settle();
            client.receive().unwrap();
        }
        client.send(LONG, 99, b"").unwrap();
        shard.settle();
        assert_eq!(client.receive().unwrap(), (99, Status::Ok, false, vec![1; 32]), "{before}");
        assert_eq!(client.receive().unwrap(), (99, Status::Ok, true, vec![2; 3900]), "{before}");
    }
}

#[test]
fn a_request_with_an_answers_bits_is_a_fault() {
    for (flags, status) in [(1, 0), (0x80, 0), (0, 7)] {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        let mut header = FrameHeader::request(MessageType::ECHO, 1);
        (header.flags, header.status) = (flags, status);
        client.requests.publish(client.region.view().request_ring(), header, b"").unwrap();
        shard.settle();
        assert_eq!(shard.closed(client.slot), Some(Status::Fault));
    }
}

/// Takes every buffer of the shard's pool.
fn take_all_buffers(shard: &Shard) -> Vec<Lease> {
    std::iter::from_fn(|| shard.worker.pool().lease(1)).collect()
}

#[test]
fn a_connection_that_found_no_buffer_tries_again_although_nobody_tells_it() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    let held = take_all_buffers(&shard);
    client.send(SLOW, 1, b"x").unwrap();
    assert_eq!(shard.cool(), Turn::Parked);
    let page = shard.metrics.shard(0);
    assert!(page.tier(LeaseTier::ALL[0]).lease_misses_total.value() > 0);
    assert!(page.activity.parks_total.value() > 0);
    // A handler drops its request and answers later: no news.
    drop(held);
    assert!(!shard.table.has_news());
    let until = shard.table.starved_until().expect("somebody waits for a buffer");
    shard.clock.0.set(until.0);
    shard.settle();
    assert!(shard.worker.take().is_some());
    assert_eq!(shard.table.starved_until(), None);
}

#[test]
fn one_that_waits_for_a_buffer_and_for_space_hears_from_its_client() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    shard.settle();
    let header = FrameHeader::request(SLOW, 1);
    // More than a response ring holds.
    for _ in 0..20 {
        shard.worker.publish(client.slot, header.chunk(), &[1; 1000]).unwrap();
    }
    shard.settle();
    let _held = take_all_buffers(&shard);
    client.send(SLOW, 2, b"x").unwrap();
    assert_eq!(shard.cool(), Turn::Parked);
    while client.receive().is_some() {}
    assert!(client.region.view().daemon_blocked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
}

#[test]
fn a_client_whose_request_was_not_taken_up_is_not_silent() {
    let mut shard = Shard::new(2);
    let (mut late, mut stopped) = (shard.connect(), shard.connect());
    assert_eq!(shard.cool(), Turn::Parked);
    // One rings, and its ring is still under way; the other was stopped before it could.
    late.send(MessageType::ECHO, 1, b"late").unwrap();
    stopped.send(MessageType::ECHO, 1, b"stopped").unwrap();
    shard.clock.0.set(2_000_000);
    shard.table.close_idle(shard.clock.now());
    assert!(shard.table.has_news(), "a shard with a request to take does not sleep");
    shard.settle();
    assert_eq!((shard.closed(late.slot), shard.closed(stopped.slot)), (None, None));
    assert_eq!(late.receive().unwrap().3, b"late");
    assert_eq!(stopped.receive().unwrap().3, b"stopped");
}

#[test]
fn a_refused_request_is_counted_as_one_and_a_buffer_only_while_it_is_held() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(MessageType::user(99), 1, b"four").unwrap();
    client.send(SLOW, 2, b"").unwrap();
    shard.settle();
    let header = FrameHeader::request(SLOW, 2);
    shard.worker.publish(client.slot, header.answer(Status::Ok), &[1; 5000]).unwrap();
    shard.settle();
    assert_eq!(shard.cool(), Turn::Parked);
    let page = shard.metrics.export_prometheus();
    for line in [
        "annulus_requests_total{type=\"user\"} 2",
        "annulus_responses_total{type=\"user\"} 2",
        "annulus_errors_total{type=\"user\",status=\"unknown_type\"} 1",
        "annulus_leases_in_use{shard=\"0\",tier=\"64KiB\"} 0",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}

#[test]
fn a_client_that_dies_without_reading_leaves_no_slot_and_no_buffer_behind() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    let chunk = FrameHeader::request(SLOW, 1).chunk();
    shard.worker.publish(client.slot, chunk, &[1; 5000]).unwrap();
    // Until the response ring is full and the reply ring behind it.
    for _ in 0..100 {
        while shard.worker.publish(client.slot, chunk, &[1; 4000]).is_ok() {}
        shard.settle();
    }
    assert_eq!(shard.cool(), Turn::Parked);
    shard.table.end(client.slot, Ending::ClientLeft);
    shard.table.shell_released(client.slot);
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Closed));
    shard.worker.acknowledge_closed(client.slot).unwrap();
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 0);
    let pool = shard.worker.pool();
    for tier in TierIndex::ALL {
        assert_eq!(pool.free_count(tier), pool.count(tier));
    }
}

#[test]
fn beside_its_client_a_shard_polls_nobody_and_says_so() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    let said = |client: &Client| client.region.view().daemon_core().load().map(|place| place.core);
    client.send(MessageType::ECHO, 1, b"hot").unwrap();
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(shard.table.hot_count(), 1);

    shard.table.sit_beside(Some(3));
    assert_eq!(said(&client), Some(3));
    assert_eq!(shard.settle(), Turn::Parked);
    // Parked, answered and parked again at one moment of time: no spin budget passes.
    assert!(client.region.view().daemon_parked().take());
    client.send(MessageType::ECHO, 2, b"cold").unwrap();
    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.settle(), Turn::Parked);
    assert_eq!(client.receive().unwrap().0, 1);
    assert_eq!(client.receive().unwrap().0, 2);

    // Who was parked when the shard went home hears of it when it is polled again.
    shard.table.sit_beside(None);
    assert_eq!(said(&client), Some(3));
    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(said(&client), None);
}

#[test]
fn a_client_that_went_quiet_is_company_once_with_what_it_says() {
    let mut shard = Shard::new(2);
    let (client, other) = (shard.connect(), shard.connect());
    let place = Whereabouts { core: 5, polls: true };
    client.region.view().client_core().store(Some(place));
    assert_eq!(shard.table.take_company(), Company::Nobody);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Unknown);

    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Together { slot: client.slot, place });
    assert_eq!(shard.table.take_company(), Company::Nobody);
    drop(other);
}

#[test]
fn who_only_gets_a_workers_replies_is_no_company() {
    let mut shard = Shard::new(2);
    let (mut reader, mut asker) = (shard.connect(), shard.connect());
    let place = Whereabouts { core: 5, polls: true };
    asker.region.view().client_core().store(Some(place));
    reader.send(SLOW, 1, b"stream").unwrap();
    shard.settle();
    assert_eq!(shard.cool(), Turn::Parked);
    // It has asked once, and has not said where it is.
    assert_eq!(shard.table.take_company(), Company::Unknown);
    let JobKind::Request { header, .. } = shard.worker.take().unwrap().kind else { panic!() };

    shard.worker.publish(reader.slot, header.chunk(), b"part").unwrap();
    shard.settle();
    assert_eq!((shard.table.hot_count(), shard.table.asking_count()), (1, 0));
    asker.send(MessageType::ECHO, 1, b"key").unwrap();
    shard.table.doorbell(asker.slot, shard.clock.now());
    shard.settle();
    assert_eq!(shard.table.asking_count(), 1);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Together { slot: asker.slot, place });
    assert_eq!((shard.table.hot_count(), shard.table.asking_count()), (0, 0));

    // Asking in the midst of a stream is asking.
    shard.worker.publish(reader.slot, header.chunk(), b"part").unwrap();
    reader.send(MessageType::ECHO, 2, b"").unwrap();
    shard.settle();
    assert_eq!(shard.table.asking_count(), 1);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Unknown);

    // Who leaves while it asks is not counted for ever.
    shard.table.doorbell(reader.slot, shard.clock.now());
    assert_eq!(shard.table.asking_count(), 1);
    shard.table.end(reader.slot, Ending::ClientLeft);
    shard.cool();
    assert_eq!(shard.table.asking_count(), 0);
}
