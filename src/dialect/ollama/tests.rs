//! Its stream, from the committed and from the recorded bodies.

use serde_json::json;

use crate::dialect::Class;
use crate::dialect::testing::{
    Outcome, at_every_split, at_random_splits, cut_everywhere, damaged, decode, recorded,
};
use crate::protocol::{FinishReason, StreamEvent, Usage};

const KIND: &str = "ollama";

const TEXT: &str = include_str!("../../../tests/fixtures/providers/ollama/text.ndjson");
const TOOLS: &str = include_str!("../../../tests/fixtures/providers/ollama/tools.ndjson");
const LENGTH: &str = include_str!("../../../tests/fixtures/providers/ollama/length.ndjson");
const ERROR: &str = include_str!("../../../tests/fixtures/providers/ollama/error.ndjson");

fn text(text: &str) -> StreamEvent {
    StreamEvent::Text { text: text.into() }
}

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    let total_tokens = input_tokens + output_tokens;
    Usage { input_tokens, output_tokens, total_tokens, ..Usage::default() }
}

/// One line after the other.
fn run(lines: &[serde_json::Value]) -> Outcome {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    decode(KIND, [body.as_bytes()])
}

#[test]
fn thinking_and_text_are_kept_apart() {
    let outcome = at_every_split(KIND, TEXT.as_bytes());
    assert_eq!(
        outcome.events[..4],
        [
            StreamEvent::Reasoning { text: "Count ".into() },
            StreamEvent::Reasoning { text: "in German.".into() },
            text("Grüße: \"eins\","),
            text(" zwei 🎈\n"),
        ]
    );
    assert_eq!(outcome.end(), (FinishReason::Stop, usage(21, 40), "qwen3:8b"));
    cut_everywhere(KIND, TEXT.as_bytes(), TEXT.trim_end().len());
}

#[test]
fn calls_are_whole_and_their_numbers_begin_anew_in_each_line() {
    let outcome = at_every_split(KIND, TOOLS.as_bytes());
    assert_eq!(
        outcome.told_calls(),
        [
            ("call", "look", "{\"at\":\"Köln\",\"n\":[1,2.5]}".to_owned()),
            ("call_x1", "list", "{}".to_owned()),
            ("call", "look", "{\"at\":\"Bonn\"}".to_owned()),
        ]
    );
    assert_eq!(outcome.end(), (FinishReason::ToolCalls, usage(50, 20), "qwen3:8b"));
    cut_everywhere(KIND, TOOLS.as_bytes(), TOOLS.trim_end().len());
}

#[test]
fn the_last_line_may_have_text_and_lack_its_end() {
    let outcome = at_every_split(KIND, LENGTH.as_bytes());
    assert_eq!(outcome.text(), "One two three");
    assert_eq!(outcome.end(), (FinishReason::Length, usage(0, 3), "qwen3:8b"));
    cut_everywhere(KIND, LENGTH.as_bytes(), LENGTH.len());
}

#[test]
fn a_line_with_an_error_is_a_failure_after_what_came_before() {
    let outcome = at_every_split(KIND, ERROR.as_bytes());
    assert_eq!(outcome.events, [text("One moment")]);
    let failure = outcome.failure.unwrap();
    assert_eq!(failure.class, Class::Server);
    assert!(failure.detail.ends_with("CUDA error"));
    cut_everywhere(KIND, ERROR.as_bytes(), usize::MAX);
}

#[test]
fn an_errors_words_say_its_class() {
    for (words, class) in [
        (json!("model \"nope\" not found, try pulling it first"), Class::BadRequest),
        (json!("registry.ollama.ai/library/gemma does not support tools"), Class::BadRequest),
        (json!("unauthorized"), Class::Auth),
        (json!("invalid api key"), Class::Auth),
        (json!("tool \"usage limit\" not found"), Class::BadRequest),
        (json!("you have reached your weekly usage limit"), Class::Quota),
        (json!("Too Many Requests"), Class::RateLimited),
        (
            json!("server busy, please try again. maximum pending requests exceeded"),
            Class::Overloaded,
        ),
        (json!("llama runner process has terminated: signal: killed"), Class::Server),
        (json!({"message": "odd"}), Class::Server),
    ] {
        assert_eq!(run(&[json!({"error": words})]).failed().0, class, "{words}");
    }
}

#[test]
fn reasons_are_mapped_and_what_follows_the_end_is_not_read() {
    let ended = |reason: serde_json::Value| {
        let first = json!({"message": {"content": "x"}, "done": false});
        let last = json!({"done": true, "done_reason": reason});
        run(&[first, last, json!({"error": "too late"}), json!({"message": {"content": "y"}})])
    };
    for (reason, finish) in [
        (json!("stop"), FinishReason::Stop),
        (json!(null), FinishReason::Stop),
        (json!("something new"), FinishReason::Stop),
        (json!("length"), FinishReason::Length),
    ] {
        let outcome = ended(reason);
        let (reason, usage, model) = outcome.end();
        assert_eq!((reason, usage.estimated, model), (finish, Some(true), "asked"));
        assert_eq!(outcome.text(), "x");
    }
    for reason in ["load", "unload"] {
        let failure = ended(json!(reason)).failure.unwrap();
        assert_eq!(failure.class, Class::Server);
        assert!(failure.detail.ends_with(reason));
    }
}

#[test]
fn what_is_odd_is_skipped_or_refused() {
    let done = || json!({"done": true});
    for skipped in [
        json!({}),
        json!({"message": null, "error": null, "model": null, "done": null}),
        json!({"message": {"role": "assistant", "content": null, "tool_calls": null}}),
        json!({"message": {"content": "", "images": ["AA=="]}, "new": [{}]}),
    ] {
        let outcome = run(&[skipped, done()]);
        assert_eq!((outcome.events.len(), outcome.end().0), (1, FinishReason::Stop));
    }
    for refused in [
        json!({"message": {"tool_calls": [{}]}}),
        json!({"message": {"tool_calls": [{"function": {"arguments": {}}}]}}),
        json!({"message": {"tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}}),
        json!({"message": {"content": 7}}),
        json!(7),
    ] {
        assert_eq!(run(&[refused, done()]).failed().0, Class::BadStream);
    }
    let text =
        json!({"message": {"tool_calls": [{"function": {"name": "x", "arguments": "{\"a\":1}"}}]}});
    assert_eq!(run(&[text, done()]).calls()[0].parameters.0, json!({"a": 1}));
    assert_eq!(run(&[]).failed().0, Class::Incomplete);
}

#[test]
fn a_damaged_body_gives_something_or_fails() {
    for body in [TEXT, TOOLS, LENGTH, ERROR] {
        damaged(KIND, body.as_bytes());
    }
}

/// As the Python package ollama 0.6.3 decodes it, which read the body from a server on this machine.
#[test]
fn the_recorded_body_is_decoded_as_its_own_client_does() {
    let Some(body) = recorded("genai-ollama_cloud-simple_stream-000.body") else { return };
    let outcome = at_random_splits(KIND, &body);
    let text = outcome.text();
    assert_eq!((text.len(), crc32c::crc32c(text.as_bytes())), (216, 0x170e_b6d9));
    assert_eq!((outcome.reasoning().as_str(), outcome.calls().len()), ("", 0));
    assert_eq!(outcome.end(), (FinishReason::Stop, usage(21, 40), "gemma3:4b"));
    cut_everywhere(KIND, &body, body.trim_ascii_end().len());
}
