//! Which dialect a request speaks, by its path, and how each one frames, ends and refuses.

use serde_json::{Value, json};

use crate::hint::Hint;
use crate::script::Refusal;

/// A way of asking and answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions: `…/chat/completions`.
    OpenAi,
    /// Anthropic's messages: `…/messages`.
    Anthropic,
    /// Google's generateContent: `…/models/{model}:streamGenerateContent`.
    Gemini,
    /// Ollama's chat: `…/api/chat`.
    Ollama,
    /// Amazon Bedrock's Converse: `…/model/{id}/converse-stream`.
    Bedrock,
    /// Cohere's chat, version 2: `…/v2/chat`.
    Cohere,
}

impl Dialect {
    /// All six, for tests and tables.
    pub const ALL: [Self; 6] =
        [Self::OpenAi, Self::Anthropic, Self::Gemini, Self::Ollama, Self::Bedrock, Self::Cohere];

    /// The dialect of a path without its query, and the model if the path names it.
    pub(crate) fn of_path(path: &str) -> Option<(Self, Option<String>)> {
        if path.ends_with("/chat/completions") {
            let deployment = path.split_once("/deployments/").and_then(|(_, rest)| {
                rest.split_once('/').map(|(deployment, _)| unescape(deployment))
            });
            return Some((Self::OpenAi, deployment));
        }
        if let Some(start) = path.strip_suffix(":streamGenerateContent") {
            let model = start.rsplit_once("/models/")?.1;
            return Some((Self::Gemini, Some(unescape(model))));
        }
        if let Some(start) = path.strip_suffix("/converse-stream") {
            let model = start.rsplit_once("/model/")?.1;
            return Some((Self::Bedrock, Some(unescape(model))));
        }
        let fixed = [
            ("/messages", Self::Anthropic),
            ("/api/chat", Self::Ollama),
            ("/v2/chat", Self::Cohere),
        ];
        let found = fixed.iter().find(|(end, _)| path.ends_with(end));
        found.map(|(_, dialect)| (*dialect, None))
    }

    /// Where a request for this model goes, below a base URL as each provider's row has it.
    #[must_use]
    pub fn path(self, model: &str) -> String {
        match self {
            Self::OpenAi => "/v1/chat/completions".to_owned(),
            Self::Anthropic => "/v1/messages".to_owned(),
            Self::Gemini => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
            Self::Ollama => "/api/chat".to_owned(),
            Self::Bedrock => format!("/model/{}/converse-stream", model.replace(':', "%3A")),
            Self::Cohere => "/v2/chat".to_owned(),
        }
    }

    /// The content type of its streams.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Ollama => "application/x-ndjson",
            Self::Bedrock => "application/vnd.amazon.eventstream",
            _ => "text/event-stream; charset=utf-8",
        }
    }

    /// Status, further headers and body of a refusal.
    pub(crate) fn refusal(
        self,
        refusal: Refusal,
        hints: &[Hint],
    ) -> (u16, Vec<(&'static str, String)>, Value) {
        let status = match (refusal, self) {
            (Refusal::Status(status), _) => status,
            (Refusal::Quota, Self::OpenAi | Self::Gemini | Self::Bedrock) => 429,
            (Refusal::Quota, _) => 402,
            (Refusal::BadKey, Self::Gemini) => 400,
            (Refusal::BadKey, Self::Bedrock) => 403,
            (Refusal::BadKey, _) => 401,
        };
        let mut words = match refusal {
            Refusal::Quota => "The spend limit of this account is reached".to_owned(),
            Refusal::BadKey => "The API key is not valid".to_owned(),
            Refusal::Status(status) => format!("The script says {status}"),
        };
        for hint in hints {
            if let Hint::TryAgainIn(time) = hint {
                words = format!("{words}. Please try again in {time}.");
            }
        }
        let mut headers = Vec::new();
        if self == Self::Bedrock {
            let kind = format!("{}:http://internal.amazon.com/", kinds(status, refusal).bedrock);
            headers.push(("x-amzn-errortype", kind));
        }
        (status, headers, self.error_body(status, refusal, &words, hints))
    }

    fn error_body(self, status: u16, refusal: Refusal, words: &str, hints: &[Hint]) -> Value {
        let kinds = kinds(status, refusal);
        match self {
            Self::OpenAi => json!({"error": {
                "message": words, "type": kinds.openai.0, "param": null, "code": kinds.openai.1,
            }}),
            Self::Anthropic => json!({
                "type": "error",
                "error": {"type": kinds.anthropic, "message": words},
                "request_id": "req_fake",
            }),
            Self::Gemini => {
                let mut details = Vec::new();
                for hint in hints {
                    if let Hint::RetryDelay(delay) = hint {
                        let kind = "type.googleapis.com/google.rpc.RetryInfo";
                        details.push(json!({"@type": kind, "retryDelay": delay}));
                    }
                }
                match refusal {
                    Refusal::Quota => details.push(json!({
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
                    })),
                    Refusal::BadKey => details.push(json!({
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID", "domain": "googleapis.com",
                    })),
                    Refusal::Status(_) => {}
                }
                json!({"error": {
                    "code": status, "message": words, "status": kinds.gemini, "details": details,
                }})
            }
            Self::Ollama => json!({"error": words}),
            Self::Bedrock => json!({"message": words}),
            Self::Cohere => json!({"id": "fake", "message": words}),
        }
    }
}

