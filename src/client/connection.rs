//! A connection with one owner: the shortest way to the daemon and back.
//!
//! The invariant to remember: after [`Connection::connect`] nothing here allocates but the caller's
//! answer buffer when it must grow, and nothing reads the clock before an answer is late.

use std::time::{Duration, Instant};

use super::handshake;
use super::link::{Link, Lost, Receiver, Sender};
use super::options::{ConnectOptions, RequestOptions};
use super::wait::{Pace, SpacePace, Step, deadline_ms, soon};
use crate::error::IpcError;
use crate::limits::BUSY_RETRY_AFTER_MS;
use crate::ring::Look;
use crate::sync::sound;
use crate::wire::{Fault, FrameHeader, HeaderWords, MessageType, Status};

/// Abandoned requests before their list has to grow.
const ABANDONED_COUNT: usize = 64;
/// Looks of [`Connection::try_receive`] that find nothing between two at the daemon's want of space.
const MISSES_PER_RELIEF: u32 = 32;

/// One exclusive connection to the daemon.
///
/// [`Connection::call`] is for one request at a time. To keep several in flight, use
/// [`Connection::try_send`] and [`Connection::try_receive`] and tell answers apart by their id; or
/// use a [`Client`](super::Client), which does that for any number of threads and tasks.
///
/// An error that ends the connection ([`IpcError::ConnectionLost`], [`IpcError::ShuttingDown`],
/// [`IpcError::Fault`]) is returned by every call from then on. Dropping the connection hangs up,
/// which cancels what is in flight.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    sender: Sender,
    receiver: Receiver,
    next_id: u64,
    /// Requests whose last frame has not come.
    in_flight: u32,
    /// Of those: requests that nobody waits for. Their frames are swallowed.
    abandoned: Vec<u64>,
    /// Times that [`Connection::try_receive`] found nothing.
    misses: u32,
    lost: Option<Lost>,
}

/// A frame that [`Connection::try_receive`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The request that it answers.
    pub request_id: u64,
    /// The request's type.
    pub message_type: MessageType,
    /// How the request ended; always `Ok` unless `last`.
    pub status: Status,
    /// The last frame of this answer.
    pub last: bool,
    /// Bytes of payload.
    pub size: u32,
}

impl Connection {
    /// Connects to the daemon and shakes hands.
    ///
    /// # Errors
    ///
    /// - [`IpcError::NotRunning`]: nobody listens there.
    /// - [`IpcError::Busy`], [`IpcError::ShuttingDown`]: try again later.
    /// - [`IpcError::Refused`]: the daemon takes no client like this: version, codec, user, region.
    /// - [`IpcError::Io`] with `TimedOut`: the daemon did not answer within the connect timeout.
    /// - [`IpcError::Fault`]: what answers there is not an Annulus daemon, or it closed half-way.
    /// - [`IpcError::InvalidRequest`]: a ring capacity that no daemon accepts.
    pub fn connect(options: &ConnectOptions) -> Result<Self, IpcError> {
        let link = handshake::open(options)?;
        let (sender, receiver) = link.ends();
        Ok(Self {
            link,
            sender,
            receiver,
            next_id: 1,
            in_flight: 0,
            abandoned: Vec::with_capacity(ABANDONED_COUNT),
            misses: 0,
            lost: None,
        })
    }

