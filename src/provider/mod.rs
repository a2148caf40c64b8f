//! Providers of AI answers, and the handlers that put them behind the message types.
//!
//! A provider turns a request into a stream of events; *complete* is the same stream collected. The
//! stream is dropped the moment that its request is cancelled.

mod breaker;
mod cache;
pub mod key;
mod loopback;
pub mod pool;

pub use breaker::{BreakerCounts, BreakerSettings, BreakerState, CircuitBreaker, Permit, Verdict};
pub use cache::{CacheKey, CacheSettings, Identity, Question, Recording, ResponseCache};
pub use loopback::Loopback;
pub use pool::ProviderPool;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_lite::StreamExt;

use crate::config::{Config, ProviderKind};
use crate::error::IpcError;
use crate::metrics::Metrics;
use crate::protocol::{AIRequest, Completion, StreamEvent, ToolCall};
use crate::wire::MessageType;
use crate::worker::{AsyncHandler, AsyncRequest, AsyncResponder};

/// What a provider's answer consists of: text, reasoning and tool calls, then exactly one end.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<StreamEvent, IpcError>>>>;

/// Someone who answers AI requests.
pub trait Provider: Send + Sync {
    /// Starts an answer. Dropping the stream ends it upstream at once.
    ///
    /// A stream that ends without [`StreamEvent::End`] is an error, never a short answer.
    fn start(&self, request: AIRequest) -> EventStream;
}

/// The configured providers, and which one answers what.
#[derive(Clone)]
pub struct Providers {
    by_name: Arc<BTreeMap<String, Arc<dyn Provider>>>,
    default: Arc<dyn Provider>,
}

impl Providers {
    /// The providers of a configuration.
    ///
    /// # Panics
    ///
    /// When `default_provider` names none of them; loading a configuration checks that.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let by_name: BTreeMap<String, Arc<dyn Provider>> = config
            .providers
            .iter()
            .map(|(name, provider)| {
                let provider: Arc<dyn Provider> = match &provider.kind {
                    ProviderKind::Loopback(settings) => Arc::new(Loopback::new(settings.clone())),
                    ProviderKind::Remote(row, _) => Arc::new(Unreachable { kind: row.kind }),
                };
                (name.clone(), provider)
            })
            .collect();
        let default = Arc::clone(&by_name[&config.default_provider]);
        Self { by_name: Arc::new(by_name), default }
    }

    /// The provider for `model`: the one named before its first `/`, else the default.
    fn find(&self, model: &str) -> &Arc<dyn Provider> {
        model.split_once('/').and_then(|(name, _)| self.by_name.get(name)).unwrap_or(&self.default)
    }

    fn start(&self, request: &AsyncRequest) -> Result<EventStream, IpcError> {
        let decoded = request.codec().decode_request(request.payload())?;
        decoded
            .validate()
            .map_err(|invalid| IpcError::InvalidRequest { detail: invalid.to_string() })?;
        Ok(self.find(&decoded.model).start(decoded))
    }
}

/// A provider on the network, which this daemon does not reach yet.
struct Unreachable {
    kind: &'static str,
}

impl Provider for Unreachable {
    fn start(&self, _request: AIRequest) -> EventStream {
        let detail = format!("this daemon does not reach providers of the kind {} yet", self.kind);
        Box::pin(futures_lite::stream::once(Err(IpcError::ProviderFailed { detail })))
    }
}

/// The handlers that a worker executor with providers has.
pub(crate) fn handlers(
    providers: Providers,
    metrics: Arc<Metrics>,
) -> HashMap<MessageType, Arc<dyn AsyncHandler>> {
    let streaming = providers.clone();
    let stream = move |request, responder| stream(streaming.clone(), request, responder);
    let complete = move |request, responder| complete(providers.clone(), request, responder);
    // Answered here and not on the data shard: a heartbeat shows that the whole way is alive.
    let heartbeat = |_request: AsyncRequest, responder: AsyncResponder| async move {
        responder.reply(&[]).await
    };
    let page = move |_request: AsyncRequest, responder: AsyncResponder| {
        let metrics = Arc::clone(&metrics);
        async move { responder.reply(metrics.export_prometheus().as_bytes()).await }
    };
    let mut handlers: HashMap<MessageType, Arc<dyn AsyncHandler>> = HashMap::new();
    handlers.insert(MessageType::STREAM, Arc::new(stream));
    handlers.insert(MessageType::COMPLETE, Arc::new(complete));
    handlers.insert(MessageType::HEARTBEAT, Arc::new(heartbeat));
    handlers.insert(MessageType::METRICS, Arc::new(page));
    handlers
}

async fn stream(
    providers: Providers,
    request: AsyncRequest,
    responder: AsyncResponder,
) -> Result<(), IpcError> {
    let mut events = providers.start(&request)?;
    let codec = Arc::clone(request.codec());
    // The payload is decoded: its buffer is free for the next request.
    drop(request);
    let mut payload = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        payload.clear();
        codec.encode_stream_event(&event, &mut payload)?;
        if let StreamEvent::End { .. } = event {
            return responder.reply(&payload).await;
        }
        responder.chunk(&payload).await?;
    }
    Err(cut_short())
}

async fn complete(
    providers: Providers,
    request: AsyncRequest,
    responder: AsyncResponder,
) -> Result<(), IpcError> {
    let mut events = providers.start(&request)?;
    let codec = Arc::clone(request.codec());
    drop(request);
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut tool_calls: Vec<ToolCall> = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            StreamEvent::Text { text } => content.push_str(&text),
            StreamEvent::Reasoning { text } => reasoning.push_str(&text),
            StreamEvent::ToolCall { tool_call } => tool_calls.push(tool_call),
            StreamEvent::End { finish_reason, usage, model } => {
                let completion = Completion {
                    content,
                    reasoning: (!reasoning.is_empty()).then_some(reasoning),
                    tool_calls: (!tool_calls.is_empty()).then_some(tool_calls),
                    finish_reason,
                    usage,
                    model,
                };
                let mut payload = Vec::new();
                codec.encode_completion(&completion, &mut payload)?;
                return responder.reply(&payload).await;
            }
        }
    }
    Err(cut_short())
}

fn cut_short() -> IpcError {
    IpcError::ProviderFailed { detail: "the provider's stream ended before its end".into() }
}
