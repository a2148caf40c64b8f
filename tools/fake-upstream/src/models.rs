//! Lists of models, in each vendor's form.

use serde_json::{Value, json};

const MODELS: [&str; 3] = ["fake-ok", "fake-tools", "fault-503"];

/// The list that a `GET` of this path asks for; `None` when it asks for something else. OpenAI's and
/// Cohere's paths can be the same, so their answer is both.
pub(crate) fn list(path: &str, is_anthropic: bool) -> Option<Value> {
    let each = |form: &dyn Fn(&str) -> Value| MODELS.iter().map(|name| form(name)).collect();
    let (entries, more): (Vec<Value>, Vec<Value>);
    if path.ends_with("/api/tags") {
        entries = each(&|name| json!({"name": name, "model": name, "size": 1}));
        return Some(json!({"models": entries}));
    }
    if path.ends_with("/foundation-models") {
        entries = each(&|name| json!({"modelId": name, "modelName": name}));
        return Some(json!({"modelSummaries": entries}));
    }
    if !path.ends_with("/models") {
        return None;
    }
    if is_anthropic {
        entries = each(&|name| json!({"type": "model", "id": name, "display_name": name}));
        return Some(json!({"data": entries, "has_more": false}));
    }
    if path.contains("/v1beta") {
        entries = each(&|name| json!({"name": format!("models/{name}"), "displayName": name}));
        return Some(json!({"models": entries}));
    }
    entries = each(&|name| json!({"object": "model", "id": name, "owned_by": "fake"}));
    more = each(&|name| json!({"name": name, "endpoints": ["chat"]}));
    Some(json!({"object": "list", "data": entries, "models": more}))
}
