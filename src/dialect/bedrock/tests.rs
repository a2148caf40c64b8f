//! The dialect as a whole: made streams, the committed fixtures, and recordings of the service.

use std::fs;
use std::path::{Path, PathBuf};

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message as EventMessage};

use crate::dialect::row::fnv1a;
use crate::dialect::testing::{
    Outcome, at_every_split, at_random_splits, cut_everywhere, decode, recorded,
};
use crate::dialect::{Class, Keepsake};
use crate::protocol::{FinishReason, Usage};

const KIND: &str = "bedrock";

/// The bytes of one message of an event stream.
pub(super) fn message(headers: &[(&str, &str)], payload: &str) -> Vec<u8> {
    let mut message = EventMessage::new(payload.to_owned());
    for (name, value) in headers {
        let value = HeaderValue::String((*value).to_owned().into());
        message = message.add_header(Header::new((*name).to_owned(), value));
    }
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

/// The bytes of an event with the headers that Bedrock gives it.
pub(in crate::dialect) fn event(name: &str, payload: &str) -> Vec<u8> {
    message(
        &[(":event-type", name), (":content-type", "application/json"), (":message-type", "event")],
        payload,
    )
}

fn stream(events: &[(&str, &str)]) -> Vec<u8> {
    events.iter().flat_map(|(name, payload)| event(name, payload)).collect()
}

const START: (&str, &str) = ("messageStart", r#"{"p":"abcdefgh","role":"assistant"}"#);

/// The fixtures by name: text, calls after signed reasoning, and a tool that the provider runs itself
/// beside an event of no known kind.
fn fixtures() -> [(&'static str, Vec<u8>); 3] {
    let text = [
        START,
        ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":""},"p":"a"}"#),
        ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Grüße aus "}}"#),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"text":"Köln \ud83d\ude00\n"},"p":"ab"}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":0,"p":"abc"}"#),
        ("messageStop", r#"{"p":"abcd","stopReason":"max_tokens"}"#),
        (
            "metadata",
            r#"{"metrics":{"latencyMs":12},"usage":{"inputTokens":7,"outputTokens":5,"totalTokens":12}}"#,
        ),
    ];
    let tools = [
        START,
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"Two "}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"towns."}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"c2lnbmVk"}}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        ("contentBlockDelta", r#"{"contentBlockIndex":1,"delta":{"text":"I shall look."}}"#),
        ("contentBlockStop", r#"{"contentBlockIndex":1}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":2,"start":{"toolUse":{"name":"weather","toolUseId":"tooluse_A"}}}"#,
        ),
        ("contentBlockDelta", r#"{"contentBlockIndex":2,"delta":{"toolUse":{"input":""}}}"#),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":2,"delta":{"toolUse":{"input":"{\"at\": \"Kö"}}}"#,
        ),
        ("contentBlockDelta", r#"{"contentBlockIndex":2,"delta":{"toolUse":{"input":"ln\"}"}}}"#),
        ("contentBlockStop", r#"{"contentBlockIndex":2}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":3,"start":{"toolUse":{"name":"time","toolUseId":"tooluse_B"}}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":3}"#),
        ("messageStop", r#"{"stopReason":"tool_use"}"#),
        (
            "metadata",
            r#"{"usage":{"cacheReadInputTokens":40,"cacheWriteInputTokens":2,"inputTokens":3,"outputTokens":9,"totalTokens":54}}"#,
        ),
    ];
    let own_tool = [
        START,
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":0,"start":{"toolUse":{"name":"code","toolUseId":"t","type":"server_tool_use"}}}"#,
        ),
        ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{}"}}}"#),
        ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":1,"start":{"toolResult":{"status":"success","toolUseId":"t","type":"code_result"}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":1,"delta":{"toolResult":[{"json":{"stdOut":"42"}}]}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":1}"#),
        ("aNewKindOfEvent", "not even JSON"),
        ("contentBlockDelta", r#"{"contentBlockIndex":2,"delta":{"text":"It is 42."}}"#),
        ("contentBlockStop", r#"{"contentBlockIndex":2}"#),
        ("messageStop", r#"{"stopReason":"end_turn"}"#),
        ("metadata", r#"{"usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}}"#),
    ];
    [
        ("text.eventstream", stream(&text)),
        ("tools.eventstream", stream(&tools)),
        ("own_tool.eventstream", stream(&own_tool)),
    ]
}

fn whole(bytes: &[u8]) -> Outcome {
    decode(KIND, [bytes])
}

fn class_of(events: &[(&str, &str)]) -> Class {
    whole(&stream(events)).failed().0
}

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    let total_tokens = input_tokens + output_tokens;
    Usage { input_tokens, output_tokens, total_tokens, ..Usage::default() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/providers/bedrock")
}

#[test]
fn the_committed_fixtures_are_those_of_this_file() {
    for (name, bytes) in fixtures() {
        let committed = fs::read(folder().join(name)).unwrap();
        assert!(committed == bytes, "{name}: run `write_the_fixtures` and commit what it wrote");
    }
}

#[test]
#[ignore = "writes the fixtures after a change of them"]
fn write_the_fixtures() {
    fs::create_dir_all(folder()).unwrap();
    for (name, bytes) in fixtures() {
        fs::write(folder().join(name), bytes).unwrap();
    }
}

#[test]
fn text_comes_with_its_end_and_usage() {
    let outcome = at_every_split(KIND, &fixtures()[0].1);
    assert_eq!(outcome.text(), "Grüße aus Köln 😀\n");
    assert_eq!(outcome.end(), (FinishReason::Length, usage(7, 5), "asked"));
    assert_eq!(outcome.events.len(), 3);
}

#[test]
fn calls_come_whole_with_the_reasoning_before_them() {
    let outcome = at_every_split(KIND, &fixtures()[1].1);
    assert_eq!(outcome.reasoning(), "Two towns.");
    assert_eq!(outcome.text(), "I shall look.");
    assert_eq!(
        outcome.told_calls(),
        [
            ("tooluse_A", "weather", "{\"at\":\"Köln\"}".to_owned()),
            ("tooluse_B", "time", "{}".to_owned()),
        ]
    );
    let with_cache = Usage { cached_input_tokens: Some(40), ..usage(45, 9) };
    assert_eq!(outcome.end(), (FinishReason::ToolCalls, with_cache, "asked"));
    let keepsake =
        Keepsake { signature: Some("c2lnbmVk".into()), reasoning: Some("Two towns.".into()) };
    assert_eq!(outcome.keepsakes, [("tooluse_A".to_owned(), keepsake)]);
}

#[test]
fn what_the_provider_does_itself_and_what_is_new_is_passed_over() {
    let outcome = at_every_split(KIND, &fixtures()[2].1);
    assert_eq!(outcome.text(), "It is 42.");
    assert_eq!(outcome.end(), (FinishReason::Stop, usage(1, 2), "asked"));
    assert_eq!(outcome.events.len(), 2);
}

#[test]
fn a_cut_body_has_no_end_unless_message_stop_was_the_last_event() {
    for (name, bytes) in fixtures() {
        let stopped = (1..bytes.len()).rev().find(|at| whole(&bytes[..*at]).has_end()).unwrap();
        cut_everywhere(KIND, &bytes[..stopped], stopped);
        for cut in (0..bytes.len()).filter(|cut| *cut != stopped) {
            assert_eq!(whole(&bytes[..cut]).failed().0, Class::Incomplete, "{name} at {cut}");
        }
        // Without its metadata the answer is whole, and its cost a guess.
        assert_eq!(whole(&bytes[..stopped]).end().1.estimated, Some(true), "{name}");
    }
}

#[test]
fn damage_at_any_byte_is_a_bad_stream_without_an_end() {
    for (name, bytes) in fixtures() {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(whole(&damaged).failed().0, Class::BadStream, "{name} at {at}");
        }
    }
}

#[test]
fn nothing_after_the_metadata_matters() {
    let (mut bytes, expected) = (fixtures()[0].1.clone(), whole(&fixtures()[0].1));
    bytes.extend(b"garbage");
    assert_eq!(whole(&bytes), expected);
}

#[test]
fn stop_reasons_become_ours() {
    for (theirs, ours) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("something_new", FinishReason::Stop),
        ("tool_use", FinishReason::ToolCalls),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("guardrail_intervened", FinishReason::ContentFilter),
        ("content_filtered", FinishReason::ContentFilter),
    ] {
        let stop = format!("{{\"stopReason\":\"{theirs}\"}}");
        assert_eq!(whole(&stream(&[("messageStop", &stop)])).end().0, ours, "{theirs}");
    }
    for theirs in ["malformed_model_output", "malformed_tool_use"] {
        let stop = format!("{{\"stopReason\":\"{theirs}\"}}");
        assert_eq!(class_of(&[("messageStop", &stop)]), Class::Server, "{theirs}");
    }
}

#[test]
fn events_that_cannot_be_read_are_a_bad_stream() {
    let undone = r#"{"contentBlockIndex":0,"start":{"toolUse":{"name":"f","toolUseId":"t"}}}"#;
    for events in [
        &[("messageStop", "{}")][..],
        &[("messageStop", "")],
        &[("metadata", "[]")],
        &[("contentBlockStop", "{\"contentBlockIndex\":-1}")],
        &[("contentBlockDelta", "{\"contentBlockIndex\":0,\"delta\":{\"text\":7}}")],
        // A call that was never opened has no name.
        &[
            ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"1"}}}"#),
            ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        ],
        &[
            ("contentBlockStart", undone),
            ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{"}}}"#),
            ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
            ("messageStop", r#"{"stopReason":"tool_use"}"#),
        ],
    ] {
        assert_eq!(class_of(events), Class::BadStream, "{events:?}");
    }
}

#[test]
fn an_exception_amid_the_answer_follows_what_was_sent() {
    let mut bytes = stream(&[
        START,
        ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"so far"}}"#),
    ]);
    let headers = [(":message-type", "exception"), (":exception-type", "throttlingException")];
    bytes.extend(message(&headers, "{\"message\":\"Too many tokens\"}"));
    let outcome = at_every_split(KIND, &bytes);
    assert_eq!(outcome.text(), "so far");
    assert_eq!(outcome.failed(), (Class::RateLimited, "Too many tokens [throttlingException]"));
}

#[test]
fn signatures_are_bounded_and_belong_to_one_block() {
    let sign = |block: u8, signature: &str| {
        let payload = format!(
            "{{\"contentBlockIndex\":{block},\"delta\":{{\"reasoningContent\":{{\"text\":\"{block}\",\
             \"signature\":\"{signature}\"}}}}}}"
        );
        event("contentBlockDelta", &payload)
    };
    let call = r#"{"contentBlockIndex":2,"start":{"toolUse":{"name":"f","toolUseId":"t"}}}"#;
    let pieces = [
        sign(0, "a"),
        sign(1, "b"),
        event("contentBlockStart", call),
        event("contentBlockStop", "{\"contentBlockIndex\":2}"),
    ];
    let kept = whole(&pieces.concat()).keepsakes;
    assert_eq!(kept[0].1.signature.as_deref(), Some("b"));
    assert_eq!(kept[0].1.reasoning.as_deref(), Some("1"));

    let long = sign(0, &"x".repeat(1 << 18));
    let outcome = decode(KIND, [&long[..]; 5]);
    assert_eq!(outcome.failed().0, Class::BadStream);
}

/// The text's length and FNV-1a: tells texts apart without repeating them.
fn digest(text: &str) -> (usize, u64) {
    (text.len(), fnv1a(text))
}

struct Recording {
    name: &'static str,
    text: (usize, u64),
    reasoning: (usize, u64),
    /// Id, name and arguments.
    calls: &'static [(&'static str, &'static str, &'static str)],
    finish: FinishReason,
    usage: (u64, u64),
}

