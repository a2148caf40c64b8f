//! The worker executor's end: takes jobs, publishes replies.

use std::sync::Arc;

use super::job::{CLOSED_DONE, DESCRIPTOR_SIZE};
use super::{Job, REPLY_HOME, Shared};
use crate::limits::REPLY_INLINE_SIZE_MAX;
use crate::pool::BufferPool;
use crate::ring::{Consumer, Home, Producer, PublishError};
use crate::sync::sound;
use crate::wire::{FrameFlags, FrameHeader, MessageType};

/// The worker's end of a link; see the module's text.
pub struct WorkerEnd {
    shared: Arc<Shared>,
    jobs: Consumer,
    replies: Box<[Producer]>,
}

/// Why a reply was not published; try again when the worker is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The client does not read: its reply ring is full.
    Full,
    /// The reply needs a buffer and none is free.
    NoLease,
    /// No buffer is that large.
    TooLarge,
}

impl WorkerEnd {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let replies = (0..shared.slot_count).map(|_| Producer::new(REPLY_HOME, false)).collect();
        Self { shared, jobs: Consumer::new(Home::NONE, false), replies }
    }

    /// Takes the oldest job.
    pub fn take(&mut self) -> Option<Job> {
        let ring = self.shared.jobs();
        let header = self.jobs.poll(ring).expect("a job ring has no hostile writer")?;
        let mut bytes = [0; DESCRIPTOR_SIZE];
        self.jobs.copy_payload(ring, &header, &mut bytes).expect("not checked");
        self.jobs.release(ring, &header);
        Some(Job::from_frame(header, &bytes, &self.shared.pool))
    }

    /// Announces that the worker is about to sleep; it looks at all its links once more before.
    pub fn arm(&self) {
        self.shared.worker_parked().arm();
    }

    /// The worker is awake.
    pub fn disarm(&self) {
        self.shared.worker_parked().disarm();
    }

    /// True when a job waits.
    #[must_use]
    pub fn has_job(&self) -> bool {
        !self.jobs.is_empty(self.shared.jobs())
    }

    /// Publishes one reply frame for the connection in `slot` and wakes the shard if it sleeps.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Full`] and [`ReplyError::NoLease`] pass: the worker is woken when it makes sense
    /// to try again (for `NoLease`: at the next wake-up). [`ReplyError::TooLarge`] does not.
    pub fn publish(
        &mut self,
        slot: u32,
        mut header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        let slot = slot as usize;
        if payload.len() <= REPLY_INLINE_SIZE_MAX {
            return self.publish_inline(slot, header, payload);
        }
        if payload.len() as u64 > self.shared.pool.buffer_size_max() {
            return Err(ReplyError::TooLarge);
        }
        let Some(mut lease) = self.shared.pool.lease(payload.len()) else {
            self.shared.worker_blocked(slot).arm();
            return Err(ReplyError::NoLease);
        };
        lease.copy_from_slice(payload);
        header.flags |= FrameFlags::LEASED.bits();
        let token = lease.into_token();
        self.publish_inline(slot, header, &token.0.to_le_bytes()).inspect_err(|_| {
            drop(crate::pool::Lease::from_token(&self.shared.pool, token));
        })
    }

    /// Tells the shard that nothing more comes for the connection that was in `slot`.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Full`], as in [`WorkerEnd::publish`].
    pub fn acknowledge_closed(&mut self, slot: u32) -> Result<(), ReplyError> {
        self.publish_inline(slot as usize, FrameHeader::request(CLOSED_DONE, 0), &[])
    }

    /// The pool that jobs' payloads come from.
    #[must_use]
    pub fn pool(&self) -> &BufferPool {
        &self.shared.pool
    }

    fn publish_inline(
        &mut self,
        slot: usize,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        debug_assert_ne!(header.message_type(), MessageType::PADDING);
        let ring = self.shared.replies(slot);
        let producer = &mut self.replies[slot];
        let mut published = producer.publish(ring, header, payload);
        if published == Err(PublishError::Full) {
            // Armed before the second look, so the shard's next release either is seen or wakes us.
            self.shared.worker_blocked(slot).arm();
            if sound("second look at a full ring") {
                published = producer.publish(ring, header, payload);
            }
        }
        match published {
            Ok(()) => {
                self.shared.ready.add(slot);
                if sound("a reply wakes a parked shard") {
                    self.shared.shard.wake_if_parked();
                }
                Ok(())
            }
            Err(PublishError::Full) => Err(ReplyError::Full),
            Err(error) => panic!("a reply ring has no hostile reader: {error}"),
        }
    }
}
