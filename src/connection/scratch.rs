//! A shard's buffer for payloads on their way.

use crate::limits::REPLY_INLINE_SIZE_MAX;

/// Payloads beyond it get a lease.
const CAPACITY: usize = 64 * 1024;
static_assertions::const_assert!(CAPACITY >= REPLY_INLINE_SIZE_MAX);

/// One buffer of 64 KiB for all connections of a shard, of which no more is touched than their payloads needed.
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.resize(REPLY_INLINE_SIZE_MAX, 0);
        Self(bytes)
    }

    /// Room for a payload of `size` bytes, with anything in it; `None` beyond 64 KiB.
    #[inline]
    pub(super) fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        if size > self.0.len() && !self.grow(size) {
            return None;
        }
        Some(&mut self.0[..size])
    }

    /// Room for the longest reply that travels inside a reply ring.
    #[inline]
    pub(super) fn inline_reply(&mut self) -> &mut [u8] {
        &mut self.0[..REPLY_INLINE_SIZE_MAX]
    }

    /// Without allocating: there is memory for as much.
    #[cold]
    fn grow(&mut self, size: usize) -> bool {
        let fits = size <= CAPACITY;
        if fits {
            self.0.resize(size.next_multiple_of(REPLY_INLINE_SIZE_MAX).min(CAPACITY), 0);
        }
        fits
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_what_is_asked_for_and_never_beyond_its_memory() {
        let mut scratch = Scratch::new();
        let memory = scratch.0.as_ptr();
        assert_eq!(scratch.room(1024).unwrap().len(), 1024);
        assert_eq!(scratch.0.len(), REPLY_INLINE_SIZE_MAX, "a small payload touches no more");
        assert_eq!(scratch.room(5000).unwrap().len(), 5000);
        assert_eq!(scratch.0.len(), 8192);
        assert_eq!(scratch.room(CAPACITY).unwrap().len(), CAPACITY);
        assert!(scratch.room(CAPACITY + 1).is_none());
        assert_eq!(scratch.inline_reply().len(), REPLY_INLINE_SIZE_MAX);
        assert_eq!(scratch.0.as_ptr(), memory, "nothing was allocated");
    }
}
