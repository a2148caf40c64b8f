//! Arbitrary JSON inside a message, and what may be said when JSON does not parse.
//!
//! The invariant to remember: a [`JsonError`] is made of numbers and of words from this crate.
//! serde_json's own error text quotes the payload (``invalid type: string "…"``), so it is never
//! kept.

use std::fmt;

use rkyv::rancor::{Fallible, ResultExt as _, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Place, SerializeUnsized};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;

/// Arbitrary JSON: the arguments of a tool call, the schema of a tool.
///
/// Integers are exact from `i64::MIN` to `u64::MAX`; any other number is the nearest `f64`. Objects
/// keep their keys sorted. In an rkyv archive it is JSON text, which is parsed again, and can be
/// refused, when the archive is decoded.
///
/// What is decoded nests at most 127 levels deep, serde_json's bound: in JSON that counts from the
/// outermost brace of the message, in an archive from the value itself. A deeper value made in
/// memory can be encoded but not decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct JsonValue(#[rkyv(with = AsText)] pub Value);

impl From<Value> for JsonValue {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

/// Archives a [`Value`] as its JSON text. An archive is a flat thing with validated pointers; a
/// recursive archived `Value` would need its own bound on depth, and this one comes with the
/// parser.
struct AsText;

impl ArchiveWith<Value> for AsText {
    type Archived = ArchivedString;
    /// The text travels with the resolver because it is needed twice: to write it, and to point to
    /// it.
    type Resolver = (String, StringResolver);

    fn resolve_with(_: &Value, (text, resolver): Self::Resolver, out: Place<Self::Archived>) {
        ArchivedString::resolve_from_str(&text, resolver, out);
    }
}

impl<S> SerializeWith<Value, S> for AsText
where
    S: Fallible<Error: Source> + Allocator + Writer + ?Sized,
    str: SerializeUnsized<S>,
{
    fn serialize_with(value: &Value, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        let text = serde_json::to_string(value).map_err(|_| JsonError::UNWRITABLE).into_error()?;
        let resolver = ArchivedString::serialize_from_str(&text, serializer)?;
        Ok((text, resolver))
    }
}

impl<D> DeserializeWith<ArchivedString, Value, D> for AsText
where
    D: Fallible<Error: Source> + ?Sized,
{
    fn deserialize_with(text: &ArchivedString, _: &mut D) -> Result<Value, D::Error> {
        serde_json::from_str(text).map_err(|error| JsonError::reading(&error)).into_error()
    }
}

/// Why JSON could not be read or written, without a word of the JSON itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The line, from 1; 0 when there is no place to point to, as when writing.
    pub line: usize,
    /// The column in bytes, from 1; 0 when unknown or before the first byte of the line. A field
    /// that is missing or of the wrong type is often noticed only at the end of its object.
    pub column: usize,
}

/// What is wrong with the JSON; see [`JsonError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// It is not JSON, or not UTF-8.
    #[error("the JSON is malformed")]
    Malformed,
    /// It ends too early.
    #[error("the JSON is cut off")]
    CutOff,
    /// It nests deeper than 127 levels.
    #[error("the JSON nests too deep")]
    TooDeep,
    /// It lacks a required field.
    #[error("the JSON lacks the field `{0}`")]
    MissingField(&'static str),
    /// It is JSON, but something in it has the wrong type, the wrong value, or is there twice.
    #[error("the JSON does not fit the type")]
    Mismatch,
    /// A value was to be written that JSON has no form for, such as NaN.
    #[error("the value has no form in JSON")]
    Unwritable,
}

impl JsonError {
    /// Writing fails for one reason only, and at no place in any text.
    pub(super) const UNWRITABLE: Self =
        Self { kind: JsonErrorKind::Unwritable, line: 0, column: 0 };

    /// Keeps the position and the category of what serde_json says, and drops its text.
    pub(super) fn reading(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let kind = match error.classify() {
            Category::Eof => JsonErrorKind::CutOff,
            Category::Syntax if text.starts_with("recursion limit exceeded") => {
                JsonErrorKind::TooDeep
            }
            Category::Syntax => JsonErrorKind::Malformed,
            Category::Data | Category::Io => {
                missing_field(&text).map_or(JsonErrorKind::Mismatch, JsonErrorKind::MissingField)
            }
        };
        Self { kind, line: error.line(), column: error.column() }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => self.kind.fmt(f),
            line => write!(f, "{} at line {line}, column {}", self.kind, self.column),
        }
    }
}

impl std::error::Error for JsonError {}

