//! Annulus: the AI backend that every editor window on a Linux workstation shares.
//!
//! A client makes a *region* of shared memory with two rings in it and passes it to the daemon over
//! a Unix socket; from then on requests and answers are frames in those rings. `docs/protocol.md`
//! has the bytes, `docs/architecture.md` the threads, `docs/decisions.md` the reasons.
//!
//! # The map
//!
//! A lower row never names a higher one (`tests/tidy.rs`); `client` stands beside the daemon.
//!
//! ```text
//! bench        the daemon's figures beside the machine's limits (feature cli)
//! client       the client library: Client, Connection, ConnectionPool (feature client)
//!
//! server       IpcServer: puts the daemon together, starts and stops its threads
//! control      the control thread: socket, handshakes, admission, metrics file
//! shard        a data shard's shell: its uring, descriptors, clock, sleep
//! provider     providers of AI answers, the pool that chooses among them, their keys, the handlers
//! worker       executors for asynchronous handlers
//! http         an HTTP client on a worker executor: names, proxies, TLS, kept connections
//!
//! config       flags, environment, file and defaults; knows the kinds of provider
//!
//! connection   a data shard's state machine: (input, now) → output
//! link         job ring and reply rings between a shard and a worker
//! dialect      how AI providers are asked and answer: six pure codecs, a row for each kind
//!
//! wake         how the daemon's threads wake each other
//! executor     what runs the tasks of a worker: tokio
//! pool         buffers for payloads that outlive their frame
//! region       the shared mapping of one connection: layout, seals, doorbells
//! ring         one direction of a connection, over borrowed words
//!
//! error        IpcError             wire         frames, handshake, statuses, faults
//! metrics      counters, Prometheus descriptors  the limit of open files
//! protocol     AI messages, codecs
//! footprint    memory of a process  trim         gives back what only the start needed (both cli)
//! scheduling   how soon a woken thread runs
//! paths        socket and file      checksum     CRC-32C
//! limits       bounds               copy         bytes into shared words and back
//! sync         atomics, or loom's   stand_in   the models' kernel
//! ```
//!
//! # What is absent
//!
//! - `connection`, `wire` and `ring` have no `unsafe`, make no system call themselves and read no
//!   clock: time is an argument named `now`.
//! - `unsafe` is denied, and allowed in the few files that `tests/tidy.rs` lists; each has a safe
//!   face.
//! - Ring code owns no storage. Mapped memory, heap tests and loom share one algorithm.
//! - A position of ours is private and only published; it is never read back from shared memory.
//! - No `&[u8]` is formed over memory that a peer can write: bytes are copied out, then judged.
//! - A data shard allocates nothing after start-up but the text of an error that its handler returns.
#![deny(unsafe_code)]
#![cfg_attr(annulus_loom, allow(dead_code, reason = "the models have no kernel"))]
#![cfg_attr(
    annulus_loom,
    allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's cells are not Sync, nor its threads Send"
    )
)]

#[cfg(feature = "cli")]
pub mod bench;
pub mod checksum;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(any(feature = "server", annulus_loom))]
pub mod connection;
#[cfg(feature = "server")]
mod control;
mod copy;
#[cfg(feature = "server")]
pub mod descriptors;
#[cfg(feature = "server")]
pub mod dialect;
mod error;
#[cfg(feature = "server")]
mod executor;
#[cfg(feature = "cli")]
pub mod footprint;
#[cfg(feature = "server")]
pub mod http;
pub mod limits;
#[cfg(any(feature = "server", annulus_loom))]
pub mod link;
#[cfg(any(feature = "server", annulus_loom))]
pub mod metrics;
pub mod paths;
pub mod pool;
pub mod protocol;
#[cfg(feature = "server")]
pub mod provider;
pub mod region;
pub mod ring;
#[cfg(feature = "server")]
mod scheduling;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod shard;
#[cfg(annulus_loom)]
mod stand_in;
pub mod sync;
#[cfg(feature = "cli")]
pub mod trim;
#[cfg(any(feature = "server", annulus_loom))]
pub mod wake;
pub mod wire;
#[cfg(any(feature = "server", annulus_loom))]
pub mod worker;

#[cfg(any(feature = "server", annulus_loom))]
pub use connection::{Handler, Request, Responder};
pub use error::IpcError;
#[cfg(feature = "server")]
pub use server::{IpcServer, IpcServerBuilder, RunningServer, ShutdownHandle};
pub use wire::MessageType;
#[cfg(any(feature = "server", annulus_loom))]
pub use worker::{AsyncHandler, AsyncRequest, AsyncResponder};
