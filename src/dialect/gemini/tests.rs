//! Its stream, from the committed and from the recorded bodies.

use serde_json::json;

use crate::dialect::testing::{
    Outcome, at_every_split, at_random_splits, cut_everywhere, damaged, decode, end_of, recorded,
};
use crate::dialect::{Class, Dialect, Keepsake, ROWS};
use crate::protocol::{FinishReason, StreamEvent, Usage};

const KIND: &str = "gemini";

const TEXT: &str = include_str!("../../../tests/fixtures/providers/gemini/text.sse");
const TOOLS: &str = include_str!("../../../tests/fixtures/providers/gemini/tools.sse");
const BLOCKED: &str = include_str!("../../../tests/fixtures/providers/gemini/blocked.sse");
const ERROR: &str = include_str!("../../../tests/fixtures/providers/gemini/error.sse");
const MALFORMED: &str = include_str!("../../../tests/fixtures/providers/gemini/malformed_call.sse");

fn text(text: &str) -> StreamEvent {
    StreamEvent::Text { text: text.into() }
}

/// One event after the other.
fn stream(events: &[serde_json::Value]) -> String {
    events.iter().map(|event| format!("data: {event}\r\n\r\n")).collect()
}

fn run(events: &[serde_json::Value]) -> Outcome {
    decode(KIND, [stream(events).as_bytes()])
}

#[test]
fn every_row_of_the_dialect_wants_turns_that_alternate() {
    for row in ROWS.iter().filter(|row| row.dialect == Dialect::Gemini) {
        assert!(row.quirks.merge_same_role, "{}", row.kind);
    }
}

#[test]
fn thoughts_and_text_are_kept_apart_and_the_last_usage_counts() {
    let outcome = at_every_split(KIND, TEXT.as_bytes());
    assert_eq!(
        outcome.events[..3],
        [
            StreamEvent::Reasoning { text: "**Counting**\n\n".into() },
            text("Grüße: \"eins\","),
            text(" zwei 🎈\n"),
        ]
    );
    let usage = Usage {
        input_tokens: 9,
        output_tokens: 29,
        total_tokens: 38,
        cached_input_tokens: Some(5),
        reasoning_tokens: Some(22),
        estimated: None,
    };
    assert_eq!(outcome.end(), (FinishReason::Stop, usage, "gemini-2.5-flash"));
    cut_everywhere(KIND, TEXT.as_bytes(), TEXT.trim_end().len());
}

#[test]
fn calls_are_whole_several_in_an_event_and_usage_may_follow_the_reason() {
    let outcome = at_every_split(KIND, TOOLS.as_bytes());
    assert_eq!(
        outcome.told_calls(),
        [
            ("call", "look", "{\"at\":\"Köln\",\"n\":[1,2.5]}".to_owned()),
            ("call", "list", "{}".to_owned()),
            ("q7", "look", "{\"at\":\"Bonn\"}".to_owned()),
        ]
    );
    let keepsake = Keepsake { signature: Some("c2lnbmF0dXJl".into()), reasoning: None };
    assert_eq!(outcome.keepsakes, [("call".into(), keepsake)]);
    let (reason, usage, _) = outcome.end();
    assert_eq!(reason, FinishReason::ToolCalls);
    // The tokens of Google's own tools are part of the prompt; the sum was left out.
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens), (53, 21, 74));
    // Cut in the event with the last usage, the JSON of that event shows it; cut before it, nobody
    // could know.
    let body = TOOLS.as_bytes();
    let reasoned =
        end_of(body, "\"totalTokenCount\": 70}, \"modelVersion\": \"gemini-3-pro-preview\"}");
    cut_everywhere(KIND, &body[..reasoned], reasoned);
    assert!(decode(KIND, [&body[..reasoned]]).has_end());
    assert!(!decode(KIND, [&body[..body.len() - 20]]).has_end());
}

#[test]
fn a_blocked_prompt_is_an_answer_without_text() {
    let outcome = at_every_split(KIND, BLOCKED.as_bytes());
    let (reason, usage, _) = outcome.end();
    assert_eq!(
        (reason, usage.input_tokens, outcome.events.len()),
        (FinishReason::ContentFilter, 12, 1)
    );
    cut_everywhere(KIND, BLOCKED.as_bytes(), BLOCKED.trim_end().len());
    let unspecified = json!({"promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}});
    let harmless = json!({"promptFeedback": {"safetyRatings": []}});
    assert_eq!(run(&[unspecified, harmless]).failed().0, Class::Incomplete);
}

#[test]
fn an_error_in_a_200_is_that_error_even_in_an_array() {
    let outcome = at_every_split(KIND, ERROR.as_bytes());
    assert_eq!(outcome.events, [text("One moment")]);
    let told = "The model is overloaded. Please try again later. [UNAVAILABLE]";
    assert_eq!(outcome.failed(), (Class::Overloaded, told));
    // The status was a success.
    assert_eq!(outcome.failure.unwrap().status, None);
    cut_everywhere(KIND, ERROR.as_bytes(), usize::MAX);
    let bare = run(&[json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}})]);
    assert_eq!(bare.failed().0, Class::RateLimited);
    for odd in [json!([]), json!([{"candidates": []}]), json!([1])] {
        assert_eq!(run(&[odd]).failed().0, Class::BadStream);
    }
}

