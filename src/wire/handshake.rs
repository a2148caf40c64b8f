//! The handshake: 64 bytes and three descriptors one way, 64 bytes back, and a last word at the end.
//!
//! [`Hello`] travels with the region, the request doorbell and the response doorbell in one
//! `SCM_RIGHTS` message. [`Welcome`] says whether the daemon accepts. After that nothing travels on
//! the socket: it is there to be hung up, and a daemon that closes says why with [`Goodbye`].

use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Fault, Status};
use crate::limits::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use crate::sync::sound;

/// `b"ANNULUS\n"` as a little-endian number.
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"ANNULUS\n");
/// `b"WELCOME\n"` as a little-endian number.
const WELCOME_MAGIC: u64 = u64::from_le_bytes(*b"WELCOME\n");
/// `b"GOODBYE\n"` as a little-endian number.
const GOODBYE_MAGIC: u64 = u64::from_le_bytes(*b"GOODBYE\n");

/// Versions with another major number do not understand each other.
pub const PROTOCOL_MAJOR: u16 = 1;
/// A higher minor number adds features, each behind a bit.
pub const PROTOCOL_MINOR: u16 = 0;
/// Bytes of a [`Hello`].
pub const HELLO_SIZE: usize = 64;
/// Bytes of a [`Welcome`] and of a [`Goodbye`].
pub const WELCOME_SIZE: usize = 64;

bitflags! {
    /// What a connection may agree on beyond the basics; the daemon grants a subset of the wish.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Payloads carry their check and both sides verify it. Headers always do.
        const PAYLOAD_CHECK = 1;
        /// A frame may follow another one at home ([`Producer::again`](crate::ring::Producer::again)).
        const HOME_AGAIN = 1 << 1;
    }
}

/// What the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Hello {
    magic: u64,
    /// [`PROTOCOL_MAJOR`] of the client.
    pub version_major: u16,
    /// [`PROTOCOL_MINOR`] of the client.
    pub version_minor: u16,
    /// [`Features`] that the client wishes for.
    pub features: u32,
    /// Bytes of the request ring; a power of two.
    pub request_capacity: u64,
    /// Bytes of the response ring; a power of two.
    pub response_capacity: u64,
    /// Codec of AI payloads: [`CodecId`](crate::protocol::CodecId).
    pub codec: u8,
    reserved: [u8; 31],
}

/// What the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Welcome {
    magic: u64,
    /// [`PROTOCOL_MAJOR`] of the daemon.
    pub version_major: u16,
    /// [`PROTOCOL_MINOR`] of the daemon.
    pub version_minor: u16,
    /// [`Features`] granted.
    pub features: u32,
    /// [`Status`] on the wire; anything but `Ok` closes the socket.
    pub status: u16,
    /// With `Fault` or `RegionRefused`: [`Fault::index`] + 1; else 0.
    pub fault: u16,
    /// With `Busy`: milliseconds to wait before trying again.
    pub retry_after_ms: u32,
    /// Largest payload in either direction, in bytes.
    pub message_size_max: u32,
    /// Requests that may wait for an asynchronous handler at one time.
    pub in_flight_max: u32,
    /// Names this connection in the daemon's statistics.
    pub connection_id: u64,
    /// Differs from one start of the daemon to the next.
    pub daemon_instance: u64,
    /// Seconds of silence after which the daemon closes the connection; 0: never.
    pub idle_timeout_secs: u32,
    /// Core that serves the connection, or `u32::MAX`.
    pub core: u32,
    reserved_tail: [u8; 8],
}

/// Why the daemon closes a connection, the last bytes on its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Goodbye {
    magic: u64,
    /// [`Status`] on the wire.
    pub status: u16,
    /// With `Fault`: [`Fault::index`] + 1; else 0.
    pub fault: u16,
    /// With `Busy` or `ShuttingDown`: milliseconds to wait before trying again.
    pub retry_after_ms: u32,
    reserved: [u8; 48],
}

const_assert_eq!(size_of::<Hello>(), HELLO_SIZE);
const_assert_eq!(size_of::<Welcome>(), WELCOME_SIZE);
const_assert_eq!(size_of::<Goodbye>(), WELCOME_SIZE);
const_assert_eq!(core::mem::offset_of!(Hello, request_capacity), 16);
const_assert_eq!(core::mem::offset_of!(Hello, codec), 32);
const_assert_eq!(core::mem::offset_of!(Welcome, status), 16);
const_assert_eq!(core::mem::offset_of!(Welcome, connection_id), 32);
const_assert_eq!(core::mem::offset_of!(Welcome, idle_timeout_secs), 48);

impl Hello {
    /// A hello of this version for rings of these capacities, in bytes.
    #[must_use]
    pub const fn new(
        request_capacity: u64,
        response_capacity: u64,
        codec: u8,
        features: Features,
    ) -> Self {
        Self {
            magic: HELLO_MAGIC,
            version_major: PROTOCOL_MAJOR,
            version_minor: PROTOCOL_MINOR,
            features: features.bits(),
            request_capacity,
            response_capacity,
            codec,
            reserved: [0; 31],
        }
    }

