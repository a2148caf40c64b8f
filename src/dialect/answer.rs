//! An answer on its way in: what the readers of the dialects put together, in our protocol's words.

use std::collections::VecDeque;

use serde_json::Value;

use super::failure::{Class, Failure};
use super::{ANSWER_SIZE_MAX, TOOL_CALLS_MAX};
use crate::protocol::{FinishReason, JsonValue, StreamEvent, ToolCall, Usage};

/// How much of arguments that are no JSON an error shows.
const SHOWN_SIZE_MAX: usize = 256;

/// What a provider wants back together with a tool call, and our protocol has no field for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keepsake {
    /// The provider's signature of the call or of the thought before it.
    pub signature: Option<String>,
    /// The reasoning that led to the call.
    pub reasoning: Option<String>,
}

/// Collects one answer.
///
/// The readers call it in the order of the stream; what it makes of that is taken from
/// [`Answer::next`].
#[derive(Debug)]
pub(super) struct Answer {
    events: VecDeque<StreamEvent>,
    /// Calls whose arguments are still coming, in the order in which they began.
    open: Vec<OpenCall>,
    keepsakes: Vec<(String, Keepsake)>,
    calls_count: usize,
    /// The first call whose arguments are no JSON.
    broken: Option<Failure>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    model: String,
    prompt_chars: usize,
    answer_chars: usize,
    /// Bytes of everything so far.
    size: usize,
    has_output: bool,
    is_over: bool,
}

#[derive(Debug)]
struct OpenCall {
    index: u64,
    id: String,
    name: String,
    arguments: String,
    keepsake: Keepsake,
}

impl Answer {
    /// An empty answer to a prompt of so many characters. `model` is what it says unless the
    /// provider names another.
    pub(super) fn new(model: &str, prompt_chars: usize) -> Self {
        Self {
            events: VecDeque::new(),
            open: Vec::new(),
            keepsakes: Vec::new(),
            calls_count: 0,
            broken: None,
            finish: None,
            usage: None,
            model: model.to_owned(),
            prompt_chars,
            answer_chars: 0,
            size: 0,
            has_output: false,
            is_over: false,
        }
    }

