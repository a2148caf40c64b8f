//! What the allocation audits share: the counting allocator, a server under audit, and the table.
//!
//! An audit has a test program of its own, because the allocator belongs to the whole program and
//! a second test would be counted with the first.
#![allow(dead_code, reason = "each audit uses its own part")]

pub(crate) mod allocator;

use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::config::{Config, Sources};
use annulus::metrics::ShardMetrics;
use annulus::paths::Places;
use annulus::{IpcServer, IpcServerBuilder, MessageType, Request, Responder, RunningServer};

use allocator::{Blocks, first_traced, trace_data_shards};

/// Does what no handler on a data shard should: the canary of every audit.
const ALLOCATE: MessageType = MessageType::user(0xFF);
/// Whatever is waited for comes within this, or the audit fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server whose data shards must not allocate, and the table of what was measured.
pub(crate) struct Audit {
    pub(crate) server: RunningServer,
    /// Its answers show that a shard has come to the end of what was asked before.
    settler: Connection,
    last: Blocks,
    data_shards: u64,
}

impl Audit {
    /// Starts a server with `settings`, lines of TOML, and prints the table's head.
    pub(crate) fn start(
        directory: &Path,
        settings: &str,
        register: impl FnOnce(IpcServerBuilder) -> IpcServerBuilder,
    ) -> Self {
        // Reads once which bug is planted, if any: to remember it takes a block.
        let _ = annulus::sync::sound("");
        let builder = IpcServer::builder()
            .config(config(directory, settings))
            .register_provider_handlers()
            .register_handler(ALLOCATE, |_: &Request<'_>, _: &mut Responder<'_>| {
                drop(std::hint::black_box(Box::new(7_u64)));
                Ok(())
            });
        let server = register(builder).start().unwrap();
        // From here on: a shard has reported that it serves.
        let page = server.metrics().export_prometheus();
        let shards = page.lines().filter(|line| line.starts_with("annulus_turns_total{")).count();
        assert_eq!(trace_data_shards(), shards, "data shards are known by their names");
        let last = Blocks::now();
        let options = ConnectOptions::new().socket_path(server.socket_path());
        let settler = Connection::connect(&options.wait(WaitPolicy::PARK)).unwrap();
        print(&format!(
            "\n{:<48} {:>10} {:>11} {:>8} {:>8}",
            "path", "operations", "data shards", "control", "workers"
        ));
        Self { server, settler, last, data_shards: 0 }
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::new().socket_path(self.server.socket_path())
    }

    pub(crate) fn connect(&self, wait: WaitPolicy) -> Connection {
        Connection::connect(&self.options().wait(wait)).unwrap()
    }

    /// What the first data shard counts.
    pub(crate) fn with_shard<T>(&self, read: impl FnOnce(&ShardMetrics) -> T) -> T {
        read(self.server.metrics().shard(0))
    }

    /// The value of one series of the metrics page.
    pub(crate) fn series(&self, name: &str) -> u64 {
        let page = self.server.metrics().export_prometheus();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no series {name}")).parse().unwrap()
    }

    /// Runs `path`, which gives its number of operations, and prints what was allocated for it.
    pub(crate) fn measure(&mut self, name: &str, path: impl FnOnce(&Self) -> usize) -> Blocks {
        let operations = path(self);
        self.settle();
        self.note(name, operations)
    }

    /// What the shards do after their answers (a disconnection, a release) belongs to the path too;
    /// whatever comes still later is counted with the next one.
    pub(crate) fn settle(&mut self) {
        self.settler.call(MessageType::ECHO, &[], &mut Vec::new()).unwrap();
        thread::sleep(Duration::from_millis(10));
    }

    /// Prints a row with everything since the last one.
    pub(crate) fn note(&mut self, name: &str, operations: usize) -> Blocks {
        let blocks = self.count();
        print(&format!(
            "{name:<48} {operations:>10} {:>11} {:>8} {:>8}",
            blocks.data_shards, blocks.control, blocks.workers
        ));
        blocks
    }

    /// Counts everything since the last time, so that it is not in the next row.
    pub(crate) fn count(&mut self) -> Blocks {
        let now = Blocks::now();
        let blocks = now.since(self.last);
        self.last = now;
        self.data_shards += blocks.data_shards;
        blocks
    }

    /// Fails unless the data shards allocated nothing so far, and one block from now on is seen.
    pub(crate) fn finish(&mut self) {
        self.settle();
        self.count();
        assert_eq!(self.data_shards, 0, "the first block came from\n{}", first_traced());
        self.settler.call(ALLOCATE, &[], &mut Vec::new()).unwrap();
        let canary = self.note("canary: a handler that allocates", 1);
        assert_eq!(canary.data_shards, 1, "a single block on a data shard is seen");
        assert!(first_traced().contains("alloc"), "and traced: {}", first_traced());
    }
}

fn config(directory: &Path, settings: &str) -> Config {
    let socket = directory.join("annulus.sock");
    let text = format!("ipc.socket_path = {socket:?}\n{settings}\n");
    let sources = Sources {
        file: Some(("audit.toml".into(), text)),
        environment: Vec::new(),
        overrides: Vec::new(),
        places: Places::of_process(),
    };
    Config::load(&sources).unwrap()
}

/// Prints a line that the test harness does not hold back, as it does what `println!` prints in a
/// test that passes: the table is what an audit is for.
pub(crate) fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").unwrap();
}

/// Looks every millisecond until `done`.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// `size` bytes that are not all the same.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(size).collect()
}

/// One echo at a time.
pub(crate) fn echo(client: &mut Connection, size: usize, count: usize) -> usize {
    let payload = payload(size);
    let mut answer = Vec::new();
    for _ in 0..count {
        client.call(MessageType::ECHO, &payload, &mut answer).unwrap();
        assert_eq!(answer.len(), size);
    }
    assert!(answer == payload);
    count
}

/// Keeps up to `in_flight` echoes under way until `count` have come back; `answer` is warm already
/// if the caller's count matters.
pub(crate) fn echo_in_flight(
    client: &mut Connection,
    payload: &[u8],
    count: usize,
    in_flight: u32,
    answer: &mut Vec<u8>,
) -> usize {
    let (mut sent, mut received) = (0, 0);
    while received < count {
        // A batch, so that its sender does not chase every single answer.
        while sent < count
            && client.in_flight() < in_flight
            && client.try_send(MessageType::ECHO, payload).unwrap().is_some()
        {
            sent += 1;
        }
        client.notify();
        assert!(client.wait(Some(Instant::now() + PATIENCE)).unwrap());
        while client.try_receive(answer).unwrap().is_some() {
            assert_eq!(answer.len(), payload.len());
            received += 1;
        }
    }
    received
}

/// Runs `operation` `count` times.
pub(crate) fn repeat(count: usize, mut operation: impl FnMut()) -> usize {
    for _ in 0..count {
        operation();
    }
    count
}
