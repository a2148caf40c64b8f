//! The dialect openai: to be written.

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

#[derive(Debug, Default)]
pub(super) struct Reader {}

impl Reader {
    pub(super) fn new(_: &super::Quirks) -> Self {
        Self {}
    }
}

impl decode::Reader for Reader {
    fn read(&mut self, _: Frame<'_>, _: &mut Answer) -> Result<bool, Failure> {
        Err(Failure::bad_stream("not written yet"))
    }

    fn is_whole(&self, _: &Answer) -> bool {
        false
    }
}
