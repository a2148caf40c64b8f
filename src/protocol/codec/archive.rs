//! The protocol as rkyv archives: no parsing between Rust programs, and still nothing trusted.
//!
//! The invariant to remember: an archive is only looked at through bytecheck's validation, on
//! memory that nobody else can write. A frame's payload is copied out of the ring before it comes
//! here.

use std::any::Any;
use std::error::Error;
use std::fmt;

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::{
    CheckBytes, NamedEnumVariantCheckContext, StructCheckContext, TupleStructCheckContext,
};
use rkyv::rancor::{Source, Trace};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Archived, Deserialize, Serialize};

use super::{Codec, CodecError, CodecErrorReason, CodecId, Operation, Payload};
use crate::protocol::answer::{Completion, StreamEvent};
use crate::protocol::json::JsonError;
use crate::protocol::message::AIRequest;

/// What an archive's first byte has to be aligned to, in bytes: the largest alignment inside one,
/// that of `f64` and `u64`. Validation refuses a pointer that is not aligned, so a wrong number
/// here would fail loudly.
const ARCHIVE_ALIGNMENT: usize = 8;

const _: () = {
    assert!(align_of::<Archived<AIRequest>>() <= ARCHIVE_ALIGNMENT);
    assert!(align_of::<Archived<Completion>>() <= ARCHIVE_ALIGNMENT);
    assert!(align_of::<Archived<StreamEvent>>() <= ARCHIVE_ALIGNMENT);
};

/// rkyv archives in rkyv's default format: little-endian, 32-bit relative pointers, the root at the
/// end.
///
/// An archive has no field names and no tags: both sides have to be built from the same version of
/// these types. Arbitrary JSON is text inside the archive and nests at most 127 levels deep;
/// nothing else in it nests without bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct RkyvCodec;

impl Codec for RkyvCodec {
    fn id(&self) -> CodecId {
        CodecId::RKYV
    }

    fn encode_request(&self, request: &AIRequest, out: &mut Vec<u8>) -> Result<(), CodecError> {
        encode(Payload::Request, request, out)
    }

    fn decode_request(&self, payload: &[u8]) -> Result<AIRequest, CodecError> {
        decode(Payload::Request, payload)
    }

    fn encode_completion(
        &self,
        completion: &Completion,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        encode(Payload::Completion, completion, out)
    }

    fn decode_completion(&self, payload: &[u8]) -> Result<Completion, CodecError> {
        decode(Payload::Completion, payload)
    }

    fn encode_stream_event(
        &self,
        event: &StreamEvent,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        encode(Payload::StreamEvent, event, out)
    }

    fn decode_stream_event(&self, payload: &[u8]) -> Result<StreamEvent, CodecError> {
        decode(Payload::StreamEvent, payload)
    }
}

fn encode<T>(payload: Payload, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>
where
    T: for<'a, 'o> Serialize<HighSerializer<Appender<'o>, ArenaHandle<'a>, ArchiveError>>,
{
    let start = out.len();
    let written = to_bytes_in(value, Appender { out, start }).map(drop);
    written.map_err(|error| {
        out.truncate(start);
        failure(Operation::Encode, payload, error)
    })
}

fn decode<T>(payload: Payload, bytes: &[u8]) -> Result<T, CodecError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, HighDeserializer<ArchiveError>>,
{
    let value = if bytes.as_ptr().addr().is_multiple_of(ARCHIVE_ALIGNMENT) {
        rkyv::from_bytes(bytes)
    } else {
        let mut aligned = AlignedVec::<ARCHIVE_ALIGNMENT>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes(&aligned)
    };
    value.map_err(|error| failure(Operation::Decode, payload, error))
}

fn failure(operation: Operation, payload: Payload, error: ArchiveError) -> CodecError {
    CodecError {
        operation,
        payload,
        codec: CodecId::RKYV,
        reason: CodecErrorReason::Archive(error),
    }
}

/// Writes an archive to the end of a vector as if the vector began there, so that the archive's
/// padding does not depend on what is before it and the archive can be cut out and read alone.
struct Appender<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl Positional for Appender<'_> {
    fn pos(&self) -> usize {
        self.out.len() - self.start
    }
}

impl<E> Writer<E> for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Why an archive could not be read or written, without its content.
///
/// rkyv reports through the error type that it is given. This one keeps the innermost field that
/// validation was in, and the [`JsonError`] of JSON text inside the archive; it drops rkyv's own
/// text, which holds memory addresses and payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The bytes are no archive of this type: truncated, misdirected pointers, a wrong
    /// discriminant, not UTF-8.
    Invalid {
        /// The innermost field known to be bad, as type and field name; `None` at the root.
        field: Option<(&'static str, &'static str)>,
    },
    /// The archive holds JSON text that is not JSON.
    Json(JsonError),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field: None } => f.write_str("the archive is invalid"),
            Self::Invalid { field: Some((type_name, field)) } => {
                let type_name = type_name.trim_start_matches("Archived");
                write!(f, "the archive is invalid at `{field}` of {type_name}")
            }
            Self::Json(error) => write!(f, "in JSON text inside the archive: {error}"),
        }
    }
}

impl Error for ArchiveError {}

impl Source for ArchiveError {
    fn new<T: Error + Send + Sync + 'static>(source: T) -> Self {
        match (&source as &dyn Any).downcast_ref() {
            Some(&json) => Self::Json(json),
            None => Self::Invalid { field: None },
        }
    }
}

impl Trace for ArchiveError {
    /// Called from the innermost field outwards; the first name is the most precise and stays.
    fn trace<R: fmt::Debug + fmt::Display + Send + Sync + 'static>(self, trace: R) -> Self {
        match self {
            Self::Invalid { field: None } => Self::Invalid { field: field_name(&trace) },
            known => known,
        }
    }
}

/// The names in one of bytecheck's contexts, which are those of our own types.
fn field_name(trace: &dyn Any) -> Option<(&'static str, &'static str)> {
    if let Some(context) = trace.downcast_ref::<StructCheckContext>() {
        Some((context.struct_name, context.field_name))
    } else if let Some(context) = trace.downcast_ref::<NamedEnumVariantCheckContext>() {
        Some((context.variant_name, context.field_name))
    } else {
        let context = trace.downcast_ref::<TupleStructCheckContext>()?;
        Some((context.tuple_struct_name, "0"))
    }
}
