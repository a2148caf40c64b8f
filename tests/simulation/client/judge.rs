//! What a client holds against the daemon: every frame, and every end.

use annulus::limits::DETAIL_SIZE_MAX;
use annulus::wire::{FrameHeader, Goodbye, Status};

use super::super::stage::Stage;
use super::{Client, Honesty, State};

impl Client {
    /// Compares a frame with what the request must get.
    pub(super) fn judge(&mut self, header: &FrameHeader, payload: &[u8], stage: &Stage) {
        let (client, id, status) = (self.index, header.request_id, header.status());
        let Some(asked) = self.asked.get_mut(&id) else {
            panic!("client {client} got a frame for {id}, which it does not wait for: {header:?}");
        };
        assert_eq!(header.message_type(), asked.kind.message_type(), "client {client}, {id}");
        if !header.is_last() {
            assert_eq!(status, Status::Ok, "client {client}, {id}: a chunk");
            let expected = asked.answer.chunks.get(asked.chunks_seen);
            let seen = asked.chunks_seen;
            let is_right = expected.is_some_and(|expected| expected == payload);
            assert!(is_right, "client {client}, {id}: chunk {seen} has other bytes");
            asked.chunks_seen += 1;
            return;
        }
        let accepted = match status {
            Status::MessageTooLarge if asked.is_oversized => true,
            Status::ShuttingDown => stage.draining.get(),
            Status::Cancelled => asked.cancelled,
            Status::Timeout => asked.deadline.is_some_and(|deadline| deadline <= stage.now()),
            Status::Busy => asked.may_be_busy,
            other => other == asked.kind.status() && !asked.is_oversized,
        };
        assert!(accepted, "client {client}: {:?} {id} ended with {status:?}", asked.kind);
        if status == Status::Ok {
            assert_eq!(asked.chunks_seen, asked.answer.chunks.len(), "client {client}, {id}");
            assert!(payload == asked.answer.last, "client {client}, {id}: the last frame's bytes");
        } else {
            assert!(payload.len() <= DETAIL_SIZE_MAX as usize, "client {client}, {id}");
        }
        self.asked.remove(&id);
        self.ended_ids.push(id);
    }

    /// The daemon has hung up on an honest client: was that right?
    pub(super) fn accept_end(&self, goodbye: Option<Goodbye>, stage: &Stage) {
        let client = self.index;
        let goodbye =
            goodbye.unwrap_or_else(|| panic!("client {client} was left without a goodbye"));
        let is_oversized = || self.asked.values().any(|asked| asked.is_oversized);
        match Status::from_wire(goodbye.status) {
            // Judged when it was closed.
            Status::IdleTimeout => {}
            Status::MessageTooLarge => {
                assert!(is_oversized() || self.to_send == 0, "client {client} sent nothing large");
            }
            Status::ShuttingDown => {
                assert!(stage.draining.get(), "client {client}: nobody stopped the daemon");
                let head = self.request_head();
                let taken = self.asked.iter().find(|(_, asked)| asked.end <= head);
                assert!(
                    stage.hard.get() || taken.is_none(),
                    "client {client}: {:?} was taken and not answered",
                    taken.map(|(id, _)| id)
                );
            }
            other => {
                panic!("client {client} is honest and got {other:?}, {:?}", goodbye.fault_name())
            }
        }
    }

    /// True when a polled connection of this state has its oldest request taken whatever happens: it
    /// waits for no worker, no buffer and no space.
    pub(crate) fn cannot_be_blocked(&mut self) -> bool {
        let head = self.request_head();
        while self.untaken.front().is_some_and(|frame| frame.end <= head) {
            self.untaken.pop_front();
        }
        let Some(oldest) = self.untaken.front() else { return false };
        // With nothing in the response ring, and no reply on its way, an answer finds its room. Even one
        // unread frame may stand behind padding that takes the rest of the ring.
        self.honesty == Honesty::Honest
            && !self.is_gone()
            && !oldest.may_wait
            && self.responses.is_empty(self.view().response_ring())
            && !self.asked.values().any(|asked| asked.kind.is_work())
    }

    /// True when it sleeps with a request in its ring, has rung, and has read all that there is: whatever
    /// the shard waits for, it is not this client.
    pub(crate) fn waits_for_the_shard(&self, now: u64) -> bool {
        self.honesty == Honesty::Honest
            && self.state == State::Parked { until: None }
            && self.stalled_until <= now
            && self.hang_up.is_none()
            && !self.unnotified
            && self.responses.is_empty(self.view().response_ring())
            && self.request_head() < self.requests.tail().0
    }

    /// The connection was closed for idleness: it must not have been waiting for the daemon.
    pub(crate) fn accept_idleness(&self, now: u64, timeout_ns: u64) {
        let before = now.saturating_sub(timeout_ns);
        let has_read_all = self.responses.is_empty(self.view().response_ring());
        if self.honesty != Honesty::Honest || !has_read_all || self.last_read_at > before {
            return;
        }
        let head = self.request_head();
        for (id, asked) in &self.asked {
            let waits = asked.end > head || asked.kind.is_work();
            assert!(
                !waits || asked.sent_at > before,
                "client {} was closed as idle while its request {id} waited for the daemon",
                self.index
            );
        }
    }
}
