use std::path::Path;

use serde_json::{Value, json};

use super::super::failure::{Class, Failure};
use super::super::row::fnv1a;
use super::super::{Decoder, Encoding, Keepsake, Keepsakes, NoKeepsakes, Row};
use crate::protocol::{
    AIRequest, FinishReason, JsonValue, Message, MessageRole, StreamEvent, Tool, ToolCall, Usage,
};

/// All that comes of a body, in one piece each.
#[derive(Debug, PartialEq, Default)]
struct Decoded {
    text: String,
    reasoning: String,
    /// Name, arguments, id; the id is empty if we made it.
    calls: Vec<(String, Value, String)>,
    end: Option<(FinishReason, Usage, String)>,
    failure: Option<Failure>,
    keepsakes: Vec<(String, Keepsake)>,
    /// How many events there were.
    count: usize,
}

fn run(kind: &str, pieces: &[&[u8]]) -> Decoded {
    let request = AIRequest::new("asked", vec![Message::new(MessageRole::User, "12345678")]);
    let mut decoder = Decoder::new(Row::of(kind).unwrap(), &request);
    let fed = pieces.iter().try_for_each(|piece| decoder.feed(piece));
    let failure = fed.and_then(|()| decoder.finish()).err();
    let mut decoded = Decoded { failure, ..Decoded::default() };
    while let Some(event) = decoder.next_event() {
        decoded.count += 1;
        assert!(decoded.end.is_none(), "nothing comes after the end");
        match event {
            StreamEvent::Text { text } => decoded.text.push_str(&text),
            StreamEvent::Reasoning { text } => decoded.reasoning.push_str(&text),
            StreamEvent::ToolCall { tool_call: ToolCall { name, parameters, id } } => {
                let is_ours = id.len() == 21 && id.starts_with("call_");
                let id = if is_ours { String::new() } else { id };
                decoded.calls.push((name, parameters.0, id));
            }
            StreamEvent::End { finish_reason, usage, model } => {
                decoded.end = Some((finish_reason, usage, model));
            }
        }
    }
    decoded.keepsakes = decoder.take_keepsakes();
    assert_eq!(decoded.end.is_some(), decoded.failure.is_none(), "one or the other");
    decoded
}

/// Decodes the body whole, at every split in two, and byte by byte.
fn decode(kind: &str, body: &str) -> Decoded {
    let bytes = body.as_bytes();
    let whole = run(kind, &[bytes]);
    for split in 0..=bytes.len() {
        assert_eq!(run(kind, &[&bytes[..split], &bytes[split..]]), whole, "at {split}: {body}");
    }
    assert_eq!(run(kind, &bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte: {body}");
    whole
}

/// A stream of these events, ended as it should be.
fn stream(events: &[Value]) -> String {
    let mut body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    body.push_str("data: [DONE]\n\n");
    body
}

fn delta(delta: Value) -> Value {
    json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// Calls in these deltas, then the end.
fn calls(deltas: &[Value]) -> Vec<(String, Value, String)> {
    let mut events: Vec<_> =
        deltas.iter().map(|calls| delta(json!({"tool_calls": calls}))).collect();
    events.push(finish("tool_calls"));
    let decoded = decode("openai", &stream(&events));
    assert_eq!(decoded.failure, None);
    decoded.calls
}

fn called(name: &str, arguments: Value, id: &str) -> (String, Value, String) {
    (name.into(), arguments, id.into())
}

#[test]
fn text_usage_and_the_end_are_read() {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2}});
    let decoded = decode(
        "openai",
        &stream(&[
            json!({"choices": [], "model": "", "prompt_filter_results": [{"a": {"b": 1}}]}),
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"content": "Grüße \"\n"})),
            delta(json!({"content": null})),
            json!({"choices": [{"index": 0, "content_filter_results": {}}]}),
            // The last text and the reason share an event.
            json!({"choices": [{"delta": {"content": "😀"}, "finish_reason": "stop"}], "usage": null}),
            json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
            json!({"choices": [], "usage": usage}),
            json!({"choices": [], "moderation": {}}),
        ]),
    );
    assert_eq!((decoded.text.as_str(), decoded.count), ("Grüße \"\n😀", 3));
    let usage = Usage {
        input_tokens: 9,
        output_tokens: 3,
        total_tokens: 12,
        cached_input_tokens: Some(4),
        reasoning_tokens: Some(2),
        estimated: None,
    };
    assert_eq!(decoded.end, Some((FinishReason::Stop, usage, "m".into())));
}

