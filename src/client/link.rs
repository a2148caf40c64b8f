//! One open connection without a policy: its memory, its doorbells, its socket, and both ring ends.
//!
//! [`Link`] is what both ends share; [`Sender`] and [`Receiver`] each have one owner at a time, so a
//! thread can send while another receives. The invariant to remember: what the daemon published
//! before it hung up still counts, so whoever sees a hang-up empties the response ring first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::options::WaitPolicy;
use crate::error::IpcError;
use crate::limits::{BYTES_HELD_MAX, FRAME_ALIGNMENT, FRAME_HEADER_SIZE, FRAMES_HELD_MAX};
use crate::region::{Doorbell, Region, RegionView, Whereabouts};
use crate::ring::{Consumer, Look, Producer, PublishError, RingView};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::wire::{
    Fault, FrameFlags, FrameHeader, Goodbye, HeaderWords, MessageType, Position, WELCOME_SIZE, span,
};

/// Frames from this span on, in bytes, give their pages back once they are consumed.
const GIVE_BACK_SPAN: u64 = 256 * 1024;
/// A producer writes ahead of its tail, into at most this many bytes behind it.
const WRITTEN_AHEAD: u64 = 3 * FRAME_ALIGNMENT;
/// Cancels that wait for space before their list has to grow.
const CANCELS_WAITING: usize = 64;
/// What stands in for a park that the system refused.
const REFUSED_PARK: Duration = Duration::from_millis(1);

/// What the handshake settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) connection_id: u64,
    pub(super) daemon_instance: u64,
    pub(super) message_size_max: u64,
    pub(super) in_flight_max: u32,
    pub(super) payload_checked: bool,
    pub(super) home_again: bool,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// The daemon hung up, perhaps with a last word.
    HungUp(Option<Goodbye>),
    /// The daemon broke the protocol.
    Fault(Fault),
    /// Tasks wait and the system refuses the thread that would drive them.
    NoDriver,
}

impl Lost {
    pub(super) fn error(&self) -> IpcError {
        match self {
            Self::HungUp(goodbye) => IpcError::from_goodbye(goodbye.as_ref()),
            Self::Fault(fault) => IpcError::Fault(*fault),
            Self::NoDriver => {
                let reason = "the system refused to start the client's thread".into();
                IpcError::ConnectionLost { reason }
            }
        }
    }
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What both directions of a connection share.
#[derive(Debug)]
pub(super) struct Link {
    region: Region,
    request_doorbell: Doorbell,
    response_doorbell: Doorbell,
    socket: OwnedFd,
    agreed: Agreed,
    wait: WaitPolicy,
    /// Last frames that the receiver has taken. When it says as many as the sender has asked, the request
    /// ring is empty, and so is the response ring.
    answered_count: AtomicU64,
}

impl Link {
    pub(super) const fn new(
        region: Region,
        request_doorbell: Doorbell,
        response_doorbell: Doorbell,
        socket: OwnedFd,
        agreed: Agreed,
        wait: WaitPolicy,
    ) -> Self {
        let answered_count = AtomicU64::new(0);
        Self { region, request_doorbell, response_doorbell, socket, agreed, wait, answered_count }
    }

    /// The two ends of this link's rings. Made once per link.
    pub(super) fn ends(&self) -> (Sender, Receiver) {
        let Agreed { payload_checked: checked, home_again: again, .. } = self.agreed;
        let layout = self.region.layout();
        let sender = Sender {
            producer: Producer::new(layout.request_home(), checked).again(again),
            asked_count: 0,
            ends_with_cancel: false,
            leftovers: Leftovers { large: None, cancels: Vec::with_capacity(CANCELS_WAITING) },
            has_leftovers: false,
            held: 0,
            held_size: 0,
            in_run: false,
        };
        let receiver = Receiver {
            consumer: Consumer::new(layout.response_home(), checked).again(again),
            farewell: Farewell { bytes: [0; WELCOME_SIZE], received: 0, ended: false },
        };
        (sender, receiver)
    }

