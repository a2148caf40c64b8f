//! What comes back: a whole [`Completion`], or the same thing piece by piece as [`StreamEvent`]s.

use serde::{Deserialize, Serialize};

use super::message::ToolCall;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Completion {
    /// The text, which may be empty when there are tool calls.
    pub content: String,
    /// What the model thought before it answered, if the provider shows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools that the model wants run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Why the answer ends where it does.
    pub finish_reason: FinishReason,
    /// What it cost, in tokens.
    pub usage: Usage,
    /// The model that answered, which a router may have chosen.
    pub model: String,
}

/// One piece of a streamed answer, told apart by `type` in JSON.
///
/// A stream is any number of [`Text`](Self::Text), [`Reasoning`](Self::Reasoning) and
/// [`ToolCall`](Self::ToolCall), then one [`End`](Self::End).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum StreamEvent {
    /// The next piece of the text.
    Text {
        /// To be appended to what came before.
        text: String,
    },
    /// The next piece of what the model thinks.
    Reasoning {
        /// To be appended to what came before.
        text: String,
    },
    /// A tool to run, whole: its parameters are never sent in fragments, which are not valid JSON.
    ToolCall {
        /// The call.
        tool_call: ToolCall,
    },
    /// The end of the stream.
    End {
        /// Why the answer ends where it does.
        finish_reason: FinishReason,
        /// What the whole answer cost, in tokens.
        usage: Usage,
        /// The model that answered.
        model: String,
    },
}

/// Why an answer ends; one set for all providers. In JSON: the variant's name in snake_case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum FinishReason {
    /// The model had nothing more to say.
    Stop,
    /// The answer reached `maxTokens` or the model's own bound.
    Length,
    /// The model waits for the results of its tool calls.
    ToolCalls,
    /// The provider withheld the rest.
    ContentFilter,
    /// The provider failed after the answer had begun.
    Error,
    /// The client asked to stop.
    Cancelled,
}

/// What an answer cost, in the model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Usage {
    /// Tokens of the request, cached ones included.
    pub input_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: u64,
    /// The sum, as the provider counts it.
    pub total_tokens: u64,
    /// How many of the input tokens the provider had in its cache, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u64>,
    /// How many of the output tokens were reasoning, if the provider says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// `true` when the provider gave no numbers and these are a guess.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated: Option<bool>,
}

impl Usage {
    /// Characters that one token stands for, on average over English text and code.
    const CHARS_PER_TOKEN: u64 = 4;

    /// A guess for a provider that gives no numbers: a quarter of the characters, rounded down, and
    /// marked [`estimated`](Self::estimated).
    #[must_use]
    pub fn estimate(prompt_chars: usize, answer_chars: usize) -> Self {
        let input_tokens = prompt_chars as u64 / Self::CHARS_PER_TOKEN;
        let output_tokens = answer_chars as u64 / Self::CHARS_PER_TOKEN;
        Self {
            input_tokens,
            output_tokens,
            // Note: cannot overflow: both are at most a quarter of `u64::MAX`.
            total_tokens: input_tokens + output_tokens,
            cached_input_tokens: None,
            reasoning_tokens: None,
            estimated: Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::json::JsonValue;
    use super::*;

    #[test]
    fn completion_is_written_in_camel_case_without_absent_optionals() {
        let completion = Completion {
            content: "c".into(),
            reasoning: None,
            tool_calls: None,
            finish_reason: FinishReason::ToolCalls,
            usage: Usage::estimate(40, 10),
            model: "m".into(),
        };
        assert_eq!(
            serde_json::to_value(&completion).unwrap(),
            json!({
                "content": "c",
                "finishReason": "tool_calls",
                "usage": {
                    "inputTokens": 10,
                    "outputTokens": 2,
                    "totalTokens": 12,
                    "estimated": true,
                },
                "model": "m",
            }),
        );
    }

    #[test]
    fn stream_event_is_told_apart_by_its_type() {
        let usage = Usage::default();
        for (event, value) in [
            (StreamEvent::Text { text: "t".into() }, json!({"type": "text", "text": "t"})),
            (
                StreamEvent::Reasoning { text: "r".into() },
                json!({"type": "reasoning", "text": "r"}),
            ),
            (
                StreamEvent::ToolCall {
                    tool_call: ToolCall {
                        name: "n".into(),
                        parameters: JsonValue(json!({"k": [1.5]})),
                        id: "i".into(),
                    },
                },
                json!({
                    "type": "toolCall",
                    "toolCall": {"name": "n", "parameters": {"k": [1.5]}, "id": "i"},
                }),
            ),
            (
                StreamEvent::End {
                    finish_reason: FinishReason::ContentFilter,
                    usage,
                    model: "m".into(),
                },
                json!({
                    "type": "end",
                    "finishReason": "content_filter",
                    "usage": usage,
                    "model": "m",
                }),
            ),
        ] {
            assert_eq!(serde_json::to_value(&event).unwrap(), value);
            assert_eq!(serde_json::from_value::<StreamEvent>(value).unwrap(), event);
        }
    }

    #[test]
    fn finish_reasons_are_one_closed_set() {
        let names = ["stop", "length", "tool_calls", "content_filter", "error", "cancelled"];
        for name in names {
            let reason: FinishReason = serde_json::from_value(json!(name)).unwrap();
            assert_eq!(serde_json::to_value(reason).unwrap(), json!(name));
        }
        assert!(serde_json::from_value::<FinishReason>(json!("eos")).is_err());
    }

    #[test]
    fn estimate_is_a_quarter_of_the_characters_and_says_so() {
        let usage = Usage::estimate(403, 8);
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens), (100, 2, 102),);
        assert_eq!(usage.estimated, Some(true));
        assert_eq!(Usage::estimate(usize::MAX, usize::MAX).total_tokens, (u64::MAX / 4) * 2);
    }
}
