//! A client of the tests' own, as small as it can be: it shares nothing with the server, so that a
//! mistake is not made twice.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fake_upstream::{Dialect, Options, Upstream};
use serde_json::{Value, json};

/// What came back, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Without the framing of chunks.
    pub(crate) body: Vec<u8>,
    /// Whether HTTP says that the body is whole.
    pub(crate) whole: bool,
    /// Whether the connection was reset.
    pub(crate) reset: bool,
    /// How many chunks it had.
    pub(crate) chunks: usize,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(start.as_str()))
    }
}

pub(crate) fn start() -> Upstream {
    Upstream::start(Options::default()).unwrap()
}

pub(crate) fn request(dialect: Dialect, model: &str) -> String {
    let body = json!({"model": model, "messages": [], "stream": true}).to_string();
    format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret-1\r\ncontent-length: {}\r\n\r\n{body}",
        dialect.path(model),
        body.len()
    )
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

pub(crate) fn ask(upstream: &Upstream, dialect: Dialect, model: &str) -> Reply {
    let mut stream = connect(upstream.address());
    stream.write_all(request(dialect, model).as_bytes()).unwrap();
    read_reply(&mut stream)
}

/// Reads one answer, or what there is of it.
pub(crate) fn read_reply(stream: &mut impl Read) -> Reply {
    let (mut input, mut reply) = (Vec::new(), Reply::default());
    let mut buffer = [0; 16 << 10];
    loop {
        if parse(&input, &mut reply) {
            return reply;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return reply,
            Ok(size) => input.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                reply.reset = true;
                return reply;
            }
            // A process that was stopped and goes on, with a time limit on its socket (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// True when the answer is whole.
fn parse(input: &[u8], reply: &mut Reply) -> bool {
    let Some(end) = find(input, b"\r\n\r\n") else { return false };
    reply.head = String::from_utf8_lossy(&input[..end]).into_owned();
    reply.status = reply.head[9..12].parse().unwrap();
    let mut rest = &input[end + 4..];
    if let Some(length) = reply.header("content-length") {
        let length: usize = length.parse().unwrap();
        reply.body = rest[..rest.len().min(length)].to_vec();
        reply.whole = rest.len() >= length;
        return reply.whole;
    }
    (reply.body, reply.chunks) = (Vec::new(), 0);
    while let Some(line) = find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = rest.get(line + 2..line + 2 + size + 2) else { return false };
        assert_eq!(&chunk[size..], b"\r\n");
        if size == 0 {
            reply.whole = true;
            return true;
        }
        reply.body.extend_from_slice(&chunk[..size]);
        reply.chunks += 1;
        rest = &rest[line + 2 + size + 2..];
    }
    false
}

fn find(input: &[u8], needle: &[u8]) -> Option<usize> {
    input.windows(needle.len()).position(|window| window == needle)
}

/// What an answer says, by a decoder that knows the documents and nothing of the server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    /// Name and arguments.
    pub(crate) calls: Vec<(String, Value)>,
    pub(crate) usage: Option<(u64, u64)>,
    /// As the dialect names it.
    pub(crate) finish: String,
    /// The dialect's proof that it is whole.
    pub(crate) proven: bool,
    pub(crate) errors: usize,
}

