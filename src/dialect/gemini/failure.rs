//! What Google says went wrong: `{code, message, status, details}` (google.rpc.Status).

use std::time::Duration;

use serde_json::Value;

use crate::dialect::failure::{Class, Failure};

/// The failure that an error object tells of, wherever it stands: in the body of an HTTP error, or
/// in a stream that began well.
pub(super) fn failure(error: &Value) -> Failure {
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, message) = (text("status"), text("message"));
    let code = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let class = class(code, name, message, error);
    let detail = match (name, message) {
        ("", "") => error.as_str().map_or_else(|| error.to_string(), str::to_owned),
        ("", only) | (only, "") => only.to_owned(),
        (name, message) => format!("{name}: {message}"),
    };
    let mut failure = Failure::new(class, detail);
    failure.status = code;
    if class != Class::Quota {
        failure.hints.wait = details(error).find_map(retry_delay);
    }
    failure
}

fn class(code: Option<u16>, name: &str, message: &str, error: &Value) -> Class {
    match (code, name) {
        (Some(401 | 403), _) | (_, "UNAUTHENTICATED" | "PERMISSION_DENIED") => Class::Auth,
        (Some(402), _) => Class::Quota,
        (Some(429), _) | (_, "RESOURCE_EXHAUSTED") => {
            if details(error).any(is_for_the_day) {
                Class::Quota
            } else {
                Class::RateLimited
            }
        }
        (Some(503 | 529), _) | (_, "UNAVAILABLE") => Class::Overloaded,
        (Some(400 | 404 | 413 | 422), _)
        | (None, "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" | "NOT_FOUND") => {
            // A wrong key is an invalid argument to Google.
            let is_key = |detail: &Value| detail.get("reason") == Some(&"API_KEY_INVALID".into());
            if details(error).any(is_key) || message.starts_with("API key not valid") {
                Class::Auth
            } else {
                Class::BadRequest
            }
        }
        _ => Class::Server,
    }
}

fn details(error: &Value) -> impl Iterator<Item = &Value> {
    error.get("details").and_then(Value::as_array).into_iter().flatten()
}

/// Whether a detail (a QuotaFailure) says that the quota of a day is used up.
fn is_for_the_day(detail: &Value) -> bool {
    let violations = detail.get("violations").and_then(Value::as_array).into_iter().flatten();
    let mut ids = violations.filter_map(|violation| violation.get("quotaId")?.as_str());
    ids.any(|id| id.contains("PerDay"))
}

/// How long to wait, of a detail (a RetryInfo): `"45.8379s"`.
fn retry_delay(detail: &Value) -> Option<Duration> {
    let seconds = detail.get("retryDelay")?.as_str()?.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_follow_code_name_and_details() {
        let day = json!([{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}]);
        let minute = json!([{"violations": [{"quotaId": "GenerateRequestsPerMinute"}]}]);
        let key = json!([{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}]);
        let odd = json!([7, {"violations": 3}, {"violations": [1]}, {"reason": {}}]);
        for (error, class) in [
            (json!({"code": 429, "status": "RESOURCE_EXHAUSTED"}), Class::RateLimited),
            (json!({"code": 429, "details": minute}), Class::RateLimited),
            (json!({"code": 429, "details": day}), Class::Quota),
            (json!({"status": "RESOURCE_EXHAUSTED", "details": odd}), Class::RateLimited),
            (json!({"code": 400, "status": "INVALID_ARGUMENT", "details": key}), Class::Auth),
            (json!({"code": 400, "message": "API key not valid. Pass one"}), Class::Auth),
            (json!({"code": 400, "status": "INVALID_ARGUMENT", "details": odd}), Class::BadRequest),
            (json!({"code": 404, "status": "NOT_FOUND"}), Class::BadRequest),
            (json!({"status": "FAILED_PRECONDITION"}), Class::BadRequest),
            (json!({"code": 401, "status": "UNAUTHENTICATED"}), Class::Auth),
            (json!({"code": 403, "status": "PERMISSION_DENIED"}), Class::Auth),
            (json!({"code": 402}), Class::Quota),
            (json!({"code": 503, "status": "UNAVAILABLE"}), Class::Overloaded),
            (json!({"status": "UNAVAILABLE"}), Class::Overloaded),
            (json!({"code": 500, "status": "INTERNAL"}), Class::Server),
            (json!({"code": 504, "status": "DEADLINE_EXCEEDED"}), Class::Server),
            (json!({"code": "what"}), Class::Server),
            (json!("a bare text"), Class::Server),
        ] {
            assert_eq!(failure(&error).class, class, "{error}");
        }
    }

    #[test]
    fn the_wait_is_read_from_the_details() {
        let delay = |text: &str| {
            let details = json!([{"@type": "…QuotaFailure"}, {"retryDelay": text}]);
            failure(&json!({"code": 429, "details": details})).hints.wait
        };
        assert_eq!(delay("45.8379s"), Some(Duration::from_secs_f64(45.8379)));
        assert_eq!(delay("3s"), Some(Duration::from_secs(3)));
        for odd in ["", "s", "-1s", "infs", "NaNs", "1e300s", "3"] {
            assert_eq!(delay(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_words_are_the_name_and_the_message() {
        let error =
            json!({"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"});
        assert_eq!(
            failure(&error).to_string(),
            "overloaded (HTTP 503): UNAVAILABLE: The model is overloaded."
        );
        assert_eq!(failure(&json!("no")).detail, "no");
        assert_eq!(failure(&json!({"odd": 1})).detail, "{\"odd\":1}");
    }
}