#[test]
fn a_malformed_call_is_a_failure_that_another_try_may_mend() {
    let outcome = at_every_split(KIND, MALFORMED.as_bytes());
    assert_eq!(outcome.events, [text("Let me see.")]);
    let failure = outcome.failure.unwrap();
    assert!(failure.may_retry() && failure.class.may_fail_over());
    assert_eq!(
        failure.detail,
        "the model ended with MALFORMED_FUNCTION_CALL: Malformed function call: look(at="
    );
    cut_everywhere(KIND, MALFORMED.as_bytes(), usize::MAX);
}

#[test]
fn reasons_are_mapped() {
    let ended = |reason: &str| {
        let parts = json!({"parts": [{"text": "x"}]});
        run(&[json!({"candidates": [{"content": parts, "finishReason": reason}]})])
    };
    for (reasons, expected) in [
        (&["STOP"][..], FinishReason::Stop),
        (&["MAX_TOKENS"], FinishReason::Length),
        (
            &[
                "SAFETY",
                "RECITATION",
                "LANGUAGE",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
                "IMAGE_PROHIBITED_CONTENT",
                "MODEL_ARMOR",
            ],
            FinishReason::ContentFilter,
        ),
    ] {
        for reason in reasons {
            let outcome = ended(reason);
            let (finish, usage, model) = outcome.end();
            assert_eq!(
                (finish, usage.estimated, model),
                (expected, Some(true), "asked"),
                "{reason}"
            );
        }
    }
    for (reasons, class) in [
        (
            &[
                "MALFORMED_FUNCTION_CALL",
                "UNEXPECTED_TOOL_CALL",
                "TOO_MANY_TOOL_CALLS",
                "OTHER",
                "SOMETHING_NEW",
            ][..],
            Class::Server,
        ),
        (&["MISSING_THOUGHT_SIGNATURE"], Class::BadRequest),
        (&["FINISH_REASON_UNSPECIFIED", ""], Class::Incomplete),
    ] {
        for reason in reasons {
            let outcome = ended(reason);
            assert_eq!(outcome.events, [text("x")], "{reason}");
            assert_eq!(outcome.failed().0, class, "{reason}");
        }
    }
}

#[test]
fn what_is_odd_is_skipped_or_refused() {
    let stop = || json!({"candidates": [{"finishReason": "STOP"}]});
    for skipped in [
        json!({}),
        json!({"candidates": null, "usageMetadata": null, "promptFeedback": null, "error": null}),
        json!({"candidates": [{"content": null}, {"content": {"parts": [{"text": "another's"}]}}]}),
        json!({"candidates": [{"content": {"parts": null}}]}),
        json!({"candidates": [{"content": {"parts": [
            {}, {"text": ""}, {"thought": true}, {"inlineData": {"data": "AA=="}},
            {"executableCode": {"language": "PYTHON", "code": "1"}}, {"text": null, "functionCall": null},
        ]}}]}),
    ] {
        let outcome = run(&[skipped, stop()]);
        assert_eq!((outcome.events.len(), outcome.end().0), (1, FinishReason::Stop));
    }
    let nameless =
        json!({"candidates": [{"content": {"parts": [{"functionCall": {"args": {}}}]}}]});
    let parts = vec![json!({}); 2000];
    let many = json!({"candidates": [{"content": {"parts": parts}}]});
    for refused in [nameless, many, json!(7), json!({"candidates": {}}), json!({"modelVersion": 1})]
    {
        assert_eq!(run(&[refused, stop()]).failed().0, Class::BadStream);
    }
    let alive = format!("data:\n\n: ping\n\n{}", stream(&[stop()]));
    assert_eq!(decode(KIND, [alive.as_bytes()]).end().0, FinishReason::Stop);
    assert_eq!(decode(KIND, [&b""[..]]).failed().0, Class::Incomplete);
}

#[test]
fn a_damaged_body_gives_something_or_fails() {
    for body in [TEXT, TOOLS, BLOCKED, ERROR, MALFORMED] {
        damaged(KIND, body.as_bytes());
    }
}

