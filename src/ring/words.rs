//! Bytes to words and back. Nothing here forms a `&[u8]` over memory that a peer can write.

use crate::limits::WORD_SIZE;
use crate::sync::{AtomicU64, Ordering::Relaxed};

const WORD: usize = size_of::<u64>();
static_assertions::const_assert_eq!(WORD as u64, WORD_SIZE);

/// Stores `bytes` into the first words of `words`, padding the last one with zeros.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline]
pub(super) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
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

/// Fills `bytes` from the first words of `words`.
///
/// # Panics
///
/// When `bytes` needs more words than there are.
#[inline]
pub(super) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
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
