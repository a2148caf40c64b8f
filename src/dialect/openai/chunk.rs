//! One event of a stream, read without a copy where the JSON allows it.
//!
//! Whatever is not listed here is skipped: every service adds keys of its own.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::dialect::json::{Few, First, Text};
use crate::protocol::Usage;

#[derive(Debug, Deserialize)]
pub(super) struct Chunk<'a> {
    /// We never ask for a second one.
    #[serde(borrow)]
    pub(super) choices: Option<First<Choice<'a>>>,
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    pub(super) usage: Option<Counts>,
    x_groq: Option<XGroq>,
    /// Anything but `null` is one.
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
    message: Option<IgnoredAny>,
    detail: Option<IgnoredAny>,
}

impl Chunk<'_> {
    /// Whether this is no part of an answer, but what went wrong with it.
    pub(super) fn is_error(&self) -> bool {
        let says_something = self.message.is_some() || self.detail.is_some();
        self.error.is_some()
            || self.object.as_ref().is_some_and(|object| &**object == "error")
            || says_something && self.choices.is_none() && self.usage.is_none()
    }

    /// What it cost so far, if that is said here.
    pub(super) fn usage(&self) -> Option<Usage> {
        let groq = || self.x_groq.as_ref()?.usage.as_ref();
        self.usage.as_ref().or_else(groq)?.usage()
    }
}

#[derive(Debug, Deserialize)]
struct XGroq {
    usage: Option<Counts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// Of a service that does not stream although it was asked to.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Text<'a>>,
}

impl<'a> Choice<'a> {
    /// What is new. Azure leaves it out of some choices.
    pub(super) const fn delta(&self) -> Option<&Delta<'a>> {
        match &self.delta {
            Some(delta) => Some(delta),
            None => self.message.as_ref(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
    #[serde(borrow)]
    pub(super) refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning_content: Content<'a>,
    #[serde(borrow, default)]
    reasoning: Content<'a>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Few<CallPiece<'a>>,
}

impl<'a> Delta<'a> {
    /// What the model thinks. Some say it under both names, for the sake of old and new clients.
    pub(super) fn reasoning(&self) -> &Content<'a> {
        match &self.reasoning_content {
            Content::None => &self.reasoning,
            content => content,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct CallPiece<'a> {
    pub(super) index: Option<u64>,
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arguments: Option<Arguments<'a>>,
}

/// What an answer cost, in the words of each.
#[derive(Debug, Deserialize)]
pub(super) struct Counts {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// Moonshot's and Together's.
    cached_tokens: Option<u64>,
    /// DeepSeek's.
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Counts {
    fn usage(&self) -> Option<Usage> {
        if self.prompt_tokens.is_none() && self.completion_tokens.is_none() {
            return None;
        }
        let input_tokens = self.prompt_tokens.unwrap_or(0);
        let mut output_tokens = self.completion_tokens.unwrap_or(0);
        let details = self.completion_tokens_details.as_ref();
        let reasoning_tokens = details.and_then(|details| details.reasoning_tokens);
        // Some count reasoning beside the answer (xAI); the total gives that away.
        let reasoning = reasoning_tokens.unwrap_or(0);
        let with_reasoning = output_tokens.saturating_add(reasoning);
        if self.total_tokens == Some(input_tokens.saturating_add(with_reasoning)) {
            output_tokens = with_reasoning;
        }
        let details = self.prompt_tokens_details.as_ref();
        Some(Usage {
            input_tokens,
            output_tokens,
            total_tokens: self
                .total_tokens
                .unwrap_or_else(|| input_tokens.saturating_add(output_tokens)),
            cached_input_tokens: details
                .and_then(|details| details.cached_tokens)
                .or(self.cached_tokens)
                .or(self.prompt_cache_hit_tokens),
            reasoning_tokens,
            estimated: None,
        })
    }
}

/// What was said: as text, or in parts (Mistral).
#[derive(Debug, Default)]
pub(super) enum Content<'a> {
    #[default]
    None,
    Text(Text<'a>),
    Parts(Few<Part<'a>>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow, default)]
    pub(super) text: Content<'a>,
    #[serde(borrow, default)]
    pub(super) thinking: Content<'a>,
}

/// The arguments of a call: JSON as text, or as itself (Mistral).
#[derive(Debug)]
pub(super) struct Arguments<'a>(pub(super) Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or an array of parts")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Content::None)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Few::deserialize(SeqAccessDeserializer::new(seq)).map(Content::Parts)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let part = Part::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Content::Parts(Few(vec![part])))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Arguments<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArgumentsVisitor;

        impl<'de> Visitor<'de> for ArgumentsVisitor {
            type Value = Arguments<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON, as text or as an object")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Arguments(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Arguments(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let value = Value::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Arguments(Text(Cow::Owned(value.to_string()))))
            }
        }

        deserializer.deserialize_any(ArgumentsVisitor)
    }
}
