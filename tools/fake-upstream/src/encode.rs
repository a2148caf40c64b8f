//! An answer in the words of each dialect, as events in their framing.

use serde_json::{Value, json};

use crate::clock::{BLANK_STAMP, write_stamp};
use crate::dialect::Dialect;
use crate::script::{Finish, Piece, Step, Usage};

/// One event, framed.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) bytes: Vec<u8>,
    /// Where its stamp is, and whether a checksum has to follow it.
    pub(crate) stamp: Option<Stamp>,
}

/// A stamp to be written when the event is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) at: usize,
    is_frame: bool,
}

impl Stamp {
    /// Writes it into the event's bytes.
    pub(crate) fn write(self, bytes: &mut [u8]) {
        write_stamp(&mut bytes[self.at..]);
        if self.is_frame {
            seal(bytes);
        }
    }
}

impl Event {
    /// Makes the checksum of a frame right again.
    pub(crate) fn seal(&mut self) {
        seal(&mut self.bytes);
    }

    /// Makes every line end so; for dialects whose framing is lines.
    pub(crate) fn end_lines_with(&mut self, line_end: &str) {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 4);
        for byte in self.bytes.iter().filter(|byte| **byte != b'\r') {
            match byte {
                b'\n' => bytes.extend_from_slice(line_end.as_bytes()),
                _ => bytes.push(*byte),
            }
        }
        self.bytes = bytes;
        self.stamp = stamp_in(&self.bytes, false);
    }
}

fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_be_bytes());
}

fn stamp_in(bytes: &[u8], is_frame: bool) -> Option<Stamp> {
    let blank = BLANK_STAMP.as_bytes();
    let found = bytes.windows(blank.len()).position(|window| window == blank);
    found.map(|at| Stamp { at, is_frame })
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// Before any output.
    pub(crate) preamble: Vec<Event>,
    /// What the model says; one group for each piece.
    pub(crate) output: Vec<Vec<Event>>,
    /// After it, without the marker.
    pub(crate) tail: Vec<Event>,
    /// The proof that the answer is whole.
    pub(crate) marker: Vec<Event>,
}

/// One event of this dialect with this content. The name is for those that have names.
pub(crate) fn event(dialect: Dialect, name: &str, value: &Value) -> Event {
    frame(dialect, name, value.to_string().as_bytes())
}

/// One event with these bytes in place of JSON.
pub(crate) fn frame(dialect: Dialect, name: &str, payload: &[u8]) -> Event {
    let mut bytes = Vec::with_capacity(payload.len() + 128);
    match dialect {
        Dialect::OpenAi => push(&mut bytes, &[b"data: ", payload, b"\n\n"]),
        Dialect::Gemini => push(&mut bytes, &[b"data: ", payload, b"\r\n\r\n"]),
        Dialect::Anthropic | Dialect::Cohere => {
            push(&mut bytes, &[b"event: ", name.as_bytes(), b"\ndata: ", payload, b"\n\n"]);
        }
        Dialect::Ollama => push(&mut bytes, &[payload, b"\n"]),
        Dialect::Bedrock => {
            let headers: &[(&str, &str)] = match name.strip_suffix("Exception") {
                Some(_) => &[(":exception-type", name), (":message-type", "exception")],
                None => &[(":event-type", name), (":message-type", "event")],
            };
            amazon_frame(&mut bytes, headers, payload);
        }
    }
    let stamp = stamp_in(&bytes, dialect == Dialect::Bedrock);
    Event { bytes, stamp }
}

fn push(target: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| target.extend_from_slice(part));
}

/// A message of the AWS event stream: lengths, checksum, headers, payload, checksum.
fn amazon_frame(target: &mut Vec<u8>, headers: &[(&str, &str)], payload: &[u8]) {
    let mut block = Vec::new();
    for (name, value) in headers.iter().chain(&[(":content-type", "application/json")]) {
        // Note: cannot overflow: names and values are our own, and short.
        push(&mut block, &[&[name.len() as u8], name.as_bytes(), &[7]]);
        push(&mut block, &[&(value.len() as u16).to_be_bytes(), value.as_bytes()]);
    }
    let total = 12 + block.len() + payload.len() + 4;
    push(target, &[&(total as u32).to_be_bytes(), &(block.len() as u32).to_be_bytes()]);
    let checksum = crc32fast::hash(target);
    push(target, &[&checksum.to_be_bytes(), &block, payload]);
    let checksum = crc32fast::hash(target);
    push(target, &[&checksum.to_be_bytes()]);
}

