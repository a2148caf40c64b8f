//! Bodies after the vendor's documents, against what the vendor's client (`cohere` 7.3.1) makes of
//! them. Nobody has recorded the service for us.

use crate::dialect::testing::{at_every_split, cut_everywhere, damaged, decode, end_of};
use crate::dialect::{Class, Keepsake};
use crate::protocol::{FinishReason, StreamEvent, Usage};

const KIND: &str = "cohere";

const TEXT: &[u8] = include_bytes!("../../../../tests/fixtures/providers/cohere/text.sse");
const TOOL_CALLS: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/cohere/tool_calls.sse");
const THINKING: &[u8] = include_bytes!("../../../../tests/fixtures/providers/cohere/thinking.sse");
const BILLED_ONLY: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/cohere/billed_only.sse");
const ERROR: &[u8] = include_bytes!("../../../../tests/fixtures/providers/cohere/error.sse");

const PLAN: &str = "I will look up both cities: Zürich, \"Bern\".";

#[test]
fn every_fixture_gives_what_the_vendors_client_gives_however_it_is_split() {
    for (body, text, reasoning, finish, (input, output, cached)) in [
        (
            TEXT,
            "Emperor penguins are the \"tallest\" 🐧,\nat 1·2 m.",
            "",
            FinishReason::Stop,
            (71, 18, Some(64)),
        ),
        (TOOL_CALLS, "", PLAN, FinishReason::ToolCalls, (1090, 46, None)),
        (THINKING, "There are seve", "First, count them.", FinishReason::Length, (33, 12, None)),
        (BILLED_ONLY, "Yes.", "", FinishReason::Stop, (5, 2, None)),
    ] {
        let decoded = at_every_split(KIND, body);
        assert_eq!(decoded.text(), text);
        assert_eq!(decoded.reasoning(), reasoning);
        let usage = Usage {
            input_tokens: input,
            output_tokens: output,
            total_tokens: input + output,
            cached_input_tokens: cached,
            ..Usage::default()
        };
        assert_eq!(decoded.end(), (finish, usage, "asked"), "{text}");
        assert_eq!(decoded.calls().len(), if body == TOOL_CALLS { 2 } else { 0 });
    }
}

#[test]
fn calls_come_whole_and_the_plan_is_kept_for_the_first() {
    let decoded = decode(KIND, [TOOL_CALLS]);
    assert_eq!(
        decoded.told_calls(),
        [
            (
                "get_weather_a1b2c3",
                "get_weather",
                "{\"city\":\"Zürich\",\"days\":[1,2.5]}".to_owned()
            ),
            ("get_time_d4e5f6", "get_time", "{}".to_owned()),
        ]
    );
    let kept = Keepsake { signature: None, reasoning: Some(PLAN.into()) };
    assert_eq!(decoded.keepsakes, [("get_weather_a1b2c3".to_owned(), kept)]);
}

#[test]
fn a_call_is_given_as_soon_as_it_ends() {
    let text = std::str::from_utf8(TOOL_CALLS).unwrap();
    let (begin, _) = text
        .split_once("event: tool-call-start\ndata: {\"type\":\"tool-call-start\",\"index\":1")
        .unwrap();
    let decoded = decode(KIND, [begin.as_bytes()]);
    assert_eq!(decoded.failed().0, Class::Incomplete);
    assert_eq!(decoded.calls().len(), 1);
}

#[test]
fn a_body_that_breaks_off_anywhere_has_no_end() {
    for body in [TEXT, TOOL_CALLS, THINKING, BILLED_ONLY] {
        let text = std::str::from_utf8(body).unwrap();
        let proof = text.lines().rfind(|line| line.contains("\"message-end\"")).unwrap();
        cut_everywhere(KIND, body, end_of(body, proof));
    }
}

#[test]
fn a_damaged_body_gives_something_or_fails() {
    for body in [TEXT, TOOL_CALLS, THINKING, BILLED_ONLY, ERROR] {
        damaged(KIND, body);
    }
}

#[test]
fn an_error_at_the_end_or_instead_of_it_is_the_servers() {
    let decoded = at_every_split(KIND, ERROR);
    assert_eq!(decoded.failed(), (Class::Server, "the generation failed on our side"));
    assert_eq!(decoded.events, [StreamEvent::Text { text: "Half of an ans".into() }]);
    for (data, detail) in [
        (r#"{"type":"message-end","delta":{"finish_reason":"TIMEOUT"}}"#, "finish_reason TIMEOUT"),
        (r#"{"type":"message-end","delta":{"finish_reason":"ERROR"}}"#, "finish_reason ERROR"),
        (r#"{"id":"1","message":"internal server error"}"#, "internal server error"),
        (r#"{"type":"error","message":"gone"}"#, "gone"),
        (r#"{"type":"error","message":7}"#, "7"),
    ] {
        let body = format!("data: {data}\n\n");
        let decoded = at_every_split(KIND, body.as_bytes());
        assert_eq!(decoded.failed(), (Class::Server, detail), "{data}");
    }
}

#[test]
fn what_cannot_be_is_a_bad_stream() {
    let call = r#"{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"a","function":{"name":"f","arguments":"{"}}}}}"#;
    let end = r#"{"type":"message-end","delta":{"finish_reason":"TOOL_CALL"}}"#;
    let list =
        r#"{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":[{"id":"a"}]}}}"#;
    let stray = r#"{"type":"tool-call-delta","index":3,"delta":{"message":{"tool_calls":{"function":{"arguments":"{}"}}}}}"#;
    for (why, events) in [
        ("not JSON", &["[DONE]"][..]),
        ("calls in a list", &[list]),
        ("a call without a call", &[r#"{"type":"tool-call-start","index":0}"#]),
        ("arguments that are broken", &[call, end]),
        ("arguments without a call", &[stray, end]),
        (
            "text that is no string",
            &[r#"{"type":"content-delta","delta":{"message":{"content":{"text":1}}}}"#],
        ),
    ] {
        let body: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
        let decoded = at_every_split(KIND, body.as_bytes());
        assert_eq!(decoded.failed().0, Class::BadStream, "{why}");
    }
}

#[test]
fn the_end_closes_what_is_open_and_needs_no_reason() {
    let call = r#"{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"a","function":{"name":"f","arguments":"{}"}}}}}"#;
    let again = call.replace("\"a\"", "\"b\"");
    let body = format!("data: {call}\n\ndata: {again}\n\ndata: {{\"type\":\"message-end\"}}\n\n");
    let decoded = at_every_split(KIND, body.as_bytes());
    let ids: Vec<_> = decoded.calls().into_iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    let (finish, usage, _) = decoded.end();
    assert_eq!((finish, usage.estimated), (FinishReason::ToolCalls, Some(true)));
}
