//! The vocabulary on the wire: frames, message types, status codes, the handshake, and faults.
//!
//! Everything here is fixed layout, little-endian, and judged from a private copy. The decoders are
//! total: every byte string gives a value or a [`Fault`]. `docs/protocol.md` tells the same for
//! someone who writes a client in another language.

mod checksum;
mod fault;
mod frame;
mod handshake;
mod message_type;
mod status;

pub use checksum::{header_check, payload_check};
pub use fault::Fault;
pub use frame::{
    FRAME_MARK, FrameFlags, FrameHeader, HeaderWords, Position, decode_frame, encode_frame, span,
};
pub use handshake::{
    Features, Goodbye, HELLO_SIZE, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, WELCOME_SIZE, Welcome,
};
#[cfg(feature = "server")]
pub(crate) use handshake::{cut, fault_number};
pub use message_type::MessageType;
pub use status::Status;

// The layouts below are used as they lie in memory.
static_assertions::assert_cfg!(
    target_endian = "little",
    "annulus supports little-endian machines only"
);