pub(crate) fn said(dialect: Dialect, body: &[u8]) -> Said {
    let mut said = Said::default();
    let mut fragments: Vec<(String, String)> = Vec::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let count = |value: &Value| value.as_u64();
    for (name, event) in events(dialect, body) {
        let Some(event) = event else {
            said.proven |= dialect == Dialect::OpenAi;
            continue;
        };
        match dialect {
            Dialect::OpenAi => {
                said.errors += usize::from(event.get("error").is_some());
                let choice = &event["choices"][0];
                said.text += &text(&choice["delta"]["content"]);
                said.reasoning += &text(&choice["delta"]["reasoning_content"]);
                for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                    if call.get("id").is_some() {
                        fragments.push((text(&call["function"]["name"]), String::new()));
                    }
                    let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                    fragments[index].1 += &text(&call["function"]["arguments"]);
                }
                said.finish += &text(&choice["finish_reason"]);
                let usage = &event["usage"];
                said.usage = said.usage.or_else(|| {
                    Some((count(&usage["prompt_tokens"])?, count(&usage["completion_tokens"])?))
                });
            }
            Dialect::Anthropic => {
                assert_eq!(name, text(&event["type"]));
                let delta = &event["delta"];
                match name.as_str() {
                    "message_start" => {
                        said.usage =
                            Some((count(&event["message"]["usage"]["input_tokens"]).unwrap(), 0));
                    }
                    "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                        fragments.push((text(&event["content_block"]["name"]), String::new()));
                    }
                    "content_block_delta" => {
                        said.text += &text(&delta["text"]);
                        said.reasoning += &text(&delta["thinking"]);
                        if let Some(part) = delta["partial_json"].as_str() {
                            fragments.last_mut().unwrap().1 += part;
                        }
                    }
                    "message_delta" => {
                        said.finish = text(&delta["stop_reason"]);
                        said.usage.as_mut().unwrap().1 =
                            count(&event["usage"]["output_tokens"]).unwrap();
                    }
                    "message_stop" => said.proven = true,
                    "error" => said.errors += 1,
                    _ => {}
                }
            }
            Dialect::Gemini => {
                said.errors += usize::from(event.get("error").is_some());
                let candidate = &event["candidates"][0];
                for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
                    let is_thought = part["thought"] == true;
                    let target = if is_thought { &mut said.reasoning } else { &mut said.text };
                    *target += &text(&part["text"]);
                    if let Some(call) = part.get("functionCall") {
                        said.calls.push((text(&call["name"]), call["args"].clone()));
                    }
                }
                said.finish += &text(&candidate["finishReason"]);
                let usage = &event["usageMetadata"];
                let counted = count(&usage["promptTokenCount"]);
                said.usage = counted.zip(count(&usage["candidatesTokenCount"])).or(said.usage);
                said.proven |= candidate.get("finishReason").is_some();
            }
            Dialect::Ollama => {
                said.errors += usize::from(event.get("error").is_some());
                let message = &event["message"];
                said.text += &text(&message["content"]);
                said.reasoning += &text(&message["thinking"]);
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let call = &call["function"];
                    said.calls.push((text(&call["name"]), call["arguments"].clone()));
                }
                said.finish += &text(&event["done_reason"]);
                said.usage = count(&event["prompt_eval_count"]).zip(count(&event["eval_count"]));
                said.proven |= event["done"] == true;
            }
            Dialect::Bedrock => {
                let delta = &event["delta"];
                if name.ends_with("Exception") {
                    said.errors += 1;
                }
                said.text += &text(&delta["text"]);
                said.reasoning += &text(&delta["reasoningContent"]["text"]);
                if let Some(call) = event["start"].get("toolUse") {
                    fragments.push((text(&call["name"]), String::new()));
                }
                if let Some(part) = delta["toolUse"]["input"].as_str() {
                    fragments.last_mut().unwrap().1 += part;
                }
                said.finish += &text(&event["stopReason"]);
                said.proven |= name == "messageStop";
                let usage = &event["usage"];
                let counted = count(&usage["inputTokens"]);
                said.usage = counted.zip(count(&usage["outputTokens"])).or(said.usage);
            }
            Dialect::Cohere => {
                assert_eq!(name, text(&event["type"]));
                let (delta, message) = (&event["delta"], &event["delta"]["message"]);
                said.text += &text(&message["content"]["text"]);
                said.reasoning += &text(&message["content"]["thinking"]);
                let call = &message["tool_calls"]["function"];
                if name == "tool-call-start" {
                    fragments.push((text(&call["name"]), String::new()));
                }
                if name.starts_with("tool-call-") && name != "tool-call-end" {
                    fragments.last_mut().unwrap().1 += &text(&call["arguments"]);
                }
                said.finish += &text(&delta["finish_reason"]);
                said.errors += usize::from(delta.get("error").is_some());
                said.proven |= name == "message-end";
                let usage = &delta["usage"]["tokens"];
                let counted = count(&usage["input_tokens"]);
                said.usage = counted.zip(count(&usage["output_tokens"])).or(said.usage);
            }
        }
    }
    for (name, arguments) in fragments {
        said.calls.push((name, serde_json::from_str(&arguments).unwrap()));
    }
    said
}

/// Names and contents; a content of `None` is `[DONE]`.
fn events(dialect: Dialect, body: &[u8]) -> Vec<(String, Option<Value>)> {
    if dialect == Dialect::Bedrock {
        return frames(body);
    }
    let text = std::str::from_utf8(body).unwrap();
    if dialect == Dialect::Ollama {
        let lines = text.lines().filter(|line| !line.is_empty());
        return lines.map(|line| (String::new(), Some(line.parse().unwrap()))).collect();
    }
    let text = text.trim_start_matches('\u{FEFF}').replace("\r\n", "\n").replace('\r', "\n");
    assert!(text.is_empty() || text.ends_with("\n\n"), "an event is cut");
    let (mut found, mut name) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("event: ") {
            name = value.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let value = (data != "[DONE]").then(|| data.parse().unwrap());
            found.push((std::mem::take(&mut name), value));
        } else {
            assert!(line.is_empty() || line.starts_with(':'), "{line:?}");
        }
    }
    found
}

fn frames(mut body: &[u8]) -> Vec<(String, Option<Value>)> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let number = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        let (total, headers) = (number(0) as usize, number(4) as usize);
        assert_eq!(crc32fast::hash(&body[..8]), number(8), "checksum of the prelude");
        assert_eq!(crc32fast::hash(&body[..total - 4]), number(total - 4), "checksum of the frame");
        let (mut block, mut name) = (&body[12..12 + headers], String::new());
        while !block.is_empty() {
            let key_size = block[0] as usize;
            let key = std::str::from_utf8(&block[1..=key_size]).unwrap();
            assert_eq!(block[1 + key_size], 7, "a string");
            let value = &block[2 + key_size..];
            let size = usize::from(u16::from_be_bytes([value[0], value[1]]));
            let text = std::str::from_utf8(&value[2..2 + size]).unwrap();
            if key == ":event-type" || key == ":exception-type" {
                name = text.to_owned();
            }
            block = &value[2 + size..];
        }
        let payload = &body[12 + headers..total - 4];
        found.push((name, Some(serde_json::from_slice(payload).unwrap())));
        body = &body[total..];
    }
    found
}
