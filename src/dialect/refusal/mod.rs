//! What a provider says when it refuses: the bodies, headers and events of all dialects.
//!
//! ```text
//! words   Words      what an error body says, in whatever shape
//! class   classify   one table: status, names and words → class
//! wait    hints      whether and when to try again
//! ```
//!
//! The invariant to remember: **an upstream may repeat what it was sent.** A word that condemns a
//! key (its account, its quota) counts only where a request's own text cannot stand: as a name, or
//! at the beginning of a message, or under a status whose messages repeat nothing.

mod class;
mod wait;
mod words;

use std::time::SystemTime;

use http::HeaderMap;

use self::words::Words;
use super::failure::{Class, DETAIL_SIZE_MAX, Failure};
use super::row::{Dialect, Row};

pub(super) use self::class::classify;

/// Longest request id that is passed on, in bytes.
const REQUEST_ID_SIZE_MAX: usize = 128;

/// Headers that name the request, for the provider's support; the first one found counts.
const REQUEST_ID_HEADERS: &[&str] = &[
    "x-request-id",
    "request-id",
    "apim-request-id",
    "x-amzn-requestid",
    "x-generation-id",
    "x-groq-id",
    "cf-ray",
];

/// What an answer with an HTTP status other than success means.
///
/// `body` is its beginning or all of it; `now` is for hints that name a time.
#[must_use]
pub fn refusal(
    row: &Row,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Failure {
    let mut words = Words::read(body);
    if let Some(kind) = header(headers, "x-amzn-errortype") {
        // `ThrottlingException:http://…`
        words.kind = kind.split(':').next().unwrap_or(kind).to_owned();
    }
    if let Some(id) = REQUEST_ID_HEADERS.iter().find_map(|name| header(headers, name)) {
        id.clone_into(&mut words.request);
    }
    let class = match (row.dialect, status) {
        // The vendor's client calls it an invalid token; elsewhere it is a lack of capacity.
        (Dialect::Cohere, 498) => Class::BadRequest,
        _ => class(Some(status), &words),
    };
    let mut failure = Failure::new(class, detail(&words));
    failure.status = Some(status);
    failure.hints = wait::hints(headers, &words, now);
    failure
}

/// What an error inside of a stream means; `data` is its event. The HTTP status was a success, so
/// what there is of a status is in the words.
pub(super) fn in_band(data: &[u8]) -> Failure {
    of_words(&Words::read(data))
}

/// The same, of an error whose name stands beside its words.
#[cfg(feature = "bedrock")]
pub(super) fn in_band_named(name: &str, data: &[u8]) -> Failure {
    of_words(&Words { kind: name.to_owned(), ..Words::read(data) })
}

fn of_words(words: &Words) -> Failure {
    let mut failure = Failure::new(class(words.status, words), detail(words));
    failure.hints = wait::hints(&HeaderMap::new(), words, SystemTime::UNIX_EPOCH);
    failure
}

fn class(status: Option<u16>, words: &Words) -> Class {
    if words.is_over_for_today {
        return Class::Quota;
    }
    classify(status, &words.code, &words.kind, &words.text)
}

/// The words, then the code if they do not have it, then the request's id, which stays however long
/// the words are.
fn detail(words: &Words) -> String {
    let mut tail = String::new();
    // A code that is the status once more, or a kind that is an error, tells nothing.
    let status = words.status.map(|status| status.to_string()).unwrap_or_default();
    let is_name = |name: &&&String| !["", "error", &status].contains(&name.as_str());
    let name = [&words.code, &words.kind].into_iter().find(|name| is_name(&name));
    if let Some(name) = name.filter(|name| !words.text.contains(name.as_str())) {
        tail.push_str(&format!(" [{}]", cut(name, REQUEST_ID_SIZE_MAX)));
    }
    if !words.request.is_empty() {
        tail.push_str(&format!(" (request {})", cut(&words.request, REQUEST_ID_SIZE_MAX)));
    }
    let mut detail = cut(&words.text, DETAIL_SIZE_MAX - tail.len()).to_owned();
    detail.push_str(&tail);
    detail.trim_start().to_owned()
}

fn cut(text: &str, size_max: usize) -> &str {
    &text[..text.floor_char_boundary(size_max)]
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests;
