//! Bytes to events, for streams of text: server-sent events and lines of JSON.
//!
//! The invariant to remember: **the split of the bytes never shows.** Whatever pieces the network
//! makes, the same events come out, and UTF-8 is judged only in whole events.

use super::EVENT_SIZE_MAX;
#[cfg(feature = "bedrock")]
use super::bedrock::EventStream;
use super::failure::Failure;
use crate::sync::sound;

/// One event of a stream.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// What the stream calls it; empty when it has no name.
    pub(super) name: &'a str,
    /// Its body, as yet unjudged.
    pub(super) data: &'a [u8],
}

/// How a dialect marks off its events.
#[derive(Debug)]
pub(super) enum Framing {
    /// `text/event-stream`.
    Sse(Sse),
    /// One JSON value a line.
    Ndjson(Lines),
    /// `application/vnd.amazon.eventstream`.
    #[cfg(feature = "bedrock")]
    EventStream(EventStream),
}

impl Framing {
    /// Adds bytes of the body.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        // The bug: what is cut off is the network's doing, and part of the text.
        let whole = sound("a piece is taken as it is");
        let bytes = if whole { bytes } else { bytes.trim_ascii() };
        match self {
            Self::Sse(sse) => sse.lines.feed(bytes),
            Self::Ndjson(lines) => lines.feed(bytes),
            #[cfg(feature = "bedrock")]
            Self::EventStream(stream) => stream.feed(bytes),
        }
    }

    /// The body is over: what is left is the last line or event.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Sse(sse) => {
                sse.lines.finish();
                sse.is_finished = true;
            }
            Self::Ndjson(lines) => lines.finish(),
            #[cfg(feature = "bedrock")]
            Self::EventStream(stream) => stream.finish(),
        }
    }

    /// The next whole event.
    ///
    /// # Errors
    ///
    /// An event above [`EVENT_SIZE_MAX`], or what the framing itself makes sure of.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        match self {
            Self::Sse(sse) => sse.next(),
            Self::Ndjson(lines) => loop {
                // Bounded: each round takes a line. (The borrow checker wants the second look.)
                let Some(range) = lines.next_range()? else { return Ok(None) };
                let line = lines.line(range.clone());
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(Frame { name: "", data: lines.line(range) }));
                }
            },
            #[cfg(feature = "bedrock")]
            Self::EventStream(stream) => stream.next(),
        }
    }
}

/// Lines, ended by `\n`, `\r\n` or `\r`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where no line end was found.
    searched: usize,
    /// The last line ended in `\r`: a `\n` right after it belongs to that end.
    after_return: bool,
    is_finished: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn finish(&mut self) {
        self.is_finished = true;
    }

    fn line(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Where the next whole line is, without its end; it stays until the next `feed`.
    fn next_range(&mut self) -> Result<Option<std::ops::Range<usize>>, Failure> {
        if self.after_return && self.start < self.buffer.len() {
            self.after_return = false;
            if self.buffer[self.start] == b'\n' {
                self.start += 1;
                self.searched = self.searched.max(self.start);
            }
        }
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let Some(length) = self.buffer[self.searched..].iter().position(is_end) else {
            self.searched = self.buffer.len();
            let left = self.buffer.len() - self.start;
            if left > EVENT_SIZE_MAX {
                return Err(too_large());
            }
            if !self.is_finished || left == 0 {
                return Ok(None);
            }
            let range = self.start..self.buffer.len();
            self.start = range.end;
            return Ok(Some(range));
        };
        let end = self.searched + length;
        let range = self.start..end;
        self.after_return = self.buffer[end] == b'\r';
        self.start = end + 1;
        self.searched = self.start;
        if range.len() > EVENT_SIZE_MAX {
            return Err(too_large());
        }
        Ok(Some(range))
    }
}

/// Server-sent events (the HTML standard, §9.2.6), without `id` and `retry`: nobody reconnects here.
///
/// A line that begins like JSON is no field of an event: from there on the body is one event without
/// a name. So answers who was asked for a stream and has an error or a whole answer instead.
#[derive(Debug, Default)]
pub(super) struct Sse {
    lines: Lines,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    /// The event in `name` and `data` was given.
    given: bool,
    seen_first: bool,
    /// The rest of the body is JSON and no stream.
    is_plain: bool,
    is_finished: bool,
}

