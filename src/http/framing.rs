//! Where the body of an HTTP/1 response ends (RFC 9112 §6.3 and §7.1): a pure state machine.
//!
//! The invariant to remember: a byte of the peer's is body, counted against a bound, or a fault.

use crate::sync::sound;

/// Bytes of chunk extensions, of padding and of trailers that one body may have in all.
pub const ADDITIONS_SIZE_MAX: u32 = 64 << 10;
/// Hexadecimal digits of a chunk's size.
const DIGITS_MAX: u8 = 16;

/// How a body ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes more.
    Length(u64),
    Chunked(Chunks),
    /// With the connection.
    UntilClose,
}

/// What some bytes of the peer's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the body, now at the front.
    pub size: usize,
    /// Once the body is over: how many bytes came behind it, which belong to nobody.
    pub left_over: Option<usize>,
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a chunk's size is no number of at most {DIGITS_MAX} hexadecimal digits")]
    Size,
    #[error("a chunk does not end where its size says")]
    End,
    #[error("chunk extensions and trailers of more than {ADDITIONS_SIZE_MAX} bytes")]
    Additions,
    #[error("a line of a chunked body does not end as it has to")]
    Line,
}

impl Framing {
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { state: State::Size, left: 0, digits: 0, additions: 0 })
    }

    /// Whether nothing more belongs to the body.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Over,
            Self::UntilClose => false,
        }
    }

    /// Reads the next bytes of the peer's, and moves the body's to the front of them.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: nobody can tell any more where anything ends, so the connection is useless.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Malformed> {
        let count = bytes.len();
        let (size, taken) = match self {
            Self::UntilClose => (count, count),
            Self::Length(left) => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
                *left -= size as u64;
                (size, size)
            }
            Self::Chunked(chunks) => chunks.decode(bytes)?,
        };
        Ok(Decoded { size, left_over: self.is_over().then(|| count - taken) })
    }
}

/// A chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// Bytes of the present chunk.
    left: u64,
    /// Of the present chunk's size.
    digits: u8,
    /// Bytes that are neither data nor needed.
    additions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// Blanks behind the size.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// After the last chunk: a trailer or the end.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
    Over,
}

impl Chunks {
    /// Moves data to the front; returns how much that is, and how many bytes were looked at.
    fn decode(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), Malformed> {
        if self.state == State::Size && !sound("a chunk's size may come in parts") {
            self.left = 0;
        }
        let (mut size, mut next) = (0, 0);
        // Each round looks at one byte at least.
        while next < bytes.len() && self.state != State::Over {
            if self.state == State::Data {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let end = next + left.min(bytes.len() - next);
                bytes.copy_within(next..end, size);
                size += end - next;
                self.left -= (end - next) as u64;
                next = end;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.step(bytes[next])?;
                next += 1;
            }
        }
        Ok((size, next))
    }

