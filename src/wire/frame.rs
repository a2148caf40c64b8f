//! The frame: a header of 32 bytes, a payload, and zeros up to the next cache line.
//!
//! The invariant to remember: the first word of a header is never zero, and it is the last thing
//! that a producer stores. So one word says both "here is a frame" and how long it is, and a
//! consumer that polls for a frame touches no line beside the frame's own.

use bitflags::bitflags;
use static_assertions::{assert_eq_align, const_assert_eq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::checksum::words_check;
use super::{Fault, MessageType, Status, payload_check};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE};
use crate::sync::sound;

/// Byte 7 of every header; keeps its first word from ever being zero.
pub const FRAME_MARK: u8 = 0xA5;

/// A free-running place in a ring, in bytes since the connection began, modulo 2⁶⁴.
///
/// It does come round: padding counts, and a peer may send little else. So positions have no order,
/// only a distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(pub u64);

impl Position {
    /// The place `bytes` further on.
    #[inline]
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Bytes from `earlier` to here.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0)
    }
}

bitflags! {
    /// Bits of [`FrameHeader::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FrameFlags: u8 {
        /// The last frame that answers its request. Exactly one answer frame has it.
        const LAST = 1;
        /// Stands at home; the next frame may stand in its place
        /// ([`Features::HOME_AGAIN`](super::Features::HOME_AGAIN)).
        const HOME = 1 << 1;
        /// Changes from one frame at home to the next in its place, so that their first words are never alike.
        const AGAIN = 1 << 2;
        /// Of a request: every answer to those before it has been taken, whole.
        const TAKEN = 1 << 3;
        /// The payload travels in a lease, not in the ring. Inside the daemon only.
        const LEASED = 1 << 7;
    }
}

/// The header of every frame, as it lies in shared memory (little-endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FrameHeader {
    /// Bytes of payload that follow; of a padding frame: bytes to skip after the header.
    pub payload_size: u32,
    /// [`MessageType`] on the wire; 0 is padding.
    pub message_type: u16,
    /// [`FrameFlags`] on the wire.
    pub flags: u8,
    /// [`FRAME_MARK`].
    pub mark: u8,
    /// Chosen by the client; every answer repeats it. Of a cancel frame: the request to cancel.
    pub request_id: u64,
    /// [`Status`] on the wire; 0 in requests.
    pub status: u16,
    /// 0.
    pub reserved: u16,
    /// Milliseconds that the answer may take, from when the request is taken up; 0: no deadline.
    pub deadline_ms: u32,
    /// [`payload_check`], or 0 where the connection does without.
    pub payload_check: u32,
    /// [`header_check`](super::header_check).
    pub header_check: u32,
}

const_assert_eq!(size_of::<FrameHeader>() as u64, FRAME_HEADER_SIZE);
assert_eq_align!(FrameHeader, u64);
const_assert_eq!(core::mem::offset_of!(FrameHeader, message_type), 4);
const_assert_eq!(core::mem::offset_of!(FrameHeader, flags), 6);
const_assert_eq!(core::mem::offset_of!(FrameHeader, mark), 7);
const_assert_eq!(core::mem::offset_of!(FrameHeader, request_id), 8);
const_assert_eq!(core::mem::offset_of!(FrameHeader, status), 16);
const_assert_eq!(core::mem::offset_of!(FrameHeader, deadline_ms), 20);
const_assert_eq!(core::mem::offset_of!(FrameHeader, payload_check), 24);
const_assert_eq!(core::mem::offset_of!(FrameHeader, header_check), 28);

/// Bits of a header's first word that have one right value: the mark, and flags without a meaning.
const FIXED_BITS: u64 = 0xFF << 56 | (!FrameFlags::all().bits() as u64) << 48;
/// Bits of a header's third word that are 0.
const RESERVED_BITS: u64 = 0xFFFF << 16;
const_assert_eq!(core::mem::offset_of!(FrameHeader, reserved), 18);

