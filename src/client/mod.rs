//! The client library: requests to the daemon over shared memory, blocking or asynchronous.
//!
//! | use | for |
//! |---|---|
//! | [`Client`] | most programs: one connection, any number of threads and tasks |
//! | [`Connection`] | the shortest way: one owner, no allocation, several requests in flight by hand |
//! | [`ConnectionPool`] | exclusive connections for many threads |
//!
//! ```no_run
//! use annulus::client::{Client, ConnectOptions};
//! use annulus::protocol::{AIRequest, Message, MessageRole, StreamEvent};
//!
//! let client = Client::connect(&ConnectOptions::new())?;
//! let question = Message::new(MessageRole::User, "What is an annulus?");
//! let request = AIRequest::new("loopback", vec![question]);
//!
//! for event in client.stream_completion(&request)? {
//!     if let StreamEvent::Text { text } = event? {
//!         print!("{text}");
//!     }
//! }
//! # Ok::<(), annulus::IpcError>(())
//! ```
//!
//! # How it works
//!
//! ```text
//! options     where to and how; nothing happens yet
//! handshake   connect, pass the region and the doorbells, read the welcome
//! link        one connection without a policy: both ring ends, doorbells, the socket
//! wait        when a waiting client polls, looks around, and parks
//! connection  Connection: exclusive                 pool   ConnectionPool
//! shared      what a Client's clones (shared_client) share: requests by id, credits, the pump
//! stream      answers piece by piece
//! slot        where one request waits               flight one request on its way
//! lead        who parks for everybody               driver who does so for tasks (or tokio)
//! ```
//!
//! A waiting client polls for a while ([`WaitPolicy`]), then parks until the daemon rings. In a
//! [`Client`] one waiting thread leads: it alone polls and parks, and hands the others their frames.
//!
//! The invariant to remember: **nobody waits for ever on a daemon that is gone.** Every wait looks at
//! the connection's socket, within a millisecond while polling and at once while parked; a hang-up
//! ends every request, and so does the daemon's first breach of the protocol. A daemon that is there
//! but slow is waited for, up to the deadline in [`RequestOptions`].
//!
//! A lost connection is not made again behind the caller's back: connect anew.

mod connection;
mod driver;
mod flight;
mod handshake;
mod lead;
mod link;
mod options;
mod pool;
mod shared;
mod shared_client;
mod slot;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio")]
mod tokio;
mod wait;

pub use connection::{Connection, Received};
pub use options::{ConnectOptions, RequestOptions, SOCKET_PATH_VARIABLE, WaitPolicy};
pub use pool::{ConnectionPool, PoolOptions, PoolStats, PooledConnection};
pub use shared_client::Client;
pub use stream::{AsyncCompletionStream, AsyncResponseStream, CompletionStream, ResponseStream};
