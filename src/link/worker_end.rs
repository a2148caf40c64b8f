//! The worker executor's end: takes jobs, publishes replies.

use std::sync::Arc;

use super::job::{CLOSED_DONE, DESCRIPTOR_SIZE};
use super::{Job, REPLY_HOME, Shared};
use crate::limits::{LEASED_REPLIES_PER_CONNECTION, REPLY_INLINE_SIZE_MAX};
use crate::pool::BufferPool;
use crate::ring::{Consumer, Home, Producer, PublishError};
use crate::sync::sound;
use crate::wire::{FrameFlags, FrameHeader, MessageType, Position};

/// The worker's end of a link; see the module's text.
pub struct WorkerEnd {
    shared: Arc<Shared>,
    jobs: Consumer,
    /// For the slots that have been used, lowest first, in memory for all of them.
    replies: Vec<Replies>,
}

/// The worker's half of one slot's reply ring.
struct Replies {
    producer: Producer,
    /// Where the last leased replies end, oldest first.
    leased: [Position; LEASED_REPLIES_PER_CONNECTION],
}

/// Why a reply was not published; try again when the worker is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The client does not read: its reply ring is full, or holds as many leases as it may.
    Full,
    /// The reply needs a buffer and none is free.
    NoLease,
    /// No buffer is that large.
    TooLarge,
}

impl WorkerEnd {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let replies = Vec::with_capacity(shared.slot_count);
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

    /// The core on which the shard sits with its client; see [`ShardWaker::beside`].
    ///
    /// [`ShardWaker::beside`]: crate::wake::ShardWaker::beside
    #[must_use]
    pub fn shard_beside(&self) -> Option<u32> {
        self.shared.shard.beside()
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
    /// [`ReplyError::Full`] passes, and the worker is woken when it makes sense to try again.
    /// [`ReplyError::NoLease`] passes too, but nobody rings: other connections give buffers back.
    /// [`ReplyError::TooLarge`] does not pass.
    pub fn publish(
        &mut self,
        slot: u32,
        mut header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        let slot = slot as usize;
        self.reach(slot);
        if payload.len() <= REPLY_INLINE_SIZE_MAX {
            return self.publish_inline(slot, header, payload);
        }
        if payload.len() as u64 > self.shared.pool.buffer_size_max() {
            return Err(ReplyError::TooLarge);
        }
        if !self.may_lease(slot) {
            // Armed before the second look, so the shard's next release either is seen or wakes us.
            self.shared.worker_blocked(slot).arm();
            if !self.may_lease(slot) {
                return Err(ReplyError::Full);
            }
        }
        let Some(mut lease) = self.shared.pool.lease_for_reply(payload.len()) else {
            return Err(ReplyError::NoLease);
        };
        lease.copy_from_slice(payload);
        header.flags |= FrameFlags::LEASED.bits();
        let token = lease.into_token();
        self.publish_inline(slot, header, &token.0.to_le_bytes()).inspect_err(|_| {
            drop(crate::pool::Lease::from_token(&self.shared.pool, token));
        })?;
        let Replies { producer, leased } = &mut self.replies[slot];
        leased.rotate_left(1);
        leased[LEASED_REPLIES_PER_CONNECTION - 1] = producer.tail();
        Ok(())
    }

    /// True when the shard has taken the oldest of the leased replies that a slot may have waiting.
    fn may_lease(&mut self, slot: usize) -> bool {
        let Replies { producer, leased: [oldest, ..] } = &mut self.replies[slot];
        let is_taken = |producer: &Producer| {
            producer.tail().since(producer.head_seen()) <= producer.tail().since(*oldest)
        };
        is_taken(producer) || {
            let looked = producer.is_drained(self.shared.replies(slot));
            looked.expect("a reply ring has no hostile reader");
            is_taken(producer)
        }
    }

    /// Where a slot's reply ring had its head when it was last looked at.
    #[must_use]
    pub fn head_seen(&self, slot: u32) -> Position {
        self.replies[slot as usize].producer.head_seen()
    }

    /// True when who found a slot's ring full, with its head there, can go on waiting: nothing has
    /// been freed since, and the shard's next release rings. With the flag taken it would not, and
    /// with the head moved there may be space, even if somebody else has armed the flag since.
    pub fn will_ring(&mut self, slot: u32, head: Position) -> bool {
        let slot = slot as usize;
        let looked = self.replies[slot].producer.is_drained(self.shared.replies(slot));
        looked.expect("a reply ring has no hostile reader");
        self.shared.worker_blocked(slot).is_armed()
            && self.replies[slot].producer.head_seen() == head
    }

    /// Tells the shard that nothing more comes for the connection that was in `slot`.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Full`], as in [`WorkerEnd::publish`].
    pub fn acknowledge_closed(&mut self, slot: u32) -> Result<(), ReplyError> {
        self.reach(slot as usize);
        self.publish_inline(slot as usize, FrameHeader::request(CLOSED_DONE, 0), &[])
    }

    /// The pool that jobs' payloads come from.
    #[must_use]
    pub fn pool(&self) -> &BufferPool {
        &self.shared.pool
    }

    /// Makes the producers up to `slot`'s. A slot that has had no reply costs no memory.
    fn reach(&mut self, slot: usize) {
        // Bounded, and within the capacity: there is a place for each slot.
        while self.replies.len() <= slot {
            let leased = [REPLY_HOME.start(); LEASED_REPLIES_PER_CONNECTION];
            self.replies.push(Replies { producer: Producer::new(REPLY_HOME, false), leased });
        }
    }

    fn publish_inline(
        &mut self,
        slot: usize,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        debug_assert_ne!(header.message_type(), MessageType::PADDING);
        let ring = self.shared.replies(slot);
        let producer = &mut self.replies[slot].producer;
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
