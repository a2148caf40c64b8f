//! The events of the stream, as far as they are read.
//!
//! The vendor's own types say of every field that it may be missing.

use serde::Deserialize;

use crate::dialect::json::Text;

/// Any event with a message in it. `C` is what the message has.
#[derive(Debug, Deserialize)]
pub(super) struct Event<C> {
    /// Of the block of content, or of the call.
    pub(super) index: Option<u64>,
    pub(super) delta: Option<Delta<C>>,
}

/// What is new.
#[derive(Debug, Deserialize)]
pub(super) struct Delta<C> {
    pub(super) message: Option<C>,
}

impl<C> Event<C> {
    /// The index, and what the message has.
    pub(super) fn parts(self) -> (u64, Option<C>) {
        (self.index.unwrap_or(0), self.delta.and_then(|delta| delta.message))
    }
}

/// Of `content-start` and `content-delta`.
#[derive(Debug, Deserialize)]
pub(super) struct WithContent<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Content<'a>>,
}

/// A piece of an answer or of the thinking before it.
#[derive(Debug, Deserialize)]
pub(super) struct Content<'a> {
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thinking: Option<Text<'a>>,
}

/// Of `tool-plan-delta`.
#[derive(Debug, Deserialize)]
pub(super) struct WithPlan<'a> {
    #[serde(borrow)]
    pub(super) tool_plan: Option<Text<'a>>,
}

/// Of `tool-call-start` and `tool-call-delta`: one call, in spite of its name.
#[derive(Debug, Deserialize)]
pub(super) struct WithCall<'a> {
    #[serde(borrow)]
    pub(super) tool_calls: Option<Call<'a>>,
}

/// A call, or more of one.
#[derive(Debug, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

/// What is called, and with what.
#[derive(Debug, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arguments: Option<Text<'a>>,
}

/// `tool-call-end`
#[derive(Debug, Deserialize)]
pub(super) struct CallEnd {
    pub(super) index: Option<u64>,
}

/// `message-end`
#[derive(Debug, Deserialize)]
pub(super) struct MessageEnd<'a> {
    #[serde(borrow)]
    pub(super) delta: Option<Outcome<'a>>,
}

/// How the message ended.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome<'a> {
    #[serde(borrow)]
    pub(super) finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) error: Option<Text<'a>>,
    pub(super) usage: Option<Cost>,
}

/// What it cost. The numbers are whole, but the vendor's types allow fractions.
#[derive(Debug, Deserialize)]
pub(super) struct Cost {
    pub(super) tokens: Option<Tokens>,
    pub(super) billed_units: Option<Tokens>,
    pub(super) cached_tokens: Option<f64>,
}

/// Tokens of each way.
#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    pub(super) input_tokens: Option<f64>,
    pub(super) output_tokens: Option<f64>,
}
