//! CRC-32C (Castagnoli, RFC 3720 §12.1), the one check that frames use.
//!
//! The invariant to remember: both paths give the same number. Long inputs go to the crate
//! `crc32c`; a header is so short (36 bytes) that calling it costs twice the check itself (measured:
//! 9 ns against 4 ns), so a header is checked from registers where the processor has the instruction.
#![allow(unsafe_code)]

/// CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of four words and a half, each in little-endian order: 36 bytes.
#[inline(always)]
#[must_use]
pub fn crc32c_words(words: [u64; 4], half: u32) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: requires SSE 4.2, which the line above has just detected.
        return unsafe { sse42(words, half) };
    }
    let [a, b, c, d] = words;
    portable(a, b, c, d, half)
}

/// In assembly: where the feature is not part of the target, an intrinsic makes a function that is
/// never inlined, four calls for each round trip.
///
/// # Safety
///
/// The processor must have SSE 4.2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn sse42(words: [u64; 4], half: u32) -> u32 {
    let mut crc = u64::from(u32::MAX);
    // SAFETY: the instruction is there, as the caller promises; it changes one register.
    unsafe {
        core::arch::asm!(
            "crc32 {crc}, {a}",
            "crc32 {crc}, {b}",
            "crc32 {crc}, {c}",
            "crc32 {crc}, {d}",
            "crc32 {crc:e}, {half:e}",
            crc = inout(reg) crc,
            a = in(reg) words[0],
            b = in(reg) words[1],
            c = in(reg) words[2],
            d = in(reg) words[3],
            half = in(reg) half,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the instruction leaves the upper half zero"
    )]
    let crc = crc as u32;
    !crc
}

/// Given numbers and not an array: that would be written to memory before it is known whether it is needed.
#[cold]
#[inline(never)]
fn portable(a: u64, b: u64, c: u64, d: u64, half: u32) -> u32 {
    let mut bytes = [0; 36];
    for (target, word) in bytes.chunks_exact_mut(8).zip([a, b, c, d]) {
        target.copy_from_slice(&word.to_le_bytes());
    }
    bytes[32..].copy_from_slice(&half.to_le_bytes());
    crc32c(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_test_vector_holds() {
        // RFC 3720 §B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn both_paths_give_the_same_number() {
        let mut word = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..1000_u32 {
            let words = core::array::from_fn(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word
            });
            let [a, b, c, d] = words;
            assert_eq!(crc32c_words(words, round), portable(a, b, c, d, round));
        }
    }
}
