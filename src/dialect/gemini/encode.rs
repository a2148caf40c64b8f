//! A request in its words.

use serde_json::{Map, Value, json};

use crate::dialect::conversation::{Block, Conversation, Role, Turn};
use crate::dialect::encode::{Encoding, as_object, escaped, schema};
use crate::dialect::failure::{Class, Failure};
use crate::protocol::{AIRequest, Tool, ToolCall};

/// What Google takes as the signature of a call that its model did not make, for models that refuse
/// one without (ai.google.dev/gemini-api/docs/thought-signatures).
const FOREIGN_SIGNATURE: &str = "skip_thought_signature_validator";

/// Path and body.
pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let conversation = encoding.conversation(request)?;
    let model = encoding.model.strip_prefix("models/").unwrap_or(encoding.model);
    if model.is_empty() {
        return Err(Failure::new(Class::BadRequest, "the model has no name"));
    }
    let path = format!("/models/{}:streamGenerateContent?alt=sse", escaped(model));
    let mut body = Map::new();
    body.insert("contents".into(), contents(&conversation, encoding, model));
    if !conversation.system.is_empty() {
        let instruction = json!({"parts": [{"text": conversation.system}]});
        body.insert("systemInstruction".into(), instruction);
    }
    if !conversation.tools.is_empty() {
        let declarations: Vec<Value> = conversation.tools.iter().map(declaration).collect();
        body.insert("tools".into(), json!([{"functionDeclarations": declarations}]));
    }
    let mut config = Map::new();
    if let Some(temperature) = encoding.temperature(request) {
        config.insert("temperature".into(), temperature.into());
    }
    if let Some(tokens) = request.max_tokens {
        config.insert("maxOutputTokens".into(), tokens.into());
    }
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    Ok((path, body.into()))
}

/// The turns, neighbours of one role as one: Google wants them to alternate.
fn contents(conversation: &Conversation<'_>, encoding: &Encoding<'_>, model: &str) -> Value {
    let mut contents: Vec<(Role, Vec<Value>)> = Vec::new();
    for turn in &conversation.turns {
        let parts = parts(turn, encoding, model);
        match contents.last_mut() {
            Some((role, before)) if *role == turn.role => before.extend(parts),
            _ => contents.push((turn.role, parts.collect())),
        }
    }
    let content = |(role, parts): (Role, Vec<Value>)| {
        let role = match role {
            Role::User => "user",
            Role::Assistant => "model",
        };
        json!({"role": role, "parts": parts})
    };
    contents.into_iter().map(content).collect()
}

fn parts(turn: &Turn<'_>, encoding: &Encoding<'_>, model: &str) -> impl Iterator<Item = Value> {
    turn.blocks.iter().map(move |block| match block {
        Block::Text(text) => json!({"text": text}),
        Block::Call(call) => {
            let known = Known::of(call, encoding);
            let mut function = Map::new();
            known.add_id(&mut function);
            function.insert("name".into(), call.name.clone().into());
            function.insert("args".into(), as_object(&call.parameters.0));
            let mut part = Map::from_iter([("functionCall".into(), function.into())]);
            let foreign = || wants_signatures(model).then(|| FOREIGN_SIGNATURE.to_owned());
            if let Some(signature) = known.signature.or_else(foreign) {
                part.insert("thoughtSignature".into(), signature.into());
            }
            part.into()
        }
        Block::Result { call, text } => {
            let mut function = Map::new();
            Known::of(call, encoding).add_id(&mut function);
            function.insert("name".into(), call.name.clone().into());
            function.insert("response".into(), response(text));
            json!({"functionResponse": function})
        }
    })
}

/// What Google said about a call that came from it.
#[derive(Default)]
struct Known<'a> {
    id: Option<&'a str>,
    signature: Option<String>,
}

