//! `annulus chat`: one question, one answer, streamed to the terminal as it is made.
//!
//! Ctrl-C ends the request, not the program: the daemon is told to cancel, and with it the provider
//! stops. A second Ctrl-C leaves at once.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use annulus::IpcError;
use annulus::client::{AsyncCompletionStream, Client, RequestOptions};
use annulus::protocol::{AIRequest, FinishReason, Message, MessageRole, StreamEvent};
use futures_lite::StreamExt as _;
use futures_lite::future::{block_on, or};
use serde::Serialize;

use super::client::{connect_options, parse_seconds};
use super::exit::Exit;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::session::Session;

const SCHEMA: &str = "annulus.chat/1";

/// How long the daemon may take to show that it has seen the cancel.
const CANCEL_TIME_MAX: Duration = Duration::from_millis(500);

/// Stands for standard input among the words of the prompt.
const STDIN: &str = "-";

/// Ask a model and read the answer as it comes
///
/// Ctrl-C cancels the request and ends with code 130; a second one leaves at once. With --json every
/// event is an object: type text, reasoning, toolCall, end, or cancelled.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The prompt; a word that is - stands for standard input, as in: git diff | annulus chat
    /// "review this:" -. Without any word, the prompt is standard input
    prompt: Vec<String>,

    /// The model: PROVIDER/MODEL, a provider, a name of [models.NAME], or as the default provider
    /// knows it [default: the default provider's]
    #[arg(short, long, value_name = "NAME")]
    model: Option<String>,

    /// Instructions that come before the prompt
    #[arg(short, long, value_name = "TEXT")]
    system: Option<String>,

    /// The longest answer allowed, in the model's tokens
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<u32>,

    /// Randomness of the choice of words, 0 to 2
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f64>,

    /// How long the whole answer may take; without it, as long as it likes
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = session.client_config()?;
    let request = arguments.request(&config.default_provider)?;

    // From here on, so that Ctrl-C still ends a prompt that is being typed.
    let interrupt = Interrupt::watch()?;
    let client = Client::connect(&connect_options(&config))?;
    let options = arguments.timeout.map_or(RequestOptions::NONE, RequestOptions::within);
    let stream = client.stream_completion_async(&request, options)?;

    let mut screen = Screen { session, at_line_start: true };
    let outcome = block_on(show_all(&mut screen, stream, &interrupt));
    if matches!(outcome, Ok(Exit::Interrupted)) {
        // A request behind the cancel: its answer shows that the daemon has seen both. Hanging up
        // at once would end the stream too, but as a client that was lost.
        let _ = client.ping_with(RequestOptions::within(CANCEL_TIME_MAX));
    }
    screen.end_line()?;
    outcome
}

/// Shows events until the answer ends or the user has had enough.
async fn show_all(
    screen: &mut Screen<'_>,
    mut stream: AsyncCompletionStream,
    interrupt: &Interrupt,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    // Bounded by the answer's length, or by its deadline.
    loop {
        let interrupted = async {
            interrupt.wait().await;
            Happened::Interrupted
        };
        let event = async { stream.next().await.map_or(Happened::Ended, Happened::Event) };
        match or(interrupted, event).await {
            Happened::Event(event) => exit = screen.show(&event?)?,
            Happened::Ended => return Ok(exit),
            Happened::Interrupted => {
                drop(stream); // Tells the daemon to cancel.
                screen.show_cancelled()?;
                return Ok(Exit::Interrupted);
            }
        }
    }
}

enum Happened {
    Event(Result<StreamEvent, IpcError>),
    Ended,
    Interrupted,
}

impl Arguments {
    fn request(&self, default_model: &str) -> Result<AIRequest, Failure> {
        let prompt = self.prompt()?;
        if prompt.trim().is_empty() {
            return Err(Failure::new(Exit::Usage, "the prompt is empty")
                .advise("write it after annulus chat, or pipe it in"));
        }
        let model = self.model.as_deref().unwrap_or(default_model);
        let mut request = AIRequest::new(model, vec![Message::new(MessageRole::User, prompt)]);
        request.system_prompt.clone_from(&self.system);
        request.max_tokens = self.max_tokens;
        request.temperature = self.temperature;
        request.validate().map_err(|invalid| Failure::new(Exit::Usage, invalid.to_string()))?;
        Ok(request)
    }

