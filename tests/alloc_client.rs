//! A [`Connection`] allocates nothing once it is connected, with an answer buffer that is large
//! enough: calls, batches, parking, streams, full rings, cancels, deadlines.
//!
//! A [`Client`], which threads and tasks share, does allocate: its answers are its caller's to keep,
//! and each request has a place of its own. What it takes is held to a bound here, so that it does not
//! grow unnoticed.
#![cfg(all(feature = "server", feature = "client"))]

mod audit;

use std::hint::black_box;
use std::time::Duration;

use annulus::client::{
    Client, Connection, ConnectionPool, PoolOptions, RequestOptions, WaitPolicy,
};
use annulus::limits::RING_CAPACITY_MIN;
use annulus::{AsyncRequest, AsyncResponder, IpcError, MessageType};
use futures_lite::future;

use audit::allocator::{blocks_here, first_traced, trace_here};
use audit::{Audit, echo_in_flight, payload, print, wait_for};

/// Never answers.
const HOLD: MessageType = MessageType::user(0);
/// Answers in as many chunks as its request has bytes.
const CHUNKS: MessageType = MessageType::user(1);
const CHUNK_COUNT: usize = 10_000;

/// The paths so far, and the blocks that this thread allocated on them.
#[derive(Default)]
struct Table {
    total: u64,
}

impl Table {
    /// Runs `path` once to warm up and once to be counted; gives the blocks.
    fn measure(&mut self, name: &str, operations: usize, mut path: impl FnMut()) -> u64 {
        path();
        let before = blocks_here();
        path();
        let blocks = blocks_here() - before;
        self.total += blocks;
        print(&format!("{name:<48} {operations:>10} {blocks:>11}"));
        blocks
    }
}

#[test]
fn alloc_a_connection_makes_no_block_after_it_is_connected() {
    let directory = tempfile::tempdir().unwrap();
    let mut audit = Audit::start(directory.path(), "", |builder| {
        builder
            .register_async_handler(HOLD, async |_: AsyncRequest, _: AsyncResponder| {
                std::future::pending::<()>().await;
                Ok(())
            })
            .register_async_handler(CHUNKS, async |request: AsyncRequest, to: AsyncResponder| {
                for _ in 0..request.payload().len() {
                    to.chunk(b"a piece of the answer").await?;
                }
                Ok(())
            })
    });
    let mut table = Table::default();
    print(&format!("\n{:<48} {:>10} {:>11}", "path of the client", "operations", "blocks"));
    let mut answer = Vec::with_capacity(10 << 20);
    trace_here();

    for (name, wait) in [
        ("polling, then parking", WaitPolicy::default()),
        ("polling", WaitPolicy::SPIN),
        ("parking", WaitPolicy::PARK),
    ] {
        let mut client = audit.connect(wait);
        table.measure(&format!("call, 64 B, {name}"), 2_000, || {
            call(&mut client, &[7; 64], 2_000, &mut answer);
        });
    }
    let mut client = audit.connect(WaitPolicy::default());
    for (size, count) in [(0, 2_000), (1024, 2_000), (64 << 10, 200), (1 << 20, 20), (10 << 20, 4)]
    {
        let payload = payload(size);
        table.measure(&format!("call, {size} B"), count, || {
            call(&mut client, &payload, count, &mut answer);
        });
    }
    table.measure("try_send and try_receive, 32 in flight", 50_000, || {
        echo_in_flight(&mut client, b"many", 50_000, 32, &mut answer);
    });
    table.measure("call with a deadline", 2_000, || {
        let options = RequestOptions::within(Duration::from_secs(60));
        for _ in 0..2_000 {
            client.call_with(MessageType::ECHO, b"in time", options, &mut answer).unwrap();
        }
    });
    table.measure("call with a deadline that falls", 20, || {
        let options = RequestOptions::within(Duration::from_millis(2));
        for _ in 0..20 {
            let late = client.call_with(HOLD, &[], options, &mut answer);
            assert!(matches!(late, Err(IpcError::Timeout)));
        }
    });
    table.measure("call of a type that nobody handles", 500, || {
        for _ in 0..500 {
            let refused = client.call(MessageType::USER_LAST, &[], &mut answer);
            assert!(matches!(refused, Err(IpcError::UnknownMessageType)));
        }
    });
    table.measure("an answer in chunks", CHUNK_COUNT, || {
        receive_chunks(&mut client, &mut answer);
    });
    table.measure("send and cancel", 100, || {
        for _ in 0..100 {
            let id = client.try_send(HOLD, b"never mind").unwrap().unwrap();
            client.cancel(id).unwrap();
            assert!(client.wait(None).unwrap());
            assert!(client.try_receive(&mut answer).unwrap().unwrap().last);
        }
    });
    let small = audit.options().wait(WaitPolicy::PARK);
    let small = small.request_capacity(RING_CAPACITY_MIN).response_capacity(RING_CAPACITY_MIN);
    let mut full = Connection::connect(&small).unwrap();
    table.measure("both rings full and drained again", 50, || {
        for _ in 0..50 {
            while full.try_send(MessageType::ECHO, &[1; 1000]).unwrap().is_some() {}
            full.notify();
            while full.in_flight() > 0 {
                assert!(full.wait(None).unwrap());
                while full.try_receive(&mut answer).unwrap().is_some() {}
            }
        }
    });
    let pool = ConnectionPool::new(audit.options(), PoolOptions::default());
    table.measure("taken from a pool, called, given back", 500, || {
        for _ in 0..500 {
            pool.get().unwrap().call(MessageType::ECHO, b"pooled", &mut answer).unwrap();
        }
    });
    assert_eq!(table.total, 0, "the first block came from\n{}", first_traced());

    let canary = table.measure("canary: a call and a box", 1, || {
        client.call(MessageType::ECHO, b"", &mut answer).unwrap();
        drop(black_box(Box::new(7_u64)));
    });
    assert_eq!(canary, 1, "a single block is seen");
    shared_client(&audit, &mut table);
    audit.finish();
}

