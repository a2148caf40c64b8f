//! The dialect of Amazon Bedrock's Converse: JSON in, an AWS event stream out.
//!
//! ```text
//! encode         what is sent
//! event_stream   bytes → events, each under two checksums; an exception is a failure
//! reader         events → the answer
//! signature      what authorises a request: Signature Version 4, or a Bedrock API key
//! ```
//!
//! Source: the *Amazon Bedrock API Reference* (ConverseStream) and recordings of the service.

mod encode;
mod event_stream;
mod reader;
pub mod signature;
#[cfg(test)]
pub(super) mod tests;

pub(super) use encode::encode;
pub(super) use event_stream::EventStream;
pub(super) use reader::Reader;
