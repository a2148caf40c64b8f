//! The HTTP request of one attempt: what a dialect wrote, with headers and a key.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Uri};
use secrecy::{ExposeSecret, SecretString};

use super::seams::Signer;
use super::settings::ProviderSettings;
use crate::dialect::{Auth, Call, Class, Dialect, Failure};
use crate::provider::key::Redactor;

/// A request that was written, without a key: every attempt at one target sends the same.
#[derive(Debug, Clone)]
pub(super) struct Written {
    path: Uri,
    body: Bytes,
}

impl Written {
    /// Keeps what a dialect wrote.
    ///
    /// # Errors
    ///
    /// [`Class::BadRequest`]: the model's name does not fit a path.
    pub(super) fn new(call: Call) -> Result<Self, Failure> {
        let path = Uri::try_from(call.path)
            .map_err(|_| Failure::new(Class::BadRequest, "the model's name cannot be in a URL"))?;
        Ok(Self { path, body: call.body.into() })
    }

    /// The request with a provider's headers and this key.
    ///
    /// # Errors
    ///
    /// [`Class::Auth`]: the key cannot be sent, or not be signed with.
    pub(super) fn with_key(
        &self,
        settings: &ProviderSettings,
        signer: Option<&dyn Signer>,
        key: Option<&SecretString>,
        today: SystemTime,
    ) -> Result<Request<Bytes>, Failure> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static(accepted(settings.row.dialect)));
        // Nothing here unpacks, and packing would hold pieces of a stream back.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let agent = concat!("annulus/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        for (name, value) in settings.row.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        for (name, value) in &settings.headers {
            headers.insert(name.clone(), value.clone());
        }
        let Some(key) = key else { return Ok(request) };
        if let Some(signer) = signer {
            signer.sign(&mut request, key, today)?;
            return Ok(request);
        }
        match settings.row.auth {
            Auth::Header(name) => {
                headers.insert(HeaderName::from_static(name), secret("", key)?);
            }
            // Without a signer, the key is one that is sent.
            _ => {
                headers.insert(AUTHORIZATION, secret("Bearer ", key)?);
            }
        }
        Ok(request)
    }
}

/// A request for something that is no answer, such as a list of models, with a provider's headers and
/// this key. Nothing is signed.
///
/// # Errors
///
/// [`Class::Auth`]: the key cannot be sent.
pub(in crate::provider) fn get(
    path: String,
    settings: &ProviderSettings,
    key: Option<&SecretString>,
    today: SystemTime,
) -> Result<Request<Bytes>, Failure> {
    let written = Written::new(Call { path, body: Vec::new() })?;
    let mut request = written.with_key(settings, None, key, today)?;
    *request.method_mut() = http::Method::GET;
    request.headers_mut().remove(CONTENT_TYPE);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// A header's value that is not shown.
fn secret(prefix: &str, key: &SecretString) -> Result<HeaderValue, Failure> {
    let text = format!("{prefix}{}", key.expose_secret().trim());
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Failure::new(Class::Auth, "the key has characters that no header can carry")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

const fn accepted(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Ollama => "application/x-ndjson",
        #[cfg(feature = "bedrock")]
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
        Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini | Dialect::Cohere => {
            "text/event-stream"
        }
    }
}

/// Replaces a key in an upstream's words: some repeat what they were sent, as it was or encoded.
pub(super) fn without_key(mut failure: Failure, key: Option<&SecretString>) -> Failure {
    /// Shorter parts would be found in ordinary words.
    const PART_SIZE_MIN: usize = 8;
    let Some(key) = key else { return failure };
    let whole = key.expose_secret().trim();
    // The parts of a key pair are secrets, too.
    let parts: Vec<SecretString> = std::iter::once(whole)
        .chain(whole.split(':'))
        .filter(|part| part.len() >= PART_SIZE_MIN)
        .map(SecretString::from)
        .collect();
    if let Cow::Owned(redacted) = Redactor::new(&parts).redact(&failure.detail) {
        failure.detail = redacted;
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::{ROW, ROW_OF_ALL};
    use super::*;
    use crate::dialect::Row;

    fn written(path: &str) -> Result<Written, Failure> {
        Written::new(Call { path: path.into(), body: b"{}".to_vec() })
    }

    fn request(row: &'static Row, key: Option<&str>) -> Result<Request<Bytes>, Failure> {
        let mut settings = ProviderSettings::new(row);
        let own = (HeaderName::from_static("x-title"), HeaderValue::from_static("t"));
        settings.headers.push(own);
        let key = key.map(SecretString::from);
        written("/chat?x=1").unwrap().with_key(
            &settings,
            None,
            key.as_ref(),
            SystemTime::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_request_has_its_path_its_headers_and_a_key_that_is_not_shown() {
        static BY_HEADER: Row = Row { auth: Auth::Header("x-api-key"), ..ROW };
        let request = request(&ROW, Some("secret-key\n")).unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/chat?x=1")
        );
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer secret-key");
        assert_eq!(request.headers()["x-title"], "t");
        assert_eq!(request.headers()[ACCEPT_ENCODING], "identity");
        assert!(!format!("{request:?}").contains("secret-key"));
        let request = self::request(&BY_HEADER, Some("k")).unwrap();
        assert_eq!(request.headers()["x-api-key"], "k");
        assert!(!self::request(&ROW, None).unwrap().headers().contains_key(AUTHORIZATION));
    }

    #[test]
    fn a_key_that_signs_is_not_sent() {
        struct Seal;
        impl Signer for Seal {
            fn sign(
                &self,
                request: &mut Request<Bytes>,
                key: &SecretString,
                _today: SystemTime,
            ) -> Result<(), Failure> {
                let seal = format!("{} {}", request.uri(), key.expose_secret().len());
                request.headers_mut().insert("x-seal", seal.parse().unwrap());
                Ok(())
            }
        }
        let settings = ProviderSettings::new(&ROW_OF_ALL);
        let key = SecretString::from("secret");
        let written = written("/chat").unwrap();
        let request =
            written.with_key(&settings, Some(&Seal), Some(&key), SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(request.headers()["x-seal"], "/chat 6");
        assert!(!request.headers().contains_key(AUTHORIZATION));
    }

    #[test]
    fn keys_and_models_that_cannot_be_sent_are_failures() {
        assert_eq!(request(&ROW, Some("a\nb")).unwrap_err().class, Class::Auth);
        assert_eq!(written("/a b").unwrap_err().class, Class::BadRequest);
    }

    #[test]
    fn keys_are_taken_out_of_what_an_upstream_says() {
        let key = SecretString::from("AKIDEXAMPLE:wJalrXUtnFEMI");
        let said = Failure::new(Class::Auth, "no AKIDEXAMPLE:wJalrXUtnFEMI, no AKIDEXAMPLE");
        assert_eq!(without_key(said, Some(&key)).detail, "no [redacted], no [redacted]");
        let said = Failure::new(Class::Auth, "no QUtJREVYQU1QTEU6d0phbHJYVXRuRkVNSQ==");
        assert!(!without_key(said, Some(&key)).detail.contains("QUtJREVYQU1QTEU6d0phbHJYV"));
        let short = SecretString::from("a");
        let said = Failure::new(Class::Auth, "a cat");
        assert_eq!(without_key(said, Some(&short)).detail, "a cat");
    }
}