/// Bytes of ring that a frame with `payload_size` bytes of payload takes, a multiple of
/// [`FRAME_ALIGNMENT`].
#[inline]
#[must_use]
pub const fn span(payload_size: u32) -> u64 {
    // Note: cannot overflow: the terms are below 2³³. `next_multiple_of` would branch, and this is computed
    // several times for each frame.
    (FRAME_HEADER_SIZE + payload_size as u64 + (FRAME_ALIGNMENT - 1)) & !(FRAME_ALIGNMENT - 1)
}

impl FrameHeader {
    /// A request of type `message_type` under `request_id`. Its sizes and checks are filled in when
    /// it is published.
    #[inline]
    #[must_use]
    pub const fn request(message_type: MessageType, request_id: u64) -> Self {
        Self {
            payload_size: 0,
            message_type: message_type.to_wire(),
            flags: 0,
            mark: FRAME_MARK,
            request_id,
            status: 0,
            reserved: 0,
            deadline_ms: 0,
            payload_check: 0,
            header_check: 0,
        }
    }

    /// The last frame of the answer to a request of type `message_type` under `request_id`.
    #[inline]
    #[must_use]
    pub const fn last(message_type: MessageType, request_id: u64, status: Status) -> Self {
        let mut header = Self::request(message_type, request_id);
        header.flags = FrameFlags::LAST.bits();
        header.status = status.to_wire();
        header
    }

    /// A chunk of the answer to `self`, not its last.
    #[must_use]
    pub const fn chunk(&self) -> Self {
        Self::request(MessageType::from_wire(self.message_type), self.request_id)
    }

    /// The last frame of the answer to `self`.
    #[must_use]
    pub const fn answer(&self, status: Status) -> Self {
        Self::last(MessageType::from_wire(self.message_type), self.request_id, status)
    }

    /// A padding frame over `span` bytes, header included.
    #[must_use]
    pub const fn padding(span: u64) -> Self {
        let mut header = Self::request(MessageType::PADDING, 0);
        #[expect(clippy::cast_possible_truncation, reason = "a ring's capacity is below 2³²")]
        let size = (span - FRAME_HEADER_SIZE) as u32;
        header.payload_size = size;
        header
    }

    /// The message type.
    #[inline]
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        MessageType::from_wire(self.message_type)
    }

    /// How the request ended; meaningful in the last answer frame.
    #[inline]
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_wire(self.status)
    }

    /// True for the last frame of an answer.
    #[inline]
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.flags & FrameFlags::LAST.bits() != 0
    }

    /// True for a frame that only fills space.
    #[inline]
    #[must_use]
    pub const fn is_padding(&self) -> bool {
        self.message_type == 0
    }

    /// Bytes of ring that this frame takes.
    #[inline]
    #[must_use]
    pub const fn span(&self) -> u64 {
        span(self.payload_size)
    }

    /// The header's four words, with its check computed for `position`.
    #[inline(always)]
    #[must_use]
    pub fn sealed(self, position: Position) -> [u64; 4] {
        let mut words: [u64; 4] = zerocopy::transmute!(self);
        let check = words_check(words, position);
        words[3] = words[3] & u64::from(u32::MAX) | u64::from(check) << 32;
        words
    }

    /// Judges four words that were copied from `position` of a ring.
    ///
    /// # Errors
    ///
    /// [`Fault::FrameMark`], [`Fault::HeaderCheck`] or [`Fault::UndefinedBits`]: these words are not
    /// a header that belongs here.
    pub fn judge(words: [u64; 4], position: Position) -> Result<Self, Fault> {
        let header: Self = zerocopy::transmute!(words);
        match HeaderWords::judge(words, position) {
            Some(_) => Ok(header),
            None => Err(header.fault(words_check(words, position))),
        }
    }

    /// What is wrong with a header whose check should be `computed`: no frame at all, a damaged one,
    /// or one that says what nobody has defined.
    #[cold]
    fn fault(&self, computed: u32) -> Fault {
        if self.mark != FRAME_MARK {
            Fault::FrameMark { found: self.mark }
        } else if self.header_check != computed {
            Fault::HeaderCheck { found: self.header_check, computed }
        } else {
            Fault::UndefinedBits { flags: self.flags, reserved: self.reserved }
        }
    }

    /// Compares `payload` with the header's check.
    ///
    /// # Errors
    ///
    /// [`Fault::PayloadCheck`]: the bytes changed on the way.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), Fault> {
        let computed = payload_check(payload);
        if computed == self.payload_check || !sound("a damaged payload is a fault") {
            Ok(())
        } else {
            Err(Fault::PayloadCheck { found: self.payload_check, computed })
        }
    }
}

