//! What is sent and when, for one answer: pure, so that every fault can be looked at without a socket.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::json;

use crate::dialect::Dialect;
use crate::encode::{Event, Stamp, encode, event, frame};
use crate::script::{At, Fault, Piece, Step};

/// A pause; `None` has no end but the client's patience.
type Wait = Option<Duration>;

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Before anything is sent.
    pub(crate) head_wait: Option<Wait>,
    /// Before each byte of the head.
    pub(crate) head_pace: Option<Duration>,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// What `content-length` says; else the body is chunked.
    pub(crate) length: Option<usize>,
    /// Bytes of one write.
    pub(crate) split: Option<usize>,
    pub(crate) actions: Vec<Action>,
    pub(crate) end: End,
    /// Instead of everything else: reset, and accept nobody for so long.
    pub(crate) refuse: Option<Duration>,
}

/// One thing to do amid a body.
#[derive(Debug)]
pub(crate) enum Action {
    Send {
        bytes: Bytes,
        stamp: Option<Stamp>,
    },
    /// From here on the client has had output.
    Output,
    /// Until so long after the pace before.
    Pace(Duration),
    Wait(Wait),
    /// These bytes again and again.
    Repeat {
        bytes: Bytes,
        every: Duration,
    },
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum End {
    /// As HTTP wants it; the connection may be used again.
    #[default]
    Whole,
    /// The connection is closed in the middle.
    Close,
    /// The connection is reset in the middle.
    Reset,
}

impl Plan {
    /// A short answer that is no stream.
    pub(crate) fn page(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let bytes = body.into();
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            length: Some(bytes.len()),
            actions: vec![Action::Send { bytes, stamp: None }],
            ..Self::default()
        }
    }

    /// What a step means in this dialect.
    pub(crate) fn new(dialect: Dialect, model: &str, step: &Step, now: SystemTime) -> Self {
        let mut plan = Self::body(dialect, model, step);
        plan.headers.push(("x-request-id".to_owned(), "req_fake".to_owned()));
        for hint in &step.hints {
            for (name, value) in hint.headers(now) {
                plan.headers.push((name.to_owned(), value));
            }
        }
        for fault in &step.faults {
            match fault {
                Fault::StallHeaders(ms) => plan.head_wait = Some(ms.map(Duration::from_millis)),
                Fault::SlowHeaders(ms) => plan.head_pace = Some(Duration::from_millis(*ms)),
                Fault::Split(size) => plan.split = usize::try_from(*size).ok(),
                Fault::Refuse(ms) => plan.refuse = Some(Duration::from_millis(*ms)),
                Fault::LengthLong => {
                    plan.length = Some(plan.size() * 2);
                    plan.end = End::Close;
                }
                Fault::LengthShort => plan.length = Some(plan.size() / 2),
                _ => {}
            }
        }
        plan
    }

