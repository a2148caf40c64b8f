//! Both codecs against the same values and the same hostile bytes.

use serde_json::json;

use super::*;
use crate::protocol::{
    FinishReason, JsonErrorKind, JsonValue, Message, MessageRole, Tool, ToolCall, Usage,
};

/// What no error may show.
const SECRET: &str = "hunter2";

const CODECS: [&dyn Codec; 2] = [&JsonCodec, &RkyvCodec];

fn tool_call() -> ToolCall {
    ToolCall {
        name: "read_file".into(),
        parameters: JsonValue(json!({"path": SECRET, "depth": [1, -2.5, {"k": null}]})),
        id: "call-1".into(),
    }
}

fn request() -> AIRequest {
    let mut message = Message::new(MessageRole::Assistant, "\u{1f980} and more than eight bytes");
    message.tool_calls = Some(vec![tool_call(), tool_call()]);
    AIRequest {
        messages: vec![Message::new(MessageRole::User, SECRET), message],
        model: "loopback".into(),
        temperature: Some(0.7),
        max_tokens: Some(4096),
        tools: Some(vec![Tool {
            name: "read_file".into(),
            description: Some("Reads a file.".into()),
            parameters: Some(JsonValue(json!({"type": "object", "title": SECRET}))),
        }]),
        system_prompt: Some(SECRET.into()),
        stream: Some(true),
    }
}

fn completion() -> Completion {
    Completion {
        content: SECRET.into(),
        reasoning: Some("because".into()),
        tool_calls: Some(vec![tool_call()]),
        finish_reason: FinishReason::ToolCalls,
        usage: Usage::estimate(1000, 100),
        model: "loopback".into(),
    }
}

fn stream_events() -> [StreamEvent; 4] {
    [
        StreamEvent::Text { text: SECRET.into() },
        StreamEvent::Reasoning { text: "".into() },
        StreamEvent::ToolCall { tool_call: tool_call() },
        StreamEvent::End {
            finish_reason: FinishReason::Stop,
            usage: Usage::default(),
            model: "loopback".into(),
        },
    ]
}

/// Where `needle` begins in `bytes`.
fn position(bytes: &[u8], needle: &[u8]) -> usize {
    let mut windows = bytes.windows(needle.len());
    windows.position(|window| window == needle).unwrap()
}

/// One payload of every kind.
fn payloads(codec: &dyn Codec) -> Vec<Vec<u8>> {
    let mut payloads = vec![Vec::new(); 2];
    codec.encode_request(&request(), &mut payloads[0]).unwrap();
    codec.encode_completion(&completion(), &mut payloads[1]).unwrap();
    for event in stream_events() {
        let mut payload = Vec::new();
        codec.encode_stream_event(&event, &mut payload).unwrap();
        payloads.push(payload);
    }
    payloads
}

/// Reads `payload` as every type, reads what it gives once more after encoding it, and returns the
/// errors.
fn decode_as_everything(codec: &dyn Codec, payload: &[u8]) -> Vec<CodecError> {
    let mut again = Vec::new();
    let request = codec.decode_request(payload).map(|request| {
        // An archive may hold a temperature that JSON cannot; here it is enough that nothing
        // panics.
        if codec.encode_request(&request, &mut again).is_ok() {
            codec.decode_request(&again).unwrap();
        }
    });
    again.clear();
    let completion = codec.decode_completion(payload).map(|completion| {
        codec.encode_completion(&completion, &mut again).unwrap();
        assert_eq!(codec.decode_completion(&again), Ok(completion));
    });
    again.clear();
    let event = codec.decode_stream_event(payload).map(|event| {
        codec.encode_stream_event(&event, &mut again).unwrap();
        assert_eq!(codec.decode_stream_event(&again), Ok(event));
    });
    [request, completion, event].into_iter().filter_map(Result::err).collect()
}

#[test]
fn every_value_comes_back_wherever_it_lies_in_memory() {
    for codec in CODECS {
        // Encoded after a prefix of every length, so decoded at every alignment too.
        for prefix in 0..=16 {
            let mut out = vec![0xaa; prefix];
            codec.encode_request(&request(), &mut out).unwrap();
            assert!(out[..prefix].iter().all(|byte| *byte == 0xaa));
            assert_eq!(codec.decode_request(&out[prefix..]), Ok(request()));

            out.truncate(prefix);
            codec.encode_completion(&completion(), &mut out).unwrap();
            assert_eq!(codec.decode_completion(&out[prefix..]), Ok(completion()));

            for event in stream_events() {
                out.truncate(prefix);
                codec.encode_stream_event(&event, &mut out).unwrap();
                assert_eq!(codec.decode_stream_event(&out[prefix..]), Ok(event));
            }
        }
    }
}

#[test]
fn failed_encoding_leaves_the_output_as_it_was() {
    let mut request = request();
    request.temperature = Some(f64::NAN);
    let mut out = b"before".to_vec();
    let error = JsonCodec.encode_request(&request, &mut out).unwrap_err();
    assert_eq!(out, b"before");
    assert_eq!(error.to_string(), "cannot encode a request as JSON: the value has no form in JSON");
}

#[test]
fn ids_are_stable_and_leave_a_range_to_users() {
    assert_eq!(JsonCodec.id(), CodecId(1));
    assert_eq!(RkyvCodec.id(), CodecId(2));
    assert!(!CodecId(127).is_user() && CodecId(128).is_user());
    assert_eq!(CodecId(200).to_string(), "codec 200");
}

