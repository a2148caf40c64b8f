//! From options to an open link: connect, pass the region and the doorbells, read the welcome.
//!
//! The invariant to remember: nothing here waits beyond the connect timeout, whatever the other end
//! of the socket is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use zerocopy::IntoBytes;

use super::link::{Agreed, Link};
use super::options::ConnectOptions;
use crate::error::IpcError;
use crate::limits::HANDSHAKE_DESCRIPTOR_COUNT;
use crate::region::{Doorbell, Region};
use crate::wire::{Features, Hello, PROTOCOL_MAJOR, Status, WELCOME_SIZE, Welcome};

/// Between two tries to connect while the daemon's backlog is full.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// Connects and shakes hands.
///
/// # Errors
///
/// Those of [`Connection::connect`](super::Connection::connect).
pub(super) fn open(options: &ConnectOptions) -> Result<Link, IpcError> {
    let path = options.resolved_socket_path()?;
    let layout = options.layout()?;
    let within = Within { deadline: Instant::now().checked_add(options.connect_timeout) };
    let socket = connect_socket(&path, within)?;

    let object = || path.display().to_string();
    let (region, region_file) =
        Region::create(layout).map_err(IpcError::io("create", "the region of a connection"))?;
    let doorbell = || Doorbell::new().map_err(IpcError::io("create", "a doorbell"));
    let (request_doorbell, response_doorbell) = (doorbell()?, doorbell()?);

    let mut features = Features::HOME_AGAIN;
    features.set(Features::PAYLOAD_CHECK, options.payload_check);
    let hello = Hello::new(
        layout.request_capacity(),
        layout.response_capacity(),
        options.codec_id.0,
        features,
    );
    let descriptors = [region_file.as_fd(), request_doorbell.as_fd(), response_doorbell.as_fd()];
    send_hello(&socket, &hello, &descriptors, within)
        .map_err(IpcError::io("send the hello to", object()))?;
    let welcome = read_welcome(&socket, within)
        .map_err(IpcError::io("wait for the daemon's welcome on", object()))?;
    let agreed = judge(&welcome, features)?;
    tracing::debug!(connection_id = agreed.connection_id, "connected");
    Ok(Link::new(region, request_doorbell, response_doorbell, socket, agreed, options.wait))
}

/// How much time is left for connecting.
#[derive(Clone, Copy)]
struct Within {
    deadline: Option<Instant>,
}

impl Within {
    fn left(self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    /// Waits until `socket` is ready for `flags`, or the time is up.
    fn wait(self, socket: &OwnedFd, flags: PollFlags) -> io::Result<()> {
        let left = self.left()?.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(socket, flags)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn connect_socket(path: &Path, within: Within) -> Result<OwnedFd, IpcError> {
    let object = || path.display().to_string();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(IpcError::io("create", "a Unix socket"))?;
    let address = SocketAddrUnix::new(path).map_err(IpcError::io("connect to", object()))?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::NOENT | Errno::CONNREFUSED) => {
                return Err(IpcError::NotRunning { socket_path: path.to_path_buf() });
            }
            // unix(7): the backlog is full. There is nothing to poll for.
            Err(Errno::AGAIN) => {
                within.left().map_err(IpcError::io("connect to", object()))?;
                thread::sleep(BACKLOG_RETRY);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(IpcError::io("connect to", object())(errno)),
        }
    }
}

fn send_hello(
    socket: &OwnedFd,
    hello: &Hello,
    descriptors: &[BorrowedFd<'_>; HANDSHAKE_DESCRIPTOR_COUNT],
    within: Within,
) -> io::Result<()> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDSHAKE_DESCRIPTOR_COUNT))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        let pushed = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(pushed, "the buffer is made for these descriptors");
        let bytes = [IoSlice::new(hello.as_bytes())];
        match sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL) {
            // Note: a stream socket takes 64 bytes whole or not at all.
            Ok(_) => return Ok(()),
            // Closed already; what the daemon said before it closed is still to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(Errno::AGAIN) => within.wait(socket, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Up to a welcome's bytes: fewer when the daemon closed before it was whole.
fn read_welcome(socket: &OwnedFd, within: Within) -> io::Result<Vec<u8>> {
    let mut bytes = [0; WELCOME_SIZE];
    let mut received = 0;
    while received < WELCOME_SIZE {
        match rustix::io::read(socket, &mut bytes[received..]) {
            Ok(0) | Err(Errno::CONNRESET) => break,
            Ok(count) => received += count,
            Err(Errno::AGAIN) => within.wait(socket, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes[..received].to_vec())
}

/// What both sides agreed on, if they did.
fn judge(bytes: &[u8], wish: Features) -> Result<Agreed, IpcError> {
    let welcome = Welcome::decode(bytes)?;
    let granted = Features::from_bits_truncate(welcome.features & wish.bits());
    match Status::from_wire(welcome.status) {
        Status::Ok if welcome.version_major == PROTOCOL_MAJOR => Ok(Agreed {
            connection_id: welcome.connection_id,
            daemon_instance: welcome.daemon_instance,
            message_size_max: u64::from(welcome.message_size_max),
            // A daemon that took nothing at all would make every request wait for ever.
            in_flight_max: welcome.in_flight_max.max(1),
            payload_checked: granted.contains(Features::PAYLOAD_CHECK),
            home_again: granted.contains(Features::HOME_AGAIN),
        }),
        Status::Ok => Err(IpcError::Refused { status: Status::VersionUnsupported, fault: None }),
        Status::Busy => Err(IpcError::Busy {
            retry_after: Duration::from_millis(u64::from(welcome.retry_after_ms)),
        }),
        Status::ShuttingDown => Err(IpcError::ShuttingDown),
        status => Err(IpcError::Refused { status, fault: welcome.fault_name() }),
    }
}
