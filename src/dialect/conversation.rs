//! A request in turns: what every dialect wants, before its own words for it.
//!
//! Our protocol knows no tool results: the user message after an assistant message with tool calls
//! is the result. One call and its answer become a call and a result; where that cannot be told
//! (several calls, no answer, no tools in the request) the calls become text, because a provider
//! refuses a call without its result.

use std::borrow::Cow;

use crate::protocol::{AIRequest, Message, MessageRole, Tool, ToolCall};

/// A request without what no dialect takes: empty messages, system messages among the others.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    /// The system prompt and all system messages, joined by blank lines; may be empty.
    pub(super) system: String,
    /// The turns, oldest first, none of them empty.
    pub(super) turns: Vec<Turn<'a>>,
    /// The tools; empty when there are none.
    pub(super) tools: &'a [Tool],
}

/// What one side says at a time.
#[derive(Debug, PartialEq)]
pub(super) struct Turn<'a> {
    pub(super) role: Role,
    /// At least one. Results come first, then text; calls come after the text.
    pub(super) blocks: Vec<Block<'a>>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    User,
    Assistant,
}

/// One piece of a turn.
#[derive(Debug, PartialEq)]
pub(super) enum Block<'a> {
    /// Never empty.
    Text(Cow<'a, str>),
    /// Always followed by its result in the next turn.
    Call(&'a ToolCall),
    /// What a tool gave; the text may be empty.
    Result { call: &'a ToolCall, text: &'a str },
}

impl<'a> Conversation<'a> {
    /// The conversation of a request.
    ///
    /// With `merge`, neighbours of one role become one turn, their texts joined by a blank line.
    pub(super) fn new(request: &'a AIRequest, merge: bool) -> Self {
        let tools = request.tools.as_deref().unwrap_or_default();
        let (mut system, mut rest) = (Vec::new(), Vec::new());
        system.extend(request.system_prompt.as_deref());
        for message in &request.messages {
            match message.role {
                MessageRole::System => system.push(&message.content),
                _ => rest.push(message),
            }
        }
        system.retain(|text| !text.is_empty());
        let mut conversation = Self { system: system.join("\n\n"), turns: Vec::new(), tools };
        let mut rest = rest.into_iter().peekable();
        while let Some(message) = rest.next() {
            let calls = message.tool_calls.as_deref().unwrap_or_default();
            let answer = rest.next_if(|next| {
                calls.len() == 1 && !tools.is_empty() && next.role == MessageRole::User
            });
            conversation.add(role(message), said(message, calls, answer.is_some()), merge);
            if let (Some(answer), [call]) = (answer, calls) {
                let result = Block::Result { call, text: &answer.content };
                conversation.add(Role::User, vec![result], merge);
            }
        }
        conversation
    }

    /// Adds a turn, if there is anything in it.
    fn add(&mut self, role: Role, blocks: Vec<Block<'a>>, merge: bool) {
        if blocks.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if merge && last.role == role => {
                for block in blocks {
                    last.join(block);
                }
            }
            _ => self.turns.push(Turn { role, blocks }),
        }
    }
}

impl<'a> Turn<'a> {
    fn join(&mut self, block: Block<'a>) {
        match (self.blocks.last_mut(), block) {
            (Some(Block::Text(before)), Block::Text(text)) => {
                let before = before.to_mut();
                before.push_str("\n\n");
                before.push_str(&text);
            }
            (_, block) => self.blocks.push(block),
        }
    }

    /// The text of the turn, its blocks joined by blank lines; `None` when it has none.
    pub(super) fn text(&self) -> Option<Cow<'_, str>> {
        let mut texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text(text) => Some(text.as_ref()),
            _ => None,
        });
        let first = texts.next()?;
        let rest: Vec<&str> = texts.collect();
        Some(match rest.as_slice() {
            [] => Cow::Borrowed(first),
            rest => Cow::Owned(format!("{first}\n\n{}", rest.join("\n\n"))),
        })
    }

    /// The calls of the turn.
    pub(super) fn calls(&self) -> impl Iterator<Item = &'a ToolCall> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Call(call) => Some(*call),
            _ => None,
        })
    }

    /// The results in the turn, each with its call.
    pub(super) fn results(&self) -> impl Iterator<Item = (&'a ToolCall, &'a str)> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Result { call, text } => Some((*call, *text)),
            _ => None,
        })
    }
}

fn role(message: &Message) -> Role {
    match message.role {
        MessageRole::Assistant => Role::Assistant,
        _ => Role::User,
    }
}

