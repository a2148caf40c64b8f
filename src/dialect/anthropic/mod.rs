//! Anthropic's messages (API version 2023-06-01).
//!
//! Sources: the vendor's client for Python (`anthropic` 2.14) and recordings of the service.

mod encode;
mod reader;
#[cfg(test)]
mod tests;
mod thoughts;
mod wire;

pub(super) use encode::encode;
pub(super) use reader::Reader;
