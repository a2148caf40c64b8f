//! Where everything lies in a region.
//!
//! ```text
//! file offset
//! 0                    slack, so that the request ring ends on the home page
//! HOME_SIZE            request ring ───────────────────────────────┐
//! R                    ┌ home page ─────────────────────────────┐  │ R bytes
//!                      │ last HOME_SIZE bytes of the request ring  ┘
//! R + HOME_SIZE        │ shared header: six cache lines         │
//! R + HOME_SIZE + 384  │ first HOME_SIZE bytes of the response ring ┐
//! R + 4096             └────────────────────────────────────────┘   │ S bytes
//!                      response ring ────────────────────────────────┘
//! R + S + 4096         end of the region
//! ```
//!
//! So one mapping without a branch in it holds two rings of any size, and a quiet connection lives
//! on one page. The invariant to remember: each line of the shared header has one writer.

use super::CoreWord;
use crate::limits::{
    FRAME_ALIGNMENT, HOME_SIZE, LINE_SIZE, PAGE_SIZE, REGION_HEADER_SIZE, RING_CAPACITY_MAX,
    WORD_SIZE,
};
use crate::ring::{Home, ParkFlag, RingView};
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// `b"ANNULUS1"` as a little-endian number: first word of the shared header.
pub const REGION_MAGIC: u64 = u64::from_le_bytes(*b"ANNULUS1");

const LINE: usize = (LINE_SIZE / WORD_SIZE) as usize;

/// Capacities of a region's two rings; each side keeps its own copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionLayout {
    request_capacity: u32,
    response_capacity: u32,
}

impl RegionLayout {
    /// The layout for rings of these capacities, in bytes.
    ///
    /// # Panics
    ///
    /// When a capacity is not a power of two between a page and [`RING_CAPACITY_MAX`]; a handshake is checked
    /// before.
    #[must_use]
    pub const fn new(request_capacity: u64, response_capacity: u64) -> Self {
        Self {
            request_capacity: checked(request_capacity),
            response_capacity: checked(response_capacity),
        }
    }

    /// Bytes of the whole region.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.request_capacity() + self.response_capacity() + PAGE_SIZE
    }

    /// Bytes of the request ring.
    #[must_use]
    pub const fn request_capacity(&self) -> u64 {
        self.request_capacity as u64
    }

    /// Bytes of the response ring.
    #[must_use]
    pub const fn response_capacity(&self) -> u64 {
        self.response_capacity as u64
    }

    /// Home of the request ring: its end.
    #[must_use]
    pub const fn request_home(&self) -> Home {
        let offset = self.request_capacity() - HOME_SIZE;
        Home { offset, size: HOME_SIZE, phase: HOME_SIZE, early: true }
    }

    /// Home of the response ring: its start.
    #[must_use]
    pub const fn response_home(&self) -> Home {
        // A client may not look before it wants its next answer, which may need more room.
        let phase = HOME_SIZE + REGION_HEADER_SIZE;
        Home { offset: 0, size: HOME_SIZE, phase, early: false }
    }

    /// File offset of the request ring.
    #[must_use]
    pub const fn request_offset(&self) -> u64 {
        HOME_SIZE
    }

    /// File offset of the shared header.
    #[must_use]
    pub const fn header_offset(&self) -> u64 {
        self.request_capacity() + HOME_SIZE
    }

    /// File offset of the response ring.
    #[must_use]
    pub const fn response_offset(&self) -> u64 {
        self.header_offset() + REGION_HEADER_SIZE
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most RING_CAPACITY_MAX")]
const fn checked(capacity: u64) -> u32 {
    assert!(capacity.is_power_of_two() && capacity >= PAGE_SIZE && capacity <= RING_CAPACITY_MAX);
    capacity as u32
}

static_assertions::const_assert!(RING_CAPACITY_MAX <= u32::MAX as u64);
static_assertions::const_assert!(HOME_SIZE.is_multiple_of(FRAME_ALIGNMENT));

/// A region's words, borrowed, with the layout that gives them meaning.
///
/// What gives a ring's view is always inlined: a view that comes back through memory is written as words
/// and read in wider pieces, which waits for all stores before it (`wire::HeaderWords`).
#[derive(Clone, Copy)]
pub struct RegionView<'m> {
    words: &'m [AtomicU64],
    layout: RegionLayout,
}

impl<'m> RegionView<'m> {
    /// A view of `words`, which hold the whole region. Shorter ones make its rings panic.
    #[inline(always)]
    #[must_use]
    pub fn new(words: &'m [AtomicU64], layout: RegionLayout) -> Self {
        debug_assert!(words.len() as u64 * WORD_SIZE >= layout.size());
        Self { words, layout }
    }

