//! The body of an HTTP/1 response, in pieces, beside a decoder that is given all of it at once.

use annulus::http::framing::{ADDITIONS_SIZE_MAX, Framing, Malformed};

use super::pieces::{read_splits, split};

/// In a script: this many times the byte behind the count (2 bytes). Only so does a short script come
/// to the bounds.
const REPEAT: u8 = 0xFE;
/// Bytes of a body that a script may make, some more than the additions that it may have.
const INPUT_SIZE_MAX: usize = ADDITIONS_SIZE_MAX as usize + (8 << 10);
/// Bytes up to which an input is also fed byte by byte.
const SINGLY_SIZE_MAX: usize = 1 << 10;

/// A script: a byte that says how the body ends, 8 of its length, the splits, the body and what comes
/// behind it.
pub fn framing(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let Some((length, rest)) = rest.split_first_chunk() else { return };
    let Some((splits, script)) = read_splits(rest) else { return };
    let kind = match kind % 4 {
        0 => Kind::Length(u64::from_le_bytes(*length)),
        1 => Kind::UntilClose,
        _ => Kind::Chunked,
    };
    let input = repeated(script);
    let expected = read(kind, &input);
    check(kind, &input, &expected, [&input[..]]);
    check(kind, &input, &expected, split(&input, splits));
    if input.len() <= SINGLY_SIZE_MAX {
        check(kind, &input, &expected, input.chunks(1));
    }
}

fn repeated(mut script: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    // Each round takes at least one byte of the script.
    while let Some((&byte, rest)) = script.split_first() {
        let (count, byte, rest) = match (byte, rest) {
            (REPEAT, &[low, high, byte, ref rest @ ..]) => {
                (usize::from(u16::from_le_bytes([low, high])), byte, rest)
            }
            _ => (1, byte, rest),
        };
        let count = count.min(INPUT_SIZE_MAX - input.len());
        input.resize(input.len() + count, byte);
        script = rest;
    }
    input
}

/// Decodes `pieces`, which are `input`, and holds what comes of each against the whole.
fn check<'i>(
    kind: Kind,
    input: &[u8],
    expected: &Outcome,
    pieces: impl IntoIterator<Item = &'i [u8]>,
) {
    let mut framing = match kind {
        Kind::Length(length) => Framing::Length(length),
        Kind::Chunked => Framing::chunked(),
        Kind::UntilClose => Framing::UntilClose,
    };
    let (mut fed, mut body_size) = (0, 0);
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let decoded = framing.decode(&mut bytes);
        fed += piece.len();
        let (is_over, over_at) = match expected.end {
            End::Over { at } => (at <= fed, at),
            End::Open => (false, 0),
            End::Fault(malformed, at) if at < fed => {
                // What came with the byte that is wrong is lost, and nothing before it.
                assert!(at >= fed - piece.len(), "a fault is found when its byte comes");
                assert_eq!(decoded, Err(malformed), "the fault of byte {at}");
                assert_eq!(body_size, read(kind, &input[..fed - piece.len()]).body.len());
                return;
            }
            End::Fault(..) => (false, 0),
        };
        let decoded = decoded.unwrap_or_else(|fault| panic!("{fault:?} within {fed} bytes"));
        let body = expected.body[body_size..].get(..decoded.size);
        assert_eq!(Some(&bytes[..decoded.size]), body, "the split of the body shows");
        body_size += decoded.size;
        let used = if is_over { over_at } else { fed };
        assert!(used <= used_max(body_size), "{used} bytes for {body_size} of a body");
        assert_eq!(framing.is_over(), is_over, "after {fed} bytes of a body: {:?}", expected.end);
        // All of the piece when the body was over before it.
        let left_over = is_over.then(|| (fed - over_at).min(piece.len()));
        assert_eq!(decoded.left_over, left_over, "what follows the body");
        let behind = piece.len() - left_over.unwrap_or(0);
        assert_eq!(bytes[behind..], piece[behind..], "what follows the body is left alone");
        if is_over {
            assert_eq!(body_size, expected.body.len(), "the body is whole when it is over");
        }
    }
    assert_eq!(body_size, expected.body.len(), "nothing is kept back");
}

