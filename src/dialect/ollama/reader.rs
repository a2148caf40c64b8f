//! Its stream: one JSON object a line.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::dialect::answer::Answer;
use crate::dialect::decode;
use crate::dialect::failure::{Class, Failure};
use crate::dialect::framing::Frame;
use crate::dialect::json::{Few, Text, or_empty, parse};
use crate::dialect::refusal::in_band;
use crate::protocol::{FinishReason, Usage};

/// Reads the lines of one answer.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Reader {
    /// Calls so far: they come whole, and their own numbers begin anew in each line.
    calls_count: u64,
}

/// One line. Keys that are not here are skipped.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    message: Option<Message<'a>>,
    done: Option<bool>,
    done_reason: Option<Text<'a>>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    thinking: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Few<ToolCall<'a>>,
}

#[derive(Debug, Deserialize)]
struct ToolCall<'a> {
    /// From newer servers.
    #[serde(borrow)]
    id: Option<Text<'a>>,
    function: Option<Function<'a>>,
}

#[derive(Debug, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    arguments: Option<Value>,
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        let line: Line<'_> = parse(frame.data)?;
        if line.error.is_some() {
            return Err(failure(frame.data));
        }
        if let Some(model) = &line.model {
            answer.model(model);
        }
        if let Some(message) = &line.message {
            answer.reasoning(or_empty(&message.thinking))?;
            answer.text(or_empty(&message.content))?;
            for call in &message.tool_calls.0 {
                self.call(call, answer)?;
            }
        }
        if line.done != Some(true) {
            return Ok(false);
        }
        if line.prompt_eval_count.is_some() || line.eval_count.is_some() {
            // A prompt that was in the cache whole may not be counted.
            let input_tokens = line.prompt_eval_count.unwrap_or_default();
            let output_tokens = line.eval_count.unwrap_or_default();
            let total_tokens = input_tokens.saturating_add(output_tokens);
            answer.usage(Usage { input_tokens, output_tokens, total_tokens, ..Usage::default() });
        }
        answer.finish(finish(or_empty(&line.done_reason))?);
        Ok(true)
    }

    fn is_whole(&self, _: &Answer) -> bool {
        // The last line ends the answer itself.
        false
    }
}

impl Reader {
    fn call(&mut self, call: &ToolCall<'_>, answer: &mut Answer) -> Result<(), Failure> {
        let index = self.calls_count;
        self.calls_count += 1;
        let function = call.function.as_ref();
        let name = function.and_then(|function| function.name.as_deref());
        answer.call(index, call.id.as_deref(), name)?;
        match function.and_then(|function| function.arguments.as_ref()) {
            // Not as documented, but gateways pass on what OpenAI's dialect has.
            Some(Value::String(text)) => answer.arguments(index, text)?,
            Some(arguments) => answer.arguments(index, &arguments.to_string())?,
            None => {}
        }
        answer.close_call(index)
    }
}

/// What a `done_reason` means. Old servers give none, and tool calls end with `stop`, too.
///
/// # Errors
///
/// The line says that the model was loaded or unloaded: the server did that instead of answering.
fn finish(reason: &str) -> Result<FinishReason, Failure> {
    match reason {
        "length" => Ok(FinishReason::Length),
        "load" | "unload" => {
            Err(Failure::new(Class::Server, format!("no answer but a model's {reason}")))
        }
        _ => Ok(FinishReason::Stop),
    }
}

/// What a line with an `error` says: a text and nothing else. Where the shared table wants a name or a
/// status, the words stand for one; those that condemn a key count only where no request's own text
/// can stand.
fn failure(line: &[u8]) -> Failure {
    let mut failure = in_band(line);
    if failure.class == Class::Server {
        let text = failure.detail.to_ascii_lowercase();
        let begins = |any: &[&str]| any.iter().any(|part| text.starts_with(part));
        let has = |any: &[&str]| any.iter().any(|part| text.contains(part));
        failure.class = if begins(&["unauthorized", "forbidden", "not signed in"]) {
            Class::Auth
        } else if begins(&["you have reached", "you've reached"]) && has(&["usage limit", "quota"])
        {
            Class::Quota
        } else if has(&["server busy", "maximum pending requests"]) {
            Class::Overloaded
        } else if has(&["not found", "does not support", "context length", "invalid"]) {
            Class::BadRequest
        } else {
            Class::Server
        };
    }
    failure
}
