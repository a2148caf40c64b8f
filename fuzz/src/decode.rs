//! The body of a provider's answer, in pieces: each dialect's decoder.

use annulus::dialect::{Decoder, Dialect, Failure, ROWS, Row};
use annulus::protocol::{AIRequest, Message, MessageRole, StreamEvent};

use super::pieces::{read_splits, split};

/// Bytes of a provider's words that a failure keeps.
const DETAIL_SIZE_MAX: usize = 4 << 10;
/// How much larger than a body what comes out of it may be: written again, `1e15` has 18 digits, and
/// a call without an id gets one.
const GROWTH_MAX: usize = 16;

/// OpenAI's chat completions.
pub fn decode_openai(bytes: &[u8]) {
    decode(Dialect::OpenAi, bytes);
}

/// Anthropic's messages.
pub fn decode_anthropic(bytes: &[u8]) {
    decode(Dialect::Anthropic, bytes);
}

/// Google's generateContent.
pub fn decode_gemini(bytes: &[u8]) {
    decode(Dialect::Gemini, bytes);
}

/// Ollama's chat.
pub fn decode_ollama(bytes: &[u8]) {
    decode(Dialect::Ollama, bytes);
}

/// Amazon Bedrock's converse-stream.
#[cfg(feature = "bedrock")]
pub fn decode_bedrock(bytes: &[u8]) {
    decode(Dialect::Bedrock, bytes);
}

/// Cohere's chat.
pub fn decode_cohere(bytes: &[u8]) {
    decode(Dialect::Cohere, bytes);
}

/// A script: the splits, the body.
fn decode(dialect: Dialect, bytes: &[u8]) {
    let Some((splits, body)) = read_splits(bytes) else { return };
    // Of a dialect without a row yet the decoder is tested all the same.
    let of_dialect = ROWS.iter().find(|row| row.dialect == dialect);
    let row = Row { dialect, ..*of_dialect.unwrap_or(&ROWS[0]) };
    let whole = run(&row, [body].into_iter());
    assert_eq!(run(&row, split(body, splits)), whole, "the split of the body shows");
    assert_plausible(&whole, body.len());
}

/// What came out, and how it went wrong if it did.
type Outcome = (Vec<StreamEvent>, Option<Failure>);

fn run<'a>(row: &Row, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let request = AIRequest::new("asked", vec![Message::new(MessageRole::User, "12345678")]);
    let mut decoder = Decoder::new(row, &request);
    let mut events = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        result = decoder.feed(piece);
        events.extend(std::iter::from_fn(|| decoder.next_event()));
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = decoder.finish();
        events.extend(std::iter::from_fn(|| decoder.next_event()));
    }
    assert_eq!(decoder.is_over(), result.is_ok(), "an end or a failure");
    let kept = decoder.take_keepsakes().len();
    for event in &mut events {
        if let StreamEvent::ToolCall { tool_call } = event {
            same_id(&mut tool_call.id);
        }
    }
    let calls = events.iter().filter(|event| matches!(event, StreamEvent::ToolCall { .. })).count();
    assert!(kept <= calls, "{kept} keepsakes of {calls} calls");
    (events, result.err())
}

/// The ids that are ours differ from run to run.
fn same_id(id: &mut String) {
    let number = id.strip_prefix("call_").unwrap_or_default();
    if number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "call".clone_into(id);
    }
}

/// Holds what a client may rely on: one end, as the last event, exactly when nothing failed; and no
/// more than the body can have held.
fn assert_plausible((events, failure): &Outcome, body_size: usize) {
    let is_end = |event: &StreamEvent| matches!(event, StreamEvent::End { .. });
    let ends = events.iter().filter(|event| is_end(event)).count();
    assert_eq!(ends, usize::from(failure.is_none()), "one end, or a failure");
    assert_eq!(ends == 1, events.last().is_some_and(is_end), "the end is the last event");
    let size: usize = events.iter().map(size).sum();
    assert!(size <= GROWTH_MAX * body_size + 64, "{size} bytes came out of {body_size}");
    if let Some(failure) = failure {
        assert!(failure.detail.len() <= DETAIL_SIZE_MAX, "a failure keeps few words");
        assert!(!failure.to_string().is_empty(), "a failure says something");
    }
}

fn size(event: &StreamEvent) -> usize {
    match event {
        StreamEvent::Text { text } | StreamEvent::Reasoning { text } => {
            assert!(!text.is_empty(), "a piece of nothing");
            text.len()
        }
        StreamEvent::ToolCall { tool_call } => {
            assert!(!tool_call.name.is_empty() && !tool_call.id.is_empty(), "{tool_call:?}");
            let parameters = tool_call.parameters.0.to_string();
            tool_call.name.len() + tool_call.id.len() + parameters.len()
        }
        StreamEvent::End { model, .. } => model.len(),
    }
}
