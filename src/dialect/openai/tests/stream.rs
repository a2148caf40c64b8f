//! Streams, made for what they show.

use serde_json::{Value, json};

use crate::dialect::testing::{Outcome, at_every_split, cut_everywhere, damaged, decode, end_of};
use crate::dialect::{Class, Keepsake};
use crate::protocol::{FinishReason, Usage};

const TEXT: &str = include_str!("../../../../tests/fixtures/providers/openai/text.sse");
const TOOLS: &str = include_str!("../../../../tests/fixtures/providers/openai/tools.sse");

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

fn at_splits(kind: &str, body: &str) -> Outcome {
    at_every_split(kind, body.as_bytes())
}

/// Calls in these deltas, then the end.
fn calls(deltas: &[Value]) -> Outcome {
    let mut events: Vec<_> =
        deltas.iter().map(|calls| delta(json!({"tool_calls": calls}))).collect();
    events.push(finish("tool_calls"));
    let decoded = at_splits("openai", &stream(&events));
    assert_eq!(decoded.failure, None);
    decoded
}

#[test]
fn text_usage_and_the_end_are_read() {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2}});
    let decoded = at_splits(
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
    assert_eq!((decoded.text().as_str(), decoded.events.len()), ("Grüße \"\n😀", 3));
    let usage = Usage {
        input_tokens: 9,
        output_tokens: 3,
        total_tokens: 12,
        cached_input_tokens: Some(4),
        reasoning_tokens: Some(2),
        estimated: None,
    };
    assert_eq!(decoded.end(), (FinishReason::Stop, usage, "m"));
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
        let decoded = at_splits("openai", &stream(&[finish(reason)]));
        let (finish, usage, model) = decoded.end();
        assert_eq!(finish, ours, "{reason}");
        assert_eq!(usage, Usage::estimate(8, 0));
        assert_eq!(model, "asked", "nobody said another");
    }
    for (reason, class) in [
        ("error", Class::Server),
        ("network_error", Class::Server),
        ("insufficient_system_resource", Class::Overloaded),
    ] {
        let decoded =
            at_splits("mistral", &stream(&[delta(json!({"content": "a"})), finish(reason)]));
        assert_eq!(decoded.failed().0, class);
        assert_eq!(decoded.text(), "a", "what came before is given");
    }
    // An empty reason is none.
    let decoded = at_splits("openai", &stream(&[finish("")]));
    assert_eq!(decoded.failed().0, Class::Incomplete);
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
        let decoded = at_splits("openai", &body);
        assert_eq!(decoded.failure.is_none(), is_whole, "{body}");
    }
    // One service forgets the reason, but not that it is done.
    assert!(at_splits("xai", &format!("{text}{done}")).failure.is_none());
    for body in [text.as_str(), done] {
        assert_eq!(at_splits("xai", body).failed().0, Class::Incomplete, "{body}");
    }
    // What comes after the end is not read.
    assert!(at_splits("openai", &format!("{reason}{done}data: {{broken\n\n")).failure.is_none());
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
        let decoded = at_splits("openai", &stream(&events));
        assert_eq!((decoded.reasoning().as_str(), decoded.text().as_str()), ("Hm.", "ab"));
    }
}

#[test]
fn tags_are_thoughts_where_the_row_says_so() {
    let pieces = ["<thi", "nk>a</think", ">", "\n\nb", "<think>c"];
    let mut events: Vec<_> = pieces.iter().map(|piece| delta(json!({"content": piece}))).collect();
    events.push(finish("stop"));
    let body = stream(&events);
    let apart = at_splits("huggingface", &body);
    assert_eq!((apart.reasoning().as_str(), apart.text().as_str()), ("a", "b<think>c"));
    let as_it_is = at_splits("openai", &body);
    assert_eq!(as_it_is.text(), pieces.concat());
    // What might have become a tag is given before the end.
    let cut = at_splits("vllm", &stream(&[delta(json!({"content": "<thi"})), finish("length")]));
    assert_eq!(cut.text(), "<thi");
}

#[test]
fn a_refusal_is_text() {
    let decoded = at_splits("openai", &stream(&[delta(json!({"refusal": "No."})), finish("stop")]));
    assert_eq!(decoded.text(), "No.");
}

#[test]
fn calls_are_put_together_however_their_pieces_are_marked() {
    let look = || ("a", "look", "{\"at\":1}".to_owned());
    let find = || ("b", "find", "{\"q\":\"ü\"}".to_owned());
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
        assert_eq!(calls(deltas).told_calls(), [look(), find()], "{deltas:?}");
    }
    // Without id and index each name begins a call; no arguments are no arguments.
    let piece = json!([{"function": {"name": "look"}}]);
    let made = || ("call", "look", "{}".to_owned());
    assert_eq!(calls(&[piece.clone(), piece]).told_calls(), [made(), made()]);
}