/// A judged header as the four words that it came in.
///
/// On the way of every frame a header must stay in registers. A [`FrameHeader`] that goes through memory
/// is written as words and read as fields, or copied in other widths than it was written in, and no
/// processor forwards that from its store buffer: the read waits until all stores before it have reached
/// the cache, among them the last answer's, whose line is in another core's. That was 60 % of a busy
/// shard's time. Hence numbers that are passed by value, and a `FrameHeader` only off that way.
#[derive(Clone, Copy, Debug)]
pub struct HeaderWords {
    first: u64,
    request_id: u64,
    third: u64,
    fourth: u64,
}

impl HeaderWords {
    /// [`FrameHeader::judge`] without the reason.
    #[inline(always)]
    pub(crate) fn judge(words: [u64; 4], position: Position) -> Option<Self> {
        let computed = words_check(words, position);
        let [first, request_id, third, fourth] = words;
        // All at once, on the words as they are: this is on the way of every frame.
        let wrong = (fourth >> 32) ^ u64::from(computed)
            | (first & FIXED_BITS) ^ u64::from(FRAME_MARK) << 56
            | third & RESERVED_BITS;
        (wrong == 0).then_some(Self { first, request_id, third, fourth })
    }

    /// The word that makes the frame seen; never zero.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// [`FrameHeader::payload_size`].
    #[inline(always)]
    #[must_use]
    pub const fn payload_size(self) -> u32 {
        lower_half(self.first)
    }

    /// [`FrameHeader::message_type`].
    #[inline(always)]
    #[must_use]
    pub const fn message_type(self) -> MessageType {
        MessageType::from_wire((self.first >> 32 & 0xFFFF) as u16)
    }

    /// [`FrameHeader::flags`].
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u8 {
        (self.first >> 48 & 0xFF) as u8
    }

    /// [`FrameHeader::request_id`].
    #[inline(always)]
    #[must_use]
    pub const fn request_id(self) -> u64 {
        self.request_id
    }

    /// [`FrameHeader::status`], as it is on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn status(self) -> u16 {
        (self.third & 0xFFFF) as u16
    }

    /// [`FrameHeader::is_last`].
    #[inline(always)]
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.flags() & FrameFlags::LAST.bits() != 0
    }

    /// [`FrameHeader::is_padding`].
    #[inline(always)]
    #[must_use]
    pub const fn is_padding(self) -> bool {
        self.message_type().to_wire() == 0
    }

    /// [`FrameHeader::span`].
    #[inline(always)]
    #[must_use]
    pub const fn span(self) -> u64 {
        span(self.payload_size())
    }

    /// All of it, in memory.
    #[inline]
    #[must_use]
    pub fn header(self) -> FrameHeader {
        zerocopy::transmute!([self.first, self.request_id, self.third, self.fourth])
    }

    /// [`FrameHeader::check_payload`].
    #[inline]
    pub(crate) fn check_payload(self, payload: &[u8]) -> Result<(), Fault> {
        self.header().check_payload(payload)
    }
}

impl From<&FrameHeader> for HeaderWords {
    #[inline(always)]
    fn from(header: &FrameHeader) -> Self {
        let [first, request_id, third, fourth] = zerocopy::transmute!(*header);
        Self { first, request_id, third, fourth }
    }
}

const fn lower_half(word: u64) -> u32 {
    (word & 0xFFFF_FFFF) as u32
}

