//! What does a whole round trip cost without a kernel in it: on one thread, where no line travels, one at a
//! time or in runs, and between two, where every line does? What does a turn cost that finds nothing?
//!
//! The daemon's side is the shard's real state machine, [`Table`], with its echo handler, over a region
//! on the heap. Between two threads both poll; they are not pinned here, so `annulus bench` has the
//! figures to compare.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use annulus::connection::{Clock, NewConnection, Routes, Table, TableOptions, Timestamp};
use annulus::connection::{Request, Responder, Route};
use annulus::limits::FRAMES_PER_VISIT;
use annulus::metrics::{BuildInfo, Metrics, MetricsOptions};
use annulus::pool::{BufferPool, PoolSizes};
use annulus::protocol::{Codec, JsonCodec};
use annulus::region::{RegionLayout, RegionMemory, RegionView};
use annulus::ring::{Consumer, Producer, PublishError};
use annulus::sync::AtomicU64;
use annulus::wire::{Fault, Features, FrameHeader, MessageType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Room for a run of the largest.
const LAYOUT: RegionLayout = RegionLayout::new(1 << 19, 1 << 19);
/// Whole cache lines, but for one.
const SIZES: [usize; 4] = [64, 120, 1024, 4096];
/// Requests of a run: as many as a visit takes of those of 64 bytes.
const RUN_LENGTH: u32 = FRAMES_PER_VISIT;

/// Memory that both sides hold.
#[derive(Clone)]
struct HeapRegion(Arc<[AtomicU64]>);

impl HeapRegion {
    fn new() -> Self {
        let region = Self((0..LAYOUT.size() / 8).map(|_| AtomicU64::new(0)).collect());
        region.view().initialize();
        region
    }
}

impl RegionMemory for HeapRegion {
    fn view(&self) -> RegionView<'_> {
        RegionView::new(&self.0, LAYOUT)
    }
}

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A shard's connections, one of them open.
struct Shard {
    table: Table<HeapRegion>,
    clock: Monotonic,
}

impl Shard {
    fn serving(region: HeapRegion) -> Self {
        let mut routes = Routes::new();
        let echo = |request: &Request<'_>, responder: &mut Responder<'_>| {
            responder.reply(request.payload())
        };
        routes.set(MessageType::ECHO, Route::Synchronous(Arc::new(echo)));
        let mut table = Table::new(TableOptions {
            slot_count: 1,
            routes: Arc::new(routes),
            codecs: Arc::new([Arc::new(JsonCodec) as Arc<dyn Codec>]),
            links: Vec::new(),
            pool: BufferPool::new(PoolSizes::for_config(12, 1 << 20)).expect("there is memory"),
            metrics: Arc::new(Metrics::new(MetricsOptions {
                shard_count: 1,
                fault_names: &Fault::NAMES,
                started: SystemTime::now(),
                build: BuildInfo { version: "bench", revision: "bench" },
            })),
            shard_index: 0,
            message_size_max: 8192,
            // It is never parked, for nobody would ring.
            spin_ns: u64::MAX,
            idle_timeout_ns: None,
        });
        let connection = NewConnection {
            memory: region,
            layout: LAYOUT,
            features: Features::HOME_AGAIN,
            codec: 0,
            connection_id: 1,
        };
        let adopted = table.adopt(connection, Timestamp::default());
        assert!(adopted.is_ok(), "a new table has a free slot");
        Self { table, clock: Monotonic(Instant::now()) }
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        let _ = self.table.turn(now, &self.clock);
    }
}

/// A client's two ring ends.
struct Client {
    region: HeapRegion,
    requests: Producer,
    responses: Consumer,
    next_id: u64,
    answer: Vec<u8>,
}

impl Client {
    fn new(region: HeapRegion) -> Self {
        let requests = Producer::new(LAYOUT.request_home(), false).again(true);
        let responses = Consumer::new(LAYOUT.response_home(), false).again(true);
        Self { region, requests, responses, next_id: 1, answer: Vec::new() }
    }

    fn send(&mut self, payload: &[u8]) {
        assert!(self.try_send(payload), "the ring has room");
    }

    /// False when the ring has no room.
    fn try_send(&mut self, payload: &[u8]) -> bool {
        let header = FrameHeader::request(MessageType::ECHO, self.next_id);
        let ring = self.region.view().request_ring();
        match self.requests.publish(ring, header, payload) {
            Ok(()) => self.next_id += 1,
            Err(PublishError::Full) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn try_receive(&mut self) -> bool {
        let ring = self.region.view().response_ring();
        let Some(header) = self.responses.poll(ring).expect("the daemon is honest") else {
            return false;
        };
        self.answer.resize(header.payload_size as usize, 0);
        self.responses.copy_payload(ring, &header, &mut self.answer).expect("it is whole");
        self.responses.release(ring, &header);
        true
    }
}

fn on_one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip/one_thread");
    for size in SIZES {
        let region = HeapRegion::new();
        let (mut shard, mut client) = (Shard::serving(region.clone()), Client::new(region));
        let payload = vec![0xA5; size];
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                client.send(black_box(&payload));
                shard.turn();
                assert!(client.try_receive(), "a turn answers");
            });
        });
    }
    group.finish();
}

/// Of many requests in a row, each: what a visit costs once counts little.
fn in_runs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip/in_runs");
    group.throughput(Throughput::Elements(RUN_LENGTH.into()));
    for size in SIZES {
        let region = HeapRegion::new();
        let (mut shard, mut client) = (Shard::serving(region.clone()), Client::new(region));
        let payload = vec![0xA5; size];
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let (mut sent, mut answered) = (0, 0);
                while answered < RUN_LENGTH {
                    while sent < RUN_LENGTH && client.try_send(black_box(&payload)) {
                        sent += 1;
                    }
                    shard.turn();
                    let before = answered;
                    while client.try_receive() {
                        answered += 1;
                    }
                    assert!(answered > before, "a turn answers");
                }
            });
        });
    }
    group.finish();
}

/// A turn that finds nothing: how late a shard that polls one connection sees its next request.
fn quiet_turn(criterion: &mut Criterion) {
    let mut shard = Shard::serving(HeapRegion::new());
    let now = shard.clock.now();
    criterion.bench_function("round_trip/quiet_turn", |bencher| {
        bencher.iter(|| shard.table.turn(black_box(now), &shard.clock));
    });
}

fn between_two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip/two_threads");
    for size in SIZES {
        let region = HeapRegion::new();
        let stopping = Arc::new(AtomicBool::new(false));
        let daemon = thread::spawn({
            let (region, stopping) = (region.clone(), Arc::clone(&stopping));
            move || {
                let mut shard = Shard::serving(region);
                // Until the measuring side has enough.
                while !stopping.load(Ordering::Relaxed) {
                    shard.turn();
                }
            }
        });
        let mut client = Client::new(region);
        let payload = vec![0xA5; size];
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                client.send(black_box(&payload));
                while !client.try_receive() {
                    spin_loop();
                }
            });
        });
        stopping.store(true, Ordering::Relaxed);
        daemon.join().expect("the shard's thread ends");
    }
    group.finish();
}

criterion_group!(benches, on_one_thread, in_runs, quiet_turn, between_two_threads);
criterion_main!(benches);
