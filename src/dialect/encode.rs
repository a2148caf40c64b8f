//! A request into what is sent, whatever the dialect.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::answer::Keepsake;
use super::conversation::Conversation;
use super::failure::{Class, Failure};
use super::row::{Dialect, Row, ToolIds};
use super::{anthropic, cohere, gemini, ollama, openai};
use crate::protocol::{AIRequest, Tool};

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

/// The ids of a request's calls as the provider takes them, each once: some refuse an id that is there
/// twice, and those of a client need not differ.
///
/// A conversation that grows keeps the ids that it had, so that the provider knows its beginning again.
pub(super) struct CallIds {
    rule: ToolIds,
    used: HashSet<String>,
    latest: String,
}

impl CallIds {
    /// For a request to a provider that takes such ids.
    pub(super) fn new(rule: ToolIds) -> Self {
        Self { rule, used: HashSet::new(), latest: String::new() }
    }

    /// The id of the next call, which the client knows as `id`.
    pub(super) fn begin(&mut self, id: &str) -> &str {
        let mut fit = self.rule.fit(id).into_owned();
        // Bounded: each round makes another one, and the ids used are finite.
        for round in 2_u64.. {
            if self.used.insert(fit.clone()) {
                break;
            }
            fit = self.rule.fit(&format!("{id} {round}")).into_owned();
        }
        self.latest = fit;
        &self.latest
    }

    /// The same, for the result, which follows its call.
    pub(super) fn latest(&self) -> &str {
        &self.latest
    }
}

/// A tool call's arguments as an object, for dialects that take nothing else.
pub(super) fn as_object(parameters: &Value) -> Value {
    match parameters {
        Value::Object(_) => parameters.clone(),
        other => json!({ "value": other }),
    }
}

/// A tool's schema, or the one of a tool without arguments.
pub(super) fn schema(tool: &Tool) -> Value {
    match &tool.parameters {
        Some(parameters) => parameters.0.clone(),
        None => json!({"type": "object", "properties": {}}),
    }
}

/// The same, for providers that refuse a schema that does not say that it is one of an object.
pub(super) fn object_schema(tool: &Tool) -> Value {
    let mut schema = schema(tool);
    if let Value::Object(schema) = &mut schema {
        schema.entry("type").or_insert_with(|| "object".into());
    }
    schema
}

/// A tool as a function, as OpenAI's dialect has it and others have taken over.
pub(super) fn function(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name, "parameters": schema(tool)});
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    json!({"type": "function", "function": function})
}

/// A name as one segment of a path or one value of its query, so that no name leads elsewhere: all but
/// the unreserved characters (RFC 3986, §2.3) and `@`, which stands in names of models, is encoded.
pub(super) fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_of_a_request_has_an_id_of_its_own_that_fits() {
        for rule in [ToolIds::Any, ToolIds::Alnum9, ToolIds::Max(40)] {
            let given = ["abcdef123", "a.b", "a.b", "", "", "abcdef123", "abcdef123", "a.b 2"];
            let ids = |count: usize| -> Vec<String> {
                let mut ids = CallIds::new(rule);
                let id = |given: &&str| {
                    let id = ids.begin(given).to_owned();
                    assert_eq!(ids.latest(), id);
                    id
                };
                given[..count].iter().map(id).collect()
            };
            let all = ids(given.len());
            assert_eq!(all[0], given[0], "it fits as it is");
            assert!(all.iter().all(|id| rule.fit(id) == *id), "{all:?}");
            let different: HashSet<&String> = all.iter().collect();
            assert_eq!(different.len(), given.len(), "{all:?}");
            for count in 0..given.len() {
                assert_eq!(ids(count), all[..count], "a longer conversation begins the same");
            }
        }
    }
}
