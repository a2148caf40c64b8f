//! A data shard allocates nothing on the heap once it serves: every path that a client can make it
//! take is counted here and has to come to zero blocks.
//!
//! The allocator counts for one thread only, so that clients and the worker executor may allocate
//! as they like. Which thread that is, a handler says: it runs on the shard. The test ends with a
//! handler that does allocate, to show that it would have been seen. One test in this file, since
//! the allocator belongs to the whole program.
#![cfg(all(feature = "server", feature = "client"))]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::config::{Config, Sources};
use annulus::paths::Places;
use annulus::protocol::{AIRequest, Codec, JsonCodec, Message, MessageRole, StreamEvent};
use annulus::wire::Status;
use annulus::{IpcServer, MessageType, Request, Responder, RunningServer};

/// Says "count me" on the shard's thread.
const COUNT_THIS_THREAD: MessageType = MessageType::USER_FIRST;
/// Does what no handler on a data shard should.
const ALLOCATE: MessageType = MessageType::from_wire(MessageType::USER_FIRST.to_wire() + 1);

const CHUNKS: usize = 2_000;
/// Far more than the worker can send before it hears of the cancellation.
const CHUNKS_ENDLESS: usize = 50_000;
const CHUNK_SIZE: usize = 8;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Blocks that the counted thread has allocated.
static BLOCKS: AtomicU64 = AtomicU64::new(0);
/// Where the first of them came from.
static FIRST: OnceLock<String> = OnceLock::new();
static TRACING: AtomicBool = AtomicBool::new(true);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct CountingAllocator;

impl CountingAllocator {
    fn count() {
        // A thread that is ending has no flag any more, and the shard is not it.
        if !COUNTED.try_with(Cell::get).unwrap_or(false) {
            return;
        }
        BLOCKS.fetch_add(1, Relaxed);
        if TRACING.swap(false, Relaxed) {
            // Looking allocates, and must not count.
            COUNTED.set(false);
            let _ = FIRST.set(Backtrace::force_capture().to_string());
            COUNTED.set(true);
        }
    }
}

// SAFETY: every method passes its arguments on to the system's allocator and returns what it gave.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A daemon with one data shard, and the table of what was measured.
struct Bench {
    server: RunningServer,
    table: String,
    total: u64,
}

impl Bench {
    fn new(directory: &std::path::Path) -> Self {
        let server = IpcServer::builder()
            .config(config(directory))
            .register_provider_handlers()
            .register_handler(COUNT_THIS_THREAD, |_: &Request<'_>, _: &mut Responder<'_>| {
                assert!(thread::current().name().unwrap().starts_with("annulus-shard"));
                COUNTED.set(true);
                Ok(())
            })
            .register_handler(ALLOCATE, |_: &Request<'_>, _: &mut Responder<'_>| {
                drop(std::hint::black_box(Box::new(7_u64)));
                Ok(())
            })
            .start()
            .unwrap();
        let table = format!("{:<44} {:>10} {:>7}\n", "path", "operations", "blocks");
        Self { server, table, total: 0 }
    }

    fn connect(&self, wait: WaitPolicy) -> Connection {
        let options = ConnectOptions::new().socket_path(self.server.socket_path()).wait(wait);
        Connection::connect(&options).unwrap()
    }

    /// Runs `path`, which gives its number of operations, and notes what the shard allocated.
    fn measure(&mut self, name: &str, path: impl FnOnce(&Self) -> usize) {
        let before = BLOCKS.load(Relaxed);
        let operations = path(self);
        // What the shard does after its answer (a disconnection, a release) belongs to the path.
        self.connect(WaitPolicy::PARK).call(MessageType::ECHO, &[], &mut Vec::new()).unwrap();
        thread::sleep(Duration::from_millis(20));
        let blocks = BLOCKS.load(Relaxed) - before;
        self.total += blocks;
        let row = format!("{name:<44} {operations:>10} {blocks:>7}");
        println!("{row}");
        writeln!(self.table, "{row}").unwrap();
    }
}

fn config(directory: &std::path::Path) -> Config {
    let text = format!(
        "[ipc]\nsocket_path = {:?}\n[shards]\ncount = 1\n[providers.loopback]\n\
         chunk_size = {CHUNK_SIZE}\nchunks_per_second = 0\n",
        directory.join("annulus.sock")
    );
    let file = Some(("test.toml".into(), text));
    let places = Places::of_process();
    let sources = Sources { file, environment: Vec::new(), overrides: Vec::new(), places };
    Config::load(&sources).unwrap()
}

