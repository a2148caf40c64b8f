//! The client library.

mod client;
mod connection;
mod driver;
mod flight;
mod handshake;
mod lead;
mod link;
mod options;
mod pool;
mod shared;
mod slot;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio")]
mod tokio;
mod wait;

pub use client::Client;
pub use connection::{Connection, Received};
pub use options::{ConnectOptions, RequestOptions, SOCKET_PATH_VARIABLE, WaitPolicy};
pub use pool::{ConnectionPool, PoolOptions, PoolStats, PooledConnection};
pub use stream::{AsyncCompletionStream, AsyncResponseStream, CompletionStream, ResponseStream};
