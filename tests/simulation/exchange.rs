//! Requests and the answers that they must get: both sides compute them from the request's bytes.

use annulus::MessageType;
use annulus::limits::REPLY_INLINE_SIZE_MAX;
use annulus::wire::Status;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The same bytes, from the shard.
    Echo,
    /// Several frames, from the shard.
    Parts,
    /// A handler that panics.
    Panics,
    /// A handler that fails.
    Fails,
    /// A handler that answers more than it may.
    TooMuch,
    /// A type that nobody serves.
    Unknown,
    /// Several frames, from the worker with this index.
    Work(usize),
}

impl Kind {
    pub(crate) const SYNCHRONOUS: [Self; 6] =
        [Self::Echo, Self::Parts, Self::Panics, Self::Fails, Self::TooMuch, Self::Unknown];

    pub(crate) const fn message_type(self) -> MessageType {
        match self {
            Self::Echo => MessageType::ECHO,
            Self::Parts => MessageType::user(0),
            Self::Panics => MessageType::user(1),
            Self::Fails => MessageType::user(2),
            Self::TooMuch => MessageType::user(3),
            Self::Unknown => MessageType::user(9),
            Self::Work(0) => MessageType::STREAM,
            Self::Work(_) => MessageType::COMPLETE,
        }
    }

    pub(crate) const fn is_work(self) -> bool {
        matches!(self, Self::Work(_))
    }

    /// How the request ends if nothing happens to it.
    pub(crate) const fn status(self) -> Status {
        match self {
            Self::Echo | Self::Parts | Self::Work(_) => Status::Ok,
            Self::Panics => Status::HandlerPanic,
            Self::Fails => Status::InvalidRequest,
            Self::TooMuch => Status::MessageTooLarge,
            Self::Unknown => Status::UnknownMessageType,
        }
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) chunks: Vec<Vec<u8>>,
    /// Payload of the last frame, where that is not a text for a person.
    pub(crate) last: Vec<u8>,
}

impl Answer {
    /// The answer to a request of `kind`. Frames have up to `size_max` bytes.
    pub(crate) fn new(
        kind: Kind,
        connection_id: u64,
        request_id: u64,
        payload: &[u8],
        size_max: usize,
    ) -> Self {
        let mark = digest(payload) ^ connection_id.rotate_left(40) ^ request_id.rotate_left(20);
        let (count, small_max, large_max) = match kind {
            Kind::Echo => return Self { chunks: Vec::new(), last: payload.to_vec() },
            // What a synchronous handler may always answer is 4 KiB, headers included.
            Kind::Parts => (mark % 4, 300, 900),
            Kind::Work(_) => (mark % 13, 200, size_max),
            _ => return Self::default(),
        };
        let frame = |index: u64| {
            let mark = scramble(mark.wrapping_add(index));
            // A larger payload gets larger frames, some of which travel in leases.
            let bound = match mark % 6 {
                0 if payload.len() > 64 => large_max,
                1 | 2 if payload.len() > 64 => large_max.min(REPLY_INLINE_SIZE_MAX),
                _ => small_max.min(size_max),
            };
            filled(mark, usize::try_from(mark >> 33).unwrap() % (bound + 1))
        };
        Self { chunks: (0..count).map(frame).collect(), last: frame(count) }
    }
}

/// `size` bytes that nobody else would write.
pub(crate) fn filled(mark: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    let mut word = mark | 1;
    while bytes.len() < size {
        bytes.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    }
    bytes.truncate(size);
    bytes
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = scramble(digest ^ u64::from_le_bytes(word));
    }
    digest
}

/// Spreads every bit of `word` over all (the finalizer of `SplitMix64`).
fn scramble(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
