//! One visit to one connection: take frames while there is budget, answer each or pass it on. Those that
//! synchronous handlers answer are taken in runs ([`Ends::run`]).

use std::sync::Arc;

use super::in_flight::{InFlight, InFlightTable};
use super::routes::{Route, Routes};
use super::run::Stopped;
use super::scratch::Scratch;
use super::{Clock, Ending, Ends, Timestamp};
use crate::limits::{
    BYTES_HELD_MAX, DETAIL_SIZE_MAX, FRAMES_HELD_MAX, FRAMES_PER_VISIT, IN_FLIGHT_PER_CONNECTION,
};
use crate::link::{Forwarded, Job, JobKind, ShardEnd};
use crate::metrics::{LeaseTier, MessageKind, ShardMetrics};
use crate::pool::BufferPool;
use crate::protocol::Codec;
use crate::region::{RegionMemory, RegionView};
use crate::ring::{Look, PublishError, RingView};
use crate::sync::sound;
use crate::wire::{Fault, FrameFlags, FrameHeader, HeaderWords, MessageType, Status, span};

/// One in this many synchronous requests is timed: reading the clock twice costs as much as serving
/// a small one.
const LATENCY_SAMPLE_INTERVAL: u64 = 64;

/// What a visit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// Nothing to do.
    Quiet,
    /// Frames were taken.
    Busy,
    /// A frame waits for space in the response ring.
    BlockedOnClient,
    /// A frame waits for a buffer or for room with a worker.
    BlockedOnWorker,
    /// The connection must be closed.
    End(Ending),
}

/// What all connections of a shard share during a turn.
pub(super) struct Shared<'s> {
    pub(super) routes: &'s Routes,
    pub(super) codecs: &'s [Arc<dyn Codec>],
    pub(super) links: &'s mut [ShardEnd],
    pub(super) in_flight: &'s mut InFlightTable,
    pub(super) pool: &'s BufferPool,
    pub(super) scratch: &'s mut Scratch,
    pub(super) metrics: &'s ShardMetrics,
    pub(super) clock: &'s dyn Clock,
    pub(super) draining: bool,
}

impl Shared<'_> {
    /// Counts that no buffer of `size` bytes was free. The frame waits for one.
    #[cold]
    pub(super) fn miss_lease(&self, size: usize) -> Visit {
        let tier = LeaseTier::ALL[self.pool.tier_for(size) as usize];
        self.metrics.tier(tier).lease_misses_total.increment();
        Visit::BlockedOnWorker
    }
}

/// What one visit may take: after the last frame that is within both, it ends.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub(super) frames: u32,
    /// Of payload; the frame that goes beyond it is taken whole.
    pub(super) bytes: u64,
    /// How often it looks for its first frame, at least once.
    pub(super) looks: u32,
}

/// How far a visit is.
pub(super) struct Progress {
    budget: Budget,
    frames: u32,
    bytes: u64,
    /// How many of these bytes had been taken when the answers were last shown.
    bytes_shown: u64,
    /// How many frames and bytes are in the statistics.
    frames_counted: u32,
    bytes_counted: u64,
}

impl Progress {
    fn new(budget: Budget) -> Self {
        Self { budget, frames: 0, bytes: 0, bytes_shown: 0, frames_counted: 0, bytes_counted: 0 }
    }

    /// True when a frame was taken.
    #[inline(always)]
    pub(super) fn has_begun(&self) -> bool {
        self.frames > 0
    }

    /// What the visit found, when `now` stands in the way of a next frame.
    #[inline(always)]
    pub(super) fn visit(&self, now: Visit) -> Visit {
        if self.has_begun() { Visit::Busy } else { now }
    }

    /// True when no frame was found yet, and another look is due.
    #[inline(always)]
    pub(super) fn looks_again(&mut self) -> bool {
        self.budget.looks = self.budget.looks.saturating_sub(1);
        self.budget.looks > 0 && !self.has_begun()
    }

    /// Counts a frame that was taken; true when the budget is used up.
    #[inline(always)]
    pub(super) fn take(&mut self, payload_size: u32) -> bool {
        self.frames += 1;
        self.bytes += u64::from(payload_size);
        self.bytes >= self.budget.bytes
            || self.frames >= self.budget.frames && sound("a visit has a budget")
    }