    /// What comes after this byte, which is not data.
    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte),
            (State::Size, _) if self.digits == 0 => Err(Malformed::Size),
            (State::Size | State::Padding, b' ' | b'\t') => self.addition(State::Padding),
            (State::Size | State::Padding, b';') => self.addition(State::Extension),
            (State::Size | State::Padding | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::Padding, _) => Err(Malformed::Size),
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.left == 0 { State::LineStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::DataCr | State::DataLf, _) => Err(Malformed::End),
            (State::LineStart, b'\r') => Ok(State::EndLf),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::LineStart),
            (State::EndLf, b'\n') => Ok(State::Over),
            // A lone line feed ends a line for some, and is a part of it for others.
            (State::Extension | State::LineStart | State::Trailer, b'\n') => Err(Malformed::Line),
            (State::Extension, _) => self.addition(State::Extension),
            (State::LineStart | State::Trailer, _) => self.addition(State::Trailer),
            (State::SizeLf | State::TrailerLf | State::EndLf, _) => Err(Malformed::Line),
            (state @ (State::Data | State::Over), _) => Ok(state),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, Malformed> {
        // Note: cannot overflow: 16 digits are 64 bits.
        self.digits += 1;
        if self.digits > DIGITS_MAX && sound("a chunk's size has few digits") {
            return Err(Malformed::Size);
        }
        let digit = char::from(byte).to_digit(16).ok_or(Malformed::Size)?;
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn addition(&mut self, next: State) -> Result<State, Malformed> {
        self.additions += 1;
        let are_too_many = self.additions > ADDITIONS_SIZE_MAX && sound("additions have a bound");
        if are_too_many { Err(Malformed::Additions) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body in `pieces`, and how many bytes came behind it once it was over.
    fn decode<'a>(
        mut framing: Framing,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<u8>, Option<usize>), Malformed> {
        let mut body = Vec::new();
        let mut left_over = framing.is_over().then_some(0);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let decoded = framing.decode(&mut bytes)?;
            body.extend_from_slice(&bytes[..decoded.size]);
            left_over = decoded.left_over.map(|more| more + left_over.unwrap_or(0));
        }
        assert_eq!(framing.is_over(), left_over.is_some());
        Ok((body, left_over))
    }

    fn chunked(body: &str) -> Result<(Vec<u8>, Option<usize>), Malformed> {
        decode(Framing::chunked(), [body.as_bytes()])
    }

    #[test]
    fn a_known_length_ends_with_its_last_byte() {
        let body = decode(Framing::Length(5), [&b"abc"[..], b"de", b"HTTP"]);
        assert_eq!(body, Ok((b"abcde".to_vec(), Some(4))));
        let body = decode(Framing::Length(5), [&b"abc"[..]]);
        assert_eq!(body, Ok((b"abc".to_vec(), None)));
        assert!(Framing::Length(0).is_over());
        let body = decode(Framing::UntilClose, [&b"abc"[..], b"de"]);
        assert_eq!(body, Ok((b"abcde".to_vec(), None)));
    }

    #[test]
    fn chunks_are_joined_wherever_the_bytes_are_split() {
        const WHOLE: &[u8] = b"5\r\nhello\r\n1;ext=1\r\n \r\n0A \t;x\r\nbeautiful \r\n006\r\n\
            world!\r\n000\r\nX-Trailer: t\r\nX: \r\n\r\n";
        const BODY: &[u8] = b"hello beautiful world!";
        for first in 0..=WHOLE.len() {
            for second in first..=WHOLE.len() {
                let pieces = [&WHOLE[..first], &WHOLE[first..second], &WHOLE[second..], b"HT"];
                let body = decode(Framing::chunked(), pieces);
                assert_eq!(body, Ok((BODY.to_vec(), Some(2))), "{first} {second}");
            }
            let begun = decode(Framing::chunked(), [&WHOLE[..first]]).unwrap();
            assert_eq!(begun.1, (first == WHOLE.len()).then_some(0), "{first}");
        }
        let bytes = decode(Framing::chunked(), WHOLE.chunks(1));
        assert_eq!(bytes, Ok((BODY.to_vec(), Some(0))));
    }

    #[test]
    fn what_is_not_a_chunk_is_a_fault() {
        for (body, fault) in [
            ("\r\n", Malformed::Size),
            ("x\r\n", Malformed::Size),
            (" 5\r\nhello", Malformed::Size),
            ("-1\r\n", Malformed::Size),
            ("0x5\r\nhello", Malformed::Size),
            ("5 5\r\nhello", Malformed::Size),
            ("5\nhello", Malformed::Size),
            ("10000000000000000\r\n", Malformed::Size),
            ("00000000000000005\r\n", Malformed::Size),
            ("5\rhello", Malformed::Line),
            ("5;a\nhello", Malformed::Line),
            ("5\r\nhello!", Malformed::End),
            ("5\r\nhello\n", Malformed::End),
            ("5\r\nhello\r5\r\n", Malformed::End),
            ("0\r\n\n", Malformed::Line),
            ("0\r\n\rX", Malformed::Line),
            ("0\r\nA: b\n\r\n", Malformed::Line),
            ("0\r\nA: b\rX", Malformed::Line),
        ] {
            assert_eq!(chunked(body), Err(fault), "{body:?}");
        }
        // As large as it may say, and nothing of it is reserved.
        assert_eq!(chunked("ffffffffffffffff\r\nab"), Ok((b"ab".to_vec(), None)));
    }

    #[test]
    fn additions_have_a_bound_and_a_long_body_does_not_meet_it() {
        let max = ADDITIONS_SIZE_MAX as usize;
        for start in ["5;", "0\r\n", "5 "] {
            let fill = if start.ends_with(' ') { " " } else { "x" };
            let within = format!("{start}{}", fill.repeat(max - 1));
            chunked(&within).unwrap();
            let beyond = format!("{start}{}", fill.repeat(max + 1));
            assert_eq!(chunked(&beyond), Err(Malformed::Additions), "{start:?}");
        }
        let (body, left_over) = chunked(&("1\r\nx\r\n".repeat(max) + "0\r\n\r\n")).unwrap();
        assert_eq!((body.len(), left_over), (max, Some(0)));
    }

    #[test]
    fn any_bytes_are_a_body_or_a_fault_however_they_are_split() {
        const ALPHABET: &[u8] = b"0123fF;: \t\r\n\r\n\r\nx\x00\xff";
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let bytes: Vec<u8> =
                (0..random.usize(..40)).map(|_| ALPHABET[random.usize(..ALPHABET.len())]).collect();
            let whole = decode(Framing::chunked(), [&bytes[..]]);
            let split = decode(Framing::chunked(), bytes.chunks(random.usize(1..5)));
            assert_eq!(whole, split, "{bytes:?}");
        }
    }
}