    /// Sends one request and waits for its whole answer, the payloads of all its frames one after
    /// the other. `answer` is overwritten, and grows only when the answer needs it.
    ///
    /// # Errors
    ///
    /// The request's own: see [`IpcError::from_answer`]. Before anything is sent:
    /// [`IpcError::MessageTooLarge`], or [`IpcError::InvalidRequest`] while requests of
    /// [`Connection::try_send`] are unanswered. The connection's: see [`Connection`].
    #[inline]
    pub fn call(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<(), IpcError> {
        self.call_with(message_type, payload, RequestOptions::NONE, answer)
    }

    /// [`Connection::call`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::call`], and [`IpcError::Timeout`] when the deadline falls: the request
    /// is cancelled and what still comes for it is swallowed.
    #[inline]
    pub fn call_with(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        options: RequestOptions,
        answer: &mut Vec<u8>,
    ) -> Result<(), IpcError> {
        let deadline = options.deadline_at();
        let id = self.send(message_type, payload, deadline)?;
        let status = self.receive_whole(id, deadline, answer)?;
        if self.sender.has_leftovers() {
            self.tidy()?;
        }
        match answer_error(status, answer) {
            None => Ok(()),
            Some(error) => {
                answer.clear();
                Err(error)
            }
        }
    }

    /// Puts one request into the ring and gives its id, or `None` when that is full: receive, then
    /// try again. Call [`Connection::notify`] after the last of a batch: until then the daemon may not
    /// see the last few. Receiving and waiting do it, too.
    ///
    /// # Errors
    ///
    /// [`IpcError::MessageTooLarge`]. [`IpcError::Busy`] with nothing to wait for but answers:
    /// [`Connection::in_flight_max`] requests are unanswered. The connection's: see [`Connection`].
    #[inline]
    pub fn try_send(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
    ) -> Result<Option<u64>, IpcError> {
        self.try_send_with(message_type, payload, RequestOptions::NONE)
    }

    /// [`Connection::try_send`] with options. The daemon is told the deadline; whoever receives
    /// enforces it, with [`Connection::cancel`].
    ///
    /// # Errors
    ///
    /// Those of [`Connection::try_send`].
    #[inline]
    pub fn try_send_with(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        options: RequestOptions,
    ) -> Result<Option<u64>, IpcError> {
        self.check_open()?;
        self.link.check_size(payload.len())?;
        if self.in_flight >= self.link.agreed().in_flight_max {
            return Err(IpcError::Busy { retry_after: Duration::ZERO });
        }
        self.sender.hold(&self.link, payload.len());
        self.publish(message_type, payload, options.deadline_at())
    }

    /// Shows the daemon every request of [`Connection::try_send`], and rings if it is parked. Once
    /// after a batch is enough.
    #[inline]
    pub fn notify(&mut self) {
        self.sender.reveal(&self.link);
        self.link.notify_unwaited();
    }

    /// Takes the next frame that is there, whatever request it answers, and puts its payload in
    /// `into`, which is overwritten and grows only when it must. `None`: nothing is there yet.
    ///
    /// # Errors
    ///
    /// The connection's: see [`Connection`]. A hang-up shows in [`Connection::wait`] and
    /// [`Connection::check_alive`].
    #[inline]
    pub fn try_receive(&mut self, into: &mut Vec<u8>) -> Result<Option<Received>, IpcError> {
        self.check_open()?;
        self.notify_held();
        // Bound: the frames of abandoned requests, which are in flight only so often.
        loop {
            let ring = self.link.view().response_ring();
            let header = match self.receiver.look(ring) {
                Look::Frame(header) => header,
                Look::Nothing => break,
                Look::Broken => return Err(self.broken()),
            };
            if self.is_abandoned(header.request_id()) {
                self.swallow(header.header());
                continue;
            }
            into.resize(header.payload_size() as usize, 0);
            let taken = self.receiver.take(&self.link, ring, header, into);
            self.settle(header, taken)?;
            return Ok(Some(Received {
                request_id: header.request_id(),
                message_type: header.message_type(),
                status: Status::from_wire(header.status()),
                last: header.is_last(),
                size: header.payload_size(),
            }));
        }
        self.misses = self.misses.wrapping_add(1);
        if self.misses.is_multiple_of(MISSES_PER_RELIEF) {
            self.link.relieve();
        }
        Ok(None)
    }

    /// Asks the processor for the memory at which the next answer will appear and into which the next
    /// request will go, and waits for neither. It changes nothing that a program can see.
    ///
    /// For one thread that serves many connections in turn, more than its core's cache holds: called
    /// for the connection that comes two or so later, it spares [`Connection::try_receive`] and
    /// [`Connection::try_send`] the wait for the daemon's core. For a connection that was just used,
    /// or that is waited for, it only costs time.
    #[inline]
    pub fn prefetch(&self) {
        self.receiver.prefetch(&self.link);
        self.sender.prefetch(&self.link);
    }

    /// Waits until a frame is there to receive, by this connection's [`WaitPolicy`](super::WaitPolicy). False when the
    /// deadline falls first.
    ///
    /// # Errors
    ///
    /// The connection's: see [`Connection`]. What the daemon sent before it hung up comes first.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, IpcError> {
        self.check_open()?;
        self.notify_held();
        let mut pace = Pace::new(self.link.wait_policy(), deadline);
        loop {
            match self.poll()? {
                Some(header) if self.is_abandoned(header.request_id) => self.swallow(header),
                Some(_) => return Ok(true),
                None if self.pause(&mut pace, deadline)? => {}
                None => return Ok(false),
            }
        }
    }

