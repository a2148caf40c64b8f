//! What authorises a request to Bedrock, by the form of the key.
//!
//! A key `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, or `ACCESS_KEY_ID:SECRET_ACCESS_KEY:SESSION_TOKEN`, signs
//! the request with AWS Signature Version 4; a key without a colon is a Bedrock API key and is sent
//! as a bearer token. (No part of either can have a colon.)
//!
//! Source: the *AWS Identity and Access Management User Guide*, "AWS Signature Version 4 for API
//! requests", and the *Amazon Bedrock User Guide*, "Amazon Bedrock API keys".

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::dialect::failure::{Class, Failure};

/// The name under which AWS knows the service in signatures.
const SERVICE: &str = "bedrock";

/// What of a POST request a signature covers.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// The whole URL as it is sent, its path encoded; the signature covers the host.
    pub url: &'a str,
    /// Those headers that are sent exactly so, without `host`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// The headers that are to be sent with the request, marked sensitive.
///
/// `now` must be within five minutes of AWS's clock.
///
/// # Errors
///
/// [`Class::Auth`]: the key has neither form. [`Class::BadRequest`]: the URL or a header is none.
/// No text of a failure holds anything of the key.
pub fn authorize(
    request: &Unsigned<'_>,
    key: &str,
    region: &str,
    now: SystemTime,
) -> Result<HeaderMap, Failure> {
    if !key.contains(':') {
        let mut headers = HeaderMap::new();
        insert(&mut headers, AUTHORIZATION, &format!("Bearer {key}"))?;
        return Ok(headers);
    }
    let identity: Identity = credentials(key)?.into();
    // The defaults are Bedrock's: the path is encoded twice, and no header repeats the body's hash.
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| cannot_sign())?
        .into();
    let signable = SignableRequest::new(
        "POST",
        request.url,
        request.headers.iter().copied(),
        SignableBody::Bytes(request.body),
    )
    .map_err(|_| cannot_sign())?;
    let (instructions, _) = sign(signable, &params).map_err(|_| cannot_sign())?.into_parts();
    let mut headers = HeaderMap::new();
    for header in instructions.into_parts().0 {
        let name = HeaderName::from_static(header.name());
        insert(&mut headers, name, header.value())?;
    }
    Ok(headers)
}

fn credentials(key: &str) -> Result<Credentials, Failure> {
    let parts: Vec<&str> = key.split(':').collect();
    let (id, secret, token) = match parts[..] {
        [id, secret] => (id, secret, None),
        [id, secret, token] => (id, secret, Some(token)),
        _ => return Err(unknown_form()),
    };
    let is_sound = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic());
    if !parts.iter().all(is_sound) {
        return Err(unknown_form());
    }
    Ok(Credentials::from_keys(id, secret, token.map(str::to_owned)))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Failure> {
    let mut value = HeaderValue::from_str(value).map_err(|_| unknown_form())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn unknown_form() -> Failure {
    Failure::new(
        Class::Auth,
        "the key for Bedrock is neither ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN] nor a Bedrock \
         API key: check the key's source",
    )
}

fn cannot_sign() -> Failure {
    Failure::new(Class::BadRequest, "the request cannot be signed: check base_urls and headers")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2026-11-26 01:02:03 UTC.
    const NOW: u64 = 1_795_654_923;
    const BODY: &str = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"Grüße\"}]}]}";
    const HEADERS: &[(&str, &str)] =
        &[("content-type", "application/json"), ("accept", "application/vnd.amazon.eventstream")];
    /// AWS's example.
    const KEY: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn authorized(url: &str, key: &str, region: &str) -> Result<HeaderMap, Failure> {
        let request = Unsigned { url, headers: HEADERS, body: BODY.as_bytes() };
        authorize(&request, key, region, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
    }

    /// The signatures are those of `SigV4Auth` of botocore 1.44.8 for the same requests.
    #[test]
    fn signatures_are_those_of_botocore() {
        for (url, token, region, signature) in [
            (
                "https://bedrock-runtime.eu-central-1.amazonaws.com/model/\
                 eu.anthropic.claude-sonnet-4-20250514-v1%3A0/converse-stream",
                None,
                "eu-central-1",
                "c03fc03ab9db3ad995e907d4adcb2b40faf54739ac9a71e2432076f1764a52ad",
            ),
            (
                "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3A\
                 us-east-1%3A123456789012%3Ainference-profile%2Fus.amazon.nova-lite-v1%3A0/\
                 converse-stream",
                Some("SESSION/token+with=="),
                "us-east-1",
                "d3856c9d16856d98075c2e9325db960400f2ef14d9fb0a02a72e7986231d6b05",
            ),
            (
                "http://localhost:4566/model/amazon.nova-micro-v1%3A0/converse-stream",
                None,
                "us-west-2",
                "a683b7ecddf585fe0d4231e7a4a515f098d752bfe3c0b59ec6790b5421535954",
            ),
        ] {
            let key = token.map_or_else(|| KEY.to_owned(), |token| format!("{KEY}:{token}"));
            let headers = authorized(url, &key, region).unwrap();
            assert_eq!(headers["x-amz-date"], "20261126T010203Z");
            let token_header = headers.get("x-amz-security-token");
            assert_eq!(token_header.map(|value| value.to_str().unwrap()), token);
            let with_token = if token.is_some() { ";x-amz-security-token" } else { "" };
            assert_eq!(
                headers["authorization"],
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261126/{region}/bedrock/aws4_request, \
                     SignedHeaders=accept;content-type;host;x-amz-date{with_token}, \
                     Signature={signature}"
                )
            );
        }
    }

    #[test]
    fn a_key_without_a_colon_is_sent_as_it_is() {
        let headers = authorized("https://example.com/", "ABSKQmVkcm9jaw==", "eu-north-1").unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["authorization"], "Bearer ABSKQmVkcm9jaw==");
    }

    #[test]
    fn no_header_is_shown() {
        let with_token = format!("{KEY}:SESSION");
        for key in [with_token.as_str(), "ABSK"] {
            let headers = authorized("https://example.com/", key, "eu-north-1").unwrap();
            assert!(headers.values().all(HeaderValue::is_sensitive), "{headers:?}");
        }
    }

    #[test]
    fn a_key_of_no_known_form_is_refused_without_being_told() {
        for key in
            ["id:", ":secret", "id:secret:", "id:secret:token:more", "a\nb", "id:secret:a\nb"]
        {
            let failure = authorized("https://example.com/", key, "eu-north-1").unwrap_err();
            assert_eq!(failure.class, Class::Auth, "{key:?}");
            assert!(!failure.detail.contains("secret:"), "{failure}");
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        let failure = authorized("https://exa mple", KEY, "eu-north-1").unwrap_err();
        assert_eq!(failure.class, Class::BadRequest);
    }
}
