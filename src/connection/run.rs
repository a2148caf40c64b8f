//! A run of requests that synchronous handlers answer: the way of most frames, so the shortest.
//!
//! The invariant to remember: what is the same for all frames of a visit is made once, before the first, and
//! what is only counted is put where it belongs after the last. Any other frame ends the run, and the visit
//! deals with it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::handler::{Handler, Request, Responder};
use super::routes::Route;
use super::visit::{Progress, Shared, Visit};
use super::{ConnectionStatistics, Ending, Ends, Timestamp};
use crate::error::IpcError;
use crate::limits::{DETAIL_SIZE_MAX, SYNC_REPLY_SIZE_MIN};
use crate::metrics::MessageKind;
use crate::protocol::Codec;
use crate::region::RegionMemory;
use crate::ring::{Consumer, Look, RingView};
use crate::sync::{sound, spin_hint};
use crate::wire::{FrameFlags, HeaderWords, MessageType, Status, span};

/// Why a run ended.
pub(super) enum Stopped {
    /// There is nothing more that can be taken now, or the budget is used up.
    Here(Visit),
    /// The frame at the head is for somebody else, or has something wrong in its header, or the shard drains.
    Before(HeaderWords),
}

/// What a run needs at each frame.
struct Run<'r, 's> {
    requests: &'r mut Consumer,
    responder: Responder<'r>,
    shared: &'r mut Shared<'s>,
    progress: &'r mut Progress,
    codec: &'r Arc<dyn Codec>,
    connection_id: u64,
    /// Flags that a request may have.
    flags: u8,
    message_size_max: u32,
    statistics: &'r mut ConnectionStatistics,
    /// Of all requests that are not counted yet.
    message_type: MessageType,
    /// Who serves that type; nobody before the first.
    handler: Option<&'s dyn Handler>,
    /// Bytes of the last request's payload.
    size: u32,
    /// When a handler began with it, if it is timed.
    started: Option<Timestamp>,
    /// A handler is at work.
    handling: bool,
}

impl Ends {
    /// Answers requests as long as they are for synchronous handlers and within the budget.
    ///
    /// A handler's panic is caught around the run, not around each call, which would cost a small request
    /// a tenth of its time.
    #[inline]
    pub(super) fn run<M: RegionMemory>(
        &mut self,
        memory: &M,
        shared: &mut Shared<'_>,
        progress: &mut Progress,
    ) -> Stopped {
        let codec = &shared.codecs[usize::from(self.codec)];
        let mut run = Run {
            requests: &mut self.requests,
            responder: Responder::new(&mut self.responses, memory.view().response_ring()),
            shared,
            progress,
            codec,
            connection_id: self.connection_id,
            flags: self.request_flags,
            message_size_max: self.message_size_max,
            statistics: &mut self.statistics,
            message_type: MessageType::PADDING,
            handler: None,
            size: 0,
            started: None,
            handling: false,
        };
        // Bounded: a panic ends a request, and there are no more of those than the budget has frames.
        let stopped = loop {
            // The view is made inside: a closure would keep it in memory.
            let serving = AssertUnwindSafe(|| run.serve(memory.view().request_ring()));
            let panic = match catch_unwind(serving) {
                Ok(stopped) => break stopped,
                Err(panic) => panic,
            };
            if !std::mem::take(&mut run.handling) {
                // Not the handler's: a bug of ours.
                resume_unwind(panic);
            }
            match run.end(Status::HandlerPanic, "the handler panicked") {
                Ok(()) => {}
                Err(ending) => break Stopped::Here(Visit::End(ending)),
            }
            if run.settle() {
                break Stopped::Here(Visit::Busy);
            }
        };
        if run.handler.is_some() {
            run.count();
        }
        stopped
    }
}

