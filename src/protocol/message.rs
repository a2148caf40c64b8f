//! What a client asks: a request, its conversation, and the tools that the model may call.
//!
//! These types match the TypeScript interfaces of the protocol exactly, in names, optionality and
//! JSON form (camelCase). `tests/typescript.rs` holds the two against each other. Going out, an
//! absent optional is left out; coming in, an explicit `null` means absent and an unknown key is
//! ignored, so that a newer client can talk to an older daemon.

use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use super::json::JsonValue;
use crate::sync::sound;

/// One question to a model: a conversation and how to answer it.
///
/// Types alone do not make a request sensible; see [`AIRequest::validate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct AIRequest {
    /// The conversation, oldest message first. At least one.
    pub messages: Vec<Message>,
    /// The model's name, as the provider knows it or as the configuration routes it.
    pub model: String,
    /// Randomness of the choice of words, 0 to 2. Absent: the provider's default.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "finite")]
    pub temperature: Option<f64>,
    /// The longest answer allowed, in the model's tokens, 1 or more. Absent: the provider's
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The tools that the model may call. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Tool>>,
    /// Instructions that come before every message of role [`MessageRole::System`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Whether the client wants the answer piece by piece. Absent: whatever the frame's message
    /// type says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl AIRequest {
    /// A request with nothing but its required parts; set the optional fields as needed.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            messages,
            model: model.into(),
            temperature: None,
            max_tokens: None,
            tools: None,
            system_prompt: None,
            stream: None,
        }
    }
}

/// Refuses the numbers that JSON cannot carry, which serde_json would otherwise write as `null`:
/// that reads back as "absent", and the request would silently mean something else.
fn finite<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) if !number.is_finite() => Err(S::Error::custom("not a finite number")),
        Some(number) if !sound("a temperature keeps its fraction") => {
            number.round().serialize(serializer)
        }
        number => number.serialize(serializer),
    }
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: MessageRole,
    /// The text, which may be empty when there are tool calls.
    pub content: String,
    /// The tools that the assistant called in this turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

impl Message {
    /// A message without tool calls.
    pub fn new(role: MessageRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: None }
    }
}

/// Who speaks in a [`Message`]. In JSON: `"system"`, `"user"`, `"assistant"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum MessageRole {
    /// Instructions from the application.
    System,
    /// The person, or the application on their behalf; also the results of tool calls.
    User,
    /// The model.
    Assistant,
}

/// The model's wish that a tool be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct ToolCall {
    /// The [`Tool::name`] of the tool to run.
    pub name: String,
    /// The arguments: usually an object that fits the tool's schema, but a model may produce
    /// anything.
    pub parameters: JsonValue,
    /// Names this call among the others. Opaque: give it back as it came.
    pub id: String,
}

/// A tool that the model may call.
///
/// Always written as `{name, description?, parameters?}`. Three more shapes that clients already
/// have at hand are read: the schema under `inputSchema` (Model Context Protocol) or `input_schema`
/// (Anthropic), and the whole tool wrapped as `{"type": "function", "function": {…}}` (OpenAI). Two
/// schemas in one tool are refused: neither is more right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ToolInput")]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Tool {
    /// What the model calls it by: `^[a-zA-Z0-9_-]{1,64}$`.
    pub name: String,
    /// What it does and when to use it, for the model to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema object of its arguments. Absent: an object without properties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<JsonValue>,
}

/// Every shape of [`Tool`] that is read, laid over one another.
#[derive(Deserialize)]
struct ToolInput {
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Option<FunctionInput>,
    name: Option<String>,
    description: Option<String>,
    #[serde(alias = "inputSchema", alias = "input_schema")]
    parameters: Option<JsonValue>,
}

/// The inside of OpenAI's wrapper.
#[derive(Deserialize)]
struct FunctionInput {
    name: String,
    description: Option<String>,
    #[serde(alias = "inputSchema", alias = "input_schema")]
    parameters: Option<JsonValue>,
}

impl TryFrom<ToolInput> for Tool {
    type Error = &'static str;

