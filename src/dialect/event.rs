//! What the dialects of server-sent events with names share: which event it is, and its JSON.
//!
//! Text is borrowed from the event wherever JSON has no escapes in it, so that a piece of an answer
//! is copied once, into the event for the client.

use std::borrow::Cow;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::failure::Failure;
use super::framing::Frame;

/// A string of an event. (Serde borrows a `Cow` only where it is a field itself, not inside an
/// `Option`; it does borrow this.)
#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What a nameless error is called.
pub(super) const ERROR: &str = "error";

/// Reads an event's data.
///
/// # Errors
///
/// [`Class::BadStream`](super::Class::BadStream): it is not JSON in UTF-8, or not of this form.
pub(super) fn parse<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(data)
        .map_err(|error| Failure::bad_stream(format!("an event cannot be read: {error}")))
}

/// Which event it is: the stream's name for it, if that is one of `known`, else the `type` in its
/// data, because some gateways leave the names out. Empty when it says neither.
///
/// # Errors
///
/// [`Class::BadStream`](super::Class::BadStream): an event without a name is not JSON.
pub(super) fn kind<'a>(frame: &Frame<'a>, known: &[&'static str]) -> Result<Cow<'a, str>, Failure> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<Text<'a>>,
        error: Option<IgnoredAny>,
        message: Option<IgnoredAny>,
    }
    if let Some(name) = known.iter().find(|name| **name == frame.name) {
        return Ok(Cow::Borrowed(name));
    }
    match parse::<Typed<'_>>(frame.data) {
        Ok(Typed { kind: Some(kind), .. }) => Ok(kind.0),
        Ok(Typed { error: None, message: None, .. }) => Ok(Cow::Borrowed("")),
        // A gateway's own failure, in the form of an answer with an HTTP status.
        Ok(_) => Ok(Cow::Borrowed(ERROR)),
        Err(failure) if frame.name.is_empty() => Err(failure),
        // A name that we do not know, with data that need not be JSON.
        Err(_) => Ok(Cow::Borrowed("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow)]
            text: Option<Text<'a>>,
        }
        let text = |data| parse::<Event<'_>>(data).unwrap().text.unwrap().0;
        assert!(matches!(text("{\"text\":\"ü\"}".as_bytes()), Cow::Borrowed("ü")));
        assert!(matches!(text(br#"{"text":"\u00fc"}"#), Cow::Owned(text) if text == "ü"));
        assert!(parse::<Event<'_>>(b"{\"text\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_event_is_what_its_name_says_or_else_its_type() {
        for (name, data, expected) in [
            ("a", "no matter", "a"),
            ("", r#"{"type":"b"}"#, "b"),
            ("message", r#"{"type":"b","message":1}"#, "b"),
            ("x", "not JSON", ""),
            ("", "{}", ""),
            ("", r#"{"error":"gone"}"#, ERROR),
            ("", r#"{"message":"gone"}"#, ERROR),
        ] {
            let frame = Frame { name, data: data.as_bytes() };
            assert_eq!(kind(&frame, &["a"]).unwrap(), expected, "{name} {data}");
        }
        assert!(kind(&Frame { name: "", data: b"{\"type\":" }, &["a"]).is_err());
    }
}
