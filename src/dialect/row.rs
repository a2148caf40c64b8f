//! What a kind of provider is: a row, and its oddities as data. The rows themselves are in `rows`.

use std::borrow::Cow;

pub use super::rows::ROWS;

/// A way of asking and answering.
///
/// A further one (OpenAI's Responses is the likely next) is a variant here, a module with `encode`
/// and a `Reader`, an arm in [`super::Encoding::encode`] and in [`super::Decoder::new`], and rows
/// that name it. Its server-sent events need no new framing; nothing outside of this module knows
/// one dialect from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's generateContent.
    Gemini,
    /// Ollama's chat.
    Ollama,
    /// Amazon Bedrock's converse-stream.
    #[cfg(feature = "bedrock")]
    Bedrock,
    /// Cohere's chat, version 2.
    Cohere,
}

impl Dialect {
    /// Its name in documents and in what the program prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Ollama => "ollama",
            #[cfg(feature = "bedrock")]
            Self::Bedrock => "bedrock",
            Self::Cohere => "cohere",
        }
    }
}

/// How a provider is told whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer KEY`, when there is a key.
    Bearer,
    /// The key alone in a header of this name.
    Header(&'static str),
    /// AWS Signature Version 4, or `Authorization: Bearer` with a Bedrock key.
    #[cfg(feature = "bedrock")]
    Aws,
}

/// What a provider takes as the id of a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolIds {
    /// Whatever it is.
    Any,
    /// Exactly nine letters and digits (Mistral).
    Alnum9,
    /// At most so many characters of `[a-zA-Z0-9_-]`.
    Max(usize),
}

/// Where the model's name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlForm {
    /// `{base}/chat/completions`, the model in the body.
    Plain,
    /// With an `api-version`: `{base}/openai/deployments/{model}/chat/completions?api-version=…`, the
    /// model nowhere else. Without: `{base}/openai/v1/chat/completions`, the model in the body.
    AzureDeployment,
}

/// What is odd about a provider. [`Quirks::NONE`] is a provider without oddities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quirks {
    /// The name of the longest answer's length in the body.
    pub max_tokens_key: &'static str,
    /// Asks for usage with `stream_options`.
    pub stream_usage: bool,
    /// Pads its events with noise, which doubles them, unless `stream_options` asks it not to.
    pub pads_events: bool,
    /// Keys of the body that it has no use for; they are left out. Without `tools`, calls in the
    /// conversation become text.
    pub drop_params: &'static [&'static str],
    /// What it takes as ids of tool calls.
    pub tool_ids: ToolIds,
    /// Wants an assistant message between a tool's result and the next user message.
    pub bridge_tool_user: bool,
    /// Wants a last message of the assistant marked as the beginning of the answer.
    pub marks_prefix: bool,
    /// Wants the reasoning back that led to a tool call.
    pub send_back_reasoning: bool,
    /// Wants no two messages of one role in a row.
    pub merge_same_role: bool,
    /// Some of its models think in `<think>` tags at the beginning of the text.
    pub think_tags: bool,
    /// May end a whole answer without a reason for the end.
    pub may_lack_finish: bool,
    /// The highest temperature.
    pub temperature_max: f64,
    /// Where the model's name goes.
    pub url_form: UrlForm,
}

impl Quirks {
    /// None at all.
    pub const NONE: Self = Self {
        max_tokens_key: "max_tokens",
        stream_usage: true,
        pads_events: false,
        drop_params: &[],
        tool_ids: ToolIds::Any,
        bridge_tool_user: false,
        marks_prefix: false,
        send_back_reasoning: false,
        merge_same_role: false,
        think_tags: false,
        may_lack_finish: false,
        temperature_max: 2.0,
        url_form: UrlForm::Plain,
    };
}

/// One kind of provider.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The name in the configuration.
    pub kind: &'static str,
    /// How it is asked.
    pub dialect: Dialect,
    /// Where it is, unless the configuration says otherwise; `{region}` and `{resource}` are
    /// replaced. Empty: the configuration has to say.
    pub base_url: &'static str,
    /// How it is told whose account it is.
    pub auth: Auth,
    /// Environment variables that hold its key by custom; the first one found counts.
    pub key_variables: &'static [&'static str],
    /// Whether it answers nobody without a key.
    pub needs_key: bool,
    /// Headers beyond those of every request.
    pub headers: &'static [(&'static str, &'static str)],
    /// How long until the first output, in seconds, before the answer counts as stalled; `None` for
    /// local servers, which load models meanwhile.
    pub first_output_secs: Option<u32>,
    /// Appended to the base URL to list the models. Empty: it lists none there.
    pub models_path: &'static str,
    /// Its oddities.
    pub quirks: Quirks,
}

impl Row {
    /// The row of this kind.
    #[must_use]
    pub fn of(kind: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.kind == kind)
    }
}

impl ToolIds {
    /// The id as the provider takes it: itself where it fits, else one that is made from it. The
    /// same id always becomes the same, so that a call and its result still belong together.
    #[must_use]
    pub fn fit(self, id: &str) -> Cow<'_, str> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let fits = match self {
            Self::Any => true,
            Self::Alnum9 => id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            Self::Max(size) => (1..=size).contains(&id.len()) && id.bytes().all(is_plain),
        };
        if fits {
            return Cow::Borrowed(id);
        }
        Cow::Owned(match self {
            Self::Alnum9 => base62::<9>(fnv1a(id)),
            _ => format!("call_{}", base62::<11>(fnv1a(id))),
        })
    }
}

/// FNV-1a, 64 bits (RFC 9923): stable over processes and versions, unlike the standard library's.
pub(super) fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The last `SIZE` digits of a number to base 62.
fn base62<const SIZE: usize>(mut number: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digits = std::array::from_fn::<char, SIZE, _>(|_| {
        let digit = DIGITS[usize::try_from(number % 62).unwrap_or_default()];
        number /= 62;
        char::from(digit)
    });
    digits.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_fit_stay_and_others_become_the_same_one_each_time() {
        assert_eq!(ToolIds::Any.fit("call:1/ü"), "call:1/ü");
        assert_eq!(ToolIds::Alnum9.fit("abcDEF123"), "abcDEF123");
        assert_eq!(ToolIds::Max(40).fit("call_a-1"), "call_a-1");
        let long = "call_".repeat(9);
        for (rule, id) in [
            (ToolIds::Alnum9, "call_1"),
            (ToolIds::Alnum9, "abc_EF123"),
            (ToolIds::Alnum9, ""),
            (ToolIds::Max(40), long.as_str()),
            (ToolIds::Max(64), "functions.look:0"),
            (ToolIds::Max(64), ""),
        ] {
            let fit = rule.fit(id);
            assert_ne!(fit, id);
            assert_eq!(rule.fit(&fit), fit, "what was made fits");
            assert_eq!(rule.fit(id), fit);
            assert_ne!(rule.fit(&format!("{id}2")), fit);
        }
    }

    /// The id goes back to the provider days later, maybe from another version of this program.
    #[test]
    fn made_ids_never_change() {
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(ToolIds::Alnum9.fit("call_1"), "9gD2Dimct");
    }
}
