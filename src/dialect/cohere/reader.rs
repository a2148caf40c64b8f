//! The events of the stream into an answer.

use super::wire::{
    Call, CallEnd, Cost, Event, MessageEnd, Tokens, WithCall, WithContent, WithPlan,
};
use crate::dialect::answer::{Answer, Keepsake};
use crate::dialect::decode;
use crate::dialect::event;
use crate::dialect::failure::Failure;
use crate::dialect::framing::Frame;
use crate::dialect::json::{or_empty, parse};
use crate::dialect::refusal::{classify, in_band};
use crate::protocol::{FinishReason, Usage};

const CONTENT_START: &str = "content-start";
const CONTENT_DELTA: &str = "content-delta";
const PLAN_DELTA: &str = "tool-plan-delta";
const CALL_START: &str = "tool-call-start";
const CALL_DELTA: &str = "tool-call-delta";
const CALL_END: &str = "tool-call-end";
const MESSAGE_END: &str = "message-end";
/// The events that we read, the frequent ones first. Not among them: the start of the message, the
/// end of a block, citations, and what the vendor will think of.
const KNOWN: [&str; 8] = [
    CONTENT_DELTA,
    PLAN_DELTA,
    CALL_DELTA,
    CALL_START,
    CALL_END,
    CONTENT_START,
    MESSAGE_END,
    event::ERROR,
];

#[derive(Debug, Default)]
pub(in crate::dialect) struct Reader {
    /// What the model plans to do with its tools, which the vendor wants back. (An answer bounds
    /// what it consists of.)
    plan: String,
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        match &*event::kind(&frame, &KNOWN)? {
            CONTENT_DELTA | CONTENT_START => content(frame.data, answer)?,
            PLAN_DELTA => self.plan(frame.data, answer)?,
            CALL_START => self.begin_call(frame.data, answer)?,
            CALL_DELTA => {
                let (index, message) = parse::<Event<WithCall<'_>>>(frame.data)?.parts();
                arguments(index, message.and_then(|message| message.tool_calls), answer)?;
            }
            CALL_END => {
                let index = parse::<CallEnd>(frame.data)?.index.unwrap_or(0);
                answer.close_call(index)?;
            }
            MESSAGE_END => {
                end(frame.data, answer)?;
                return Ok(true);
            }
            event::ERROR => return Err(in_band(frame.data)),
            _ => {}
        }
        Ok(false)
    }

    /// Only `message-end` says so.
    fn is_whole(&self, _: &Answer) -> bool {
        false
    }
}

impl Reader {
    fn plan(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        let (_, message) = parse::<Event<WithPlan<'_>>>(data)?.parts();
        let plan = message.and_then(|message| message.tool_plan);
        let piece = or_empty(&plan);
        answer.reasoning(piece)?;
        self.plan.push_str(piece);
        Ok(())
    }

    fn begin_call(&mut self, data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
        let (index, message) = parse::<Event<WithCall<'_>>>(data)?.parts();
        // A call that was not ended is over when another begins in its place.
        answer.close_call(index)?;
        let Some(call) = message.and_then(|message| message.tool_calls) else {
            return Err(Failure::bad_stream("the start of a tool call without the call"));
        };
        let name = call.function.as_ref().and_then(|function| function.name.as_deref());
        answer.call(index, call.id.as_deref(), name)?;
        if !self.plan.is_empty() {
            let reasoning = Some(std::mem::take(&mut self.plan));
            answer.keep(index, Keepsake { signature: None, reasoning })?;
        }
        arguments(index, Some(call), answer)
    }
}

fn content(data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
    let (_, message) = parse::<Event<WithContent<'_>>>(data)?.parts();
    if let Some(content) = message.and_then(|message| message.content) {
        answer.reasoning(or_empty(&content.thinking))?;
        answer.text(or_empty(&content.text))?;
    }
    Ok(())
}

fn arguments(index: u64, call: Option<Call<'_>>, answer: &mut Answer) -> Result<(), Failure> {
    let arguments = call.and_then(|call| call.function).and_then(|function| function.arguments);
    answer.arguments(index, or_empty(&arguments))
}

fn end(data: &[u8], answer: &mut Answer) -> Result<(), Failure> {
    let Some(outcome) = parse::<MessageEnd<'_>>(data)?.delta else {
        answer.finish(FinishReason::Stop);
        return Ok(());
    };
    let (reason, error) = (or_empty(&outcome.finish_reason), or_empty(&outcome.error));
    answer.finish(match reason {
        _ if !error.is_empty() => {
            return Err(Failure::new(classify(None, "", reason, error), error));
        }
        "ERROR" | "TIMEOUT" => {
            let class = classify(None, "", reason, "");
            return Err(Failure::new(class, format!("finish_reason {reason}")));
        }
        "MAX_TOKENS" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        // `COMPLETE`, `STOP_SEQUENCE`, and new ones.
        _ => FinishReason::Stop,
    });
    if let Some(usage) = outcome.usage.and_then(usage) {
        answer.usage(usage);
    }
    Ok(())
}

fn usage(cost: Cost) -> Option<Usage> {
    let Tokens { input_tokens, output_tokens } = cost.tokens.or(cost.billed_units)?;
    let (input_tokens, output_tokens) =
        (whole(input_tokens.unwrap_or(0.0)), whole(output_tokens.unwrap_or(0.0)));
    Some(Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens.saturating_add(output_tokens),
        cached_input_tokens: cost.cached_tokens.map(whole),
        reasoning_tokens: None,
        estimated: None,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the fraction is dropped on purpose")]
fn whole(number: f64) -> u64 {
    // Note: `as` gives 0 for what is negative and the maximum for what is too large.
    number as u64
}
