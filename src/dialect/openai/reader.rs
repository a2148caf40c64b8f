//! The events of a stream into the answer.

use serde_json::Value;

use super::calls::Calls;
use super::chunk::{CallPiece, Choice, Chunk, Content};
use super::think::{Piece, Think};
use crate::dialect::answer::{Answer, Keepsake};
use crate::dialect::decode;
use crate::dialect::failure::{Class, Failure};
use crate::dialect::framing::Frame;
use crate::dialect::json::{First, or_empty, parse};
use crate::dialect::refusal::in_band;
use crate::dialect::row::Quirks;
use crate::protocol::FinishReason;

/// Reads the events of one answer.
#[derive(Debug)]
pub(in crate::dialect) struct Reader {
    may_lack_finish: bool,
    /// What was thought so far, for services that want it back with the calls it led to.
    reasoning: Option<String>,
    /// For services whose models think in tags.
    think: Option<Think>,
    calls: Calls,
    /// Text or a call has come: thoughts alone are no answer.
    has_answer: bool,
}

impl Reader {
    pub(in crate::dialect) fn new(quirks: &Quirks) -> Self {
        Self {
            may_lack_finish: quirks.may_lack_finish,
            reasoning: quirks.send_back_reasoning.then(String::new),
            think: quirks.think_tags.then(Think::default),
            calls: Calls::default(),
            has_answer: false,
        }
    }

    fn read_chunk(&mut self, chunk: &Chunk<'_>, answer: &mut Answer) -> Result<(), Failure> {
        if let Some(model) = &chunk.model {
            answer.model(model);
        }
        // Before the choice: it may fail, and then the cost is known all the same.
        if let Some(usage) = chunk.usage() {
            answer.usage(usage);
        }
        match &chunk.choices {
            Some(First(Some(choice))) => self.read_choice(choice, answer),
            _ => Ok(()),
        }
    }

    fn read_choice(&mut self, choice: &Choice<'_>, answer: &mut Answer) -> Result<(), Failure> {
        if let Some(delta) = choice.delta() {
            self.read_content(delta.reasoning(), true, answer)?;
            self.read_content(&delta.content, false, answer)?;
            self.say(or_empty(&delta.refusal), answer)?;
            let pieces = &delta.tool_calls.0;
            for (position, piece) in pieces.iter().enumerate() {
                self.read_call(piece, position, pieces.len(), answer)?;
            }
        }
        // Last: it may share its event with the last of the answer.
        match or_empty(&choice.finish_reason) {
            // Some have an empty one in every event.
            "" => Ok(()),
            reason => {
                self.give_held(answer)?;
                answer.finish(finish_reason(reason)?);
                Ok(())
            }
        }
    }

    /// Reads text or parts. Bounded: parts nest no deeper than the parser allowed.
    fn read_content(
        &mut self,
        content: &Content<'_>,
        is_thought: bool,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        match content {
            Content::None => Ok(()),
            Content::Text(text) if is_thought => self.think(text, answer),
            Content::Text(text) => self.say(text, answer),
            Content::Parts(parts) => parts.0.iter().try_for_each(|part| {
                self.read_content(&part.thinking, true, answer)?;
                self.read_content(&part.text, is_thought, answer)
            }),
        }
    }

    fn say(&mut self, text: &str, answer: &mut Answer) -> Result<(), Failure> {
        match &mut self.think {
            Some(think) if !think.is_past() => {
                if !text.is_empty() {
                    answer.begin();
                }
                let pieces = think.read(text);
                pieces.into_iter().try_for_each(|piece| self.give(piece, answer))
            }
            _ => {
                self.has_answer |= !text.is_empty();
                answer.text(text)
            }
        }
    }

    fn think(&mut self, text: &str, answer: &mut Answer) -> Result<(), Failure> {
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.push_str(text);
        }
        answer.reasoning(text)
    }

    fn give(&mut self, piece: Piece, answer: &mut Answer) -> Result<(), Failure> {
        match piece {
            Piece::Thought(text) => self.think(&text, answer),
            Piece::Text(text) => {
                self.has_answer = true;
                answer.text(&text)
            }
        }
    }

    /// Gives what might have become a tag.
    fn give_held(&mut self, answer: &mut Answer) -> Result<(), Failure> {
        match self.think.as_mut().and_then(Think::finish) {
            Some(piece) => self.give(piece, answer),
            None => Ok(()),
        }
    }

    fn read_call(
        &mut self,
        piece: &CallPiece<'_>,
        position: usize,
        count: usize,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        self.has_answer = true;
        let (at, is_new) = self.calls.find(piece, position, count);
        let function = piece.function.as_ref();
        let name = function.and_then(|function| function.name.as_deref());
        answer.call(at, piece.id.as_deref(), name)?;
        match &mut self.reasoning {
            // With the first call: the others are sent back in the same message.
            Some(reasoning) if is_new && !reasoning.is_empty() => {
                let reasoning = Some(std::mem::take(reasoning));
                answer.keep(at, Keepsake { reasoning, ..Keepsake::default() })?;
            }
            _ => {}
        }
        match function.and_then(|function| function.arguments.as_ref()) {
            Some(arguments) => answer.arguments(at, &arguments.0),
            None => Ok(()),
        }
    }

    /// The stream says that it is over.
    fn done(&mut self, answer: &mut Answer) -> Result<bool, Failure> {
        if !answer.has_finished() {
            if !self.may_lack_finish || !self.has_answer {
                return Err(Failure::new(
                    Class::Incomplete,
                    "the stream is done, but does not say why the answer ends",
                ));
            }
            self.give_held(answer)?;
            answer.finish(FinishReason::Stop);
        }
        Ok(true)
    }
}

impl decode::Reader for Reader {
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure> {
        let data = frame.data.trim_ascii();
        if data.is_empty() {
            return Ok(false);
        }
        if data == b"[DONE]" {
            return self.done(answer);
        }
        if frame.name == "error" {
            return Err(in_band(data));
        }
        let chunk: Chunk<'_> = parse(data).map_err(|failure| {
            // What is no chunk may still be an error.
            match parse::<Value>(data) {
                Ok(value) if value.get("error").is_some_and(|error| !error.is_null()) => {
                    in_band(data)
                }
                _ => failure,
            }
        })?;
        if chunk.is_error() {
            return Err(in_band(data));
        }
        self.read_chunk(&chunk, answer)?;
        Ok(false)
    }

    fn is_whole(&self, answer: &Answer) -> bool {
        answer.has_finished()
    }
}

/// The reason in our words.
///
/// # Errors
///
/// The reason is that the provider failed.
fn finish_reason(reason: &str) -> Result<FinishReason, Failure> {
    let failed =
        |class| Err(Failure::new(class, format!("the answer ends for the reason {reason}")));
    match reason {
        "length" | "model_length" | "max_tokens" => Ok(FinishReason::Length),
        "tool_calls" | "function_call" | "tool_use" => Ok(FinishReason::ToolCalls),
        // Z.ai's name for it, too.
        "content_filter" | "sensitive" => Ok(FinishReason::ContentFilter),
        "error" | "network_error" => failed(Class::Server),
        // DeepSeek.
        "insufficient_system_resource" => failed(Class::Overloaded),
        // `stop`, and whatever else a service calls it: a reason it is.
        _ => Ok(FinishReason::Stop),
    }
}
