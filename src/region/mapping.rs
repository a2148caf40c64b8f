//! Mapped memory as atomics. One of the few files with `unsafe`.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::{Advice, madvise};

use crate::limits::PAGE_SIZE;
use crate::sync::AtomicU64;

/// Memory that lives until this value is dropped and that others may write at any time.
pub struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    /// Maps the first `size` bytes of `file` shared. Pages appear when they are touched.
    ///
    /// The caller has made sure that the file has and keeps that size: sealed, by fstat.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn shared(file: impl AsFd, size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(size).map_raw(&file.as_fd())?;
        Ok(Self { map })
    }

    /// Maps `size` bytes of the daemon's own memory. Pages appear when they are touched.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn private(size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(size).no_reserve_swap().map_anon()?;
        Ok(Self { map: map.into() })
    }

    /// The memory, as words that anyone may write.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let count = self.map.len() / size_of::<AtomicU64>();
        // SAFETY: `from_raw_parts` needs memory valid for reads of `count` words for the lifetime of
        // `&self`: `map` owns the mapping of `len` bytes, and a shared one is sealed against
        // shrinking (see `shared`). It is page-aligned, so words are aligned. Other writers are
        // allowed because the elements are atomics, of the same layout as `u64`, for which every
        // bit pattern is valid.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), count) }
    }

    /// Gives the whole pages between two offsets back to the kernel: they read as zeros again.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn give_back(&self, start: u64, end: u64) -> io::Result<()> {
        self.advise(start, end, Advice::LinuxRemove)
    }

    /// The same for memory of the daemon's own, where no file stands behind the pages.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn discard(&self, start: u64, end: u64) -> io::Result<()> {
        self.advise(start, end, Advice::LinuxDontNeed)
    }

    fn advise(&self, start: u64, end: u64, advice: Advice) -> io::Result<()> {
        let (start, end) = (start.next_multiple_of(PAGE_SIZE), end / PAGE_SIZE * PAGE_SIZE);
        if start >= end || end > self.map.len() as u64 {
            return Ok(());
        }
        let (offset, size) = (
            usize::try_from(start).map_err(io::Error::other)?,
            usize::try_from(end - start).map_err(io::Error::other)?,
        );
        // SAFETY: `madvise` needs a range inside one mapping: checked against `map.len()` above.
        // The pages become zeros; they are only ever read as atomics, for which zeros are valid.
        let done = unsafe { madvise(self.map.as_mut_ptr().add(offset).cast(), size, advice) };
        Ok(done?)
    }

    /// The byte at `offset`, for leases.
    ///
    /// # Panics
    ///
    /// When it lies outside of the memory.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        let offset = usize::try_from(offset).expect("it is mapped, so its offsets fit");
        assert!(offset < self.map.len());
        // SAFETY: `add` needs an offset inside the mapping: asserted above.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("size", &self.map.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WORD_SIZE;
    use crate::region::create_region_file;
    use crate::sync::Ordering::Relaxed;

    #[test]
    fn two_mappings_of_one_file_see_the_same_words() {
        let file = create_region_file(8192).unwrap();
        let (ours, theirs) =
            (Mapping::shared(&file, 8192).unwrap(), Mapping::shared(&file, 8192).unwrap());
        ours.words()[1023].store(7, Relaxed);
        assert_eq!(theirs.words()[1023].load(Relaxed), 7);
    }

    #[test]
    fn pages_given_back_read_as_zeros_and_their_neighbours_stay() {
        let file = create_region_file(4 * PAGE_SIZE).unwrap();
        let mapping = Mapping::shared(&file, 4 * PAGE_SIZE).unwrap();
        for word in mapping.words() {
            word.store(1, Relaxed);
        }
        mapping.give_back(PAGE_SIZE - 8, 3 * PAGE_SIZE - 8).unwrap();
        let zeros = mapping.words().iter().filter(|word| word.load(Relaxed) == 0).count();
        assert_eq!(zeros as u64 * WORD_SIZE, PAGE_SIZE);
        assert_eq!(mapping.words()[512].load(Relaxed), 0);
    }

    #[test]
    fn private_memory_starts_as_zeros() {
        let mapping = Mapping::private(PAGE_SIZE).unwrap();
        assert!(mapping.words().iter().all(|word| word.load(Relaxed) == 0));
    }
}
