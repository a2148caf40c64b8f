//! A data shard allocates nothing on the heap for what workers answer: streams, their cancellation
//! and their backpressure, answers of all sizes, deadlines, a pool without a free buffer, and a
//! drain. The workers themselves may; their blocks stand beside.
#![cfg(all(feature = "server", feature = "client"))]

mod audit;

use std::thread;
use std::time::Duration;

use annulus::client::{Connection, Received, RequestOptions, WaitPolicy};
use annulus::limits::RING_CAPACITY_MIN;
use annulus::protocol::{AIRequest, Codec, JsonCodec, Message, MessageRole, StreamEvent};
use annulus::wire::Status;
use annulus::{AsyncRequest, AsyncResponder, IpcError, MessageType};
use fake_upstream::{Options, Upstream};

use audit::{Audit, payload, repeat, wait_for};

/// Answers what it is asked, from a worker.
const MIRROR: MessageType = MessageType::user(0);
/// Never answers, and keeps its request's buffer.
const HOLD: MessageType = MessageType::user(1);

const CHUNKS: usize = 10_000;
/// Far more than a worker can send before it hears of the cancellation.
const CHUNKS_ENDLESS: usize = 100_000;
const CHUNK_SIZE: usize = 8;

/// Eight buffers, and four of the largest size: soon exhausted.
const SETTINGS: &str = "default_provider = \"loopback\"\nipc.buffer_pool_size = 8\n\
     providers.loopback.chunk_size = 8\nproviders.loopback.chunks_per_second = 0\n\
     providers.remote.kind = \"openai-compatible\"";

#[test]
fn alloc_streams_make_no_block_on_a_data_shard() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(Options::default()).unwrap();
    let settings = format!("{SETTINGS}\nproviders.remote.base_urls = [\"{}/v1\"]", upstream.url());
    let mut audit = Audit::start(directory.path(), &settings, |builder| {
        builder
            .register_async_handler(MIRROR, async |request: AsyncRequest, to: AsyncResponder| {
                to.reply(request.payload()).await
            })
            .register_async_handler(HOLD, async |request: AsyncRequest, _: AsyncResponder| {
                std::future::pending::<()>().await;
                drop(request);
                Ok(())
            })
    });
    let mut client = audit.connect(WaitPolicy::default());

    let blocks = audit.measure("heartbeat", |_| {
        repeat(1_000, || client.call(MessageType::HEARTBEAT, &[], &mut Vec::new()).unwrap())
    });
    assert!(blocks.workers > 0, "workers allocate, so threads are told apart");
    audit.measure("metrics page", |_| {
        repeat(20, || client.call(MessageType::METRICS, &[], &mut Vec::new()).unwrap())
    });
    audit.measure("what does not decode", |_| {
        repeat(200, || {
            client.call(MessageType::COMPLETE, b"{", &mut Vec::new()).unwrap_err();
        })
    });
    audit.measure("loopback stream, chunks", |_| stream(&mut client, CHUNKS, Leave::AtTheEnd));
    audit.measure("cancelled streams", |_| {
        repeat(20, || {
            stream(&mut client, CHUNKS_ENDLESS, Leave::ByCancelAfter(20));
        })
    });
    audit.measure("connect, stream, disconnect in mid-stream", |audit| {
        repeat(50, || {
            let mut client = audit.connect(WaitPolicy::default());
            stream(&mut client, CHUNKS_ENDLESS, Leave::ByDropAfter(10));
        })
    });
    audit.measure("a stream that its client does not read", unread_stream);
    audit.measure("streams of a provider on the network, chunks", |_| {
        (0..20).map(|_| remote_stream(&mut client, Leave::AtTheEnd)).sum()
    });
    audit.measure("the same, cancelled", |_| {
        repeat(20, || {
            remote_stream(&mut client, Leave::ByCancelAfter(20));
        })
    });
    assert_eq!(upstream.log(|log| log.requests_count), 40, "the upstream was asked");

    // From 4 KiB on an answer travels in a lease, as its request does.
    for (size, count) in [(0, 500), (4 << 10, 200), (64 << 10, 50), (1 << 20, 10), (10 << 20, 5)] {
        audit.measure(&format!("answer of a worker, {size} B"), |_| {
            let (payload, mut answer) = (payload(size), Vec::new());
            repeat(count, || client.call(MIRROR, &payload, &mut answer).unwrap())
        });
    }
    audit.measure("deadlines", |_| {
        repeat(50, || {
            let options = RequestOptions::within(Duration::from_millis(2));
            let late = client.call_with(HOLD, b"late", options, &mut Vec::new());
            assert!(matches!(late, Err(IpcError::Timeout)), "{late:?}");
        })
    });
    audit.measure("no free buffer, until requests are cancelled", exhausted_pool);
    audit.finish();

    // The audit's own connection ends here, so this comes last.
    let mut held = audit.connect(WaitPolicy::PARK);
    let before = audit.series(USER_REQUESTS);
    let id = held.try_send(HOLD, b"held").unwrap().unwrap();
    held.notify();
    wait_for("the request to be in flight", || audit.series(USER_REQUESTS) > before);
    audit.count();
    audit.server.shutdown_handle().shutdown();
    let mut requests = 0;
    wait_for("the server to drain", || {
        requests += 1;
        held.try_send(MessageType::ECHO, b"refused").unwrap().unwrap();
        held.notify();
        receive(&mut held).status == Status::ShuttingDown
    });
    let blocks = audit.note("requests while the server drains", requests);
    assert_eq!(blocks.data_shards, 0);
    held.cancel(id).unwrap();
    assert_eq!(receive(&mut held).status, Status::Cancelled);
}

