//! A request into Converse's words.
//!
//! Converse is strict: the user begins, the sides take turns, no text is blank, and a call's id fits
//! a pattern and is there once. What a conversation lacks of that is mended here.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::dialect::conversation::{Block, Role, Turn};
use crate::dialect::encode::{CallIds, Encoding, as_object, escaped, object_schema};
use crate::dialect::failure::{Class, Failure};
use crate::protocol::{AIRequest, Tool};

/// What the user says in a conversation that the assistant began.
const OPENING: &str = ".";
/// What a tool says that gave nothing.
const EMPTY_RESULT: &str = "(empty)";

pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let conversation = encoding.conversation(request)?;
    let mut body = Map::new();
    body.insert("messages".into(), messages(encoding, conversation.turns)?);
    if !conversation.system.trim().is_empty() {
        body.insert("system".into(), json!([{ "text": conversation.system }]));
    }
    let mut inference = Map::new();
    if let Some(max_tokens) = request.max_tokens {
        inference.insert("maxTokens".into(), max_tokens.into());
    }
    if let Some(temperature) = encoding.temperature(request) {
        inference.insert("temperature".into(), temperature.into());
    }
    if !inference.is_empty() {
        body.insert("inferenceConfig".into(), inference.into());
    }
    if !conversation.tools.is_empty() {
        let tools: Vec<Value> = conversation.tools.iter().map(tool).collect();
        body.insert("toolConfig".into(), json!({ "tools": tools }));
    }
    Ok((format!("/model/{}/converse-stream", segment(encoding.model)?), body.into()))
}

/// The turns, with a user's first, without blank texts, and no two of one side in a row.
fn messages(encoding: &Encoding<'_>, mut turns: Vec<Turn<'_>>) -> Result<Value, Failure> {
    // Several models refuse a beginning of the answer that ends in blanks.
    if let Some(Turn { role: Role::Assistant, blocks }) = turns.last_mut()
        && let Some(Block::Text(text)) = blocks.last_mut()
    {
        *text = Cow::Owned(text.trim_end().to_owned());
    }
    let mut ids = CallIds::new(encoding.row.quirks.tool_ids);
    let mut sides: Vec<(Role, Vec<Value>)> = Vec::new();
    for Turn { role, blocks } in turns {
        let blocks = blocks_of(encoding, &mut ids, &blocks);
        match sides.last_mut() {
            _ if blocks.is_empty() => {}
            Some((last, before)) if *last == role => before.extend(blocks),
            _ => sides.push((role, blocks)),
        }
    }
    match sides.first() {
        None => {
            return Err(Failure::new(
                Class::BadRequest,
                "the request has no message that is not blank: add a user message",
            ));
        }
        Some((Role::Assistant, _)) => {
            sides.insert(0, (Role::User, vec![json!({ "text": OPENING })]));
        }
        Some((Role::User, _)) => {}
    }
    let message = |(role, content)| match role {
        Role::User => json!({ "role": "user", "content": Value::Array(content) }),
        Role::Assistant => json!({ "role": "assistant", "content": Value::Array(content) }),
    };
    Ok(sides.into_iter().map(message).collect())
}

/// A turn's blocks.
fn blocks_of(encoding: &Encoding<'_>, ids: &mut CallIds, blocks: &[Block<'_>]) -> Vec<Value> {
    let mut written = Vec::with_capacity(blocks.len());
    for block in blocks {
        match block {
            Block::Text(text) if text.trim().is_empty() => {}
            Block::Text(text) => written.push(json!({ "text": text })),
            Block::Call(call) => {
                // A message that calls a tool begins with the reasoning that led there.
                written.splice(0..0, reasoning(encoding, &call.id));
                written.push(json!({ "toolUse": {
                    "toolUseId": ids.begin(&call.id),
                    "name": call.name,
                    "input": as_object(&call.parameters.0),
                }}));
            }
            Block::Result { text, .. } => {
                let text = if text.trim().is_empty() { EMPTY_RESULT } else { text };
                written.push(json!({ "toolResult": {
                    "toolUseId": ids.latest(),
                    "content": [{ "text": text }],
                }}));
            }
        }
    }
    written
}

