//! Its stream: server-sent events without names, each a whole GenerateContentResponse.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::dialect::answer::{Answer, Keepsake};
use crate::dialect::decode;
use crate::dialect::failure::{Class, Failure};
use crate::dialect::framing::Frame;
use crate::dialect::json::{Few, First, Text, or_empty, parse};
use crate::dialect::refusal::in_band;
use crate::protocol::{FinishReason, Usage};

/// Reads the events of one answer.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Reader {
    /// Calls so far: they come whole and without a number of their own.
    calls_count: u64,
}

/// One event. Keys that are not here are skipped.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    /// One, because we ask for no more.
    #[serde(borrow, default)]
    candidates: First<Candidate<'a>>,
    prompt_feedback: Option<PromptFeedback<'a>>,
    usage_metadata: Option<UsageMetadata>,
    model_version: Option<Text<'a>>,
    error: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    finish_reason: Option<Text<'a>>,
    finish_message: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
struct Content<'a> {
    /// May be missing, mostly in the last event.
    #[serde(borrow, default)]
    parts: Few<Part<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    thought: Option<bool>,
    thought_signature: Option<Text<'a>>,
    function_call: Option<FunctionCall<'a>>,
}

#[derive(Debug, Deserialize)]
struct FunctionCall<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    name: Option<Text<'a>>,
    args: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback<'a> {
    #[serde(borrow)]
    block_reason: Option<Text<'a>>,
}

/// Tokens. A missing number is none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<u64>,
    /// What tools on Google's side put into the prompt.
    tool_use_prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    total_token_count: Option<u64>,
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        let data = frame.data.trim_ascii();
        if data.is_empty() {
            // Proof of life from a proxy.
            return Ok(false);
        }
        if data[0] == b'[' {
            return Err(wrapped(data));
        }
        let response: Response<'_> = parse(data)?;
        if response.error.is_some() {
            return Err(in_band(data));
        }
        if let Some(model) = response.model_version {
            answer.model(&model);
        }
        if let Some(usage) = response.usage_metadata {
            answer.usage(usage.into());
        }
        if let Some(candidate) = response.candidates.0 {
            self.candidate(candidate, answer)?;
        }
        let feedback = response.prompt_feedback.and_then(|feedback| feedback.block_reason);
        if let Some(reason) = feedback
            && &*reason != "BLOCK_REASON_UNSPECIFIED"
        {
            answer.finish(FinishReason::ContentFilter);
        }
        Ok(false)
    }

    fn is_whole(&self, answer: &Answer) -> bool {
        answer.has_finished()
    }
}

impl Reader {
    fn candidate(&mut self, candidate: Candidate<'_>, answer: &mut Answer) -> Result<(), Failure> {
        // The reason may share the event with the last pieces.
        for part in candidate.content.map(|content| content.parts.0).unwrap_or_default() {
            if let Some(call) = part.function_call {
                self.call(&call, part.thought_signature.as_ref(), answer)?;
            } else if part.thought == Some(true) {
                answer.reasoning(or_empty(&part.text))?;
            } else {
                answer.text(or_empty(&part.text))?;
            }
        }
        if let Some(reason) = candidate.finish_reason
            && let Some(reason) = finish(&reason, or_empty(&candidate.finish_message))?
        {
            answer.finish(reason);
        }
        Ok(())
    }

    fn call(
        &mut self,
        call: &FunctionCall<'_>,
        signature: Option<&Text<'_>>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let index = self.calls_count;
        self.calls_count += 1;
        answer.call(index, call.id.as_deref(), call.name.as_deref())?;
        if let Some(arguments) = &call.args {
            answer.arguments(index, &arguments.to_string())?;
        }
        if let Some(signature) = signature.filter(|signature| !signature.is_empty()) {
            let signature = Some(signature.to_string());
            answer.keep(index, Keepsake { signature, reasoning: None })?;
        }
        answer.close_call(index)
    }
}

/// What a `finishReason` means; `None` when it is none.
///
/// # Errors
///
/// The model failed, or the reason is one that we do not know: better an error than half an answer
/// that looks whole.
fn finish(reason: &str, message: &str) -> Result<Option<FinishReason>, Failure> {
    let class = match reason {
        "STOP" => return Ok(Some(FinishReason::Stop)),
        "MAX_TOKENS" => return Ok(Some(FinishReason::Length)),
        "" | "FINISH_REASON_UNSPECIFIED" => return Ok(None),
        "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII"
        | "MODEL_ARMOR" => return Ok(Some(FinishReason::ContentFilter)),
        image if image.starts_with("IMAGE_") => return Ok(Some(FinishReason::ContentFilter)),
        // Ours to put back; nobody else would do better with the same request.
        "MISSING_THOUGHT_SIGNATURE" => Class::BadRequest,
        // MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, TOO_MANY_TOOL_CALLS, OTHER and what is new.
        _ => Class::Server,
    };
    let colon = if message.is_empty() { "" } else { ": " };
    Err(Failure::new(class, format!("the model ended with {reason}{colon}{message}")))
}

/// What to make of an array: Google wraps an error in one now and then.
fn wrapped(data: &[u8]) -> Failure {
    match parse::<First<Response<'_>>>(data) {
        Ok(First(Some(Response { error: Some(_), .. }))) => in_band(data),
        Ok(_) => Failure::bad_stream("an event is an array, which only an error may be"),
        Err(failure) => failure,
    }
}

impl From<UsageMetadata> for Usage {
    fn from(metadata: UsageMetadata) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| {
            one.unwrap_or_default().saturating_add(other.unwrap_or_default())
        };
        let input_tokens = sum(metadata.prompt_token_count, metadata.tool_use_prompt_token_count);
        let output_tokens = sum(metadata.candidates_token_count, metadata.thoughts_token_count);
        let total = sum(Some(input_tokens), Some(output_tokens));
        Self {
            input_tokens,
            output_tokens,
            total_tokens: metadata.total_token_count.unwrap_or(total),
            cached_input_tokens: metadata.cached_content_token_count,
            reasoning_tokens: metadata.thoughts_token_count,
            estimated: None,
        }
    }
}
