//! Lists of models, as each dialect gives them: a page at a time.

use serde_json::Value;

use super::failure::Failure;
use super::row::{Dialect, Row};

/// Models of one page; no list is so long, and nobody sends it in pieces of ten.
const PAGE_COUNT: u32 = 1_000;

/// A page of a list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelsPage {
    /// The names, as requests have them.
    pub names: Vec<String>,
    /// What to ask the next page with; none on the last.
    pub next: Option<String>,
}

/// What to append to the base URL for a page of the list of models: the first, or the one that
/// `next` of the page before names. `None` when this kind lists none.
#[must_use]
pub fn models_path(row: &Row, next: Option<&str>) -> Option<String> {
    let path = row.models_path;
    if path.is_empty() {
        return None;
    }
    let (size, token) = match row.dialect {
        Dialect::Anthropic => ("limit", "after_id"),
        Dialect::Gemini => ("pageSize", "pageToken"),
        Dialect::Cohere => ("page_size", "page_token"),
        // All at once.
        _ => return Some(path.to_owned()),
    };
    let next = next.map(|next| format!("&{token}={}", escaped(next))).unwrap_or_default();
    Some(format!("{path}?{size}={PAGE_COUNT}{next}"))
}

/// Reads a page. Models that cannot chat are left out where the list says so.
///
/// # Errors
///
/// [`Class::BadStream`](super::Class::BadStream): it is no JSON, or no list of models.
pub fn models_page(row: &Row, body: &[u8]) -> Result<ModelsPage, Failure> {
    let page: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_stream(format!("its list of models is no JSON: {error}")))?;
    let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
    let (list, name, next) = match row.dialect {
        Dialect::Anthropic => {
            let has_more = page.get("has_more").and_then(Value::as_bool).unwrap_or(false);
            ("data", "id", text(&page, "last_id").filter(|_| has_more))
        }
        Dialect::Gemini => ("models", "name", text(&page, "nextPageToken")),
        Dialect::Cohere => ("models", "name", text(&page, "next_page_token")),
        Dialect::Ollama => ("models", "name", None),
        _ => ("data", "id", None),
    };
    // Together's is the list itself.
    let models = page.get(list).unwrap_or(&page).as_array();
    let models = models
        .ok_or_else(|| Failure::bad_stream(format!("its list of models has no list {list:?}")))?;
    let names = models.iter().filter(|model| can_chat(model)).map(|model| {
        let name = text(model, name);
        name.ok_or_else(|| Failure::bad_stream("its list of models has a model without a name"))
    });
    let names: Result<Vec<String>, Failure> = names.collect();
    let plain = |name: String| match name.strip_prefix("models/") {
        Some(plain) if row.dialect == Dialect::Gemini => plain.to_owned(),
        _ => name,
    };
    let next = next.filter(|next| !next.is_empty());
    Ok(ModelsPage { names: names?.into_iter().map(plain).collect(), next })
}

/// Gemini and Cohere say what each of their models is for.
fn can_chat(model: &Value) -> bool {
    let uses = ["supportedGenerationMethods", "endpoints"].iter().find_map(|key| model.get(key));
    uses.and_then(Value::as_array).is_none_or(|uses| {
        uses.iter().any(|each| matches!(each.as_str(), Some("generateContent" | "chat")))
    })
}

/// RFC 3986 §2.1, all but unreserved characters.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::super::failure::Class;
    use super::*;

    fn row(kind: &str) -> &'static Row {
        Row::of(kind).unwrap()
    }

    #[test]
    fn each_dialects_list_is_read_and_its_next_page_asked_for() {
        for (kind, body, names, next, path) in [
            (
                "openai",
                r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#,
                "a b",
                None,
                "/models",
            ),
            ("together", r#"[{"id":"a/b"}]"#, "a/b", None, "/models"),
            (
                "anthropic",
                r#"{"data":[{"id":"a"}],"has_more":true,"last_id":"a&b"}"#,
                "a",
                Some("a&b"),
                "/models?limit=1000&after_id=a%26b",
            ),
            (
                "anthropic",
                r#"{"data":[{"id":"a"}],"has_more":false,"last_id":"a"}"#,
                "a",
                None,
                "/models?limit=1000",
            ),
            (
                "gemini",
                r#"{"models":[{"name":"models/a","supportedGenerationMethods":["generateContent"]},
                {"name":"models/e","supportedGenerationMethods":["embedContent"]}],"nextPageToken":"t"}"#,
                "a",
                Some("t"),
                "/models?pageSize=1000&pageToken=t",
            ),
            ("ollama", r#"{"models":[{"name":"a:8b","size":1}]}"#, "a:8b", None, "/api/tags"),
            (
                "cohere",
                r#"{"models":[{"name":"a","endpoints":["chat"]},{"name":"r","endpoints":["rerank"]}],
                "next_page_token":""}"#,
                "a",
                None,
                "/v1/models?page_size=1000",
            ),
        ] {
            let page = models_page(row(kind), body.as_bytes()).unwrap();
            assert_eq!(page.names.join(" "), names, "{kind}");
            assert_eq!(page.next.as_deref(), next, "{kind}");
            assert_eq!(models_path(row(kind), next).as_deref(), Some(path), "{kind}");
        }
        assert_eq!(models_path(row("perplexity"), None), None);
    }

    #[test]
    fn what_is_no_list_of_models_is_a_failure() {
        for body in ["", "<html>", "{}", r#"{"data":{}}"#, r#"{"data":[{"name":"a"}]}"#, "7"] {
            let failure = models_page(row("openai"), body.as_bytes()).unwrap_err();
            assert_eq!(failure.class, Class::BadStream, "{body}");
        }
        let deep = "[".repeat(100_000);
        assert!(models_page(row("openai"), deep.as_bytes()).is_err());
    }
}