/// What a message says; its calls as calls if they are answered, else as text.
fn said<'a>(message: &'a Message, calls: &'a [ToolCall], answered: bool) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let flat = |call: &ToolCall| format!("[tool call {}({})]", call.name, call.parameters.0);
    let mut text = Cow::Borrowed(message.content.as_str());
    if !answered {
        for call in calls {
            let text = text.to_mut();
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&flat(call));
        }
    }
    if !text.is_empty() {
        blocks.push(Block::Text(text));
    }
    if answered {
        blocks.extend(calls.iter().map(Block::Call));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::JsonValue;

    fn call(id: &str) -> ToolCall {
        ToolCall { name: "look".into(), parameters: JsonValue(json!({"at": 1})), id: id.into() }
    }

    fn calling(calls: &[&str], text: &str) -> Message {
        let mut message = Message::new(MessageRole::Assistant, text);
        message.tool_calls = Some(calls.iter().map(|id| call(id)).collect());
        message
    }

    fn request(messages: Vec<Message>) -> AIRequest {
        let mut request = AIRequest::new("m", messages);
        let tool = Tool { name: "look".into(), description: None, parameters: None };
        request.tools = Some(vec![tool]);
        request
    }

    fn user(text: &str) -> Message {
        Message::new(MessageRole::User, text)
    }

    #[test]
    fn system_texts_come_first_and_are_joined() {
        let mut request = request(vec![user("hi"), Message::new(MessageRole::System, "b")]);
        request.system_prompt = Some("a".into());
        let conversation = Conversation::new(&request, false);
        assert_eq!(conversation.system, "a\n\nb");
        assert_eq!(conversation.turns.len(), 1);
    }

    #[test]
    fn one_call_and_the_next_user_message_are_a_call_and_its_result() {
        let request = request(vec![user("go"), calling(&["1"], "well"), user("found")]);
        let turns = Conversation::new(&request, true).turns;
        assert_eq!(turns.len(), 3);
        assert_eq!(turns[1].text().as_deref(), Some("well"));
        assert_eq!(turns[1].calls().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["1"]);
        assert_eq!(turns[2].results().map(|(_, text)| text).collect::<Vec<_>>(), ["found"]);
    }

    /// How docs/providers.md says to send the results of calls that were made at once.
    #[test]
    fn calls_in_turns_of_their_own_are_calls_with_their_results() {
        let messages = vec![
            user("go"),
            calling(&["1"], "well"),
            user("found one"),
            calling(&["2"], ""),
            user("found two"),
            user("and?"),
        ];
        let request = request(messages);
        for merge in [true, false] {
            let turns = Conversation::new(&request, merge).turns;
            let pairs: Vec<_> = turns.iter().flat_map(Turn::results).collect();
            let pairs: Vec<_> =
                pairs.iter().map(|(call, text)| (call.id.as_str(), *text)).collect();
            assert_eq!(pairs, [("1", "found one"), ("2", "found two")]);
            let calls: Vec<_> = turns.iter().flat_map(Turn::calls).map(|call| &*call.id).collect();
            assert_eq!(calls, ["1", "2"]);
            let roles: Vec<_> = turns.iter().map(|turn| turn.role).take(5).collect();
            let alternating =
                [Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User];
            assert_eq!(roles, alternating);
        }
    }

    #[test]
    fn calls_become_text_when_nobody_can_tell_their_results() {
        let several = request(vec![calling(&["1", "2"], ""), user("found")]);
        let unanswered = request(vec![user("go"), calling(&["1"], "")]);
        let mut without_tools = request(vec![calling(&["1"], ""), user("found")]);
        without_tools.tools = None;
        for (request, text) in [
            (several, "[tool call look({\"at\":1})]\n\n[tool call look({\"at\":1})]"),
            (unanswered, "[tool call look({\"at\":1})]"),
            (without_tools, "[tool call look({\"at\":1})]"),
        ] {
            let turns = Conversation::new(&request, true).turns;
            let assistant = turns.iter().find(|turn| turn.role == Role::Assistant).unwrap();
            assert_eq!(assistant.text().as_deref(), Some(text));
            assert_eq!(assistant.calls().count(), 0);
        }
    }

    #[test]
    fn empty_messages_are_dropped_and_neighbours_merged_only_if_asked() {
        let request = request(vec![user("a"), user(""), user("b")]);
        let merged = Conversation::new(&request, true).turns;
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].text().as_deref(), Some("a\n\nb"));
        assert_eq!(Conversation::new(&request, false).turns.len(), 2);
    }

    #[test]
    fn an_empty_result_is_still_a_result() {
        let request = request(vec![calling(&["1"], ""), user(""), user("and now?")]);
        let turns = Conversation::new(&request, true).turns;
        assert_eq!(turns[1].results().count(), 1);
        assert_eq!(turns[1].text().as_deref(), Some("and now?"));
    }
}
