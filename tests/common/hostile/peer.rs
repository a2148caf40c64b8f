//! A client that owns its descriptors and its memory, and may do with them what it likes.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::region::{Region, RegionLayout};
use annulus::ring::{Consumer, Producer, PublishError};
use annulus::sync::AtomicU64 as Word;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{
    Features, FrameHeader, Goodbye, Hello, Position, Status, WELCOME_SIZE, Welcome,
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes as _;

use crate::common::send_with_descriptors;

use super::{PATIENCE, Seen, Stage, Until};

/// Bytes of each ring of an offender, unless it asks for others.
pub(crate) const CAPACITY: u64 = 1 << 16;

/// What an offender brings to its handshake.
pub(crate) struct Gifts {
    pub(crate) region: OwnedFd,
    pub(crate) request_doorbell: OwnedFd,
    pub(crate) response_doorbell: OwnedFd,
}

impl Gifts {
    /// What an honest client brings for two rings of this capacity, and its mapping.
    pub(crate) fn honest(request_capacity: u64, response_capacity: u64) -> (Region, Self) {
        let layout = RegionLayout::new(request_capacity, response_capacity);
        let (mapped, region) = Region::create(layout).unwrap();
        let (request_doorbell, response_doorbell) = (bell(), bell());
        (mapped, Self { region, request_doorbell, response_doorbell })
    }

    pub(crate) fn all(&self) -> [BorrowedFd<'_>; 3] {
        [self.region.as_fd(), self.request_doorbell.as_fd(), self.response_doorbell.as_fd()]
    }
}

pub(crate) fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// A Hello that the daemon accepts, for rings of [`CAPACITY`].
pub(crate) fn hello() -> Hello {
    Hello::new(CAPACITY, CAPACITY, 1, Features::empty())
}

pub(crate) fn connect(stage: &Stage) -> UnixStream {
    let socket = UnixStream::connect(stage.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a Hello with three descriptors and gives what the daemon says.
pub(crate) fn offer(stage: &Stage, hello: &Hello, gifts: &Gifts) -> Seen {
    let socket = connect(stage);
    send_with_descriptors(&socket, hello.as_bytes(), &gifts.all());
    answer(&socket)
}

/// What a Welcome says; served means that it was one.
pub(crate) fn answer(mut socket: &UnixStream) -> Seen {
    let mut bytes = [0; WELCOME_SIZE];
    match socket.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => return Seen::Silent,
        Err(_) => return Seen::HungUp,
    }
    let welcome = Welcome::decode(&bytes).unwrap();
    match Status::from_wire(welcome.status) {
        Status::Ok => Seen::Served,
        status => Seen::Refused(status, welcome.fault_name()),
    }
}

/// [`answer`]; whoever is welcome leaves, and waits until a shard has let go. The Welcome is the control
/// thread's: who waits for no more comes again faster than a shard that waits for a core can let go,
/// until there is no place left.
pub(crate) fn answer_and_leave(socket: &UnixStream) -> Seen {
    match answer(socket) {
        Seen::Served => leave(socket),
        other => other,
    }
}

/// Leaves, and waits for what the daemon makes of it. Until it notices, it may still find a fault in
/// what lies in the ring, and then counts that.
fn leave(socket: &UnixStream) -> Seen {
    // Fails when the daemon has hung up already.
    let _ = socket.shutdown(Shutdown::Write);
    match last_word(socket) {
        Seen::HungUp => Seen::Served,
        other => other,
    }
}

/// Waits for the daemon's last word.
pub(crate) fn last_word(mut socket: &UnixStream) -> Seen {
    let mut bytes = Vec::new();
    let ended = socket.read_to_end(&mut bytes);
    match (Goodbye::decode(&bytes), ended) {
        (Some(goodbye), _) => Seen::Closed(Status::from_wire(goodbye.status), goodbye.fault_name()),
        (None, Err(error)) if is_timeout(&error) => Seen::Silent,
        (None, _) => Seen::HungUp,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A client past its handshake that owns its descriptors and its memory.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    pub(crate) region: Region,
    pub(crate) gifts: Gifts,
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    pub(crate) welcome: Welcome,
    /// Polls without ever sleeping, as an attacker does that wants all of a core.
    pub(crate) spins: bool,
}

impl Peer {
    pub(crate) fn connect(stage: &Stage) -> Self {
        Self::with(stage, CAPACITY, Features::empty())
    }

    pub(crate) fn with(stage: &Stage, capacity: u64, features: Features) -> Self {
        Self::at(&stage.socket(), capacity, features)
    }

    pub(crate) fn at(socket: &std::path::Path, capacity: u64, features: Features) -> Self {
        let (region, gifts) = Gifts::honest(capacity, capacity);
        Self::bringing(socket, region, gifts, features)
    }

    /// [`Peer::at`] without wishes; `None` when the daemon is full.
    pub(crate) fn try_at(socket: &std::path::Path, capacity: u64) -> Option<Self> {
        let (region, gifts) = Gifts::honest(capacity, capacity);
        match Self::try_bringing(socket, region, gifts, Features::empty()) {
            Ok(peer) => Some(peer),
            Err(welcome) if Status::from_wire(welcome.status) == Status::Busy => None,
            Err(welcome) => panic!("refused: {welcome:?}, {:?}", welcome.fault_name()),
        }
    }

    pub(crate) fn bringing(
        socket: &std::path::Path,
        region: Region,
        gifts: Gifts,
        features: Features,
    ) -> Self {
        match Self::try_bringing(socket, region, gifts, features) {
            Ok(peer) => peer,
            Err(welcome) => panic!("refused: {welcome:?}, {:?}", welcome.fault_name()),
        }
    }

    /// [`Peer::bringing`]; gives the Welcome of a daemon that refuses.
    fn try_bringing(
        socket: &std::path::Path,
        region: Region,
        gifts: Gifts,
        features: Features,
    ) -> Result<Self, Welcome> {
        let layout = region.layout();
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (request, response) = (layout.request_capacity(), layout.response_capacity());
        let hello = Hello::new(request, response, 1, features);
        send_with_descriptors(&socket, hello.as_bytes(), &gifts.all());
        let mut bytes = [0; WELCOME_SIZE];
        (&socket).read_exact(&mut bytes).unwrap();
        let welcome = Welcome::decode(&bytes).unwrap();
        if welcome.status != 0 {
            return Err(welcome);
        }
        let checked = features.contains(Features::PAYLOAD_CHECK);
        let again = features.contains(Features::HOME_AGAIN);
        let producer = Producer::new(layout.request_home(), checked).again(again);
        let consumer = Consumer::new(layout.response_home(), checked).again(again);
        Ok(Self { socket, region, gifts, producer, consumer, welcome, spins: false })
    }

    /// A peer whose handshake was made by hand.
    pub(crate) fn welcomed(socket: UnixStream, region: Region, gifts: Gifts) -> Self {
        let layout = region.layout();
        let producer = Producer::new(layout.request_home(), false);
        let consumer = Consumer::new(layout.response_home(), false);
        let welcome = Welcome::refusal(Status::Ok);
        Self { socket, region, gifts, producer, consumer, welcome, spins: false }
    }

    /// The word at a file offset.
    pub(crate) fn word(&self, offset: u64) -> &Word {
        &self.region.words()[usize::try_from(offset / 8).unwrap()]
    }

    /// The word of one line of the shared header.
    pub(crate) fn line(&self, line: u64) -> &Word {
        self.word(self.region.layout().header_offset() + 64 * line)
    }

    /// File offset of a position in the request ring.
    pub(crate) fn request_offset(&self, position: Position) -> u64 {
        let layout = self.region.layout();
        layout.request_offset() + position.0 % layout.request_capacity()
    }

    /// Publishes a frame as it should be; false when the ring is full.
    pub(crate) fn publish(&mut self, header: FrameHeader, payload: &[u8]) -> bool {
        let ring = self.region.view().request_ring();
        match self.producer.publish(ring, header, payload) {
            Ok(()) => true,
            Err(PublishError::Full) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// Publishes a request and rings if the daemon is parked; waits for space while others keep the
    /// daemon busy.
    pub(crate) fn send(&mut self, message_type: MessageType, id: u64, payload: &[u8]) {
        let until = Until::after(PATIENCE);
        while !self.try_send(message_type, id, payload) {
            assert!(until.goes_on(), "the request ring stays full");
            thread::sleep(Duration::from_micros(50));
        }
    }

    pub(crate) fn try_send(&mut self, message_type: MessageType, id: u64, payload: &[u8]) -> bool {
        let sent = self.publish(FrameHeader::request(message_type, id), payload);
        self.notify();
        sent
    }

    /// Publishes these words, whatever they are, at a position of the request ring.
    pub(crate) fn put(&self, position: Position, words: [u64; 4]) {
        let at = self.request_offset(position);
        for (index, word) in (0_u64..).zip(words).skip(1) {
            self.word(at + 8 * index).store(word, Relaxed);
        }
        self.word(at).store(words[0], Release);
        self.notify();
    }

    /// Seals a header for the tail and publishes it, without a payload and without moving the tail.
    pub(crate) fn put_sealed(&self, header: FrameHeader) {
        let tail = self.producer.tail();
        self.put(tail, header.sealed(tail));
    }

    pub(crate) fn notify(&self) {
        if self.region.view().daemon_parked().take() {
            self.ring();
        }
    }

    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.gifts.request_doorbell, &1_u64.to_ne_bytes());
    }

    /// The next frame of an answer, if one comes in time.
    pub(crate) fn receive(&mut self, within: Duration) -> Option<(FrameHeader, Vec<u8>)> {
        let until = Until::after(within);
        let mut polls = 0_u32;
        loop {
            if let Some(taken) = self.take() {
                return Some(taken);
            }
            if !until.goes_on() {
                return None;
            }
            polls += 1;
            if polls.is_multiple_of(64) {
                if self.region.view().daemon_blocked().take() {
                    self.ring();
                }
                if !self.spins {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// The next frame of an answer, if it is there.
    pub(crate) fn take(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let ring = self.region.view().response_ring();
        let header = self.consumer.poll(ring).ok()??;
        let mut payload = vec![0; header.payload_size as usize];
        self.consumer.copy_payload(ring, &header, &mut payload).unwrap();
        self.consumer.release(ring, &header);
        Some((header, payload))
    }

    /// The last frame that answers `id`; others are taken and dropped.
    pub(crate) fn answer_to(&mut self, id: u64) -> Seen {
        let until = Until::after(PATIENCE);
        while until.goes_on() {
            match self.receive(Duration::from_secs(1)) {
                Some((header, _)) if header.request_id == id && header.is_last() => {
                    return match header.status() {
                        Status::Ok => Seen::Served,
                        status => Seen::Answered(status),
                    };
                }
                _ => {}
            }
        }
        Seen::Silent
    }

    /// Asks for an echo: served when it comes back whole, else what the socket says.
    pub(crate) fn is_served(&mut self) -> Seen {
        let payload = *b"still here?";
        let id = u64::MAX - self.producer.tail().0;
        let until = Until::after(PATIENCE);
        let mut sent = false;
        while until.goes_on() {
            sent = sent || self.try_send(MessageType::ECHO, id, &payload);
            match self.receive(Duration::from_millis(20)) {
                Some((header, answer)) if header.request_id == id => {
                    return if answer == payload { Seen::Served } else { Seen::Silent };
                }
                Some(_) => {}
                None if self.is_over() => return self.goodbye(),
                None => {}
            }
        }
        Seen::Silent
    }

    /// True when the daemon has hung up.
    pub(crate) fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut files = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::RDHUP)];
        poll(&mut files, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Leaves, and waits for what the daemon makes of it.
    pub(crate) fn leave(self) -> Seen {
        leave(&self.socket)
    }

    /// Waits for the daemon's last word.
    pub(crate) fn goodbye(&mut self) -> Seen {
        last_word(&self.socket)
    }
}
