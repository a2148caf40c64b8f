//! How tests run a codec: a request encoded, a body decoded whole and in pieces of every kind, cut
//! everywhere, and damaged.

use std::path::Path;

use super::{Class, Decoder, Encoding, Failure, Keepsake, NoKeepsakes, Row};
use crate::protocol::{
    AIRequest, FinishReason, Message, MessageRole, StreamEvent, ToolCall, Usage,
};

/// Random ways to split a body, and in how many bytes all of them are of a large one.
const SPLIT_ROUNDS: usize = 200;
const SPLIT_SIZE: usize = 8 << 20;
/// Random ways to damage a body.
const DAMAGE_ROUNDS: u64 = 2000;

/// The row of this kind.
pub(super) fn row(kind: &str) -> &'static Row {
    Row::of(kind).expect("a test knows its kind of provider")
}

/// An encoding for this kind of provider, with nothing in particular.
pub(super) fn encoding(kind: &str) -> Encoding<'static> {
    Encoding {
        row: row(kind),
        model: "model-1",
        max_tokens_default: 8192,
        drop_temperature: false,
        context_size: None,
        api_version: None,
        keepsakes: &NoKeepsakes,
    }
}

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

    /// Id, name and arguments of each call.
    pub(super) fn told_calls(&self) -> Vec<(&str, &str, String)> {
        let told = |call: &ToolCall| call.parameters.0.to_string();
        let calls = self.calls().into_iter();
        calls.map(|call| (call.id.as_str(), call.name.as_str(), told(call))).collect()
    }

    /// What the end says. (Nothing came after it: [`decode`] makes sure.)
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

    /// The class and the text of the failure.
    #[track_caller]
    pub(super) fn failed(&self) -> (Class, &str) {
        let failure = self.failure.as_ref().expect("a failure");
        (failure.class, failure.detail.as_str())
    }
}

/// Runs a body in these pieces, to its end or to the first failure.
#[track_caller]
pub(super) fn decode<'a>(kind: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let request = AIRequest::new("asked", vec![Message::new(MessageRole::User, "12345678")]);
    let mut decoder = Decoder::new(row(kind), &request);
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
    assert_eq!(outcome.has_end(), result.is_ok(), "an end or a failure");
    outcome.failure = result.err();
    outcome
}

fn take(decoder: &mut Decoder, outcome: &mut Outcome) {
    while let Some(mut event) = decoder.next_event() {
        assert!(!outcome.has_end(), "{event:?} after the end");
        if let StreamEvent::ToolCall { tool_call } = &mut event {
            same_id(&mut tool_call.id);
        }
        let is_end = matches!(event, StreamEvent::End { .. });
        assert!(is_end || decoder.has_output(), "{event:?} before any output");
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
pub(super) fn at_every_split(kind: &str, body: &[u8]) -> Outcome {
    let whole = at_random_splits(kind, body);
    for split in 0..=body.len() {
        assert_eq!(decode(kind, [&body[..split], &body[split..]]), whole, "split at {split}");
    }
    whole
}

/// The same, for bodies that are too large for every split.
#[track_caller]
pub(super) fn at_random_splits(kind: &str, body: &[u8]) -> Outcome {
    let whole = decode(kind, [body]);
    assert_eq!(decode(kind, body.chunks(1)), whole, "byte by byte");
    for seed in 0..(SPLIT_SIZE / body.len().max(1)).min(SPLIT_ROUNDS) as u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        assert_eq!(decode(kind, random_pieces(&mut random, body)), whole, "pieces of seed {seed}");
    }
    whole
}

/// From pieces of a few bytes to pieces of many events, empty ones among them.
fn random_pieces<'a>(random: &mut fastrand::Rng, mut rest: &'a [u8]) -> Vec<&'a [u8]> {
    let size_max = 1 << random.usize(1..14);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(0..=rest.len().min(size_max)));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Requires of a body whose answer is whole that it is one only with its first `whole_size` bytes, and
/// that a shorter one failed as a body that broke off. A body that is no answer has no such size:
/// `usize::MAX`.
#[track_caller]
pub(super) fn cut_everywhere(kind: &str, body: &[u8], whole_size: usize) {
    for size in 0..=body.len() {
        let cut = decode(kind, [&body[..size]]);
        if size >= whole_size {
            assert!(cut.has_end(), "no end after {size} bytes: {:?}", cut.failure);
            continue;
        }
        assert!(!cut.has_end(), "an end after {size} of {whole_size} bytes");
        let class = cut.failed().0;
        if whole_size <= body.len() {
            let broke_off = matches!(class, Class::Incomplete | Class::BadStream);
            assert!(broke_off, "{class:?} after {size} bytes");
        }
    }
}

/// Requires of a body with bytes changed, lost and repeated that it gives something or fails, the
/// same in all pieces.
#[track_caller]
pub(super) fn damaged(kind: &str, body: &[u8]) {
    for seed in 0..DAMAGE_ROUNDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut damaged = body.to_vec();
        for _ in 0..random.usize(1..=4) {
            let at = random.usize(..damaged.len());
            let end = random.usize(at..=damaged.len().min(at + 100));
            match random.u8(..4) {
                0 => damaged[at] = random.u8(..),
                1 => damaged[at] = *random.choice(b"{}[]\",:\\ \r\n0-x").expect("not empty"),
                2 if end - at < damaged.len() => drop(damaged.drain(at..end)),
                _ => drop(damaged.splice(at..at, damaged[at..end].to_vec())),
            }
        }
        let whole = decode(kind, [&damaged[..]]);
        let pieces = random_pieces(&mut random, &damaged);
        assert_eq!(decode(kind, pieces), whole, "seed {seed}");
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