    /// Asks the daemon to end the request `id`. It still ends with exactly one last frame: status
    /// `Cancelled`, or its real end if that came first. Rings the daemon.
    ///
    /// With the ring full, the cancel is kept and goes out before the next request.
    ///
    /// # Errors
    ///
    /// The connection's: see [`Connection`].
    pub fn cancel(&mut self, id: u64) -> Result<(), IpcError> {
        self.check_open()?;
        self.sender.cancel(&self.link, id).map_err(|fault| self.lose(fault.into()))
    }

    /// Requests whose last frame has not been received, abandoned ones included.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// How many requests may be unanswered at one time; the daemon chose.
    #[must_use]
    pub const fn in_flight_max(&self) -> u32 {
        self.link.agreed().in_flight_max
    }

    /// Largest payload in either direction, in bytes; the daemon chose.
    #[must_use]
    pub const fn message_size_max(&self) -> u64 {
        self.link.agreed().message_size_max
    }

    /// Names this connection in the daemon's statistics.
    #[must_use]
    pub const fn connection_id(&self) -> u64 {
        self.link.agreed().connection_id
    }

    /// Names this start of the daemon.
    #[must_use]
    pub const fn daemon_instance(&self) -> u64 {
        self.link.agreed().daemon_instance
    }

    /// True when the connection is known to be over. Asks nobody.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.lost.is_some()
    }

    /// Looks whether the daemon has hung up; one system call, never waits. A daemon that has said
    /// goodbye counts as gone, even if it still answers what is in flight.
    ///
    /// # Errors
    ///
    /// The connection's: see [`Connection`].
    pub fn check_alive(&mut self) -> Result<(), IpcError> {
        self.check_open()?;
        self.look_at_socket()?;
        let goodbye = self.receiver.goodbye();
        if goodbye.is_some() || self.receiver.has_hung_up() {
            return Err(IpcError::from_goodbye(goodbye.as_ref()));
        }
        Ok(())
    }

    /// The process id of the daemon, which the kernel took down when it began to listen
    /// (`SO_PEERCRED`, unix(7)).
    ///
    /// # Errors
    ///
    /// [`IpcError::Io`]: the kernel did not say.
    pub fn daemon_process_id(&self) -> Result<u32, IpcError> {
        let peer = rustix::net::sockopt::socket_peercred(self.link.socket())
            .map_err(IpcError::io("ask who is at the other end of", "the daemon's socket"))?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// [`Connection::notify`], if anything was held back.
    #[inline]
    fn notify_held(&mut self) {
        if self.sender.is_holding() {
            self.notify();
        }
    }

    /// Sends a request of [`Connection::call`], waiting for a credit and for space if it must.
    #[inline]
    fn send(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<u64, IpcError> {
        self.check_open()?;
        self.link.check_size(payload.len())?;
        if self.in_flight != 0 {
            self.make_way(deadline)?;
        }
        self.sender.reveal(&self.link);
        let id = match self.publish(message_type, payload, deadline)? {
            Some(id) => id,
            None => self.send_when_space(message_type, payload, deadline)?,
        };
        self.link.notify();
        Ok(id)
    }

    #[inline(always)]
    fn publish(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Option<u64>, IpcError> {
        let id = self.next_id;
        let mut header = FrameHeader::request(message_type, id);
        header.deadline_ms = deadline_ms(deadline);
        match self.sender.publish(&self.link, header, payload) {
            Ok(true) => {
                self.next_id += 1;
                self.in_flight += 1;
                Ok(Some(id))
            }
            Ok(false) => Ok(None),
            Err(fault) => Err(self.lose(fault.into())),
        }
    }

    #[cold]
    fn send_when_space(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<u64, IpcError> {
        let mut pace = SpacePace::new();
        loop {
            self.swallow_waiting()?;
            match pace.step(deadline) {
                Step::Expired => return Err(IpcError::Timeout),
                Step::LookAtSocket => self.look_at_socket()?,
                Step::Poll | Step::Park => {}
            }
            if let Some(id) = self.publish(message_type, payload, deadline)? {
                return Ok(id);
            }
        }
    }

    /// Makes sure that `call` meets no frames but those of abandoned requests, and has a credit.
    #[cold]
    fn make_way(&mut self, deadline: Option<Instant>) -> Result<(), IpcError> {
        self.swallow_waiting()?;
        if self.in_flight as usize > self.abandoned.len() {
            let detail = "a call while pipelined requests are unanswered".into();
            return Err(IpcError::InvalidRequest { detail });
        }
        let mut pace = Pace::new(self.link.wait_policy(), deadline);
        while self.in_flight >= self.link.agreed().in_flight_max {
            if !self.pause(&mut pace, deadline)? {
                return Err(IpcError::Timeout);
            }
            self.swallow_waiting()?;
        }
        Ok(())
    }

    /// Swallows frames of abandoned requests up to the first other one.
    fn swallow_waiting(&mut self) -> Result<(), IpcError> {
        while let Some(header) = self.poll()? {
            if !self.is_abandoned(header.request_id) {
                break;
            }
            self.swallow(header);
        }
        Ok(())
    }

    /// Puts the payloads of all frames of `id` into `answer`; of one that failed, the last only.
    #[inline]
    fn receive_whole(
        &mut self,
        id: u64,
        deadline: Option<Instant>,
        answer: &mut Vec<u8>,
    ) -> Result<Status, IpcError> {
        if !sound("an answer's buffer is used again") {
            *answer = Vec::new();
        }
        let mut filled = 0;
        let mut pace = Pace::new(self.link.wait_policy(), deadline);
        loop {
            let ring = self.link.view().response_ring();
            let header = match self.receiver.look(ring) {
                Look::Frame(header) => header,
                Look::Nothing if self.pause(&mut pace, deadline)? => continue,
                Look::Nothing => return Err(self.abandon(id)),
                Look::Broken => return Err(self.broken()),
            };
            if header.request_id() != id {
                self.swallow(header.header());
                continue;
            }
            let status = Status::from_wire(header.status());
            if status != Status::Ok {
                filled = 0;
            }
            let start = filled;
            filled += header.payload_size() as usize;
            // Note: no zeros are written over what the buffer already holds.
            answer.resize(filled, 0);
            let taken = self.receiver.take(&self.link, ring, header, &mut answer[start..]);
            self.settle(header, taken)?;
            if header.is_last() {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.abandon(id));
            }
            pace.restart();
        }
    }

    /// The deadline of `id` fell: cancels it and swallows what comes.
    #[cold]
    fn abandon(&mut self, id: u64) -> IpcError {
        self.abandoned.push(id);
        match self.sender.cancel(&self.link, id) {
            Ok(()) => IpcError::Timeout,
            Err(fault) => self.lose(fault.into()),
        }
    }

    /// The oldest frame that waits; where every nanosecond counts, `Receiver::look` is asked instead.
    fn poll(&mut self) -> Result<Option<FrameHeader>, IpcError> {
        self.receiver.poll(&self.link).map_err(|fault| self.lose(fault.into()))
    }

    /// The daemon published what is no frame.
    #[cold]
    fn broken(&mut self) -> IpcError {
        self.lose(self.receiver.fault().into())
    }

    /// A frame was taken, or could not be.
    #[inline(always)]
    fn settle(&mut self, header: HeaderWords, taken: Result<(), Fault>) -> Result<(), IpcError> {
        self.count_answer(header.is_last());
        taken.map_err(|fault| self.lose(fault.into()))
    }

    #[inline]
    fn count_answer(&mut self, is_last: bool) {
        if is_last {
            // Note: saturating because a peer decides how many last frames there are.
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    #[inline]
    fn is_abandoned(&self, request_id: u64) -> bool {
        !self.abandoned.is_empty() && self.abandoned.contains(&request_id)
    }

    /// Drops a frame of an abandoned request, or of one that never was.
    #[cold]
    fn swallow(&mut self, header: FrameHeader) {
        if header.is_last()
            && let Some(index) = self.abandoned.iter().position(|id| *id == header.request_id)
        {
            self.abandoned.swap_remove(index);
            self.count_answer(true);
        }
        self.receiver.skip(&self.link, (&header).into());
    }

    /// One step of waiting for a frame; false when the deadline has passed.
    #[inline]
    fn pause(&mut self, pace: &mut Pace, deadline: Option<Instant>) -> Result<bool, IpcError> {
        if pace.is_at_look() {
            pace.adopt(self.link.wait_policy());
        }
        match pace.step() {
            Step::Poll => {}
            Step::LookAtSocket => self.look_at_socket()?,
            Step::Park => self.park(deadline)?,
            Step::Expired => return Ok(false),
        }
        Ok(true)
    }

    #[cold]
    fn park(&mut self, deadline: Option<Instant>) -> Result<(), IpcError> {
        let mut until = deadline;
        if self.sender.has_leftovers() && !self.tidy()? {
            until = soon(deadline);
        }
        self.link.relieve();
        let flag = self.link.view().client_parked();
        self.link.arm();
        if !self.receiver.is_empty(&self.link) {
            flag.disarm();
            return Ok(());
        }
        let hung_up = self.link.park(until, None);
        flag.disarm();
        let _ = self.link.response_doorbell().take();
        if hung_up { self.look_at_socket() } else { Ok(()) }
    }

    #[cold]
    fn look_at_socket(&mut self) -> Result<(), IpcError> {
        if self.receiver.look_at_socket(&self.link) && self.receiver.is_empty(&self.link) {
            return Err(self.lose(Lost::HungUp(self.receiver.goodbye())));
        }
        self.link.relieve();
        if self.sender.has_leftovers() {
            self.tidy()?;
        }
        Ok(())
    }

    /// Does what the sender left over; false when cancels still wait for space.
    #[cold]
    fn tidy(&mut self) -> Result<bool, IpcError> {
        let sent = self.sender.tidy(&self.link).map_err(|fault| self.lose(fault.into()))?;
        self.link.notify_unwaited();
        Ok(sent)
    }

    #[inline]
    fn check_open(&self) -> Result<(), IpcError> {
        match &self.lost {
            None => Ok(()),
            Some(lost) => Err(lost.error()),
        }
    }

    #[cold]
    fn lose(&mut self, lost: Lost) -> IpcError {
        self.lost.get_or_insert(lost).error()
    }
}

/// The error behind an answer's status; `detail` is the last frame's payload.
pub(super) fn answer_error(status: Status, detail: &[u8]) -> Option<IpcError> {
    let retry_after = Duration::from_millis(u64::from(BUSY_RETRY_AFTER_MS));
    IpcError::from_answer(status, detail, retry_after)
}