/// The next frame.
fn receive(client: &mut Connection) -> Received {
    assert!(client.wait(None).unwrap());
    client.try_receive(&mut Vec::new()).unwrap().unwrap()
}

const USER_REQUESTS: &str = "annulus_requests_total{type=\"user\"}";

/// How a client is done with a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    AtTheEnd,
    ByCancelAfter(usize),
    ByDropAfter(usize),
}

/// Asks for an answer of `asked` chunks and gives how many came.
fn stream(client: &mut Connection, asked: usize, leave: Leave) -> usize {
    let id = ask(client, asked);
    follow(client, id, asked, leave)
}

/// The same from an upstream; a rate keeps it going until it hears of the cancellation.
fn remote_stream(client: &mut Connection, leave: Leave) -> usize {
    const CHUNKS: usize = 500;
    let script = if leave == Leave::AtTheEnd { "" } else { "_rate-200" };
    let id = send(client, &request(&format!("remote/fake-chunks-{CHUNKS}{script}"), "?"));
    follow(client, id, CHUNKS, leave)
}

/// Receives an answer of `asked` chunks and gives how many came.
fn follow(client: &mut Connection, id: u64, asked: usize, leave: Leave) -> usize {
    let (mut chunk, mut chunks) = (Vec::new(), 0);
    loop {
        client.wait(None).unwrap();
        let Some(received) = client.try_receive(&mut chunk).unwrap() else { continue };
        if received.last {
            match leave {
                Leave::AtTheEnd => assert_eq!((received.status, chunks), (Status::Ok, asked)),
                _ => assert_eq!(received.status, Status::Cancelled),
            }
            return chunks;
        }
        if let Ok(StreamEvent::Text { .. }) = JsonCodec.decode_stream_event(&chunk) {
            chunks += 1;
        }
        if leave == Leave::ByDropAfter(chunks) {
            return chunks;
        }
        if leave == Leave::ByCancelAfter(chunks) {
            client.cancel(id).unwrap();
        }
    }
}

/// Sends a request whose answer has `asked` chunks; gives its id.
fn ask(client: &mut Connection, asked: usize) -> u64 {
    let prompt = "x".repeat(asked * CHUNK_SIZE);
    let mut request = request("loopback", &prompt);
    // Four bytes to a token: the answer is cut to a whole number of chunks.
    request.max_tokens = Some(u32::try_from(asked * CHUNK_SIZE / 4).unwrap());
    send(client, &request)
}

fn request(model: &str, prompt: &str) -> AIRequest {
    AIRequest::new(model, vec![Message::new(MessageRole::User, prompt)])
}

/// Sends a request for a stream; gives its id.
fn send(client: &mut Connection, request: &AIRequest) -> u64 {
    let mut payload = Vec::new();
    JsonCodec.encode_request(request, &mut payload).unwrap();
    let id = client.try_send(MessageType::STREAM, &payload).unwrap().unwrap();
    client.notify();
    id
}

/// A client that falls asleep over its stream: its ring fills, then its reply ring, then the worker
/// waits. Awake again, it gets all of it.
fn unread_stream(audit: &Audit) -> usize {
    let blocked = || audit.with_shard(|shard| shard.activity.backpressure_total.value());
    let options = audit.options().response_capacity(RING_CAPACITY_MIN);
    let mut client = Connection::connect(&options.wait(WaitPolicy::PARK)).unwrap();
    let mut chunks = 0;
    for _ in 0..5 {
        let before = blocked();
        ask(&mut client, 2_000);
        wait_for("the response ring to be full", || blocked() > before);
        let mut chunk = Vec::new();
        loop {
            client.wait(None).unwrap();
            let Some(received) = client.try_receive(&mut chunk).unwrap() else { continue };
            if received.last {
                assert_eq!(received.status, Status::Ok);
                break;
            }
            chunks += 1;
        }
    }
    chunks
}

/// Holds every buffer of the pool with requests that do not end, until the shard leaves more of
/// them in the ring; then cancels them one after the other, so that the rest goes on.
fn exhausted_pool(audit: &Audit) -> usize {
    let blocked = || audit.with_shard(|shard| shard.activity.backpressure_total.value());
    let mut requests = 0;
    for _ in 0..20 {
        let before = blocked();
        let mut client = audit.connect(WaitPolicy::PARK);
        let ids: Vec<u64> =
            (0..32).map(|_| client.try_send(HOLD, &[7; 100]).unwrap().unwrap()).collect();
        client.notify();
        wait_for("the pool to be exhausted", || blocked() > before);
        for id in &ids {
            client.cancel(*id).unwrap();
            thread::sleep(Duration::from_micros(100));
        }
        requests += ids.len();
        // A cancel behind requests that wait for a buffer waits with them: hanging up ends both.
    }
    requests
}
