//! How a request ended, or why a connection did: one number on the wire.

use core::fmt;

/// Outcome carried by every answer frame and by the handshake's [`Welcome`](super::Welcome) and
/// [`Goodbye`](super::Goodbye).
///
/// A chunk that is not the last always says [`Status::Ok`]. An answer that is not `Ok` carries at
/// most [`DETAIL_SIZE_MAX`](crate::limits::DETAIL_SIZE_MAX) bytes of UTF-8 text for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The payload is larger than the connection allows; the connection closes after this answer.
    MessageTooLarge = 1,
    /// No handler serves this message type.
    UnknownMessageType = 2,
    /// The handler panicked; the connection goes on.
    HandlerPanic = 3,
    /// The request's deadline passed before its answer was whole.
    Timeout = 4,
    /// The client cancelled the request.
    Cancelled = 5,
    /// A limit is reached; try again later.
    Busy = 6,
    /// The payload does not decode, or asks for what cannot be.
    InvalidRequest = 7,
    /// The handler failed.
    Internal = 8,
    /// The daemon is stopping and takes no new requests.
    ShuttingDown = 9,
    /// The provider behind the request failed.
    ProviderFailed = 10,
    /// The peer broke the protocol; the connection closes.
    Fault = 11,
    /// Nothing came for the idle timeout; the connection closes.
    IdleTimeout = 12,
    /// The handshake asked for a protocol version that this daemon does not speak.
    VersionUnsupported = 13,
    /// The handshake's region or descriptors are not acceptable.
    RegionRefused = 14,
    /// The handshake asked for a codec that this daemon does not have.
    CodecUnsupported = 15,
    /// The peer runs as another user.
    NotAuthorized = 16,
}

impl Status {
    /// Every status, in the order of its number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::MessageTooLarge,
        Self::UnknownMessageType,
        Self::HandlerPanic,
        Self::Timeout,
        Self::Cancelled,
        Self::Busy,
        Self::InvalidRequest,
        Self::Internal,
        Self::ShuttingDown,
        Self::ProviderFailed,
        Self::Fault,
        Self::IdleTimeout,
        Self::VersionUnsupported,
        Self::RegionRefused,
        Self::CodecUnsupported,
        Self::NotAuthorized,
    ];

    /// The status with this number; an unknown one, from a newer peer, reads as `Internal`.
    #[must_use]
    pub fn from_wire(number: u16) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Internal)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The name used in JSON, in metrics and in error texts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::MessageTooLarge => "message_too_large",
            Self::UnknownMessageType => "unknown_message_type",
            Self::HandlerPanic => "handler_panic",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::InvalidRequest => "invalid_request",
            Self::Internal => "internal",
            Self::ShuttingDown => "shutting_down",
            Self::ProviderFailed => "provider_failed",
            Self::Fault => "fault",
            Self::IdleTimeout => "idle_timeout",
            Self::VersionUnsupported => "version_unsupported",
            Self::RegionRefused => "region_refused",
            Self::CodecUnsupported => "codec_unsupported",
            Self::NotAuthorized => "not_authorized",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_wire() {
        for (index, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.to_wire()), index);
            assert_eq!(Status::from_wire(status.to_wire()), status);
        }
    }

    #[test]
    fn a_number_from_a_newer_peer_reads_as_internal() {
        assert_eq!(Status::from_wire(999), Status::Internal);
    }
}