#[test]
fn every_reason_for_an_end_is_known() {
    for (reason, ours) in [
        ("stop", FinishReason::Stop),
        ("length", FinishReason::Length),
        ("model_length", FinishReason::Length),
        ("tool_calls", FinishReason::ToolCalls),
        ("function_call", FinishReason::ToolCalls),
        ("content_filter", FinishReason::ContentFilter),
        ("sensitive", FinishReason::ContentFilter),
        ("eos", FinishReason::Stop),
    ] {
        let decoded = decode("openai", &stream(&[finish(reason)]));
        let (finish, usage, model) = decoded.end.unwrap();
        assert_eq!(finish, ours, "{reason}");
        assert_eq!(usage, Usage::estimate(8, 0));
        assert_eq!(model, "asked", "nobody said another");
    }
    for (reason, class) in [
        ("error", Class::Server),
        ("network_error", Class::Server),
        ("insufficient_system_resource", Class::Overloaded),
    ] {
        let decoded = decode("mistral", &stream(&[delta(json!({"content": "a"})), finish(reason)]));
        assert_eq!(decoded.failure.unwrap().class, class);
        assert_eq!(decoded.text, "a", "what came before is given");
    }
    // An empty reason is none.
    let decoded = decode("openai", &stream(&[finish("")]));
    assert_eq!(decoded.failure.unwrap().class, Class::Incomplete);
}

#[test]
fn an_answer_is_whole_with_a_reason_and_the_end_of_the_stream_or_body() {
    let text = format!("data: {}\n\n", delta(json!({"content": "a"})));
    let reason = format!("data: {}\n\n", finish("stop"));
    let done = "data: [DONE]\n\n";
    for (body, is_whole) in [
        (format!("{text}{reason}{done}"), true),
        (format!("{text}{reason}"), true),
        // The last event may lack its blank line, and its line end.
        (format!("{text}{}", reason.trim_end()), true),
        (format!("{text}{}", &reason[..reason.len() - 4]), false),
        (text.clone(), false),
        (format!("{text}{done}"), false),
        (done.to_owned(), false),
        (String::new(), false),
    ] {
        let decoded = decode("openai", &body);
        assert_eq!(decoded.failure.is_none(), is_whole, "{body}");
    }
    // One service forgets the reason, but not that it is done.
    assert!(decode("xai", &format!("{text}{done}")).failure.is_none());
    for body in [text.as_str(), done] {
        assert_eq!(decode("xai", body).failure.unwrap().class, Class::Incomplete, "{body}");
    }
    // What comes after the end is not read.
    assert!(decode("openai", &format!("{reason}{done}data: {{broken\n\n")).failure.is_none());
}

#[test]
fn reasoning_is_read_under_each_of_its_names_and_once() {
    for deltas in [
        [json!({"reasoning_content": "Hm"}), json!({"reasoning_content": ".", "content": ""})],
        [json!({"reasoning": "Hm", "content": ""}), json!({"reasoning": ".", "channel": "a"})],
        [
            json!({"reasoning": "Hm.", "reasoning_content": "Hm."}),
            json!({"reasoning": null, "reasoning_content": null, "content": null}),
        ],
        [
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}),
            json!({"content": [{"type": "thinking", "thinking": "."}, {"type": "reference", "ids": [1]}]}),
        ],
    ] {
        let mut events: Vec<_> = deltas.into_iter().map(delta).collect();
        events.push(delta(json!({"content": [{"type": "text", "text": "a"}]})));
        events.push(delta(json!({"content": "b"})));
        events.push(finish("stop"));
        let decoded = decode("openai", &stream(&events));
        assert_eq!((decoded.reasoning.as_str(), decoded.text.as_str()), ("Hm.", "ab"));
    }
}

