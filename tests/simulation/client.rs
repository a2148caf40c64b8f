//! A simulated client: the real producer and consumer and the parked flags, as the client library
//! drives them, but one step at a time. It checks every frame that it gets.
//!
//! The invariant to remember: an honest client's request ends with exactly one last frame, unless the
//! connection ends first, for a reason that the client can accept.

mod hostile;
mod judge;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use annulus::connection::message_size_max;
use annulus::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, IN_FLIGHT_PER_CONNECTION};
use annulus::region::{RegionLayout, RegionView};
use annulus::ring::{Consumer, Producer, PublishError};
use annulus::sync::AtomicU64;
use annulus::sync::Ordering::Acquire;
use annulus::wire::{FrameFlags, FrameHeader, Goodbye, MessageType};

use super::exchange::{Answer, Kind, filled};
use super::plan::Plan;
use super::stage::Stage;

/// What a client's steps cause in the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// It rang its request doorbell.
    Ring(usize),
    /// Its socket was closed.
    HangUp(usize),
    /// It wrote to its socket.
    Chatter(usize),
}

/// How far a client can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    Honest,
    /// It has stopped reading for good; otherwise honest.
    Frozen,
    /// It wrote something into its region, with whatever effect that has.
    Suspect,
    /// It broke the protocol where the daemon must see it.
    Guilty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Polling,
    /// It has set its flag and is about to look once more.
    Armed,
    /// It waits for its doorbell, its socket, or this time.
    Parked {
        until: Option<u64>,
    },
    Gone,
}

/// One unanswered request.
struct Asked {
    kind: Kind,
    answer: Answer,
    chunks_seen: usize,
    deadline: Option<u64>,
    cancelled: bool,
    /// It was one more than the daemon takes.
    may_be_busy: bool,
    is_oversized: bool,
    /// The request ring's position behind its frame.
    end: u64,
    sent_at: u64,
}

/// A frame in the request ring that the shard has not taken.
struct Untaken {
    end: u64,
    /// It may have to wait for a worker or a buffer.
    may_wait: bool,
}

pub(crate) struct Client {
    index: usize,
    words: Rc<[AtomicU64]>,
    layout: RegionLayout,
    requests: Producer,
    responses: Consumer,
    /// A cancel was published since the last request.
    ends_with_cancel: bool,
    state: State,
    pub(crate) honesty: Honesty,
    pub(crate) stalled_until: u64,
    asked: BTreeMap<u64, Asked>,
    untaken: VecDeque<Untaken>,
    /// Requests that it will cancel.
    to_cancel: Vec<u64>,
    /// Cancels that wait for space.
    cancels: Vec<u64>,
    ended_ids: Vec<u64>,
    next_id: u64,
    to_send: u32,
    send_at: u64,
    unnotified: bool,
    pub(crate) is_hurried: bool,
    last_read_at: u64,
    /// Rings of its doorbell that it has not taken.
    pub(crate) rung: u32,
    /// When it can see the daemon's hang-up, and the last word.
    pub(crate) hang_up: Option<(u64, Option<Goodbye>)>,
}

impl Client {
    pub(crate) fn new(index: usize, plan: &Plan) -> Self {
        let words: Rc<[AtomicU64]> =
            (0..plan.layout.size() / 8).map(|_| AtomicU64::new(0)).collect();
        RegionView::new(&words, plan.layout).initialize();
        Self {
            index,
            words,
            layout: plan.layout,
            requests: Producer::new(plan.layout.request_home(), plan.payload_checked)
                .again(plan.home_again),
            responses: Consumer::new(plan.layout.response_home(), plan.payload_checked)
                .again(plan.home_again),
            ends_with_cancel: false,
            state: State::Polling,
            honesty: Honesty::Honest,
            stalled_until: 0,
            asked: BTreeMap::new(),
            untaken: VecDeque::new(),
            to_cancel: Vec::new(),
            cancels: Vec::new(),
            ended_ids: Vec::new(),
            next_id: 1,
            to_send: plan.requests_per_client,
            send_at: 0,
            unnotified: false,
            is_hurried: false,
            last_read_at: 0,
            rung: 0,
            hang_up: None,
        }
    }

    pub(crate) fn words(&self) -> Rc<[AtomicU64]> {
        Rc::clone(&self.words)
    }

