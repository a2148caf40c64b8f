//! Errors inside a stream whose status was 200.

use serde::Deserialize;

use super::super::event::{Text, parse};
use super::super::failure::{Class, Failure};

#[derive(Deserialize)]
struct ErrorEvent<'a> {
    #[serde(borrow)]
    error: Body<'a>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

/// What an `error` event says.
pub(super) fn failure(data: &[u8]) -> Failure {
    match parse::<ErrorEvent<'_>>(data) {
        Ok(ErrorEvent { error: Body { kind, message } }) => {
            let (kind, message) = (kind.as_deref().unwrap_or(""), message.as_deref().unwrap_or(""));
            let separator = if kind.is_empty() || message.is_empty() { "" } else { ": " };
            Failure::new(class(kind, message), format!("{kind}{separator}{message}"))
        }
        // A gateway's own words.
        Err(_) => Failure::new(Class::Server, String::from_utf8_lossy(data)),
    }
}

/// The vendor's types of errors; each has an HTTP status of its own when it comes before the stream.
fn class(kind: &str, message: &str) -> Class {
    match kind {
        "invalid_request_error" | "not_found_error" | "request_too_large" => Class::BadRequest,
        "authentication_error" | "permission_error" => Class::Auth,
        "billing_error" => Class::Quota,
        // No wait helps against the limit that the account's owner has set.
        "rate_limit_error" if message.contains("spend limit") => Class::Quota,
        "rate_limit_error" => Class::RateLimited,
        "overloaded_error" => Class::Overloaded,
        // `api_error`, `timeout_error`, and what is new.
        _ => Class::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_class() {
        for (kind, message, expected) in [
            ("invalid_request_error", "", Class::BadRequest),
            ("authentication_error", "", Class::Auth),
            ("billing_error", "", Class::Quota),
            ("permission_error", "", Class::Auth),
            ("not_found_error", "", Class::BadRequest),
            ("request_too_large", "", Class::BadRequest),
            ("rate_limit_error", "slow down", Class::RateLimited),
            ("rate_limit_error", "the spend limit of this month is reached", Class::Quota),
            ("api_error", "", Class::Server),
            ("timeout_error", "", Class::Server),
            ("overloaded_error", "Overloaded", Class::Overloaded),
            ("error_of_next_year", "", Class::Server),
        ] {
            let data = format!(
                r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"r"}}"#
            );
            let failure = failure(data.as_bytes());
            assert_eq!(failure.class, expected, "{kind}");
            assert!(failure.detail.starts_with(kind) && failure.detail.ends_with(message));
        }
    }

    #[test]
    fn an_error_in_other_words_is_the_servers() {
        for data in [&b"upstream gone"[..], br#"{"error":"gone"}"#, b"{}", b"\xff", b""] {
            assert_eq!(failure(data).class, Class::Server);
        }
        assert_eq!(failure(b"{\"error\":{\"message\":\"gone\"}}").detail, "gone");
    }
}
