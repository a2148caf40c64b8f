//! The framing `application/vnd.amazon.eventstream`: a prelude with two lengths under a checksum of
//! its own, headers, a payload, and a checksum of it all.
//!
//! `aws-smithy-eventstream` reads whole events. Its decoder for streams is not used: it believes the
//! length of an event before the prelude's checksum, so a damaged length has it wait for bytes that
//! never come, and it takes any length up to 4 GiB.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;

use crate::dialect::EVENT_SIZE_MAX;
use crate::dialect::failure::{Class, Failure};
use crate::dialect::framing::Frame;
use crate::dialect::refusal::in_band_named;

/// Two lengths and their checksum, each a big-endian `u32`.
const PRELUDE_SIZE: usize = 12;
/// An event without headers and payload: its prelude and the checksum of it all.
const EVENT_SIZE_MIN: usize = PRELUDE_SIZE + 4;

/// Bytes of a body to its events.
#[derive(Debug, Default)]
pub(in crate::dialect) struct EventStream {
    buffer: Vec<u8>,
    /// Where the next event begins.
    start: usize,
    /// The event that was given last.
    given: Option<Message>,
    is_finished: bool,
}

impl EventStream {
    pub(in crate::dialect) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    pub(in crate::dialect) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// The next whole event, named by its `:event-type`.
    ///
    /// # Errors
    ///
    /// [`Class::BadStream`]: a checksum is wrong, a length is impossible or above
    /// [`EVENT_SIZE_MAX`], or the event does not say what it is. [`Class::Incomplete`]: the body
    /// ends within an event. Else the event is an exception, and the class is what it says.
    pub(in crate::dialect) fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        let unread = &self.buffer[self.start..];
        let size = event_size(unread)?;
        let Some(mut event) = size.and_then(|size| unread.get(..size)) else {
            if self.is_finished && !unread.is_empty() {
                return Err(Failure::new(Class::Incomplete, "the body ended within an event"));
            }
            return Ok(None);
        };
        self.start += event.len();
        let message = read_message_from(&mut event)
            .map_err(|error| Failure::bad_stream(format!("an event is damaged: {error}")))?;
        frame(self.given.insert(message)).map(Some)
    }
}

/// How large the event is that begins here, once its prelude is there. No byte is kept for an event
/// before its prelude proves to be whole and its size to be allowed.
fn event_size(unread: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(prelude) = unread.first_chunk::<PRELUDE_SIZE>() else { return Ok(None) };
    let word = |at: usize| {
        u32::from_be_bytes([prelude[at], prelude[at + 1], prelude[at + 2], prelude[at + 3]])
    };
    if crc32(&prelude[..8]) != word(8) {
        return Err(Failure::bad_stream("the checksum of an event's lengths is wrong"));
    }
    match usize::try_from(word(0)) {
        Ok(size) if (EVENT_SIZE_MIN..=EVENT_SIZE_MAX).contains(&size) => Ok(Some(size)),
        _ => Err(Failure::bad_stream(format!(
            "an event is not of {EVENT_SIZE_MIN} to {EVENT_SIZE_MAX} bytes"
        ))),
    }
}

/// CRC-32 (IEEE 802.3) bit by bit: it is only for the eight bytes of the lengths.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc)))
}

