//! A shared mapping seen as atomic words: what two processes exchange cache lines over.
//!
//! The peer may store at any moment, so the memory is only ever seen as `AtomicU64`.

#![allow(
    unsafe_code,
    reason = "the mapping's pointer becomes a slice of atomics here, and only here"
)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use super::BenchError;

const WORD_SIZE: usize = size_of::<u64>();

/// A shared mapping of a fixed number of 8-byte words, unmapped on drop.
#[derive(Debug)]
pub struct SharedWords {
    mapping: MmapRaw,
    word_count: usize,
}

impl SharedWords {
    /// Makes zeroed, size-sealed memory of `word_count` words and maps it. The descriptor lets
    /// another process [`open`](Self::open) the same words.
    ///
    /// # Errors
    ///
    /// [`BenchError::System`]: the system has no such memory to give.
    pub fn create(word_count: usize) -> Result<(Self, OwnedFd), BenchError> {
        let memory = memfd_create("annulus-bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(BenchError::system("make shared memory"))?;
        ftruncate(&memory, (word_count * WORD_SIZE) as u64)
            .map_err(BenchError::system("size shared memory"))?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(BenchError::system("seal shared memory"))?;
        Ok((Self::open(&memory, word_count)?, memory))
    }

    /// Maps the first `word_count` words of `memory`, which must be at least that long.
    ///
    /// # Errors
    ///
    /// [`BenchError::System`]: it is shorter, or cannot be mapped.
    pub fn open(memory: impl AsFd, word_count: usize) -> Result<Self, BenchError> {
        let memory = memory.as_fd();
        let size = word_count * WORD_SIZE;
        let stat = fstat(memory).map_err(BenchError::system("look at shared memory"))?;
        if u64::try_from(stat.st_size).is_ok_and(|present| present < size as u64) {
            let short = std::io::Error::other("it is smaller than the layout");
            return Err(BenchError::System { operation: "map shared memory", source: short });
        }
        let mapping = MmapOptions::new()
            .len(size)
            .map_raw(memory.as_raw_fd())
            .map_err(BenchError::system("map shared memory"))?;
        Ok(Self { mapping, word_count })
    }

    /// All the words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let first = self.mapping.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: `from_raw_parts` needs, for the borrow of `self`:
        // - valid, aligned memory: `open` mapped `word_count` words, a mapping starts on a page and
        //   lives as long as `self`; the file cannot shrink under it (`create` sealed the size);
        // - initialised values: every bit pattern is an `AtomicU64`;
        // - no plain writes meanwhile: both processes reach these words through this function only.
        unsafe { slice::from_raw_parts(first, self.word_count) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_of_one_memory_are_the_same_words() {
        let (ours, memory) = SharedWords::create(512).unwrap();
        let theirs = SharedWords::open(&memory, 512).unwrap();
        ours.words()[511].store(7, Ordering::Relaxed);
        assert_eq!(theirs.words()[511].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn memory_shorter_than_the_layout_is_refused() {
        let (_, memory) = SharedWords::create(512).unwrap();
        let refused = SharedWords::open(&memory, 513).unwrap_err();
        assert!(refused.to_string().contains("smaller than the layout"));
    }
}
