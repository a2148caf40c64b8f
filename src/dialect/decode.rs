//! A body into events, whatever the dialect.

use super::answer::{Answer, Keepsake};
use super::failure::{Class, Failure};
use super::framing::{Frame, Framing, Lines, Sse};
use super::row::Row;
use super::{Dialect, anthropic, cohere, gemini, ollama, openai};
use crate::protocol::{AIRequest, StreamEvent};

/// What a dialect makes of the events of its stream.
pub(super) trait Reader {
    /// Reads one event into the answer. True when the answer is whole and nothing can follow that
    /// belongs to it.
    ///
    /// # Errors
    ///
    /// What the event says is wrong, or that it cannot be read.
    fn read(&mut self, frame: Frame<'_>, answer: &mut Answer) -> Result<bool, Failure>;

    /// Whether a body that ends here is a whole answer.
    fn is_whole(&self, answer: &Answer) -> bool;
}

/// Reads one answer's body.
///
/// Every call may make events, which [`Decoder::next_event`] gives; those from before a failure are
/// there, too. The last of a whole answer is [`StreamEvent::End`].
pub struct Decoder {
    framing: Framing,
    reader: Box<dyn Reader>,
    answer: Answer,
}

impl Decoder {
    /// For the answer to this request by a provider of this row.
    #[must_use]
    pub fn new(row: &Row, request: &AIRequest) -> Self {
        let sse = || Framing::Sse(Sse::default());
        let (framing, reader): (Framing, Box<dyn Reader>) = match row.dialect {
            Dialect::OpenAi => (sse(), Box::new(openai::Reader::new(&row.quirks))),
            Dialect::Anthropic => (sse(), Box::new(anthropic::Reader::default())),
            Dialect::Gemini => (sse(), Box::new(gemini::Reader::default())),
            Dialect::Ollama => {
                (Framing::Ndjson(Lines::default()), Box::new(ollama::Reader::default()))
            }
            #[cfg(feature = "bedrock")]
            Dialect::Bedrock => (
                Framing::EventStream(super::bedrock::EventStream::default()),
                Box::new(super::bedrock::Reader::default()),
            ),
            Dialect::Cohere => (sse(), Box::new(cohere::Reader::default())),
        };
        let chars = |text: &str| text.chars().count();
        let messages = request.messages.iter().map(|message| chars(&message.content));
        let prompt = messages.sum::<usize>() + request.system_prompt.as_deref().map_or(0, chars);
        Self { framing, reader, answer: Answer::new(&request.model, prompt) }
    }

    /// Reads more of the body.
    ///
    /// # Errors
    ///
    /// What the provider says went wrong, or [`Class::BadStream`]. Nothing more is to be fed then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.answer.is_over() {
            return Ok(());
        }
        self.framing.feed(bytes);
        self.read()
    }

    /// The body has ended, as its framing in HTTP says it should.
    ///
    /// # Errors
    ///
    /// As [`Decoder::feed`], and [`Class::Incomplete`] when the answer is not whole.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.answer.is_over() {
            return Ok(());
        }
        self.framing.finish();
        self.read()?;
        if self.answer.is_over() {
            return Ok(());
        }
        if !self.reader.is_whole(&self.answer) {
            return Err(Failure::new(Class::Incomplete, "the body ended before the answer did"));
        }
        self.answer.end()
    }

    /// The next event for the client.
    pub fn next_event(&mut self) -> Option<StreamEvent> {
        self.answer.next()
    }

    /// Whether the answer is whole: what is left of the body does not matter.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.answer.is_over()
    }

    /// Whether the model has begun to answer: with text, with reasoning, or with a piece of a tool call,
    /// which makes no event before the call is whole.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        self.answer.has_output()
    }

    /// What the provider wants back with the tool calls so far, by the id that the client got; taken
    /// once.
    pub fn take_keepsakes(&mut self) -> Vec<(String, Keepsake)> {
        self.answer.take_keepsakes()
    }

    fn read(&mut self) -> Result<(), Failure> {
        while let Some(frame) = self.framing.next()? {
            if self.reader.read(frame, &mut self.answer)? {
                return self.answer.end();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::testing::row;

    /// Decodes two pieces of a body: with the first nothing has come, with the second something has,
    /// though no event.
    #[track_caller]
    fn begins_with(kind: &str, nothing: &[u8], something: &[u8]) {
        let mut decoder = Decoder::new(row(kind), &AIRequest::new("m", Vec::new()));
        decoder.feed(nothing).unwrap();
        assert!(!decoder.has_output(), "{kind}");
        decoder.feed(something).unwrap();
        assert!(decoder.has_output(), "{kind}");
        assert_eq!(decoder.next_event(), None, "{kind}");
    }

    #[test]
    fn an_answer_has_begun_when_its_first_piece_came_whether_it_makes_an_event_or_not() {
        let event = |data: &str| format!("data: {data}\n\n").into_bytes();
        let role = event(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#);
        let call = event(r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}"#);
        begins_with("openai", &role, &call);
        begins_with("vllm", &role, &event(r#"{"choices":[{"delta":{"content":"<thi"}}]}"#));
        let start = event(r#"{"type":"message_start","message":{"model":"m"}}"#);
        for block in [r#""tool_use","id":"a","name":"f""#, r#""redacted_thinking","data":"eA==""#] {
            let block = format!(
                r#"{{"type":"content_block_start","index":0,"content_block":{{"type":{block}}}}}"#
            );
            begins_with("anthropic", &start, &event(&block));
        }
        begins_with(
            "cohere",
            &event(r#"{"type":"message-start"}"#),
            &event(r#"{"type":"tool-call-start","delta":{"message":{"tool_calls":{"id":"a"}}}}"#),
        );
    }

    #[cfg(feature = "bedrock")]
    #[test]
    fn a_call_without_its_end_is_the_beginning_of_an_answer() {
        use crate::dialect::bedrock::tests::event;
        let call = r#"{"contentBlockIndex":0,"start":{"toolUse":{"name":"f","toolUseId":"t"}}}"#;
        begins_with("bedrock", &event("messageStart", "{}"), &event("contentBlockStart", call));
    }
}
