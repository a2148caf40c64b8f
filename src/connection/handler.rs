//! Synchronous handlers: what they are given, and how they answer.

use std::sync::Arc;

use crate::error::IpcError;
use crate::limits::FRAME_ALIGNMENT;
use crate::protocol::Codec;
use crate::ring::{Producer, PublishError, RingView};
use crate::wire::{Fault, FrameHeader, MessageType, Status, span};

/// Answers requests of one message type, on a data shard.
///
/// It runs between two looks at other connections, so it must be quick: microseconds, no waiting,
/// no system calls, and no allocation if the shard is to stay free of them. What cannot promise that
/// is an asynchronous handler. A panic is answered with [`Status::HandlerPanic`].
///
/// Any `Fn(&Request<'_>, &mut Responder<'_>) -> Result<(), IpcError>` is one.
pub trait Handler: Send + Sync {
    /// Answers `request`: any number of chunks, then at most one reply. Returning without a reply
    /// sends an empty one.
    ///
    /// # Errors
    ///
    /// Becomes the answer's [`Status`] and its text.
    fn handle(&self, request: &Request<'_>, responder: &mut Responder<'_>) -> Result<(), IpcError>;
}

impl<F> Handler for F
where
    F: Fn(&Request<'_>, &mut Responder<'_>) -> Result<(), IpcError> + Send + Sync,
{
    fn handle(&self, request: &Request<'_>, responder: &mut Responder<'_>) -> Result<(), IpcError> {
        self(request, responder)
    }
}

/// One request, copied out of shared memory.
pub struct Request<'r> {
    pub(super) message_type: MessageType,
    pub(super) request_id: u64,
    pub(super) payload: &'r [u8],
    pub(super) codec: &'r Arc<dyn Codec>,
    pub(super) connection_id: u64,
}

impl Request<'_> {
    /// The message type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The client's id for this request, unique among its own.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        self.request_id
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload
    }

    /// The codec that the connection chose for AI payloads.
    #[must_use]
    pub fn codec(&self) -> &dyn Codec {
        &**self.codec
    }

    /// The connection's number in the daemon's statistics.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.connection_id
    }
}

/// Puts a handler's answer into the client's response ring.
///
/// Room for an answer as large as the request, and for 4 KiB in any case, was made sure of before
/// the handler ran. All frames of the answer share it.
// Made once for a run of requests: each sets only what differs.
pub struct Responder<'r> {
    producer: &'r mut Producer,
    ring: RingView<'r>,
    request_id: u64,
    message_type: MessageType,
    stage: Stage,
    /// Bytes of ring that this answer may still take.
    room: u64,
    /// Frames published, and bytes of payload, not only for this answer.
    frames: u32,
    bytes: u64,
}

/// How far an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of it is published.
    Open,
    /// A part of it is.
    Begun,
    /// All of it is.
    Finished,
}

impl<'r> Responder<'r> {
    #[inline(always)]
    pub(super) fn new(producer: &'r mut Producer, ring: RingView<'r>) -> Self {
        Self {
            producer,
            ring,
            request_id: 0,
            message_type: MessageType::PADDING,
            // No request is being answered.
            stage: Stage::Finished,
            room: 0,
            frames: 0,
            bytes: 0,
        }
    }

    /// A handler is about to answer this request, in no more than `room` bytes of ring.
    #[inline(always)]
    pub(super) fn begin(&mut self, message_type: MessageType, request_id: u64, room: u64) {
        self.message_type = message_type;
        self.request_id = request_id;
        self.stage = Stage::Open;
        self.room = room;
    }

    /// Frames published since this was last asked, and their bytes.
    pub(super) fn take_published(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.frames).into(), std::mem::take(&mut self.bytes))
    }

    /// [`Producer::has_room`].
    #[inline(always)]
    pub(super) fn has_room(&mut self, span: u64) -> Result<bool, Fault> {
        self.producer.has_room(self.ring, span)
    }

    /// [`Producer::all_taken`].
    #[inline(always)]
    pub(super) fn all_taken(&mut self) {
        self.producer.all_taken();
    }

    /// [`Producer::prefetch_run`].
    #[inline(always)]
    pub(super) fn prefetch_run(&self) {
        self.producer.prefetch_run(self.ring);
    }

    /// [`Producer::hold`].
    #[inline(always)]
    pub(super) fn hold(&mut self) {
        self.producer.hold();
    }

    /// [`Producer::reveal`].
    #[inline(always)]
    pub(super) fn reveal(&mut self) {
        self.producer.reveal(self.ring);
    }

    /// Sends a part of the answer.
    ///
    /// # Errors
    ///
    /// [`IpcError::MessageTooLarge`]: the answer as a whole is larger than a synchronous handler's
    /// may be. Return it, and serve this type asynchronously.
    pub fn chunk(&mut self, payload: &[u8]) -> Result<(), IpcError> {
        self.publish(FrameHeader::request(self.message_type, self.request_id), payload)
    }

    /// Sends the last part of the answer, or all of it.
    ///
    /// # Errors
    ///
    /// As [`Responder::chunk`].
    #[inline]
    pub fn reply(&mut self, payload: &[u8]) -> Result<(), IpcError> {
        self.publish(self.last(Status::Ok), payload)
    }

    /// Ends the answer if the handler did not: with `status`, and text for a person.
    #[inline(always)]
    pub(super) fn finish(&mut self, status: Status, detail: &[u8]) -> Result<(), PublishError> {
        if self.stage == Stage::Finished { Ok(()) } else { self.publish_end(status, detail) }
    }

    #[inline(never)]
    fn publish_end(&mut self, status: Status, detail: &[u8]) -> Result<(), PublishError> {
        self.put(self.last(status), detail)
    }

    #[inline(always)]
    fn last(&self, status: Status) -> FrameHeader {
        FrameHeader::last(self.message_type, self.request_id, status)
    }

    #[inline(always)]
    fn put(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), PublishError> {
        if header.is_last() && self.stage == Stage::Open {
            self.producer.publish(self.ring, header, payload)?;
        } else {
            // One of several frames: they share the room that was promised.
            self.producer.publish_onward(self.ring, header, payload)?;
        }
        self.stage = if header.is_last() { Stage::Finished } else { Stage::Begun };
        self.frames += 1;
        self.bytes += payload.len() as u64;
        Ok(())
    }

    // The header is made by the caller: inlined, it never leaves the registers (`ring::Look`).
    #[inline(always)]
    fn publish(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), IpcError> {
        let too_large = |max| IpcError::MessageTooLarge { size: payload.len() as u64, max };
        if self.stage == Stage::Finished {
            return Err(IpcError::Internal { detail: "the request was already answered".into() });
        }
        let Ok(size) = u32::try_from(payload.len()) else { return Err(too_large(self.room)) };
        let span = span(size);
        // One unit stays for the error answer that may follow.
        let left = self.room.saturating_sub(FRAME_ALIGNMENT);
        if span > self.room || (header.status == 0 && !header.is_last() && span > left) {
            return Err(too_large(self.room));
        }
        match self.put(header, payload) {
            Ok(()) => {
                self.room -= span;
                Ok(())
            }
            Err(PublishError::Fault(fault)) => Err(IpcError::Fault(fault)),
            Err(_) => Err(too_large(self.room)),
        }
    }
}
