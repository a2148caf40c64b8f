//! A simulated worker executor: the real end of the link, driven as `annulus::worker` drives it, but
//! one step at a time. Its loop takes jobs, arms, looks again and sleeps; its tasks answer.
//!
//! The invariant to remember: nothing is published for a connection after its *closed* job was taken.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use annulus::link::{Job, JobKind, ReplyError, WorkerEnd};
use annulus::pool::Lease;
use annulus::wire::{FrameHeader, MessageType, Status};

use super::exchange::{Answer, Kind};
use super::plan::Plan;
use super::stage::Stage;

/// How long a reply that found no buffer waits.
const LEASE_RETRY_NS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// It has set its flag and is about to look once more.
    Armed,
    Asleep,
}

/// One request on its way.
struct Task {
    slot: u32,
    connection_id: u64,
    header: FrameHeader,
    /// Until it is decoded, and sometimes longer.
    payload: Option<Lease>,
    answer: Option<Answer>,
    chunks_sent: usize,
    deadline: Option<u64>,
    cancelled: bool,
    /// How it ends, once the handler is through or was dropped.
    end: Option<Status>,
    /// Waits for space until the worker's loop comes round.
    waits: bool,
    ready_at: u64,
}

/// What a worker did, for the final account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerCounts {
    pub(crate) requests: u64,
    pub(crate) cancels: u64,
    pub(crate) cancelled: u64,
}

pub(crate) struct Worker {
    index: usize,
    end: WorkerEnd,
    socket: OwnedFd,
    state: State,
    /// The connection of each slot that has had requests here.
    sessions: BTreeMap<u32, u64>,
    tasks: Vec<Task>,
    /// Slots whose end is still to be acknowledged, and whether that waits for space.
    closings: Vec<(u32, bool)>,
    pub(crate) stalled_until: u64,
    pub(crate) counts: WorkerCounts,
}

impl Worker {
    pub(crate) fn new(index: usize, end: WorkerEnd, socket: OwnedFd) -> Self {
        Self {
            index,
            end,
            socket,
            state: State::Running,
            sessions: BTreeMap::new(),
            tasks: Vec::new(),
            closings: Vec::new(),
            stalled_until: 0,
            counts: WorkerCounts::default(),
        }
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.tasks.is_empty() && self.closings.is_empty() && !self.end.has_job()
    }

    /// It has taken every job, and nothing keeps it from taking more.
    pub(crate) fn takes_jobs(&self, now: u64) -> bool {
        !self.end.has_job() && self.stalled_until <= now
    }

    /// When it can take its next step; `None`: not before it is woken.
    pub(crate) fn ready_at(&mut self, now: u64) -> Option<u64> {
        let is_awake = self.state != State::Asleep || self.is_woken();
        let ready = if is_awake {
            Some(now)
        } else {
            let tasks = self.tasks.iter().filter_map(Task::next_step_at).min();
            let closing = self.closings.iter().any(|(_, waits)| !waits).then_some(now);
            closing.or(tasks)
        };
        ready.map(|at| at.max(now).max(self.stalled_until))
    }

    pub(crate) fn step(&mut self, stage: &Stage, plan: &Plan) {
        if !stage.calm.get() && stage.chance(plan.faults.worker_stall) {
            self.stalled_until = stage.now() + stage.below(plan.faults.stall_ns_max);
            return;
        }
        let ready: Vec<usize> = (0..self.tasks.len())
            .filter(|index| self.tasks[*index].next_step_at().is_some_and(|at| at <= stage.now()))
            .collect();
        let closing = self.closings.iter().position(|(_, waits)| !waits);
        let loops = self.state != State::Asleep || self.is_woken();
        let choices = ready.len() + usize::from(closing.is_some()) + usize::from(loops);
        if choices == 0 {
            return;
        }
        match (stage.index(choices), closing) {
            (chosen, _) if chosen < ready.len() => self.run(ready[chosen], stage, plan),
            (chosen, Some(closing)) if chosen == ready.len() => self.acknowledge(closing, stage),
            _ => self.go_round(stage, plan),
        }
    }

