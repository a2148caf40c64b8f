//! What an error body says, whatever its shape.
//!
//! Tried in turn: `{error: {…}}`, `{error: "text", code?}`, the same without the envelope, `{detail}`,
//! text. Gemini wraps its body in an array of one, now and then.

use std::time::Duration;

use serde_json::{Map, Value};

use super::wait;
use crate::dialect::failure::DETAIL_SIZE_MAX;

type Object = Map<String, Value>;

/// What was said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Words {
    /// For people. May be empty.
    pub(super) text: String,
    /// The name of the error, the narrower one. May be empty.
    pub(super) code: String,
    /// The name of the error, the wider one. May be empty.
    pub(super) kind: String,
    /// What an HTTP status would be.
    pub(super) status: Option<u16>,
    /// How long to wait (Gemini's `RetryInfo`).
    pub(super) wait: Option<Duration>,
    /// Whether a quota of the day is used up (Gemini's `QuotaFailure`).
    pub(super) is_over_for_today: bool,
    /// The request's name for the provider's support. May be empty.
    pub(super) request: String,
}

impl Words {
    /// Of a body or an event; whatever is no JSON is the text itself.
    pub(super) fn read(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(value) => Self::of(&value),
            Err(_) => {
                let start = &body[..body.len().min(DETAIL_SIZE_MAX)];
                let text = String::from_utf8_lossy(start).trim().to_owned();
                Self { text, ..Self::default() }
            }
        }
    }

    fn of(value: &Value) -> Self {
        let value = match value {
            Value::Array(values) if values.len() == 1 => &values[0],
            value => value,
        };
        let Value::Object(outer) = value else {
            return Self { text: text(value), ..Self::default() };
        };
        let error = outer.get("error");
        let inner = error.and_then(Value::as_object).unwrap_or(outer);
        let mut words = Self {
            text: match error {
                Some(Value::String(error)) => error.clone(),
                _ => text_of(inner),
            },
            code: name(inner, &["code"]),
            kind: name(inner, &["type", "status", "__type"]),
            status: status(inner),
            request: name(outer, &["request_id"]),
            ..Self::default()
        };
        // `com.amazon.coral.service#ThrottlingException`
        if let Some((_, kind)) = words.kind.rsplit_once('#') {
            words.kind = kind.to_owned();
        }
        // What the vendor behind a router said (OpenRouter).
        if let Some(raw) = inner.get("metadata").and_then(|metadata| metadata.get("raw")) {
            words.text = format!("{}: {}", words.text, text(raw));
        }
        let details = inner.get("details").and_then(Value::as_array);
        for detail in details.into_iter().flatten() {
            words.add_detail(detail);
        }
        words
    }

    /// Reads one of `google.rpc`'s details.
    fn add_detail(&mut self, detail: &Value) {
        let field = |name| detail.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = field("@type");
        if kind.ends_with("RetryInfo") {
            self.wait = wait::duration(field("retryDelay"));
        } else if kind.ends_with("QuotaFailure") {
            let violations = detail.get("violations").and_then(Value::as_array);
            self.is_over_for_today |= violations.into_iter().flatten().any(|violation| {
                let id = violation.get("quotaId").and_then(Value::as_str);
                id.is_some_and(|id| id.contains("PerDay"))
            });
        } else if field("reason") == "API_KEY_INVALID" {
            // The code is only the status again.
            field("reason").clone_into(&mut self.code);
        }
    }
}

/// The first of these fields that has something in it; numbers as text.
fn name(object: &Object, fields: &[&str]) -> String {
    let mut names = fields.iter().filter_map(|field| match object.get(*field)? {
        Value::String(name) if !name.is_empty() => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    names.next().unwrap_or_default()
}

fn status(object: &Object) -> Option<u16> {
    let statuses = ["status_code", "status", "code"].iter().filter_map(|field| {
        let number = match object.get(*field)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        u16::try_from(number?).ok().filter(|status| (400..600).contains(status))
    });
    statuses.into_iter().next()
}

fn text_of(object: &Object) -> String {
    let fields = ["message", "Message", "detail", "msg"];
    match fields.iter().find_map(|field| object.get(*field)) {
        Some(value) => text(value),
        None => Value::Object(object.clone()).to_string(),
    }
}

/// Nests no deeper than the parser allowed.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(object) => text_of(object),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("; "),
        value => value.to_string(),
    }
}
