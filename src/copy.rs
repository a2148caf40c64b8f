//! Bytes into words that a peer shares, and back, faster than word by word. One of the few files with
//! `unsafe`.
//!
//! The invariant to remember: these copies are to the abstract machine what a loop of relaxed atomic
//! loads and stores would be; a peer that writes meanwhile makes bytes wrong, never the program. The
//! compiler does not merge atomic accesses, so the wide moves are written in assembly, which it does
//! not look into. x86-64 keeps them before any later store (Intel SDM vol. 3A §9.2.2), so the release
//! that publishes a frame still comes after its payload.
#![allow(unsafe_code)]

use crate::limits::WORD_SIZE;
use crate::sync::{AtomicU64, Ordering::Relaxed};

const WORD: usize = size_of::<u64>();
static_assertions::const_assert_eq!(WORD as u64, WORD_SIZE);

/// Bytes that one round of wide moves takes; less than that goes word by word.
const BLOCK: usize = 128;

/// Stores `bytes` into the first words of `words`, padding the last one with zeros.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline]
pub(crate) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    assert!(bytes.len() <= words.len() * WORD);
    let wide = wide_size(bytes.len());
    if wide > 0 {
        // SAFETY: `copy_blocks` needs `wide` bytes to read and to write: `bytes` has them (see
        // `wide_size`), and so has `words` (asserted above), whose elements may be written through a
        // shared reference because they are atomics.
        unsafe { copy_blocks(words.as_ptr().cast_mut().cast(), bytes.as_ptr(), wide) };
    }
    copy_in_words(&words[wide / WORD..], &bytes[wide..]);
}

/// Fills `bytes` from the first words of `words`.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline]
pub(crate) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    assert!(bytes.len() <= words.len() * WORD);
    let wide = wide_size(bytes.len());
    if wide > 0 {
        // SAFETY: as in `copy_in`, the other way round; `bytes` is ours alone.
        unsafe { copy_blocks(bytes.as_mut_ptr(), words.as_ptr().cast(), wide) };
    }
    copy_out_words(&words[wide / WORD..], &mut bytes[wide..]);
}

/// How many of `size` bytes go in wide moves: whole blocks, where the processor has them.
#[inline]
fn wide_size(size: usize) -> usize {
    #[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
    if size >= BLOCK && std::arch::is_x86_feature_detected!("avx") {
        return size / BLOCK * BLOCK;
    }
    let _ = size;
    0
}

/// Copies `size` bytes, a multiple of [`BLOCK`] and not 0.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `size` bytes; they must not overlap;
/// the processor must have AVX.
#[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
#[target_feature(enable = "avx")]
unsafe fn copy_blocks(target: *mut u8, source: *const u8, size: usize) {
    // SAFETY: the loop reads and writes `size` bytes in rounds of 128, as the caller allows; all
    // registers that it changes are named.
    unsafe {
        core::arch::asm!(
            "2:",
            "vmovdqu {a}, [{source} + {at}]",
            "vmovdqu {b}, [{source} + {at} + 32]",
            "vmovdqu {c}, [{source} + {at} + 64]",
            "vmovdqu {d}, [{source} + {at} + 96]",
            "vmovdqu [{target} + {at}], {a}",
            "vmovdqu [{target} + {at} + 32], {b}",
            "vmovdqu [{target} + {at} + 64], {c}",
            "vmovdqu [{target} + {at} + 96], {d}",
            "add {at}, 128",
            "cmp {at}, {size}",
            "jb 2b",
            "vzeroupper",
            a = out(ymm_reg) _,
            b = out(ymm_reg) _,
            c = out(ymm_reg) _,
            d = out(ymm_reg) _,
            at = inout(reg) 0_usize => _,
            source = in(reg) source,
            target = in(reg) target,
            size = in(reg) size,
            options(nostack),
        );
    }
}

/// Never called: `wide_size` gives 0 here.
#[cfg(not(all(target_arch = "x86_64", not(annulus_loom), not(miri))))]
unsafe fn copy_blocks(_target: *mut u8, _source: *const u8, _size: usize) {}

#[inline]
fn copy_in_words(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    let (body, tail) = words.split_at(whole.len());
    for (word, chunk) in body.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        tail[0].store(u64::from_le_bytes(last), Relaxed);
    }
}

#[inline]
fn copy_out_words(words: &[AtomicU64], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut::<WORD>();
    let (body, tail) = words.split_at(whole.len());
    for (chunk, word) in whole.iter_mut().zip(body) {
        *chunk = word.load(Relaxed).to_le_bytes();
    }
    if !rest.is_empty() {
        let last = tail[0].load(Relaxed).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_size_goes_in_and_comes_out_and_touches_nothing_else() {
        for size in (0..600).chain([4096, 4097, 10_000]) {
            let bytes: Vec<u8> =
                (0..size).map(|index: usize| index.to_le_bytes()[0] ^ 0x5A).collect();
            let words: Vec<AtomicU64> =
                (0..size.div_ceil(WORD) + 1).map(|_| AtomicU64::new(u64::MAX)).collect();
            copy_in(&words, &bytes);
            assert_eq!(words[words.len() - 1].load(Relaxed), u64::MAX, "{size}");
            let mut back = vec![0; size];
            copy_out(&words, &mut back);
            assert!(back == bytes, "{size}");
        }
    }

    #[test]
    #[should_panic(expected = "bytes.len() <= words.len()")]
    fn more_bytes_than_words_is_a_bug() {
        copy_in(&[AtomicU64::new(0)], &[0; 9]);
    }
}