/// The required field that serde says is missing. It is looked up rather than cut out of the text:
/// whatever a payload holds, only one of these words can come back.
fn missing_field(text: &str) -> Option<&'static str> {
    const REQUIRED: [&str; 15] = [
        "content",
        "finishReason",
        "id",
        "inputTokens",
        "messages",
        "model",
        "name",
        "outputTokens",
        "parameters",
        "role",
        "text",
        "toolCall",
        "totalTokens",
        "type",
        "usage",
    ];
    let name = text.strip_prefix("missing field `")?.split('`').next()?;
    REQUIRED.into_iter().find(|required| *required == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::answer::{Completion, StreamEvent};
    use super::super::message::AIRequest;
    use super::*;

    fn error<T: serde::de::DeserializeOwned>(text: &str) -> JsonError {
        JsonError::reading(&serde_json::from_str::<T>(text).err().unwrap())
    }

    #[test]
    fn value_is_transparent_in_json() {
        let value = JsonValue(json!({"a": [1, null, "\u{1f980}"]}));
        assert_eq!(serde_json::to_value(&value).unwrap(), value.0);
        assert_eq!(JsonValue::default().0, Value::Null);
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        for text in [
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "0.30000000000000004",
            "2.2250738585072014e-308",
            "123456789.12345679",
            "8.41890402e-7",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let again: Value = serde_json::from_str(&value.to_string()).unwrap();
            assert_eq!(again, value, "{text}");
            if let Some(number) = value.as_f64() {
                assert_eq!(number, text.parse::<f64>().unwrap(), "{text}");
            }
        }
    }

    #[test]
    fn error_says_what_and_where() {
        let text = |error: JsonError| error.to_string();
        assert_eq!(
            text(error::<AIRequest>("{\"model\":\"m\",\n}")),
            "the JSON is malformed at line 2, column 1"
        );
        assert_eq!(
            text(error::<AIRequest>("{\"model\"")),
            "the JSON is cut off at line 1, column 8"
        );
        assert_eq!(
            text(error::<AIRequest>("{\"model\":7,\"messages\":[]}")),
            "the JSON does not fit the type at line 1, column 10"
        );
    }

    #[test]
    fn nesting_is_bounded_at_127_levels() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(serde_json::from_str::<Value>(&nested(127)).is_ok());
        for depth in [128, 1_000_000] {
            assert_eq!(error::<Value>(&nested(depth)).kind, JsonErrorKind::TooDeep);
        }
    }

    #[test]
    fn every_required_field_is_named_when_it_is_missing() {
        let request = json!({
            "messages": [{
                "role": "user",
                "content": "",
                "toolCalls": [{"name": "", "parameters": 0, "id": ""}],
            }],
            "model": "",
            "tools": [{"name": ""}],
        });
        let usage = json!({"inputTokens": 0, "outputTokens": 0, "totalTokens": 0});
        let completion =
            json!({"content": "", "finishReason": "stop", "usage": usage, "model": ""});
        assert_each_field_is_named::<AIRequest>(&request);
        assert_each_field_is_named::<Completion>(&completion);
        for event in [
            json!({"type": "text", "text": ""}),
            json!({"type": "toolCall", "toolCall": {"name": "", "parameters": 0, "id": ""}}),
            json!({"type": "end", "finishReason": "stop", "usage": usage, "model": ""}),
        ] {
            assert_each_field_is_named::<StreamEvent>(&event);
        }
    }

    /// Takes away each field of each object inside `whole`, one at a time.
    fn assert_each_field_is_named<T: serde::de::DeserializeOwned>(whole: &Value) {
        let optional = ["toolCalls", "tools"];
        for pointer in object_pointers(whole, String::new()) {
            let keys = whole.pointer(&pointer).unwrap().as_object().unwrap().keys();
            for key in keys.filter(|key| !optional.contains(&key.as_str())) {
                let mut lacking = whole.clone();
                let object = lacking.pointer_mut(&pointer).unwrap();
                object.as_object_mut().unwrap().remove(key);
                match error::<T>(&lacking.to_string()).kind {
                    JsonErrorKind::MissingField(name) => assert_eq!(name, key),
                    other => panic!("{pointer} without {key}: {other:?}"),
                }
            }
        }
    }

    /// JSON pointers of all objects within `value`, itself included.
    fn object_pointers(value: &Value, here: String) -> Vec<String> {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(items) => (0..items.len()).map(|i| (i.to_string(), &items[i])).collect(),
            _ => Vec::new(),
        };
        let inner = children
            .into_iter()
            .flat_map(|(key, child)| object_pointers(child, format!("{here}/{key}")));
        let itself = value.is_object().then(|| here.clone());
        itself.into_iter().chain(inner).collect()
    }
}