    /// True when a byte waits in the socket; looked at without taking it.
    fn is_woken(&self) -> bool {
        let flags = rustix::net::RecvFlags::DONTWAIT | rustix::net::RecvFlags::PEEK;
        rustix::net::recv(&self.socket, &mut [0_u8; 1][..], flags).is_ok()
    }

    /// One step of the loop.
    fn go_round(&mut self, stage: &Stage, plan: &Plan) {
        match self.state {
            State::Running => {
                if let Some(job) = self.end.take() {
                    return self.dispatch(job, stage, plan);
                }
                self.wake_waiters();
                self.end.arm();
                self.state = State::Armed;
            }
            State::Armed if self.end.has_job() => {
                self.end.disarm();
                self.state = State::Running;
            }
            State::Armed => {
                stage.note(|| format!("worker {} sleeps", self.index));
                self.state = State::Asleep;
            }
            State::Asleep => {
                let flags = rustix::net::RecvFlags::DONTWAIT;
                let _ = rustix::net::recv(&self.socket, &mut [0_u8; 64][..], flags);
                stage.note(|| format!("worker {} wakes", self.index));
                self.end.disarm();
                self.state = State::Running;
            }
        }
    }

    fn wake_waiters(&mut self) {
        for task in &mut self.tasks {
            task.waits = false;
        }
        for (_, waits) in &mut self.closings {
            *waits = false;
        }
    }

    fn dispatch(&mut self, job: Job, stage: &Stage, plan: &Plan) {
        let Job { slot, connection_id, kind } = job;
        match kind {
            JobKind::Request { header, payload, .. } => {
                stage.note(|| {
                    format!("worker {} takes {} of {slot}", self.index, header.request_id)
                });
                self.counts.requests += 1;
                let known = *self.sessions.entry(slot).or_insert(connection_id);
                assert_eq!(known, connection_id, "slot {slot} still belongs to another connection");
                let deadline = u64::from(header.deadline_ms) * 1_000_000;
                self.tasks.push(Task {
                    slot,
                    connection_id,
                    header,
                    payload,
                    answer: None,
                    chunks_sent: 0,
                    deadline: (deadline > 0).then(|| stage.now() + deadline),
                    cancelled: false,
                    end: None,
                    waits: false,
                    // A handler may wait for something before it looks at its request.
                    ready_at: stage.now() + stage.below(plan.think_ns_max + 1),
                });
            }
            JobKind::Cancel { request_id } => {
                stage.note(|| format!("worker {} is to cancel {request_id} of {slot}", self.index));
                self.counts.cancels += 1;
                let known = self.sessions.get(&slot).copied();
                assert!(known.is_none_or(|known| known == connection_id), "a cancel for {slot}");
                let of_request =
                    |task: &&mut Task| task.slot == slot && task.header.request_id == request_id;
                for task in self.tasks.iter_mut().filter(of_request) {
                    task.cancelled = true;
                    task.waits = false;
                    task.ready_at = stage.now();
                }
            }
            JobKind::Closed => {
                stage.note(|| format!("worker {} forgets slot {slot}", self.index));
                let known = self.sessions.remove(&slot);
                assert!(known.is_none_or(|known| known == connection_id), "a close of {slot}");
                // Its tasks are dropped when they are next polled, with what they hold.
                self.wake_waiters();
                self.closings.push((slot, false));
            }
        }
    }

    fn acknowledge(&mut self, closing: usize, stage: &Stage) {
        let slot = self.closings[closing].0;
        if self.end.acknowledge_closed(slot).is_ok() {
            stage.note(|| format!("worker {} acknowledges the end of slot {slot}", self.index));
            self.closings.swap_remove(closing);
        } else {
            self.closings[closing].1 = true;
        }
    }

