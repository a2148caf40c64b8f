//! One handshake under way: 64 bytes and three descriptors, in as many pieces as the client likes.
//!
//! Nothing that a client sends here can block or cost more than its place among the handshakes until
//! its time is over. Descriptors beyond the three are closed as they come.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::limits::HANDSHAKE_DESCRIPTOR_COUNT;
use crate::region::{Region, RegionLayout, check_doorbell, check_region};
use crate::wire::{Fault, HELLO_SIZE, Hello, PROTOCOL_MAJOR, Status, cut};

/// Descriptors that one message may bring before the kernel cuts it: enough to see that there are
/// too many.
const ANCILLARY_COUNT: usize = 8;

/// What a handshake is judged by.
pub(super) struct Policy<'p> {
    /// Ids of the codecs that the server has.
    pub(super) codecs: &'p [u8],
}

/// A handshake under way.
pub(super) struct Handshake {
    socket: OwnedFd,
    bytes: [u8; HELLO_SIZE],
    received: usize,
    descriptors: Vec<OwnedFd>,
    /// Descriptors that came, kept or not.
    descriptor_count: usize,
}

/// A handshake that passed.
pub(super) struct Accepted {
    pub(super) hello: Hello,
    pub(super) layout: RegionLayout,
    pub(super) region: Region,
    pub(super) request_doorbell: OwnedFd,
    pub(super) response_doorbell: OwnedFd,
}

/// Why a handshake did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) fault: Option<Fault>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = match fault {
            Fault::RegionSeals { .. }
            | Fault::RegionSize { .. }
            | Fault::RingCapacity { .. }
            | Fault::RegionUnmappable
            | Fault::NotAnEventfd { .. } => Status::RegionRefused,
            _ => Status::Fault,
        };
        Self { status, fault: Some(fault) }
    }
}

/// Where a handshake stands.
pub(super) enum Progress {
    Waiting,
    Done(Box<Accepted>),
    Refused(Refusal),
}

impl Handshake {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            bytes: [0; HELLO_SIZE],
            received: 0,
            descriptors: Vec::with_capacity(HANDSHAKE_DESCRIPTOR_COUNT),
            descriptor_count: 0,
        }
    }

    /// Takes what has come so far. Never waits.
    pub(super) fn advance(&mut self, policy: &Policy<'_>) -> Progress {
        // Bounded: each round takes at least one of 64 bytes.
        while self.received < HELLO_SIZE {
            match self.receive() {
                Ok(0) => return Progress::Refused(self.too_late()),
                Ok(count) => self.received += count,
                Err(Stop::Nothing) => return Progress::Waiting,
                Err(Stop::Fault(fault)) => return Progress::Refused(fault.into()),
            }
        }
        match self.judge(policy) {
            Ok(accepted) => Progress::Done(Box::new(accepted)),
            Err(refusal) => Progress::Refused(refusal),
        }
    }

    /// What to say when the time is over, or the client left.
    pub(super) fn too_late(&self) -> Refusal {
        cut(&self.bytes[..self.received], HELLO_SIZE).into()
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    fn receive(&mut self) -> Result<usize, Stop> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ANCILLARY_COUNT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut target = [IoSliceMut::new(&mut self.bytes[self.received..])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = match recvmsg(&self.socket, &mut target, &mut ancillary, flags) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Err(Stop::Nothing),
            Err(_) => return Ok(0),
        };
        for control in ancillary.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = control else { continue };
            for descriptor in descriptors {
                self.descriptor_count += 1;
                if self.descriptors.len() < HANDSHAKE_DESCRIPTOR_COUNT {
                    self.descriptors.push(descriptor);
                }
            }
        }
        let cut = message.flags.contains(ReturnFlags::CTRUNC);
        if cut || self.descriptor_count > HANDSHAKE_DESCRIPTOR_COUNT {
            return Err(Stop::Fault(descriptor_count(self.descriptor_count)));
        }
        Ok(message.bytes)
    }

    fn judge(&mut self, policy: &Policy<'_>) -> Result<Accepted, Refusal> {
        let hello = Hello::decode(&self.bytes)?;
        let refused = |status| Refusal { status, fault: None };
        if hello.version_major != PROTOCOL_MAJOR {
            return Err(refused(Status::VersionUnsupported));
        }
        if !policy.codecs.contains(&hello.codec) {
            return Err(refused(Status::CodecUnsupported));
        }
        let descriptors = std::mem::take(&mut self.descriptors);
        let count = descriptors.len();
        let [file, request_doorbell, response_doorbell] =
            <[OwnedFd; HANDSHAKE_DESCRIPTOR_COUNT]>::try_from(descriptors)
                .map_err(|_| descriptor_count(count))?;
        check_doorbell(request_doorbell.as_fd(), 1)?;
        check_doorbell(response_doorbell.as_fd(), 2)?;
        let layout = RegionLayout::new(hello.request_capacity, hello.response_capacity);
        check_region(file.as_fd(), layout)?;
        let region = Region::map(file.as_fd(), layout).map_err(|_| Fault::RegionUnmappable)?;
        Ok(Accepted { hello, layout, region, request_doorbell, response_doorbell })
    }
}

impl AsFd for Handshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn descriptor_count(count: usize) -> Fault {
    Fault::DescriptorCount { count: u32::try_from(count).unwrap_or(u32::MAX) }
}

