//! The client library.

mod client;
mod connection;
mod driver;
mod flight;
mod handshake;
mod lead;
mod link;
mod options;
mod shared;
mod slot;
mod stream;
#[cfg(feature = "tokio")]
mod tokio;
mod wait;

pub use client::Client;
pub use connection::{Connection, Received};
pub use options::{ConnectOptions, RequestOptions, SOCKET_PATH_VARIABLE, WaitPolicy};
pub use stream::{AsyncCompletionStream, AsyncResponseStream, CompletionStream, ResponseStream};
