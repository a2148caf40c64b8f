//! What a request must satisfy beyond its types, and the error that says which part does not.
//!
//! An [`InvalidRequest`] names a field by its path in the client's own JSON. It is made of indexes,
//! lengths and numbers only, so no text of the conversation can reach a log through it.

use std::fmt;
use std::ops::RangeInclusive;

use super::message::AIRequest;

/// Temperatures that a request may carry. A dialect may allow less and clamps.
const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;

/// The longest tool name, in bytes; the bound that every provider shares.
const TOOL_NAME_SIZE_MAX: usize = 64;

impl AIRequest {
    /// Checks what the types cannot say, and reports the first thing that is wrong.
    ///
    /// - `messages` has at least one message, and `model` is not blank;
    /// - `temperature` is finite and within 0 to 2, `maxTokens` is 1 or more, each if present;
    /// - the name of each tool, offered or called, fits `^[a-zA-Z0-9_-]{1,64}$`;
    /// - the `parameters` of each tool offered are an object, if present (those of a call may be
    ///   anything).
    ///
    /// It does not promise that the model exists, that a schema is a good one, or that tool calls
    /// refer to tools offered.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`]: the client has to change the request; sending it again cannot help.
    pub fn validate(&self) -> Result<(), InvalidRequest> {
        if self.messages.is_empty() {
            return Err(InvalidRequest::new(Field::Messages, Problem::Empty));
        }
        if self.model.trim().is_empty() {
            return Err(InvalidRequest::new(Field::Model, Problem::Empty));
        }
        if let Some(found) = self.temperature
            && !TEMPERATURE.contains(&found)
        {
            return Err(InvalidRequest::new(Field::Temperature, Problem::OutOfRange { found }));
        }
        if self.max_tokens == Some(0) {
            return Err(InvalidRequest::new(Field::MaxTokens, Problem::OutOfRange { found: 0.0 }));
        }
        self.validate_tools()?;
        self.validate_tool_calls()
    }

    fn validate_tools(&self) -> Result<(), InvalidRequest> {
        for (tool_index, tool) in self.tools.iter().flatten().enumerate() {
            check_tool_name(&tool.name)
                .map_err(|problem| InvalidRequest::new(Field::ToolName { tool_index }, problem))?;
            if let Some(parameters) = &tool.parameters
                && !parameters.0.is_object()
            {
                return Err(InvalidRequest::new(
                    Field::ToolParameters { tool_index },
                    Problem::NotAnObject,
                ));
            }
        }
        Ok(())
    }

    fn validate_tool_calls(&self) -> Result<(), InvalidRequest> {
        for (message_index, message) in self.messages.iter().enumerate() {
            for (call_index, call) in message.tool_calls.iter().flatten().enumerate() {
                let field = Field::ToolCallName { message_index, call_index };
                check_tool_name(&call.name)
                    .map_err(|problem| InvalidRequest::new(field, problem))?;
            }
        }
        Ok(())
    }
}

/// `^[a-zA-Z0-9_-]{1,64}$`
fn check_tool_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(Problem::Empty);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if let Some(offset) = name.bytes().position(|byte| !allowed(byte)) {
        return Err(Problem::ForbiddenCharacter { offset });
    }
    if name.len() > TOOL_NAME_SIZE_MAX {
        return Err(Problem::TooLong { size: name.len() });
    }
    Ok(())
}

/// The first thing that [`AIRequest::validate`] found wrong: where, what, and (in its text) what is
/// allowed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{field} {problem}; allowed: {}", .field.allowed())]
pub struct InvalidRequest {
    /// Which part of the request.
    pub field: Field,
    /// What is wrong with it.
    pub problem: Problem,
}

impl InvalidRequest {
    fn new(field: Field, problem: Problem) -> Self {
        Self { field, problem }
    }
}

/// A part of a request. Displays as its path in JSON, such as `messages[2].toolCalls[0].name`;
/// indexes count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the path that it displays")]
pub enum Field {
    Messages,
    Model,
    Temperature,
    MaxTokens,
    ToolName { tool_index: usize },
    ToolParameters { tool_index: usize },
    ToolCallName { message_index: usize, call_index: usize },
}

impl Field {
    fn allowed(self) -> &'static str {
        match self {
            Self::Messages => "one message or more",
            Self::Model => "the name of a model",
            Self::Temperature => "a number from 0 to 2",
            Self::MaxTokens => "1 or more",
            Self::ToolParameters { .. } => "a JSON Schema object, or nothing",
            Self::ToolName { .. } | Self::ToolCallName { .. } => {
                "1 to 64 of the characters a-z, A-Z, 0-9, _ and -"
            }
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages => f.write_str("messages"),
            Self::Model => f.write_str("model"),
            Self::Temperature => f.write_str("temperature"),
            Self::MaxTokens => f.write_str("maxTokens"),
            Self::ToolName { tool_index } => write!(f, "tools[{tool_index}].name"),
            Self::ToolParameters { tool_index } => write!(f, "tools[{tool_index}].parameters"),
            Self::ToolCallName { message_index, call_index } => {
                write!(f, "messages[{message_index}].toolCalls[{call_index}].name")
            }
        }
    }
}