    /// Frames, and bytes of payload, that were taken since this was last asked.
    pub(super) fn take_uncounted(&mut self) -> (u64, u64) {
        let (frames, bytes) = (self.frames - self.frames_counted, self.bytes - self.bytes_counted);
        (self.frames_counted, self.bytes_counted) = (self.frames, self.bytes);
        (frames.into(), bytes)
    }

    /// True when the next request is to be timed, where `counted` have been counted.
    #[inline(always)]
    pub(super) fn is_sampled(&self, counted: u64) -> bool {
        let served = counted + u64::from(self.frames - self.frames_counted);
        served.is_multiple_of(LATENCY_SAMPLE_INTERVAL)
    }

    /// True when the answers so far are to be shown: the first, and then several at a time.
    #[inline(always)]
    pub(super) fn is_time_to_show(&mut self) -> bool {
        let shows =
            self.frames % FRAMES_HELD_MAX == 1 || self.bytes - self.bytes_shown > BYTES_HELD_MAX;
        if shows {
            self.bytes_shown = self.bytes;
        }
        shows
    }
}

/// What became of one frame.
enum Taken {
    /// It was answered or sent on, and is to be released.
    Done,
    /// It stays in the ring.
    Blocked(Visit),
}

impl From<PublishError> for Ending {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Fault(fault) => Self::Fault(fault),
            // Room was made sure of, so only a ring too small for its own answers comes here.
            PublishError::Full | PublishError::TooLarge { .. } => Self::TooLarge,
        }
    }
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Ends {
    /// Takes frames, as many as `budget` allows. `slot` is the connection's place in the
    /// table.
    ///
    /// The answer to the first is seen at once. Where there are more, the client keeps many under way
    /// and their answers are shown several at a time.
    #[inline]
    pub(super) fn visit<M: RegionMemory>(
        &mut self,
        memory: &M,
        slot: u32,
        shared: &mut Shared<'_>,
        now: Timestamp,
        budget: Budget,
    ) -> Visit {
        let view = memory.view();
        let visit = self.take_frames(memory, slot, shared, now, budget);
        self.responses.reveal(view.response_ring());
        if visit == Visit::Busy {
            self.requests.release_passed(view.request_ring());
            self.last_active = now;
        }
        visit
    }

    /// True when another request waits; padding is no request. What is broken, the next visit finds.
    #[inline]
    pub(super) fn has_request(&mut self, ring: RingView<'_>) -> bool {
        matches!(self.requests.look(ring), Look::Frame(_))
    }

    #[inline(always)]
    fn take_frames<M: RegionMemory>(
        &mut self,
        memory: &M,
        slot: u32,
        shared: &mut Shared<'_>,
        now: Timestamp,
        budget: Budget,
    ) -> Visit {
        let mut progress = Progress::new(budget);
        // Bounded by the budget: each round but the last takes a frame.
        loop {
            let header = match self.run(memory, shared, &mut progress) {
                Stopped::Here(visit) => return visit,
                Stopped::Before(header) => header.header(),
            };
            let size = header.payload_size;
            match self.take(memory.view(), slot, header, shared, now) {
                Ok(Taken::Done) => {}
                Ok(Taken::Blocked(blocked)) => return progress.visit(blocked),
                Err(ending) => return Visit::End(ending),
            }
            let is_over = progress.take(size);
            let (requests, bytes) = progress.take_uncounted();
            self.statistics.requests += requests;
            self.statistics.request_bytes += bytes;
            if is_over {
                return Visit::Busy;
            }
            if progress.is_time_to_show() {
                self.responses.reveal(memory.view().response_ring());
            }
            self.responses.hold();
        }
    }

    /// True when a worker may have replies for this connection.
    #[inline(always)]
    pub(super) const fn has_asked_workers(&self) -> bool {
        self.workers_used != 0
    }

    /// Moves replies of workers into the response ring, up to the budget.
    #[inline(always)]
    pub(super) fn forward_replies(
        &mut self,
        view: RegionView<'_>,
        slot: u32,
        shared: &mut Shared<'_>,
        now: Timestamp,
    ) -> Visit {
        if self.has_asked_workers() { self.forward(view, slot, shared, now) } else { Visit::Quiet }
    }

    /// [`Ends::forward_replies`] where there may be some.
    #[inline(never)]
    fn forward(
        &mut self,
        view: RegionView<'_>,
        slot: u32,
        shared: &mut Shared<'_>,
        now: Timestamp,
    ) -> Visit {
        let mut result = Visit::Quiet;
        let before = self.statistics.responses;
        for worker in 0..shared.links.len() {
            if self.workers_used & (1 << worker) == 0 {
                continue;
            }
            match self.forward_from(view.response_ring(), worker, slot, shared, now) {
                Visit::Quiet => {}
                end @ Visit::End(_) => return end,
                // Blocked says more than busy: the ring is full whatever came before.
                Visit::Busy if result != Visit::Quiet => {}
                other => result = other,
            }
        }
        // One worker's replies may have moved where another's are blocked.
        if self.statistics.responses != before && sound("replies are activity") {
            self.last_active = now;
        }
        result
    }

    fn forward_from(
        &mut self,
        ring: RingView<'_>,
        worker: usize,
        slot: u32,
        shared: &mut Shared<'_>,
        now: Timestamp,
    ) -> Visit {
        for forwarded in 0..FRAMES_PER_VISIT {
            let link = &mut shared.links[worker];
            let scratch = shared.scratch.inline_reply();
            let reply = link.forward(slot as usize, &mut self.responses, ring, scratch);
            let (header, size) = match reply {
                Forwarded::Frame { header, size } => (header, size),
                Forwarded::Blocked if forwarded == 0 => return Visit::BlockedOnClient,
                Forwarded::Nothing if forwarded == 0 => return Visit::Quiet,
                Forwarded::Refused(error) => return Visit::End(error.into()),
                Forwarded::Nothing | Forwarded::Blocked | Forwarded::Closed => break,
            };
            self.statistics.responses += 1;
            self.statistics.response_bytes += u64::from(size);
            let kind = MessageKind::from(header.message_type());
            shared.metrics.responses_published(kind, 1, u64::from(size));
            if header.is_last() {
                shared.metrics.failed(kind, header.status());
                if let Some(request) =
                    shared.in_flight.remove(&mut self.in_flight, header.request_id)
                {
                    shared.metrics.request_finished(kind, now.since(request.taken_up));
                }
            }
        }
        Visit::Busy
    }

    /// Takes a frame that a run has left.
    #[inline(never)]
    fn take(
        &mut self,
        view: RegionView<'_>,
        slot: u32,
        header: FrameHeader,
        shared: &mut Shared<'_>,
        now: Timestamp,
    ) -> Result<Taken, Ending> {
        let message_type = header.message_type();
        if header.flags & !self.request_flags != 0 || header.status != 0 {
            // Only answers have them.
            let (flags, reserved) = (header.flags, header.status);
            return Err(Fault::UndefinedBits { flags, reserved }.into());
        }
        if header.payload_size > self.message_size_max && sound("a payload has its limit") {
            let detail = b"larger than the connection allows";
            let _ = self.answer(view, header, Status::MessageTooLarge, detail, shared);
            return Err(Ending::TooLarge);
        }
        if message_type > MessageType::USER_LAST {
            return Err(Fault::ReservedMessageType { message_type: message_type.to_wire() }.into());
        }
        if header.flags & FrameFlags::TAKEN.bits() != 0 {
            self.responses.all_taken();
        }
        match shared.routes.find(message_type) {
            Some(Route::Cancel) => {
                let taken = self.cancel(view, slot, header, shared);
                if matches!(taken, Taken::Done) {
                    self.requests.pass(view.request_ring(), (&header).into());
                }
                Ok(taken)
            }
            _ if shared.draining => {
                let detail = b"the daemon is shutting down";
                self.answer(view, header, Status::ShuttingDown, detail, shared)
            }
            Some(Route::Worker(worker)) => self.send_job(view, slot, *worker, header, shared, now),
            // What a synchronous handler can answer, the run before has taken.
            Some(Route::Synchronous(_)) | None => {
                self.answer(view, header, Status::UnknownMessageType, b"no handler", shared)
            }
        }
    }

    /// Hands a request to a worker executor.
    fn send_job(
        &mut self,
        view: RegionView<'_>,
        slot: u32,
        worker: usize,
        header: FrameHeader,
        shared: &mut Shared<'_>,
        now: Timestamp,
    ) -> Result<Taken, Ending> {
        if shared.in_flight.find(&self.in_flight, header.request_id).is_some()
            && sound("an id in flight is not used again")
        {
            return Err(Fault::RequestIdInUse { request_id: header.request_id }.into());
        }
        if self.in_flight.count() >= IN_FLIGHT_PER_CONNECTION
            && sound("requests in flight are limited")
        {
            let detail = b"too many requests in flight";
            return self.answer(view, header, Status::Busy, detail, shared);
        }
        let blocked = Ok(Taken::Blocked(Visit::BlockedOnWorker));
        if !shared.in_flight.has_room() || !shared.links[worker].has_room() {
            return blocked;
        }
        let payload = match header.payload_size as usize {
            0 => None,
            size => match shared.pool.lease_for_request(size) {
                None => return Ok(Taken::Blocked(shared.miss_lease(size))),
                Some(mut lease) => {
                    self.requests.copy_payload(view.request_ring(), &header, &mut lease)?;
                    Some(lease)
                }
            },
        };
        let kind = MessageKind::from(header.message_type());
        shared.metrics.request_received(kind, u64::from(header.payload_size));
        let codec = shared.codecs[usize::from(self.codec)].id().0;
        let taken = HeaderWords::from(&header);
        // The flags were about the client's ring.
        let header = FrameHeader { flags: 0, ..header };
        shared.links[worker].send(Job {
            slot,
            connection_id: self.connection_id,
            kind: JobKind::Request { header, codec, payload },
        });
        self.workers_used |= 1 << worker;
        let request_id = header.request_id;
        let request = InFlight { request_id, kind, worker, taken_up: now };
        shared.in_flight.add(&mut self.in_flight, request);
        self.requests.pass(view.request_ring(), taken);
        Ok(Taken::Done)
    }

    /// Passes a cancellation on. A request that has ended, or never was, is no error.
    fn cancel(
        &mut self,
        view: RegionView<'_>,
        slot: u32,
        header: FrameHeader,
        shared: &mut Shared<'_>,
    ) -> Taken {
        let request_id = header.request_id;
        let Some(request) = shared.in_flight.find(&self.in_flight, request_id) else {
            return Taken::Done;
        };
        let link = &mut shared.links[request.worker];
        if !link.has_room() {
            return Taken::Blocked(Visit::BlockedOnWorker);
        }
        shared.metrics.request_received(MessageKind::Cancel, 0);
        let connection_id = self.connection_id;
        link.send(Job { slot, connection_id, kind: JobKind::Cancel { request_id } });
        if !sound("a cancelled request ends once") {
            let _ = self.answer(view, header, Status::Cancelled, b"", shared);
        }
        Taken::Done
    }

    /// Answers with a status and a text of our own.
    fn answer(
        &mut self,
        view: RegionView<'_>,
        header: FrameHeader,
        status: Status,
        detail: &'static [u8],
        shared: &mut Shared<'_>,
    ) -> Result<Taken, Ending> {
        let ring = view.response_ring();
        if !self.responses.has_room(ring, span(DETAIL_SIZE_MAX))? {
            return Ok(Taken::Blocked(Visit::BlockedOnClient));
        }
        self.requests.pass(view.request_ring(), (&header).into());
        self.responses.publish(ring, header.answer(status), detail)?;
        self.statistics.responses += 1;
        self.statistics.response_bytes += detail.len() as u64;
        let kind = MessageKind::from(header.message_type());
        // A refused request is one, too: errors are a part of the requests.
        shared.metrics.request_received(kind, u64::from(header.payload_size));
        shared.metrics.responses_published(kind, 1, detail.len() as u64);
        shared.metrics.failed(kind, status);
        Ok(Taken::Done)
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_visit_looks_as_often_as_it_may_for_its_first_frame_and_once_for_the_others() {
        let budget = Budget { frames: 8, bytes: 4096, looks: 4 };
        let mut progress = Progress::new(budget);
        let again = (0..100).take_while(|_| progress.looks_again()).count();
        assert_eq!(again, 3);

        let mut progress = Progress::new(budget);
        assert!(progress.looks_again());
        assert!(!progress.take(64));
        assert!(!progress.looks_again());
    }
}