fn frame(message: &Message) -> Result<Frame<'_>, Failure> {
    let header = |name: &str| {
        let header = message.headers().iter().find(|header| header.name().as_str() == name)?;
        header.value().as_string().ok().map(|value| value.as_str())
    };
    match header(":message-type") {
        Some("event") => {
            Ok(Frame { name: header(":event-type").unwrap_or_default(), data: message.payload() })
        }
        Some("exception") => {
            Err(in_band_named(header(":exception-type").unwrap_or_default(), message.payload()))
        }
        Some("error") => {
            let said = header(":error-message").unwrap_or_default();
            Err(in_band_named(header(":error-code").unwrap_or_default(), said.as_bytes()))
        }
        _ => Err(Failure::bad_stream("an event does not say what kind of message it is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::bedrock::tests::{event, message};

    type Given = Vec<(String, Vec<u8>)>;

    /// What a stream gives, and how it ends.
    fn run(pieces: &[&[u8]]) -> (Given, Result<(), Failure>) {
        let mut stream = EventStream::default();
        let mut given = Vec::new();
        let mut take = |stream: &mut EventStream| loop {
            match stream.next() {
                Ok(Some(frame)) => given.push((frame.name.to_owned(), frame.data.to_vec())),
                Ok(None) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        };
        for piece in pieces {
            stream.feed(piece);
            if let Err(failure) = take(&mut stream) {
                return (given, Err(failure));
            }
        }
        stream.finish();
        let end = take(&mut stream);
        (given, end)
    }

    fn two_events() -> Vec<u8> {
        [event("messageStart", "{\"p\":\"ü\"}"), event("messageStop", "{}")].concat()
    }

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_split() {
        let bytes = two_events();
        let (whole, end) = run(&[&bytes]);
        assert_eq!((whole.len(), whole[0].0.as_str(), end), (2, "messageStart", Ok(())));
        for split in 0..=bytes.len() {
            assert_eq!(run(&[&bytes[..split], &bytes[split..]]).0, whole, "at {split}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(&single).0, whole, "byte by byte");
    }

    #[test]
    fn damage_at_any_bit_is_a_bad_stream() {
        let bytes = two_events();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let failure = run(&[&damaged]).1.expect_err(&format!("bit {bit}"));
            assert_eq!(failure.class, Class::BadStream, "bit {bit}: {failure}");
        }
    }

    #[test]
    fn a_body_that_ends_within_an_event_is_incomplete() {
        let bytes = two_events();
        let first = event("messageStart", "{\"p\":\"ü\"}").len();
        for end in 0..=bytes.len() {
            let (given, result) = run(&[&bytes[..end]]);
            assert_eq!(
                given.len(),
                [0, first, bytes.len()].iter().filter(|at| end >= **at).count() - 1
            );
            let is_between = [0, first, bytes.len()].contains(&end);
            let class = result.map_err(|failure| failure.class);
            assert_eq!(class, if is_between { Ok(()) } else { Err(Class::Incomplete) }, "at {end}");
        }
    }

    #[test]
    fn an_impossible_length_fails_as_soon_as_it_is_there() {
        for size in [0, 1, 15, EVENT_SIZE_MAX + 1, u32::MAX as usize] {
            let mut prelude = u32::try_from(size).unwrap().to_be_bytes().to_vec();
            prelude.extend([0; 4]);
            prelude.extend(crc32(&prelude).to_be_bytes());
            let mut stream = EventStream::default();
            stream.feed(&prelude);
            assert_eq!(stream.next().unwrap_err().class, Class::BadStream, "{size}");
        }
        let mut too_many_headers = 16_u32.to_be_bytes().to_vec();
        too_many_headers.extend(1_u32.to_be_bytes());
        too_many_headers.extend(crc32(&too_many_headers).to_be_bytes());
        too_many_headers.extend([0; 4]);
        assert_eq!(run(&[&too_many_headers]).1.unwrap_err().class, Class::BadStream);
    }

    #[test]
    fn the_largest_event_is_read() {
        let overhead = event("x", "").len();
        let bytes = event("x", &" ".repeat(EVENT_SIZE_MAX - overhead));
        assert_eq!(bytes.len(), EVENT_SIZE_MAX);
        let (given, end) = run(&[&bytes]);
        assert_eq!((given[0].1.len(), end), (EVENT_SIZE_MAX - overhead, Ok(())));
        let bytes = event("x", &" ".repeat(EVENT_SIZE_MAX - overhead + 1));
        assert_eq!(run(&[&bytes]).1.unwrap_err().class, Class::BadStream);
    }

    #[test]
    fn exceptions_are_failures_of_their_class() {
        let (kind, payload) = (":exception-type", "{\"message\":\"no\"}");
        for (name, class) in [
            ("throttlingException", Class::RateLimited),
            ("serviceUnavailableException", Class::Overloaded),
            ("internalServerException", Class::Server),
            ("modelStreamErrorException", Class::Server),
            ("modelTimeoutException", Class::Server),
            ("validationException", Class::BadRequest),
            ("AccessDeniedException", Class::Auth),
            ("ServiceQuotaExceededException", Class::Quota),
            ("somethingNewException", Class::Server),
        ] {
            let bytes = message(&[(":message-type", "exception"), (kind, name)], payload);
            let failure = run(&[&bytes]).1.unwrap_err();
            assert_eq!((failure.class, failure.detail), (class, format!("no [{name}]")));
        }
    }

    #[test]
    fn an_exception_is_told_whatever_its_payload_is() {
        for (payload, detail) in [
            ("{\"Message\":\"no\"}", "no [throttlingException]"),
            ("no", "no [throttlingException]"),
            ("", "[throttlingException]"),
        ] {
            let headers =
                [(":message-type", "exception"), (":exception-type", "throttlingException")];
            let failure = run(&[&message(&headers, payload)]).1.unwrap_err();
            assert_eq!((failure.class, failure.detail.as_str()), (Class::RateLimited, detail));
        }
    }

    #[test]
    fn errors_without_a_model_are_told_by_their_headers() {
        let headers = [
            (":message-type", "error"),
            (":error-code", "InternalError"),
            (":error-message", "it broke"),
        ];
        let failure = run(&[&message(&headers, "")]).1.unwrap_err();
        assert_eq!(
            (failure.class, failure.detail.as_str()),
            (Class::Server, "it broke [InternalError]")
        );
    }

    #[test]
    fn a_message_of_no_known_kind_is_a_bad_stream() {
        for headers in
            [&[][..], &[(":message-type", "greeting")], &[(":event-type", "messageStop")]]
        {
            assert_eq!(run(&[&message(headers, "{}")]).1.unwrap_err().class, Class::BadStream);
        }
    }
}
