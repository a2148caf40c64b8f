//! Each dialect from the client's ring to an upstream and back: what is said, in which order, how it
//! ends, and what becomes of a refusal.
#![cfg(feature = "cli")]

mod common;
#[path = "common/providers.rs"]
mod providers;

use std::time::Duration;

use annulus::IpcError;
use annulus::client::Client;
use annulus::protocol::{
    AIRequest, CodecId, FinishReason, JsonValue, Message, MessageRole, Tool, ToolCall,
};
use serde_json::json;

use providers::{
    Answer, KINDS, ask, client, complete, daemon, provider, stream, text_of, upstream,
};

/// Asks for the same in both ways, and in both codecs.
fn every_way(daemon: &common::Daemon, request: &AIRequest) -> Vec<Answer> {
    let mut answers = Vec::new();
    for codec in [CodecId::JSON, CodecId::RKYV] {
        let client = Client::connect(&daemon.options().codec(codec)).unwrap();
        answers.extend([stream(&client, request), complete(&client, request)]);
    }
    answers
}

#[test]
fn text_reasoning_calls_usage_and_the_end_arrive_however_the_bytes_are_split() {
    let upstream = upstream();
    let config: String =
        KINDS.iter().map(|(kind, _)| provider(kind, kind, &upstream.url(), "")).collect();
    let daemon = daemon(&config);
    for (kind, _) in KINDS {
        for split in ["ok", "split-1", "split-7", "crlf_unknown"] {
            let model = format!("fake-reasoning_tools_{split}");
            for answer in every_way(&daemon, &ask(&format!("{kind}/{model}"))) {
                answer.assert_whole(&text_of(10));
                assert_eq!(answer.reasoning, "First I think, then I speak.", "{kind} {split}");
                let names: Vec<&str> = answer.calls.iter().map(|call| call.name.as_str()).collect();
                assert_eq!(names, ["get_weather"; 2], "{kind} {split}");
                let cities = ["Paris", "Tōkyō"].map(|city| json!({"city": city, "days": 2}));
                for (call, wanted) in answer.calls.iter().zip(cities) {
                    assert_eq!(call.parameters, JsonValue(wanted), "{kind} {split}");
                    assert!(!call.id.is_empty());
                }
                assert_ne!(answer.calls[0].id, answer.calls[1].id);
                let (finish, usage, answered) = answer.end.unwrap();
                assert_eq!(finish, FinishReason::ToolCalls, "{kind} {split}");
                assert_eq!((usage.input_tokens, usage.output_tokens), (11, 7), "{kind} {split}");
                assert_eq!(usage.estimated, None, "{kind} {split}");
                assert_eq!(answered, model, "{kind}");
            }
        }
    }
    upstream.log(|log| {
        assert!(log.requests.iter().all(|request| request.key == fake_upstream::Key::Right));
    });
}

#[test]
fn the_longest_answer_and_a_missing_count_are_told() {
    let upstream = upstream();
    let config: String =
        KINDS.iter().map(|(kind, _)| provider(kind, kind, &upstream.url(), "")).collect();
    let daemon = daemon(&config);
    let client = client(&daemon);
    for (kind, _) in KINDS {
        let request = ask(&format!("{kind}/fake-finish-length_no-usage_chunks-5"));
        let (streamed, whole) = (stream(&client, &request), complete(&client, &request));
        for answer in [&streamed, &whole] {
            answer.assert_whole(&text_of(5));
            assert!(answer.reasoning.is_empty() && answer.calls.is_empty(), "{kind}");
            assert_eq!(answer.end.as_ref().unwrap().0, FinishReason::Length, "{kind}");
        }
        assert_eq!(streamed.end, whole.end);
        // Vendors whose form has a place for the count always fill it.
        let usage = streamed.end.unwrap().1;
        assert!(usage.estimated == Some(true) || usage.total_tokens == 0, "{kind}: {usage:?}");
        assert_eq!(streamed.pieces, 5, "{kind}: a chunk for each event");
    }
}