    fn body(dialect: Dialect, model: &str, step: &Step) -> Self {
        for fault in &step.faults {
            match fault {
                Fault::Html(status) => {
                    let page = "<!DOCTYPE html>\n<html><head><title>Bad gateway</title></head>\
                        <body><h1>Bad gateway</h1></body></html>\n";
                    return Self::page(*status, "text/html; charset=utf-8", page);
                }
                Fault::Redirect(to) => {
                    let mut plan = Self::page(307, "text/plain", "elsewhere\n");
                    plan.headers.push(("location".to_owned(), to.clone()));
                    return plan;
                }
                _ => {}
            }
        }
        if let Some(refusal) = step.refusal {
            let (status, headers, body) = dialect.refusal(refusal, &step.hints);
            let mut plan = Self::page(status, "application/json", body.to_string());
            plan.headers.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
            return plan;
        }
        let mut stream = Stream { dialect, step, actions: Vec::new(), end: None };
        stream.write(model);
        Self {
            status: 200,
            headers: vec![
                ("content-type".to_owned(), dialect.content_type().to_owned()),
                ("cache-control".to_owned(), "no-cache".to_owned()),
            ],
            actions: stream.actions,
            end: stream.end.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Bytes of the body, without what repeats.
    pub(crate) fn size(&self) -> usize {
        let size = |action: &Action| match action {
            Action::Send { bytes, .. } => bytes.len(),
            _ => 0,
        };
        self.actions.iter().map(size).sum()
    }
}

/// A streamed body as it grows. Nothing is added after its end.
struct Stream<'a> {
    dialect: Dialect,
    step: &'a Step,
    actions: Vec<Action>,
    end: Option<End>,
}

/// What a piece with broken text says, before it is broken; no other piece says it.
const TO_BE_BROKEN: &str = "\u{1F4A5}\u{1F4A5}";

impl Stream<'_> {
    fn write(&mut self, model: &str) {
        let (step, period) = (self.with_odd_pieces(), self.step.period());
        let mut encoded = encode(self.dialect, model, &step);
        for event in encoded.output.iter_mut().flatten() {
            break_utf8(self.dialect, event);
        }
        if self.has(&Fault::Bom) {
            self.send(&Event { bytes: b"\xEF\xBB\xBF".to_vec(), stamp: None });
        }
        self.send_all(&encoded.preamble);
        self.strike(At::First);
        let count = encoded.output.len();
        for (index, group) in encoded.output.iter().enumerate() {
            if index == count / 2 {
                self.strike(At::Middle);
            }
            if index > 0 && !period.is_zero() {
                self.push(Action::Pace(period));
            }
            if self.has(&Fault::Unknown) {
                self.send(&unknown(self.dialect));
            }
            self.send_all(group);
            if index == 0 {
                self.push(Action::Output);
            }
        }
        if count == 0 {
            self.strike(At::Middle);
        }
        self.strike(At::Last);
        self.send_all(&encoded.tail);
        if !self.has(&Fault::NoMarker) {
            self.send_all(&encoded.marker);
        }
        if self.has(&Fault::AfterDone) {
            encoded.output.iter().for_each(|group| self.send_all(group));
            self.send_all(&encoded.marker);
        }
    }

    /// The step with pieces that are huge, or will not be UTF-8.
    fn with_odd_pieces(&self) -> Step {
        let mut pieces = self.step.says();
        let count = pieces.len();
        let place = |at: &At| match at {
            At::First => 0,
            At::Middle => count / 2,
            At::Last => count,
        };
        for fault in &self.step.faults {
            let (at, text) = match fault {
                Fault::Huge(at, size) => (at, "x".repeat(usize::try_from(*size).unwrap_or(0))),
                Fault::Utf8(at) => (at, TO_BE_BROKEN.to_owned()),
                _ => continue,
            };
            pieces.insert(place(at).min(pieces.len()), Piece::Text(text));
        }
        Step { pieces: Some(pieces), ..self.step.clone() }
    }

    /// The faults of this place.
    fn strike(&mut self, place: At) {
        let step = self.step;
        for fault in &step.faults {
            match fault {
                Fault::Stall(at, ms) if *at == place => {
                    self.push(Action::Wait(ms.map(Duration::from_millis)));
                }
                Fault::Comments(at, ms) if *at == place => {
                    let bytes = Bytes::from(comment(self.dialect));
                    self.push(Action::Repeat { bytes, every: Duration::from_millis(*ms) });
                }
                Fault::Cut(at) if *at == place => self.finish(End::Whole),
                Fault::Close(at) if *at == place => self.finish(End::Close),
                Fault::Reset(at) if *at == place => self.finish(End::Reset),
                Fault::Error(at) if *at == place => {
                    self.send(&error(self.dialect));
                    self.finish(End::Whole);
                }
                Fault::Malformed(at) if *at == place => {
                    self.send(&frame(self.dialect, delta_name(self.dialect), b"{\"delta\": {\"te"));
                }
                Fault::Garbage(at) if *at == place => self.send(&garbage(self.dialect)),
                _ => {}
            }
        }
    }

