//! A request into what is sent, whatever the dialect.

use serde_json::Value;

use super::answer::Keepsake;
use super::conversation::Conversation;
use super::failure::{Class, Failure};
use super::row::{Dialect, Row};
use super::{anthropic, cohere, gemini, ollama, openai};
use crate::protocol::AIRequest;

/// What is sent, but for the host and the credentials. Always a POST with a JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// To be appended to the provider's base URL; begins with `/`, query included.
    pub path: String,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// Where what providers want back with their tool calls is kept.
pub trait Keepsakes {
    /// What was kept for the call of this id, if it came from a provider of this row.
    fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake>;
}

/// Nothing is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKeepsakes;

impl Keepsakes for NoKeepsakes {
    fn find(&self, _kind: &str, _call_id: &str) -> Option<Keepsake> {
        None
    }
}

/// How requests to one model of one provider are written.
#[derive(Clone, Copy)]
pub struct Encoding<'a> {
    /// The kind of provider.
    pub row: &'a Row,
    /// The model's name as the provider knows it; with [`super::UrlForm::AzureDeployment`], the
    /// deployment.
    pub model: &'a str,
    /// `maxTokens` where a dialect demands one and the request has none.
    pub max_tokens_default: u32,
    /// Whether the model refuses a temperature.
    pub drop_temperature: bool,
    /// The context that a local model is to have, in tokens (Ollama's `num_ctx`).
    pub context_size: Option<u32>,
    /// Azure's `api-version`.
    pub api_version: Option<&'a str>,
    /// What providers want back.
    pub keepsakes: &'a dyn Keepsakes,
}

impl Encoding<'_> {
    /// Writes a request.
    ///
    /// # Errors
    ///
    /// [`Class::BadRequest`]: the dialect has no words for it.
    pub fn encode(&self, request: &AIRequest) -> Result<Call, Failure> {
        let (path, body) = match self.row.dialect {
            Dialect::OpenAi => openai::encode(self, request),
            Dialect::Anthropic => anthropic::encode(self, request),
            Dialect::Gemini => gemini::encode(self, request),
            Dialect::Ollama => ollama::encode(self, request),
            #[cfg(feature = "bedrock")]
            Dialect::Bedrock => super::bedrock::encode(self, request),
            Dialect::Cohere => cohere::encode(self, request),
        }?;
        let body = serde_json::to_vec(&body).map_err(|_| {
            Failure::new(Class::BadRequest, "the request cannot be written as JSON")
        })?;
        Ok(Call { path, body })
    }

    /// The request in turns. A conversation that is nothing but system messages is refused: no
    /// dialect has an answer to that.
    pub(super) fn conversation<'r>(
        &self,
        request: &'r AIRequest,
    ) -> Result<Conversation<'r>, Failure> {
        let conversation = Conversation::new(request, self.row.quirks.merge_same_role);
        if conversation.turns.is_empty() {
            return Err(Failure::new(
                Class::BadRequest,
                "the request has no message with text: add a user message",
            ));
        }
        Ok(conversation)
    }

    /// The temperature to send, within the row's range.
    pub(super) fn temperature(&self, request: &AIRequest) -> Option<f64> {
        let temperature = request.temperature.filter(|_| !self.drop_temperature)?;
        Some(temperature.clamp(0.0, self.row.quirks.temperature_max))
    }
}

/// A tool call's arguments as an object, for dialects that take nothing else.
pub(super) fn as_object(parameters: &Value) -> Value {
    match parameters {
        Value::Object(_) => parameters.clone(),
        other => serde_json::json!({ "value": other }),
    }
}

/// A tool's schema, or the one of a tool without arguments.
pub(super) fn schema(tool: &crate::protocol::Tool) -> Value {
    match &tool.parameters {
        Some(parameters) => parameters.0.clone(),
        None => serde_json::json!({"type": "object", "properties": {}}),
    }
}