impl<'s> Run<'_, 's> {
    #[inline(always)]
    fn serve(&mut self, ring: RingView<'_>) -> Stopped {
        // Bounded by the budget.
        loop {
            let header = match self.requests.look(ring) {
                Look::Frame(header) => header,
                Look::Nothing if self.progress.looks_again() => {
                    spin_hint();
                    continue;
                }
                Look::Nothing => return Stopped::Here(self.progress.visit(Visit::Quiet)),
                Look::Broken => return Stopped::Here(Visit::End(self.requests.fault().into())),
            };
            if self.progress.has_begun() {
                self.requests.prefetch_run(ring, header);
                self.responder.prefetch_run();
            }
            let Some(handler) = self.handler_for(header.message_type()) else {
                return Stopped::Before(header);
            };
            if !self.is_plain(header) || self.shared.draining {
                return Stopped::Before(header);
            }
            match self.answer(ring, header, handler) {
                Ok(None) => {}
                Ok(Some(blocked)) => return Stopped::Here(self.progress.visit(blocked)),
                Err(ending) => return Stopped::Here(Visit::End(ending)),
            }
            if self.settle() {
                return Stopped::Here(Visit::Busy);
            }
        }
    }

    /// Who answers requests of this type, if it is a synchronous handler.
    #[inline(always)]
    fn handler_for(&mut self, message_type: MessageType) -> Option<&'s dyn Handler> {
        if let Some(handler) = self.handler {
            if message_type == self.message_type {
                return Some(handler);
            }
            self.count();
        }
        // An owned pointer would cost two shared counters on the hot path; routes never change.
        let routes = self.shared.routes;
        let Some(Route::Synchronous(handler)) = routes.find(message_type) else { return None };
        (self.message_type, self.handler) = (message_type, Some(&**handler));
        self.handler
    }

    /// True for a request without anything wrong in its header.
    #[inline(always)]
    fn is_plain(&self, header: HeaderWords) -> bool {
        header.flags() & !self.flags == 0
            && header.status() == 0
            && header.payload_size() <= self.message_size_max
    }

    /// Runs a handler, which publishes its answer; gives what stands in the way, if it cannot.
    #[inline(always)]
    fn answer(
        &mut self,
        ring: RingView<'_>,
        header: HeaderWords,
        handler: &dyn Handler,
    ) -> Result<Option<Visit>, Ending> {
        if header.flags() & FrameFlags::TAKEN.bits() != 0 {
            self.responder.all_taken();
        }
        let room = header.span().max(span(SYNC_REPLY_SIZE_MIN));
        if !self.responder.has_room(room)? {
            return Ok(Some(Visit::BlockedOnClient));
        }
        self.size = header.payload_size();
        let size = header.payload_size() as usize;
        let shared = &mut *self.shared;
        let mut lease;
        let payload = if let Some(room) = shared.scratch.room(size) {
            room
        } else {
            match shared.pool.lease(size) {
                Some(taken) => lease = taken,
                None => return Ok(Some(shared.miss_lease(size))),
            }
            &mut lease[..]
        };
        self.requests.copy_payload(ring, header, payload)?;
        self.requests.pass(ring, header);
        if !sound("a request makes no block") {
            drop(std::hint::black_box(Box::new(header.header())));
        }

        if self.progress.is_sampled(self.statistics.requests) {
            self.started = Some(shared.clock.now());
        }
        let request = Request {
            message_type: header.message_type(),
            request_id: header.request_id(),
            payload,
            codec: self.codec,
            connection_id: self.connection_id,
        };
        self.responder.begin(header.message_type(), header.request_id(), room);
        self.handling = true;
        let handled = handler.handle(&request, &mut self.responder);
        self.handling = false;
        match handled {
            Ok(()) => self.responder.finish(Status::Ok, &[])?,
            Err(error) => self.refuse(&error)?,
        }
        Ok(None)
    }

    /// Ends the answer to a request that its handler refused.
    #[cold]
    fn refuse(&mut self, error: &IpcError) -> Result<(), Ending> {
        if let IpcError::Fault(fault) = error {
            return Err(Ending::Fault(*fault));
        }
        // The text is made only for a failed request; it carries no payload (see IpcError).
        self.end(error.status(), &error.answer_text())
    }

    /// Ends the answer to a request that failed.
    #[cold]
    fn end(&mut self, status: Status, text: &str) -> Result<(), Ending> {
        // After the requests before it; this one is counted with the next.
        self.count();
        self.shared.metrics.failed(MessageKind::from(self.message_type), status);
        let detail = &text.as_bytes()[..text.floor_char_boundary(DETAIL_SIZE_MAX as usize)];
        Ok(self.responder.finish(status, detail)?)
    }

    /// Notes that a request was answered; true when the budget is used up.
    #[inline(always)]
    fn settle(&mut self) -> bool {
        if self.started.is_some() {
            self.time();
        }
        if self.progress.take(self.size) {
            return true;
        }
        if self.progress.is_time_to_show() {
            self.responder.reveal();
        }
        self.responder.hold();
        false
    }

    /// Notes how long the request took that was answered last.
    // Not cold: it would lie on pages of the program that nothing else here touches (`serving.ld`).
    #[inline(never)]
    fn time(&mut self) {
        if let Some(started) = self.started.take() {
            let kind = MessageKind::from(self.message_type);
            self.shared.metrics.request_finished(kind, self.shared.clock.now().since(started));
        }
    }

    /// Counts what was not counted yet, whose answers are on their way. A handler that takes its time holds
    /// this up, as it does everything else on its shard.
    fn count(&mut self) {
        let kind = MessageKind::from(self.message_type);
        let (requests, request_bytes) = self.progress.take_uncounted();
        let (responses, response_bytes) = self.responder.take_published();
        self.statistics.requests += requests;
        self.statistics.request_bytes += request_bytes;
        self.statistics.responses += responses;
        self.statistics.response_bytes += response_bytes;
        self.shared.metrics.requests_received(kind, requests, request_bytes);
        self.shared.metrics.responses_published(kind, responses, response_bytes);
    }
}