    /// Client to daemon.
    #[inline(always)]
    #[must_use]
    pub fn request_ring(&self) -> RingView<'m> {
        self.ring(self.layout.request_offset(), self.layout.request_capacity(), Line::RequestHead)
    }

    /// Daemon to client.
    #[inline(always)]
    #[must_use]
    pub fn response_ring(&self) -> RingView<'m> {
        self.ring(
            self.layout.response_offset(),
            self.layout.response_capacity(),
            Line::ResponseHead,
        )
    }

    /// Set while the client is parked.
    #[inline]
    #[must_use]
    pub fn client_parked(&self) -> ParkFlag<'m> {
        ParkFlag::new(self.line(Line::ClientParked))
    }

    /// Set while the daemon does not poll this connection.
    #[inline]
    #[must_use]
    pub fn daemon_parked(&self) -> ParkFlag<'m> {
        ParkFlag::new(self.line(Line::DaemonParked))
    }

    /// Set while the daemon is parked and waits for space in the response ring. A client that has
    /// consumed responses looks at it before it parks, and about once a millisecond while it polls.
    #[inline]
    #[must_use]
    pub fn daemon_blocked(&self) -> ParkFlag<'m> {
        ParkFlag::new(self.line(Line::DaemonBlocked))
    }

    /// Where the client is: said when it parks, and when it rings for the daemon.
    #[inline]
    #[must_use]
    pub fn client_core(&self) -> CoreWord<'m> {
        CoreWord::new(self.hint(Line::ClientParked))
    }

    /// The core that the daemon shares with the client on purpose: a client that runs there and
    /// polls keeps the daemon from answering. Said while the daemon is there.
    #[inline]
    #[must_use]
    pub fn daemon_core(&self) -> CoreWord<'m> {
        CoreWord::new(self.hint(Line::DaemonParked))
    }

    /// Client, once, on fresh memory: writes the constants and where both rings begin.
    pub fn initialize(&self) {
        let constants = self.index(self.layout.header_offset());
        let values =
            [REGION_MAGIC, self.layout.request_capacity(), self.layout.response_capacity()];
        for (word, value) in self.words[constants..].iter().zip(values) {
            word.store(value, Relaxed);
        }
        // The socket message that passes the region publishes these stores.
        self.line(Line::RequestHead).store(self.layout.request_home().offset, Relaxed);
        self.line(Line::ResponseHead).store(self.layout.response_home().offset, Relaxed);
        // Nobody polls before the handshake is over.
        self.line(Line::DaemonParked).store(1, Relaxed);
    }

    #[inline(always)]
    fn ring(&self, offset: u64, capacity: u64, head: Line) -> RingView<'m> {
        let start = self.index(offset);
        let count = self.index(capacity);
        RingView::of_layout(&self.words[start..start + count], self.line(head))
    }

    #[inline(always)]
    fn line(&self, line: Line) -> &'m AtomicU64 {
        &self.words[self.index(self.layout.header_offset()) + line as usize * LINE]
    }

    /// The second word of a line whose first is a parked flag; its one writer sets that flag.
    #[inline]
    fn hint(&self, line: Line) -> &'m AtomicU64 {
        &self.words[self.index(self.layout.header_offset()) + line as usize * LINE + 1]
    }

    #[inline(always)]
    #[expect(clippy::unused_self, reason = "reads as a property of the region")]
    fn index(&self, offset: u64) -> usize {
        // Note: cannot truncate: offsets lie inside mapped memory.
        (offset / WORD_SIZE) as usize
    }
}

/// The shared header's lines: the first has constants, each other has a word with one writer, and
/// the lines of two parked flags have a second one, which says where who parks does so.
#[derive(Clone, Copy)]
enum Line {
    /// The client's: where it consumes the response ring.
    ResponseHead = 1,
    /// The client sets it, the daemon clears it.
    ClientParked = 2,
    /// The daemon's: where it consumes the request ring.
    RequestHead = 3,
    /// The daemon sets it, the client clears it.
    DaemonParked = 4,
    /// The daemon sets it, the client clears it.
    DaemonBlocked = 5,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_homes_and_the_header_share_one_page() {
        let layout = RegionLayout::new(1 << 20, 1 << 16);
        let request_home = layout.request_offset() + layout.request_home().offset;
        let response_home = layout.response_offset() + layout.response_home().offset;
        let page = request_home / PAGE_SIZE;
        assert!(request_home.is_multiple_of(PAGE_SIZE));
        assert_eq!(layout.header_offset() / PAGE_SIZE, page);
        assert_eq!((response_home + HOME_SIZE - 1) / PAGE_SIZE, page);
        assert!(layout.response_offset() + layout.response_capacity() <= layout.size());
    }

    #[test]
    fn phases_say_where_the_rings_start_in_their_pages() {
        let layout = RegionLayout::new(1 << 20, 1 << 16);
        assert_eq!(layout.request_offset() % PAGE_SIZE, layout.request_home().phase);
        assert_eq!(layout.response_offset() % PAGE_SIZE, layout.response_home().phase);
    }
}