#[test]
fn tags_are_thoughts_where_the_row_says_so() {
    let pieces = ["<thi", "nk>a</think", ">", "\n\nb", "<think>c"];
    let mut events: Vec<_> = pieces.iter().map(|piece| delta(json!({"content": piece}))).collect();
    events.push(finish("stop"));
    let body = stream(&events);
    let apart = decode("huggingface", &body);
    assert_eq!((apart.reasoning.as_str(), apart.text.as_str()), ("a", "b<think>c"));
    let as_it_is = decode("openai", &body);
    assert_eq!(as_it_is.text, pieces.concat());
    // What might have become a tag is given before the end.
    let cut = decode("vllm", &stream(&[delta(json!({"content": "<thi"})), finish("length")]));
    assert_eq!(cut.text, "<thi");
}

#[test]
fn a_refusal_is_text() {
    let decoded = decode("openai", &stream(&[delta(json!({"refusal": "No."})), finish("stop")]));
    assert_eq!(decoded.text, "No.");
}

#[test]
fn calls_are_put_together_however_their_pieces_are_marked() {
    let look = || called("look", json!({"at": 1}), "a");
    let find = || called("find", json!({"q": "ü"}), "b");
    for deltas in [
        // By index, in pieces, in one event and in turns.
        &[
            json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": ""}},
                   {"index": 1, "id": "b", "function": {"name": "find", "arguments": "{\"q\""}}]),
            json!([{"index": 0, "function": {"arguments": "{\"at\":"}}]),
            json!([{"index": 1, "function": {"arguments": ":\"ü\"}"}}]),
            json!([{"index": 0, "id": null, "function": {"name": null, "arguments": "1}"}}]),
        ][..],
        // Whole.
        &[json!([{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{\"at\":1}"}},
                 {"index": 1, "id": "b", "function": {"name": "find", "arguments": "{\"q\":\"ü\"}"}}])],
        // Whole, all at the same index.
        &[
            json!([{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{\"at\":1}"}}]),
            json!([{"index": 0, "id": "b", "function": {"name": "find", "arguments": "{\"q\":\"ü\"}"}}]),
        ],
        // The arguments as an object.
        &[
            json!([{"index": 0, "id": "a", "function": {"name": "look", "arguments": {"at": 1}}}]),
            json!([{"index": 1, "id": "b", "function": {"name": "find", "arguments": {"q": "ü"}}}]),
        ],
        // By id.
        &[
            json!([{"id": "a", "function": {"name": "look", "arguments": "{"}}]),
            json!([{"id": "b", "function": {"name": "find", "arguments": "{\"q\":"}}]),
            json!([{"id": "b", "function": {"arguments": "\"ü\"}"}},
                   {"id": "a", "function": {"arguments": "\"at\":1}"}}]),
        ],
        // By position: the last one, or the one at the same place.
        &[
            json!([{"id": "a", "function": {"name": "look", "arguments": "{\"at\""}}]),
            json!([{"function": {"arguments": ":1}"}}]),
            json!([{"id": "b", "function": {"name": "find"}}]),
            json!([{"function": {"arguments": "{\"q\":"}}]),
            json!([{"function": {}}, {"function": {"arguments": "\"ü\"}"}}]),
        ],
        // Each piece with another id, which means nothing.
        &[
            json!([{"index": 0, "id": "x", "function": {"name": "look", "arguments": "{\"at\""}}]),
            json!([{"index": 0, "id": "a", "function": {"arguments": ":1}"}}]),
            json!([{"index": 1, "id": "b", "function": {"name": "find", "arguments": "{\"q\":\"ü\"}"}}]),
        ],
    ] {
        assert_eq!(calls(deltas), [look(), find()], "{deltas:?}");
    }
    // Without id and index each name begins a call; no arguments are no arguments.
    let piece = json!([{"function": {"name": "look"}}]);
    let made = called("look", json!({}), "");
    assert_eq!(calls(&[piece.clone(), piece]), [made.clone(), made]);
}

#[test]
fn arguments_that_are_no_json_are_a_failure() {
    let piece = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "n", "arguments": "{"}}]});
    let decoded = decode("openai", &stream(&[delta(piece), finish("tool_calls")]));
    assert_eq!(decoded.failure.unwrap().class, Class::BadStream);
}

