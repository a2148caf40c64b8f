//! How a peer can break the protocol: small, `Copy`, with the numbers that tell a person what came.

use thiserror::Error;

/// The peer broke the protocol. Its connection is closed, the fault is counted under
/// [`Fault::name`], and nobody else notices.
///
/// A fault carries numbers only: a peer's bytes never reach a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// Fewer bytes than a header, or than the header announces.
    #[error("frame cut short: {available} of {needed} bytes")]
    FrameCut {
        /// Bytes that the frame needs.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// The header does not carry the mark of a frame.
    #[error("frame mark is {found:#04x}, expected 0xa5")]
    FrameMark {
        /// The byte in its place.
        found: u8,
    },
    /// The header's check does not match its bytes and its position.
    #[error("frame header check is {found:#010x}, computed {computed:#010x}")]
    HeaderCheck {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The payload's check does not match its bytes.
    #[error("payload check is {found:#010x}, computed {computed:#010x}")]
    PayloadCheck {
        /// What the header says.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Flag bits or reserved bits that this version does not define.
    #[error("undefined header bits: flags {flags:#04x}, reserved {reserved:#06x}")]
    UndefinedBits {
        /// The flag byte.
        flags: u8,
        /// The reserved field.
        reserved: u16,
    },
    /// The frame runs past the end of its ring.
    #[error("frame of {span} bytes runs past the ring's end, {available} bytes away")]
    FrameOverrun {
        /// Bytes that the frame claims.
        span: u64,
        /// Bytes up to the ring's end.
        available: u64,
    },
    /// A padding frame longer than the ring, or more padding in a row than any producer needs.
    #[error("padding of {span} bytes in a ring of {capacity}")]
    Padding {
        /// Bytes that the padding claims.
        span: u64,
        /// Bytes of the ring.
        capacity: u64,
    },
    /// The peer's head passed our tail, went back, or is not aligned.
    #[error("head {head} is not between {oldest} and {tail}")]
    HeadOverrun {
        /// What the peer published.
        head: u64,
        /// Where its head was last.
        oldest: u64,
        /// Our tail.
        tail: u64,
    },
    /// A message type that only the daemon itself may use.
    #[error("message type {message_type:#06x} is not for clients")]
    ReservedMessageType {
        /// The number.
        message_type: u16,
    },
    /// A request with the id of one that is still in flight.
    #[error("request id {request_id} is already in flight")]
    RequestIdInUse {
        /// The id.
        request_id: u64,
    },
    /// Bytes on the socket after the handshake.
    #[error("unexpected bytes on the connection's socket")]
    SocketBytes,
    /// The handshake's magic number is wrong.
    #[error("handshake magic is {found:#018x}")]
    HandshakeMagic {
        /// The number in its place.
        found: u64,
    },
    /// The handshake was not whole in time, or its socket closed before.
    #[error("handshake cut short: {received} of {needed} bytes")]
    HandshakeCut {
        /// Bytes received.
        received: u32,
        /// Bytes needed.
        needed: u32,
    },
    /// Not exactly the three descriptors.
    #[error("handshake passed {count} descriptors, expected 3")]
    DescriptorCount {
        /// How many came.
        count: u32,
    },
    /// A doorbell that is not an eventfd.
    #[error("descriptor {index} is not an eventfd")]
    NotAnEventfd {
        /// 1: request doorbell; 2: response doorbell.
        index: u32,
    },
    /// The region is not a sealed memfd on tmpfs.
    #[error(
        "region seals are {seals:#x}, file system {file_system:#x}; a sealed memfd is required"
    )]
    RegionSeals {
        /// `F_GET_SEALS`, 0 when it failed.
        seals: u32,
        /// `statfs.f_type`.
        file_system: u64,
    },
    /// The region's size is not what its layout needs.
    #[error("region has {size} bytes, its layout needs {needed}")]
    RegionSize {
        /// By fstat.
        size: u64,
        /// By the layout.
        needed: u64,
    },
    /// Ring capacities outside policy or not powers of two.
    #[error("ring capacities {request} and {response} are outside policy")]
    RingCapacity {
        /// Of the request ring.
        request: u64,
        /// Of the response ring.
        response: u64,
    },
    /// The daemon could not map the region that the handshake passed.
    #[error("region could not be mapped")]
    RegionUnmappable,
}

impl Fault {
    /// Every [`Fault::name`], for metrics whose memory is made at start-up.
    pub const NAMES: [&'static str; 19] = [
        "frame_cut",
        "frame_mark",
        "header_check",
        "payload_check",
        "undefined_bits",
        "frame_overrun",
        "padding",
        "head_overrun",
        "reserved_message_type",
        "request_id_in_use",
        "socket_bytes",
        "handshake_magic",
        "handshake_cut",
        "descriptor_count",
        "not_an_eventfd",
        "region_seals",
        "region_size",
        "ring_capacity",
        "region_unmappable",
    ];

    /// Place of this fault's name in [`Fault::NAMES`].
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::FrameCut { .. } => 0,
            Self::FrameMark { .. } => 1,
            Self::HeaderCheck { .. } => 2,
            Self::PayloadCheck { .. } => 3,
            Self::UndefinedBits { .. } => 4,
            Self::FrameOverrun { .. } => 5,
            Self::Padding { .. } => 6,
            Self::HeadOverrun { .. } => 7,
            Self::ReservedMessageType { .. } => 8,
            Self::RequestIdInUse { .. } => 9,
            Self::SocketBytes => 10,
            Self::HandshakeMagic { .. } => 11,
            Self::HandshakeCut { .. } => 12,
            Self::DescriptorCount { .. } => 13,
            Self::NotAnEventfd { .. } => 14,
            Self::RegionSeals { .. } => 15,
            Self::RegionSize { .. } => 16,
            Self::RingCapacity { .. } => 17,
            Self::RegionUnmappable => 18,
        }
    }

    /// The name that metrics use.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }
}
