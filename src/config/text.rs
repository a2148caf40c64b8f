//! What texts in a configuration have to look like: URLs, headers, names of models and routes.
//!
//! Each check has one meaning and no message; the message is its rule's.

use ::http::Uri;
use ::http::header::{HeaderName, HeaderValue};

/// The longest URL, header or name, in bytes.
const TEXT_SIZE_MAX: usize = 512;

/// Replaced in base URLs by the setting `region`.
pub(super) const REGION: &str = "{region}";
/// Replaced in base URLs by the setting `resource`.
pub(super) const RESOURCE: &str = "{resource}";

/// Headers that carry credentials, which come from `keys` alone.
const CREDENTIAL_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x-amz-security-token",
];

/// Headers that say where a request goes and how long it is; the client writes them itself.
const FRAMING_HEADERS: [&str; 10] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "expect",
];

/// An `http` or `https` URL of a host and perhaps a path: no credentials, query or fragment.
/// Placeholders are allowed.
pub(super) fn is_base_url(text: &str) -> bool {
    is_plain_url(&text.replace(REGION, "region").replace(RESOURCE, "resource"))
}

fn is_plain_url(text: &str) -> bool {
    let Some(uri) = text.parse::<Uri>().ok().filter(|_| text.len() <= TEXT_SIZE_MAX) else {
        return false;
    };
    let Some((authority, host)) = uri.authority().zip(uri.host()) else { return false };
    // A port that is no port is not there, and its text still is.
    let has_right_port = match authority.port_u16() {
        Some(port) => port != 0,
        None => authority.as_str() == host,
    };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !host.is_empty()
        && has_right_port
        && !text.contains(['#', '?', '@', '\\', '{', '}'])
}

/// Whether a URL goes unencrypted to a host that is not this machine.
pub(super) fn is_open_to_the_network(url: &str) -> bool {
    // A placeholder that nothing has replaced is told elsewhere.
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    !url.to_ascii_lowercase().starts_with("https:") && !host.is_some_and(|host| is_loopback(&host))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        // RFC 6761 §6.3: these names never leave the machine.
        Err(_) => {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// The name and the value of `Name: value`; `None` when it is no header, carries credentials or is
/// the client's own business.
pub(super) fn header(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let value = value.trim();
    let lower = HeaderName::from_bytes(name.as_bytes()).ok()?;
    HeaderValue::from_str(value).ok()?;
    let is_ours =
        CREDENTIAL_HEADERS.contains(&lower.as_str()) || FRAMING_HEADERS.contains(&lower.as_str());
    (!is_ours && !value.is_empty() && text.len() <= TEXT_SIZE_MAX).then_some((name, value))
}

/// A region, resource or version: it becomes part of a host name or a query.
pub(super) fn is_label(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(legal)
        && text.len() <= 64
}

/// A model's name as its provider knows it.
pub(super) fn is_model(text: &str) -> bool {
    let illegal = |c: char| c.is_whitespace() || c.is_control();
    !text.is_empty() && !text.contains(illegal) && text.len() <= TEXT_SIZE_MAX
}

/// A name of our own for a model: no slash, which ends the name of a provider.
pub(super) fn is_model_alias(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(legal)
        && text.len() <= 64
}

/// The provider and the model of `provider/model`.
pub(super) fn route(text: &str) -> Option<(&str, &str)> {
    let (provider, model) = text.split_once('/')?;
    (super::value::is_provider_name(provider) && is_model(model)).then_some((provider, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_have_a_host_and_nothing_secret() {
        for url in [
            "https://api.openai.com/v1",
            "http://localhost:11434",
            "https://[::1]:8443/v1/",
            "https://{resource}.openai.azure.com",
            "https://bedrock-runtime.{region}.amazonaws.com",
        ] {
            assert!(is_base_url(url), "{url}");
        }
        for url in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://host",
            "https://",
            "https:///v1",
            "https://ada:secret@host",
            "https://sk-123@host",
            "https://host/v1?key=sk-123",
            "https://host#x",
            "https://host:0",
            "https://host:99999",
            "https://{account}.host",
            "https://host/a b",
            "https://host\\@other",
        ] {
            assert!(!is_base_url(url), "{url}");
        }
        assert!(!is_base_url(&format!("https://host/{}", "x".repeat(TEXT_SIZE_MAX))));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for url in [
            "http://localhost/v1",
            "http://LOCALHOST:1",
            "http://a.localhost",
            "http://127.0.0.2:80",
            "http://[::1]/",
            "https://api.openai.com",
        ] {
            assert!(!is_open_to_the_network(url), "{url}");
        }
        for url in ["http://host", "http://127.0.0.1.host", "http://10.0.0.1", "http://0.0.0.0"] {
            assert!(is_open_to_the_network(url), "{url}");
        }
    }

    #[test]
    fn headers_carry_no_credentials_and_no_lengths() {
        assert_eq!(header("X-Title: my editor"), Some(("X-Title", "my editor")));
        assert_eq!(header("x:y:z"), Some(("x", "y:z")));
        for text in [
            "Authorization: Bearer sk-123",
            "AUTHORIZATION:x",
            "api-key: x",
            "Cookie: a=b",
            "Content-Length: 3",
            "Host: other",
            "no colon",
            ": empty",
            "X-Empty:",
            "X Y: z",
            "X: a\r\nY: b",
            "X: a\u{7}",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
    }

    #[test]
    fn routes_name_a_provider_and_a_model() {
        assert_eq!(route("openai/gpt-4.1"), Some(("openai", "gpt-4.1")));
        let long = "fireworks/accounts/fireworks/models/x";
        assert_eq!(route(long), Some(("fireworks", "accounts/fireworks/models/x")));
        for text in ["gpt-4.1", "openai/", "/gpt", "Open_AI/gpt", "openai/a b"] {
            assert_eq!(route(text), None, "{text}");
        }
    }

    #[test]
    fn labels_cannot_leave_their_place_in_a_host_name() {
        assert!(is_label("eu-central-1") && is_label("2024-10-21"));
        for text in ["", "a/b", "a@b", "a:b", "-a", ".a", "a b"] {
            assert!(!is_label(text), "{text}");
        }
    }
}
