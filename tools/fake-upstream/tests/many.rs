//! A thousand streams at once, and a thousand short requests a second.

mod common;

use std::time::{Duration, Instant};

use common::request;
use fake_upstream::{
    Dialect, Options, STAMP_SIZE, Upstream, now_ns, raise_descriptor_limit, stamp_of,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STREAMS: usize = 1_000;
const CHUNKS: usize = 50;

/// Nanoseconds from sending to reading, of every stamp in one answer.
async fn lateness(address: std::net::SocketAddr, dialect: Dialect) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let model = format!("fake-chunks-{CHUNKS}_rate-50_stamp");
    stream.write_all(request(dialect, &model).as_bytes()).await.unwrap();
    let (mut late, mut buffer, mut kept) = (Vec::new(), vec![0; 16 << 10], String::new());
    while late.len() < CHUNKS {
        let size = stream.read(&mut buffer).await.unwrap();
        assert_ne!(size, 0, "{dialect:?}: the stream ended after {} chunks", late.len());
        let now = now_ns();
        kept.push_str(&String::from_utf8_lossy(&buffer[..size]));
        // A read may end within a stamp when this client is behind; and an @ may be a byte of one of
        // Bedrock's checksums.
        while let Some(at) = kept.find('@').filter(|at| kept.len() >= at + STAMP_SIZE) {
            late.extend(stamp_of(&kept[at..]).map(|sent| now - sent));
            kept.drain(..=at);
        }
    }
    late
}

#[test]
fn a_thousand_streams_get_fifty_chunks_a_second_each() {
    raise_descriptor_limit().unwrap();
    let upstream = Upstream::start(Options::default()).unwrap();
    let address = upstream.address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let mut late = runtime.block_on(async {
        let streams: Vec<_> = (0..STREAMS)
            .map(|index| tokio::spawn(lateness(address, Dialect::ALL[index % Dialect::ALL.len()])))
            .collect();
        let mut late = Vec::new();
        for stream in streams {
            late.extend(stream.await.unwrap());
        }
        late
    });
    let took = began.elapsed();
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] / 1_000;
    println!(
        "{STREAMS} streams of {CHUNKS} chunks in {took:?}; from send to read p50 {} us, p99 {} us; \
         CPU of the server's thread {:?}",
        at(0.5),
        at(0.99),
        thread_cpu("fake-upstream"),
    );
    assert_eq!(late.len(), STREAMS * CHUNKS);
    // 50 chunks at 50/s are a second; the rest is what a busy machine may take.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn short_requests_are_quick() {
    const REQUESTS: u32 = 2_000;
    let upstream = Upstream::start(Options::default()).unwrap();
    let mut stream = common::connect(upstream.address());
    let began = Instant::now();
    for _ in 0..REQUESTS {
        std::io::Write::write_all(&mut stream, request(Dialect::OpenAi, "m").as_bytes()).unwrap();
        assert!(common::read_reply(&mut stream).whole);
    }
    let took = began.elapsed();
    println!("{REQUESTS} requests one after the other in {took:?}, {:?} each", took / REQUESTS);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// What the busiest thread of this name has used of a processor (proc_pid_stat(5)).
fn thread_cpu(name: &str) -> Duration {
    let mut ticks_max = 0;
    for entry in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path().join("stat")) else {
            continue;
        };
        let (start, rest) = text.rsplit_once(')').unwrap();
        if start.ends_with(&format!("({name}")) {
            let fields: Vec<u64> =
                rest.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
            // Without pid, name and state: utime and stime are the 14th and 15th of all.
            ticks_max = ticks_max.max(fields[10] + fields[11]);
        }
    }
    Duration::from_millis(ticks_max * 10)
}