#[test]
fn error_names_operation_type_codec_and_place() {
    assert_eq!(
        JsonCodec.decode_completion(br#"{"content":""}"#).unwrap_err().to_string(),
        "cannot decode a completion as JSON: the JSON lacks the field `finishReason` at line 1, column 14"
    );
    assert_eq!(
        RkyvCodec.decode_stream_event(b"").unwrap_err().to_string(),
        "cannot decode a stream event as rkyv: the archive is invalid"
    );
}

#[test]
fn archive_error_names_the_innermost_field() {
    let mut out = Vec::new();
    let request = AIRequest::new("m", vec![Message::new(MessageRole::User, SECRET)]);
    RkyvCodec.encode_request(&request, &mut out).unwrap();
    // Any text of up to eight bytes lies inline, where a first byte of 0x80 or 0xff has a meaning
    // of rkyv's own.
    let at = position(&out, SECRET.as_bytes()) + 1;
    out[at] = 0xfe; // Never in UTF-8.
    let error = RkyvCodec.decode_request(&out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode a request as rkyv: the archive is invalid at `content` of Message"
    );
}

#[test]
fn bad_json_inside_an_archive_is_a_typed_error() {
    let mut out = Vec::new();
    let event = StreamEvent::ToolCall {
        tool_call: ToolCall { parameters: JsonValue(json!({"path": SECRET})), ..tool_call() },
    };
    RkyvCodec.encode_stream_event(&event, &mut out).unwrap();
    let at = position(&out, b"{\"path");
    out[at] = b'[';
    let error = RkyvCodec.decode_stream_event(&out).unwrap_err();
    let CodecErrorReason::Archive(ArchiveError::Json(json)) = error.reason else {
        panic!("{error}");
    };
    assert_eq!((json.kind, json.column), (JsonErrorKind::Malformed, 8));
}

#[test]
fn brackets_without_end_are_refused_by_both() {
    let brackets = "[".repeat(100_000);
    let payload =
        format!(r#"{{"type":"toolCall","toolCall":{{"name":"n","id":"i","parameters":{brackets}"#);
    let error = JsonCodec.decode_stream_event(payload.as_bytes()).unwrap_err();
    let CodecErrorReason::Json(json) = error.reason else {
        panic!("{error}");
    };
    assert_eq!(json.kind, JsonErrorKind::TooDeep);

    // A value can be deeper in memory than it may be when it is read back.
    let deep = (0..200).fold(json!(0), |inner, _| json!([inner]));
    let mut out = Vec::new();
    let event = StreamEvent::ToolCall {
        tool_call: ToolCall { parameters: JsonValue(deep), ..tool_call() },
    };
    RkyvCodec.encode_stream_event(&event, &mut out).unwrap();
    let error = RkyvCodec.decode_stream_event(&out).unwrap_err();
    let CodecErrorReason::Archive(ArchiveError::Json(json)) = error.reason else {
        panic!("{error}");
    };
    assert_eq!(json.kind, JsonErrorKind::TooDeep);
}

#[test]
fn errors_never_show_the_payload() {
    let hostile = [
        format!(r#"{{"model":"m","messages":"{SECRET}"}}"#),
        format!(r#"{{"model":"m","messages":[{{"role":"{SECRET}","content":""}}]}}"#),
        format!(r#"{{"model":"m","messages":[],"temperature":"{SECRET}"}}"#),
        format!(r#"{{"model":"m","messages":[],"tools":["missing field `{SECRET}`"]}}"#),
        format!(r#"{{"type":"{SECRET}"}}"#),
        format!(r#"{{"type":"missing field `{SECRET}`"}}"#),
        format!(r#"{{"{SECRET}":"#),
        format!("\"{SECRET}\""),
        SECRET.to_owned(),
    ];
    for codec in CODECS {
        let payloads = payloads(codec);
        let hostile = hostile.iter().map(String::as_bytes);
        for payload in hostile.chain(payloads.iter().map(Vec::as_slice)) {
            for error in decode_as_everything(codec, payload) {
                assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
            }
        }
    }
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    const SEEDS: u64 = 8;
    const MUTATIONS: u64 = 1500;

    for codec in CODECS {
        let payloads = payloads(codec);
        let mut refused = 0;
        for seed in 1..=SEEDS {
            println!("{} seed {seed}", codec.id()); // Shown when the test fails.
            let mut random = XorShift(seed);
            for _ in 0..MUTATIONS {
                let bytes = mutate(&payloads, &mut random);
                let errors = decode_as_everything(codec, &bytes);
                refused += errors.len();
                for error in errors {
                    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
                }
            }
        }
        assert!(refused > 0, "mutations that are never refused test nothing");
    }
}

/// A payload with one to four wounds.
fn mutate(payloads: &[Vec<u8>], random: &mut XorShift) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\x01\x7f\x80\xff{}[]\",:\\-0";
    let mut bytes = payloads[random.below(payloads.len())].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            // Cut off the end, or the beginning.
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(..at)),
            // Put the inside of another payload here.
            2 => {
                let other = &payloads[random.below(payloads.len())];
                let from = random.below(other.len());
                let to = from + random.below(other.len() - from + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            // Flip a bit, or write a byte with a meaning in either format.
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 if at < bytes.len() => bytes[at] = TELLING[random.below(TELLING.len())],
            // Write a length or a relative pointer.
            _ if at + 4 <= bytes.len() => {
                let words = [0, 1, 8, u32::MAX, 1 << 31, u32::from(random.byte())];
                let word = words[random.below(words.len())].to_le_bytes();
                bytes[at..at + 4].copy_from_slice(&word);
            }
            _ => bytes.push(b' '),
        }
    }
    bytes
}

/// Marsaglia's xorshift64 (Journal of Statistical Software 8(14), 2003). The seed must not be zero.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}