    /// The number under which the daemon knows this client.
    pub(crate) fn connection_id(&self) -> u64 {
        self.index as u64 + 1
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    pub(crate) fn is_honest(&self) -> bool {
        matches!(self.honesty, Honesty::Honest | Honesty::Frozen)
    }

    /// Nothing of what it asked for is missing.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.honesty {
            _ if self.is_gone() => true,
            Honesty::Honest => {
                self.asked.is_empty() && self.cancels.is_empty() && self.to_cancel.is_empty()
            }
            _ => false,
        }
    }

    /// When it can take its next step: now, later, or not before something happens to it.
    pub(crate) fn ready_at(&self, now: u64) -> Option<u64> {
        let hang_up = self.hang_up.map(|(at, _)| at);
        let ready = match self.state {
            State::Gone => return None,
            State::Polling | State::Armed => now,
            State::Parked { .. } if self.rung > 0 && self.honesty != Honesty::Frozen => now,
            State::Parked { until } => match (until, hang_up) {
                (Some(until), Some(hang_up)) => until.min(hang_up),
                (until, hang_up) => until.or(hang_up)?,
            },
        };
        Some(ready.max(self.stalled_until))
    }

    pub(crate) fn step(&mut self, stage: &Stage, plan: &Plan, signals: &mut Vec<Signal>) {
        match self.state {
            State::Gone => {}
            State::Polling => self.act(stage, plan, signals),
            State::Armed => self.look_again(stage),
            State::Parked { .. } => self.unpark(stage),
        }
    }

    /// Stops doing what only a fault would do, so that everything can come to rest.
    pub(crate) fn calm_down(&mut self, stage: &Stage, signals: &mut Vec<Signal>) {
        self.stalled_until = 0;
        self.to_send = 0;
        self.to_cancel.clear();
        self.cancels.truncate(1);
        if self.honesty == Honesty::Suspect && !self.is_gone() {
            // Whatever it did to its own flags, nobody has to find out.
            self.leave(stage, signals);
        }
    }

    /// Neither thinks about what to send next nor puts off what there is to read.
    pub(crate) fn hurry(&mut self, now: u64) {
        if let State::Parked { until: Some(_) } = self.state {
            self.send_at = now;
            self.state = State::Parked { until: Some(now) };
        }
        self.is_hurried = true;
    }

    /// Sends so many requests more.
    pub(crate) fn ask_again(&mut self, count: u32) {
        self.to_send = count;
        self.send_at = 0;
        if !self.is_gone() {
            self.state = State::Polling;
        }
    }

    fn view(&self) -> RegionView<'_> {
        RegionView::new(&self.words, self.layout)
    }

    /// Where the shard has published that it stands in the request ring.
    pub(crate) fn request_head(&self) -> u64 {
        // The fourth line of the shared header, as docs/protocol.md has it.
        let offset = self.layout.header_offset() + 3 * 64;
        self.words[usize::try_from(offset / 8).unwrap()].load(Acquire)
    }

    /// True when nothing tells the shard to look at this client's ring: it does so by itself.
    pub(crate) fn is_polled(&self) -> bool {
        let offset = self.layout.header_offset() + 4 * 64;
        self.words[usize::try_from(offset / 8).unwrap()].load(Acquire) == 0
    }

    fn act(&mut self, stage: &Stage, plan: &Plan, signals: &mut Vec<Signal>) {
        if !stage.calm.get() && self.misbehave(stage, plan, signals) {
            return;
        }
        let now = stage.now();
        let is_diligent = stage.calm.get() || self.is_hurried;
        let is_lazy = !is_diligent && stage.chance(plan.faults.lazy);
        let has_mail = !self.responses.is_empty(self.view().response_ring());
        let may_send = self.honesty == Honesty::Honest;
        let wants = may_send && self.to_send > 0 && self.asked.len() < plan.unanswered_max;
        let cancels = may_send && !(self.to_cancel.is_empty() && self.cancels.is_empty());
        let acts = [
            has_mail && !is_lazy,
            wants && now >= self.send_at,
            self.unnotified,
            cancels && now >= self.send_at,
            self.hang_up.is_some_and(|(at, _)| at <= now),
        ];
        let count = acts.iter().filter(|open| **open).count();
        if count == 0 {
            return self.rest(stage, wants || cancels, has_mail, signals);
        }
        let chosen = stage.index(count);
        let (act, _) = acts.iter().enumerate().filter(|(_, open)| **open).nth(chosen).unwrap();
        match act {
            0 => self.receive(stage, signals),
            1 => self.send(stage, plan),
            2 => self.notify(stage, signals),
            3 => self.cancel(stage),
            _ => self.look_at_socket(stage),
        }
    }

    /// Nothing to do now: waits, with its flag set if it waits for the daemon.
    fn rest(&mut self, stage: &Stage, wants: bool, dawdles: bool, signals: &mut Vec<Signal>) {
        let now = stage.now();
        if dawdles {
            self.state = State::Parked { until: Some(now + 1 + stage.below(20_000)) };
            return;
        }
        if self.view().daemon_blocked().take() {
            stage.note(|| format!("client {} rings: there is space", self.index));
            signals.push(Signal::Ring(self.index));
        }
        if wants {
            self.state = State::Parked { until: Some(self.send_at.max(now + 1)) };
            return;
        }
        self.view().client_parked().arm();
        self.state = State::Armed;
    }

    fn look_again(&mut self, stage: &Stage) {
        if self.responses.is_empty(self.view().response_ring()) {
            stage.note(|| format!("client {} parks", self.index));
            self.state = State::Parked { until: None };
        } else {
            self.view().client_parked().disarm();
            self.state = State::Polling;
        }
    }

    fn unpark(&mut self, stage: &Stage) {
        stage.note(|| format!("client {} wakes", self.index));
        self.view().client_parked().disarm();
        self.rung = 0;
        self.state = State::Polling;
    }

    fn notify(&mut self, stage: &Stage, signals: &mut Vec<Signal>) {
        self.unnotified = false;
        if self.view().daemon_parked().take() {
            stage.note(|| format!("client {} rings", self.index));
            signals.push(Signal::Ring(self.index));
        }
    }

    fn send(&mut self, stage: &Stage, plan: &Plan) {
        if !self.tidy(stage) {
            return;
        }
        let kind = if stage.chance(plan.work) {
            Kind::Work(stage.index(plan.worker_count))
        } else {
            stage.pick(&Kind::SYNCHRONOUS)
        };
        let size_max = message_size_max(self.layout, plan.message_size_max);
        let fits = self.layout.request_capacity() - FRAME_ALIGNMENT - FRAME_HEADER_SIZE;
        let is_oversized =
            !stage.calm.get() && stage.chance(plan.faults.oversized) && u64::from(size_max) < fits;
        let size = match () {
            () if is_oversized => u64::from(size_max) + 1,
            () if stage.chance(plan.large) => stage.below(u64::from(size_max) + 1),
            () => stage.below(200),
        };
        let id = match self.ended_ids.len() {
            0 => self.next_id,
            _ if !stage.chance(plan.faults.reused_id) => self.next_id,
            count => self.ended_ids.swap_remove(stage.index(count)),
        };
        let mut header = FrameHeader::request(kind.message_type(), id);
        if stage.chance(plan.faults.deadline) {
            header.deadline_ms = 1 + u32::try_from(stage.below(3)).unwrap();
        }
        let payload = filled(stage.below(u64::MAX), usize::try_from(size).unwrap());
        if plan.home_again && self.asked.is_empty() {
            header.flags |= FrameFlags::TAKEN.bits();
            if !self.ends_with_cancel {
                self.requests.all_taken();
            }
        }
        let ring = RegionView::new(&self.words, self.layout).request_ring();
        match self.requests.publish(ring, header, &payload) {
            Ok(()) => self.ends_with_cancel = false,
            Err(PublishError::Full) => {
                // There may be new padding in the ring, which a parked daemon has to skip.
                self.unnotified = true;
                self.send_at = stage.now() + 1 + stage.below(50_000);
                return;
            }
            Err(error) => panic!("client {} cannot publish: {error}", self.index),
        }
        stage.note(|| format!("client {} sends {kind:?} {id}, {size} bytes", self.index));
        self.next_id = self.next_id.max(id + 1);
        self.unnotified = true;
        self.to_send = if is_oversized { 0 } else { self.to_send - 1 };
        if stage.chance(300) {
            self.send_at = stage.now() + stage.below(plan.think_ns_max + 1);
        }
        if !stage.calm.get() && stage.chance(plan.faults.cancel) {
            self.to_cancel.push(if stage.chance(100) { id + 1000 } else { id });
        }
        if !stage.calm.get() && kind.is_work() && stage.chance(plan.faults.flood) {
            self.cancels.extend(std::iter::repeat_n(id, 400));
        }
        let work = self.asked.values().filter(|asked| asked.kind.is_work()).count();
        let deadline = u64::from(header.deadline_ms) * 1_000_000;
        let end = self.requests.tail().0;
        let asked = Asked {
            kind,
            answer: Answer::new(kind, self.connection_id(), id, &payload, plan.answer_size_max()),
            chunks_seen: 0,
            deadline: (deadline > 0).then(|| stage.now() + deadline),
            cancelled: false,
            may_be_busy: work >= IN_FLIGHT_PER_CONNECTION as usize,
            is_oversized,
            end,
            sent_at: stage.now(),
        };
        assert!(self.asked.insert(id, asked).is_none(), "a client's ids are its own");
        self.untaken.push_back(Untaken { end, may_wait: kind.is_work() || size > 4096 });
    }

    fn cancel(&mut self, stage: &Stage) {
        if let Some(id) = self.to_cancel.pop() {
            self.cancels.push(id);
        }
        self.tidy(stage);
        self.unnotified = true;
    }

    /// Publishes the cancels that wait; false when some still do.
    fn tidy(&mut self, stage: &Stage) -> bool {
        while let Some(id) = self.cancels.last().copied() {
            let header = FrameHeader::request(MessageType::CANCEL, id);
            let ring = RegionView::new(&self.words, self.layout).request_ring();
            match self.requests.publish(ring, header, &[]) {
                Ok(()) => self.ends_with_cancel = true,
                Err(PublishError::Full) => {
                    self.unnotified = true;
                    self.send_at = stage.now() + 1 + stage.below(50_000);
                    return false;
                }
                Err(error) => panic!("client {} cannot cancel: {error}", self.index),
            }
            stage.note(|| format!("client {} cancels {id}", self.index));
            self.cancels.pop();
            self.unnotified = true;
            self.untaken.push_back(Untaken { end: self.requests.tail().0, may_wait: true });
            if let Some(asked) = self.asked.get_mut(&id) {
                asked.cancelled = true;
            }
        }
        true
    }

    fn receive(&mut self, stage: &Stage, signals: &mut Vec<Signal>) {
        self.last_read_at = stage.now();
        let ring = RegionView::new(&self.words, self.layout).response_ring();
        let header = match self.responses.poll(ring) {
            Ok(Some(header)) => header,
            // Padding only.
            Ok(None) => return,
            Err(fault) => {
                assert!(!self.is_honest(), "client {}: the daemon wrote {fault}", self.index);
                return self.leave(stage, signals);
            }
        };
        let mut payload = vec![0; header.payload_size as usize];
        let copied = self.responses.copy_payload(ring, &header, &mut payload);
        self.responses.release(ring, &header);
        if !self.is_honest() {
            return;
        }
        assert!(copied.is_ok(), "client {}: {copied:?}", self.index);
        stage.note(|| {
            let (status, last) = (header.status(), header.is_last());
            format!("client {} gets {} {status:?} last={last}", self.index, header.request_id)
        });
        self.judge(&header, &payload, stage);
    }

    fn look_at_socket(&mut self, stage: &Stage) {
        // What was published before the hang-up still counts.
        if self.honesty == Honesty::Honest && !self.responses.is_empty(self.view().response_ring())
        {
            return;
        }
        if let (Some((_, goodbye)), Honesty::Honest) = (self.hang_up, self.honesty) {
            self.accept_end(goodbye, stage);
        }
        stage.note(|| format!("client {} sees the hang-up", self.index));
        self.state = State::Gone;
    }

    fn leave(&mut self, stage: &Stage, signals: &mut Vec<Signal>) {
        stage.note(|| format!("client {} hangs up", self.index));
        self.state = State::Gone;
        signals.push(Signal::HangUp(self.index));
    }

    pub(crate) fn describe(&self) -> String {
        let ids: Vec<_> =
            self.asked.iter().map(|(id, asked)| (id, asked.kind, asked.end)).take(5).collect();
        format!(
            "client {} {:?} {:?}: unanswered {ids:?} of {}, cancels {:?}, request head {}, tail {}, mail {}, rung {}, hang-up {}",
            self.index,
            self.honesty,
            self.state,
            self.asked.len(),
            self.cancels,
            self.request_head(),
            self.requests.tail().0,
            !self.responses.is_empty(self.view().response_ring()),
            self.rung,
            self.hang_up.is_some(),
        )
    }
}
