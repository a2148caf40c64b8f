//! The six ways in which AI providers are asked and answer, as pure codecs.
//!
//! ```text
//! row rows      Row, Quirks, ROWS          what is particular about each kind of provider, as data
//! conversation  Conversation               a request in turns, as every dialect wants it
//! encode        Call                       what is sent: path, headers, body
//! framing       Frames                     bytes → events: SSE, NDJSON, AWS event stream
//! event         kind                       which event it is, in streams that name them
//! answer        Answer                     events → text, reasoning, tool calls, usage, the end
//! decode        Decoder                    both together: `feed`, `next_event`, `finish`
//! failure       Failure, Class             what went wrong, and who may try again
//! models        models_path, models_page   lists of models
//! refusal       refusal                    what a status, its headers and its body mean
//! json          parse, Text                JSON without copies, in bounds
//! openai anthropic gemini ollama bedrock cohere
//! ```
//!
//! A dialect streams always: *complete* collects, so there is one decoder to test, and a stalled
//! answer shows itself. Nothing here does I/O or reads a clock.
//!
//! The invariant to remember: **a body that ends without its dialect's proof of the end is a
//! failure**, never a short answer, and every input gives events or a failure, never a panic, in
//! memory bounded by [`EVENT_SIZE_MAX`] and [`ANSWER_SIZE_MAX`].

mod answer;
mod anthropic;
#[cfg(feature = "bedrock")]
mod bedrock;
mod cohere;
mod conversation;
mod decode;
mod encode;
mod event;
mod failure;
mod framing;
mod gemini;
mod json;
mod models;
mod ollama;
mod openai;
mod refusal;
mod row;
mod rows;
#[cfg(test)]
mod testing;

pub use answer::Keepsake;
#[cfg(feature = "bedrock")]
pub use bedrock::signature;
pub use decode::Decoder;
pub use encode::{Call, Encoding, Keepsakes, NoKeepsakes};
pub use failure::{Class, DETAIL_SIZE_MAX, Failure, Hints};
pub use models::{ModelsPage, models_page, models_path};
pub use refusal::refusal;
pub use row::{Auth, Dialect, Quirks, ROWS, Row, ToolIds, UrlForm};

/// Bytes of one event of a stream, its name and its line ends included.
pub const EVENT_SIZE_MAX: usize = 16 << 20;
/// Bytes of text, reasoning and tool arguments in one answer.
pub const ANSWER_SIZE_MAX: usize = 64 << 20;
/// Tool calls in one answer.
pub const TOOL_CALLS_MAX: usize = 256;
