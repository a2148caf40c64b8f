//! Providers of AI answers, and the handlers that put them behind the message types.
//!
//! ```text
//! handlers   complete, stream, heartbeat, metrics: what the http shard answers
//! pool       ProviderPool: who answers a request, and who else when the first does not
//! breaker    CircuitBreaker                cache     ResponseCache
//! network    the pool's way out: HTTP, keys, signatures, as the configuration has them
//! loopback   the provider that needs no network     key   where keys come from
//! probe      Probe: an endpoint's list of models, without a daemon
//! ```
//!
//! A provider turns a request into a stream of events; *complete* is the same stream collected. The
//! stream is dropped the moment that its request is cancelled.

mod breaker;
mod cache;
mod handlers;
pub mod key;
mod loopback;
mod network;
pub mod pool;
pub mod probe;

pub(crate) use handlers::handlers;

pub use breaker::{BreakerCounts, BreakerSettings, BreakerState, CircuitBreaker, Permit, Verdict};
pub use cache::{CacheKey, CacheSettings, Identity, Question, Recording, ResponseCache};
pub use loopback::Loopback;
pub use pool::ProviderPool;

use std::pin::Pin;

use futures_core::Stream;

use crate::error::IpcError;
use crate::protocol::{AIRequest, StreamEvent};

/// What a provider's answer consists of: text, reasoning and tool calls, then exactly one end.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<StreamEvent, IpcError>>>>;

/// Someone who answers AI requests.
pub trait Provider: Send + Sync {
    /// Starts an answer. Dropping the stream ends it upstream at once.
    ///
    /// A stream that ends without [`StreamEvent::End`] is an error, never a short answer.
    fn start(&self, request: AIRequest) -> EventStream;
}
