//! The table over plain memory, with a clock that only the test moves.

mod answers;
mod ends;
mod order;
mod refusals;
mod sleep;

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
struct HeapRegion {
    words: Arc<Vec<AtomicU64>>,
    layout: RegionLayout,
    interruption: Rc<RefCell<Option<Interruption>>>,
}

/// What happens when the region has been looked at so many times more.
struct Interruption {
    looks_left: u32,
    act: Box<dyn FnOnce()>,
}

impl HeapRegion {
    fn new(layout: RegionLayout) -> Self {
        let words = (0..layout.size() / 8).map(|_| AtomicU64::new(0)).collect();
        let region = Self { words: Arc::new(words), layout, interruption: Rc::default() };
        region.view().initialize();
        region
    }

    /// Lets `act` happen just before the look after `looks_left` others.
    fn interrupt(&self, looks_left: u32, act: impl FnOnce() + 'static) {
        *self.interruption.borrow_mut() = Some(Interruption { looks_left, act: Box::new(act) });
    }
}

impl RegionMemory for HeapRegion {
    fn view(&self) -> RegionView<'_> {
        let interruption = self.interruption.take();
        match interruption {
            Some(Interruption { looks_left: 0, act }) => act(),
            Some(Interruption { looks_left, act }) => self.interrupt(looks_left - 1, act),
            None => {}
        }
        RegionView::new(&self.words, self.layout)
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
        self.connect_with(LAYOUT)
    }

    fn connect_with(&mut self, layout: RegionLayout) -> Client {
        let region = HeapRegion::new(layout);
        let new = NewConnection {
            memory: region.clone(),
            layout,
            features: Features::empty(),
            codec: 0,
            connection_id: 1,
        };
        let adopted = self.table.adopt(new, self.clock.now()).ok().expect("a free slot");
        Client {
            region,
            requests: Producer::new(layout.request_home(), false),
            responses: Consumer::new(layout.response_home(), false),
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