    /// Polls one task.
    fn run(&mut self, index: usize, stage: &Stage, plan: &Plan) {
        let Self { sessions, tasks, end, counts, .. } = self;
        let task = &mut tasks[index];
        if sessions.get(&task.slot) != Some(&task.connection_id) {
            tasks.swap_remove(index);
            return;
        }
        if task.end.is_none() {
            if task.cancelled {
                task.end = Some(Status::Cancelled);
                task.payload = None;
            } else if !task.handle(end, stage, plan)
                && task.deadline.is_some_and(|deadline| deadline <= stage.now())
            {
                task.end = Some(Status::Timeout);
                task.payload = None;
            }
            return;
        }
        let Some(status) = task.end else { return };
        let header = task.header.answer(status);
        let last = match (&task.answer, status) {
            (Some(answer), Status::Ok) => answer.last.as_slice(),
            _ => b"it did not come to an end",
        };
        if task.keep(end.publish(task.slot, header, last), stage) {
            let id = task.header.request_id;
            stage.note(|| format!("a worker ends {id} of {} with {status:?}", task.slot));
            counts.cancelled += u64::from(status == Status::Cancelled);
            tasks.swap_remove(index);
        }
    }

    pub(crate) fn describe(&mut self) -> String {
        let tasks: Vec<_> = self
            .tasks
            .iter()
            .map(|task| (task.slot, task.header.request_id, task.waits, task.ready_at))
            .take(5)
            .collect();
        format!(
            "worker {} {:?}: {} tasks {tasks:?}, closings {:?}, has a job {}, woken {}",
            self.index,
            self.state,
            self.tasks.len(),
            self.closings,
            self.end.has_job(),
            self.is_woken(),
        )
    }
}

impl Task {
    fn next_step_at(&self) -> Option<u64> {
        let deadline = self.deadline.filter(|_| self.end.is_none());
        let ready = (!self.waits).then_some(self.ready_at);
        match (ready, deadline) {
            (Some(ready), Some(deadline)) => Some(ready.min(deadline)),
            (ready, deadline) => ready.or(deadline),
        }
    }

    /// One step of the handler; false when it could not go on.
    fn handle(&mut self, end: &mut WorkerEnd, stage: &Stage, plan: &Plan) -> bool {
        if self.waits || self.ready_at > stage.now() {
            return false;
        }
        let think =
            |task: &mut Self| task.ready_at = stage.now() + stage.below(plan.think_ns_max + 1);
        let Some(answer) = &self.answer else {
            let kind = match self.header.message_type() {
                MessageType::STREAM => Kind::Work(0),
                _ => Kind::Work(1),
            };
            let id = self.header.request_id;
            let bytes = self.payload.as_deref().unwrap_or_default();
            let size_max = plan.answer_size_max();
            self.answer = Some(Answer::new(kind, self.connection_id, id, bytes, size_max));
            // Some handlers keep what they were asked.
            if stage.chance(800) {
                self.payload = None;
            }
            think(self);
            return true;
        };
        let Some(chunk) = answer.chunks.get(self.chunks_sent) else {
            self.payload = None;
            self.end = Some(Status::Ok);
            return true;
        };
        let published = end.publish(self.slot, self.header.chunk(), chunk);
        if self.keep(published, stage) {
            self.chunks_sent += 1;
            think(self);
            return true;
        }
        false
    }

    /// Waits if it has to; true when the frame is on its way.
    fn keep(&mut self, published: Result<(), ReplyError>, stage: &Stage) -> bool {
        match published {
            Ok(()) => return true,
            Err(ReplyError::Full) => self.waits = true,
            Err(ReplyError::NoLease) => self.ready_at = stage.now() + LEASE_RETRY_NS,
            Err(ReplyError::TooLarge) => panic!("no answer is larger than the largest buffer"),
        }
        false
    }
}
