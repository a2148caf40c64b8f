//! The dialect of Amazon Bedrock's Converse: to be written.

use serde_json::Value;

use super::answer::Answer;
use super::decode;
use super::encode::Encoding;
use super::failure::{Class, Failure};
use super::framing::Frame;
use crate::protocol::AIRequest;

pub(super) fn encode(_: &Encoding<'_>, _: &AIRequest) -> Result<(String, Value), Failure> {
    Err(Failure::new(Class::BadRequest, "not written yet"))
}

/// The AWS event stream framing.
#[derive(Debug, Default)]
pub(super) struct EventStream {}

impl EventStream {
    pub(super) fn feed(&mut self, _: &[u8]) {}

    pub(super) fn finish(&mut self) {}

    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        Ok(None)
    }
}

#[derive(Debug, Default)]
pub(super) struct Reader {}

impl decode::Reader for Reader {
    fn read(&mut self, _: Frame<'_>, _: &mut Answer) -> Result<bool, Failure> {
        Err(Failure::bad_stream("not written yet"))
    }

    fn is_whole(&self, _: &Answer) -> bool {
        false
    }
}
