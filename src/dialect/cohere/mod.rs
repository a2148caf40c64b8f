//! Cohere's chat, version 2.
//!
//! Sources: the vendor's client for Python (`cohere` 7.3) and its documents.

mod encode;
mod reader;
#[cfg(test)]
mod tests;
mod wire;

pub(super) use encode::encode;
pub(super) use reader::Reader;
