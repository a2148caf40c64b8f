//! Which event it is, for the dialects of server-sent events with names.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::failure::Failure;
use super::framing::Frame;
use super::json::{Text, parse};

/// What a nameless error is called.
pub(super) const ERROR: &str = "error";

/// Which event it is: the stream's name for it, if that is one of `known`, else the `type` in its
/// data, because some gateways leave the names out. Empty when it says neither.
///
/// # Errors
///
/// An event without a name is not JSON; of which class, [`parse`] says.
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