#[test]
fn reasoning_is_kept_for_the_call_that_it_led_to() {
    let call = |id: &str| json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": "n", "arguments": "{}"}}]});
    let body = stream(&[
        delta(json!({"reasoning_content": "Let me "})),
        delta(json!({"reasoning_content": "look."})),
        delta(call("a")),
        finish("tool_calls"),
    ]);
    let reasoning = Some("Let me look.".to_owned());
    let kept = Keepsake { reasoning, ..Keepsake::default() };
    assert_eq!(decode("deepseek", &body).keepsakes, [("a".to_owned(), kept)]);
    assert_eq!(decode("groq", &body).keepsakes, []);
}

#[test]
fn usage_is_read_in_everybodys_words_and_the_last_one_counts() {
    let usage = |usages: &[Value]| {
        let mut events = vec![finish("stop")];
        events.extend(usages.iter().map(|usage| json!({"choices": [], "usage": usage})));
        decode("openai", &stream(&events)).end.unwrap().1
    };
    let plain = json!({"prompt_tokens": 5, "completion_tokens": 2});
    assert_eq!(usage(std::slice::from_ref(&plain)).total_tokens, 7);
    assert_eq!(usage(&[plain.clone(), json!(null)]).total_tokens, 7);
    assert_eq!(usage(&[plain.clone(), json!({})]).total_tokens, 7, "nothing said is nothing new");
    let mut moonshot = plain.clone();
    moonshot["cached_tokens"] = 3.into();
    assert_eq!(usage(&[moonshot]).cached_input_tokens, Some(3));
    let mut deepseek = plain.clone();
    deepseek["prompt_cache_hit_tokens"] = 4.into();
    deepseek["prompt_cache_miss_tokens"] = 1.into();
    assert_eq!(usage(&[plain, deepseek]).cached_input_tokens, Some(4));
    // The total counts the reasoning beside the answer.
    let xai = usage(&[json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 17,
        "completion_tokens_details": {"reasoning_tokens": 10}})]);
    assert_eq!((xai.output_tokens, xai.total_tokens), (12, 17));
    let most = u64::MAX;
    let huge = usage(&[json!({"prompt_tokens": most, "completion_tokens": most})]);
    assert_eq!(huge.total_tokens, most);
    // Groq's own place for it.
    let groq = json!({"choices": [{"delta": {}, "finish_reason": "stop"}],
        "x_groq": {"id": "r", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}});
    assert_eq!(decode("groq", &stream(&[groq])).end.unwrap().1.total_tokens, 2);
}

