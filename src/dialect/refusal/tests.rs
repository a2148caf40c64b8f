use std::path::Path;
use std::time::Duration;

use http::HeaderValue;

use super::*;

/// 2026-11-26T01:02:03Z.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_654_923)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |&(name, value): &(&'static str, &str)| {
        (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn refused(kind: &str, status: u16, body: &str) -> Failure {
    refusal(Row::of(kind).unwrap(), status, &HeaderMap::new(), body.as_bytes(), now())
}

#[test]
fn every_shape_of_a_body_is_read() {
    for (kind, status, body, class, detail) in [
        // A message, a type, a code.
        (
            "openai",
            400,
            r#"{"error":{"message":"Too long","type":"invalid_request_error","param":"input","code":"string_too_long"}}"#,
            Class::BadRequest,
            "Too long [string_too_long]",
        ),
        ("groq", 500, r#"{"error":{"message":"m","code":null}}"#, Class::Server, "m"),
        (
            "openrouter",
            429,
            r#"{"error":{"code":429,"message":"Provider returned error","metadata":{"provider_name":"Google","raw":"busy upstream"}},"user_id":"u"}"#,
            Class::RateLimited,
            "Provider returned error: busy upstream",
        ),
        // The error as text.
        (
            "xai",
            403,
            r#"{"code":"forbidden","error":"no access"}"#,
            Class::Auth,
            "no access [forbidden]",
        ),
        ("huggingface", 503, r#"{"error":"busy"}"#, Class::Overloaded, "busy"),
        (
            "ollama",
            404,
            r#"{"error":"model 'x' not found"}"#,
            Class::BadRequest,
            "model 'x' not found",
        ),
        // Without the envelope.
        (
            "mistral",
            429,
            r#"{"object":"error","message":"Requests rate limit exceeded","type":"rate_limited","code":1300}"#,
            Class::RateLimited,
            "Requests rate limit exceeded [1300]",
        ),
        (
            "cerebras",
            429,
            r#"{"message":"Too many","type":"too_many_requests_error","param":"quota","code":"request_quota_exceeded"}"#,
            Class::RateLimited,
            "Too many [request_quota_exceeded]",
        ),
        ("cohere", 422, r#"{"message":"bad tool","id":"a"}"#, Class::BadRequest, "bad tool"),
        // Details.
        (
            "mistral",
            422,
            r#"{"detail":[{"loc":["body","messages"],"msg":"Field required"},{"msg":"and more"}]}"#,
            Class::BadRequest,
            "Field required; and more",
        ),
        ("openai-compatible", 404, r#"{"detail":"Not Found"}"#, Class::BadRequest, "Not Found"),
        (
            "mistral",
            422,
            r#"{"object":"error","message":{"detail":[{"msg":"x"}]}}"#,
            Class::BadRequest,
            "x",
        ),
        // Anthropic.
        (
            "anthropic",
            404,
            r#"{"error":{"message":"model: no","type":"not_found_error"},"request_id":"req_1","type":"error"}"#,
            Class::BadRequest,
            "model: no [not_found_error] (request req_1)",
        ),
        (
            "anthropic",
            529,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            Class::Overloaded,
            "Overloaded [overloaded_error]",
        ),
        ("anthropic", 413, "<html>413</html>", Class::BadRequest, "<html>413</html>"),
        // Gemini, in an array or not.
        (
            "gemini",
            503,
            r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#,
            Class::Overloaded,
            "The model is overloaded. [UNAVAILABLE]",
        ),
        (
            "gemini",
            400,
            r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#,
            Class::Auth,
            "m [API_KEY_INVALID]",
        ),
        // Not JSON, or hardly.
        ("together", 524, " a timeout occurred\n", Class::Server, "a timeout occurred"),
        ("together", 500, r#""just text""#, Class::Server, "just text"),
        ("together", 502, "", Class::Server, ""),
        ("together", 500, "[]", Class::Server, ""),
        ("together", 500, r#"{"odd":1}"#, Class::Server, r#"{"odd":1}"#),
        ("together", 500, r#"{"error":null}"#, Class::Server, r#"{"error":null}"#),
    ] {
        let failure = refused(kind, status, body);
        assert_eq!(failure.class, class, "{body}");
        assert_eq!(failure.detail, detail, "{body}");
        assert_eq!(failure.status, Some(status));
    }
}

#[test]
fn names_and_words_tell_more_than_the_status() {
    for (status, code, kind, message, class) in [
        (429, "insufficient_quota", "insufficient_quota", "You exceeded …", Class::Quota),
        (429, "rate_limit_exceeded", "tokens", "Rate limit reached", Class::RateLimited),
        // Groq calls what can never fit a rate limit.
        (413, "rate_limit_exceeded", "tokens", "Request too large", Class::BadRequest),
        (429, "", "rate_limit_error", "This would exceed your spend limit", Class::Quota),
        (429, "1113", "", "Insufficient balance or no resource package.", Class::Quota),
        (400, "", "invalid_request_error", "Your credit balance is too low to …", Class::Quota),
        (402, "", "", "", Class::Quota),
        (
            400,
            "Client specified an invalid argument",
            "",
            "Incorrect API key provided: x",
            Class::Auth,
        ),
        (400, "400", "INVALID_ARGUMENT", "API key not valid. Please …", Class::Auth),
        (400, "", "ThrottlingException", "", Class::RateLimited),
        (400, "", "ExpiredTokenException", "", Class::Auth),
        (403, "insufficient_quota", "", "", Class::Quota),
        (403, "403", "", "Your input was flagged", Class::BadRequest),
        (429, "", "engine_overloaded_error", "", Class::Overloaded),
        (429, "429", "RESOURCE_EXHAUSTED", "You exceeded your current quota", Class::RateLimited),
        (400, "content_filter", "", "", Class::BadRequest),
        (503, "", "invalid_request_error", "", Class::Overloaded),
        (498, "capacity_exceeded", "", "", Class::RateLimited),
        // What a request may have put there condemns nothing.
        (400, "invalid_value", "", "Unknown model: 'incorrect api key'", Class::BadRequest),
        (400, "", "", "Unknown tool 'spend limit'", Class::BadRequest),
        (500, "", "", "spend limit", Class::Server),
    ] {
        assert_eq!(classify(Some(status), code, kind, message), class, "{status} {code} {kind}");
    }
    for (class, statuses) in [
        (Class::BadRequest, &[400, 404, 405, 413, 422, 451][..]),
        (Class::Auth, &[401, 403, 407]),
        (Class::Quota, &[402]),
        (Class::RateLimited, &[429, 498]),
        (Class::Overloaded, &[503, 529]),
        (Class::Server, &[301, 408, 409, 424, 499, 500, 501, 502, 504, 520, 521, 524, 599, 999]),
    ] {
        for status in statuses {
            assert_eq!(classify(Some(*status), "", "", ""), class, "{status}");
        }
    }
    assert_eq!(refused("cohere", 498, "{}").class, Class::BadRequest);
    assert_eq!(refused("groq", 498, "{}").class, Class::RateLimited);
}

#[test]
fn an_error_inside_a_stream_is_classed_by_its_own_words() {
    for (event, class) in [
        (
            r#"{"error":{"code":400,"message":"Token limit reached"},"choices":[]}"#,
            Class::BadRequest,
        ),
        (r#"{"error":{"code":"502","message":"m"}}"#, Class::Server),
        (r#"{"error":{"message":"m","status_code":429}}"#, Class::RateLimited),
        (
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"tool_use_failed"}}"#,
            Class::BadRequest,
        ),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            Class::Overloaded,
        ),
        (r#"{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}"#, Class::Overloaded),
        (r#"{"error":"Unexpected endpoint or method. (GET /v1/x)"}"#, Class::Server),
        (r#"{"error":"too many requests"}"#, Class::RateLimited),
        (r#"{"error":"the engine is overloaded"}"#, Class::Overloaded),
        ("no JSON", Class::Server),
    ] {
        let failure = in_band(event.as_bytes());
        assert_eq!((failure.class, failure.status), (class, None), "{event}");
    }
    for (kind, class) in [
        ("internalServerException", Class::Server),
        ("modelStreamErrorException", Class::Server),
        ("serviceUnavailableException", Class::Overloaded),
        ("throttlingException", Class::RateLimited),
        ("validationException", Class::BadRequest),
    ] {
        assert_eq!(classify(None, "", kind, ""), class, "{kind}");
    }
}

/// The vendor's types of errors; each has an HTTP status of its own when it comes before the stream.
#[test]
fn each_type_of_anthropics_errors_has_its_class() {
    for (kind, message, class) in [
        ("invalid_request_error", "m", Class::BadRequest),
        ("authentication_error", "m", Class::Auth),
        ("billing_error", "m", Class::Quota),
        ("permission_error", "m", Class::Auth),
        ("not_found_error", "m", Class::BadRequest),
        ("request_too_large", "m", Class::BadRequest),
        ("rate_limit_error", "slow down", Class::RateLimited),
        // No wait helps against the limit that the account's owner has set.
        ("rate_limit_error", "the spend limit of this month is reached", Class::Quota),
        ("api_error", "the spend limit of this month is reached", Class::Server),
        ("api_error", "m", Class::Server),
        ("timeout_error", "m", Class::Server),
        ("overloaded_error", "Overloaded", Class::Overloaded),
        ("error_of_next_year", "m", Class::Server),
    ] {
        let event = format!(
            r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"r"}}"#
        );
        let failure = in_band(event.as_bytes());
        assert_eq!(failure.class, class, "{kind}");
        assert_eq!(failure.detail, format!("{message} [{kind}] (request r)"));
    }
    for event in [&b"upstream gone"[..], br#"{"error":"gone"}"#, b"{}", b"\xff", b""] {
        assert_eq!(in_band(event).class, Class::Server);
    }
    assert_eq!(in_band(b"{\"error\":{\"message\":\"gone\"}}").detail, "gone");
    assert_eq!(in_band(b"{\"type\":\"error\",\"message\":\"gone\"}").detail, "gone");
}

#[test]
fn googles_errors_are_classed_by_code_name_and_details() {
    let details = |kind: &str, detail: &str| {
        format!(r#"[7,{{"@type":"type.googleapis.com/google.rpc.{kind}",{detail}}}]"#)
    };
    let quota =
        |id: &str| details("QuotaFailure", &format!(r#""violations":[1,{{"quotaId":"{id}"}}]"#));
    let day = quota("GenerateRequestsPerDayPerProject");
    let minute = quota("GenerateRequestsPerMinute");
    let key = details("ErrorInfo", r#""reason":"API_KEY_INVALID","domain":"googleapis.com""#);
    let odd = details("QuotaFailure", r#""violations":3,"reason":{}"#);
    for (code, status, message, details, class) in [
        ("429", "RESOURCE_EXHAUSTED", "", "null", Class::RateLimited),
        ("429", "", "", &minute, Class::RateLimited),
        ("429", "", "", &day, Class::Quota),
        ("null", "RESOURCE_EXHAUSTED", "", &odd, Class::RateLimited),
        ("400", "INVALID_ARGUMENT", "", &key, Class::Auth),
        ("400", "", "API key not valid. Pass one", "null", Class::Auth),
        ("400", "INVALID_ARGUMENT", "", &odd, Class::BadRequest),
        ("404", "NOT_FOUND", "", "null", Class::BadRequest),
        ("null", "FAILED_PRECONDITION", "", "null", Class::BadRequest),
        ("401", "UNAUTHENTICATED", "", "null", Class::Auth),
        ("403", "PERMISSION_DENIED", "", "null", Class::Auth),
        ("402", "", "", "null", Class::Quota),
        ("503", "UNAVAILABLE", "", "null", Class::Overloaded),
        ("null", "UNAVAILABLE", "", "null", Class::Overloaded),
        ("500", "INTERNAL", "", "null", Class::Server),
        ("504", "DEADLINE_EXCEEDED", "", "null", Class::Server),
        ("\"what\"", "", "", "null", Class::Server),
    ] {
        let event = format!(
            r#"{{"error":{{"code":{code},"status":"{status}","message":"{message}","details":{details}}}}}"#
        );
        assert_eq!(in_band(event.as_bytes()).class, class, "{event}");
        assert_eq!(in_band(format!("[{event}]").as_bytes()).class, class, "[{event}]");
    }
    for (delay, wait) in [
        ("45.8379s", Some(Duration::from_secs_f64(45.8379))),
        ("3s", Some(Duration::from_secs(3))),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("infs", None),
        ("NaNs", None),
        ("1e300s", None),
    ] {
        let details = details("RetryInfo", &format!("\"retryDelay\":\"{delay}\""));
        let event = format!(r#"{{"error":{{"code":429,"details":{details}}}}}"#);
        assert_eq!(in_band(event.as_bytes()).hints.wait, wait, "{delay}");
    }
}

#[test]
fn hints_are_read_in_every_form_and_in_their_order() {
    let retry_info = r#"{"error":{"code":429,"message":"Please retry in 9s","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"45.5s"}]}}"#;
    let text = r#"{"error":{"message":"Limit 5. Please try again in 7.66s. Visit x"}}"#;
    let exhausted = [
        ("x-ratelimit-remaining-requests", "3"),
        ("x-ratelimit-reset-requests", "9h"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    let with = |first: &[(&'static str, &str)]| {
        let all: Vec<_> = first.iter().chain(&exhausted).copied().collect();
        headers(&all)
    };
    for (headers, body, retry, millis) in [
        (with(&[("x-should-retry", "false"), ("retry-after", "3")]), text, Some(false), None),
        (with(&[("x-should-retry", "true")]), text, Some(true), Some(7660)),
        (with(&[("retry-after-ms", "1500"), ("retry-after", "3")]), text, None, Some(1500)),
        (with(&[("retry-after", "3")]), retry_info, None, Some(3000)),
        (with(&[("retry-after", "0.25")]), text, None, Some(250)),
        (with(&[("retry-after", "Thu, 26 Nov 2026 01:03:03 GMT")]), text, None, Some(60_000)),
        // Neither the past nor nothing nor nonsense is a hint: the next one counts.
        (with(&[("retry-after", "Thu, 26 Nov 2026 01:02:03 GMT")]), text, None, Some(7660)),
        (with(&[("retry-after", "0"), ("retry-after-ms", "-5")]), text, None, Some(7660)),
        (with(&[("retry-after", "soon"), ("retry-after-ms", "NaN")]), text, None, Some(7660)),
        (with(&[]), retry_info, None, Some(45_500)),
        (with(&[]), text, None, Some(7660)),
        (with(&[]), "", None, Some(360_000)),
        (headers(&exhausted[..2]), "", None, None),
        (HeaderMap::new(), r#"{"message":"Please retry after 20 seconds."}"#, None, Some(20_000)),
        (
            headers(&[
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-11-26T01:02:33Z"),
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-26T01:03:03Z"),
                ("anthropic-ratelimit-output-tokens-remaining", "9"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-11-27T01:02:03Z"),
            ]),
            "",
            None,
            Some(60_000),
        ),
        (
            headers(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795654933000")]),
            "",
            None,
            Some(10_000),
        ),
        // As good as never, but a time that can be added to a clock.
        (headers(&[("retry-after", "1e18")]), "", None, Some(31 * 86_400_000)),
        (headers(&[("retry-after", "1e300")]), "", None, None),
    ] {
        let hints =
            refusal(Row::of("openai").unwrap(), 429, &headers, body.as_bytes(), now()).hints;
        assert_eq!(hints.retry, retry, "{headers:?} {body}");
        assert_eq!(hints.wait.map(|wait| wait.as_millis()), millis, "{headers:?} {body}");
    }
}

#[test]
fn a_quota_of_the_day_is_not_a_limit_of_the_rate() {
    let body = |id: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[
            {{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":"{id}"}}]}},
            {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"2s"}}]}}}}"#
        )
    };
    let day = refused("gemini", 429, &body("GenerateRequestsPerDayPerProjectPerModel-FreeTier"));
    let minute = refused("gemini", 429, &body("GenerateRequestsPerMinutePerProjectPerModel"));
    assert_eq!((day.class, minute.class), (Class::Quota, Class::RateLimited));
    assert_eq!(minute.hints.wait, Some(Duration::from_secs(2)));
}

#[test]
fn a_header_names_the_error_where_the_body_does_not() {
    let headers = headers(&[
        ("x-amzn-errortype", "ThrottlingException:http://internal.amazon.com/coral/"),
        ("x-amzn-requestid", "7f-1"),
    ]);
    let body = br#"{"message":"Too many tokens"}"#;
    let failure = refusal(Row::of("openai").unwrap(), 400, &headers, body, now());
    assert_eq!(failure.class, Class::RateLimited);
    assert_eq!(failure.detail, "Too many tokens [ThrottlingException] (request 7f-1)");
}

#[test]
fn the_requests_id_stays_however_much_was_said() {
    let body = "é".repeat(DETAIL_SIZE_MAX);
    let headers = headers(&[("x-request-id", "req_7")]);
    let failure = refusal(Row::of("openai").unwrap(), 500, &headers, body.as_bytes(), now());
    assert!(failure.detail.len() <= DETAIL_SIZE_MAX);
    assert!(failure.detail.ends_with("é (request req_7)"), "{}", failure.detail.len());
}

/// Error bodies of real services, with what they are.
#[test]
fn recorded_error_bodies_are_classed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recorded/MANIFEST.json");
    let Ok(manifest) = std::fs::read(&file) else {
        println!("skipped: there are no recordings at {}", file.display());
        return;
    };
    let manifest: Vec<serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
    let mut count = 0;
    for entry in manifest.iter().filter(|entry| entry["kind"] == "error") {
        count += 1;
        let status = u16::try_from(entry["status"].as_u64().unwrap()).unwrap();
        let body = entry["body"].as_str().unwrap();
        let row = Row::of(entry["provider"].as_str().unwrap()).unwrap_or(&crate::dialect::ROWS[0]);
        let failure = refusal(row, status, &HeaderMap::new(), body.as_bytes(), now());
        let class = if status == 429 { Class::RateLimited } else { Class::BadRequest };
        assert_eq!(failure.class, class, "{body}");
        let said = serde_json::from_str::<serde_json::Value>(body).unwrap();
        let message = said["error"]["message"].as_str().or(said["message"].as_str()).unwrap();
        assert!(failure.detail.starts_with(message), "{body}");
        assert_eq!(failure.hints, Default::default(), "{body}");
    }
    assert!(count > 0, "the manifest holds error bodies");
}
