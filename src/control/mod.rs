//! The control thread: accepts, shakes hands, spreads connections over shards, and stops them.
//!
//! A plain thread around poll(2), not a glommio executor: glommio 0.9 can neither wait on an
//! arbitrary descriptor (its issue 687), nor adopt a listening socket, nor receive descriptors, which
//! are this thread's whole work. It sleeps unless somebody connects; a handshake never blocks it.

mod handshake;
mod listener;

pub(crate) use listener::Listener;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with};
use zerocopy::IntoBytes;

use self::handshake::{Accepted, Handshake, Policy, Progress, Refusal};
use crate::config::Config;
use crate::connection::NewConnection;
use crate::limits::{BUSY_RETRY_AFTER_MS, HANDSHAKES_MAX, IN_FLIGHT_PER_CONNECTION};
use crate::metrics::{CloseReason, Metrics, write_file};
use crate::protocol::Codec;
use crate::region::{Doorbell, Region};
use crate::shard::{Arrival, Descriptors, ShardShared};
use crate::sync::{Ordering, sound};
use crate::wire::{Features, Status, Welcome, fault_number};

/// Newcomers that one round takes from the backlog; the others come in the next round.
const ACCEPTS_PER_ROUND: usize = HANDSHAKES_MAX;
/// How soon a connection is offered again to a shard that has not taken the ones before it.
const DELIVERY_RETRY: Duration = Duration::from_millis(1);
/// How long the listener rests when the system has no descriptor for a newcomer.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After this time without a newcomer those that came have settled.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// How often newcomers settle at most: what is done then may cost those that are being served a moment.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// What the control thread is made from.
pub(crate) struct ControlOptions {
    pub(crate) listener: Listener,
    pub(crate) shards: Vec<Arc<ShardShared>>,
    /// Core of each shard, where it has one.
    pub(crate) cores: Vec<Option<u32>>,
    pub(crate) codecs: Arc<[Arc<dyn Codec>]>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    /// Rung to stop.
    pub(crate) stop: Arc<Doorbell>,
    /// Called when no newcomer has come for [`SETTLE_TIME`] after the last, once in [`SETTLE_PERIOD`] at
    /// most.
    pub(crate) when_settled: Option<Box<dyn FnMut() + Send>>,
}

/// The control thread's state.
pub(crate) struct Control {
    options: ControlOptions,
    handshakes: Vec<(Handshake, Instant)>,
    /// Connections whose shards, by index, have no room for arrivals just now: no more than there are
    /// slots, because each occupies one.
    undelivered: VecDeque<(usize, Arrival)>,
    handshake_timeout: Duration,
    daemon_instance: u64,
    connections_so_far: u64,
    /// No accepting before then.
    accept_after: Option<Instant>,
    export: Export,
    /// When those that came last will have settled, and when others have.
    settled_at: Option<Instant>,
    settled_last: Option<Instant>,
}

/// The file of the metrics page, which is written while somebody is connected, and at the end.
pub(crate) struct Export {
    path: Option<PathBuf>,
    interval: Duration,
    /// When it is written next.
    due: Option<Instant>,
    metrics: Arc<Metrics>,
}

impl Export {
    /// Writes the page as it is now.
    pub(crate) fn write(&self) {
        let Some(path) = &self.path else { return };
        if let Err(error) = write_file(path, &self.metrics.export_prometheus()) {
            tracing::warn!(%error, "cannot write the metrics page");
        }
    }
}

impl Control {
    pub(crate) fn new(options: ControlOptions) -> Self {
        let metrics = &options.config.metrics;
        let export = Export {
            path: metrics.export_path.clone().filter(|_| metrics.enable),
            interval: Duration::from_secs(metrics.export_interval_secs),
            due: None,
            metrics: Arc::clone(&options.metrics),
        };
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanoseconds = since_epoch.unwrap_or_default().as_nanos();
        #[expect(clippy::cast_possible_truncation, reason = "a number that differs is enough")]
        let daemon_instance = nanoseconds as u64 ^ u64::from(std::process::id()) << 32;
        let timeout = u64::from(options.config.ipc.handshake_timeout_ms);
        Self {
            handshakes: Vec::with_capacity(HANDSHAKES_MAX),
            undelivered: VecDeque::new(),
            handshake_timeout: Duration::from_millis(timeout),
            daemon_instance,
            connections_so_far: 0,
            accept_after: None,
            export,
            settled_at: None,
            settled_last: None,
            options,
        }
    }

