//! OpenAI's chat completions, which most providers speak, each with an accent.
//!
//! ```text
//! encode   encode           a request into path and body
//! reader   Reader           the events of a stream into the answer
//! chunk    Chunk            one event, as lenient as the services are careless
//! calls    Calls            which call a piece of one belongs to
//! think    Think            `<think>` tags apart from the text
//! ```
//!
//! The invariant to remember: an answer is whole with a reason for its end **and** `[DONE]` or a
//! clean end of the body. `[DONE]` alone is none, but for the one service that forgets the reason.

mod calls;
mod chunk;
mod encode;
mod reader;
mod think;

pub(super) use self::encode::encode;
pub(super) use self::reader::Reader;

#[cfg(test)]
mod tests;