impl Sse {
    fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        if self.given {
            self.name.clear();
            self.data.clear();
            (self.has_data, self.given) = (false, false);
        }
        // Bounded: each round takes a line.
        while let Some(range) = self.lines.next_range()? {
            let mut line = &self.lines.buffer[range];
            if !self.seen_first {
                self.seen_first = true;
                line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
            }
            self.is_plain |= !self.has_data && matches!(line.first(), Some(b'{' | b'['));
            if self.is_plain {
                self.name.clear();
                self.has_data = true;
                self.data.extend_from_slice(line);
                self.data.push(b'\n');
                if self.data.len() > EVENT_SIZE_MAX {
                    return Err(too_large());
                }
                continue;
            }
            if line.is_empty() {
                if self.has_data {
                    return Ok(Some(self.give()));
                }
                self.name.clear();
                continue;
            }
            let (field, value) = match line.iter().position(|byte| *byte == b':') {
                // A comment has an empty field.
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &b""[..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match field {
                b"data" => {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.has_data = true;
                    self.data.extend_from_slice(value);
                    if self.data.len() > EVENT_SIZE_MAX {
                        return Err(too_large());
                    }
                }
                b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        // A last event may lack its blank line.
        if self.is_finished && self.has_data { Ok(Some(self.give())) } else { Ok(None) }
    }

    fn give(&mut self) -> Frame<'_> {
        self.given = true;
        Frame { name: &self.name, data: &self.data }
    }
}

fn too_large() -> Failure {
    Failure::bad_stream(format!("an event is larger than {EVENT_SIZE_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event = (String, String);

    fn run(mut framing: Framing, pieces: &[&[u8]]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut take = |framing: &mut Framing| {
            while let Some(frame) = framing.next().unwrap() {
                let data = String::from_utf8(frame.data.to_vec()).unwrap();
                events.push((frame.name.to_owned(), data));
            }
        };
        for piece in pieces {
            framing.feed(piece);
            take(&mut framing);
        }
        framing.finish();
        take(&mut framing);
        events
    }

    /// Runs the text whole, at every split in two, and byte by byte.
    fn at_every_split(make: fn() -> Framing, text: &str) -> Vec<Event> {
        let bytes = text.as_bytes();
        let whole = run(make(), &[bytes]);
        for split in 0..=bytes.len() {
            assert_eq!(run(make(), &[&bytes[..split], &bytes[split..]]), whole, "at {split}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(make(), &single), whole, "byte by byte");
        whole
    }

    fn sse() -> Framing {
        Framing::Sse(Sse::default())
    }

    fn event(name: &str, data: &str) -> Event {
        (name.into(), data.into())
    }

    #[test]
    fn every_line_end_and_every_form_of_a_field_is_read() {
        let text = "\u{feff}: hello\ndata: a\n\nevent: x\r\ndata:b\r\ndata\r\ndata:  c\r\n\r\ndata: ü\r\r\
                    event: gone\n\nid: 7\nretry: 1\nunknown: z\ndata: last";
        assert_eq!(
            at_every_split(sse, text),
            [event("", "a"), event("x", "b\n\n c"), event("", "ü"), event("", "last")]
        );
    }

    #[test]
    fn an_event_without_data_is_none() {
        assert_eq!(at_every_split(sse, "event: x\n\n\n\n: ping\n\ndata:\n\n"), [event("", "")]);
    }

    #[test]
    fn lines_of_json_are_given_without_their_ends_and_empty_ones_are_not() {
        let text = "{\"a\":1}\r\n\n  \n{\"b\":\"ü\"}\n{\"c\":3}";
        assert_eq!(
            at_every_split(|| Framing::Ndjson(Lines::default()), text),
            [event("", "{\"a\":1}"), event("", "{\"b\":\"ü\"}"), event("", "{\"c\":3}")]
        );
    }

    #[test]
    fn a_body_that_is_json_and_no_stream_is_one_event() {
        for begin in ["", ": waiting\n\n", "\n\n", "event: x\n", "event: x\ndata: a\n\n"] {
            let events = at_every_split(sse, &format!("{begin}{{\n\n  \"error\": \"ü\"}}\n"));
            assert_eq!(events.last(), Some(&event("", "{\n\n  \"error\": \"ü\"}\n")), "{begin}");
        }
    }

    #[test]
    fn an_event_too_large_is_a_failure_however_it_is_made() {
        let line = vec![b'x'; EVENT_SIZE_MAX / 2 + 1];
        let mut one = sse();
        one.feed(b"data: ");
        one.feed(&line);
        one.feed(&line);
        assert!(one.next().is_err());
        let mut many = sse();
        for _ in 0..2 {
            many.feed(b"data: ");
            many.feed(&line);
            many.feed(b"\n");
        }
        assert!(many.next().is_err());
    }
}