    fn has(&self, fault: &Fault) -> bool {
        self.step.faults.contains(fault)
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    fn push(&mut self, action: Action) {
        if self.end.is_none() {
            self.actions.push(action);
        }
    }

    fn send_all(&mut self, events: &[Event]) {
        events.iter().for_each(|event| self.send(event));
    }

    fn send(&mut self, event: &Event) {
        let is_lines = !matches!(self.dialect, Dialect::Bedrock | Dialect::Ollama);
        let line_end = if self.has(&Fault::Crlf) {
            "\r\n"
        } else if self.has(&Fault::Cr) {
            "\r"
        } else {
            ""
        };
        let mut event = event.clone();
        if is_lines && !line_end.is_empty() {
            event.end_lines_with(line_end);
        }
        self.push(Action::Send { bytes: Bytes::from(event.bytes), stamp: event.stamp });
    }
}

/// Puts bytes that are not UTF-8 in the place of the text that is to be broken.
fn break_utf8(dialect: Dialect, event: &mut Event) {
    let needle = TO_BE_BROKEN.as_bytes();
    let found = event.bytes.windows(needle.len()).position(|window| window == needle);
    if let Some(at) = found {
        event.bytes[at..at + needle.len()].fill(0xFF);
        if dialect == Dialect::Bedrock {
            event.seal();
        }
    }
}

/// Proof of life that is no output.
fn comment(dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::OpenAi | Dialect::Cohere => b": keep-alive\n\n".to_vec(),
        Dialect::Gemini => b": keep-alive\r\n\r\n".to_vec(),
        Dialect::Anthropic => event(dialect, "ping", &json!({"type": "ping"})).bytes,
        Dialect::Ollama => b"\n".to_vec(),
        Dialect::Bedrock => event(dialect, "ping", &json!({"p": "abc"})).bytes,
    }
}

/// The dialect's error inside a 200.
fn error(dialect: Dialect) -> Event {
    let words = "The script says error";
    let (name, value) = match dialect {
        Dialect::OpenAi => {
            ("", json!({"error": {"message": words, "type": "server_error", "code": 503}}))
        }
        Dialect::Anthropic => (
            "error",
            json!({"type": "error", "error": {"type": "overloaded_error", "message": words}}),
        ),
        Dialect::Gemini => {
            ("", json!({"error": {"code": 503, "message": words, "status": "UNAVAILABLE"}}))
        }
        Dialect::Ollama => ("", json!({"error": words})),
        Dialect::Bedrock => ("serviceUnavailableException", json!({"message": words})),
        Dialect::Cohere => (
            "message-end",
            json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": words}}),
        ),
    };
    event(dialect, name, &value)
}

/// An event that no document names, or a known one without anything known in it.
fn unknown(dialect: Dialect) -> Event {
    let name = "vendor-news";
    let value = match dialect {
        Dialect::OpenAi => json!({"object": name, "choices": [], "obfuscation": "x7"}),
        Dialect::Gemini => json!({"vendorNews": {"x": 7}}),
        Dialect::Ollama => json!({"vendor_news": 7, "done": false}),
        Dialect::Anthropic | Dialect::Cohere => json!({"type": name, "x": {"y": [7]}}),
        Dialect::Bedrock => json!({"x": 7, "p": "abcdefgh"}),
    };
    event(dialect, name, &value)
}

fn garbage(dialect: Dialect) -> Event {
    let mut event = frame(dialect, delta_name(dialect), b"<html>Bad gateway</html>");
    if let (Dialect::Bedrock, Some(last)) = (dialect, event.bytes.last_mut()) {
        *last ^= 1;
    }
    event
}

