//! The events of the stream into an answer.
//!
//! A message is a row of blocks, told apart by their index: text, thinking, tool calls, and what the
//! vendor's own tools do on its side, which is not for us. Whatever is unknown is passed over, as
//! the vendor asks of its clients.

use super::thoughts::Thoughts;
use super::wire::{BlockDelta, BlockStart, BlockStop, Kinds, MessageDelta, MessageStart, Tokens};
use crate::dialect::answer::Answer;
use crate::dialect::decode;
use crate::dialect::event;
use crate::dialect::failure::Failure;
use crate::dialect::framing::Frame;
use crate::dialect::json::{or_empty, parse};
use crate::dialect::refusal::in_band;
use crate::protocol::{FinishReason, Usage};

/// Blocks that are open at a time. The vendor opens one.
const OPEN_COUNT_MAX: usize = 256;

const MESSAGE_START: &str = "message_start";
const BLOCK_START: &str = "content_block_start";
const BLOCK_DELTA: &str = "content_block_delta";
const BLOCK_STOP: &str = "content_block_stop";
const MESSAGE_DELTA: &str = "message_delta";
const MESSAGE_STOP: &str = "message_stop";
const PING: &str = "ping";
/// The events that we know, the frequent ones first.
const KNOWN: [&str; 8] = [
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    PING,
    MESSAGE_START,
    MESSAGE_DELTA,
    MESSAGE_STOP,
    event::ERROR,
];
/// The blocks and pieces that we read; the others may look as they like.
const READ: [&str; 8] = [
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "text_delta",
    "thinking_delta",
    "signature_delta",
    "input_json_delta",
];

#[derive(Debug, Default)]
pub(in crate::dialect) struct Reader {
    open: Vec<Open>,
    thoughts: Thoughts,
    tokens: Tokens,
}

/// A block that has begun and not ended.
#[derive(Debug)]
struct Open {
    index: u64,
    kind: Kind,
}

#[derive(Debug, PartialEq)]
enum Kind {
    /// Text or thinking.
    Said,
    /// A tool call. Its arguments come in pieces; if none comes, they are those that it began with.
    Call { input: Option<String> },
    /// Not for us.
    Other,
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        let kind = event::kind(&frame, &KNOWN)?;
        let read = match &*kind {
            BLOCK_DELTA => self.piece(frame.data, answer),
            BLOCK_START => self.begin(frame.data, answer),
            BLOCK_STOP => self.close(parse::<BlockStop>(frame.data)?.index, answer),
            MESSAGE_START => self.start(frame.data, answer),
            MESSAGE_DELTA => self.outcome(frame.data, answer),
            MESSAGE_STOP => {
                // The name alone may be the last that came of a body that was cut.
                parse::<serde::de::IgnoredAny>(frame.data)?;
                self.stop(answer)?;
                return Ok(true);
            }
            event::ERROR => Err(in_band(frame.data)),
            // `ping`, and what the vendor will think of.
            _ => Ok(()),
        };
        match read {
            Err(_) if kind != event::ERROR && self.passes_over(frame.data) => Ok(false),
            read => read.map(|()| false),
        }
    }

    /// Only `message_stop` says so.
    fn is_whole(&self, _: &Answer) -> bool {
        false
    }
}

