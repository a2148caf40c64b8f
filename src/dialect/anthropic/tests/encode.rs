//! Requests as the vendor wants them.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::dialect::testing::{encoding, row};
use crate::dialect::{Class, Encoding, Failure, Keepsake, Keepsakes, Quirks, Row, ToolIds};
use crate::protocol::AIRequest;

/// The same thoughts for every call whose id is `kept`, of this kind.
struct Kept(Keepsake);

impl Keepsakes for Kept {
    fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
        (kind == "anthropic" && call_id == "kept").then(|| self.0.clone())
    }
}

fn try_encode(encoding: &Encoding<'_>, request: &Value) -> Result<Value, Failure> {
    let request: AIRequest = serde_json::from_value(request.clone()).unwrap();
    let call = encoding.encode(&request)?;
    assert_eq!(call.path, "/messages");
    Ok(serde_json::from_slice(&call.body).unwrap())
}

fn encode(request: Value) -> Value {
    try_encode(&encoding("anthropic"), &request).unwrap()
}

/// The `messages` for these messages, in a request with a tool.
fn messages(messages: Value) -> Value {
    encode(json!({"model": "m", "messages": messages, "tools": [{"name": "look"}]}))["messages"]
        .take()
}

fn text(role: &str, text: &str) -> Value {
    json!({"role": role, "content": [{"type": "text", "text": text}]})
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

fn calling(id: &str, parameters: Value) -> Value {
    let call = json!({"name": "look", "parameters": parameters, "id": id});
    json!({"role": "assistant", "content": "", "toolCalls": [call]})
}

#[test]
fn everything_is_in_its_place() {
    let body = encode(json!({
        "model": "m",
        "systemPrompt": "Be brief.",
        "messages": [said("user", "hi"), said("system", "Be kind.")],
        "temperature": 0.25,
        "maxTokens": 77,
        "tools": [
            {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"at": {}}}},
            {"name": "wait", "description": "", "parameters": {"properties": {}}},
            {"name": "stop"},
        ],
    }));
    assert_eq!(
        body,
        json!({
            "model": "model-1",
            "max_tokens": 77,
            "stream": true,
            "system": "Be brief.\n\nBe kind.",
            "temperature": 0.25,
            "messages": [text("user", "hi")],
            "tools": [
                {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {}}}},
                {"name": "wait", "input_schema": {"type": "object", "properties": {}}},
                {"name": "stop", "input_schema": {"type": "object", "properties": {}}},
            ],
        })
    );
}

#[test]
fn what_is_not_asked_for_is_left_out_but_for_the_bound_that_the_vendor_demands() {
    assert_eq!(
        encode(json!({"model": "m", "systemPrompt": " \n", "messages": [said("user", "hi")]})),
        json!({
            "model": "model-1",
            "max_tokens": 8192,
            "stream": true,
            "messages": [text("user", "hi")],
        })
    );
}

#[test]
fn temperature_is_clamped_and_dropped_where_the_model_refuses_it() {
    let request = json!({"model": "m", "messages": [said("user", "hi")], "temperature": 1.7});
    assert_eq!(encode(request.clone())["temperature"], 1.0);
    let wide = Row { quirks: Quirks::NONE, ..*row("anthropic") };
    let clamped = Encoding { row: &wide, ..encoding("anthropic") };
    assert_eq!(try_encode(&clamped, &request).unwrap()["temperature"], 1.0);
    let dropped = Encoding { drop_temperature: true, ..encoding("anthropic") };
    assert_eq!(try_encode(&dropped, &request).unwrap().get("temperature"), None);
}

#[test]
fn turns_alternate_begin_with_the_user_and_have_something_to_see() {
    for (given, expected) in [
        (
            json!([
                said("user", "a"),
                said("user", "b"),
                said("assistant", "c"),
                said("user", "d")
            ]),
            json!([text("user", "a\n\nb"), text("assistant", "c"), text("user", "d")]),
        ),
        (
            json!([said("assistant", "welcome"), said("user", "a")]),
            json!([text("user", "."), text("assistant", "welcome"), text("user", "a")]),
        ),
        (
            json!([said("user", "a"), said("assistant", " \n"), said("user", "b")]),
            json!([{"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
            ]}]),
        ),
        (
            json!([said("user", "a "), said("assistant", "The answer is: \n ")]),
            json!([text("user", "a "), text("assistant", "The answer is:")]),
        ),
    ] {
        assert_eq!(messages(given.clone()), expected, "{given}");
    }
}

#[test]
fn a_request_of_blanks_is_refused() {
    for content in ["", " \n\t"] {
        let request = json!({"model": "m", "messages": [said("user", content)]});
        assert_eq!(
            try_encode(&encoding("anthropic"), &request).unwrap_err().class,
            Class::BadRequest
        );
    }
}

#[test]
fn a_result_is_the_first_block_after_its_call() {
    assert_eq!(
        messages(json!([
            said("user", "go"),
            calling("toolu_1", json!({"at": 1})),
            said("user", "found"),
            said("user", "and now?"),
            calling("toolu_2", json!([2])),
            said("user", " "),
        ])),
        json!([
            text("user", "go"),
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"},
                {"type": "text", "text": "and now?"},
            ]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {"value": [2]}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_2"}]},
        ])
    );
}

#[test]
fn ids_of_calls_fit_are_unique_and_the_results_have_the_same() {
    let ids = ["call.1/ü", "call_1__", "", "", "a-B_9", "a-B_9", "a-B_9-6"];
    let given: Vec<Value> =
        ids.iter().flat_map(|id| [calling(id, json!({})), said("user", "found")]).collect();
    let messages = messages(given.into());
    let pick = |role: &str, key: &str| -> Vec<String> {
        let messages = messages.as_array().unwrap().iter();
        let blocks = messages.filter(|message| message["role"] == role);
        let blocks = blocks.flat_map(|message| message["content"].as_array().unwrap());
        blocks.filter_map(|block| Some(block.get(key)?.as_str().unwrap().to_owned())).collect()
    };
    let calls = pick("assistant", "id");
    assert_eq!([&calls[1], &calls[4], &calls[6]], ["call_1__", "a-B_9", "a-B_9-6"], "they fit");
    assert!(calls.iter().all(|id| ToolIds::Max(64).fit(id) == *id), "{calls:?}");
    assert_eq!(HashSet::<&String>::from_iter(&calls).len(), ids.len(), "{calls:?}");
    assert_eq!(pick("user", "tool_use_id"), calls);
}

#[test]
fn kept_thoughts_come_before_what_was_said_with_the_call() {
    let kept = Kept(Keepsake { signature: Some("sig".into()), reasoning: Some("hm".into()) });
    let mut call = calling("kept", json!({}));
    call["content"] = "Let me look.".into();
    let request = json!({
        "model": "m",
        "messages": [said("user", "go"), call, said("user", "found")],
        "tools": [{"name": "look"}],
    });
    let tool_use = json!({"type": "tool_use", "id": "kept", "name": "look", "input": {}});
    let said = json!({"type": "text", "text": "Let me look."});
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "sig"});
    let body =
        try_encode(&Encoding { keepsakes: &kept, ..encoding("anthropic") }, &request).unwrap();
    assert_eq!(body["messages"][1]["content"], json!([thought, said, tool_use]));
    // Another kind's row does not get them.
    let other = Row { kind: "gateway", ..*row("anthropic") };
    let encoding = Encoding { row: &other, keepsakes: &kept, ..encoding("anthropic") };
    let body = try_encode(&encoding, &request).unwrap();
    assert_eq!(body["messages"][1]["content"], json!([said, tool_use]));
}
