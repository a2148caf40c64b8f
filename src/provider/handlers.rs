//! What a worker executor with providers answers: the AI requests, and what shows that it is alive.

use std::collections::HashMap;
use std::sync::Arc;

use futures_lite::StreamExt;

use super::{EventStream, Provider, ProviderPool};
use crate::error::IpcError;
use crate::metrics::Metrics;
use crate::protocol::{Codec, Completion, StreamEvent, ToolCall};
use crate::wire::MessageType;
use crate::worker::{AsyncHandler, AsyncRequest, AsyncResponder};

/// The handlers that a worker executor with providers has.
pub(crate) fn handlers(
    providers: ProviderPool,
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

/// Begins to answer, and says how to encode the answer. The request's buffer is free for the next one
/// then.
fn start(
    providers: &ProviderPool,
    request: AsyncRequest,
) -> Result<(EventStream, Arc<dyn Codec>), IpcError> {
    let decoded = request.codec().decode_request(request.payload())?;
    decoded
        .validate()
        .map_err(|invalid| IpcError::InvalidRequest { detail: invalid.to_string() })?;
    Ok((providers.start(decoded), Arc::clone(request.codec())))
}

async fn stream(
    providers: ProviderPool,
    request: AsyncRequest,
    responder: AsyncResponder,
) -> Result<(), IpcError> {
    let (mut events, codec) = start(&providers, request)?;
    let mut payload = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        payload.clear();
        codec.encode_stream_event(&event, &mut payload)?;
        if let StreamEvent::End { .. } = event {
            responder.reply(&payload).await?;
            return leave(events).await;
        }
        responder.chunk(&payload).await?;
    }
    Err(cut_short())
}

async fn complete(
    providers: ProviderPool,
    request: AsyncRequest,
    responder: AsyncResponder,
) -> Result<(), IpcError> {
    let (mut events, codec) = start(&providers, request)?;
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
                responder.reply(&payload).await?;
                return leave(events).await;
            }
        }
    }
    Err(cut_short())
}

/// Asks a provider once more after the end: it may have something to put in order, which the client
/// has not waited for.
async fn leave(mut events: EventStream) -> Result<(), IpcError> {
    let _none = events.next().await;
    Ok(())
}

fn cut_short() -> IpcError {
    IpcError::ProviderFailed { detail: "its stream ended before the answer did".into() }
}
