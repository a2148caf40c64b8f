//! Requests, in the words and with the oddities of each.

use serde_json::{Value, json};

use crate::dialect::{Dialect, Encoding, Keepsake, Keepsakes, ROWS, testing};
use crate::protocol::{AIRequest, JsonValue, Message, MessageRole, Tool, ToolCall};

/// A call of id `call_1`, found and answered.
struct Asked {
    request: AIRequest,
}

impl Asked {
    fn new() -> Self {
        let mut call = Message::new(MessageRole::Assistant, "");
        call.tool_calls = Some(vec![ToolCall {
            name: "look".into(),
            parameters: JsonValue(json!({"at": 1})),
            id: "call_1".into(),
        }]);
        let user = |text: &str| Message::new(MessageRole::User, text);
        let messages = vec![user("go"), call, user("found"), user("and now?")];
        let mut request = AIRequest::new("p/m", messages);
        request.system_prompt = Some("Be kind.".into());
        request.tools = Some(vec![Tool {
            name: "look".into(),
            description: Some("d".into()),
            parameters: None,
        }]);
        (request.temperature, request.max_tokens) = (Some(1.9), Some(77));
        Self { request }
    }

    fn encode(&self, kind: &str, change: impl FnOnce(&mut Encoding<'_>)) -> (String, Value) {
        let mut encoding = Encoding { model: "m/1", ..testing::encoding(kind) };
        change(&mut encoding);
        let call = encoding.encode(&self.request).unwrap();
        (call.path, serde_json::from_slice(&call.body).unwrap())
    }

    fn body(&self, kind: &str) -> Value {
        self.encode(kind, |_| ()).1
    }
}

#[test]
fn a_request_has_the_words_of_chat_completions() {
    let (path, body) = Asked::new().encode("openai", |_| ());
    assert_eq!(path, "/chat/completions");
    let expected = json!({
        "model": "m/1",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1",
                "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
            {"role": "user", "content": "and now?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "d",
            "parameters": {"type": "object", "properties": {}}}}],
        "max_completion_tokens": 77,
        "temperature": 1.9,
        "stream": true,
        "stream_options": {"include_usage": true, "include_obfuscation": false},
    });
    assert_eq!(body, expected);
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    let mut asked = Asked::new();
    asked.request = AIRequest::new("m", vec![Message::new(MessageRole::User, "hi")]);
    asked.request.tools = Some(Vec::new());
    let body = asked.body("groq");
    let expected = json!({"model": "m/1", "messages": [{"role": "user", "content": "hi"}],
        "stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(body, expected);
    asked.request.temperature = Some(0.5);
    let (_, body) = asked.encode("groq", |encoding| encoding.drop_temperature = true);
    assert_eq!(body, expected);
}

#[test]
fn the_ids_of_a_call_and_its_result_stay_the_same_one() {
    for row in ROWS.iter().filter(|row| row.dialect == Dialect::OpenAi) {
        let body = Asked::new().body(row.kind);
        if row.quirks.drop_params.contains(&"tools") {
            continue;
        }
        let id_of = |role: &str| {
            let messages = body["messages"].as_array().unwrap();
            let message = messages.iter().find(|message| message["role"] == role);
            message.map(|message| message.to_owned())
        };
        let result = id_of("tool").unwrap()["tool_call_id"].clone();
        let messages = body["messages"].as_array().unwrap();
        let call = messages.iter().find_map(|message| message.get("tool_calls")).unwrap();
        assert_eq!(call[0]["id"], result, "{}", row.kind);
        let fit = row.quirks.tool_ids.fit("call_1");
        assert_eq!(result, *fit, "{}", row.kind);
    }
}

#[test]
fn mistral_gets_short_ids_a_bridge_and_a_marked_beginning() {
    let mut asked = Asked::new();
    asked.request.messages.push(Message::new(MessageRole::Assistant, "It is"));
    let body = asked.body("mistral");
    let id = "9gD2Dimct";
    assert_eq!(
        body["messages"].as_array().unwrap()[2..],
        [
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": id,
                "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]}),
            json!({"role": "tool", "tool_call_id": id, "content": "found"}),
            json!({"role": "assistant", "content": "OK."}),
            json!({"role": "user", "content": "and now?"}),
            json!({"role": "assistant", "content": "It is", "prefix": true}),
        ]
    );
    assert_eq!(body.get("stream_options"), None);
    assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(77), &json!(1.5)));
}

#[test]
fn neighbours_of_one_role_are_merged_for_those_who_want_it() {
    let user = |text: &str| Message::new(MessageRole::User, text);
    let mut asked = Asked::new();
    asked.request.messages = vec![user("a"), user("b")];
    for (kind, count) in [("deepseek", 2), ("mistral", 2), ("openai", 3)] {
        assert_eq!(asked.body(kind)["messages"].as_array().unwrap().len(), count, "{kind}");
    }
}

#[test]
fn reasoning_goes_back_with_its_call() {
    struct Kept;
    impl Keepsakes for Kept {
        fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
            let reasoning = Some(format!("{kind} {call_id}"));
            Some(Keepsake { reasoning, ..Keepsake::default() })
        }
    }
    let message = |kind| {
        let (_, body) = Asked::new().encode(kind, |encoding| encoding.keepsakes = &Kept);
        body["messages"][2].clone()
    };
    assert_eq!(message("deepseek")["reasoning_content"], "deepseek call_1");
    assert_eq!(message("openai").get("reasoning_content"), None);
}

#[test]
fn azure_names_the_deployment_in_the_path_with_a_version_and_the_model_in_the_body_without() {
    let (path, body) = Asked::new().encode("azure-openai", |encoding| {
        encoding.api_version = Some("2024-10-21");
    });
    assert_eq!(path, "/openai/deployments/m%2F1/chat/completions?api-version=2024-10-21");
    assert_eq!(body.get("model"), None);
    let (path, body) = Asked::new().encode("azure-openai", |_| ());
    assert_eq!((path.as_str(), &body["model"]), ("/openai/v1/chat/completions", &json!("m/1")));
}

#[test]
fn who_knows_no_tools_gets_calls_as_text() {
    let body = Asked::new().body("perplexity");
    assert_eq!(body.get("tools"), None);
    let expected = "[tool call look({\"at\":1})]";
    assert_eq!(body["messages"][2], json!({"role": "assistant", "content": expected}));
    assert_eq!(body["messages"][3]["content"], "found\n\nand now?");
}
