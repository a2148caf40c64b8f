//! What the two checks of a frame cover.

use super::frame::{FrameHeader, Position};
use crate::checksum::{crc32c, crc32c_words};

/// The header's check: CRC-32C over the frame's position and every field of the header but itself.
///
/// It is always there. Because the position is part of it, a frame left over from an earlier lap of
/// the ring, or copied to another place, does not pass.
#[inline]
#[must_use]
pub fn header_check(header: &FrameHeader, position: Position) -> u32 {
    words_check(zerocopy::transmute!(*header), position)
}

/// [`header_check`] of a header's four words; the upper half of the last is the check itself.
#[inline(always)]
pub(super) fn words_check(words: [u64; 4], position: Position) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the payload's check")]
    let payload_check = words[3] as u32;
    crc32c_words([position.0, words[0], words[1], words[2]], payload_check)
}

/// The payload's check: CRC-32C over its bytes. A connection may do without it, see
/// [`Features::PAYLOAD_CHECK`](super::Features::PAYLOAD_CHECK); the field is then 0.
#[must_use]
pub fn payload_check(payload: &[u8]) -> u32 {
    crc32c(payload)
}