#[test]
fn arguments_that_are_no_json_are_a_failure() {
    let piece = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "n", "arguments": "{"}}]});
    let decoded = at_splits("openai", &stream(&[delta(piece), finish("tool_calls")]));
    assert_eq!(decoded.failed().0, Class::BadStream);
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
    assert_eq!(at_splits("deepseek", &body).keepsakes, [("a".to_owned(), kept)]);
    assert_eq!(at_splits("groq", &body).keepsakes, []);
}

#[test]
fn usage_is_read_in_everybodys_words_and_the_last_one_counts() {
    let usage = |usages: &[Value]| {
        let mut events = vec![finish("stop")];
        events.extend(usages.iter().map(|usage| json!({"choices": [], "usage": usage})));
        at_splits("openai", &stream(&events)).end().1
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
    assert_eq!(at_splits("groq", &stream(&[groq])).end().1.total_tokens, 2);
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
        let decoded = at_splits("openrouter", &format!("{text}{error}"));
        assert_eq!(decoded.text(), "a");
        let failure = decoded.failure.unwrap();
        assert_eq!((failure.class, failure.status), (class, None), "{error}");
        assert!(failure.detail.starts_with('m'), "{}", failure.detail);
    }
    // No error is no error.
    let calm =
        json!({"error": null, "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]});
    assert_eq!(at_splits("openai", &stream(&[calm])).failure, None);
}

#[test]
fn what_is_no_chunk_is_a_failure_and_what_is_nothing_is_skipped() {
    let end = stream(&[finish("stop")]);
    for (event, class) in [
        ("{", Class::Incomplete),
        ("7", Class::BadStream),
        ("\"a\"", Class::BadStream),
        ("[1]", Class::BadStream),
        ("{\"choices\": 7}", Class::BadStream),
        ("{\"choices\":[{\"delta\":[7]}]}", Class::BadStream),
    ] {
        let decoded = at_splits("openai", &format!("data: {event}\n\n{end}"));
        assert_eq!(decoded.failed().0, class, "{event}");
    }
    // Small in the body, and large as values.
    for many in ["content", "reasoning", "tool_calls"] {
        let event = delta(json!({many: vec![json!({}); 2000]}));
        let body = stream(&[event, finish("stop")]);
        assert_eq!(decode("openai", [body.as_bytes()]).failed().0, Class::BadStream, "{many}");
    }
    let invalid =
        [&b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n"[..], end.as_bytes()];
    assert_eq!(decode("openai", invalid).failed().0, Class::BadStream);
    for event in ["data:\n\n", ": OPENROUTER PROCESSING\n\n", "event: ping\ndata: {}\n\n"] {
        assert_eq!(at_splits("openai", &format!("{event}{end}")).failure, None, "{event}");
    }
}

#[test]
fn an_answer_that_was_not_streamed_is_read_all_the_same() {
    let body = json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [{
        "index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "a",
            "reasoning_content": "Hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "n", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    let decoded = at_splits("openai-compatible", &format!("{body:#}"));
    assert_eq!((decoded.text().as_str(), decoded.reasoning().as_str()), ("a", "Hm"));
    assert_eq!(decoded.told_calls(), [("1", "n", "{}".to_owned())]);
    assert_eq!(decoded.end().1.total_tokens, 3);
}

#[test]
fn the_fixtures_give_what_they_hold_and_nothing_without_their_reason() {
    let outcome = at_splits("openai", TEXT);
    let usage = |input_tokens, output_tokens, cached, thought| Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        cached_input_tokens: Some(cached),
        reasoning_tokens: Some(thought),
        estimated: None,
    };
    assert_eq!(outcome.text(), "Grüße: \"eins\", zwei 🎈\n");
    assert_eq!(outcome.end(), (FinishReason::Stop, usage(21, 40, 16, 0), "gpt-test-1"));
    let outcome = at_splits("deepseek", TOOLS);
    assert_eq!(
        outcome.told_calls(),
        [("call_a", "look", "{\"at\":\"Köln\"}".to_owned()), ("call_b", "list", "{}".to_owned())]
    );
    let kept = Keepsake { reasoning: Some("Two towns.".into()), signature: None };
    assert_eq!(outcome.keepsakes, [("call_a".to_owned(), kept)]);
    assert_eq!(outcome.end(), (FinishReason::ToolCalls, usage(50, 20, 0, 4), "gpt-test-1"));
    for (body, reason) in [(TEXT, "\"stop\"}]}"), (TOOLS, "\"tool_calls\"}]}")] {
        // Up to the reason; cut within the usage after it, a body shows that it is.
        let body = &body.as_bytes()[..end_of(body.as_bytes(), reason)];
        cut_everywhere("openai", body, body.len());
    }
}

#[test]
fn a_damaged_body_gives_something_or_fails() {
    for (kind, body) in [("openai", TEXT), ("xai", TEXT), ("deepseek", TOOLS), ("vllm", TOOLS)] {
        damaged(kind, body.as_bytes());
    }
}
