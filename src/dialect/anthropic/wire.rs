//! The events of the stream, as far as they are read.
//!
//! Everything that may be missing may be missing here: whether that matters is for the reader.

use serde::Deserialize;
use serde_json::Value;

use crate::dialect::json::Text;

/// `message_start`
#[derive(Debug, Deserialize)]
pub(super) struct MessageStart<'a> {
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
}

/// The message before it has content.
#[derive(Debug, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    pub(super) usage: Option<Tokens>,
}

/// `content_block_start`
#[derive(Debug, Deserialize)]
pub(super) struct BlockStart<'a> {
    pub(super) index: u64,
    #[serde(borrow)]
    pub(super) content_block: Block<'a>,
}

/// A block as it begins. Usually empty; the vendor's client takes what is there, and so do we.
#[derive(Debug, Deserialize)]
pub(super) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thinking: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) signature: Option<Text<'a>>,
    /// Of a `redacted_thinking`.
    #[serde(borrow)]
    pub(super) data: Option<Text<'a>>,
    /// Of a `tool_use`.
    pub(super) input: Option<Value>,
}

/// `content_block_delta`
#[derive(Debug, Deserialize)]
pub(super) struct BlockDelta<'a> {
    pub(super) index: u64,
    #[serde(borrow)]
    pub(super) delta: Delta<'a>,
}

/// The next piece of a block.
#[derive(Debug, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thinking: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) signature: Option<Text<'a>>,
}

/// `content_block_stop`
#[derive(Debug, Deserialize)]
pub(super) struct BlockStop {
    pub(super) index: u64,
}

/// `message_delta`
#[derive(Debug, Deserialize)]
pub(super) struct MessageDelta<'a> {
    #[serde(borrow)]
    pub(super) delta: Option<Outcome<'a>>,
    pub(super) usage: Option<Tokens>,
}

/// Why the message ends.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome<'a> {
    #[serde(borrow)]
    pub(super) stop_reason: Option<Text<'a>>,
}

/// The cost so far. Each number is of the whole message, not of what is new.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) struct Tokens {
    pub(super) input_tokens: Option<u64>,
    pub(super) cache_creation_input_tokens: Option<u64>,
    pub(super) cache_read_input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) output_tokens_details: Option<OutputTokens>,
}

/// What the output tokens were.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct OutputTokens {
    pub(super) thinking_tokens: Option<u64>,
}

/// Only what kind of block or of piece an event is about, whatever else is in it.
#[derive(Debug, Deserialize)]
pub(super) struct Kinds<'a> {
    pub(super) index: u64,
    #[serde(borrow)]
    pub(super) content_block: Option<Kind<'a>>,
    #[serde(borrow)]
    pub(super) delta: Option<Kind<'a>>,
}

/// The kind of a block or of a piece.
#[derive(Debug, Deserialize)]
pub(super) struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
}
