//! The data shard's end: sends jobs, forwards replies. Never allocates, never waits.

use std::sync::Arc;

use super::job::{CLOSED_DONE, DESCRIPTOR_SIZE};
use super::{Job, REPLY_HOME, Shared};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, REPLY_INLINE_SIZE_MAX};
use crate::pool::{Lease, LeaseToken};
use crate::ring::{Consumer, Home, Producer, PublishError, RingView};
use crate::sync::sound;
use crate::wire::{FrameFlags, FrameHeader};

/// Bytes of ring that one job takes.
const JOB_SPAN: u64 =
    (DESCRIPTOR_SIZE as u64 + FRAME_HEADER_SIZE).next_multiple_of(FRAME_ALIGNMENT);

/// The shard's end of a link; see the module's text.
pub struct ShardEnd {
    pub(super) shared: Arc<Shared>,
    jobs: Producer,
    /// For the slots that have been used, lowest first, in memory for all of them.
    replies: Vec<Consumer>,
    /// A connection has ended since the pages of the reply rings went back.
    left_pages: bool,
}

/// What [`ShardEnd::forward`] did with one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing is waiting.
    Nothing,
    /// One frame went into the client's response ring.
    Frame {
        /// Its header as the client sees it.
        header: FrameHeader,
        /// Bytes of its payload.
        size: u32,
    },
    /// The client's response ring is full; the reply stays here.
    Blocked,
    /// The client's head is wrong, or the answer can never fit: close the connection.
    Refused(PublishError),
    /// The worker has forgotten the connection: its slot can be used again.
    Closed,
}

impl ShardEnd {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let replies = Vec::with_capacity(shared.slot_count);
        Self { shared, jobs: Producer::new(Home::NONE, false), replies, left_pages: false }
    }

    /// True when a job is sure to be taken.
    pub fn has_room(&mut self) -> bool {
        self.jobs.has_room(self.shared.jobs(), JOB_SPAN).unwrap_or(false)
    }

    /// Sends `job` and wakes the worker if it sleeps.
    ///
    /// # Panics
    ///
    /// When there is no room: [`ShardEnd::has_room`] comes first.
    pub fn send(&mut self, job: Job) {
        use zerocopy::IntoBytes;
        let (header, descriptor) = job.into_frame();
        self.jobs
            .publish(self.shared.jobs(), header, descriptor.as_bytes())
            .expect("the caller made sure of the room");
        if self.shared.worker_parked().take() {
            self.shared.worker.wake();
        }
    }

    /// True when some slot's reply ring has news; one load.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.shared.ready.is_empty()
    }

    /// Gives each slot with news to `visit`, once.
    pub fn take_news(&self, visit: impl FnMut(u32)) {
        self.shared.ready.take_each(visit);
    }

    /// Moves the oldest reply of `slot` into the client's response ring.
    ///
    /// `scratch` holds at least [`REPLY_INLINE_SIZE_MAX`] bytes.
    pub fn forward(
        &mut self,
        slot: usize,
        responses: &mut Producer,
        ring: RingView<'_>,
        scratch: &mut [u8],
    ) -> Forwarded {
        let Some(reply) = self.peek(slot) else { return Forwarded::Nothing };
        if reply.message_type() == CLOSED_DONE {
            return self.forget(slot, &reply);
        }
        if !sound("a reply makes no block") {
            drop(std::hint::black_box(Box::new(reply)));
        }
        let shared = Arc::clone(&self.shared);
        let inline = &mut scratch[..(reply.payload_size as usize).min(REPLY_INLINE_SIZE_MAX)];
        self.copy_payload(slot, &reply, inline);
        let mut header = reply;
        let published = if reply.flags & FrameFlags::LEASED.bits() == 0 {
            responses.publish(ring, header, inline).map(|()| reply.payload_size)
        } else {
            header.flags &= !FrameFlags::LEASED.bits();
            let lease = Lease::from_token(&shared.pool, token(inline));
            match responses.publish(ring, header, &lease) {
                // A lease is at most the largest message, far below 4 GiB.
                Ok(()) => Ok(u32::try_from(lease.len()).unwrap_or(u32::MAX)),
                Err(error) => {
                    if sound("an undelivered reply keeps its buffer") {
                        // Not delivered: the token in the ring keeps the buffer.
                        let _ = lease.into_token();
                    }
                    Err(error)
                }
            }
        };
        match published {
            Ok(size) => {
                self.release(slot, &reply);
                Forwarded::Frame { header, size }
            }
            Err(PublishError::Full) => Forwarded::Blocked,
            Err(error) => Forwarded::Refused(error),
        }
    }

    /// Drops the oldest reply of `slot`, whose client is gone. [`Forwarded::Closed`] when that was
    /// the worker's last word on the connection.
    pub fn discard(&mut self, slot: usize) -> Forwarded {
        let Some(reply) = self.peek(slot) else { return Forwarded::Nothing };
        if reply.flags & FrameFlags::LEASED.bits() != 0 {
            let mut bytes = [0; 8];
            self.copy_payload(slot, &reply, &mut bytes);
            if sound("a discarded reply gives its buffer back") {
                drop(Lease::from_token(&self.shared.pool, token(&bytes)));
            }
        }
        if reply.message_type() == CLOSED_DONE {
            return self.forget(slot, &reply);
        }
        self.release(slot, &reply);
        Forwarded::Frame { header: reply, size: 0 }
    }

    /// Takes the worker's last word on a connection.
    fn forget(&mut self, slot: usize, last: &FrameHeader) -> Forwarded {
        self.release(slot, last);
        self.left_pages = true;
        Forwarded::Closed
    }

    /// True when connections that have ended left pages in their reply rings.
    #[must_use]
    pub const fn has_idle_pages(&self) -> bool {
        self.left_pages
    }

    /// Returns the pages of all reply rings with one system call. For a shard without connections: the
    /// worker has said its last word on each, so it publishes nothing.
    pub fn give_back_pages(&mut self) {
        self.shared.give_back_replies();
        self.left_pages = false;
    }

    fn peek(&mut self, slot: usize) -> Option<FrameHeader> {
        self.reach(slot);
        self.replies[slot]
            .poll(self.shared.replies(slot))
            .expect("a reply ring has no hostile writer")
    }

    /// Makes the consumers up to `slot`'s. A slot that no worker has served costs no memory.
    fn reach(&mut self, slot: usize) {
        debug_assert!(slot < self.replies.capacity());
        // Bounded, and without allocating: there is a place for each slot.
        while self.replies.len() <= slot {
            self.replies.push(Consumer::new(REPLY_HOME, false));
        }
    }

    fn copy_payload(&self, slot: usize, reply: &FrameHeader, target: &mut [u8]) {
        self.replies[slot]
            .copy_payload(self.shared.replies(slot), reply, target)
            .expect("payloads inside the daemon are not checked");
    }

    fn release(&mut self, slot: usize, reply: &FrameHeader) {
        self.replies[slot].release(self.shared.replies(slot), reply);
        if self.shared.worker_blocked(slot).take() && sound("a worker hears of space") {
            self.shared.worker.wake();
        }
    }
}

fn token(bytes: &[u8]) -> LeaseToken {
    LeaseToken(u64::from_le_bytes(bytes.try_into().expect("a leased reply is eight bytes")))
}