#[test]
fn a_conversation_with_tools_reaches_the_upstream() {
    let upstream = upstream();
    let config: String =
        KINDS.iter().map(|(kind, _)| provider(kind, kind, &upstream.url(), "")).collect();
    let daemon = daemon(&config);
    let client = client(&daemon);
    for (kind, _) in KINDS {
        let mut request = ask(&format!("{kind}/fake-tools_chunks-0"));
        request.system_prompt = Some("You are terse.".to_owned());
        request.max_tokens = Some(77);
        request.tools = Some(vec![Tool {
            name: "get_weather".to_owned(),
            description: Some("Knows the weather.".to_owned()),
            parameters: Some(JsonValue(json!({
                "type": "object", "properties": {"city": {"type": "string"}},
            }))),
        }]);
        let first = complete(&client, &request);
        first.assert_whole("");

        // Its calls go back with the history, and the next message has their result.
        let mut assistant = Message::new(MessageRole::Assistant, "");
        assistant.tool_calls = Some(vec![ToolCall { ..first.calls[0].clone() }]);
        request.messages.push(assistant);
        request.messages.push(Message::new(MessageRole::User, "It rains in Paris."));
        request.model = format!("{kind}/fake-chunks-3");
        complete(&client, &request).assert_whole(&text_of(3));
        upstream.log(|log| {
            let body = &log.requests.back().unwrap().body;
            for part in ["You are terse.", "get_weather", "It rains in Paris.", "Knows the", "77"] {
                assert!(body.contains(part), "{kind}: no {part:?} in {body}");
            }
        });
    }
}

/// What a refusal of an upstream becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Becomes {
    InvalidRequest,
    ProviderFailed,
    Busy,
}

const REFUSALS: [(&str, Becomes); 13] = [
    ("400", Becomes::InvalidRequest),
    ("404", Becomes::InvalidRequest),
    ("413", Becomes::InvalidRequest),
    ("422", Becomes::InvalidRequest),
    ("bad-key", Becomes::ProviderFailed),
    ("401", Becomes::ProviderFailed),
    ("403", Becomes::ProviderFailed),
    ("quota", Becomes::ProviderFailed),
    ("429-retry-after-100", Becomes::Busy),
    ("500", Becomes::ProviderFailed),
    ("503", Becomes::ProviderFailed),
    ("529", Becomes::ProviderFailed),
    ("error-first", Becomes::ProviderFailed),
];

#[test]
fn a_refusal_becomes_the_error_that_tells_the_client_what_to_do() {
    let upstream = upstream();
    // A provider for each refusal, because they have consequences: a refused key rests.
    let mut config = "upstream.retries_max = 0\n".to_owned();
    for (kind, _) in KINDS {
        for (index, _) in REFUSALS.iter().enumerate() {
            for way in ["s", "c"] {
                config += &provider(&format!("{kind}-{index}{way}"), kind, &upstream.url(), "");
            }
        }
    }
    let daemon = daemon(&config);
    let client = client(&daemon);
    for (kind, _) in KINDS {
        for (index, (script, becomes)) in REFUSALS.into_iter().enumerate() {
            let model = |way: &str| ask(&format!("{kind}-{index}{way}/fake-{script}"));
            for answer in [stream(&client, &model("s")), complete(&client, &model("c"))] {
                let text = answer.failure();
                let error = answer.error.as_ref().unwrap();
                let became = match error {
                    IpcError::InvalidRequest { .. } => Becomes::InvalidRequest,
                    IpcError::ProviderFailed { .. } => Becomes::ProviderFailed,
                    IpcError::Busy { .. } => Becomes::Busy,
                    other => panic!("{kind} {script}: {other:?}"),
                };
                assert_eq!(became, becomes, "{kind} {script}: {text}");
                assert_eq!(answer.pieces, 0);
                match error {
                    IpcError::Busy { retry_after } => {
                        let asked = Duration::from_secs(90)..=Duration::from_secs(100);
                        assert!(asked.contains(retry_after), "{kind}: {retry_after:?}");
                    }
                    _ => assert!(text.contains(&format!("{kind}-{index}")), "{kind}: {text}"),
                }
            }
        }
    }
}
