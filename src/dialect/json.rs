//! JSON of a stream, read without copies: what the readers of several dialects need beyond serde's
//! own types.
//!
//! The invariant to remember: **what an event says may be large, what we keep of it is not.** An array
//! of a million empty objects is small in a body and large as values, so arrays have bounds here.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::failure::{Class, Failure};

/// Elements of one array that is kept.
const FEW_COUNT_MAX: usize = 1024;

/// Reads the JSON of one event.
///
/// # Errors
///
/// [`Class::Incomplete`] when the JSON is cut off, which is how a cut body shows itself; else
/// [`Class::BadStream`].
pub(super) fn parse<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(data).map_err(|error| {
        let class = if error.is_eof() { Class::Incomplete } else { Class::BadStream };
        Failure::new(class, format!("an event is not what it should be: {error}"))
    })
}

/// A string, borrowed from the event unless it has escapes, so that a piece of an answer is copied
/// once, into the event for the client. (In an `Option`, serde would copy a [`Cow`].)
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The string, or nothing when there is none.
pub(super) fn or_empty<'a>(text: &'a Option<Text<'_>>) -> &'a str {
    text.as_deref().unwrap_or("")
}

/// An array of [`FEW_COUNT_MAX`] elements at most; `null` is an empty one.
#[derive(Debug)]
pub(super) struct Few<T>(pub(super) Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for All<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Few<T>, E> {
                Ok(Few::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Few<T>, A::Error> {
                let mut kept = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if kept.len() == FEW_COUNT_MAX {
                        let complaint = format!("more than {FEW_COUNT_MAX} elements in an array");
                        return Err(A::Error::custom(complaint));
                    }
                    kept.push(element);
                }
                Ok(Few(kept))
            }
        }
        deserializer.deserialize_any(All(PhantomData))
    }
}

/// The first element of an array, if it has one; the others are skipped. `null` is an empty array.
#[derive(Debug)]
pub(super) struct First<T>(pub(super) Option<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for One<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_unit<E: de::Error>(self) -> Result<First<T>, E> {
                Ok(First(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<First<T>, A::Error> {
                let first = elements.next_element()?;
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_any(One(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample<'a> {
        #[serde(borrow)]
        text: Option<Text<'a>>,
        #[serde(default)]
        few: Few<u32>,
        #[serde(default)]
        first: First<u32>,
    }

    #[test]
    fn strings_are_borrowed_unless_they_have_escapes() {
        let plain: Sample<'_> = parse("{\"text\":\"grüß\"}".as_bytes()).unwrap();
        assert!(matches!(&plain.text, Some(Text(Cow::Borrowed("grüß")))));
        let escaped: Sample<'_> = parse(br#"{"text":"a\n\ud83c\udf88"}"#).unwrap();
        assert!(matches!(&escaped.text, Some(Text(Cow::Owned(text))) if text == "a\n🎈"));
    }

    #[test]
    fn null_and_nothing_are_empty() {
        for json in ["{}", r#"{"text":null,"few":null,"first":null}"#, r#"{"few":[],"first":[]}"#] {
            let sample: Sample<'_> = parse(json.as_bytes()).unwrap();
            assert_eq!(or_empty(&sample.text), "");
            assert!(sample.few.0.is_empty() && sample.first.0.is_none(), "{json}");
        }
    }

    #[test]
    fn arrays_are_bounded_and_only_the_first_element_is_kept_where_one_is_asked_for() {
        let array = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
        let sample = format!("{{\"first\":[7,\"x\",[]],\"few\":{}}}", array(FEW_COUNT_MAX));
        let sample: Sample<'_> = parse(sample.as_bytes()).unwrap();
        assert_eq!((sample.first.0, sample.few.0.len()), (Some(7), FEW_COUNT_MAX));
        let failure = parse::<Few<u32>>(array(FEW_COUNT_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(failure.class, Class::BadStream);
    }

    #[test]
    fn cut_json_is_incomplete_and_other_json_is_bad() {
        for (json, class) in [
            (&b"{\"text\":\"a"[..], Class::Incomplete),
            (b"", Class::Incomplete),
            (b"{\"text\":1}", Class::BadStream),
            (b"{\"text\":\"\xff\"}", Class::BadStream),
            (b"{} {}", Class::BadStream),
        ] {
            assert_eq!(parse::<Sample<'_>>(json).unwrap_err().class, class);
        }
    }
}
