//! Bodies, our own and recorded ones, against what the vendor's client makes of them.

use crate::dialect::testing::{
    Outcome, at_every_split, at_random_splits, cut_everywhere, damaged, decode, end_of, recorded,
};
use crate::dialect::{Class, Keepsake};
use crate::protocol::{FinishReason, StreamEvent, Usage};

const KIND: &str = "anthropic";

const TEXT: &[u8] = include_bytes!("../../../../tests/fixtures/providers/anthropic/text.sse");
const THINKING_TOOLS: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/thinking_tools.sse");
const REDACTED_THINKING: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/redacted_thinking.sse");
const SERVER_TOOLS: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/server_tools.sse");
const UNKNOWN_BLOCKS: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/unknown_blocks.sse");
const CUT_CALL: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/cut_call.sse");
const REFUSAL: &[u8] = include_bytes!("../../../../tests/fixtures/providers/anthropic/refusal.sse");
const NAMELESS: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/nameless.sse");
const OVERLOADED: &[u8] =
    include_bytes!("../../../../tests/fixtures/providers/anthropic/overloaded.sse");

/// What a body holds: sizes and CRC-32C of its text and reasoning; how it ends; input, output, cached
/// and reasoning tokens; the model; calls as id, name, arguments.
struct Expected {
    text: (usize, u32),
    reasoning: (usize, u32),
    finish: FinishReason,
    usage: (u64, u64, Option<u64>, Option<u64>),
    model: &'static str,
    calls: &'static [(&'static str, &'static str, &'static str)],
}

#[track_caller]
fn check(name: &str, decoded: &Outcome, expected: &Expected) {
    let sum = |text: String| (text.len(), crc32c::crc32c(text.as_bytes()));
    assert_eq!(sum(decoded.text()), expected.text, "{name}: text {:?}", decoded.text());
    assert_eq!(sum(decoded.reasoning()), expected.reasoning, "{name}: reasoning");
    let (finish, usage, model) = decoded.end();
    let (input_tokens, output_tokens, cached_input_tokens, reasoning_tokens) = expected.usage;
    let total_tokens = input_tokens + output_tokens;
    let estimated = None;
    let expected_usage = Usage {
        input_tokens,
        output_tokens,
        total_tokens,
        cached_input_tokens,
        reasoning_tokens,
        estimated,
    };
    assert_eq!((finish, model), (expected.finish, expected.model), "{name}");
    assert_eq!(usage, expected_usage, "{name}");
    let calls = decoded.told_calls();
    let calls: Vec<_> = calls.iter().map(|(id, name, json)| (*id, *name, json.as_str())).collect();
    assert_eq!(calls, expected.calls, "{name}");
}

/// Nothing at all.
const NONE: (usize, u32) = (0, 0);
const FIXTURE: Expected = Expected {
    text: NONE,
    reasoning: NONE,
    finish: FinishReason::Stop,
    usage: (0, 0, None, None),
    model: "claude-test-1",
    calls: &[],
};

/// Numbers by the vendor's client (`anthropic` 2.14.0), but for those bodies that it does not read:
/// one with events that have no name, one with data that is not JSON (read without that event), and
/// the call that was cut off, of which it gives a part.
#[test]
fn every_fixture_gives_what_the_vendors_client_gives_however_it_is_split() {
    for (name, body, expected) in [
        (
            "text",
            TEXT,
            Expected { text: (85, 0x2089_0afe), usage: (4408, 31, Some(4096), None), ..FIXTURE },
        ),
        (
            "thinking_tools",
            THINKING_TOOLS,
            Expected {
                text: (12, 0x0d13_0f31),
                reasoning: (47, 0xca12_8df4),
                finish: FinishReason::ToolCalls,
                usage: (480, 97, Some(0), Some(22)),
                calls: &[
                    ("toolu_01A", "get_weather", "{\"city\":\"Zürich\",\"days\":[1,2.5,-300.0]}"),
                    ("toolu_01B", "get_time", "{}"),
                ],
                ..FIXTURE
            },
        ),
        (
            "redacted_thinking",
            REDACTED_THINKING,
            Expected {
                reasoning: (9, 0x78dd_7e7a),
                finish: FinishReason::ToolCalls,
                usage: (32, 40, Some(7), None),
                calls: &[("toolu_01C", "search", "{\"query\":\"annulus\"}")],
                ..FIXTURE
            },
        ),
        (
            "server_tools",
            SERVER_TOOLS,
            Expected {
                text: (SERVER_TEXT.len(), crc32c::crc32c(SERVER_TEXT.as_bytes())),
                usage: (1700, 88, Some(0), None),
                ..FIXTURE
            },
        ),
        (
            "unknown_blocks",
            UNKNOWN_BLOCKS,
            Expected { text: (5, 0x8aea_d647), usage: (20, 3, Some(0), None), ..FIXTURE },
        ),
        (
            "cut_call",
            CUT_CALL,
            Expected {
                text: (17, 0x7e38_dd94),
                finish: FinishReason::Length,
                usage: (20, 16, Some(0), None),
                ..FIXTURE
            },
        ),
        (
            "refusal",
            REFUSAL,
            Expected {
                text: (1, 0x6bb4_9521),
                finish: FinishReason::ContentFilter,
                usage: (20, 2, Some(0), None),
                ..FIXTURE
            },
        ),
        (
            "nameless",
            NAMELESS,
            Expected {
                text: (14, crc32c::crc32c(b"No names here.")),
                usage: (20, 6, Some(0), None),
                ..FIXTURE
            },
        ),
    ] {
        check(name, &at_every_split(KIND, body), &expected);
    }
}

