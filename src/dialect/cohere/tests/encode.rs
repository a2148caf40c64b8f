//! Requests as the vendor wants them.

use serde_json::{Value, json};

use crate::dialect::testing::encoding;
use crate::dialect::{Encoding, Keepsake, Keepsakes};
use crate::protocol::AIRequest;

struct Kept;

impl Keepsakes for Kept {
    fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
        let kept = Keepsake { signature: None, reasoning: Some("I will look.".into()) };
        (kind == "cohere" && call_id == "c1").then_some(kept)
    }
}

fn encode(encoding: &Encoding<'_>, request: Value) -> Value {
    let request: AIRequest = serde_json::from_value(request).unwrap();
    let call = encoding.encode(&request).unwrap();
    assert_eq!(call.path, "/v2/chat");
    serde_json::from_slice(&call.body).unwrap()
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

#[test]
fn everything_is_in_its_place() {
    let body = encode(
        &encoding("cohere"),
        json!({
            "model": "m",
            "systemPrompt": "Be brief.",
            "messages": [said("user", "hi"), said("assistant", "ho"), said("user", "well?")],
            "temperature": 1.5,
            "maxTokens": 77,
            "tools": [{"name": "look", "description": "Looks."}],
        }),
    );
    assert_eq!(
        body,
        json!({
            "model": "model-1",
            "stream": true,
            "temperature": 1.0,
            "max_tokens": 77,
            "messages": [
                said("system", "Be brief."),
                said("user", "hi"),
                said("assistant", "ho"),
                said("user", "well?"),
            ],
            "tools": [{"type": "function", "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object", "properties": {}},
            }}],
        })
    );
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    let request = json!({"model": "m", "messages": [said("user", "hi")], "temperature": 0.5});
    let expected = json!({"model": "model-1", "stream": true, "messages": [said("user", "hi")]});
    assert_eq!(
        encode(&Encoding { drop_temperature: true, ..encoding("cohere") }, request),
        expected
    );
}

#[test]
fn a_call_goes_back_with_its_plan_and_its_result() {
    let request = json!({
        "model": "m",
        "messages": [
            said("user", "go"),
            {"role": "assistant", "content": "", "toolCalls": [
                {"name": "look", "parameters": {"at": "Zürich"}, "id": "c1"},
            ]},
            said("user", "found"),
            said("user", "and now?"),
            {"role": "assistant", "content": "Again.", "toolCalls": [
                {"name": "look", "parameters": [1], "id": "c2"},
            ]},
            said("user", ""),
        ],
        "tools": [{"name": "look"}],
    });
    let body = encode(&Encoding { keepsakes: &Kept, ..encoding("cohere") }, request);
    let call = |id: &str, arguments: &str| json!([{"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}}]);
    assert_eq!(
        body["messages"],
        json!([
            said("user", "go"),
            {
                "role": "assistant",
                "tool_plan": "I will look.",
                "tool_calls": call("c1", "{\"at\":\"Zürich\"}"),
            },
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            said("user", "and now?"),
            {"role": "assistant", "content": "Again.", "tool_calls": call("c2", "[1]")},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
        ])
    );
}
