//! The protocol as JSON text: for debugging, and for every language that is not Rust.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, CodecErrorReason, CodecId, Operation, Payload};
use crate::protocol::answer::{Completion, StreamEvent};
use crate::protocol::json::JsonError;
use crate::protocol::message::AIRequest;

/// Compact JSON in UTF-8, as the TypeScript interfaces of the protocol have it.
///
/// Nesting is bounded at 127 levels by serde_json, so a payload of brackets cannot exhaust the
/// stack.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonCodec;

impl Codec for JsonCodec {
    fn id(&self) -> CodecId {
        CodecId::JSON
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

fn encode<T: Serialize>(payload: Payload, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    serde_json::to_writer(&mut *out, value).map_err(|_| {
        out.truncate(start);
        failure(Operation::Encode, payload, JsonError::UNWRITABLE)
    })
}

fn decode<T: DeserializeOwned>(payload: Payload, bytes: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(bytes)
        .map_err(|error| failure(Operation::Decode, payload, JsonError::reading(&error)))
}

fn failure(operation: Operation, payload: Payload, error: JsonError) -> CodecError {
    CodecError { operation, payload, codec: CodecId::JSON, reason: CodecErrorReason::Json(error) }
}
