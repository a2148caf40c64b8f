//! What the tests of providers share: upstreams faked in this process, a daemon that has them in its
//! configuration, and what an answer looked like to its client.
//!
//! A model's name says what the upstream does: `fake-tools_split-1` is a script of
//! [`fake_upstream::Step`].
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use annulus::client::Client;
use annulus::protocol::{
    AIRequest, Completion, FinishReason, Message, MessageRole, StreamEvent, ToolCall, Usage,
};
use annulus::{IpcError, MessageType};
use fake_upstream::{Options, Step, Upstream};

use crate::common::{Daemon, PATIENCE};

/// The key that every upstream wants, in [`KEY_VARIABLE`] of the daemon's environment.
pub(crate) const KEY: &str = "sk-right-0123456789-abcdefghij";
pub(crate) const KEY_VARIABLE: &str = "UPSTREAM_KEY";

/// A kind of provider for each dialect, and the path below which its upstream answers.
pub(crate) const KINDS: &[(&str, &str)] = &[
    ("openai", "/v1"),
    ("anthropic", "/v1"),
    ("gemini", "/v1beta"),
    ("ollama", ""),
    #[cfg(feature = "bedrock")]
    ("bedrock", ""),
    ("cohere", ""),
];

/// An upstream that wants [`KEY`].
pub(crate) fn upstream() -> Upstream {
    upstream_with(|_| {})
}

pub(crate) fn upstream_with(change: impl FnOnce(&mut Options)) -> Upstream {
    let mut options = Options { key: Some(KEY.to_owned()), ..Options::default() };
    change(&mut options);
    Upstream::start(options).unwrap()
}

/// The lines of a provider of this kind at `url`; `more` are further lines of its section.
pub(crate) fn provider(name: &str, kind: &str, url: &str, more: &str) -> String {
    let (_, path) = KINDS.iter().find(|(own, _)| *own == kind).unwrap();
    let region = if kind == "bedrock" { "region = \"eu-west-1\"\n" } else { "" };
    let keys = if more.contains("keys = ") {
        String::new()
    } else {
        format!("keys = [\"env:{KEY_VARIABLE}\"]\n")
    };
    format!(
        "[providers.{name}]\nkind = \"{kind}\"\nbase_urls = [\"{url}{path}\"]\n{keys}{region}{more}\n"
    )
}

/// A daemon with this configuration, in which the first provider is the default.
pub(crate) fn daemon(config: &str) -> Daemon {
    daemon_with(config, |_, _| {})
}

/// [`daemon`] with a change to its command before it is run; also given is its home.
pub(crate) fn daemon_with(config: &str, change: impl FnOnce(&mut Command, &Path)) -> Daemon {
    let (_, rest) = config.split_once("[providers.").unwrap();
    let (first, _) = rest.split_once(']').unwrap();
    let setting = format!("default_provider={first}");
    Daemon::start_changed(&[&setting], |command, home| {
        let file = home.join("config.toml");
        fs::write(&file, config).unwrap();
        command.arg("--config").arg(file).env(KEY_VARIABLE, KEY);
        change(command, home);
    })
}

pub(crate) fn client(daemon: &Daemon) -> Client {
    Client::connect(&daemon.options()).unwrap()
}

/// A short question to this model.
pub(crate) fn ask(model: &str) -> AIRequest {
    AIRequest::new(model, vec![Message::new(MessageRole::User, "What is an annulus?")])
}

/// What a client got of an answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<ToolCall>,
    /// Pieces of text and reasoning.
    pub(crate) pieces: usize,
    pub(crate) end: Option<(FinishReason, Usage, String)>,
    pub(crate) error: Option<IpcError>,
}

impl Answer {
    /// Fails unless it is a whole answer with this text.
    #[track_caller]
    pub(crate) fn assert_whole(&self, text: &str) {
        assert!(self.error.is_none() && self.end.is_some(), "{self:?}");
        assert_eq!(self.text, text);
    }

    /// The error's text, of an answer that ended with one.
    #[track_caller]
    pub(crate) fn failure(&self) -> String {
        assert!(self.end.is_none(), "{self:?}");
        self.error.as_ref().unwrap_or_else(|| panic!("{self:?}")).to_string()
    }
}

/// Streams an answer to its end.
pub(crate) fn stream(client: &Client, request: &AIRequest) -> Answer {
    let mut answer = Answer::default();
    for event in client.stream_completion(request).unwrap() {
        assert!(answer.end.is_none() && answer.error.is_none(), "behind the end: {event:?}");
        match event {
            Ok(StreamEvent::Text { text }) => {
                answer.pieces += 1;
                answer.text.push_str(&text);
            }
            Ok(StreamEvent::Reasoning { text }) => {
                answer.pieces += 1;
                answer.reasoning.push_str(&text);
            }
            Ok(StreamEvent::ToolCall { tool_call }) => answer.calls.push(tool_call),
            Ok(StreamEvent::End { finish_reason, usage, model }) => {
                answer.end = Some((finish_reason, usage, model));
            }
            Err(error) => answer.error = Some(error),
        }
    }
    answer
}

/// A whole answer, as if it had been streamed.
pub(crate) fn complete(client: &Client, request: &AIRequest) -> Answer {
    match client.complete(request) {
        Ok(Completion { content, reasoning, tool_calls, finish_reason, usage, model }) => Answer {
            text: content,
            reasoning: reasoning.unwrap_or_default(),
            calls: tool_calls.unwrap_or_default(),
            pieces: 0,
            end: Some((finish_reason, usage, model)),
            error: None,
        },
        Err(error) => Answer { error: Some(error), ..Answer::default() },
    }
}

/// The text that a script of the upstream's says.
pub(crate) fn text_of(chunks: usize) -> String {
    const WORDS: [&str; 5] = ["plain ", "naïve ", "“quoted” ", "日本 ", "🦀 "];
    (0..chunks).map(|index| WORDS[index % WORDS.len()]).collect()
}

/// The value of one row of the daemon's metrics page.
pub(crate) fn metric(client: &Client, row: &str) -> u64 {
    let page = String::from_utf8(client.call(MessageType::METRICS, b"").unwrap()).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no row {row} in\n{page}")).parse().unwrap()
}

/// Waits until something has happened at the upstream.
#[track_caller]
pub(crate) fn wait_at(
    upstream: &Upstream,
    what: &str,
    holds: impl Fn(&fake_upstream::Log) -> bool,
) {
    let limit: Duration = PATIENCE;
    assert!(upstream.wait_for(limit, holds), "waited in vain for {what}: {}", state(upstream));
}

fn state(upstream: &Upstream) -> String {
    upstream.log(|log| {
        format!(
            "{} of {} requests and {} of {} connections open",
            log.requests_open, log.requests_count, log.connections_open, log.connections_count
        )
    })
}

/// A step of a script.
pub(crate) fn step(text: &str) -> Step {
    text.parse().unwrap()
}