#[test]
fn errors_inside_a_success_are_failures_in_every_shape() {
    let text = format!("data: {}\n\n", delta(json!({"content": "a"})));
    for (error, class) in [
        ("data: {\"error\":{\"code\":502,\"message\":\"m\"}}\n\n", Class::Server),
        (
            "data: {\"id\":\"x\",\"error\":{\"code\":429,\"message\":\"m\"},\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n",
            Class::RateLimited,
        ),
        ("data: {\"error\":\"m: overloaded\",\"model\":5}\n\n", Class::Overloaded),
        (
            "event: error\ndata: {\"error\":{\"message\":\"m\",\"code\":\"tool_use_failed\",\"status_code\":400}}\n\n",
            Class::BadRequest,
        ),
        ("event: error\ndata: m\n\n", Class::Server),
        (
            "data: {\"object\":\"error\",\"message\":\"m\",\"type\":\"rate_limited\",\"code\":1300}\n\n",
            Class::RateLimited,
        ),
        ("data: {\"message\":\"m\",\"code\":\"token_quota_exceeded\"}\n\n", Class::RateLimited),
        ("data: {\"detail\":\"m\"}\n\n", Class::Server),
        // Not even a stream.
        ("{\"error\":\"m: Unexpected endpoint or method.\"}", Class::Server),
        (
            "\n\n{\n  \"error\": {\"message\": \"m\",\n \"type\": \"authentication_error\"}\n}\n",
            Class::Auth,
        ),
    ] {
        let decoded = decode("openrouter", &format!("{text}{error}"));
        let failure = decoded.failure.unwrap();
        assert_eq!(failure.class, class, "{error}");
        assert!(failure.detail.starts_with('m'), "{}", failure.detail);
        assert_eq!((decoded.text.as_str(), failure.status), ("a", None));
    }
    // No error is no error.
    let calm =
        json!({"error": null, "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]});
    assert_eq!(decode("openai", &stream(&[calm])).failure, None);
}

#[test]
fn what_is_no_chunk_is_a_failure_and_what_is_nothing_is_skipped() {
    let end = stream(&[finish("stop")]);
    for event in ["{", "7", "\"a\"", "[1]", "{\"choices\": 7}", "{\"choices\":[{\"delta\":[7]}]}"] {
        let decoded = decode("openai", &format!("data: {event}\n\n{end}"));
        let failure = decoded.failure.expect(event);
        assert_eq!(failure.class, Class::BadStream, "{event}");
    }
    let invalid =
        [&b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n"[..], end.as_bytes()];
    assert_eq!(run("openai", &invalid).failure.unwrap().class, Class::BadStream);
    for event in ["data:\n\n", ": OPENROUTER PROCESSING\n\n", "event: ping\ndata: {}\n\n"] {
        assert_eq!(decode("openai", &format!("{event}{end}")).failure, None, "{event}");
    }
}

#[test]
fn an_answer_that_was_not_streamed_is_read_all_the_same() {
    let body = json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [{
        "index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "a",
            "reasoning_content": "Hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "n", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    let decoded = decode("openai-compatible", &format!("{body:#}"));
    assert_eq!((decoded.text.as_str(), decoded.reasoning.as_str()), ("a", "Hm"));
    assert_eq!(decoded.calls, [called("n", json!({}), "1")]);
    assert_eq!(decoded.end.unwrap().1.total_tokens, 3);
}

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
        let mut encoding = Encoding {
            row: Row::of(kind).unwrap(),
            model: "m/1",
            max_tokens_default: 8192,
            drop_temperature: false,
            context_size: None,
            api_version: None,
            keepsakes: &NoKeepsakes,
        };
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
    for row in super::super::ROWS.iter().filter(|row| row.dialect == super::super::Dialect::OpenAi)
    {
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

/// What a recording has, by a decoder of its own in another language: sizes and FNV-1a of text and
/// reasoning, the end, the tokens (in, out, total, cached, reasoning).
type Recorded = (
    &'static str,
    &'static str,
    (usize, u64),
    (usize, u64),
    Option<(FinishReason, &'static str)>,
    Option<[Option<u64>; 5]>,
);

const NO_TEXT: (usize, u64) = (0, 0xcbf2_9ce4_8422_2325);

const RECORDED: &[Recorded] = &[
    (
        "openai-24.sse",
        "openai",
        (32, 0x00a3_a269_9abd_eb82),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4o-mini-2024-07-18")),
        Some([Some(78), Some(9), Some(87), Some(0), Some(0)]),
    ),
    (
        "openrouter-02.sse",
        "openrouter",
        (90, 0x2eea_4609_9953_b0cb),
        NO_TEXT,
        Some((FinishReason::Stop, "deepseek/deepseek-chat")),
        Some([Some(2317), Some(53), Some(2370), Some(0), Some(0)]),
    ),
    // Ends with an error after its reason.
    ("openrouter-04.sse", "openrouter", NO_TEXT, (42, 0xb052_a904_dca1_c348), None, None),
    (
        "openrouter-06.sse",
        "openrouter",
        (9, 0x41e9_31da_82c3_78e5),
        (51, 0xf600_84c9_3ba9_9b36),
        Some((FinishReason::Stop, "anthropic/claude-sonnet-4.5")),
        Some([Some(43), Some(36), Some(79), Some(0), Some(13)]),
    ),
    (
        "mistral-00.sse",
        "mistral",
        (607, 0x1993_c76f_eaa2_6def),
        (421, 0x3c70_29e3_60e6_01e7),
        Some((FinishReason::Stop, "magistral-medium-latest")),
        Some([Some(10), Some(232), Some(242), None, None]),
    ),
    // Ends with an error, and without `[DONE]`.
    ("groq-00.sse", "groq", (5, 0x531a_b7a4_be7b_f10b), (361, 0x90a1_6561_1081_a135), None, None),
    (
        "groq-02.sse",
        "groq",
        (202, 0x2621_5d2e_ddc7_a9d6),
        (6304, 0xf6f8_1c2d_45a7_aa35),
        Some((FinishReason::Stop, "groq/compound")),
        Some([Some(5003), Some(359), Some(5362), None, None]),
    ),
    (
        "groq-04.sse",
        "groq",
        NO_TEXT,
        (92, 0xcd77_06c3_844b_9232),
        Some((FinishReason::ToolCalls, "openai/gpt-oss-120b")),
        Some([Some(304), Some(49), Some(353), None, Some(23)]),
    ),
    (
        "zai-00.sse",
        "zai",
        (1, 0xaf63_a94c_8601_95e3),
        (2173, 0xec96_0c86_d250_74e3),
        Some((FinishReason::Stop, "glm-4.7")),
        Some([Some(13), Some(564), Some(577), Some(0), Some(561)]),
    ),
    (
        "huggingface-00.sse",
        "huggingface",
        (2580, 0x97af_87fe_1ebf_9988),
        (1430, 0x9d81_789b_007b_b53a),
        Some((FinishReason::Stop, "deepseek-ai/DeepSeek-R1")),
        Some([Some(10), Some(955), Some(965), Some(0), None]),
    ),
    (
        "genai-aihubmix-chat_stream-000.body",
        "openai-compatible",
        (6, 0x9224_f7e0_7c59_f23f),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4o-mini-2024-07-18")),
        Some([Some(15), Some(3), Some(18), Some(0), Some(0)]),
    ),
    (
        "genai-github_copilot-simple_stream-000.body",
        "openai-compatible",
        (138, 0x81ca_781c_f6b1_621e),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4.1-mini-2025-04-14")),
        None,
    ),
    // Not streamed.
    (
        "genai-opencode_go-openai_chat-000.body",
        "openai-compatible",
        (5, 0x63f0_bfac_f2c0_0f6b),
        (316, 0xe2f9_a572_f905_5b3c),
        Some((FinishReason::Stop, "frank/GLM-5.1")),
        Some([Some(10), Some(79), Some(89), Some(0), None]),
    ),
];

#[test]
fn recordings_are_decoded_as_a_decoder_of_another_make_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recorded");
    for (file, kind, text, reasoning, end, usage) in RECORDED {
        let Ok(body) = std::fs::read(folder.join(file)) else {
            println!("skipped: there is no recording {file} at {}", folder.display());
            continue;
        };
        let decoded = run(kind, &[&body]);
        let size_and_hash = |text: &str| (text.len(), fnv1a(text));
        assert_eq!(size_and_hash(&decoded.text), *text, "{file}: {}", decoded.text);
        assert_eq!(size_and_hash(&decoded.reasoning), *reasoning, "{file}");
        let calls = match *file {
            "groq-04.sse" => vec![called(
                "get_something_by_name",
                json!({"name": "example"}),
                "fc_bfb39741-3748-4def-9886-a93fc9c64a90",
            )],
            _ => Vec::new(),
        };
        assert_eq!(decoded.calls, calls, "{file}");
        match (&decoded.end, end) {
            (Some((finish, cost, model)), Some((expected, expected_model))) => {
                assert_eq!((finish, model.as_str()), (expected, *expected_model), "{file}");
                assert_eq!(cost.estimated.is_none(), usage.is_some(), "{file}");
                if let Some(usage) = usage {
                    let counts = [cost.input_tokens, cost.output_tokens, cost.total_tokens];
                    let counts = counts.map(Some);
                    assert_eq!(counts[..], usage[..3], "{file}");
                    assert_eq!(
                        [cost.cached_input_tokens, cost.reasoning_tokens][..],
                        usage[3..],
                        "{file}"
                    );
                }
            }
            (None, None) => {
                assert_eq!(decoded.failure.as_ref().unwrap().class, Class::BadRequest, "{file}");
            }
            other => panic!("{file}: {other:?} {:?}", decoded.failure),
        }
        // The whole body at every split takes minutes for the large ones: some, and small pieces.
        let step = (body.len() / 16).max(1);
        for split in (0..body.len()).step_by(step) {
            assert_eq!(run(kind, &[&body[..split], &body[split..]]), decoded, "{file} at {split}");
        }
        assert_eq!(run(kind, &body.chunks(7).collect::<Vec<_>>()), decoded, "{file}");
        // Cut anywhere before the reason for its end, no recording is a whole answer.
        let reason = b"\"finish_reason\":\"";
        let at = body.windows(reason.len()).position(|window| window == reason);
        for split in (0..at.unwrap_or(body.len())).step_by(step) {
            assert!(run(kind, &[&body[..split]]).failure.is_some(), "{file} cut at {split}");
        }
    }
}