impl<'a> Known<'a> {
    fn of(call: &'a ToolCall, encoding: &Encoding<'_>) -> Self {
        let Some(keepsake) = encoding.keepsakes.find(encoding.row.kind, &call.id) else {
            return Self::default();
        };
        // An id that we gave is unknown to Google, which pairs by name and order then.
        let id = Some(call.id.as_str()).filter(|id| !id.starts_with("call_"));
        Self { id, signature: keepsake.signature }
    }

    fn add_id(&self, function: &mut Map<String, Value>) {
        if let Some(id) = self.id {
            function.insert("id".into(), id.into());
        }
    }
}

/// Whether the model refuses a call without a signature: Gemini from 3 on, and the names that mean
/// the latest one.
fn wants_signatures(model: &str) -> bool {
    model.strip_prefix("gemini-").is_some_and(|version| !version.starts_with(['1', '2']))
}

/// A result as an object: JSON that is one as it is, everything else wrapped.
fn response(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object.into(),
        _ => json!({"result": text}),
    }
}

fn declaration(tool: &Tool) -> Value {
    let mut declaration = Map::new();
    declaration.insert("name".into(), tool.name.clone().into());
    if let Some(description) = &tool.description {
        declaration.insert("description".into(), description.clone().into());
    }
    // The older `parameters` takes only a part of JSON Schema.
    declaration.insert("parametersJsonSchema".into(), schema(tool));
    declaration.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::answer::Keepsake;
    use crate::dialect::encode::{Keepsakes, NoKeepsakes};
    use crate::dialect::row::{Quirks, Row};
    use crate::dialect::testing::{self, row};
    use crate::protocol::{JsonValue, Message, MessageRole};

    struct Kept(Keepsake);

    impl Keepsakes for Kept {
        fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
            (kind == "gemini" && call_id != "foreign").then(|| self.0.clone())
        }
    }

    fn encoding<'a>(model: &'a str, keepsakes: &'a dyn Keepsakes) -> Encoding<'a> {
        Encoding { model, keepsakes, ..testing::encoding("gemini") }
    }

    fn user(text: &str) -> Message {
        Message::new(MessageRole::User, text)
    }

    fn tool() -> Tool {
        Tool { name: "look".into(), description: Some("Looks.".into()), parameters: None }
    }

    /// A request whose call of this id was answered with this text.
    fn answered(id: &str, text: &str) -> AIRequest {
        let mut call = Message::new(MessageRole::Assistant, "well");
        let parameters = JsonValue(json!({"at": 1}));
        call.tool_calls =
            Some(vec![ToolCall { name: "look".into(), parameters, id: id.to_owned() }]);
        let mut request = AIRequest::new("m", vec![user("go"), call, user(text)]);
        request.tools = Some(vec![tool()]);
        request
    }

    fn contents_of(model: &str, keepsakes: &dyn Keepsakes, request: &AIRequest) -> Value {
        encode(&encoding(model, keepsakes), request).unwrap().1["contents"].take()
    }

    #[test]
    fn everything_has_its_place() {
        let mut request = AIRequest::new("m", vec![user("hi"), user("there")]);
        request.system_prompt = Some("be brief".into());
        request.temperature = Some(9.0);
        request.max_tokens = Some(7);
        request.tools = Some(vec![tool()]);
        let (path, body) = encode(&encoding("gemini-2.5-pro", &NoKeepsakes), &request).unwrap();
        assert_eq!(path, "/models/gemini-2.5-pro:streamGenerateContent?alt=sse");
        assert_eq!(
            body,
            json!({
                "contents": [{"role": "user", "parts": [{"text": "hi\n\nthere"}]}],
                "systemInstruction": {"parts": [{"text": "be brief"}]},
                "tools": [{"functionDeclarations": [{
                    "name": "look",
                    "description": "Looks.",
                    "parametersJsonSchema": {"type": "object", "properties": {}},
                }]}],
                "generationConfig": {"temperature": 2.0, "maxOutputTokens": 7},
            })
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let request = AIRequest::new("m", vec![user("hi")]);
        let (_, body) = encode(&encoding("m", &NoKeepsakes), &request).unwrap();
        assert_eq!(body, json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}));
    }

    #[test]
    fn a_models_name_is_one_segment_of_the_path() {
        let request = AIRequest::new("m", vec![user("hi")]);
        for (model, segment) in [
            ("models/gemini-3-pro-preview", "gemini-3-pro-preview"),
            ("gemma-3n@001", "gemma-3n@001"),
            ("../x?key=1#:ü", "..%2Fx%3Fkey%3D1%23%3A%C3%BC"),
        ] {
            let (path, _) = encode(&encoding(model, &NoKeepsakes), &request).unwrap();
            assert_eq!(path, format!("/models/{segment}:streamGenerateContent?alt=sse"));
        }
        let failure = encode(&encoding("models/", &NoKeepsakes), &request).unwrap_err();
        assert_eq!(failure.class, Class::BadRequest);
    }

    #[test]
    fn a_call_and_its_result_go_back_with_the_signature() {
        let kept = Kept(Keepsake { signature: Some("c2ln".into()), reasoning: None });
        // Ours is not sent, Google's own is.
        for (id, has_id) in [("call_0000000000000001", false), ("q7", true)] {
            let contents = contents_of("gemini-3-pro", &kept, &answered(id, "found"));
            let mut call = json!({"name": "look", "args": {"at": 1}});
            let mut result = json!({"name": "look", "response": {"result": "found"}});
            if has_id {
                call["id"] = id.into();
                result["id"] = id.into();
            }
            assert_eq!(
                contents,
                json!([
                    {"role": "user", "parts": [{"text": "go"}]},
                    {"role": "model", "parts": [
                        {"text": "well"},
                        {"functionCall": call, "thoughtSignature": "c2ln"},
                    ]},
                    {"role": "user", "parts": [{"functionResponse": result}]},
                ])
            );
        }
    }

    #[test]
    fn a_call_of_another_has_a_signature_only_where_one_is_demanded() {
        let kept = Kept(Keepsake { signature: Some("c2ln".into()), reasoning: None });
        for (model, signature) in [
            ("gemini-2.5-flash", None),
            ("gemma-3", None),
            ("gemini-3-flash-preview", Some(FOREIGN_SIGNATURE)),
            ("models/gemini-flash-latest", Some(FOREIGN_SIGNATURE)),
        ] {
            let contents = contents_of(model, &kept, &answered("foreign", "found"));
            let part = &contents[1]["parts"][1];
            assert_eq!(part["thoughtSignature"].as_str(), signature, "{model}");
            assert_eq!(part["functionCall"].get("id"), None);
        }
    }

    #[test]
    fn a_result_that_is_an_object_is_used_as_it_is() {
        for (text, response) in [
            ("{\"a\":[1]}", json!({"a": [1]})),
            ("[1]", json!({"result": "[1]"})),
            ("7", json!({"result": "7"})),
            ("", json!({"result": ""})),
            ("{", json!({"result": "{"})),
        ] {
            let contents = contents_of("m", &NoKeepsakes, &answered("a", text));
            assert_eq!(contents[2]["parts"][0]["functionResponse"]["response"], response);
        }
    }

    #[test]
    fn neighbours_of_one_role_are_one_content_even_if_the_row_does_not_ask() {
        let mut request = answered("a", "found");
        request.messages.push(user("and now?"));
        let row = Row { quirks: Quirks::NONE, ..*row("gemini") };
        let encoding = Encoding { row: &row, ..encoding("m", &NoKeepsakes) };
        let (_, body) = encode(&encoding, &request).unwrap();
        assert_eq!(body["contents"][2]["parts"][1], json!({"text": "and now?"}));
        assert_eq!(body["contents"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_request_without_turns_is_refused() {
        let mut request = AIRequest::new("m", vec![]);
        request.system_prompt = Some("be brief".into());
        let failure = encode(&encoding("m", &NoKeepsakes), &request).unwrap_err();
        assert_eq!(failure.class, Class::BadRequest);
    }
}
