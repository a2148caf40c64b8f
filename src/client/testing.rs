//! A stand-in for the daemon: a thread that shakes hands and answers as a test tells it to.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use zerocopy::IntoBytes;

use super::options::ConnectOptions;
use crate::protocol::{Codec, Completion, FinishReason, JsonCodec, StreamEvent, Usage};
use crate::region::{Doorbell, Region, RegionLayout, Whereabouts, check_doorbell, check_region};
use crate::ring::{Consumer, Producer, PublishError};
use crate::sync::{AtomicBool, Ordering::Relaxed};
use crate::wire::{
    Features, FrameFlags, FrameHeader, Goodbye, HELLO_SIZE, Hello, MessageType, Status, Welcome,
};

/// No test waits longer than this for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers as many chunks as its payload says (a little-endian `u32`), then an empty last frame.
pub(super) const COUNT: MessageType = MessageType::user(1);
/// Answered only when it is cancelled.
pub(super) const NEVER: MessageType = MessageType::user(2);
/// One chunk at once, then as [`NEVER`].
pub(super) const ONE_THEN_NEVER: MessageType = MessageType::user(3);
/// When it is cancelled: two more chunks and a last frame `Ok`, as if it had won the race.
pub(super) const WINS_THE_RACE: MessageType = MessageType::user(4);
/// Fails with `Internal` and the payload as detail, after one chunk.
pub(super) const FAILS: MessageType = MessageType::user(5);
/// The daemon says goodbye and hangs up.
pub(super) const CRASH: MessageType = MessageType::user(6);

/// Answers how many bytes of the region exist, as a little-endian `u64`.
pub(super) const PAGES: MessageType = MessageType::user(7);

/// A listening socket and the thread behind it.
pub(super) struct StandIn {
    directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    seen: Receiver<FrameHeader>,
}

impl StandIn {
    /// Every connection is welcomed with `welcome`, then served by `serve` in its own thread.
    pub(super) fn with(
        welcome: Welcome,
        serve: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        Self::raw(move |socket, seen, stop| {
            if let Some(mut peer) = Peer::welcome(socket, welcome, seen, stop) {
                serve(&mut peer);
            }
        })
    }

    /// The usual one: answers every type above.
    pub(super) fn usual() -> Self {
        Self::with(welcome(), Peer::serve)
    }