impl Reader {
    fn start(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        if let Some(message) = parse::<MessageStart<'_>>(data)?.message {
            if let Some(model) = &message.model {
                answer.model(model);
            }
            self.count(message.usage, answer);
        }
        Ok(())
    }

    fn begin(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        let BlockStart { index, content_block: block } = parse(data)?;
        self.close(index, answer)?;
        if self.open.len() == OPEN_COUNT_MAX {
            return Err(Failure::bad_stream(format!("more than {OPEN_COUNT_MAX} open blocks")));
        }
        let kind = match &*block.kind {
            "text" => {
                answer.text(or_empty(&block.text))?;
                Kind::Said
            }
            "thinking" => {
                answer.reasoning(or_empty(&block.thinking))?;
                self.thoughts.begin()?;
                self.thoughts.think(or_empty(&block.thinking));
                self.thoughts.sign(or_empty(&block.signature))?;
                Kind::Said
            }
            "redacted_thinking" => {
                answer.begin();
                self.thoughts.redacted(or_empty(&block.data))?;
                Kind::Other
            }
            "tool_use" => {
                answer.call(index, block.id.as_deref(), block.name.as_deref())?;
                answer.keep(index, self.thoughts.take())?;
                Kind::Call { input: block.input.map(|input| input.to_string()) }
            }
            _ => Kind::Other,
        };
        self.open.push(Open { index, kind });
        Ok(())
    }

    fn piece(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        let BlockDelta { index, delta } = parse(data)?;
        let open = self.open.iter_mut().find(|open| open.index == index);
        match (&*delta.kind, open.map(|open| &mut open.kind)) {
            (_, Some(Kind::Other)) => Ok(()),
            // Some gateways do not begin a block that is only said.
            ("text_delta", _) => answer.text(or_empty(&delta.text)),
            ("thinking_delta", _) => {
                answer.reasoning(or_empty(&delta.thinking))?;
                self.thoughts.think(or_empty(&delta.thinking));
                Ok(())
            }
            ("signature_delta", _) => self.thoughts.sign(or_empty(&delta.signature)),
            ("input_json_delta", Some(Kind::Call { input })) => {
                let piece = or_empty(&delta.partial_json);
                if !piece.is_empty() {
                    *input = None;
                }
                answer.arguments(index, piece)
            }
            ("input_json_delta", _) => {
                Err(Failure::bad_stream(format!("arguments for block {index}, which is no call")))
            }
            _ => Ok(()),
        }
    }

    /// Closes the block at `index`, if one is open there.
    fn close(&mut self, index: u64, answer: &mut Answer) -> Result<(), Failure> {
        let Some(at) = self.open.iter().position(|open| open.index == index) else {
            return Ok(());
        };
        match self.open.remove(at).kind {
            Kind::Call { input } => {
                answer.arguments(index, input.as_deref().unwrap_or(""))?;
                answer.close_call(index)
            }
            Kind::Said | Kind::Other => Ok(()),
        }
    }

    /// Whether an event that could not be read is about a block or a piece that nobody has to read.
    fn passes_over(&mut self, data: &[u8]) -> bool {
        let Ok(Kinds { index, content_block, delta }) = parse(data) else { return false };
        match (content_block, delta) {
            (Some(block), _) if !READ.contains(&&*block.kind) => {
                self.open.push(Open { index, kind: Kind::Other });
                self.open.len() <= OPEN_COUNT_MAX
            }
            (None, Some(delta)) => !READ.contains(&&*delta.kind),
            _ => false,
        }
    }

    fn outcome(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        let MessageDelta { delta, usage } = parse(data)?;
        if let Some(reason) = delta.and_then(|delta| delta.stop_reason) {
            answer.finish(finish_reason(&reason));
        }
        self.count(usage, answer);
        Ok(())
    }

    fn stop(&mut self, answer: &mut Answer) -> Result<(), Failure> {
        while let Some(first) = self.open.first().map(|open| open.index) {
            self.close(first, answer)?;
        }
        if !answer.has_finished() {
            answer.finish(FinishReason::Stop);
        }
        Ok(())
    }

    /// Later numbers replace earlier ones; a number that is not there stays as it was.
    fn count(&mut self, newer: Option<Tokens>, answer: &mut Answer) {
        let Some(newer) = newer else { return };
        let known = &mut self.tokens;
        known.input_tokens = newer.input_tokens.or(known.input_tokens);
        known.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(known.cache_creation_input_tokens);
        known.cache_read_input_tokens =
            newer.cache_read_input_tokens.or(known.cache_read_input_tokens);
        known.output_tokens = newer.output_tokens.or(known.output_tokens);
        known.output_tokens_details = newer.output_tokens_details.or(known.output_tokens_details);
        answer.usage(usage(known));
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::ContentFilter,
        // `end_turn`, `stop_sequence`, `pause_turn` (which a new request may resume), and new ones.
        _ => FinishReason::Stop,
    }
}

fn usage(tokens: &Tokens) -> Usage {
    // The vendor counts what it has in its cache, or puts there, apart from the rest.
    let input_tokens = tokens
        .input_tokens
        .unwrap_or(0)
        .saturating_add(tokens.cache_creation_input_tokens.unwrap_or(0))
        .saturating_add(tokens.cache_read_input_tokens.unwrap_or(0));
    let output_tokens = tokens.output_tokens.unwrap_or(0);
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens.saturating_add(output_tokens),
        cached_input_tokens: tokens.cache_read_input_tokens,
        reasoning_tokens: tokens.output_tokens_details.and_then(|details| details.thinking_tokens),
        estimated: None,
    }
}