const NOTHING: (usize, u64) = (0, 0xcbf2_9ce4_8422_2325);

/// As botocore 1.44.8 decodes them, with its `EventStream` and its model of `bedrock-runtime`; calls
/// of the type `server_tool_use` left out.
const RECORDINGS: [Recording; 5] = [
    Recording {
        name: "bedrock-00.eventstream",
        text: (32, 0x814c_b95b_c10a_b6d7),
        reasoning: (119, 0x06f5_0964_caf5_f65f),
        calls: &[],
        finish: FinishReason::Stop,
        usage: (70, 43),
    },
    Recording {
        name: "bedrock-02.eventstream",
        text: (55, 0x1991_d8d0_8b17_6abc),
        reasoning: (193, 0x3619_462c_b222_063c),
        calls: &[],
        finish: FinishReason::Stop,
        usage: (36, 73),
    },
    Recording {
        name: "bedrock-04.eventstream",
        text: (359, 0x3dd7_6520_c39a_401d),
        reasoning: NOTHING,
        calls: &[],
        finish: FinishReason::Stop,
        usage: (92, 253),
    },
    Recording {
        name: "bedrock-06.eventstream",
        text: NOTHING,
        reasoning: NOTHING,
        calls: &[("tooluse_ptgCcZ0uQu-UUMz0abqoWw", "final_result", "{\"result\":7006652.0}")],
        finish: FinishReason::ToolCalls,
        usage: (1002, 59),
    },
    Recording {
        name: "bedrock-08.eventstream",
        text: (66, 0x0f91_555a_f38d_b7ec),
        reasoning: NOTHING,
        calls: &[],
        finish: FinishReason::Stop,
        usage: (577, 18),
    },
];

#[test]
fn recordings_of_the_service_are_read_as_botocore_reads_them() {
    for recording in &RECORDINGS {
        let name = recording.name;
        let Some(bytes) = recorded(name) else { return };
        let outcome = at_random_splits(KIND, &bytes);
        assert_eq!(digest(&outcome.text()), recording.text, "{name}");
        assert_eq!(digest(&outcome.reasoning()), recording.reasoning, "{name}");
        let calls = outcome.told_calls();
        let calls: Vec<_> =
            calls.iter().map(|(id, name, text)| (*id, *name, text.as_str())).collect();
        assert_eq!(calls, recording.calls, "{name}");
        let (input, output) = recording.usage;
        assert_eq!(outcome.end(), (recording.finish, usage(input, output), "asked"), "{name}");
        for size in [2, 3, 7, 64, 1000] {
            assert_eq!(decode(KIND, bytes.chunks(size)), outcome, "{name} in pieces of {size}");
        }
    }
}