const SERVER_TEXT: &str = "Searching.Found: high water at noon.";

#[test]
fn a_call_is_given_as_soon_as_it_ends() {
    let text = std::str::from_utf8(THINKING_TOOLS).unwrap();
    let second = text.find("toolu_01B").unwrap();
    let begin = &text[..text[..second].rfind("event:").unwrap()];
    let decoded = decode(KIND, [begin.as_bytes()]);
    assert_eq!(decoded.failed().0, Class::Incomplete);
    assert_eq!(decoded.calls().len(), 1);
}

#[test]
fn a_body_that_breaks_off_anywhere_has_no_end() {
    for body in [TEXT, THINKING_TOOLS, REDACTED_THINKING, SERVER_TOOLS, CUT_CALL, NAMELESS] {
        let text = std::str::from_utf8(body).unwrap();
        let proof = text.lines().rfind(|line| line.starts_with("data:")).unwrap();
        assert!(proof.contains("message_stop"));
        cut_everywhere(KIND, body, end_of(body, proof));
    }
}

#[test]
fn thoughts_are_kept_for_the_call_that_follows_them() {
    let id = |id: &str| id.to_owned();
    let one = Keepsake {
        signature: Some("RXhhbXBsZVNpZ25hdHVyZQ==".into()),
        reasoning: Some("They want the weather in Zürich, and the time.".into()),
    };
    assert_eq!(decode(KIND, [THINKING_TOOLS]).keepsakes, [(id("toolu_01A"), one)]);
    let kept = decode(KIND, [REDACTED_THINKING]).keepsakes;
    let [(call, Keepsake { signature: Some(blocks), reasoning: None })] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert_eq!(call, "toolu_01C");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(blocks).unwrap(),
        serde_json::json!([
            {"type": "redacted_thinking", "data": "UmVkYWN0ZWRPbmU="},
            {"type": "thinking", "thinking": "Now this.", "signature": "U2lnbmVk"},
        ])
    );
}

#[test]
fn a_damaged_body_gives_something_or_fails() {
    for body in [TEXT, THINKING_TOOLS, REDACTED_THINKING, SERVER_TOOLS, UNKNOWN_BLOCKS, OVERLOADED]
    {
        damaged(KIND, body);
    }
}

#[test]
fn an_error_in_the_stream_is_a_failure_after_what_came_before_it() {
    let decoded = at_every_split(KIND, OVERLOADED);
    let failure = decoded.failure.unwrap();
    assert_eq!(failure.class, Class::Overloaded);
    let detail = "Overloaded [overloaded_error] (request req_01Test)";
    assert_eq!((failure.detail.as_str(), failure.status), (detail, None));
    assert_eq!(decoded.events, [StreamEvent::Text { text: "Half of an ans".into() }]);
}

const START: &str = r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"f","input":{"k":1}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn body(events: &[&str]) -> String {
    events.iter().map(|data| format!("data: {data}\n\n")).collect()
}