    /// Adds text. An empty piece is none.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.grow(text)?;
        if !text.is_empty() {
            self.events.push_back(StreamEvent::Text { text: text.to_owned() });
        }
        Ok(())
    }

    /// Adds what the model thinks. An empty piece is none.
    pub(super) fn reasoning(&mut self, text: &str) -> Result<(), Failure> {
        self.grow(text)?;
        if !text.is_empty() {
            self.events.push_back(StreamEvent::Reasoning { text: text.to_owned() });
        }
        Ok(())
    }

    /// Opens the call at `index`, or tells more about the one that is open there: what is given is
    /// kept, unless it is empty.
    pub(super) fn call(
        &mut self,
        index: u64,
        id: Option<&str>,
        name: Option<&str>,
    ) -> Result<(), Failure> {
        let call = self.open_call(index)?;
        let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        if let Some(id) = given(id) {
            call.id = id;
        }
        if let Some(name) = given(name) {
            call.name = name;
        }
        Ok(())
    }

    /// Adds a piece of the arguments of the call at `index`.
    pub(super) fn arguments(&mut self, index: u64, piece: &str) -> Result<(), Failure> {
        self.grow(piece)?;
        self.open_call(index)?.arguments.push_str(piece);
        Ok(())
    }

    /// What the provider wants back with the call at `index`.
    pub(super) fn keep(&mut self, index: u64, keepsake: Keepsake) -> Result<(), Failure> {
        self.open_call(index)?.keepsake = keepsake;
        Ok(())
    }

    /// Closes the call at `index`, if one is open there, and gives it to the client; if its arguments
    /// are no JSON, [`Answer::end`] says what that means.
    pub(super) fn close_call(&mut self, index: u64) -> Result<(), Failure> {
        match self.open.iter().position(|call| call.index == index) {
            Some(at) => {
                let call = self.open.remove(at);
                self.give(call)
            }
            None => Ok(()),
        }
    }

    /// The model has begun to say something, if only what nobody can read or is held back for now.
    pub(super) const fn begin(&mut self) {
        self.has_output = true;
    }

    /// Whether anything of text, reasoning or a call has come.
    pub(super) const fn has_output(&self) -> bool {
        self.has_output
    }

    /// Why the answer ends. The last word counts.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.finish = Some(reason);
    }

    /// Whether a reason for the end has come.
    pub(super) const fn has_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// What it cost so far: replaces what was said before.
    pub(super) fn usage(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }
    /// The model that answers.
    pub(super) fn model(&mut self, model: &str) {
        if !model.is_empty() && model != self.model {
            model.clone_into(&mut self.model);
        }
    }

    /// Ends the answer: closes what is open and gives the end. Whatever comes later is not part of
    /// it. A second call changes nothing.
    ///
    /// # Errors
    ///
    /// [`Class::Incomplete`] when no reason for the end has come; [`Class::BadStream`] when a call's
    /// arguments are no JSON, and the reason is not that the answer was cut off.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        if self.is_over {
            return Ok(());
        }
        let Some(mut finish_reason) = self.finish else {
            return Err(Failure::new(Class::Incomplete, "it ended without its reason"));
        };
        for call in std::mem::take(&mut self.open) {
            self.give(call)?;
        }
        // A call that the client's own `maxTokens` cut off is nobody's fault, and no call.
        let is_cut = matches!(finish_reason, FinishReason::Length | FinishReason::ContentFilter);
        if let Some(failure) = self.broken.take().filter(|_| !is_cut) {
            return Err(failure);
        }
        // Several providers have no reason of its own for this.
        if finish_reason == FinishReason::Stop && self.calls_count > 0 {
            finish_reason = FinishReason::ToolCalls;
        }
        let usage =
            self.usage.unwrap_or_else(|| Usage::estimate(self.prompt_chars, self.answer_chars));
        let model = std::mem::take(&mut self.model);
        self.events.push_back(StreamEvent::End { finish_reason, usage, model });
        self.is_over = true;
        Ok(())
    }

    /// Whether the end was given.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next event for the client.
    pub(super) fn next(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// What is to be kept for each call so far, by our id of the call; taken once.
    pub(super) fn take_keepsakes(&mut self) -> Vec<(String, Keepsake)> {
        std::mem::take(&mut self.keepsakes)
    }

    fn grow(&mut self, piece: &str) -> Result<(), Failure> {
        self.has_output |= !piece.is_empty();
        self.size += piece.len();
        self.answer_chars += piece.chars().count();
        if self.size > ANSWER_SIZE_MAX {
            return Err(Failure::bad_stream(format!(
                "the answer is larger than {ANSWER_SIZE_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn open_call(&mut self, index: u64) -> Result<&mut OpenCall, Failure> {
        self.has_output = true;
        if let Some(at) = self.open.iter().position(|call| call.index == index) {
            return Ok(&mut self.open[at]);
        }
        if self.calls_count + self.open.len() == TOOL_CALLS_MAX {
            return Err(Failure::bad_stream(format!("more than {TOOL_CALLS_MAX} tool calls")));
        }
        self.open.push(OpenCall {
            index,
            id: String::new(),
            name: String::new(),
            arguments: String::new(),
            keepsake: Keepsake::default(),
        });
        let last = self.open.len() - 1;
        Ok(&mut self.open[last])
    }

    fn give(&mut self, call: OpenCall) -> Result<(), Failure> {
        let OpenCall { id, name, arguments, keepsake, .. } = call;
        if name.is_empty() {
            return Err(Failure::bad_stream("a tool call without a name"));
        }
        let parameters = if arguments.trim().is_empty() {
            Ok(Value::Object(serde_json::Map::new()))
        } else {
            serde_json::from_str(&arguments)
        };
        let Ok(parameters) = parameters else {
            self.broken.get_or_insert_with(|| not_json(&name, &arguments));
            return Ok(());
        };
        self.calls_count += 1;
        // Ours, where the provider gives none: unique among the calls of a conversation.
        let id = if id.is_empty() { unique_id() } else { id };
        if keepsake != Keepsake::default() {
            self.keepsakes.push((id.clone(), keepsake));
        }
        let tool_call = ToolCall { name, parameters: JsonValue(parameters), id };
        self.events.push_back(StreamEvent::ToolCall { tool_call });
        Ok(())
    }
}

fn not_json(name: &str, arguments: &str) -> Failure {
    let end = arguments.floor_char_boundary(SHOWN_SIZE_MAX);
    Failure::bad_stream(format!(
        "the arguments of the tool call {name} are no JSON: {}",
        &arguments[..end]
    ))
}

/// `call_` and a number that this process has not given before, from a start that the next process
/// is unlikely to have.
fn unique_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::OnceLock;

    use crate::sync::{AtomicU64, Ordering};
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one("call")));
    // Relaxed: only the number matters.
    format!("call_{:016x}", next.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(answer: &mut Answer) -> Vec<StreamEvent> {
        std::iter::from_fn(|| answer.next()).collect()
    }

    #[test]
    fn a_call_in_pieces_is_given_whole_and_turns_stop_into_tool_calls() {
        let mut answer = Answer::new("m", 8);
        answer.call(0, Some("a"), Some("look")).unwrap();
        answer.arguments(0, "{\"x\":").unwrap();
        answer.call(0, None, Some("")).unwrap();
        answer.arguments(0, "1}").unwrap();
        assert!(answer.next().is_none());
        answer.finish(FinishReason::Stop);
        answer.end().unwrap();
        let events = events(&mut answer);
        let StreamEvent::ToolCall { tool_call } = &events[0] else { panic!("{events:?}") };
        assert_eq!((tool_call.name.as_str(), tool_call.id.as_str()), ("look", "a"));
        assert_eq!(tool_call.parameters.0, serde_json::json!({"x": 1}));
        let StreamEvent::End { finish_reason, usage, .. } = &events[1] else { panic!() };
        assert_eq!(*finish_reason, FinishReason::ToolCalls);
        assert_eq!(usage.estimated, Some(true));
    }

    #[test]
    fn no_reason_is_no_end() {
        let mut answer = Answer::new("m", 0);
        answer.text("half").unwrap();
        assert_eq!(answer.end().unwrap_err().class, Class::Incomplete);
    }

    #[test]
    fn arguments_that_are_no_json_are_a_failure_that_shows_them() {
        let mut answer = Answer::new("m", 0);
        answer.call(3, None, Some("look")).unwrap();
        answer.arguments(3, "{\"x\":").unwrap();
        answer.close_call(3).unwrap();
        answer.finish(FinishReason::ToolCalls);
        let failure = answer.end().unwrap_err();
        assert_eq!(failure.class, Class::BadStream);
        assert!(failure.detail.contains("look") && failure.detail.ends_with("{\"x\":"));
        assert!(answer.next().is_none());
    }

    #[test]
    fn a_call_that_the_end_cut_off_is_none() {
        for closed in [true, false] {
            for reason in [FinishReason::Length, FinishReason::ContentFilter] {
                let mut answer = Answer::new("m", 0);
                answer.call(3, None, Some("look")).unwrap();
                answer.arguments(3, "{\"x\":").unwrap();
                if closed {
                    answer.close_call(3).unwrap();
                }
                answer.finish(reason);
                answer.end().unwrap();
                let events = events(&mut answer);
                let [StreamEvent::End { finish_reason, .. }] = &events[..] else { panic!() };
                assert_eq!(*finish_reason, reason);
            }
        }
    }

    #[test]
    fn calls_without_an_id_get_ids_of_their_own() {
        let mut answer = Answer::new("m", 0);
        for index in 0..2 {
            answer.call(index, None, Some("look")).unwrap();
            answer.close_call(index).unwrap();
        }
        let ids: Vec<_> = events(&mut answer)
            .into_iter()
            .map(|event| match event {
                StreamEvent::ToolCall { tool_call } => tool_call.id,
                _ => panic!(),
            })
            .collect();
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn answers_and_their_calls_are_bounded() {
        let mut answer = Answer::new("m", 0);
        let piece = "x".repeat(ANSWER_SIZE_MAX / 2);
        answer.text(&piece).unwrap();
        answer.reasoning(&piece).unwrap();
        assert_eq!(answer.text("x").unwrap_err().class, Class::BadStream);
        let mut answer = Answer::new("m", 0);
        for index in 0..TOOL_CALLS_MAX as u64 {
            answer.call(index, None, Some("look")).unwrap();
        }
        assert!(answer.call(u64::MAX, None, Some("look")).is_err());
    }
}