/// A recorded body, as Google's own client decodes it.
struct Recorded {
    name: &'static str,
    /// Size in bytes and CRC-32C.
    text: (usize, u32),
    reasoning: (usize, u32),
    /// Name and arguments.
    call: Option<(&'static str, &'static str)>,
    /// Size and CRC-32C.
    signature: Option<(usize, u32)>,
    finish: FinishReason,
    /// Prompt, Google's tools, candidates, thoughts, all.
    tokens: [u64; 5],
    model: &'static str,
}

const NONE: (usize, u32) = (0, 0);

impl Recorded {
    const fn new(
        name: &'static str,
        text: (usize, u32),
        tokens: [u64; 5],
        model: &'static str,
    ) -> Self {
        let (call, signature, finish) = (None, None, FinishReason::Stop);
        Self { name, text, reasoning: NONE, call, signature, finish, tokens, model }
    }
}

/// Made with google-genai 3.6.1 (PyPI), which read the bodies from a server on this machine.
const RECORDED: [Recorded; 10] = [
    Recorded {
        call: Some(("get_capital", "{\"country\":\"France\"}")),
        finish: FinishReason::ToolCalls,
        ..Recorded::new("gemini-00.sse", NONE, [52, 0, 5, 0, 57], "gemini-2.0-flash")
    },
    Recorded::new("gemini-02.sse", (35, 0x0201_541a), [79, 0, 12, 0, 91], "gemini-2.0-flash"),
    Recorded::new("gemini-04.sse", (108, 0x3ce6_ad88), [15, 770, 37, 742, 1564], "gemini-2.5-pro"),
    Recorded {
        reasoning: (1575, 0x040b_e69d),
        ..Recorded::new(
            "gemini-06.sse",
            (1938, 0x74c2_1219),
            [34, 0, 469, 787, 1290],
            "gemini-2.5-pro",
        )
    },
    Recorded::new("gemini-08.sse", (932, 0xdf06_f85b), [17, 102, 241, 412, 772], "gemini-2.5-pro"),
    Recorded {
        call: Some(("get_country", "{}")),
        signature: Some((1408, 0x0eeb_bcc8)),
        finish: FinishReason::ToolCalls,
        ..Recorded::new("gemini-10.sse", NONE, [29, 0, 10, 202, 241], "gemini-3-pro-preview")
    },
    Recorded::new("gemini-12.sse", (5, 0x29c9_11e6), [6, 0, 1, 35, 42], "gemini-2.5-flash"),
    Recorded {
        reasoning: (1604, 0x2548_13d1),
        ..Recorded::new(
            "genai-gemini-thinking_stream-000.body",
            (216, 0x1e65_5969),
            [12, 0, 35, 697, 744],
            "gemini-2.5-flash",
        )
    },
    Recorded::new(
        "genai-gemini-url_context_stream-000.body",
        (117, 0x90b0_a7a9),
        [62, 5852, 51, 158, 6123],
        "gemini-3.7-flash",
    ),
    Recorded::new("vertex-00.sse", (2, 0x31fd_0dac), [5, 0, 1, 100, 106], "gemini-3-flash-preview"),
];

#[test]
fn recorded_bodies_are_decoded_as_googles_client_does() {
    for expected in RECORDED {
        let name = expected.name;
        let Some(body) = recorded(name) else { return };
        let outcome = at_random_splits(KIND, &body);
        let sum = |text: String| (text.len(), crc32c::crc32c(text.as_bytes()));
        assert_eq!(sum(outcome.text()), expected.text, "{name}");
        assert_eq!(sum(outcome.reasoning()), expected.reasoning, "{name}");
        let calls: Vec<_> = outcome
            .calls()
            .into_iter()
            .map(|call| (call.name.clone(), call.parameters.0.to_string()))
            .collect();
        let call = expected.call.map(|(name, arguments)| (name.to_owned(), arguments.to_owned()));
        assert_eq!(calls, Vec::from_iter(call), "{name}");
        let signature = outcome.keepsakes.first().map(|(_, kept)| kept.signature.clone().unwrap());
        assert_eq!(signature.map(sum), expected.signature, "{name}");
        let (finish, usage, model) = outcome.end();
        assert_eq!((finish, model), (expected.finish, expected.model), "{name}");
        let [prompt, tools, candidates, thoughts, all] = expected.tokens;
        assert_eq!(
            (usage.input_tokens, usage.output_tokens, usage.total_tokens),
            (prompt + tools, candidates + thoughts, all),
            "{name}"
        );
        assert_eq!(usage.reasoning_tokens.unwrap_or_default(), thoughts, "{name}");
        assert_eq!((usage.cached_input_tokens, usage.estimated), (None, None), "{name}");
    }
}