#[test]
fn what_cannot_be_is_a_bad_stream() {
    let stray = r#"{"type":"content_block_delta","index":7,"delta":{"type":"input_json_delta","partial_json":"{"}}"#;
    let broken = r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{"}}"#;
    let nameless_call =
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a"}}"#;
    for (why, events) in [
        ("not JSON", &["what?"][..]),
        (
            "text that is no string",
            &[r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":1}}"#],
        ),
        (
            "a piece without its index",
            &[r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":""}}"#],
        ),
        ("arguments without a call", &[stray]),
        ("a call whose arguments are broken", &[START, broken, STOP]),
        ("a call without a name", &[nameless_call, STOP]),
    ] {
        let decoded = at_every_split(KIND, body(events).as_bytes());
        assert_eq!(decoded.failed().0, Class::BadStream, "{why}");
    }
    let invalid = b"data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\xc3\"}}\n\n";
    assert_eq!(decode(KIND, [&invalid[..]]).failed().0, Class::BadStream);
}

#[test]
fn the_end_closes_what_is_open_and_needs_no_reason() {
    let decoded = at_every_split(KIND, body(&[START, STOP, "not ours"]).as_bytes());
    let [call] = decoded.calls()[..] else { panic!("{decoded:?}") };
    assert_eq!(call.parameters.0, serde_json::json!({"k": 1}));
    let (finish, usage, model) = decoded.end();
    assert_eq!((finish, usage.estimated), (FinishReason::ToolCalls, Some(true)));
    assert_eq!(model, "asked", "the model that was asked for");
}

#[test]
fn open_blocks_are_bounded() {
    for kind in ["\"text\"", "\"hologram\",\"id\":5"] {
        let block = |index: u32| {
            let block = format!("{{\"type\":{kind}}}");
            format!(
                "data: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{block}}}\n\n"
            )
        };
        let body: String = (0..=256).map(block).collect();
        assert_eq!(decode(KIND, [body.as_bytes()]).failed().0, Class::BadStream, "{kind}");
    }
}

/// By the vendor's client (`anthropic` 2.14.0) from recordings that are not part of the project.
const RECORDED: [(&str, Expected); 10] = [
    expected("anthropic-00.sse", (1346, 0x4195_4e6b), (405, 0x2eeb_d663), (22397, 637), SONNET_4),
    expected("anthropic-02.sse", (1, 0x83a5_6a17), NONE, (20, 5), SONNET_4_5),
    expected("anthropic-04.sse", (167, 0xa2f6_4f82), (194, 0x2bd8_61fc), (7244, 153), SONNET_4),
    expected("anthropic-06.sse", (550, 0xa2bf_99f4), NONE, (7621, 384), "claude-sonnet-4-6"),
    expected("anthropic-08.sse", (397, 0x4c7c_d894), NONE, (11665, 186), SONNET_4_5),
    expected("anthropic-10.sse", (11, 0x4e4d_560a), NONE, (181, 8), "claude-sonnet-4-6"),
    expected("anthropic-12.sse", (359, 0x346d_a397), NONE, (92, 189), SONNET_4_5),
    expected("genai-anthropic-ping_stream-000.body", (6, 0x09fd_ebd6), NONE, (25, 15), HAIKU),
    expected(
        "genai-anthropic-usage_cache_creation_stream-000.body",
        (3, 0x3181_e5d3),
        NONE,
        (4211, 5),
        HAIKU,
    ),
    expected("genai-anthropic-usage_stream-000.body", (154, 0x8b24_41b3), NONE, (19, 34), HAIKU),
];
const SONNET_4: &str = "claude-sonnet-4-20250514";
const SONNET_4_5: &str = "claude-sonnet-4-5-20250929";
const HAIKU: &str = "claude-haiku-4-5-20251001";

/// None of them calls a tool of the client's, and the cache had nothing for any of them in the end.
const fn expected(
    name: &'static str,
    text: (usize, u32),
    reasoning: (usize, u32),
    (input, output): (u64, u64),
    model: &'static str,
) -> (&'static str, Expected) {
    (name, Expected { text, reasoning, usage: (input, output, Some(0), None), model, ..FIXTURE })
}

#[test]
fn recorded_bodies_give_what_the_vendors_client_gives() {
    for (name, expected) in &RECORDED {
        let Some(body) = recorded(name) else { return };
        check(name, &at_random_splits(KIND, &body), expected);
    }
}
