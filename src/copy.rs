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

/// Bytes that one round of the widest moves takes.
#[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
const BLOCK: usize = 128;
/// Bytes that are moved at once by what every x86-64 processor has.
#[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
const LINE: usize = 64;

/// Stores `bytes` into the first words of `words`, padding the last one with zeros.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline(always)]
pub(crate) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    assert!(bytes.len() <= words.len() * WORD);
    // SAFETY: `copy_wide` needs as many bytes to read and to write as it is told: `bytes` has them,
    // and so has `words` (asserted above), whose elements may be written through a shared reference
    // because they are atomics.
    let done = unsafe { copy_wide(words.as_ptr().cast_mut().cast(), bytes.as_ptr(), bytes.len()) };
    if done < bytes.len() {
        copy_in_words(&words[done / WORD..], &bytes[done..]);
    }
}

/// Fills `bytes` from the first words of `words`.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline(always)]
pub(crate) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    assert!(bytes.len() <= words.len() * WORD);
    // SAFETY: as in `copy_in`, the other way round; `bytes` is ours alone.
    let done = unsafe { copy_wide(bytes.as_mut_ptr(), words.as_ptr().cast(), bytes.len()) };
    if done < bytes.len() {
        copy_out_words(&words[done / WORD..], &mut bytes[done..]);
    }
}

/// Asks for the cache line of a word, without waiting for it.
#[inline(always)]
pub(crate) fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
    // SAFETY: a prefetch needs nothing: it never faults, and changes nothing but caches.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(word).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(annulus_loom), not(miri))))]
    let _ = word;
}

/// As [`prefetch`], and takes the line from whoever has it, because it is to be written: a store would
/// wait for that, and all stores behind it.
///
/// In assembly: for the plain x86-64 target the compiler makes a prefetch for reading of it. Processors
/// that do not have the instruction take it for none (Intel SDM vol. 2B, PREFETCHW; AMD APM vol. 3).
#[inline(always)]
pub(crate) fn prefetch_to_write(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
    // SAFETY: as in `prefetch`.
    unsafe {
        core::arch::asm!(
            "prefetchw [{word}]",
            word = in(reg) core::ptr::from_ref(word),
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(annulus_loom), not(miri))))]
    let _ = word;
}

/// Copies most of `size` bytes from the front, all but less than a line; gives how many.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `size` bytes; they must not overlap.
#[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
#[inline(always)]
unsafe fn copy_wide(target: *mut u8, source: *const u8, size: usize) -> usize {
    let mut done = 0;
    if size >= BLOCK && std::arch::is_x86_feature_detected!("avx") {
        done = size / BLOCK * BLOCK;
        // SAFETY: no more than `size` bytes, and AVX was just detected.
        unsafe { copy_blocks(target, source, done) };
    }
    let whole = size / LINE * LINE;
    while done < whole {
        // SAFETY: at least a line is left of `size` bytes.
        unsafe {
            core::arch::asm!(
                "movdqu {a}, [{source}]",
                "movdqu {b}, [{source} + 16]",
                "movdqu {c}, [{source} + 32]",
                "movdqu {d}, [{source} + 48]",
                "movdqu [{target}], {a}",
                "movdqu [{target} + 16], {b}",
                "movdqu [{target} + 32], {c}",
                "movdqu [{target} + 48], {d}",
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                source = in(reg) source.wrapping_add(done),
                target = in(reg) target.wrapping_add(done),
                options(nostack, preserves_flags),
            );
        }
        done += LINE;
    }
    done
}

/// Copies nothing: every byte goes word by word.
///
/// # Safety
///
/// None is needed.
#[cfg(not(all(target_arch = "x86_64", not(annulus_loom), not(miri))))]
#[inline]
unsafe fn copy_wide(_target: *mut u8, _source: *const u8, _size: usize) -> usize {
    0
}

/// Copies `size` bytes, a multiple of [`BLOCK`] and not 0.
///
/// # Safety
///
/// As [`copy_wide`]; the processor must have AVX.
#[cfg(all(target_arch = "x86_64", not(annulus_loom), not(miri)))]
#[inline]
unsafe fn copy_blocks(target: *mut u8, source: *const u8, size: usize) {
    // SAFETY: the loop reads and writes `size` bytes in rounds of 128, as the caller allows. What it
    // changes is named: `vzeroupper` reaches all vector registers, hence the whole calling convention.
    unsafe {
        core::arch::asm!(
            "2:",
            "vmovdqu ymm0, [{source} + rcx]",
            "vmovdqu ymm1, [{source} + rcx + 32]",
            "vmovdqu ymm2, [{source} + rcx + 64]",
            "vmovdqu ymm3, [{source} + rcx + 96]",
            "vmovdqu [{target} + rcx], ymm0",
            "vmovdqu [{target} + rcx + 32], ymm1",
            "vmovdqu [{target} + rcx + 64], ymm2",
            "vmovdqu [{target} + rcx + 96], ymm3",
            "add rcx, 128",
            "cmp rcx, {size}",
            "jb 2b",
            "vzeroupper",
            inout("rcx") 0_usize => _,
            source = in(reg) source,
            target = in(reg) target,
            size = in(reg) size,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// Word by word: what the wide moves left, or all of it.
#[inline(never)]
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

/// As [`copy_in_words`], the other way round.
#[inline(never)]
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
