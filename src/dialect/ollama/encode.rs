//! A request in its words.

use serde_json::{Map, Value, json};

use crate::dialect::conversation::{Conversation, Role, Turn};
use crate::dialect::encode::{Encoding, as_object, function};
use crate::dialect::failure::Failure;
use crate::protocol::{AIRequest, ToolCall};

/// Path and body.
pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let conversation = encoding.conversation(request)?;
    let mut body = Map::new();
    body.insert("model".into(), encoding.model.into());
    body.insert("messages".into(), messages(&conversation).into());
    // Its own default, but said: old servers and gateways differ.
    body.insert("stream".into(), true.into());
    if !conversation.tools.is_empty() {
        body.insert("tools".into(), conversation.tools.iter().map(function).collect());
    }
    let mut options = Map::new();
    if let Some(temperature) = encoding.temperature(request) {
        options.insert("temperature".into(), temperature.into());
    }
    if let Some(tokens) = request.max_tokens {
        options.insert("num_predict".into(), tokens.into());
    }
    // Without it a small default cuts prompts, and says nothing.
    if let Some(size) = encoding.context_size {
        options.insert("num_ctx".into(), size.into());
    }
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    Ok(("/api/chat".into(), body.into()))
}

fn messages(conversation: &Conversation<'_>) -> Vec<Value> {
    let mut messages = Vec::new();
    if !conversation.system.is_empty() {
        messages.push(json!({"role": "system", "content": conversation.system}));
    }
    for turn in &conversation.turns {
        for (call, text) in turn.results() {
            messages.push(json!({"role": "tool", "content": text, "tool_name": call.name}));
        }
        messages.extend(said(turn));
    }
    messages
}

/// What a turn says besides the results in it.
fn said(turn: &Turn<'_>) -> Option<Value> {
    let text = turn.text();
    let calls: Vec<Value> = turn.calls().map(call).collect();
    if text.is_none() && calls.is_empty() {
        return None;
    }
    let role = match turn.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let mut message = json!({"role": role, "content": text.unwrap_or_default()});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Some(message)
}

/// A call, without its id: a result names its tool.
fn call(call: &ToolCall) -> Value {
    json!({"function": {"name": call.name, "arguments": as_object(&call.parameters.0)}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::failure::Class;
    use crate::dialect::testing::encoding;
    use crate::protocol::{JsonValue, Message, MessageRole, Tool};

    fn body_with(context_size: Option<u32>, request: &AIRequest) -> Result<Value, Failure> {
        let encoding = Encoding { context_size, ..encoding("ollama") };
        let (path, body) = encode(&encoding, request)?;
        assert_eq!(path, "/api/chat");
        Ok(body)
    }

    fn user(text: &str) -> Message {
        Message::new(MessageRole::User, text)
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for_but_the_streaming() {
        let request = AIRequest::new("m", vec![user("hi")]);
        assert_eq!(
            body_with(None, &request).unwrap(),
            json!({
                "model": "model-1",
                "messages": [{"role": "user", "content": "hi"}],
                "stream": true,
            })
        );
    }

    #[test]
    fn everything_has_its_place() {
        let mut request = AIRequest::new("m", vec![user("hi")]);
        request.stream = Some(false);
        request.system_prompt = Some("be brief".into());
        request.temperature = Some(0.5);
        request.max_tokens = Some(7);
        let parameters = json!({"type": "object", "properties": {"at": {"type": "string"}}});
        request.tools = Some(vec![
            Tool { name: "list".into(), description: None, parameters: None },
            Tool {
                name: "look".into(),
                description: Some("Looks.".into()),
                parameters: Some(JsonValue(parameters.clone())),
            },
        ]);
        assert_eq!(
            body_with(Some(32768), &request).unwrap(),
            json!({
                "model": "model-1",
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": "hi"},
                ],
                "stream": true,
                "tools": [
                    {"type": "function", "function": {
                        "name": "list",
                        "parameters": {"type": "object", "properties": {}},
                    }},
                    {"type": "function", "function": {
                        "name": "look",
                        "description": "Looks.",
                        "parameters": parameters,
                    }},
                ],
                "options": {"temperature": 0.5, "num_predict": 7, "num_ctx": 32768},
            })
        );
    }

    #[test]
    fn calls_and_results_are_messages_of_their_own() {
        let mut calling = Message::new(MessageRole::Assistant, "");
        let parameters = JsonValue(json!("Köln"));
        calling.tool_calls =
            Some(vec![ToolCall { name: "look".into(), parameters, id: "a".into() }]);
        let mut request =
            AIRequest::new("m", vec![user("go"), calling, user("found"), user("and now?")]);
        request.tools =
            Some(vec![Tool { name: "look".into(), description: None, parameters: None }]);
        assert_eq!(
            body_with(None, &request).unwrap()["messages"],
            json!([
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"function": {"name": "look", "arguments": {"value": "Köln"}}},
                ]},
                {"role": "tool", "content": "found", "tool_name": "look"},
                {"role": "user", "content": "and now?"},
            ])
        );
    }

    #[test]
    fn a_request_without_turns_is_refused() {
        let failure = body_with(None, &AIRequest::new("m", vec![user("")])).unwrap_err();
        assert_eq!(failure.class, Class::BadRequest);
    }
}
