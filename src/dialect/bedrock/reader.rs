//! Converse's events into an answer.
//!
//! The invariant to remember: **`messageStop` proves that the answer is whole**, and `metadata` with
//! the usage comes after it.

use serde::Deserialize;

use crate::dialect::answer::{Answer, Keepsake};
use crate::dialect::decode;
use crate::dialect::failure::{Class, Failure};
use crate::dialect::framing::Frame;
use crate::dialect::json::{self, Text, or_empty};
use crate::protocol::{FinishReason, Usage};

/// Bytes of one signature. They are no part of the answer, so nothing else bounds them.
const SIGNATURE_SIZE_MAX: usize = 1 << 20;

/// What is to be remembered between two events.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Reader {
    /// `messageStop` was read.
    has_stopped: bool,
    /// The block of a call that the provider answers itself, which is not for the client.
    own_call: Option<u64>,
    /// The last block of reasoning that no call has taken yet.
    reasoning: Reasoning,
}

#[derive(Debug, Default)]
struct Reasoning {
    block: Option<u64>,
    text: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockStart<'a> {
    content_block_index: u64,
    #[serde(borrow)]
    start: Start<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start<'a> {
    #[serde(borrow)]
    tool_use: Option<ToolUse<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse<'a> {
    #[serde(borrow)]
    tool_use_id: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockDelta<'a> {
    content_block_index: u64,
    #[serde(borrow)]
    delta: Delta<'a>,
}

/// At most one of them is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    tool_use: Option<Input<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Thought<'a>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    input: Text<'a>,
}

/// A piece of reasoning or its signature. What the provider redacts is neither.
#[derive(Deserialize)]
struct Thought<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockStop {
    content_block_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageStop<'a> {
    #[serde(borrow)]
    stop_reason: Text<'a>,
}

#[derive(Deserialize)]
struct Metadata {
    usage: Option<TokenUsage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct TokenUsage {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    cache_read_input_tokens: Option<u64>,
    cache_write_input_tokens: Option<u64>,
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        match frame.name {
            "contentBlockStart" => self.start(&parse(frame)?, answer)?,
            "contentBlockDelta" => self.delta(&parse(frame)?, answer)?,
            "contentBlockStop" => {
                let BlockStop { content_block_index: block } = parse(frame)?;
                self.own_call.take_if(|own| *own == block);
                answer.close_call(block)?;
            }
            "messageStop" => {
                answer.finish(finish_reason(&parse::<MessageStop<'_>>(frame)?.stop_reason)?);
                self.has_stopped = true;
            }
            "metadata" => {
                if let Some(usage) = parse::<Metadata>(frame)?.usage {
                    answer.usage(usage.into());
                }
                return Ok(self.has_stopped);
            }
            // `messageStart` says nothing that we do not know; others may come to be.
            _ => {}
        }
        Ok(false)
    }

    fn is_whole(&self, _: &Answer) -> bool {
        self.has_stopped
    }
}

impl Reader {
    fn start(&mut self, event: &BlockStart<'_>, answer: &mut Answer) -> Result<(), Failure> {
        let block = event.content_block_index;
        let Some(call) = &event.start.tool_use else { return Ok(()) };
        if or_empty(&call.kind) == "server_tool_use" {
            self.own_call = Some(block);
            return Ok(());
        }
        answer.call(block, Some(&call.tool_use_id), Some(&call.name))?;
        // Only what is signed can be given back; the first call after it takes it along.
        let Reasoning { text, signature, .. } = std::mem::take(&mut self.reasoning);
        if !signature.is_empty() {
            let keepsake = Keepsake { signature: Some(signature), reasoning: Some(text) };
            answer.keep(block, keepsake)?;
        }
        Ok(())
    }

    fn delta(&mut self, event: &BlockDelta<'_>, answer: &mut Answer) -> Result<(), Failure> {
        let block = event.content_block_index;
        answer.text(or_empty(&event.delta.text))?;
        if let Some(Input { input }) = &event.delta.tool_use
            && self.own_call != Some(block)
        {
            answer.arguments(block, input)?;
        }
        if let Some(thought) = &event.delta.reasoning_content {
            answer.reasoning(or_empty(&thought.text))?;
            self.reasoning.add(block, thought)?;
        }
        Ok(())
    }
}

impl Reasoning {
    /// Adds to the block; a new block replaces the one before, because a signature is for one only.
    /// Note: the text is bounded: the answer has taken it before.
    fn add(&mut self, block: u64, thought: &Thought<'_>) -> Result<(), Failure> {
        if self.block != Some(block) {
            *self = Self { block: Some(block), ..Self::default() };
        }
        self.text.push_str(or_empty(&thought.text));
        self.signature.push_str(or_empty(&thought.signature));
        if self.signature.len() > SIGNATURE_SIZE_MAX {
            return Err(Failure::bad_stream(format!(
                "a signature is larger than {SIGNATURE_SIZE_MAX} bytes"
            )));
        }
        Ok(())
    }
}

impl From<TokenUsage> for Usage {
    /// Bedrock counts the tokens that are read from or written to the cache apart from the others.
    fn from(usage: TokenUsage) -> Self {
        let cached = usage.cache_read_input_tokens;
        let apart = [cached, usage.cache_write_input_tokens].into_iter().flatten();
        let input_tokens = apart.fold(usage.input_tokens, u64::saturating_add);
        Self {
            input_tokens,
            output_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens,
            cached_input_tokens: cached,
            reasoning_tokens: None,
            estimated: None,
        }
    }
}

/// # Errors
///
/// [`Class::Server`]: the model wrote something that Bedrock cannot read.
fn finish_reason(reason: &str) -> Result<FinishReason, Failure> {
    Ok(match reason {
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "guardrail_intervened" | "content_filtered" => FinishReason::ContentFilter,
        "malformed_model_output" | "malformed_tool_use" => {
            return Err(Failure::new(Class::Server, format!("the model ended with {reason}")));
        }
        // `end_turn`, `stop_sequence`, and what is yet to come: the model has nothing more to say.
        _ => FinishReason::Stop,
    })
}

/// Reads an event. Its checksums say that nothing of it is cut: what cannot be read is no beginning.
fn parse<'a, T: Deserialize<'a>>(frame: Frame<'a>) -> Result<T, Failure> {
    json::parse(frame.data)
        .map_err(|failure| Failure::bad_stream(format!("{}: {}", frame.name, failure.detail)))
}