/// Decodes the frame at the start of `bytes`, which stand at `position` of a ring.
///
/// The ring does the same without a contiguous buffer; this form is for tools, tests and fuzzing.
/// With `payload_checked` the payload is compared with its check.
///
/// # Errors
///
/// Any frame [`Fault`]; never panics, whatever the bytes.
pub fn decode_frame(
    bytes: &[u8],
    position: Position,
    payload_checked: bool,
) -> Result<(FrameHeader, &[u8]), Fault> {
    let cut = |needed| Fault::FrameCut { needed, available: bytes.len() as u64 };
    let (words, rest) = <[u64; 4]>::read_from_prefix(bytes).map_err(|_| cut(FRAME_HEADER_SIZE))?;
    let header = FrameHeader::judge(words, position)?;
    let size = header.payload_size as usize;
    let payload =
        rest.get(..size).ok_or_else(|| cut(FRAME_HEADER_SIZE + u64::from(header.payload_size)))?;
    if payload_checked && !header.is_padding() {
        header.check_payload(payload)?;
    }
    Ok((header, payload))
}

/// Appends the frame of `header` and `payload`, as it stands at `position`, to `target`.
///
/// # Panics
///
/// When `payload` has 4 GiB or more.
pub fn encode_frame(
    mut header: FrameHeader,
    payload: &[u8],
    position: Position,
    payload_checked: bool,
    target: &mut Vec<u8>,
) {
    header.payload_size = u32::try_from(payload.len()).expect("a payload is below 4 GiB");
    header.payload_check = if payload_checked { payload_check(payload) } else { 0 };
    target.extend_from_slice(header.sealed(position).as_bytes());
    target.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = FrameHeader::request(MessageType::ECHO, 7);
        encode_frame(header, payload, Position(64), true, &mut bytes);
        bytes
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let bytes = frame(b"hello");
        let (header, payload) = decode_frame(&bytes, Position(64), true).unwrap();
        assert_eq!(payload, b"hello");
        assert_eq!((header.message_type(), header.request_id), (MessageType::ECHO, 7));
        assert_eq!(header.span(), 64);
    }

    #[test]
    fn every_flipped_bit_is_a_fault() {
        let bytes = frame(b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_frame(&damaged, Position(64), true).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_a_fault() {
        let bytes = frame(b"hello");
        for size in 0..bytes.len() {
            let fault = decode_frame(&bytes[..size], Position(64), true).unwrap_err();
            assert!(matches!(fault, Fault::FrameCut { .. }), "{size}: {fault}");
        }
    }

    #[test]
    fn a_frame_from_another_lap_is_a_fault() {
        let fault = decode_frame(&frame(b"hello"), Position(128), true).unwrap_err();
        assert!(matches!(fault, Fault::HeaderCheck { .. }));
    }

    #[test]
    fn undefined_bits_are_a_fault_even_with_a_valid_check() {
        let mut header = FrameHeader::request(MessageType::ECHO, 7);
        header.flags = 0b1_0000;
        let fault = FrameHeader::judge(header.sealed(Position(0)), Position(0)).unwrap_err();
        assert_eq!(fault, Fault::UndefinedBits { flags: 0b1_0000, reserved: 0 });
    }

    #[test]
    fn a_wrong_mark_is_a_fault_even_with_a_valid_check() {
        let mut header = FrameHeader::request(MessageType::ECHO, 7);
        header.mark = 0x5A;
        let fault = FrameHeader::judge(header.sealed(Position(0)), Position(0)).unwrap_err();
        assert_eq!(fault, Fault::FrameMark { found: 0x5A });
    }

    #[test]
    fn a_damaged_payload_is_a_fault_only_where_it_is_checked() {
        let mut bytes = frame(b"hello");
        *bytes.last_mut().unwrap() ^= 1;
        let fault = decode_frame(&bytes, Position(64), true).unwrap_err();
        assert!(matches!(fault, Fault::PayloadCheck { .. }));
        assert!(decode_frame(&bytes, Position(64), false).is_ok());
    }

    #[test]
    fn any_bytes_give_a_frame_or_a_fault() {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut bytes = [0_u8; 96];
        for _ in 0..20_000 {
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[0];
            }
            let size = usize::from(bytes[0]) % bytes.len();
            let _ = decode_frame(&bytes[..size], Position(0), true);
        }
    }
}
