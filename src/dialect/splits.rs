//! For tests: a body decoded in every way in which a network may cut it up.

use super::{Class, Decoder, Failure, Keepsake, Row};
use crate::protocol::{
    AIRequest, FinishReason, Message, MessageRole, StreamEvent, ToolCall, Usage,
};

/// Rounds of pieces of any size.
const ROUNDS: u64 = 200;

/// All that came out of a body.
#[derive(Debug, PartialEq)]
pub(super) struct Decoded {
    pub(super) events: Vec<StreamEvent>,
    pub(super) keepsakes: Vec<(String, Keepsake)>,
    pub(super) result: Result<(), Failure>,
}

impl Decoded {
    /// The pieces of text, joined.
    pub(super) fn text(&self) -> String {
        let piece = |event: &StreamEvent| match event {
            StreamEvent::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(piece).collect()
    }

    /// The pieces of reasoning, joined.
    pub(super) fn reasoning(&self) -> String {
        let piece = |event: &StreamEvent| match event {
            StreamEvent::Reasoning { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(piece).collect()
    }

    pub(super) fn calls(&self) -> Vec<&ToolCall> {
        let mut calls = Vec::new();
        for event in &self.events {
            if let StreamEvent::ToolCall { tool_call } = event {
                calls.push(tool_call);
            }
        }
        calls
    }

    /// The end, which must be there once and last.
    #[track_caller]
    pub(super) fn end(&self) -> (FinishReason, Usage, &str) {
        assert_eq!(self.result, Ok(()));
        let is_end = |event: &&StreamEvent| matches!(event, StreamEvent::End { .. });
        assert_eq!(self.events.iter().filter(is_end).count(), 1);
        match self.events.last() {
            Some(StreamEvent::End { finish_reason, usage, model }) => {
                (*finish_reason, *usage, model)
            }
            other => panic!("{other:?}"),
        }
    }

    fn has_ended(&self) -> bool {
        self.events.iter().any(|event| matches!(event, StreamEvent::End { .. }))
    }
}

/// Decodes the pieces of a body.
pub(super) fn decode<'a>(row: &Row, pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let request = AIRequest::new("asked", vec![Message::new(MessageRole::User, "say something")]);
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
    Decoded { events, keepsakes: decoder.take_keepsakes(), result }
}

/// Decodes a body whole, at every split in two, byte by byte and in random pieces; it must not show.
#[track_caller]
pub(super) fn decode_at_every_split(row: &Row, body: &[u8]) -> Decoded {
    let whole = decode(row, [body]);
    for split in 0..=body.len() {
        let pieces = [&body[..split], &body[split..]];
        assert_eq!(decode(row, pieces), whole, "split at {split}");
    }
    assert_eq!(decode(row, body.chunks(1)), whole, "byte by byte");
    for seed in 0..ROUNDS {
        let mut random = fastrand::Rng::with_seed(seed);
        assert_eq!(decode(row, random_pieces(&mut random, body)), whole, "seed {seed}");
    }
    whole
}

/// A body with bytes changed, lost and repeated gives something or fails, the same in all pieces.
#[track_caller]
pub(super) fn decode_damaged(row: &Row, body: &[u8]) {
    for seed in 0..ROUNDS * 10 {
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
        let whole = decode(row, [&damaged[..]]);
        let pieces = decode(row, random_pieces(&mut random, &damaged));
        // Calls may have lost the ids that they came with, and get new ones each time.
        let seen = |decoded: Decoded| {
            (decoded.text(), decoded.reasoning(), decoded.events.len(), decoded.result)
        };
        assert_eq!(seen(pieces), seen(whole), "seed {seed}");
    }
}

fn random_pieces<'a>(
    random: &mut fastrand::Rng,
    mut rest: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        // Small pieces and large ones alike.
        let size_max = random.usize(1..=rest.len().max(1));
        let (piece, after) = rest.split_at(random.usize(1..=size_max).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A body that was cut anywhere before the last byte of `proof` must fail, as one that broke off.
#[track_caller]
pub(super) fn never_ends_before(row: &Row, body: &[u8], proof: &str) {
    let mut windows = body.windows(proof.len());
    let at = windows.rposition(|window| window == proof.as_bytes());
    let whole = at.expect("the proof is in the body") + proof.len();
    for size in 0..whole {
        let cut = decode(row, [&body[..size]]);
        assert!(!cut.has_ended(), "an end after {size} of {whole} bytes");
        let class = cut.result.unwrap_err().class;
        assert!(matches!(class, Class::Incomplete | Class::BadStream), "{class:?} after {size}");
    }
    for size in whole..=body.len() {
        decode(row, [&body[..size]]).end();
    }
}