#[test]
fn a_data_shard_allocates_nothing_after_start_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(directory.path());
    let mut client = bench.connect(WaitPolicy::default());
    client.call(COUNT_THIS_THREAD, &[], &mut Vec::new()).unwrap();

    for (size, count) in [(0, 60_000), (64, 80_000), (1024, 40_000), (16 << 10, 18_000)] {
        bench.measure(&format!("echo, {size} B"), |_| echo(&mut client, size, count));
    }
    bench.measure("echo, 256 KiB", |_| echo(&mut client, 256 << 10, 1_990));
    bench.measure("echo, 10 MiB", |_| echo(&mut client, 10 << 20, 10));
    bench.measure("echo, 16 in flight", |_| echo_in_flight(&mut client, 20_000));
    bench.measure("heartbeat", |_| {
        repeat(1_000, || client.call(MessageType::HEARTBEAT, &[], &mut Vec::new()).unwrap())
    });
    bench.measure("unknown message type", |_| {
        repeat(1_000, || {
            client.call(MessageType::USER_LAST, &[], &mut Vec::new()).unwrap_err();
        })
    });
    bench.measure("echo, shard and client park each time", |bench| {
        let mut client = bench.connect(WaitPolicy::PARK);
        repeat(1_000, || {
            echo(&mut client, 64, 1);
            // Longer than the shard's spin budget.
            thread::sleep(Duration::from_micros(400));
        })
    });
    bench.measure("connect, serve, disconnect", |bench| {
        repeat(100, || {
            echo(&mut bench.connect(WaitPolicy::default()), 100, 1);
        })
    });
    bench.measure("connect, stream, disconnect in mid-stream", |bench| {
        repeat(20, || {
            stream(&mut bench.connect(WaitPolicy::default()), Some(10), false);
        })
    });
    bench.measure("loopback stream, chunks", |_| stream(&mut client, None, true));
    bench.measure("loopback stream, cancelled, chunks", |_| {
        stream(&mut client, Some(CHUNKS / 2), true)
    });
    let first = FIRST.get().map_or("", String::as_str);
    assert_eq!(bench.total, 0, "{}\nthe first block came from\n{first}", bench.table);

    bench.measure("a handler that allocates", |_| {
        client.call(ALLOCATE, &[], &mut Vec::new()).unwrap();
        1
    });
    assert_eq!(bench.total, 1, "the counter sees a single block on the shard");
}

fn repeat(count: usize, mut operation: impl FnMut()) -> usize {
    for _ in 0..count {
        operation();
    }
    count
}

fn echo(client: &mut Connection, size: usize, count: usize) -> usize {
    let payload: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
    let mut answer = Vec::new();
    for _ in 0..count {
        client.call(MessageType::ECHO, &payload, &mut answer).unwrap();
        assert_eq!(answer.len(), size);
    }
    assert_eq!(answer, payload);
    count
}

fn echo_in_flight(client: &mut Connection, count: usize) -> usize {
    let mut answer = Vec::new();
    let (mut sent, mut received) = (0, 0);
    while received < count {
        while sent < count
            && client.in_flight() < 16
            && client.try_send(MessageType::ECHO, b"many").unwrap().is_some()
        {
            sent += 1;
        }
        client.notify();
        client.wait(None).unwrap();
        while client.try_receive(&mut answer).unwrap().is_some() {
            received += 1;
        }
    }
    received
}

/// Streams an answer of [`CHUNKS`] chunks and gives how many came. With `cancel_after` the answer is
/// endless and cancelled after so many; then its end is read too, unless the client leaves at once.
fn stream(client: &mut Connection, cancel_after: Option<usize>, to_the_end: bool) -> usize {
    let asked = if cancel_after.is_some() { CHUNKS_ENDLESS } else { CHUNKS };
    let prompt = "x".repeat(asked * CHUNK_SIZE);
    let mut request =
        AIRequest::new("loopback", vec![Message::new(MessageRole::User, prompt.as_str())]);
    // Four bytes to a token: the answer is cut to a whole number of chunks.
    request.max_tokens = Some(u32::try_from(asked * CHUNK_SIZE / 4).unwrap());
    let mut payload = Vec::new();
    JsonCodec.encode_request(&request, &mut payload).unwrap();

    let id = client.try_send(MessageType::STREAM, &payload).unwrap().unwrap();
    client.notify();
    let (mut chunk, mut chunks) = (Vec::new(), 0);
    loop {
        client.wait(None).unwrap();
        let Some(received) = client.try_receive(&mut chunk).unwrap() else { continue };
        if received.last {
            let expected = if cancel_after.is_some() { Status::Cancelled } else { Status::Ok };
            assert_eq!(received.status, expected);
            assert!(cancel_after.is_some() || chunks == CHUNKS, "{chunks} chunks");
            return chunks;
        }
        if let Ok(StreamEvent::Text { .. }) = JsonCodec.decode_stream_event(&chunk) {
            chunks += 1;
        }
        if Some(chunks) == cancel_after && !to_the_end {
            return chunks;
        }
        if Some(chunks) == cancel_after {
            client.cancel(id).unwrap();
        }
    }
}
