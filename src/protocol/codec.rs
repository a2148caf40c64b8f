//! Between the protocol's types and a frame's payload.
//!
//! A frame names its codec by [`CodecId`]. [`JsonCodec`] is the one to read and to debug, and the
//! one that every language has; [`RkyvCodec`] is the fast one between Rust programs. Users bring
//! their own through [`Codec`].

use std::fmt;

use super::answer::{Completion, StreamEvent};
use super::json::JsonError;
use super::message::AIRequest;

mod archive;
mod json;
#[cfg(test)]
mod tests;

pub use archive::{ArchiveError, RkyvCodec};
pub use json::JsonCodec;

/// Turns the protocol's types into bytes and back.
///
/// **Encoders append** to `out` and leave what is already there alone; on error `out` is as it was.
///
/// **Decoders are total**: a peer wrote `payload`, so every input gives a value or an error, never
/// a panic, and takes time and memory bounded by its length. `payload` need not be aligned, and
/// must hold one value and nothing after it. Decoding checks types; a request's values are checked
/// by [`AIRequest::validate`].
pub trait Codec: Send + Sync {
    /// What frames name this codec by.
    fn id(&self) -> CodecId;

    /// Appends `request` to `out`.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the request cannot be written in this form, as a temperature of NaN in JSON.
    fn encode_request(&self, request: &AIRequest, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a request from a frame's payload.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the payload is no request in this form. Answer that to the client; nothing
    /// else is affected.
    fn decode_request(&self, payload: &[u8]) -> Result<AIRequest, CodecError>;

    /// Appends `completion` to `out`.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the completion cannot be written in this form.
    fn encode_completion(
        &self,
        completion: &Completion,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError>;

    /// Reads a completion from a frame's payload.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the payload is no completion in this form.
    fn decode_completion(&self, payload: &[u8]) -> Result<Completion, CodecError>;

    /// Appends `event` to `out`.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the event cannot be written in this form.
    fn encode_stream_event(&self, event: &StreamEvent, out: &mut Vec<u8>)
    -> Result<(), CodecError>;

    /// Reads a stream event from a reply chunk's payload.
    ///
    /// # Errors
    ///
    /// [`CodecError`]: the payload is no stream event in this form.
    fn decode_stream_event(&self, payload: &[u8]) -> Result<StreamEvent, CodecError>;
}

/// What a frame names a codec by.
///
/// | range | whose |
/// |---|---|
/// | 0 | never a codec |
/// | 1 to 127 | this crate's |
/// | 128 to 255 | users' |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodecId(pub u8);

impl CodecId {
    /// [`JsonCodec`].
    pub const JSON: Self = Self(1);
    /// [`RkyvCodec`].
    pub const RKYV: Self = Self(2);

    /// Whether the id belongs to the users' range, 128 to 255.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 >= 128
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::JSON => f.write_str("JSON"),
            Self::RKYV => f.write_str("rkyv"),
            Self(id) => write!(f, "codec {id}"),
        }
    }
}

/// What a codec could not do: the act, the type, the codec, and why. Never a piece of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {payload} as {codec}: {reason}")]
pub struct CodecError {
    /// Reading or writing.
    pub operation: Operation,
    /// What was read or written.
    pub payload: Payload,
    /// By which codec.
    pub codec: CodecId,
    /// Why not, and where.
    pub reason: CodecErrorReason,
}

/// What a codec does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// From a value to bytes.
    Encode,
    /// From bytes to a value.
    Decode,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
        })
    }
}

/// The types that codecs carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// An [`AIRequest`].
    Request,
    /// A [`Completion`].
    Completion,
    /// A [`StreamEvent`].
    StreamEvent,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "a request",
            Self::Completion => "a completion",
            Self::StreamEvent => "a stream event",
        })
    }
}

/// Why a codec could not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecErrorReason {
    /// The JSON is bad.
    #[error(transparent)]
    Json(JsonError),
    /// The rkyv archive is bad.
    #[error(transparent)]
    Archive(ArchiveError),
    /// A user's codec says so. The text is `'static` so that it cannot be made of a payload.
    #[error("{0}")]
    Other(&'static str),
}