    /// Judges what a client sent. The version is left to the caller, who answers it with a status.
    ///
    /// # Errors
    ///
    /// [`Fault::HandshakeCut`], [`Fault::HandshakeMagic`] or [`Fault::RingCapacity`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (hello, _) = Self::read_from_prefix(bytes).map_err(|_| cut(bytes, HELLO_SIZE))?;
        if hello.magic != HELLO_MAGIC {
            return Err(Fault::HandshakeMagic { found: hello.magic });
        }
        let within = |capacity: u64| {
            capacity.is_power_of_two()
                && (RING_CAPACITY_MIN..=RING_CAPACITY_MAX).contains(&capacity)
        };
        if hello.version_major == PROTOCOL_MAJOR
            && !(within(hello.request_capacity) && within(hello.response_capacity))
        {
            return Err(Fault::RingCapacity {
                request: hello.request_capacity,
                response: hello.response_capacity,
            });
        }
        Ok(hello)
    }
}

impl Welcome {
    /// A refusal with `status`.
    #[must_use]
    pub const fn refusal(status: Status) -> Self {
        Self {
            magic: WELCOME_MAGIC,
            version_major: PROTOCOL_MAJOR,
            version_minor: PROTOCOL_MINOR,
            features: 0,
            status: status.to_wire(),
            fault: 0,
            retry_after_ms: 0,
            message_size_max: 0,
            in_flight_max: 0,
            connection_id: 0,
            daemon_instance: 0,
            idle_timeout_secs: 0,
            core: u32::MAX,
            reserved_tail: [0; 8],
        }
    }

    /// The name of the fault, if the daemon named one that this version knows.
    #[must_use]
    pub fn fault_name(&self) -> Option<&'static str> {
        fault_name(self.fault)
    }

    /// Judges what the daemon answered.
    ///
    /// # Errors
    ///
    /// [`Fault::HandshakeCut`] or [`Fault::HandshakeMagic`]: this is not an Annulus daemon.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (welcome, _) = Self::read_from_prefix(bytes).map_err(|_| cut(bytes, WELCOME_SIZE))?;
        if welcome.magic != WELCOME_MAGIC {
            return Err(Fault::HandshakeMagic { found: welcome.magic });
        }
        Ok(welcome)
    }
}

impl Goodbye {
    /// A goodbye with `status`.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self {
            magic: GOODBYE_MAGIC,
            status: status.to_wire(),
            fault: 0,
            retry_after_ms: 0,
            reserved: [0; 48],
        }
    }

    /// A goodbye that says which fault the peer committed.
    #[must_use]
    pub fn for_fault(fault: Fault) -> Self {
        let mut goodbye = Self::new(Status::Fault);
        goodbye.fault = fault_number(fault);
        goodbye
    }

    /// The name of the fault, if the daemon named one that this version knows.
    #[must_use]
    pub fn fault_name(&self) -> Option<&'static str> {
        fault_name(self.fault)
    }

    /// Reads a goodbye; anything else on the socket says nothing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (goodbye, _) = Self::read_from_prefix(bytes).ok()?;
        (goodbye.magic == GOODBYE_MAGIC).then_some(goodbye)
    }
}

/// A fault on the wire: its index and one, so that 0 is none.
pub(crate) fn fault_number(fault: Fault) -> u16 {
    u16::try_from(fault.index() + 1).unwrap_or(0)
}

fn fault_name(number: u16) -> Option<&'static str> {
    let index = usize::from(number).checked_sub(1)?;
    if !sound("an unknown fault has no name") {
        return Some(Fault::NAMES[index]);
    }
    Fault::NAMES.get(index).copied()
}

/// The fault of a handshake of which only `bytes` have come.
pub(crate) fn cut(bytes: &[u8], needed: usize) -> Fault {
    let bounded = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    Fault::HandshakeCut { received: bounded(bytes.len()), needed: bounded(needed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire() {
        let hello = Hello::new(1 << 20, 1 << 24, 1, Features::PAYLOAD_CHECK);
        assert_eq!(Hello::decode(hello.as_bytes()), Ok(hello));
    }

    #[test]
    fn a_hello_cut_at_any_byte_is_a_fault() {
        let hello = Hello::new(1 << 20, 1 << 24, 1, Features::empty());
        for size in 0..HELLO_SIZE {
            let fault = Hello::decode(&hello.as_bytes()[..size]).unwrap_err();
            assert!(matches!(fault, Fault::HandshakeCut { .. }));
        }
    }

    #[test]
    fn capacities_outside_policy_are_a_fault() {
        for (request, response) in
            [(0, 1 << 20), (1 << 20, 3 << 20), (1 << 40, 1 << 20), (1 << 20, 1 << 13)]
        {
            let hello = Hello::new(request, response, 1, Features::empty());
            assert_eq!(
                Hello::decode(hello.as_bytes()),
                Err(Fault::RingCapacity { request, response })
            );
        }
    }

    #[test]
    fn another_magic_is_a_fault_in_both_directions() {
        assert!(matches!(Hello::decode(&[b'x'; 64]), Err(Fault::HandshakeMagic { .. })));
        assert!(matches!(Welcome::decode(&[b'x'; 64]), Err(Fault::HandshakeMagic { .. })));
        assert_eq!(Goodbye::decode(&[b'x'; 64]), None);
    }

    #[test]
    fn a_goodbye_names_its_fault() {
        let goodbye = Goodbye::for_fault(Fault::SocketBytes);
        let read = Goodbye::decode(goodbye.as_bytes()).unwrap();
        assert_eq!(read.fault_name(), Some("socket_bytes"));
        assert_eq!(Goodbye::new(Status::IdleTimeout).fault_name(), None);
    }
}