/// The reasoning that was kept for the call of this id, if it is signed.
fn reasoning(encoding: &Encoding<'_>, call_id: &str) -> Option<Value> {
    let kept = encoding.keepsakes.find(encoding.row.kind, call_id)?;
    let (text, signature) = (kept.reasoning?, kept.signature?);
    let signed = json!({ "text": text, "signature": signature });
    Some(json!({ "reasoningContent": { "reasoningText": signed } }))
}

fn tool(tool: &Tool) -> Value {
    let mut spec = Map::new();
    spec.insert("name".into(), tool.name.as_str().into());
    if let Some(description) = tool.description.as_deref().filter(|text| !text.trim().is_empty()) {
        spec.insert("description".into(), description.into());
    }
    spec.insert("inputSchema".into(), json!({ "json": object_schema(tool) }));
    json!({ "toolSpec": spec })
}

/// The model's id or ARN as one segment of a path.
fn segment(model: &str) -> Result<String, Failure> {
    // Such a segment would name another path.
    if matches!(model, "" | "." | "..") {
        return Err(Failure::new(Class::BadRequest, "the model has no name"));
    }
    Ok(escaped(model))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::dialect::encode::{Keepsakes, NoKeepsakes};
    use crate::dialect::{Keepsake, ToolIds, testing};
    use crate::protocol::{JsonValue, Message, MessageRole, ToolCall};

    fn user(text: &str) -> Message {
        Message::new(MessageRole::User, text)
    }

    fn assistant(text: &str) -> Message {
        Message::new(MessageRole::Assistant, text)
    }

    fn calling(id: &str, parameters: Value) -> Message {
        let mut message = assistant("");
        let parameters = JsonValue(parameters);
        message.tool_calls =
            Some(vec![ToolCall { name: "look".into(), parameters, id: id.into() }]);
        message
    }

    fn look(description: Option<&str>, parameters: Option<Value>) -> Tool {
        Tool {
            name: "look".into(),
            description: description.map(str::to_owned),
            parameters: parameters.map(JsonValue),
        }
    }

    fn encoding<'a>(model: &'a str, keepsakes: &'a dyn Keepsakes) -> Encoding<'a> {
        Encoding { model, keepsakes, ..testing::encoding("bedrock") }
    }

    fn encoded(request: &AIRequest) -> Value {
        encode(&encoding("m", &NoKeepsakes), request).unwrap().1
    }

    fn messages_of(messages: Vec<Message>) -> Value {
        encoded(&AIRequest::new("m", messages))["messages"].take()
    }

    #[test]
    fn the_model_is_one_segment_of_the_path() {
        let request = AIRequest::new("m", vec![user("hi")]);
        for (model, path) in [
            ("amazon.nova-micro-v1:0", "/model/amazon.nova-micro-v1%3A0/converse-stream"),
            (
                "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
                "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2F\
                 us.amazon.nova-lite-v1%3A0/converse-stream",
            ),
            ("../a?b#c%d ü", "/model/..%2Fa%3Fb%23c%25d%20%C3%BC/converse-stream"),
        ] {
            assert_eq!(encode(&encoding(model, &NoKeepsakes), &request).unwrap().0, path);
        }
        for model in ["", ".", ".."] {
            let failure = encode(&encoding(model, &NoKeepsakes), &request).unwrap_err();
            assert_eq!(failure.class, Class::BadRequest);
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let request = AIRequest::new("m", vec![user("hi")]);
        let content = json!([{ "role": "user", "content": [{ "text": "hi" }] }]);
        assert_eq!(encoded(&request), json!({ "messages": content }));
    }

    #[test]
    fn system_limits_and_tools_have_their_places() {
        let mut request = AIRequest::new("m", vec![user("hi")]);
        request.system_prompt = Some("be brief".into());
        request.max_tokens = Some(7);
        request.temperature = Some(1.5);
        let properties = json!({ "properties": { "at": { "type": "string" } } });
        request.tools = Some(vec![look(Some("Looks."), Some(properties)), look(Some(" "), None)]);
        let mut body = encoded(&request);
        body["messages"].take();
        assert_eq!(
            body,
            json!({
                "messages": null,
                "system": [{ "text": "be brief" }],
                "inferenceConfig": { "maxTokens": 7, "temperature": 1.0 },
                "toolConfig": { "tools": [
                    { "toolSpec": {
                        "name": "look",
                        "description": "Looks.",
                        "inputSchema": { "json": {
                            "type": "object", "properties": { "at": { "type": "string" } },
                        }},
                    }},
                    { "toolSpec": {
                        "name": "look",
                        "inputSchema": { "json": { "type": "object", "properties": {} } },
                    }},
                ]},
            })
        );
    }

    #[test]
    fn the_sides_take_turns_and_the_user_begins() {
        let both = json!([
            { "role": "user", "content": [{ "text": OPENING }] },
            { "role": "assistant", "content": [{ "text": "hello" }] },
            { "role": "user", "content": [{ "text": "a" }, { "text": "b" }] },
        ]);
        assert_eq!(
            messages_of(vec![assistant("hello"), user("a"), assistant(" \n"), user("b")]),
            both
        );
    }

    #[test]
    fn the_beginning_of_an_answer_does_not_end_in_blanks() {
        let messages = messages_of(vec![user("go"), assistant("Once ")]);
        assert_eq!(messages[1]["content"], json!([{ "text": "Once" }]));
        let messages = messages_of(vec![user("go"), assistant(" ")]);
        assert_eq!(messages.as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_request_of_blanks_is_refused() {
        for messages in [vec![user(" \n")], vec![user("")], vec![]] {
            let request = AIRequest::new("m", messages);
            let failure = encode(&encoding("m", &NoKeepsakes), &request).unwrap_err();
            assert_eq!(failure.class, Class::BadRequest);
        }
    }

    #[test]
    fn calls_and_results_share_an_id_that_bedrock_takes() {
        let long = "x".repeat(65);
        let ids = ["tooluse_1-A", "a.b", "a:b", "", long.as_str(), "a.b", "tooluse_1-A"];
        let (mut messages, mut sent) = (vec![user("go")], Vec::new());
        for id in ids {
            messages.extend([calling(id, json!([1])), user("\n")]);
        }
        let mut request = AIRequest::new("m", messages);
        request.tools = Some(vec![look(None, None)]);
        let body = encoded(&request);
        for pair in body["messages"].as_array().unwrap()[1..].chunks(2) {
            let call = &pair[0]["content"][0]["toolUse"];
            assert_eq!(call["input"], json!({ "value": [1] }));
            let result = &pair[1]["content"][0]["toolResult"];
            assert_eq!(result["content"], json!([{ "text": EMPTY_RESULT }]));
            assert_eq!(call["toolUseId"], result["toolUseId"]);
            sent.push(call["toolUseId"].as_str().unwrap());
        }
        assert_eq!((sent.len(), sent[0]), (ids.len(), "tooluse_1-A"));
        for id in &sent {
            assert_eq!(ToolIds::Max(64).fit(id), *id, "it fits");
        }
        let different: HashSet<_> = sent.iter().collect();
        assert_eq!(different.len(), sent.len(), "{sent:?}");
    }

    #[test]
    fn calls_without_tools_become_text() {
        let request = AIRequest::new("m", vec![user("go"), calling("1", json!({})), user("found")]);
        let body = encoded(&request);
        assert_eq!(body["messages"][1]["content"], json!([{ "text": "[tool call look({})]" }]));
        assert!(body.get("toolConfig").is_none());
    }

    #[test]
    fn signed_reasoning_goes_back_before_its_call() {
        struct Kept(Option<&'static str>);
        impl Keepsakes for Kept {
            fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
                assert_eq!((kind, call_id), ("bedrock", "1"));
                let signature = self.0.map(str::to_owned);
                Some(Keepsake { signature, reasoning: Some("hm".into()) })
            }
        }
        let mut request = AIRequest::new("m", vec![user("go"), calling("1", json!({})), user("x")]);
        request.tools = Some(vec![look(None, None)]);
        let first = |kept: &Kept| {
            let body = encode(&encoding("m", kept), &request).unwrap().1;
            body["messages"][1]["content"][0].clone()
        };
        let signed = json!({ "reasoningText": { "text": "hm", "signature": "s" } });
        assert_eq!(first(&Kept(Some("s"))), json!({ "reasoningContent": signed }));
        assert!(first(&Kept(None)).get("toolUse").is_some());
    }
}
