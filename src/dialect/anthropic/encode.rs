//! A request in the vendor's words.

use serde_json::{Map, Value, json};

use super::thoughts;
use crate::dialect::conversation::{Block, Conversation, Role, Turn};
use crate::dialect::encode::{CallIds, Encoding, as_object, object_schema};
use crate::dialect::failure::{Class, Failure};
use crate::protocol::{AIRequest, Tool};

/// The vendor's highest temperature.
const TEMPERATURE_MAX: f64 = 1.0;
/// What the user says first where the assistant did: the vendor wants it so, and not without text.
const OPENING: &str = ".";

/// The path and the body for `POST {base}/messages`.
pub(in crate::dialect) fn encode(
    encoding: &Encoding<'_>,
    request: &AIRequest,
) -> Result<(String, Value), Failure> {
    let conversation = encoding.conversation(request)?;
    let mut body = Map::new();
    body.insert("model".into(), encoding.model.into());
    let max_tokens = request.max_tokens.unwrap_or(encoding.max_tokens_default);
    body.insert("max_tokens".into(), max_tokens.into());
    body.insert("stream".into(), true.into());
    if !is_blank(&conversation.system) {
        body.insert("system".into(), conversation.system.as_str().into());
    }
    if let Some(temperature) = encoding.temperature(request) {
        body.insert("temperature".into(), temperature.min(TEMPERATURE_MAX).into());
    }
    if !conversation.tools.is_empty() {
        body.insert("tools".into(), conversation.tools.iter().map(tool).collect());
    }
    body.insert("messages".into(), messages(encoding, &conversation)?);
    Ok(("/messages".into(), body.into()))
}

fn tool(tool: &Tool) -> Value {
    let mut written = json!({"name": tool.name, "input_schema": object_schema(tool)});
    if let Some(description) = tool.description.as_deref().filter(|text| !is_blank(text)) {
        written["description"] = description.into();
    }
    written
}

fn messages(encoding: &Encoding<'_>, conversation: &Conversation<'_>) -> Result<Value, Failure> {
    let ids = CallIds::new(encoding.row.quirks.tool_ids);
    let mut messages = Messages { list: Vec::new(), ids };
    for turn in &conversation.turns {
        messages.add(encoding, turn);
    }
    messages.finish()
}

/// Messages that take turns, the user's first.
struct Messages {
    list: Vec<(Role, Vec<Value>)>,
    ids: CallIds,
}

impl Messages {
    fn add(&mut self, encoding: &Encoding<'_>, turn: &Turn<'_>) {
        for block in &turn.blocks {
            match block {
                // The vendor refuses a text without anything to see.
                Block::Text(text) if is_blank(text) => {}
                Block::Text(text) => self.message(turn.role).push(text_block(text)),
                Block::Call(call) => {
                    let id = self.ids.begin(&call.id).to_owned();
                    let kept = encoding.keepsakes.find(encoding.row.kind, &call.id);
                    let thoughts = kept.map(thoughts::blocks).unwrap_or_default();
                    let message = self.message(turn.role);
                    // A message that calls a tool begins with the thoughts that led there.
                    message.splice(0..0, thoughts);
                    message.push(json!({
                        "type": "tool_use",
                        "id": id,
                        "name": call.name,
                        "input": as_object(&call.parameters.0),
                    }));
                }
                Block::Result { text, .. } => {
                    let mut result =
                        json!({"type": "tool_result", "tool_use_id": self.ids.latest()});
                    if !is_blank(text) {
                        result["content"] = (*text).into();
                    }
                    self.message(turn.role).push(result);
                }
            }
        }
    }

    /// The message that what comes next from this side belongs to.
    fn message(&mut self, role: Role) -> &mut Vec<Value> {
        if self.list.is_empty() && role == Role::Assistant {
            self.list.push((Role::User, vec![text_block(OPENING)]));
        }
        if self.list.last().is_none_or(|(last, _)| *last != role) {
            self.list.push((role, Vec::new()));
        }
        let last = self.list.len() - 1;
        &mut self.list[last].1
    }

    fn finish(mut self) -> Result<Value, Failure> {
        match self.list.last_mut() {
            None => {
                return Err(Failure::new(
                    Class::BadRequest,
                    "the request has nothing but blank messages: add a user message with text",
                ));
            }
            // The answer goes on from here, and the vendor refuses blanks at its seam.
            Some((Role::Assistant, blocks)) => {
                if let Some(Value::String(text)) =
                    blocks.last_mut().and_then(|block| block.get_mut("text"))
                {
                    text.truncate(text.trim_end().len());
                }
            }
            Some((Role::User, _)) => {}
        }
        let write = |(role, blocks)| {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": Value::Array(blocks)})
        };
        Ok(self.list.into_iter().map(write).collect())
    }
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
