//! How tests run a decoder: in every and in many pieces, and on bodies that are cut.

use std::path::Path;

use super::{Decoder, Failure, Keepsake, Row};
use crate::protocol::{
    AIRequest, FinishReason, Message, MessageRole, StreamEvent, ToolCall, Usage,
};

/// What a decoder made of a body.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Ids that are ours and differ from run to run are `call`.
    pub(super) events: Vec<StreamEvent>,
    pub(super) keepsakes: Vec<(String, Keepsake)>,
    pub(super) failure: Option<Failure>,
}

impl Outcome {
    pub(super) fn has_end(&self) -> bool {
        self.events.iter().any(|event| matches!(event, StreamEvent::End { .. }))
    }

    /// All text.
    pub(super) fn text(&self) -> String {
        let text = |event: &StreamEvent| match event {
            StreamEvent::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    /// All reasoning.
    pub(super) fn reasoning(&self) -> String {
        let text = |event: &StreamEvent| match event {
            StreamEvent::Reasoning { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    pub(super) fn calls(&self) -> Vec<&ToolCall> {
        let calls = self.events.iter().filter_map(|event| match event {
            StreamEvent::ToolCall { tool_call } => Some(tool_call),
            _ => None,
        });
        calls.collect()
    }

    /// What the end says.
    #[track_caller]
    pub(super) fn end(&self) -> (FinishReason, Usage, &str) {
        assert_eq!(self.failure, None);
        match self.events.last() {
            Some(StreamEvent::End { finish_reason, usage, model }) => {
                (*finish_reason, *usage, model.as_str())
            }
            other => panic!("no end but {other:?}"),
        }
    }
}

/// Runs a body in these pieces, to its end or to the first failure.
pub(super) fn decode<'a>(row: &Row, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let request = AIRequest::new("asked", vec![Message::new(MessageRole::User, "12345678")]);
    let mut decoder = Decoder::new(row, &request);
    let mut outcome = Outcome::default();
    let mut result = Ok(());
    for piece in pieces {
        result = decoder.feed(piece);
        take(&mut decoder, &mut outcome);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = decoder.finish();
        take(&mut decoder, &mut outcome);
    }
    assert_eq!(outcome.has_end(), decoder.is_over());
    outcome.failure = result.err();
    outcome
}

fn take(decoder: &mut Decoder, outcome: &mut Outcome) {
    while let Some(mut event) = decoder.next_event() {
        assert!(!outcome.has_end(), "{event:?} after the end");
        if let StreamEvent::ToolCall { tool_call } = &mut event {
            same_id(&mut tool_call.id);
        }
        outcome.events.push(event);
    }
    for (mut id, keepsake) in decoder.take_keepsakes() {
        same_id(&mut id);
        outcome.keepsakes.push((id, keepsake));
    }
}

fn same_id(id: &mut String) {
    let number = id.strip_prefix("call_").unwrap_or_default();
    if number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "call".clone_into(id);
    }
}

/// Runs a body whole, and requires the same of every split in two, of single bytes, and of many
/// random pieces.
#[track_caller]
pub(super) fn at_every_split(row: &Row, body: &[u8]) -> Outcome {
    let whole = at_random_splits(row, body);
    for split in 0..=body.len() {
        assert_eq!(decode(row, [&body[..split], &body[split..]]), whole, "split at {split}");
    }
    whole
}

/// The same, for bodies that are too large for every split.
#[track_caller]
pub(super) fn at_random_splits(row: &Row, body: &[u8]) -> Outcome {
    let whole = decode(row, [body]);
    assert_eq!(decode(row, body.chunks(1)), whole, "byte by byte");
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        // From pieces of a few bytes to pieces of several events.
        let size_max = 1 << random.usize(1..12);
        let (mut pieces, mut rest) = (Vec::new(), body);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(0..=rest.len().min(size_max)));
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(decode(row, pieces), whole, "pieces of seed {seed}");
    }
    whole
}

/// Requires of a body whose answer is whole that it is not as long as its first `whole_size` bytes
/// are not all there.
#[track_caller]
pub(super) fn cut_everywhere(row: &Row, body: &[u8], whole_size: usize) {
    for size in 0..body.len() {
        let cut = decode(row, [&body[..size]]);
        if size < whole_size {
            assert!(!cut.has_end(), "an end after {size} bytes");
            assert!(cut.failure.is_some(), "no failure after {size} bytes");
        } else {
            assert!(cut.has_end(), "no end after {size} bytes: {:?}", cut.failure);
        }
    }
}

/// Where `needle`, which is there once, ends.
#[track_caller]
pub(super) fn end_of(body: &[u8], needle: &str) -> usize {
    let mut hits =
        body.windows(needle.len()).enumerate().filter(|(_, at)| *at == needle.as_bytes());
    let (start, _) = hits.next().expect("it is there");
    assert!(hits.next().is_none(), "{needle} is there once");
    start + needle.len()
}

/// The recorded body of this name. They are not part of the project: without them the test that asks
/// has nothing to show and says so.
pub(super) fn recorded(name: &str) -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recorded");
    if !folder.is_dir() {
        println!("skipped: no recorded bodies in ../shared/recorded");
        return None;
    }
    Some(std::fs::read(folder.join(name)).expect("the folder is there, so the body is"))
}