fn call(client: &mut Connection, payload: &[u8], count: usize, answer: &mut Vec<u8>) {
    for _ in 0..count {
        client.call(MessageType::ECHO, payload, answer).unwrap();
        assert_eq!(answer.len(), payload.len());
    }
}

fn receive_chunks(client: &mut Connection, answer: &mut Vec<u8>) {
    let mut chunks = 0;
    client.try_send(CHUNKS, &[0; CHUNK_COUNT]).unwrap().unwrap();
    client.notify();
    loop {
        assert!(client.wait(None).unwrap());
        while let Some(received) = client.try_receive(answer).unwrap() {
            if received.last {
                assert_eq!(chunks, CHUNK_COUNT);
                return;
            }
            chunks += 1;
        }
    }
}

/// A shared client's request: its place (shared with whoever receives), its entry, and the answer.
fn shared_client(audit: &Audit, table: &mut Table) {
    const CALLS: usize = 1_000;
    /// The place, the answer, and now and then a larger table.
    const BLOCKS_PER_CALL_MAX: u64 = 3;
    let client = Client::connect(&audit.options()).unwrap();
    let blocking = table.measure("Client::call, 64 B", CALLS, || {
        for _ in 0..CALLS {
            assert_eq!(client.call(MessageType::ECHO, &[7; 64]).unwrap().len(), 64);
        }
    });
    let asynchronous = table.measure("Client::call_async, 64 B", CALLS, || {
        future::block_on(async {
            for _ in 0..CALLS {
                assert_eq!(client.call_async(MessageType::ECHO, &[7; 64]).await.unwrap().len(), 64);
            }
        });
    });
    for blocks in [blocking, asynchronous] {
        assert!(blocks <= BLOCKS_PER_CALL_MAX * CALLS as u64, "{blocks} blocks");
    }
    drop(client);
    wait_for("the client's thread to end", || audit.series(OPEN) <= 4);
}

const OPEN: &str = "annulus_connections_open{shard=\"0\"}";
