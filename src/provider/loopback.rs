//! The provider that needs no network and no key: it answers with what it was asked.
//!
//! The default when nothing is configured, so that the main job runs on a fresh machine; and the
//! tests' provider, because its pace and its failures can be set.

use std::time::Duration;

use futures_lite::stream;

use super::{EventStream, Provider};
use crate::config::LoopbackConfig;
use crate::error::IpcError;
use crate::executor;
use crate::protocol::{AIRequest, FinishReason, MessageRole, StreamEvent, Usage};

/// Answers every request with a text made from its last user message.
#[derive(Clone, Debug)]
pub struct Loopback {
    config: LoopbackConfig,
}

impl Loopback {
    /// A loopback provider with this pace.
    #[must_use]
    pub const fn new(config: LoopbackConfig) -> Self {
        Self { config }
    }
}

impl Provider for Loopback {
    fn start(&self, request: AIRequest) -> EventStream {
        let answer = Answer::new(&request, &self.config);
        Box::pin(stream::unfold(answer, |mut answer| async move {
            let event = answer.next().await?;
            Some((event, answer))
        }))
    }
}

/// An answer on its way out.
struct Answer {
    text: String,
    /// Bytes of `text` already given.
    given: usize,
    chunk_size: usize,
    /// Time between two chunks.
    pause: Option<Duration>,
    /// Chunks before the failure that was asked for.
    chunks_left: Option<u32>,
    end: Option<StreamEvent>,
    failed: bool,
}

impl Answer {
    fn new(request: &AIRequest, config: &LoopbackConfig) -> Self {
        let prompt = request
            .messages
            .iter()
            .rfind(|message| message.role == MessageRole::User)
            .map_or("", |message| message.content.as_str());
        let mut text = format!(
            "You asked: {prompt}\n\nNo model was asked: this answer comes from the loopback \
             provider, over the same rings and the same stream that a real one would take.\n"
        );
        let mut finish_reason = FinishReason::Stop;
        // Four characters to a token, as in the estimate below.
        let size_max = request.max_tokens.map_or(usize::MAX, |tokens| tokens as usize * 4);
        if text.len() > size_max {
            text.truncate(text.floor_char_boundary(size_max));
            finish_reason = FinishReason::Length;
        }
        let prompt_size = request.messages.iter().map(|message| message.content.chars().count());
        let usage = Usage::estimate(prompt_size.sum(), text.chars().count());
        let end = StreamEvent::End { finish_reason, usage, model: request.model.clone() };
        Self {
            text,
            given: 0,
            chunk_size: config.chunk_size as usize,
            pause: (config.chunks_per_second > 0)
                .then(|| Duration::from_secs(1) / config.chunks_per_second),
            chunks_left: config.fail_after_chunks,
            end: Some(end),
            failed: false,
        }
    }

    async fn next(&mut self) -> Option<Result<StreamEvent, IpcError>> {
        if self.failed {
            return None;
        }
        if self.given == self.text.len() {
            return self.end.take().map(Ok);
        }
        if self.chunks_left == Some(0) {
            self.failed = true;
            let detail = "the loopback provider was told to fail here (fail_after_chunks)";
            return Some(Err(IpcError::ProviderFailed { detail: detail.into() }));
        }
        self.chunks_left = self.chunks_left.map(|left| left - 1);
        match self.pause {
            Some(pause) => executor::sleep(pause).await,
            // An unpaced stream still lets other tasks run.
            None => futures_lite::future::yield_now().await,
        }
        let end = (self.given + self.chunk_size).min(self.text.len());
        // Whole characters, at least one.
        let end = self.text.ceil_char_boundary(end);
        let text = self.text[self.given..end].to_owned();
        self.given = end;
        Some(Ok(StreamEvent::Text { text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Message;
    use futures_lite::{StreamExt, future::block_on};

    fn run(request: AIRequest, config: LoopbackConfig) -> Vec<Result<StreamEvent, IpcError>> {
        block_on(Loopback::new(config).start(request).collect())
    }

    fn request(prompt: &str) -> AIRequest {
        AIRequest::new("loopback", vec![Message::new(MessageRole::User, prompt)])
    }

    fn text(events: &[Result<StreamEvent, IpcError>]) -> String {
        let text = |event: &Result<StreamEvent, IpcError>| match event {
            Ok(StreamEvent::Text { text }) => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    }

    #[test]
    fn the_answer_repeats_the_prompt_in_chunks_of_whole_characters() {
        for chunk_size in [1, 3, 4096] {
            let config = LoopbackConfig { chunk_size, ..LoopbackConfig::default() };
            let events = run(request("größer? 🎈"), config);
            assert!(text(&events).starts_with("You asked: größer? 🎈\n"));
            assert!(matches!(
                events.last(),
                Some(Ok(StreamEvent::End { finish_reason: FinishReason::Stop, .. }))
            ));
        }
    }

    #[test]
    fn max_tokens_ends_the_answer_with_length() {
        let mut request = request("hello");
        request.max_tokens = Some(2);
        let events = run(request, LoopbackConfig::default());
        assert_eq!(text(&events), "You aske");
        assert!(matches!(
            events.last(),
            Some(Ok(StreamEvent::End { finish_reason: FinishReason::Length, .. }))
        ));
    }

    #[test]
    fn a_failure_after_n_chunks_is_an_error_and_the_end() {
        let config = LoopbackConfig { fail_after_chunks: Some(2), ..LoopbackConfig::default() };
        let events = run(request("hello"), config);
        assert_eq!(events.len(), 3);
        assert!(matches!(events[2], Err(IpcError::ProviderFailed { .. })));
    }
}