/// What each vendor calls a status.
struct Kinds {
    /// Type and code.
    openai: (&'static str, Option<&'static str>),
    anthropic: &'static str,
    gemini: &'static str,
    bedrock: &'static str,
}

fn kinds(status: u16, refusal: Refusal) -> Kinds {
    let invalid = ("invalid_request_error", None);
    let (openai, anthropic, gemini, bedrock) = match (refusal, status) {
        (Refusal::Quota, _) => (
            ("insufficient_quota", Some("insufficient_quota")),
            "billing_error",
            "RESOURCE_EXHAUSTED",
            "ServiceQuotaExceededException",
        ),
        (Refusal::BadKey, _) | (_, 401) => (
            ("invalid_request_error", Some("invalid_api_key")),
            "authentication_error",
            if status == 400 { "INVALID_ARGUMENT" } else { "UNAUTHENTICATED" },
            "UnrecognizedClientException",
        ),
        (_, 403) => (invalid, "permission_error", "PERMISSION_DENIED", "AccessDeniedException"),
        (_, 404) => (
            ("invalid_request_error", Some("model_not_found")),
            "not_found_error",
            "NOT_FOUND",
            "ResourceNotFoundException",
        ),
        (_, 429) => (
            ("requests", Some("rate_limit_exceeded")),
            "rate_limit_error",
            "RESOURCE_EXHAUSTED",
            "ThrottlingException",
        ),
        (_, 503 | 529) => (
            ("overloaded_error", None),
            "overloaded_error",
            "UNAVAILABLE",
            "ServiceUnavailableException",
        ),
        (_, 500..) => (("server_error", None), "api_error", "INTERNAL", "InternalServerException"),
        _ => (invalid, "invalid_request_error", "INVALID_ARGUMENT", "ValidationException"),
    };
    Kinds { openai, anthropic, gemini, bedrock }
}

/// Undoes percent-encoding; what is not an escape stays.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped.filter(|_| byte == b'%') {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_dialect_and_model() {
        for dialect in Dialect::ALL {
            let path = dialect.path("fake:1");
            let path = path.split('?').next().unwrap();
            let (found, model) = Dialect::of_path(path).unwrap();
            assert_eq!(found, dialect, "{path}");
            let names_it = matches!(dialect, Dialect::Gemini | Dialect::Bedrock);
            assert_eq!(model, names_it.then(|| "fake:1".to_owned()), "{path}");
        }
        let azure = "/openai/deployments/gpt%2D5/chat/completions";
        assert_eq!(Dialect::of_path(azure), Some((Dialect::OpenAi, Some("gpt-5".to_owned()))));
        assert_eq!(Dialect::of_path("/v1/completions"), None);
    }
}