    /// Serves until the stop doorbell rings; then stops the shards and gives up the socket. Gives what
    /// remains to be written when the shards have drained.
    pub(crate) fn run(mut self) -> Export {
        // Bounded by the daemon's life; each round sleeps in `wait`.
        while !self.wait() {
            self.deliver_again();
            self.continue_handshakes();
            self.accept();
            self.export_if_due();
            self.settle_if_due();
        }
        // Newcomers find no socket from here on.
        self.options.listener.withdraw();
        for shard in &self.options.shards {
            shard.stop();
        }
        self.export
    }

    /// Sleeps until there is something to do; true when it is to stop.
    fn wait(&self) -> bool {
        let accepting = self.handshakes.len() < HANDSHAKES_MAX && self.accept_after.is_none();
        let mut files = Vec::with_capacity(2 + self.handshakes.len());
        files.push(PollFd::new(&*self.options.stop, PollFlags::IN));
        let listening = if accepting { PollFlags::IN } else { PollFlags::empty() };
        files.push(PollFd::from_borrowed_fd(self.options.listener.as_fd(), listening));
        for (handshake, _) in &self.handshakes {
            files.push(PollFd::from_borrowed_fd(handshake.as_fd(), PollFlags::IN));
        }
        let next = self
            .handshakes
            .iter()
            .map(|(_, deadline)| *deadline)
            .chain(self.accept_after)
            .chain(self.export.due)
            .chain(self.settled_at)
            .min();
        let next = next.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the deadline has passed when we wake.
            left + Duration::from_millis(1)
        });
        let retry = (!self.undelivered.is_empty()).then_some(DELIVERY_RETRY);
        let timeout = next.into_iter().chain(retry).min();
        let timeout = timeout.map(|left| Timespec::try_from(left).expect("a short time"));
        // An error is a signal or a lack of memory: both mean to look again.
        let _ = poll(&mut files, timeout.as_ref());
        files[0].revents().contains(PollFlags::IN)
    }

    /// Takes newcomers as long as there are any and handshakes are free.
    ///
    /// Bounded: whoever is refused at once takes no handshake, so a flood of newcomers to a full
    /// daemon would otherwise keep this thread from everything else, the order to stop included.
    fn accept(&mut self) {
        if self.accept_after.is_some_and(|after| Instant::now() < after) {
            return;
        }
        self.accept_after = None;
        for _ in 0..ACCEPTS_PER_ROUND {
            if self.handshakes.len() >= HANDSHAKES_MAX {
                return;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.options.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                // The newcomer has left already, or a signal came.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; resting");
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            self.admit(socket);
        }
    }

    /// Starts a handshake, or says at once why not.
    fn admit(&mut self, socket: OwnedFd) {
        if !listener::is_our_user(&socket) && sound("another user is refused") {
            let refusal = Refusal { status: Status::NotAuthorized, fault: None };
            self.refuse(&socket, refusal, CloseReason::RefusedHandshake);
            return;
        }
        if self.occupied() + self.handshakes.len()
            >= self.options.config.ipc.max_connections as usize
        {
            let refusal = Refusal { status: Status::Busy, fault: None };
            self.refuse(&socket, refusal, CloseReason::RefusedBusy);
            return;
        }
        let deadline = Instant::now() + self.handshake_timeout;
        self.handshakes.push((Handshake::new(socket), deadline));
    }

    fn continue_handshakes(&mut self) {
        let now = Instant::now();
        let codecs: Vec<u8> = self.options.codecs.iter().map(|codec| codec.id().0).collect();
        let policy = Policy { codecs: &codecs };
        let mut index = 0;
        while let Some((handshake, deadline)) = self.handshakes.get_mut(index) {
            let progress = match handshake.advance(&policy) {
                Progress::Waiting if now >= *deadline => Progress::Refused(handshake.too_late()),
                other => other,
            };
            if matches!(progress, Progress::Waiting) {
                index += 1;
                continue;
            }
            let (handshake, _) = self.handshakes.swap_remove(index);
            match progress {
                Progress::Done(accepted) => self.hand_over(handshake.into_socket(), *accepted),
                Progress::Refused(refusal) => {
                    if let Some(fault) = refusal.fault {
                        self.options.metrics.control().fault(fault.index());
                        tracing::debug!(%fault, "refused a handshake");
                    }
                    let socket = handshake.into_socket();
                    self.refuse(&socket, refusal, CloseReason::RefusedHandshake);
                }
                Progress::Waiting => {}
            }
        }
    }

    /// Welcomes a client and gives its connection to the shard with the fewest.
    fn hand_over(&mut self, socket: OwnedFd, accepted: Accepted) {
        let load = |shard: &ShardShared| shard.occupied.load(Ordering::Acquire);
        let (index, shard) = self
            .options
            .shards
            .iter()
            .enumerate()
            .min_by_key(|(_, shard)| load(shard))
            .expect("there is at least one shard");
        self.connections_so_far += 1;
        self.settled_at = self.options.when_settled.is_some().then(|| self.settle_next());
        if !sound("a connection leaves nothing behind") {
            std::mem::forget(std::hint::black_box(Box::new(self.connections_so_far)));
        }
        let Accepted { hello, layout, region, request_doorbell, response_doorbell } = accepted;
        let features = Features::from_bits_truncate(hello.features);
        let codec = self.options.codecs.iter().position(|codec| codec.id().0 == hello.codec);
        let ipc = &self.options.config.ipc;
        let mut welcome = Welcome::refusal(Status::Ok);
        welcome.features = features.bits();
        welcome.message_size_max =
            crate::connection::message_size_max(layout, ipc.max_message_size);
        welcome.in_flight_max = IN_FLIGHT_PER_CONNECTION;
        welcome.connection_id = self.connections_so_far;
        welcome.daemon_instance = self.daemon_instance;
        welcome.idle_timeout_secs = u32::try_from(ipc.idle_timeout_secs).unwrap_or(u32::MAX);
        welcome.core = self.options.cores[index].unwrap_or(u32::MAX);
        let arrival = Arrival {
            connection: NewConnection::<Region> {
                memory: region,
                layout,
                features,
                codec: codec.and_then(|codec| u8::try_from(codec).ok()).unwrap_or_default(),
                connection_id: self.connections_so_far,
            },
            descriptors: Descriptors { socket, request_doorbell, response_doorbell },
        };
        shard.occupied.fetch_add(1, Ordering::AcqRel);
        // The client reads it before it sends anything; its socket is empty, so it fits.
        send_welcome(&arrival.descriptors.socket, &welcome);
        self.deliver(index, arrival);
        if self.export.path.is_some() && self.export.due.is_none() {
            self.export.due = Some(Instant::now() + self.export.interval);
        }
    }

    /// Gives a connection to its shard, or keeps it for the next round: a shard that runs a long handler
    /// takes nobody meanwhile.
    fn deliver(&mut self, shard_index: usize, arrival: Arrival) {
        let shard = &self.options.shards[shard_index];
        match shard.arrivals.push(arrival) {
            Ok(()) => shard.waker.wake_if_parked(),
            Err(arrival) => self.undelivered.push_back((shard_index, arrival)),
        }
    }

    /// Offers each connection that is still here to its shard once more.
    fn deliver_again(&mut self) {
        for _ in 0..self.undelivered.len() {
            let Some((shard_index, arrival)) = self.undelivered.pop_front() else { return };
            self.deliver(shard_index, arrival);
        }
    }

    fn refuse(&self, socket: &OwnedFd, refusal: Refusal, reason: CloseReason) {
        self.options.metrics.control().closed(reason);
        let mut welcome = Welcome::refusal(refusal.status);
        welcome.fault = refusal.fault.map_or(0, fault_number);
        if refusal.status == Status::Busy {
            welcome.retry_after_ms = BUSY_RETRY_AFTER_MS;
        }
        send_welcome(socket, &welcome);
    }

    fn occupied(&self) -> usize {
        let occupied = |shard: &Arc<ShardShared>| shard.occupied.load(Ordering::Acquire) as usize;
        self.options.shards.iter().map(occupied).sum()
    }

    /// When a newcomer of now will have settled.
    fn settle_next(&self) -> Instant {
        let soon = Instant::now() + SETTLE_TIME;
        self.settled_last.map_or(soon, |last| soon.max(last + SETTLE_PERIOD))
    }

    fn settle_if_due(&mut self) {
        let now = Instant::now();
        if self.settled_at.take_if(|at| now >= *at).is_some()
            && let Some(settled) = &mut self.options.when_settled
        {
            self.settled_last = Some(now);
            settled();
        }
    }

    fn export_if_due(&mut self) {
        if self.export.due.is_some_and(|due| Instant::now() >= due) {
            self.export.write();
            // An idle daemon makes no wake-ups: the next newcomer starts the clock again.
            let next = Instant::now() + self.export.interval;
            self.export.due = (self.occupied() > 0).then_some(next);
        }
    }
}

/// A client that does not take 64 bytes gets none; it will see the hang-up.
fn send_welcome(socket: &OwnedFd, welcome: &Welcome) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(socket, welcome.as_bytes(), flags);
}
