//! The kinds of provider, each a row: where it is, how it is asked, and what is odd about it.
//!
//! A new provider that speaks one of the dialects is a new row and no new code. Source of the facts:
//! the vendors' documents and clients, and recordings of their services (`docs/providers.md`).

/// A way of asking and answering.
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
    /// `{base}/openai/deployments/{model}/chat/completions?api-version=…`.
    AzureDeployment,
}

/// What is odd about a provider. [`Quirks::NONE`] is a provider without oddities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quirks {
    /// The name of the longest answer's length in the body.
    pub max_tokens_key: &'static str,
    /// Asks for usage with `stream_options`.
    pub stream_usage: bool,
    /// What it takes as ids of tool calls.
    pub tool_ids: ToolIds,
    /// Wants an assistant message between a tool's result and the next user message.
    pub bridge_tool_user: bool,
    /// Wants the reasoning back that led to a tool call.
    pub send_back_reasoning: bool,
    /// Wants no two messages of one role in a row.
    pub merge_same_role: bool,
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
        tool_ids: ToolIds::Any,
        bridge_tool_user: false,
        send_back_reasoning: false,
        merge_same_role: false,
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
    /// Environment variables that hold its key by custom, the first one found counts.
    pub key_variables: &'static [&'static str],
    /// Whether it answers nobody without a key.
    pub needs_key: bool,
    /// Headers beyond those of every request.
    pub headers: &'static [(&'static str, &'static str)],
    /// How long until the first output, in seconds, before the answer counts as stalled; `None` for
    /// local servers, which load models meanwhile.
    pub first_output_secs: Option<u32>,
    /// Appended to the base URL to list the models.
    pub models_path: &'static str,
    /// Its oddities.
    pub quirks: Quirks,
}

/// Every kind, in the order of the documentation.
pub const ROWS: &[Row] = &[ROW_OPENAI];

const ROW_OPENAI: Row = Row {
    kind: "openai",
    dialect: Dialect::OpenAi,
    base_url: "https://api.openai.com/v1",
    auth: Auth::Bearer,
    key_variables: &["OPENAI_API_KEY"],
    needs_key: true,
    headers: &[],
    first_output_secs: Some(60),
    models_path: "/models",
    quirks: Quirks { max_tokens_key: "max_completion_tokens", ..Quirks::NONE },
};

impl Row {
    /// The row of this kind.
    #[must_use]
    pub fn of(kind: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.kind == kind)
    }
}