    fn try_from(input: ToolInput) -> Result<Self, Self::Error> {
        match (input.function, input.name) {
            (None, Some(name)) => {
                Ok(Self { name, description: input.description, parameters: input.parameters })
            }
            (Some(function), None) if input.kind.as_deref() == Some("function") => Ok(Self {
                name: function.name,
                description: function.description,
                parameters: function.parameters,
            }),
            // Serde's own words for it, so that `JsonError` recognises them.
            (None, None) => Err("missing field `name`"),
            (Some(_), _) => Err("`function` goes with type \"function\" and without a name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(value: Value) -> serde_json::Result<AIRequest> {
        serde_json::from_value(value)
    }

    fn tool(value: Value) -> serde_json::Result<Tool> {
        serde_json::from_value(value)
    }

    #[test]
    fn absent_optionals_are_left_out() {
        let request = AIRequest::new("m", vec![Message::new(MessageRole::User, "")]);
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"messages":[{"role":"user","content":""}],"model":"m"}"#,
        );
    }

    #[test]
    fn every_field_has_the_name_and_the_form_of_the_interface() {
        let value = json!({
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "", "toolCalls": [
                    {"name": "n", "parameters": [1, null, {"a": "b"}], "id": "i"},
                ]},
            ],
            "model": "m",
            "temperature": 0.5,
            "maxTokens": 7,
            "tools": [{"name": "n", "description": "d", "parameters": {"type": "object"}}],
            "systemPrompt": "p",
            "stream": true,
        });
        let request = request(value.clone()).unwrap();
        assert_eq!(request.max_tokens, Some(7));
        assert_eq!(serde_json::to_value(&request).unwrap(), value);
    }

    #[test]
    fn null_means_absent_and_unknown_keys_are_ignored() {
        let read = request(json!({
            "messages": [{"role": "user", "content": "u", "toolCalls": null, "toolCallId": "x"}],
            "model": "m", "temperature": null, "maxTokens": null, "tools": null,
            "systemPrompt": null, "stream": null, "seed": 1,
        }))
        .unwrap();
        assert_eq!(read, AIRequest::new("m", vec![Message::new(MessageRole::User, "u")]));
    }

    #[test]
    fn required_fields_are_required_and_roles_are_closed() {
        assert!(request(json!({"messages": []})).is_err());
        assert!(request(json!({"model": "m"})).is_err());
        assert!(request(json!({"model": null, "messages": []})).is_err());
        let message = |value: Value| request(json!({"model": "m", "messages": [value]}));
        assert!(message(json!({"role": "tool", "content": ""})).is_err());
        assert!(message(json!({"role": "user"})).is_err());
        let call = |value: Value| {
            message(json!({"role": "assistant", "content": "", "toolCalls": [value]}))
        };
        assert!(call(json!({"name": "n", "id": "i"})).is_err());
        assert!(call(json!({"name": "n", "id": "i", "parameters": null})).is_ok());
    }

    #[test]
    fn temperature_that_json_cannot_carry_is_refused() {
        let mut request = AIRequest::new("m", vec![]);
        request.temperature = Some(f64::NAN);
        assert!(serde_json::to_string(&request).is_err());
    }

    #[test]
    fn tool_is_read_in_every_known_shape_and_written_in_ours() {
        let schema = json!({"type": "object", "properties": {}});
        let ours = json!({"name": "n", "description": "d", "parameters": schema});
        let shapes = [
            ours.clone(),
            json!({"name": "n", "description": "d", "inputSchema": schema}),
            json!({"name": "n", "description": "d", "input_schema": schema}),
            json!({"type": "custom", "name": "n", "description": "d", "input_schema": schema}),
            json!({"type": "function", "name": "n", "description": "d", "parameters": schema}),
            json!({"type": "function", "function": ours}),
            json!({
                "type": "function",
                "function": {"name": "n", "description": "d", "inputSchema": schema, "strict": true},
            }),
        ];
        for shape in shapes {
            assert_eq!(serde_json::to_value(tool(shape).unwrap()).unwrap(), ours.clone());
        }
    }

    #[test]
    fn tool_needs_only_a_name() {
        let read = tool(json!({"name": "n", "description": null, "parameters": null})).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"name":"n"}"#);
        let wrapped = tool(json!({"type": "function", "function": {"name": "n"}})).unwrap();
        assert_eq!(wrapped, read);
    }

    #[test]
    fn ambiguous_tool_is_refused() {
        for shape in [
            json!({}),
            json!({"type": "function"}),
            json!({"type": "function", "function": {}}),
            json!({"function": {"name": "n"}}),
            json!({"type": "custom", "function": {"name": "n"}}),
            json!({"type": "function", "name": "n", "function": {"name": "n"}}),
            json!({"name": "n", "parameters": {}, "input_schema": {}}),
        ] {
            assert!(tool(shape.clone()).is_err(), "{shape}");
        }
    }
}