fn delta_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Anthropic => "content_block_delta",
        Dialect::Bedrock => "contentBlockDelta",
        Dialect::Cohere => "content-delta",
        Dialect::OpenAi | Dialect::Gemini | Dialect::Ollama => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dialect: Dialect, text: &str) -> Plan {
        Plan::new(dialect, "m", &text.parse().unwrap(), SystemTime::UNIX_EPOCH)
    }

    fn body(plan: &Plan) -> Vec<u8> {
        let mut body = Vec::new();
        for action in &plan.actions {
            if let Action::Send { bytes, .. } = action {
                body.extend_from_slice(bytes);
            }
        }
        body
    }

    /// What a plan without faults has that the one with `text` has not, by number of sends.
    fn sends(dialect: Dialect, text: &str) -> usize {
        plan(dialect, text).actions.iter().filter(|a| matches!(a, Action::Send { .. })).count()
    }

    #[test]
    fn cuts_leave_out_the_marker_and_strike_where_they_say() {
        for dialect in Dialect::ALL {
            let all = sends(dialect, "ok");
            let (first, middle, last) =
                (sends(dialect, "cut-first"), sends(dialect, "cut"), sends(dialect, "cut-last"));
            assert!(first < middle && middle < last && last < all, "{dialect:?}");
            assert_eq!(plan(dialect, "cut").end, End::Whole);
            assert_eq!(plan(dialect, "close").end, End::Close);
            assert_eq!(plan(dialect, "reset").end, End::Reset);
            let marker = sends(dialect, "no-marker");
            assert!(last <= marker && marker < all, "{dialect:?}");
            assert!(sends(dialect, "after-done") > all + 9, "{dialect:?}");
        }
    }

    #[test]
    fn broken_text_is_not_utf8_and_all_other_text_is() {
        for dialect in Dialect::ALL.into_iter().filter(|d| *d != Dialect::Bedrock) {
            assert!(String::from_utf8(body(&plan(dialect, "tools_reasoning"))).is_ok());
            assert!(String::from_utf8(body(&plan(dialect, "utf8"))).is_err(), "{dialect:?}");
        }
    }

    #[test]
    fn line_ends_are_what_was_asked_for() {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini, Dialect::Cohere] {
            let text = String::from_utf8(body(&plan(dialect, "cr_stamp"))).unwrap();
            assert!(text.contains('\r') && !text.contains('\n'), "{dialect:?}");
            let text = String::from_utf8(body(&plan(dialect, "crlf_stamp"))).unwrap();
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            let stamped = plan(dialect, "crlf_stamp");
            for action in &stamped.actions {
                if let Action::Send { bytes, stamp: Some(stamp) } = action {
                    assert_eq!(bytes[stamp.at], b'@');
                }
            }
        }
    }

    #[test]
    fn refusals_say_hints_in_head_and_body() {
        let refused = plan(Dialect::Gemini, "429_retry-delay-45.8379s_retry-after-date-5");
        assert_eq!(refused.status, 429);
        let text = String::from_utf8(body(&refused)).unwrap();
        assert!(text.contains("\"retryDelay\":\"45.8379s\""), "{text}");
        let (_, date) = refused.headers.iter().find(|(name, _)| name == "retry-after").unwrap();
        assert_eq!(date, "Thu, 01 Jan 1970 00:00:05 GMT");
        let refused = plan(Dialect::OpenAi, "429_try-again-in-7.66s");
        assert!(String::from_utf8(body(&refused)).unwrap().contains("try again in 7.66s"));
        let refused = plan(Dialect::Bedrock, "bad-key");
        assert_eq!(refused.status, 403);
        assert!(refused.headers.iter().any(|(name, _)| name == "x-amzn-errortype"));
        let quota = plan(Dialect::OpenAi, "quota");
        assert!(String::from_utf8(body(&quota)).unwrap().contains("insufficient_quota"));
    }

    #[test]
    fn lengths_lie_in_both_directions() {
        let honest = plan(Dialect::OpenAi, "ok").size();
        assert_eq!(plan(Dialect::OpenAi, "length-long").length, Some(honest * 2));
        assert_eq!(plan(Dialect::OpenAi, "length-short").length, Some(honest / 2));
    }

    #[test]
    fn a_huge_event_is_huge() {
        for dialect in Dialect::ALL {
            let huge = plan(dialect, "huge-100000");
            let largest = huge.actions.iter().map(|action| match action {
                Action::Send { bytes, .. } => bytes.len(),
                _ => 0,
            });
            assert!((100_000..101_000).contains(&largest.max().unwrap()), "{dialect:?}");
        }
    }
}
