//! What travels in a job ring: a header, and this descriptor as its payload.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pool::{BufferPool, Lease, LeaseToken};
use crate::wire::{FrameHeader, MessageType};

/// A connection is gone: its requests are to be dropped, and the closing acknowledged.
const CLOSED: MessageType = MessageType::from_wire(0xF001);
/// The answer to `CLOSED`: nothing more comes from this connection's reply ring.
pub(super) const CLOSED_DONE: MessageType = MessageType::from_wire(0xF002);
/// Stands for "no payload" in [`Descriptor::lease`].
const NO_LEASE: u64 = u64::MAX;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Descriptor {
    lease: u64,
    connection_id: u64,
    slot: u32,
    codec: u8,
    reserved: [u8; 3],
}

pub(super) const DESCRIPTOR_SIZE: usize = 24;
static_assertions::const_assert_eq!(size_of::<Descriptor>(), DESCRIPTOR_SIZE);

/// One job for a worker executor.
#[derive(Debug)]
pub struct Job {
    /// The connection's slot; replies go to its reply ring.
    pub slot: u32,
    /// The connection's number in the statistics.
    pub connection_id: u64,
    /// What to do.
    pub kind: JobKind,
}

/// What a [`Job`] asks for.
#[derive(Debug)]
pub enum JobKind {
    /// Run the handler of this request.
    Request {
        /// Type, id and deadline.
        header: FrameHeader,
        /// The connection's codec: [`CodecId`](crate::protocol::CodecId).
        codec: u8,
        /// The payload; `None` when it is empty.
        payload: Option<Lease>,
    },
    /// Cancel this request, if it has not ended.
    Cancel {
        /// The request's id.
        request_id: u64,
    },
    /// The connection is gone.
    Closed,
}

impl Job {
    /// Splits into what a job ring carries.
    pub(super) fn into_frame(self) -> (FrameHeader, Descriptor) {
        let (header, codec, lease) = match self.kind {
            JobKind::Request { header, codec, payload } => {
                (header, codec, payload.map_or(NO_LEASE, |lease| lease.into_token().0))
            }
            JobKind::Cancel { request_id } => {
                (FrameHeader::request(MessageType::CANCEL, request_id), 0, NO_LEASE)
            }
            JobKind::Closed => (FrameHeader::request(CLOSED, 0), 0, NO_LEASE),
        };
        let descriptor = Descriptor {
            lease,
            connection_id: self.connection_id,
            slot: self.slot,
            codec,
            reserved: [0; 3],
        };
        (header, descriptor)
    }

    /// The reverse, on the worker's side; called once for each frame.
    pub(super) fn from_frame(header: FrameHeader, bytes: &[u8], pool: &BufferPool) -> Self {
        let (descriptor, _) =
            Descriptor::read_from_prefix(bytes).expect("a job frame carries a descriptor");
        let kind = match header.message_type() {
            CLOSED => JobKind::Closed,
            MessageType::CANCEL => JobKind::Cancel { request_id: header.request_id },
            _ => JobKind::Request {
                header,
                codec: descriptor.codec,
                payload: (descriptor.lease != NO_LEASE)
                    .then(|| Lease::from_token(pool, LeaseToken(descriptor.lease))),
            },
        };
        Self { slot: descriptor.slot, connection_id: descriptor.connection_id, kind }
    }
}