/// What a body of this size may take of the peer's bytes, whatever they are: at most 16 digits and two
/// line ends for each byte, as many for the last chunk and one that has begun, and what has a bound of
/// its own, in lines of one byte.
const fn used_max(body_size: usize) -> usize {
    body_size + (16 + 4) * (body_size + 2) + 3 * ADDITIONS_SIZE_MAX as usize
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What a whole input is.
#[derive(Debug)]
struct Outcome {
    /// As much of it as the input has, before a fault.
    body: Vec<u8>,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The input ends before the body does.
    Open,
    /// With the byte before this one.
    Over { at: usize },
    /// This byte is wrong, and why.
    Fault(Malformed, usize),
}

/// Reads a whole input, as RFC 9112 §6.3 and §7.1 have it.
fn read(kind: Kind, input: &[u8]) -> Outcome {
    let mut reader = Reader { input, at: 0, body: Vec::new(), additions: 0 };
    let end = match kind {
        Kind::UntilClose => {
            reader.body = input.to_vec();
            End::Open
        }
        Kind::Length(length) => {
            let data = reader.data(u128::from(length));
            data.map_or_else(|end| end, |()| End::Over { at: reader.at })
        }
        Kind::Chunked => {
            let body = reader.chunked_body();
            body.map_or_else(|end| end, |()| End::Over { at: reader.at })
        }
    };
    Outcome { body: reader.body, end }
}

/// Reads the grammar of RFC 9112 §7.1, rule by rule. What is not the rule's ends it.
struct Reader<'i> {
    input: &'i [u8],
    at: usize,
    body: Vec<u8>,
    /// Bytes that are neither data nor needed.
    additions: usize,
}

impl Reader<'_> {
    /// `chunked-body = *chunk last-chunk trailer-section CRLF`
    fn chunked_body(&mut self) -> Result<(), End> {
        // Each round takes at least one byte.
        loop {
            let size = self.chunk_size()?;
            self.chunk_extensions()?;
            self.line_end(Malformed::Line)?;
            if size == 0 {
                break;
            }
            self.data(size)?;
            self.line_end(Malformed::End)?;
        }
        while self.peek()? != b'\r' {
            self.rest_of_line()?;
            self.line_end(Malformed::Line)?;
        }
        self.line_end(Malformed::Line)
    }

    /// `chunk-size = 1*HEXDIG`, and at most 16 of them.
    fn chunk_size(&mut self) -> Result<u128, End> {
        let begin = self.at;
        while self.peek()?.is_ascii_hexdigit() && self.at - begin < 16 {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.input[begin..self.at]).expect("ASCII");
        match self.peek()? {
            b' ' | b'\t' | b';' | b'\r' if !digits.is_empty() => {}
            _ => return Err(End::Fault(Malformed::Size, self.at)),
        }
        Ok(u128::from_str_radix(digits, 16).expect("hexadecimal digits"))
    }

    /// `chunk-ext = *( BWS ";" … )`, whatever it says.
    fn chunk_extensions(&mut self) -> Result<(), End> {
        while matches!(self.peek()?, b' ' | b'\t') {
            self.addition()?;
        }
        match self.peek()? {
            b'\r' => Ok(()),
            b';' => self.rest_of_line(),
            _ => Err(End::Fault(Malformed::Size, self.at)),
        }
    }

    /// Whatever it says, up to its end: one that not everybody would see is none.
    fn rest_of_line(&mut self) -> Result<(), End> {
        while self.peek()? != b'\r' {
            if self.peek()? == b'\n' {
                return Err(End::Fault(Malformed::Line, self.at));
            }
            self.addition()?;
        }
        Ok(())
    }

    fn line_end(&mut self, otherwise: Malformed) -> Result<(), End> {
        for byte in *b"\r\n" {
            if self.peek()? != byte {
                return Err(End::Fault(otherwise, self.at));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn data(&mut self, size: u128) -> Result<(), End> {
        let rest = &self.input[self.at..];
        let data = &rest[..rest.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        self.body.extend_from_slice(data);
        self.at += data.len();
        if data.len() as u128 == size { Ok(()) } else { Err(End::Open) }
    }

    fn addition(&mut self) -> Result<(), End> {
        if self.additions == ADDITIONS_SIZE_MAX as usize {
            return Err(End::Fault(Malformed::Additions, self.at));
        }
        self.additions += 1;
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Result<u8, End> {
        self.input.get(self.at).copied().ok_or(End::Open)
    }
}
