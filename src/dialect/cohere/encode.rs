//! A request in the vendor's words.

use serde_json::{Map, Value, json};

use crate::dialect::conversation::{Conversation, Role, Turn};
use crate::dialect::encode::{Encoding, function};
use crate::dialect::failure::Failure;
use crate::protocol::{AIRequest, ToolCall};

/// The path and the body for `POST {base}/v2/chat`.
pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let conversation = encoding.conversation(request)?;
    let mut body = Map::new();
    body.insert("model".into(), encoding.model.into());
    body.insert("stream".into(), true.into());
    if let Some(max_tokens) = request.max_tokens {
        body.insert("max_tokens".into(), max_tokens.into());
    }
    if let Some(temperature) = encoding.temperature(request) {
        body.insert("temperature".into(), temperature.into());
    }
    if !conversation.tools.is_empty() {
        body.insert("tools".into(), conversation.tools.iter().map(function).collect());
    }
    body.insert("messages".into(), messages(encoding, &conversation).into());
    Ok(("/v2/chat".into(), body.into()))
}

fn messages(encoding: &Encoding<'_>, conversation: &Conversation<'_>) -> Vec<Value> {
    let mut messages = Vec::new();
    if !conversation.system.is_empty() {
        messages.push(json!({"role": "system", "content": conversation.system}));
    }
    for turn in &conversation.turns {
        match turn.role {
            Role::User => {
                for (call, text) in turn.results() {
                    messages
                        .push(json!({"role": "tool", "tool_call_id": call.id, "content": text}));
                }
                if let Some(text) = turn.text() {
                    messages.push(json!({"role": "user", "content": text}));
                }
            }
            Role::Assistant => messages.push(assistant(encoding, turn)),
        }
    }
    messages
}

fn assistant(encoding: &Encoding<'_>, turn: &Turn<'_>) -> Value {
    let mut message = json!({"role": "assistant"});
    if let Some(text) = turn.text() {
        message["content"] = text.into();
    }
    let calls: Vec<Value> = turn.calls().map(call).collect();
    if !calls.is_empty() {
        let kept = |call: &ToolCall| encoding.keepsakes.find(encoding.row.kind, &call.id);
        if let Some(plan) = turn.calls().find_map(|call| kept(call)?.reasoning) {
            message["tool_plan"] = plan.into();
        }
        message["tool_calls"] = calls.into();
    }
    message
}

fn call(call: &ToolCall) -> Value {
    // The vendor wants JSON in a string.
    let arguments = call.parameters.0.to_string();
    let function = json!({"name": call.name, "arguments": arguments});
    json!({"id": call.id, "type": "function", "function": function})
}
