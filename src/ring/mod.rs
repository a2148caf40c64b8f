//! One direction of a connection: a single-producer single-consumer ring of frames in shared memory.
//!
//! The same code runs over mapped regions, over the daemon's own memory (job and reply rings) and
//! over loom's atomics: it borrows its words and owns only positions.
//!
//! # How a frame becomes visible
//!
//! There is no shared tail. The first word of a header is never zero, and:
//!
//! 1. the producer stores a zero where the *next* header will stand, then the payload, then the
//!    header's last three words, all `Relaxed`;
//! 2. it stores the header's first word with `Release`;
//! 3. the consumer polls that word with `Acquire`. Zero means "nothing yet"; anything else means
//!    that the whole frame *and the zero behind it* are visible.
//!
//! By induction the consumer only ever polls a word that is zero until its frame is whole; the base
//! case is memory that starts as zeros. Stale bytes of an earlier lap cannot be mistaken for a
//! frame, and a producer that dies in the middle of a frame leaves nothing behind. A separate tail
//! would cost one more cache line each way on every message.
//!
//! Of several frames in a row the producer may hold back the first word of the first ([`Producer::hold`]):
//! the others stand behind it, whole and unseen, until one `Release` store shows them all.
//!
//! The consumer publishes its head with `Release` after it has copied a frame out, or several of a
//! visit; the producer reads it with `Acquire` before it overwrites that space. It looks only when it
//! must: at the end of a page, or when the space that it knows to be free is used up.
//!
//! # Staying at home
//!
//! A quiet connection should touch one page. Each ring has a *home*, a stretch that lies on the page
//! of the shared header. A producer that comes to the end of a page and finds the ring empty goes
//! back home with a padding frame, as long as the next frame fits there; where the consumer looks on
//! by itself, already when only the frame just published is left. A busy ring walks on; but as soon as home
//! and some pages behind it are free, it starts over there. So it uses about twice what is under way. Where
//! frames may follow each other at home (below), a ring that lately was busy leaves room for as much again,
//! up to 64 KiB, before it goes home.
//!
//! Where both sides have agreed on it ([`Producer::again`]), a frame may follow another *in its place* at home, as soon as
//! the consumer is known to have taken that one. One request at a time then always travels in the same lines, and 1 KiB of it
//! needs one page and not three. After such a frame the consumer looks at two words: at that of the frame it took, and at
//! the one behind. What keeps it from taking anything else for a frame:
//!
//! - the first words of two frames that follow each other there differ ([`FrameFlags::AGAIN`]);
//! - all of them take as many bytes as the longest, so the word behind stays where it is, and none is written over it;
//! - home is not written by a busy ring before the consumer has taken what stands behind home;
//! - whoever finds a frame behind looks at home once more: the producer may have shown one there before it.
//!
//! [`FrameFlags::AGAIN`]: crate::wire::FrameFlags::AGAIN
//!
//! # What is trusted
//!
//! Nothing that the peer can write. A header is copied once and judged from the copy; a peer's head
//! is compared with what it may be; our own positions are private. Frames lie in one piece: a frame
//! that does not fit before the ring's end is preceded by padding up to it.

mod consumer;
mod park;
mod producer;

pub use consumer::{Consumer, Look};
pub use park::ParkFlag;
pub use producer::{Producer, PublishError};

use crate::limits::{FRAME_ALIGNMENT, WORD_SIZE};
use crate::sync::AtomicU64;
use crate::wire::Position;

/// The shared memory of one ring, borrowed: its words, and the consumer's published head.
///
/// On the way of every frame it lies in registers, which it does only as long as no function that is
/// not inlined is given one: those are given its parts. `wire::HeaderWords` says what memory costs.
#[derive(Clone, Copy)]
pub struct RingView<'m> {
    words: &'m [AtomicU64],
    head: &'m AtomicU64,
}

impl<'m> RingView<'m> {
    /// A ring over `words`, whose consumer publishes its head in `head`.
    ///
    /// # Panics
    ///
    /// When the number of words is not a power of two or is less than four frames' alignment.
    #[inline]
    #[must_use]
    pub fn new(words: &'m [AtomicU64], head: &'m AtomicU64) -> Self {
        assert!(words.len().is_power_of_two());
        assert!(words.len() as u64 * WORD_SIZE >= 4 * FRAME_ALIGNMENT);
        Self { words, head }
    }

    /// The same for words whose number a layout has vouched for; made anew at every visit.
    #[inline(always)]
    pub(crate) fn of_layout(words: &'m [AtomicU64], head: &'m AtomicU64) -> Self {
        debug_assert!(words.len().is_power_of_two());
        Self { words, head }
    }

    /// Bytes of the ring, a power of two.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.words.len() as u64 * WORD_SIZE
    }

    /// Bytes from the ring's start to `position`.
    #[inline]
    fn offset(&self, position: Position) -> u64 {
        position.0 & (self.capacity() - 1)
    }

    /// Index of the word at `position`.
    #[inline]
    fn index(&self, position: Position) -> usize {
        // Note: cannot truncate: a ring is mapped memory, so its offsets fit a usize.
        (position.0 / WORD_SIZE) as usize & (self.words.len() - 1)
    }
}

/// Where a ring lies relative to the pages of its region; private to each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Bytes from the ring's start to its home; also where the first frame stands.
    pub offset: u64,
    /// Bytes of the home; 0 where the ring has none and only walks on.
    pub size: u64,
    /// Bytes from the start of a page to the ring's start.
    pub phase: u64,
    /// Whether the producer goes home as soon as it can, and not only when it must: where the
    /// consumer looks on by itself and so frees the space that the padding takes.
    pub early: bool,
}

impl Home {
    /// No home: the ring is used evenly, from its start.
    pub const NONE: Self = Self { offset: 0, size: 0, phase: 0, early: false };

    /// Position of the first frame.
    #[must_use]
    pub const fn start(&self) -> Position {
        Position(self.offset)
    }
}

/// A number of bytes within a ring in half the memory: rings are smaller than 4 GiB, and each connection
/// has some of these.
#[expect(clippy::cast_possible_truncation, reason = "smaller than a ring")]
#[inline(always)]
const fn small(size: u64) -> u32 {
    debug_assert!(size <= u32::MAX as u64);
    size as u32
}

#[cfg(all(test, not(annulus_loom)))]
mod tests;
