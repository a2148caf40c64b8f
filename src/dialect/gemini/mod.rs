//! Google's generateContent, of the Gemini API and of Vertex AI.
//!
//! ```text
//! encode    a request in its words
//! reader    its stream: each event is a whole response with the next pieces
//! ```
//!
//! The invariant to remember: **the reason for the end is not the end.** Usage may follow it, and no
//! event says that nothing more comes: an answer is whole when the body ends after a reason.
//!
//! On Vertex AI the base URL ends in `/publishers/google` (with project and location before it), and
//! path, body and stream are the same.

mod encode;
mod reader;
#[cfg(test)]
mod tests;

pub(super) use encode::encode;
pub(super) use reader::Reader;