    /// Every connection is handed over as it is.
    pub(super) fn raw(
        handle: impl Fn(UnixStream, Sender<FrameHeader>, Arc<AtomicBool>) + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("annulus.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, handle) = (Arc::clone(&stop), Arc::new(handle));
        let (sender, seen) = channel();
        let accepting = thread::spawn(move || {
            let mut connections = Vec::new();
            while !stopped.load(Relaxed) {
                if let Ok((socket, _)) = listener.accept() {
                    let (handle, sender, stopped) =
                        (Arc::clone(&handle), sender.clone(), Arc::clone(&stopped));
                    connections.push(thread::spawn(move || handle(socket, sender, stopped)));
                } else {
                    readable(&listener, Duration::from_millis(5));
                }
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Self { directory, stop, accepting: Some(accepting), seen }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("annulus.sock")
    }

    /// Options that lead here, with small rings.
    pub(super) fn options(&self) -> ConnectOptions {
        ConnectOptions::new()
            .socket_path(self.path())
            .request_capacity(1 << 16)
            .response_capacity(1 << 16)
    }

    /// Waits until a frame of this type has arrived here, and gives it.
    pub(super) fn wait_for(&self, message_type: MessageType) -> FrameHeader {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let header = self.seen.recv_timeout(left).expect("the frame never came");
            if header.message_type() == message_type {
                return header;
            }
        }
    }

    /// Ends every connection without a word.
    pub(super) fn die(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
            && !thread::panicking()
        {
            panic!("the stand-in daemon panicked");
        }
        let _ = fs::remove_file(self.path());
    }
}

/// A welcome as the daemon gives it by default.
pub(super) fn welcome() -> Welcome {
    let mut welcome = Welcome::refusal(Status::Ok);
    welcome.message_size_max = 10 << 20;
    welcome.in_flight_max = 64;
    welcome.connection_id = 7;
    welcome.daemon_instance = 9;
    welcome.features = Features::all().bits();
    welcome
}

/// The daemon's side of one connection.
pub(super) struct Peer {
    socket: UnixStream,
    region: Region,
    file: OwnedFd,
    request_doorbell: Doorbell,
    response_doorbell: Doorbell,
    consumer: Consumer,
    producer: Producer,
    seen: Sender<FrameHeader>,
    stop: Arc<AtomicBool>,
}

impl Peer {
    fn welcome(
        mut socket: UnixStream,
        welcome: Welcome,
        seen: Sender<FrameHeader>,
        stop: Arc<AtomicBool>,
    ) -> Option<Self> {
        let (hello, descriptors) = receive_hello(&socket);
        let layout = RegionLayout::new(hello.request_capacity, hello.response_capacity);
        let [region, request, response] =
            <[OwnedFd; 3]>::try_from(descriptors).expect("exactly three descriptors");
        check_region(region.as_fd(), layout).unwrap();
        check_doorbell(request.as_fd(), 1).unwrap();
        check_doorbell(response.as_fd(), 2).unwrap();
        let (region, file) = (Region::map(region.as_fd(), layout).unwrap(), region);
        socket.write_all(welcome.as_bytes()).unwrap();
        if welcome.status != Status::Ok.to_wire() {
            return None;
        }
        let features = Features::from_bits_truncate(hello.features & welcome.features);
        let checked = features.contains(Features::PAYLOAD_CHECK);
        let again = features.contains(Features::HOME_AGAIN);
        Some(Self {
            socket,
            region,
            file,
            request_doorbell: Doorbell::from_descriptor(request),
            response_doorbell: Doorbell::from_descriptor(response),
            consumer: Consumer::new(layout.request_home(), checked).again(again),
            producer: Producer::new(layout.response_home(), checked).again(again),
            seen,
            stop,
        })
    }

    /// The next request; `None` when the client hung up or the stand-in stops.
    pub(super) fn receive(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let mut idle = 0_u32;
        loop {
            if let Some(request) = self.try_receive() {
                return Some(request);
            }
            if self.stop.load(Relaxed) {
                return None;
            }
            idle += 1;
            if idle < 200 {
                std::hint::spin_loop();
                continue;
            }
            let flag = self.region.view().daemon_parked();
            flag.arm();
            if self.consumer.is_empty(self.region.view().request_ring()) {
                let mut fds = [
                    PollFd::new(&self.request_doorbell, PollFlags::IN),
                    PollFd::new(&self.socket, PollFlags::RDHUP),
                ];
                // Long enough to show a wake-up that never came, short enough to see `stop`.
                let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let _ = poll(&mut fds, Some(&tick));
                let hung_up = !fds[1].revents().is_empty();
                if hung_up && self.consumer.is_empty(self.region.view().request_ring()) {
                    return None;
                }
            }
            flag.disarm();
            let _ = self.request_doorbell.take();
        }
    }

    pub(super) fn try_receive(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let ring = self.region.view().request_ring();
        let header = self.consumer.poll(ring).unwrap()?;
        let mut payload = vec![0; header.payload_size as usize];
        self.consumer.copy_payload(ring, &header, &mut payload).unwrap();
        self.consumer.release(ring, &header);
        if header.flags & FrameFlags::TAKEN.bits() != 0 {
            self.producer.all_taken();
        }
        let _ = self.seen.send(header);
        Some((header, payload))
    }

    /// Sends a frame and rings; waits while the response ring is full.
    pub(super) fn send(&mut self, header: FrameHeader, payload: &[u8]) {
        loop {
            let ring = self.region.view().response_ring();
            let published = self.producer.publish(ring, header, payload);
            // Also when it is full: there may be padding to skip.
            if self.region.view().client_parked().take() {
                self.response_doorbell.ring();
            }
            match published {
                Ok(()) => return,
                Err(PublishError::Full) => {}
                Err(error) => panic!("{error}"),
            }
            if !self.is_wanted() {
                return;
            }
            self.wait_for_space();
        }
    }

    /// As the daemon: parked until the client has consumed something and rings.
    fn wait_for_space(&mut self) {
        let view = self.region.view();
        view.daemon_parked().arm();
        view.daemon_blocked().arm();
        if self.producer.is_unmoved(view.response_ring()) {
            let mut fds = [
                PollFd::new(&self.request_doorbell, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::RDHUP),
            ];
            // So long that a ring that never comes makes a test fail.
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
        }
        let view = self.region.view();
        view.daemon_parked().disarm();
        view.daemon_blocked().disarm();
        let _ = self.request_doorbell.take();
    }

    /// False once the client hung up or the stand-in stops.
    pub(super) fn is_wanted(&self) -> bool {
        !self.stop.load(Relaxed) && !hung_up(&self.socket)
    }

    pub(super) fn answer(&mut self, request: &FrameHeader, payload: &[u8]) {
        self.send(request.answer(Status::Ok), payload);
    }

    /// Says that the daemon has come to this core, or has left it.
    pub(super) fn sit_on(&self, core: Option<u32>) {
        let place = core.map(|core| Whereabouts { core, polls: false });
        self.region.view().daemon_core().store(place);
    }

    /// Parked, as far as the client can see: its next frame is rung for.
    pub(super) fn looks_parked(&self) {
        self.region.view().daemon_parked().arm();
    }

    /// Waits for that ring; gives where the client said that it is.
    pub(super) fn rung_from(&self) -> Option<Whereabouts> {
        let rung = readable(&self.request_doorbell, PATIENCE);
        assert!(rung, "a client does not ring who is parked");
        let _ = self.request_doorbell.take();
        self.region.view().client_core().load()
    }

    /// True while the client is parked.
    pub(super) fn is_parked(&self) -> bool {
        self.region.view().client_parked().is_armed()
    }

    /// Waits until the client has parked; false when it did not in time.
    pub(super) fn sees_it_park(&self) -> bool {
        comes_true(|| self.is_parked())
    }

    /// Waits until the client has taken every frame; false when it did not in time.
    pub(super) fn sees_all_taken(&mut self) -> bool {
        let Self { producer, region, .. } = self;
        comes_true(|| producer.is_drained(region.view().response_ring()).unwrap())
    }

    pub(super) fn goodbye(&mut self, goodbye: Goodbye) {
        let _ = self.socket.write_all(goodbye.as_bytes());
    }

    /// Answers until the client hangs up.
    pub(super) fn serve(&mut self) {
        let mut open: Vec<FrameHeader> = Vec::new();
        while let Some((header, payload)) = self.receive() {
            if !self.serve_one(&header, &payload, &mut open) {
                return;
            }
        }
    }

    fn serve_one(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        open: &mut Vec<FrameHeader>,
    ) -> bool {
        match header.message_type() {
            MessageType::ECHO => self.answer(header, payload),
            MessageType::HEARTBEAT => self.answer(header, &[]),
            MessageType::COMPLETE => {
                let request = JsonCodec.decode_request(payload).unwrap();
                let mut answer = Vec::new();
                JsonCodec.encode_completion(&completion(&request.model), &mut answer).unwrap();
                self.answer(header, &answer);
            }
            MessageType::STREAM => {
                let request = JsonCodec.decode_request(payload).unwrap();
                for event in events(&request.model) {
                    let mut chunk = Vec::new();
                    JsonCodec.encode_stream_event(&event, &mut chunk).unwrap();
                    self.send(header.chunk(), &chunk);
                }
                self.answer(header, &[]);
            }
            MessageType::CANCEL => {
                let place = open.iter().position(|open| open.request_id == header.request_id);
                if let Some(index) = place {
                    let cancelled = open.swap_remove(index);
                    self.end_cancelled(&cancelled);
                }
            }
            COUNT => {
                let count = u32::from_le_bytes(payload.try_into().unwrap());
                for number in 0..count {
                    self.send(header.chunk(), &number.to_le_bytes());
                }
                self.answer(header, &[]);
            }
            ONE_THEN_NEVER => {
                self.send(header.chunk(), b"one");
                open.push(*header);
            }
            NEVER | WINS_THE_RACE => open.push(*header),
            FAILS => {
                self.send(header.chunk(), b"some of it");
                self.send(header.answer(Status::Internal), payload);
            }
            PAGES => {
                let blocks = rustix::fs::fstat(&self.file).unwrap().st_blocks;
                self.answer(header, &(blocks as u64 * 512).to_le_bytes());
            }
            CRASH => {
                self.goodbye(Goodbye::new(Status::ShuttingDown));
                return false;
            }
            _ => self.send(header.answer(Status::UnknownMessageType), &[]),
        }
        true
    }

    fn end_cancelled(&mut self, request: &FrameHeader) {
        if request.message_type() == WINS_THE_RACE {
            self.send(request.chunk(), b"late");
            self.send(request.chunk(), b"later");
            self.answer(request, b"end");
        } else {
            self.send(request.answer(Status::Cancelled), &[]);
        }
    }
}

/// The completion that the stand-in gives for `model`.
pub(super) fn completion(model: &str) -> Completion {
    Completion {
        content: "hello".into(),
        reasoning: None,
        tool_calls: None,
        finish_reason: FinishReason::Stop,
        usage: Usage::estimate(8, 8),
        model: model.into(),
    }
}

/// The stream that the stand-in gives for `model`.
pub(super) fn events(model: &str) -> Vec<StreamEvent> {
    vec![
        StreamEvent::Text { text: "hel".into() },
        StreamEvent::Text { text: "lo".into() },
        StreamEvent::End {
            finish_reason: FinishReason::Stop,
            usage: Usage::estimate(8, 8),
            model: model.into(),
        },
    ]
}

/// Waits until `is_so`; false when it did not become so in time.
fn comes_true(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Reads a hello and its descriptors.
pub(super) fn receive_hello(socket: &UnixStream) -> (Hello, Vec<OwnedFd>) {
    let mut bytes = [0; HELLO_SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    socket.set_nonblocking(false).unwrap();
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    assert_eq!(received.unwrap().bytes, HELLO_SIZE);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (Hello::decode(&bytes).unwrap(), descriptors)
}

/// Waits until the other end of `socket` hangs up.
pub(super) fn wait_for_hang_up(mut socket: &UnixStream) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 256];
    while socket.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

fn hung_up(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    !fds[0].revents().is_empty()
}

fn readable(file: &impl AsFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&within)).unwrap_or(0) > 0
}