/// What is wrong with a [`Field`].
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing is there, or only blanks.
    #[error("is empty")]
    Empty,
    /// A number that is too small, too large, or not finite.
    #[error("is {found}")]
    OutOfRange {
        /// The number.
        found: f64,
    },
    /// A name that is too long.
    #[error("is {size} bytes long")]
    TooLong {
        /// The name's length, in bytes.
        size: usize,
    },
    /// A character that a name cannot have.
    #[error("has a forbidden character at byte {offset}")]
    ForbiddenCharacter {
        /// Where the first one starts, in bytes from the name's start.
        offset: usize,
    },
    /// JSON of another kind where an object belongs.
    #[error("is not an object")]
    NotAnObject,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::json::JsonValue;
    use super::super::message::{Message, MessageRole, Tool, ToolCall};
    use super::*;

    fn valid() -> AIRequest {
        AIRequest::new("m", vec![Message::new(MessageRole::User, "secret")])
    }

    fn tool(name: &str, parameters: Option<serde_json::Value>) -> Tool {
        Tool { name: name.into(), description: None, parameters: parameters.map(JsonValue) }
    }

    /// The error's text after `change` has been made to a valid request.
    fn complaint(change: impl FnOnce(&mut AIRequest)) -> String {
        let mut request = valid();
        change(&mut request);
        request.validate().unwrap_err().to_string()
    }

    #[test]
    fn sensible_request_passes() {
        let mut request = valid();
        assert_eq!(request.validate(), Ok(()));
        request.temperature = Some(2.0);
        request.max_tokens = Some(1);
        request.tools =
            Some(vec![tool("read_file-2", None), tool(&"x".repeat(64), Some(json!({})))]);
        assert_eq!(request.validate(), Ok(()));
    }

    #[test]
    fn request_without_messages_or_model_is_named_so() {
        assert_eq!(
            complaint(|r| r.messages.clear()),
            "messages is empty; allowed: one message or more",
        );
        for model in ["", " \t"] {
            assert_eq!(
                complaint(|r| r.model = model.into()),
                "model is empty; allowed: the name of a model",
            );
        }
    }

    #[test]
    fn temperature_outside_0_to_2_is_named_with_what_was_found() {
        for (temperature, found) in
            [(-0.5, "-0.5"), (2.5, "2.5"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")]
        {
            assert_eq!(
                complaint(|r| r.temperature = Some(temperature)),
                format!("temperature is {found}; allowed: a number from 0 to 2"),
            );
        }
    }

    #[test]
    fn answer_of_no_tokens_is_refused() {
        assert_eq!(complaint(|r| r.max_tokens = Some(0)), "maxTokens is 0; allowed: 1 or more",);
    }

    #[test]
    fn bad_tool_is_named_by_its_index() {
        let names = "1 to 64 of the characters a-z, A-Z, 0-9, _ and -";
        let complaint =
            |bad: Tool| complaint(|r| r.tools = Some(vec![tool("good", None), bad.clone()]));
        assert_eq!(complaint(tool("", None)), format!("tools[1].name is empty; allowed: {names}"),);
        assert_eq!(
            complaint(tool(&"x".repeat(65), None)),
            format!("tools[1].name is 65 bytes long; allowed: {names}"),
        );
        assert_eq!(
            complaint(tool("read\u{e9}", None)),
            format!("tools[1].name has a forbidden character at byte 4; allowed: {names}"),
        );
        assert_eq!(
            complaint(tool("good", Some(json!([])))),
            "tools[1].parameters is not an object; allowed: a JSON Schema object, or nothing",
        );
    }

    #[test]
    fn bad_tool_call_is_named_by_its_path() {
        let call = |name: &str| ToolCall {
            name: name.into(),
            parameters: JsonValue(json!("anything")),
            id: "i".into(),
        };
        let text = complaint(|r| {
            let mut message = Message::new(MessageRole::Assistant, "");
            message.tool_calls = Some(vec![call("good"), call("secret file")]);
            r.messages.push(message);
        });
        assert!(
            text.starts_with("messages[1].toolCalls[1].name has a forbidden character at byte 6;")
        );
        assert!(!text.contains("secret"));
    }
}
