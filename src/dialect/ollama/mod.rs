//! Ollama's chat, local and in its cloud.
//!
//! The invariant to remember: **status 200 and a line say little.** A failure after the start is a line
//! `{"error": …}`, and only a line with `"done": true` makes the answer whole.

mod encode;
mod reader;
#[cfg(test)]
mod tests;

pub(super) use encode::encode;
pub(super) use reader::Reader;