enum Stop {
    /// Nothing there yet.
    Nothing,
    Fault(Fault),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Doorbell;
    use crate::wire::Features;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, sendmsg, socketpair,
    };
    use std::io::IoSlice;
    use zerocopy::IntoBytes;

    const CAPACITY: u64 = 1 << 14;

    struct Peer {
        client: OwnedFd,
        handshake: Handshake,
    }

    impl Peer {
        fn new() -> Self {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (client, server) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            Self { client, handshake: Handshake::new(server) }
        }

        fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
            }
            let bytes = [IoSlice::new(bytes)];
            sendmsg(&self.client, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        }

        fn advance(&mut self) -> Progress {
            self.handshake.advance(&Policy { codecs: &[1] })
        }

        fn refusal(&mut self) -> Refusal {
            match self.advance() {
                Progress::Refused(refusal) => refusal,
                Progress::Waiting => panic!("still waiting"),
                Progress::Done(_) => panic!("accepted"),
            }
        }
    }

    fn hello() -> Hello {
        Hello::new(CAPACITY, CAPACITY, 1, Features::empty())
    }

    struct Gifts {
        region: OwnedFd,
        doorbells: [Doorbell; 2],
    }

    impl Gifts {
        fn new() -> Self {
            let (_, region) = Region::create(RegionLayout::new(CAPACITY, CAPACITY)).unwrap();
            Self { region, doorbells: [Doorbell::new().unwrap(), Doorbell::new().unwrap()] }
        }

        fn all(&self) -> [BorrowedFd<'_>; 3] {
            [self.region.as_fd(), self.doorbells[0].as_fd(), self.doorbells[1].as_fd()]
        }
    }

    #[test]
    fn a_whole_hello_with_three_descriptors_passes() {
        let (mut peer, gifts) = (Peer::new(), Gifts::new());
        assert!(matches!(peer.advance(), Progress::Waiting));
        peer.send(hello().as_bytes(), &gifts.all());
        assert!(matches!(peer.advance(), Progress::Done(_)));
    }

    #[test]
    fn a_hello_in_single_bytes_passes_too() {
        let (mut peer, gifts) = (Peer::new(), Gifts::new());
        for (index, byte) in hello().as_bytes().iter().enumerate() {
            assert!(matches!(peer.advance(), Progress::Waiting));
            let all = gifts.all();
            peer.send(&[*byte], if index == 0 { &all } else { &[] });
        }
        assert!(matches!(peer.advance(), Progress::Done(_)));
    }

    #[test]
    fn a_hello_cut_anywhere_is_refused_when_the_client_leaves() {
        for size in 0..HELLO_SIZE {
            let mut peer = Peer::new();
            if size > 0 {
                peer.send(&hello().as_bytes()[..size], &[]);
            }
            peer.client = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            let fault = Fault::HandshakeCut { received: u32::try_from(size).unwrap(), needed: 64 };
            assert_eq!(peer.refusal().fault, Some(fault));
        }
    }

    #[test]
    fn wrong_numbers_of_descriptors_are_refused() {
        let gifts = Gifts::new();
        for count in [0, 1, 2, 4, 8, 9, 30] {
            let mut peer = Peer::new();
            let all: Vec<BorrowedFd<'_>> = gifts.all().into_iter().cycle().take(count).collect();
            peer.send(hello().as_bytes(), &all);
            let fault = peer.refusal().fault.unwrap();
            assert!(matches!(fault, Fault::DescriptorCount { .. }), "{count}: {fault}");
        }
    }

    #[test]
    fn a_version_or_codec_that_we_do_not_speak_is_told_apart_from_a_fault() {
        let gifts = Gifts::new();
        let mut newer = hello();
        newer.version_major += 1;
        let mut other = hello();
        other.codec = 77;
        for (hello, status) in
            [(newer, Status::VersionUnsupported), (other, Status::CodecUnsupported)]
        {
            let mut peer = Peer::new();
            peer.send(hello.as_bytes(), &gifts.all());
            assert_eq!(peer.refusal(), Refusal { status, fault: None });
        }
    }

    #[test]
    fn a_region_of_another_size_and_swapped_descriptors_are_refused() {
        let gifts = Gifts::new();
        let mut peer = Peer::new();
        let larger = Hello::new(2 * CAPACITY, CAPACITY, 1, Features::empty());
        peer.send(larger.as_bytes(), &gifts.all());
        assert!(matches!(peer.refusal().fault, Some(Fault::RegionSize { .. })));

        let mut peer = Peer::new();
        let [region, first, second] = gifts.all();
        peer.send(hello().as_bytes(), &[first, region, second]);
        assert_eq!(peer.refusal().fault, Some(Fault::NotAnEventfd { index: 1 }));
    }

    #[test]
    fn a_region_sealed_against_our_own_writes_is_refused() {
        use rustix::fs::{MemfdFlags, SealFlags};
        let mut gifts = Gifts::new();
        let size = RegionLayout::new(CAPACITY, CAPACITY).size();
        gifts.region = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&gifts.region, size).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
        rustix::fs::fcntl_add_seals(&gifts.region, seals).unwrap();

        let mut peer = Peer::new();
        peer.send(hello().as_bytes(), &gifts.all());
        let refusal =
            Refusal { status: Status::RegionRefused, fault: Some(Fault::RegionUnmappable) };
        assert_eq!(peer.refusal(), refusal);
    }
}
