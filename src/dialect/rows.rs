//! The kinds of provider: where each is, how it is asked, and what is odd about it.
//!
//! A new provider that speaks one of the dialects is a new row here and no new code. Source of the
//! facts: the vendors' documents and clients, and recordings of their services
//! (`docs/providers.md`).

use super::row::{Auth, Dialect, Quirks, Row, ToolIds, UrlForm};

/// Every kind, in the order of the documentation: first those that are tested against recordings or
/// documents of their own, then those that are like one of the first.
pub const ROWS: &[Row] = &[
    Row {
        kind: "openai",
        base_url: "https://api.openai.com/v1",
        key_variables: &["OPENAI_API_KEY"],
        first_output_secs: HIDDEN_REASONING_SECS,
        quirks: Quirks {
            max_tokens_key: "max_completion_tokens",
            pads_events: true,
            tool_ids: ToolIds::Max(40),
            ..Quirks::NONE
        },
        ..HOSTED
    },
    Row {
        kind: "anthropic",
        dialect: Dialect::Anthropic,
        base_url: "https://api.anthropic.com/v1",
        auth: Auth::Header("x-api-key"),
        key_variables: &["ANTHROPIC_API_KEY"],
        headers: &[("anthropic-version", "2023-06-01")],
        quirks: Quirks {
            tool_ids: ToolIds::Max(64),
            merge_same_role: true,
            temperature_max: 1.0,
            ..Quirks::NONE
        },
        ..HOSTED
    },
    Row {
        kind: "gemini",
        dialect: Dialect::Gemini,
        base_url: "https://generativelanguage.googleapis.com/v1beta",
        // Never as `?key=`, which ends in the logs of everybody on the way.
        auth: Auth::Header("x-goog-api-key"),
        key_variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        quirks: GEMINI,
        ..HOSTED
    },
    #[cfg(feature = "bedrock")]
    Row {
        kind: "bedrock",
        dialect: Dialect::Bedrock,
        base_url: "https://bedrock-runtime.{region}.amazonaws.com",
        auth: Auth::Aws,
        key_variables: &["AWS_BEARER_TOKEN_BEDROCK"],
        // The list is on another host.
        models_path: "",
        quirks: Quirks {
            tool_ids: ToolIds::Max(64),
            merge_same_role: true,
            temperature_max: 1.0,
            ..Quirks::NONE
        },
        ..HOSTED
    },
    Row {
        kind: "azure-openai",
        base_url: "https://{resource}.openai.azure.com",
        auth: Auth::Header("api-key"),
        key_variables: &["AZURE_OPENAI_API_KEY"],
        first_output_secs: HIDDEN_REASONING_SECS,
        models_path: "/openai/v1/models",
        quirks: Quirks {
            max_tokens_key: "max_completion_tokens",
            tool_ids: ToolIds::Max(40),
            url_form: UrlForm::AzureDeployment,
            ..Quirks::NONE
        },
        ..HOSTED
    },
    Row {
        kind: "openrouter",
        base_url: "https://openrouter.ai/api/v1",
        key_variables: &["OPENROUTER_API_KEY"],
        // The vendor behind it has its own rule; this is the narrowest of them.
        quirks: Quirks { tool_ids: ToolIds::Alnum9, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "mistral",
        base_url: "https://api.mistral.ai/v1",
        key_variables: &["MISTRAL_API_KEY"],
        quirks: Quirks {
            stream_usage: false,
            tool_ids: ToolIds::Alnum9,
            bridge_tool_user: true,
            marks_prefix: true,
            merge_same_role: true,
            temperature_max: 1.5,
            ..Quirks::NONE
        },
        ..HOSTED
    },
    Row {
        kind: "deepseek",
        base_url: "https://api.deepseek.com",
        key_variables: &["DEEPSEEK_API_KEY"],
        // It queues, and closes by itself what has not begun after ten minutes.
        first_output_secs: Some(600),
        quirks: Quirks { send_back_reasoning: true, merge_same_role: true, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "xai",
        base_url: "https://api.x.ai/v1",
        key_variables: &["XAI_API_KEY"],
        first_output_secs: Some(900),
        quirks: Quirks { may_lack_finish: true, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "groq",
        base_url: "https://api.groq.com/openai/v1",
        key_variables: &["GROQ_API_KEY"],
        quirks: OPEN_MODELS,
        ..HOSTED
    },
    Row {
        kind: "together",
        base_url: "https://api.together.xyz/v1",
        key_variables: &["TOGETHER_API_KEY"],
        quirks: OPEN_MODELS,
        ..HOSTED
    },
    Row {
        kind: "fireworks",
        base_url: "https://api.fireworks.ai/inference/v1",
        key_variables: &["FIREWORKS_API_KEY"],
        quirks: OPEN_MODELS,
        ..HOSTED
    },
    Row {
        kind: "cohere",
        dialect: Dialect::Cohere,
        base_url: "https://api.cohere.com",
        key_variables: &["CO_API_KEY", "COHERE_API_KEY"],
        models_path: "/v1/models",
        quirks: Quirks { temperature_max: 1.0, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "ollama",
        dialect: Dialect::Ollama,
        base_url: "http://localhost:11434",
        key_variables: &["OLLAMA_API_KEY"],
        models_path: "/api/tags",
        quirks: Quirks::NONE,
        ..LOCAL
    },
    Row {
        kind: "lmstudio",
        base_url: "http://localhost:1234/v1",
        key_variables: &["LM_STUDIO_API_KEY"],
        ..LOCAL
    },
    // No variable: a key meant for one host must not go to another.
    Row { kind: "openai-compatible", base_url: "", key_variables: &[], ..LOCAL },
    Row {
        kind: "moonshot",
        base_url: "https://api.moonshot.ai/v1",
        key_variables: &["MOONSHOT_API_KEY"],
        quirks: Quirks { send_back_reasoning: true, temperature_max: 1.0, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "cerebras",
        base_url: "https://api.cerebras.ai/v1",
        key_variables: &["CEREBRAS_API_KEY"],
        quirks: Quirks {
            max_tokens_key: "max_completion_tokens",
            temperature_max: 1.5,
            ..OPEN_MODELS
        },
        ..HOSTED
    },
    Row {
        kind: "sambanova",
        base_url: "https://api.sambanova.ai/v1",
        key_variables: &["SAMBANOVA_API_KEY"],
        quirks: OPEN_MODELS,
        ..HOSTED
    },
    Row {
        kind: "huggingface",
        base_url: "https://router.huggingface.co/v1",
        key_variables: &["HF_TOKEN"],
        quirks: OPEN_MODELS,
        ..HOSTED
    },
    Row {
        kind: "perplexity",
        base_url: "https://api.perplexity.ai",
        key_variables: &["PERPLEXITY_API_KEY"],
        models_path: "",
        quirks: Quirks {
            stream_usage: false,
            drop_params: &["tools"],
            merge_same_role: true,
            temperature_max: BELOW_2,
            ..OPEN_MODELS
        },
        ..HOSTED
    },
    Row {
        kind: "zai",
        base_url: "https://api.z.ai/api/paas/v4",
        key_variables: &["ZAI_API_KEY"],
        quirks: Quirks { send_back_reasoning: true, temperature_max: 1.0, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "qwen",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
        key_variables: &["DASHSCOPE_API_KEY"],
        quirks: Quirks { temperature_max: BELOW_2, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "vercel",
        base_url: "https://ai-gateway.vercel.sh/v1",
        key_variables: &["AI_GATEWAY_API_KEY"],
        quirks: Quirks { tool_ids: ToolIds::Alnum9, ..Quirks::NONE },
        ..HOSTED
    },
    Row {
        kind: "litellm",
        base_url: "http://localhost:4000/v1",
        key_variables: &["LITELLM_API_KEY"],
        ..LOCAL
    },
    Row {
        kind: "vllm",
        base_url: "http://localhost:8000/v1",
        key_variables: &["VLLM_API_KEY"],
        ..LOCAL
    },
    Row {
        kind: "vertex",
        dialect: Dialect::Gemini,
        // The resource is the project.
        base_url: "https://{region}-aiplatform.googleapis.com/v1/projects/{resource}/locations/\
                   {region}/publishers/google",
        // A token that is good for an hour: as a `command:` key it is read anew.
        key_variables: &["GOOGLE_OAUTH_ACCESS_TOKEN"],
        models_path: "",
        quirks: GEMINI,
        ..HOSTED
    },
];

/// A service that answers nobody without a key, and soon.
const HOSTED: Row = Row {
    kind: "",
    dialect: Dialect::OpenAi,
    base_url: "",
    auth: Auth::Bearer,
    key_variables: &[],
    needs_key: true,
    headers: &[],
    first_output_secs: Some(60),
    models_path: "/models",
    quirks: Quirks::NONE,
};

/// A server of the user's own, which may have to load the model first.
const LOCAL: Row = Row { needs_key: false, first_output_secs: None, quirks: OPEN_MODELS, ..HOSTED };

/// For services whose models think without a word of it in the stream.
const HIDDEN_REASONING_SECS: Option<u32> = Some(300);

/// What hosts of open models have in common: the models' own tags come through.
const OPEN_MODELS: Quirks = Quirks { think_tags: true, ..Quirks::NONE };

const GEMINI: Quirks = Quirks { merge_same_role: true, ..Quirks::NONE };

/// For ranges that end before 2.
const BELOW_2: f64 = 1.99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_once_and_is_found() {
        for kind in [
            "openai",
            "anthropic",
            "gemini",
            #[cfg(feature = "bedrock")]
            "bedrock",
            "azure-openai",
            "openrouter",
            "mistral",
            "deepseek",
            "xai",
            "groq",
            "together",
            "fireworks",
            "cohere",
            "ollama",
            "lmstudio",
            "openai-compatible",
        ] {
            assert_eq!(Row::of(kind).unwrap().kind, kind);
            assert_eq!(ROWS.iter().filter(|row| row.kind == kind).count(), 1);
        }
        let mut kinds: Vec<_> = ROWS.iter().map(|row| row.kind).collect();
        kinds.sort_unstable();
        assert!(kinds.windows(2).all(|pair| pair[0] < pair[1]), "{kinds:?}");
        assert!(Row::of("nobody").is_none());
    }

    #[test]
    fn a_key_travels_encrypted_and_only_to_the_host_that_it_was_made_for() {
        for row in ROWS {
            let is_local = row.base_url.starts_with("http://localhost:");
            let is_open = row.base_url.is_empty();
            assert!(is_local || is_open || row.base_url.starts_with("https://"), "{}", row.kind);
            assert_eq!(row.needs_key, !is_local && !is_open, "{}", row.kind);
            assert!(!row.needs_key || !row.key_variables.is_empty(), "{}", row.kind);
            assert_eq!(row.first_output_secs.is_none(), is_local || is_open, "{}", row.kind);
            assert!(!is_open || row.key_variables.is_empty(), "{}", row.kind);
            assert!(!row.base_url.ends_with('/'), "{}", row.kind);
            let path = row.models_path;
            assert!(path.is_empty() || path.starts_with('/'), "{}", row.kind);
        }
    }

    #[test]
    fn only_what_the_configuration_can_say_is_left_open_in_a_url() {
        for row in ROWS {
            let filled = row.base_url.replace("{region}", "r").replace("{resource}", "x");
            assert!(!filled.contains(['{', '}', ' ']), "{filled}");
        }
    }
}
