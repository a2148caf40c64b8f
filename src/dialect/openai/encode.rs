//! A request in the words of chat completions.

use serde_json::{Map, Value, json};

use crate::dialect::conversation::{Conversation, Role, Turn};
use crate::dialect::encode::{Encoding, escaped, function};
use crate::dialect::failure::Failure;
use crate::dialect::row::UrlForm;
use crate::protocol::{AIRequest, ToolCall};

/// What the assistant says between a tool's result and the user, where a service demands that it
/// says something. A model reads it: short, and true whatever the result was.
const BRIDGE: &str = "OK.";

/// The path, and the body.
pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let quirks = &encoding.row.quirks;
    // Without tools the conversation has no calls either.
    let without_tools;
    let request = if quirks.drop_params.contains(&"tools") && request.tools.is_some() {
        without_tools = AIRequest { tools: None, ..request.clone() };
        &without_tools
    } else {
        request
    };
    let conversation = encoding.conversation(request)?;
    let (path, names_model) = path(encoding);
    let mut body = Map::new();
    if !names_model {
        body.insert("model".into(), encoding.model.into());
    }
    body.insert("messages".into(), messages(encoding, &conversation).into());
    if !conversation.tools.is_empty() {
        body.insert("tools".into(), conversation.tools.iter().map(function).collect());
    }
    if let Some(max_tokens) = request.max_tokens {
        body.insert(quirks.max_tokens_key.into(), max_tokens.into());
    }
    if let Some(temperature) = encoding.temperature(request) {
        body.insert("temperature".into(), temperature.into());
    }
    body.insert("stream".into(), true.into());
    if quirks.stream_usage {
        let mut options = json!({"include_usage": true});
        if quirks.pads_events {
            options["include_obfuscation"] = false.into();
        }
        body.insert("stream_options".into(), options);
    }
    for key in quirks.drop_params {
        body.remove(*key);
    }
    Ok((path, body.into()))
}

/// The path, and whether it names the model.
fn path(encoding: &Encoding<'_>) -> (String, bool) {
    match (encoding.row.quirks.url_form, encoding.api_version) {
        (UrlForm::Plain, _) => ("/chat/completions".into(), false),
        (UrlForm::AzureDeployment, None) => ("/openai/v1/chat/completions".into(), false),
        (UrlForm::AzureDeployment, Some(version)) => {
            let (model, version) = (escaped(encoding.model), escaped(version));
            let path =
                format!("/openai/deployments/{model}/chat/completions?api-version={version}");
            (path, true)
        }
    }
}

fn messages(encoding: &Encoding<'_>, conversation: &Conversation<'_>) -> Vec<Value> {
    let quirks = &encoding.row.quirks;
    let mut messages = Vec::new();
    if !conversation.system.is_empty() {
        messages.push(json!({"role": "system", "content": conversation.system}));
    }
    for turn in &conversation.turns {
        if turn.role == Role::Assistant {
            messages.push(assistant(encoding, turn));
            continue;
        }
        for (call, text) in turn.results() {
            let id = quirks.tool_ids.fit(&call.id);
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
        }
        if let Some(text) = turn.text() {
            let follows_tool = messages.last().is_some_and(|last| last["role"] == "tool");
            if quirks.bridge_tool_user && follows_tool {
                messages.push(json!({"role": "assistant", "content": BRIDGE}));
            }
            messages.push(json!({"role": "user", "content": text}));
        }
    }
    match messages.last_mut() {
        Some(last) if quirks.marks_prefix && last["role"] == "assistant" => {
            last["prefix"] = true.into();
        }
        _ => {}
    }
    messages
}

fn assistant(encoding: &Encoding<'_>, turn: &Turn<'_>) -> Value {
    let mut message = json!({"role": "assistant", "content": turn.text()});
    let calls: Vec<Value> = turn.calls().map(|call| tool_call(encoding, call)).collect();
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    if encoding.row.quirks.send_back_reasoning {
        let kept = |call: &ToolCall| encoding.keepsakes.find(encoding.row.kind, &call.id);
        if let Some(reasoning) = turn.calls().find_map(|call| kept(call)?.reasoning) {
            message["reasoning_content"] = reasoning.into();
        }
    }
    message
}

fn tool_call(encoding: &Encoding<'_>, call: &ToolCall) -> Value {
    json!({
        "id": encoding.row.quirks.tool_ids.fit(&call.id),
        "type": "function",
        // The arguments are text that is JSON.
        "function": {"name": call.name, "arguments": call.parameters.0.to_string()},
    })
}