    #[inline]
    pub(super) fn view(&self) -> RegionView<'_> {
        self.region.view()
    }

    #[inline]
    pub(super) const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    pub(super) const fn response_doorbell(&self) -> &Doorbell {
        &self.response_doorbell
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Frames that the response ring can hold at one time.
    pub(super) const fn response_frames_max(&self) -> u64 {
        self.region.layout().response_capacity() / FRAME_ALIGNMENT
    }

    /// Rings the daemon if it is parked, for whoever is going to wait by the policy. Once after any number
    /// of publishes.
    #[inline]
    pub(super) fn notify(&self) {
        if self.view().daemon_parked().take() {
            self.wake(true);
        }
    }

    /// [`Link::notify`] for whoever may go on polling by itself. Where it never parks, nobody would tell it
    /// that the daemon has come to its core, so it says nothing of where it is.
    #[inline]
    pub(super) fn notify_unwaited(&self) {
        if self.view().daemon_parked().take() {
            self.wake(self.wait.park);
        }
    }

    /// Rings the daemon, and says where it is likely to be rung for next time, or takes that back.
    #[cold]
    fn wake(&self, says_where: bool) {
        // Who is parked already has said where.
        if !self.view().client_parked().is_armed() {
            if says_where {
                self.say_where();
            } else {
                self.view().client_core().store(None);
            }
        }
        self.request_doorbell.ring();
    }

    /// Sets the client's parked flag, and says where it parks. The caller looks once more, then parks.
    pub(super) fn arm(&self) {
        self.say_where();
        self.view().client_parked().arm();
    }

    /// Says on which core this thread is: a daemon that is parked there answers soonest.
    fn say_where(&self) {
        let polls = !self.wait.park || !self.wait.spin.is_zero();
        let place = this_core().map(|core| Whereabouts { core, polls });
        self.view().client_core().store(place);
    }

    /// How to wait for what the daemon was asked: with a daemon on this very core, polling would keep it
    /// from answering. That changes while a client waits, so it is asked again now and then.
    #[inline]
    pub(super) fn wait_policy(&self) -> WaitPolicy {
        match self.view().daemon_core().load() {
            Some(place) => self.wait_policy_beside(place),
            None => self.wait,
        }
    }

    #[cold]
    fn wait_policy_beside(&self, daemon: Whereabouts) -> WaitPolicy {
        if this_core() == Some(daemon.core) { WaitPolicy::PARK } else { self.wait }
    }

    /// Rings the daemon if it is parked for want of space in the response ring. For whoever has
    /// consumed something, before it waits and now and then while it polls.
    #[inline]
    pub(super) fn relieve(&self) {
        if self.view().daemon_blocked().take() {
            self.request_doorbell.ring();
        }
    }

    /// Refuses a payload that the daemon or the request ring would not take.
    #[inline]
    pub(super) fn check_size(&self, size: usize) -> Result<(), IpcError> {
        let capacity = self.region.layout().request_capacity();
        // One unit of the ring stays free behind the largest frame.
        let fits = capacity - FRAME_ALIGNMENT - FRAME_HEADER_SIZE;
        let (size, max) = (size as u64, self.agreed.message_size_max.min(fits));
        if size <= max { Ok(()) } else { Err(IpcError::MessageTooLarge { size, max }) }
    }

    /// Waits until the response doorbell is rung, the daemon hangs up, `other` is readable, or the
    /// deadline falls; also returns when a signal comes. The caller has armed the doorbell and
    /// looked once more. True when the socket wants to be looked at.
    pub(super) fn park(&self, deadline: Option<Instant>, other: Option<BorrowedFd<'_>>) -> bool {
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let doorbell = self.response_doorbell.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | PollFlags::RDHUP),
            watched(doorbell),
            watched(other.unwrap_or(doorbell)),
        ];
        let count = if other.is_some() { 3 } else { 2 };
        !wait_for(&mut fds[..count], deadline) || !fds[0].revents().is_empty()
    }

    /// Hangs up: the daemon sees it at once, whoever else still holds this link.
    pub(super) fn hang_up(&self) {
        // Nothing to do about a failure: the socket is gone then, which is the aim.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// The core on which this thread runs at the moment; from the vDSO, without a system call.
fn this_core() -> Option<u32> {
    u32::try_from(rustix::thread::sched_getcpu()).ok()
}

/// poll(2) until the deadline; a signal ends it early. False when the system refused: it has no memory
/// left, so the caller looks around by itself, a millisecond later.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> bool {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left: Duration| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => true,
        Err(_) => {
            thread::sleep(REFUSED_PARK);
            false
        }
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Sender {
    producer: Producer,
    /// Requests published.
    asked_count: u64,
    /// A cancel was published since the last request: no answer will say that it was taken.
    ends_with_cancel: bool,
    leftovers: Leftovers,
    /// Exactly when `leftovers` holds anything: the one thing that a publish looks at.
    has_leftovers: bool,
    /// Frames, and bytes of their payloads, since something was last shown.
    held: u32,
    held_size: u64,
    /// A request was published with others to follow.
    in_run: bool,
}

/// What is to be done when there is a chance.
#[derive(Debug)]
struct Leftovers {
    large: Option<LargeRequest>,
    /// Requests to cancel, when the ring has space.
    cancels: Vec<u64>,
}

/// A request whose pages go back to the kernel once the daemon has consumed it.
#[derive(Clone, Copy, Debug)]
struct LargeRequest {
    start: Position,
    end: Position,
}

impl Sender {
    /// Publishes a request; false when the ring is full. The caller notifies.
    ///
    /// The size has been checked by [`Link::check_size`].
    #[inline(always)]
    pub(super) fn publish(
        &mut self,
        link: &Link,
        mut header: FrameHeader,
        payload: &[u8],
    ) -> Result<bool, Fault> {
        if self.has_leftovers && !self.tidy(link)? {
            link.notify_unwaited();
            return Ok(false);
        }
        // Pairs with the store in `Receiver::free`, and so with the daemon's head: it publishes that
        // before the answer.
        let is_alone = self.asked_count == link.answered_count.load(Acquire);
        if is_alone && link.agreed.home_again {
            header.flags |= FrameFlags::TAKEN.bits();
            if !self.ends_with_cancel {
                self.producer.all_taken();
            }
        }
        match self.producer.publish(link.view().request_ring(), header, payload) {
            Ok(()) => {
                self.asked_count += 1;
                self.ends_with_cancel = false;
                if payload.len() as u64 >= GIVE_BACK_SPAN {
                    self.remember_large(payload.len());
                }
                Ok(true)
            }
            Err(PublishError::Full) => {
                // There may be new padding in the ring, which a parked daemon has to skip.
                self.reveal(link);
                link.notify_unwaited();
                Ok(false)
            }
            Err(PublishError::Fault(fault)) => Err(fault),
            Err(PublishError::TooLarge { .. }) => unreachable!("the size was checked"),
        }
    }

    /// Publishes requests from now on unseen, until [`Sender::reveal`]; shows what has become much.
    #[inline]
    pub(super) fn hold(&mut self, link: &Link, size: usize) {
        let is_run = std::mem::replace(&mut self.in_run, true);
        if is_run && size as u64 <= BYTES_HELD_MAX / 2 {
            // The daemon's core has the lines that follow. A long frame gains nothing by it.
            self.producer.prefetch_run(link.view().request_ring());
        }
        self.held += 1;
        self.held_size += size as u64;
        if self.held > FRAMES_HELD_MAX || self.held_size > BYTES_HELD_MAX {
            self.show(link);
        }
        self.producer.hold();
    }

    /// Asks for the lines into which the next request will go.
    #[inline(always)]
    pub(super) fn prefetch(&self, link: &Link) {
        let ring = link.view().request_ring();
        self.producer.prefetch(ring);
        self.producer.prefetch_rest(ring);
        link.view().daemon_parked().prefetch();
    }

    /// True when something was held back.
    #[inline]
    pub(super) const fn is_holding(&self) -> bool {
        self.producer.is_holding()
    }

    /// Shows the daemon what was held back: nothing follows for now.
    #[inline]
    pub(super) fn reveal(&mut self, link: &Link) {
        self.in_run = false;
        self.show(link);
    }

    #[inline]
    fn show(&mut self, link: &Link) {
        (self.held, self.held_size) = (0, 0);
        self.producer.reveal(link.view().request_ring());
    }

    /// Publishes a cancel, now or when there is space, and rings the daemon.
    pub(super) fn cancel(&mut self, link: &Link, id: u64) -> Result<(), Fault> {
        self.reveal(link);
        self.leftovers.cancels.push(id);
        self.tidy(link)?;
        link.notify_unwaited();
        Ok(())
    }

    /// Does what was left over, as far as that is possible now; false when cancels still wait.
    pub(super) fn tidy(&mut self, link: &Link) -> Result<bool, Fault> {
        self.give_back(link)?;
        let ring = link.view().request_ring();
        while let Some(id) = self.leftovers.cancels.last() {
            let header = FrameHeader::request(MessageType::CANCEL, *id);
            match self.producer.publish(ring, header, &[]) {
                Ok(()) => {
                    self.leftovers.cancels.pop();
                    self.ends_with_cancel = true;
                }
                Err(PublishError::Fault(fault)) => return Err(fault),
                Err(PublishError::Full | PublishError::TooLarge { .. }) => break,
            }
        }
        let sent = self.leftovers.cancels.is_empty();
        self.has_leftovers = !sent || self.leftovers.large.is_some();
        Ok(sent)
    }

    /// True when [`Sender::tidy`] has something to do.
    #[inline]
    pub(super) const fn has_leftovers(&self) -> bool {
        self.has_leftovers
    }

    #[cold]
    fn remember_large(&mut self, size: usize) {
        // Note: cannot truncate: a request ring holds less than 4 GiB.
        let span = span(u32::try_from(size).unwrap_or(u32::MAX));
        let end = self.producer.tail();
        self.leftovers.large =
            Some(LargeRequest { start: Position(end.0.wrapping_sub(span)), end });
        self.has_leftovers = true;
    }

    /// Gives the pages of the last large request back if the daemon is through with it.
    fn give_back(&mut self, link: &Link) -> Result<(), Fault> {
        let Some(large) = self.leftovers.large else {
            return Ok(());
        };
        let ring = link.view().request_ring();
        let tail = self.producer.tail();
        let drained = self.producer.is_drained(ring)?;
        if !drained && tail.since(self.producer.head_seen()) > tail.since(large.end) {
            return Ok(());
        }
        self.leftovers.large = None;
        // Once we have come round to its place, that place holds younger frames.
        if tail.plus(WRITTEN_AHEAD + FRAME_ALIGNMENT).since(large.start) <= ring.capacity() {
            let layout = link.region.layout();
            let start = layout.request_offset() + (large.start.0 & (ring.capacity() - 1));
            give_back(&link.region, start, start + large.end.since(large.start));
        }
        Ok(())
    }
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct Receiver {
    consumer: Consumer,
    farewell: Farewell,
}

/// What came on the socket since the handshake.
#[derive(Debug)]
struct Farewell {
    bytes: [u8; WELCOME_SIZE],
    received: usize,
    ended: bool,
}

impl Receiver {
    /// The oldest frame that waits, judged; it stays until it is taken.
    #[inline]
    pub(super) fn poll(&mut self, link: &Link) -> Result<Option<FrameHeader>, Fault> {
        self.consumer.poll(link.view().response_ring())
    }

    /// True when nothing waits: the look after arming the doorbell.
    #[inline]
    pub(super) fn is_empty(&self, link: &Link) -> bool {
        self.consumer.is_empty(link.view().response_ring())
    }

    /// [`Receiver::poll`] without a fault in what it gives: see [`Look`]. `ring` is the link's response ring.
    #[inline(always)]
    pub(super) fn look(&mut self, ring: RingView<'_>) -> Look {
        self.consumer.look(ring)
    }

    /// Asks for the lines at which the next answer will appear.
    #[inline(always)]
    pub(super) fn prefetch(&self, link: &Link) {
        let ring = link.view().response_ring();
        self.consumer.prefetch(ring);
        self.consumer.prefetch_rest(ring);
    }

    /// What [`Receiver::look`] found broken.
    #[cold]
    pub(super) fn fault(&self) -> Fault {
        self.consumer.fault()
    }

    /// Copies the polled frame's payload into `target`, of exactly its size, and frees its space. `ring` is the
    /// link's response ring: made once for each frame, because after a copy nothing is known any more of what
    /// was loaded before it.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        link: &Link,
        ring: RingView<'_>,
        header: HeaderWords,
        target: &mut [u8],
    ) -> Result<(), Fault> {
        self.consumer.copy_payload(ring, header, target)?;
        self.free(link, ring, header);
        Ok(())
    }

    /// Frees the polled frame's space without a look at its payload.
    #[inline(always)]
    pub(super) fn skip(&mut self, link: &Link, header: HeaderWords) {
        self.free(link, link.view().response_ring(), header);
    }

    #[inline(always)]
    fn free(&mut self, link: &Link, ring: RingView<'_>, header: HeaderWords) {
        if header.span() >= GIVE_BACK_SPAN {
            // Before the release: afterwards the space is the daemon's.
            let start = link.region.layout().response_offset() + self.consumer.offset(ring);
            give_back(&link.region, start, start + header.span());
        }
        self.consumer.release(ring, header);
        if header.is_last() {
            // Only the receiver's owner writes it. Pairs with the load in `Sender::publish`.
            let count = link.answered_count.load(Relaxed);
            link.answered_count.store(count.wrapping_add(1), Release);
        }
    }

    /// Looks whether the daemon has hung up; never waits.
    #[cold]
    pub(super) fn look_at_socket(&mut self, link: &Link) -> bool {
        let farewell = &mut self.farewell;
        // Bound: every turn receives a byte, and one more than a goodbye ends it.
        while !farewell.ended {
            let mut spare = [0];
            let rest = match &mut farewell.bytes[farewell.received..] {
                [] => &mut spare[..],
                rest => rest,
            };
            match rustix::io::read(&link.socket, &mut *rest) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // The end, an error, or more than a goodbye: whatever it is, nothing follows.
                Ok(0) | Err(_) => farewell.ended = true,
                Ok(_) if farewell.received == WELCOME_SIZE => farewell.ended = true,
                Ok(count) => farewell.received += count,
            }
        }
        farewell.ended
    }

    /// True when [`Receiver::look_at_socket`] has seen the end.
    pub(super) const fn has_hung_up(&self) -> bool {
        self.farewell.ended
    }

    /// The daemon's last word, if it was whole.
    pub(super) fn goodbye(&self) -> Option<Goodbye> {
        Goodbye::decode(&self.farewell.bytes[..self.farewell.received])
    }
}

/// Gives pages back. A failure costs memory until the connection ends, nothing else.
#[cold]
fn give_back(region: &Region, start: u64, end: u64) {
    let done: io::Result<()> = region.give_back(start, end);
    if let Err(error) = done {
        tracing::debug!(%error, "pages of a large frame were not given back");
    }
}