/// What a step says, in this dialect.
pub(crate) fn encode(dialect: Dialect, model: &str, step: &Step) -> Encoded {
    let writer = Writer { dialect, model, step };
    let pieces = step.says();
    let called = pieces.iter().any(|piece| matches!(piece, Piece::Tool { .. }));
    let mut encoded = match dialect {
        Dialect::OpenAi => writer.openai(&pieces, called),
        Dialect::Anthropic => writer.anthropic(&pieces, called),
        Dialect::Gemini => writer.gemini(&pieces),
        Dialect::Ollama => writer.ollama(&pieces),
        Dialect::Bedrock => writer.bedrock(&pieces, called),
        Dialect::Cohere => writer.cohere(&pieces, called),
    };
    // An answer without output ends all the same.
    encoded.output.retain(|group| !group.is_empty());
    encoded
}

/// A tool call's arguments in two fragments, cut inside of the text.
fn halves(arguments: &str) -> [&str; 2] {
    let (start, end) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
    [start, end]
}

fn object(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

struct Writer<'a> {
    dialect: Dialect,
    model: &'a str,
    step: &'a Step,
}

impl Writer<'_> {
    fn event(&self, name: &str, value: &Value) -> Event {
        event(self.dialect, name, value)
    }

    /// The usage, and zero for the parts that must be there anyway.
    fn counted(&self) -> Usage {
        self.step.usage.unwrap_or(Usage { input: 0, output: 0 })
    }

    /// The stop reason: after calls, at the longest answer, else.
    fn reason<'r>(&self, called: bool, calls: &'r str, length: &'r str, stop: &'r str) -> &'r str {
        match (self.step.finish, called) {
            (Finish::Length, _) => length,
            (Finish::Stop, true) => calls,
            (Finish::Stop, false) => stop,
        }
    }

    fn openai(&self, pieces: &[Piece], called: bool) -> Encoded {
        let chunk = |delta: Value, finish: Option<&str>| {
            let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
            let value = json!({
                "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_700_000_000,
                "model": self.model, "choices": choices,
            });
            self.event("", &value)
        };
        let (mut output, mut calls) = (Vec::new(), 0);
        for piece in pieces {
            output.push(match piece {
                Piece::Text(text) => vec![chunk(json!({"content": text}), None)],
                Piece::Reasoning(text) => vec![chunk(json!({"reasoning_content": text}), None)],
                Piece::Tool { id, name, arguments } => {
                    let index = calls;
                    calls += 1;
                    let head = json!({"index": index, "id": id, "type": "function",
                        "function": {"name": name, "arguments": ""}});
                    let mut group = vec![chunk(json!({"tool_calls": [head]}), None)];
                    for part in halves(arguments) {
                        let call = json!({"index": index, "function": {"arguments": part}});
                        group.push(chunk(json!({"tool_calls": [call]}), None));
                    }
                    group
                }
            });
        }
        let mut tail =
            vec![chunk(json!({}), Some(self.reason(called, "tool_calls", "length", "stop")))];
        if let Some(Usage { input, output }) = self.step.usage {
            tail.push(self.event("", &json!({
                "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_700_000_000,
                "model": self.model, "choices": [], "usage": {"prompt_tokens": input,
                "completion_tokens": output, "total_tokens": input + output},
            })));
        }
        Encoded {
            preamble: vec![chunk(json!({"role": "assistant", "content": ""}), None)],
            output,
            tail,
            marker: vec![frame(self.dialect, "", b"[DONE]")],
        }
    }

    fn anthropic(&self, pieces: &[Piece], called: bool) -> Encoded {
        let typed = |value: Value| {
            let name = value["type"].as_str().unwrap_or_default().to_owned();
            self.event(&name, &value)
        };
        let Usage { input, output: counted } = self.counted();
        let preamble = vec![
            typed(json!({"type": "message_start", "message": {"id": "msg_fake", "type": "message",
                "role": "assistant", "model": self.model, "content": [], "stop_reason": null,
                "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": 1}}})),
            typed(json!({"type": "ping"})),
        ];
        let (mut output, mut block, mut open): (Vec<Vec<Event>>, i32, &str) = (Vec::new(), -1, "");
        for piece in pieces {
            let (kind, start, deltas) = match piece {
                Piece::Text(text) => (
                    "text",
                    json!({"type": "text", "text": ""}),
                    vec![json!({"type": "text_delta", "text": text})],
                ),
                Piece::Reasoning(text) => (
                    "thinking",
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    vec![json!({"type": "thinking_delta", "thinking": text})],
                ),
                Piece::Tool { id, name, arguments } => (
                    "tool_use",
                    json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    halves(arguments)
                        .map(|part| json!({"type": "input_json_delta", "partial_json": part}))
                        .to_vec(),
                ),
            };
            let mut group = Vec::new();
            if kind != open || kind == "tool_use" {
                if block >= 0 {
                    group.push(typed(json!({"type": "content_block_stop", "index": block})));
                }
                block += 1;
                open = kind;
                group.push(typed(json!({"type": "content_block_start", "index": block,
                    "content_block": start})));
            }
            for delta in deltas {
                let value = json!({"type": "content_block_delta", "index": block, "delta": delta});
                group.push(typed(value));
            }
            output.push(group);
        }
        let mut tail = Vec::new();
        if block >= 0 {
            tail.push(typed(json!({"type": "content_block_stop", "index": block})));
        }
        let reason = self.reason(called, "tool_use", "max_tokens", "end_turn");
        tail.push(typed(json!({"type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null},
            "usage": {"output_tokens": counted}})));
        Encoded { preamble, output, tail, marker: vec![typed(json!({"type": "message_stop"}))] }
    }

    fn gemini(&self, pieces: &[Piece]) -> Encoded {
        let usage = self.step.usage.map(|Usage { input, output }| {
            json!({"promptTokenCount": input, "candidatesTokenCount": output,
                "totalTokenCount": input + output})
        });
        let chunk = |parts: Value, finish: Option<&str>| {
            let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
            if let Some(finish) = finish {
                candidate["finishReason"] = json!(finish);
            }
            let mut value = json!({"candidates": [candidate], "modelVersion": self.model,
                "responseId": "fake"});
            if let Some(usage) = &usage {
                value["usageMetadata"] = usage.clone();
            }
            self.event("", &value)
        };
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => json!([{"text": text}]),
            Piece::Reasoning(text) => json!([{"text": text, "thought": true}]),
            Piece::Tool { name, arguments, .. } => {
                json!([{"functionCall": {"name": name, "args": object(arguments)},
                    "thoughtSignature": "ZmFrZQ=="}])
            }
        };
        let output = pieces.iter().map(|piece| vec![chunk(part(piece), None)]).collect();
        let reason = self.reason(false, "", "MAX_TOKENS", "STOP");
        Encoded { output, marker: vec![chunk(json!([]), Some(reason))], ..Encoded::default() }
    }

    fn ollama(&self, pieces: &[Piece]) -> Encoded {
        let line = |message: Value| {
            self.event(
                "",
                &json!({"model": self.model, "created_at": "2026-11-26T01:02:03.000004Z",
                "message": message, "done": false}),
            )
        };
        let message = |piece: &Piece| match piece {
            Piece::Text(text) => json!({"role": "assistant", "content": text}),
            Piece::Reasoning(text) => json!({"role": "assistant", "content": "", "thinking": text}),
            Piece::Tool { name, arguments, .. } => {
                let call = json!({"function": {"name": name, "arguments": object(arguments)}});
                json!({"role": "assistant", "content": "", "tool_calls": [call]})
            }
        };
        let output = pieces.iter().map(|piece| vec![line(message(piece))]).collect();
        let mut end = json!({"model": self.model, "created_at": "2026-11-26T01:02:03.000005Z",
            "message": {"role": "assistant", "content": ""}, "done": true,
            "done_reason": self.reason(false, "", "length", "stop"), "total_duration": 1_000_000});
        if let Some(usage) = self.step.usage {
            end["prompt_eval_count"] = json!(usage.input);
            end["eval_count"] = json!(usage.output);
        }
        Encoded { output, marker: vec![self.event("", &end)], ..Encoded::default() }
    }

    fn bedrock(&self, pieces: &[Piece], called: bool) -> Encoded {
        let delta = |block: i32, delta: Value| {
            let value = json!({"contentBlockIndex": block, "delta": delta, "p": "abcd"});
            self.event("contentBlockDelta", &value)
        };
        let stop = |block: i32| {
            self.event("contentBlockStop", &json!({"contentBlockIndex": block, "p": "abcdef"}))
        };
        let (mut output, mut block, mut open): (Vec<Vec<Event>>, i32, &str) = (Vec::new(), -1, "");
        for piece in pieces {
            let kind = match piece {
                Piece::Text(_) => "text",
                Piece::Reasoning(_) => "reasoning",
                Piece::Tool { .. } => "tool",
            };
            let mut group = Vec::new();
            if kind != open || kind == "tool" {
                if block >= 0 {
                    group.push(stop(block));
                }
                block += 1;
                open = kind;
            }
            match piece {
                Piece::Text(text) => group.push(delta(block, json!({"text": text}))),
                Piece::Reasoning(text) => {
                    group.push(delta(block, json!({"reasoningContent": {"text": text}})));
                }
                Piece::Tool { id, name, arguments } => {
                    let start = json!({"toolUse": {"toolUseId": id, "name": name}});
                    let value = json!({"contentBlockIndex": block, "start": start, "p": "ab"});
                    group.push(self.event("contentBlockStart", &value));
                    for part in halves(arguments) {
                        group.push(delta(block, json!({"toolUse": {"input": part}})));
                    }
                }
            }
            output.push(group);
        }
        let reason = self.reason(called, "tool_use", "max_tokens", "end_turn");
        let mut marker =
            vec![self.event("messageStop", &json!({"stopReason": reason, "p": "abc"}))];
        if let Some(Usage { input, output }) = self.step.usage {
            marker.push(self.event(
                "metadata",
                &json!({"metrics": {"latencyMs": 5}, "p": "ab",
                "usage": {"inputTokens": input, "outputTokens": output,
                "totalTokens": input + output}}),
            ));
        }
        Encoded {
            preamble: vec![self.event("messageStart", &json!({"role": "assistant", "p": "abcde"}))],
            output,
            tail: (block >= 0).then(|| stop(block)).into_iter().collect(),
            marker,
        }
    }

    fn cohere(&self, pieces: &[Piece], called: bool) -> Encoded {
        let typed = |name: &str, mut value: Value| {
            value["type"] = json!(name);
            self.event(name, &value)
        };
        let message = |message: Value| json!({"message": message});
        let end = |kind: &str, index: i32| match kind {
            "tool" => typed("tool-call-end", json!({"index": index})),
            _ => typed("content-end", json!({"index": index})),
        };
        let (mut output, mut index, mut open): (Vec<Vec<Event>>, i32, &str) = (Vec::new(), -1, "");
        for piece in pieces {
            let kind = match piece {
                Piece::Text(_) => "text",
                Piece::Reasoning(_) => "thinking",
                Piece::Tool { .. } => "tool",
            };
            let mut group = Vec::new();
            let is_new = kind != open || kind == "tool";
            if is_new {
                if index >= 0 {
                    group.push(end(open, index));
                }
                index += 1;
                open = kind;
            }
            match piece {
                Piece::Text(text) | Piece::Reasoning(text) => {
                    if is_new {
                        let content = json!({"type": kind, kind: ""});
                        let delta = message(json!({"content": content}));
                        let value = json!({"index": index, "delta": delta});
                        group.push(typed("content-start", value));
                    }
                    let delta = message(json!({"content": {kind: text}}));
                    group.push(typed("content-delta", json!({"index": index, "delta": delta})));
                }
                Piece::Tool { id, name, arguments } => {
                    let call = json!({"id": id, "type": "function",
                        "function": {"name": name, "arguments": ""}});
                    let delta = message(json!({"tool_calls": call}));
                    group.push(typed("tool-call-start", json!({"index": index, "delta": delta})));
                    for part in halves(arguments) {
                        let call = json!({"function": {"arguments": part}});
                        let delta = message(json!({"tool_calls": call}));
                        let value = json!({"index": index, "delta": delta});
                        group.push(typed("tool-call-delta", value));
                    }
                }
            }
            output.push(group);
        }
        let reason = self.reason(called, "TOOL_CALL", "MAX_TOKENS", "COMPLETE");
        let mut delta = json!({"finish_reason": reason});
        if let Some(Usage { input, output }) = self.step.usage {
            let counted = json!({"input_tokens": input, "output_tokens": output});
            delta["usage"] = json!({"billed_units": counted, "tokens": counted});
        }
        let content =
            json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []});
        Encoded {
            preamble: vec![typed(
                "message-start",
                json!({"id": "fake", "delta": message(content)}),
            )],
            output,
            tail: (index >= 0).then(|| end(open, index)).into_iter().collect(),
            marker: vec![typed("message-end", json!({"delta": delta}))],
        }
    }
}