    fn prompt(&self) -> Result<String, Failure> {
        if self.prompt.is_empty() {
            return read_stdin();
        }
        let mut words = Vec::with_capacity(self.prompt.len());
        let mut was_read = false;
        for word in &self.prompt {
            if word == STDIN && !was_read {
                was_read = true;
                words.push(read_stdin()?);
            } else {
                words.push(word.clone());
            }
        }
        Ok(words.join(" "))
    }
}

fn read_stdin() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        // Somebody who sees nothing happen would think that it hangs.
        eprintln!("Type the prompt, then Ctrl-D:");
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(Failure::io("read the prompt from", "standard input"))?;
    Ok(text)
}

/// The answer as the user sees it.
struct Screen<'s> {
    session: &'s Session,
    /// Whether the text so far ends with a newline, or there is none.
    at_line_start: bool,
}

impl Screen<'_> {
    /// Shows one event; returns how the program ends if it is the last.
    fn show(&mut self, event: &StreamEvent) -> Result<Exit, Failure> {
        if self.session.output.json {
            self.session.output.object(SCHEMA, event)?;
        }
        match event {
            StreamEvent::Text { text } => self.text(text)?,
            StreamEvent::Reasoning { text } => {
                if self.session.verbosity() > 0 {
                    let dim = self.session.output.paint.dim(text);
                    self.text(&dim)?;
                }
            }
            StreamEvent::ToolCall { tool_call } => {
                self.end_line()?;
                let parameters = &tool_call.parameters.0;
                self.text(&format!("[{} wants {parameters}]\n", tool_call.name))?;
            }
            StreamEvent::End { finish_reason, usage, model } => {
                self.end_line()?;
                if self.session.verbosity() > 0 {
                    let (input, output) = (usage.input_tokens, usage.output_tokens);
                    self.note(&format!("{model}: {input} tokens in, {output} out"));
                }
                return Ok(self.judge(*finish_reason));
            }
        }
        Ok(Exit::Ok)
    }

    /// Says what the text alone does not: that it is not all there is.
    fn judge(&self, finish_reason: FinishReason) -> Exit {
        let (remark, exit) = match finish_reason {
            FinishReason::Stop | FinishReason::ToolCalls => return Exit::Ok,
            FinishReason::Length => ("cut off at the longest answer allowed", Exit::Ok),
            FinishReason::ContentFilter => ("the provider withheld the rest", Exit::Ok),
            FinishReason::Error => ("the provider failed half-way", Exit::Failed),
            FinishReason::Cancelled => ("the daemon cancelled it", Exit::Failed),
        };
        self.note(&format!("annulus: {remark}"));
        exit
    }

    fn show_cancelled(&mut self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Body {
            #[serde(rename = "type")]
            kind: &'static str,
        }
        if self.session.output.json {
            return self.session.output.object(SCHEMA, Body { kind: "cancelled" });
        }
        self.end_line()?;
        self.note("annulus: cancelled");
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.session.output.json || text.is_empty() {
            return Ok(());
        }
        self.at_line_start = text.ends_with('\n');
        self.session.output.raw(text.as_bytes())
    }

    /// The shell's next prompt, and errors, start on a line of their own.
    fn end_line(&mut self) -> Result<(), Failure> {
        if self.at_line_start { Ok(()) } else { self.text("\n") }
    }

    fn note(&self, text: &str) {
        if !self.session.output.json {
            self.session.output.note(&self.session.output.paint_stderr.dim(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(prompt: &[&str]) -> Arguments {
        Arguments {
            prompt: prompt.iter().map(|&word| word.to_owned()).collect(),
            model: None,
            system: Some("be brief".to_owned()),
            max_tokens: Some(7),
            temperature: None,
            timeout: None,
        }
    }

    #[test]
    fn words_make_a_request_for_the_default_model() {
        let request = arguments(&["why", "not?"]).request("loopback").unwrap();
        assert_eq!(request.messages, [Message::new(MessageRole::User, "why not?")]);
        assert_eq!((request.model.as_str(), request.max_tokens), ("loopback", Some(7)));
        assert_eq!(request.system_prompt.as_deref(), Some("be brief"));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_sent() {
        assert_eq!(arguments(&[" "]).request("m").unwrap_err().exit(), Exit::Usage);
        let mut hot = arguments(&["x"]);
        hot.temperature = Some(3.0);
        assert_eq!(hot.request("m").unwrap_err().exit(), Exit::Usage);
        hot.temperature = Some(f64::NAN);
        assert_eq!(hot.request("m").unwrap_err().exit(), Exit::Usage);
    }
}
