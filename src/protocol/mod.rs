//! The AI messages that travel in a frame's payload, and the codecs that turn them into bytes and
//! back.
//!
//! ```text
//! message    AIRequest, Message, ToolCall, Tool       what a client asks
//! validate   AIRequest::validate, InvalidRequest      what a request must satisfy beyond its types
//! answer     Completion, StreamEvent, Usage           what comes back, whole or piece by piece
//! json       JsonValue, JsonError                     arbitrary JSON inside a message
//! codec      Codec, JsonCodec, RkyvCodec, CodecError  bytes
//! ```
//!
//! The invariant to remember: **bytes come from a peer, so decoding is total and silent about
//! content.** No input makes a decoder panic or recurse without bound, and no error carries a piece
//! of the payload, because errors are logged and prompts are private.
//!
//! Decoding checks types only. Whoever acts on a request calls [`AIRequest::validate`] first, and
//! tells the client the [`InvalidRequest`] if there is one.
//!
//! ```
//! use annulus::protocol::{Codec, JsonCodec};
//!
//! let payload = br#"{"model":"loopback","messages":[{"role":"user","content":"hi"}],"maxTokens":0}"#;
//! let request = JsonCodec.decode_request(payload)?;
//! assert_eq!(
//!     request.validate().unwrap_err().to_string(),
//!     "maxTokens is 0; allowed: 1 or more"
//! );
//! # Ok::<(), annulus::protocol::CodecError>(())
//! ```

mod answer;
mod codec;
mod json;
mod message;
mod validate;

pub use answer::{Completion, FinishReason, StreamEvent, Usage};
pub use codec::{
    ArchiveError, Codec, CodecError, CodecErrorReason, CodecId, JsonCodec, Operation, Payload,
    RkyvCodec,
};
pub use json::{JsonError, JsonErrorKind, JsonValue};
pub use message::{AIRequest, Message, MessageRole, Tool, ToolCall};
pub use validate::{Field, InvalidRequest, Problem};
