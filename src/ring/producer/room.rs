//! Where a producer's next frame goes: in the place of the last one, home, over there again, or on, and whether
//! there is room.
//!
//! The invariant to remember: nothing is written that the consumer, as last seen, may still read
//! ([`Producer::free_size`]); a consumer is led elsewhere by padding and by nothing else.

use super::{Producer, PublishError};
use crate::limits::{FRAME_ALIGNMENT, PAGE_SIZE};
use crate::ring::{RingView, small};
use crate::sync::Ordering::Acquire;
use crate::sync::{AtomicU64, sound};
use crate::wire::{Fault, Position};

/// What is to be free where a busy ring starts over, or one that often is goes home, in bytes, beside as
/// much as was under way and two frames: with these, room for two answers of 4 KiB, of which a daemon makes
/// sure before it takes a request.
const ROOM_TO_START_OVER: u64 = 2 * PAGE_SIZE;

/// At the end of each page, once or twice, a ring forgets one part in so many of what was under way, and at
/// least one unit.
const PAGES_REMEMBERED: u32 = 64;

/// Most bytes for which an empty ring leaves room beside the next frame: it walks no further than these,
/// [`ROOM_TO_START_OVER`] and a page or two before it goes home.
const BATCH_MAX: u64 = 16 * PAGE_SIZE;

/// Where a producer that has come to the end of a page goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Home: of an empty ring see [`Producer::go_home`], of a busy one [`Producer::start_over`].
    Homeward,
    /// On, whatever the ring holds.
    Onward,
}

impl Producer {
    /// Makes sure that the next frame of up to `span` bytes will be taken. May publish padding.
    #[inline(never)]
    pub(super) fn make_room(
        &mut self,
        words: &[AtomicU64],
        head: &AtomicU64,
        span: u64,
        course: Course,
    ) -> Result<(), PublishError> {
        let ring = RingView::of_layout(words, head);
        let capacity = ring.capacity();
        // One unit stays free for the zero behind the frame.
        if span + FRAME_ALIGNMENT > capacity {
            return Err(PublishError::TooLarge { span, capacity });
        }
        self.look_at_head(ring)?;
        if self.head == self.tail {
            if course == Course::Homeward && self.may_stay_home(span) {
                self.stay_home(ring);
                return Ok(());
            }
            self.step_off(ring, span);
        }
        match course {
            Course::Homeward if self.head == self.tail => self.go_home(ring, span),
            Course::Homeward => self.start_over(ring, span),
            Course::Onward => {}
        }
        let to_end = capacity - ring.offset(self.tail);
        if span > to_end {
            if to_end + FRAME_ALIGNMENT > self.free_size(ring) {
                return Err(self.full());
            }
            self.store_padding(ring, to_end);
        }
        if span + FRAME_ALIGNMENT > self.free_size(ring) {
            return Err(self.full());
        }
        // Space is clear to the end of the page on which this frame ends.
        self.clear_until = self.clear_end(ring, span);
        Ok(())
    }

    /// A frame found no room. If it was padding that took it, next time some more is left.
    #[cold]
    fn full(&mut self) -> PublishError {
        // What is free for a shorter frame is looked at anew.
        self.clear_until = self.tail;
        let since_padding = self.tail.since(self.padded_until);
        if since_padding < self.tail.since(self.head) {
            // How much more would have come, nobody knows.
            let most = since_padding.max(PAGE_SIZE);
            self.under_way_most = self.under_way_most.max(small(most));
        }
        PublishError::Full
    }

    /// True when frames of up to `span` bytes in all are sure to be taken, without a look at the
    /// consumer's head where the space known to be free already says so.
    ///
    /// # Errors
    ///
    /// The [`Fault`] in the consumer's head.
    #[inline(always)]
    pub fn has_room(&mut self, ring: RingView<'_>, span: u64) -> Result<bool, Fault> {
        // Twice: in the worst case as much again is lost to padding before the ring's end.
        let wanted = 2 * span + 2 * FRAME_ALIGNMENT;
        if wanted <= self.free_size(ring) {
            return Ok(true);
        }
        self.look_for_room(ring.words, ring.head, span, wanted)
    }

    /// The rest of [`Producer::has_room`].
    #[inline(never)]
    fn look_for_room(
        &mut self,
        words: &[AtomicU64],
        head: &AtomicU64,
        span: u64,
        wanted: u64,
    ) -> Result<bool, Fault> {
        let ring = RingView::of_layout(words, head);
        self.look_at_head(ring)?;
        if wanted <= self.free_size(ring) {
            return Ok(true);
        }
        // A frame of more than half the ring only fits in one place.
        match self.make_room(ring.words, ring.head, span, Course::Onward) {
            Ok(()) => Ok(true),
            Err(PublishError::Full | PublishError::TooLarge { .. }) => Ok(false),
            Err(PublishError::Fault(fault)) => Err(fault),
        }
    }

    /// True when the consumer has taken everything.
    ///
    /// # Errors
    ///
    /// The [`Fault`] in the consumer's head.
    pub fn is_drained(&mut self, ring: RingView<'_>) -> Result<bool, Fault> {
        self.look_at_head(ring)?;
        Ok(self.head == self.tail)
    }

    /// True when the consumer's head is still where we last saw it: a full ring is still full.
    #[must_use]
    pub fn is_unmoved(&self, ring: RingView<'_>) -> bool {
        ring.head.load(Acquire) == self.head_published.0
    }

    /// Reads the peer's head once and keeps it if it is possible.
    fn look_at_head(&mut self, ring: RingView<'_>) -> Result<(), Fault> {
        // Pairs with the store in `Consumer::release`: what it freed is no longer read.
        let head = Position(ring.head.load(Acquire));
        if head == self.head_published {
            return Ok(());
        }
        let is_possible = head.since(self.head) <= self.tail.since(self.head)
            && head.0.is_multiple_of(FRAME_ALIGNMENT);
        if !is_possible && sound("a head lies between the last one and the tail") {
            return Err(Fault::HeadOverrun {
                head: head.0,
                oldest: self.head.0,
                tail: self.tail.0,
            });
        }
        (self.head, self.head_published) = (head, head);
        Ok(())
    }

    /// True when the consumer has taken everything, as far as we know without a look.
    #[inline(always)]
    pub(super) fn is_taken(&self) -> bool {
        self.taken || self.head == self.tail
    }

    /// True when the last frame stands at home, and another may follow in its place.
    #[inline(always)]
    pub(super) fn stands_at_home(&self) -> bool {
        self.home_until == self.tail && self.home_extent != 0
    }

    /// Where the last frame begins that another may follow in its place.
    #[inline(always)]
    pub(super) const fn home_from(&self) -> Position {
        Position(self.home_until.0.wrapping_sub(self.extent()))
    }

    #[inline(always)]
    pub(super) const fn extent(&self) -> u64 {
        self.home_extent as u64
    }

    /// True when a frame of `span` bytes may follow the last one in its place, once that is taken. It must
    /// not reach over the word behind it, at which the consumer looks as well.
    #[inline(always)]
    pub(super) fn may_stay_home(&self, span: u64) -> bool {
        self.stands_at_home() && span <= self.extent()
    }

    /// True when a frame of `span` bytes at the tail, which is at home, may be followed in its place.
    #[inline(always)]
    fn is_clear_home(&self, span: u64) -> bool {
        span + FRAME_ALIGNMENT <= u64::from(self.home_size)
            && self.is_clear(span.max(self.extent()))
    }

    /// True when a frame of `span` bytes at the tail of a ring that is not busy may be followed in its place.
    /// Of several frames that share a room none may take more than its own, as one that comes home does.
    #[inline(always)]
    pub(super) fn comes_home(&self, ring: RingView<'_>, span: u64, course: Course) -> bool {
        course == Course::Homeward
            && self.again
            && ring.offset(self.tail) == u64::from(self.home_offset)
            && self.is_clear_home(span)
    }

    /// The last frame stands at home and was taken: the next stands there a lap later, over it.
    #[inline(always)]
    pub(super) fn stay_home(&mut self, ring: RingView<'_>) {
        // Whoever says that it has taken everything has published its head before.
        self.head_published = self.tail;
        self.tail = self.home_from().plus(ring.capacity());
        self.head = self.tail;
        // Nothing was written behind the last frame, so its zero is there.
        self.zero_at = self.tail.plus(self.extent());
        self.clear_until = self.tail.plus(u64::from(self.home_size));
    }

    /// The ring is empty, but the word at home is still looked at, and a frame of `span` bytes would need
    /// its place: a piece of padding behind it, and the consumer looks there no more.
    fn step_off(&mut self, ring: RingView<'_>, span: u64) {
        let to_end = ring.capacity() - ring.offset(self.tail);
        // What comes first: the frame, or the padding that leads to the ring's start.
        let first = if span <= to_end { span } else { to_end };
        let needed = first + FRAME_ALIGNMENT;
        if self.stands_at_home() && needed > self.free_size(ring) {
            self.store_padding(ring, FRAME_ALIGNMENT);
        }
    }

    /// The ring is empty: when the page ends before the next frame of `span` bytes does, starts again
    /// at home, if that leaves room for what lately was under way. Not for that where no frame stays at home:
    /// such a ring would walk over more pages for one request at a time.
    fn go_home(&mut self, ring: RingView<'_>, span: u64) {
        let needed = span + FRAME_ALIGNMENT;
        if needed > u64::from(self.home_size) || needed <= self.clear_end(ring, 0).since(self.tail)
        {
            return;
        }
        let room = match self.note_under_way(0) {
            most if most > 0 && self.again => most.min(BATCH_MAX) + 2 * needed + ROOM_TO_START_OVER,
            _ => needed,
        };
        let distance = self.distance_home(ring);
        // What lies behind us is not free before the consumer has passed the padding.
        if distance != 0 && distance + room <= self.free_size(ring) {
            self.store_padding(ring, distance);
        }
    }

    /// The ring is busy: when the page ends before the next frame of `span` bytes does, starts over at home,
    /// or at the ring's start where the frame does not fit at home, if the consumer is far enough from there.
    ///
    /// So a ring that never runs empty keeps to about twice what is under way, however large it is: to few
    /// pages, which stay in the cache. One that is hardly larger than that walks on.
    #[inline(never)]
    fn start_over(&mut self, ring: RingView<'_>, span: u64) {
        let needed = span + FRAME_ALIGNMENT;
        if self.home_size == 0 || needed <= self.clear_end(ring, 0).since(self.tail) {
            return;
        }
        let under_way = self.tail.since(self.head);
        if under_way > self.tail.since(self.padded_until) {
            // What is under way is padding, most of it.
            return;
        }
        let most = self.note_under_way(under_way);
        let distance = if needed <= u64::from(self.home_size) {
            self.distance_home(ring)
        } else {
            ring.capacity() - ring.offset(self.tail)
        };
        let room = most + 2 * needed + ROOM_TO_START_OVER;
        let is_free = distance + room <= self.free_size(ring)
            || !sound("a busy ring starts over in free space");
        // Where little of the lap is left, nothing is saved.
        if distance > ring.capacity() / 2 && is_free {
            self.store_padding(ring, distance);
        }
    }

    /// At the end of a page, with so many bytes under way: gives the most that lately were. A window that is
    /// almost taken now is likely to be filled again.
    fn note_under_way(&mut self, bytes: u64) -> u64 {
        let forgotten = (self.under_way_most / PAGES_REMEMBERED).max(small(FRAME_ALIGNMENT));
        self.under_way_most = self.under_way_most.saturating_sub(forgotten).max(small(bytes));
        self.under_way_most.into()
    }

    /// A frame of `span` bytes has been published, and another like it would have to go home first.
    /// Looking at the head and publishing the padding costs two lines that travel; so they do while
    /// the caller waits for its answer. The 99th percentile of 64-byte round trips: 441 ns without
    /// it, 371 ns with it, on requests alone.
    #[inline(never)]
    pub(super) fn go_home_early(&mut self, words: &[AtomicU64], head: &AtomicU64, span: u64) {
        let ring = RingView::of_layout(words, head);
        let needed = span + FRAME_ALIGNMENT;
        // Not where home is where the frame just published stands: it is still to be read.
        if needed > u64::from(self.home_size)
            || self.distance_home(ring) + needed + span > ring.capacity()
        {
            return;
        }
        // What is wrong with the head will be told to whoever needs the space.
        if self.look_at_head(ring).is_err() {
            return;
        }
        if self.tail.since(self.head) <= span {
            self.go_home(ring, span);
            self.clear_until = self.clear_end(ring, 0);
        } else {
            // With more under way than that frame, the ring is busy.
            self.start_over(ring, span);
            self.clear_until = self.clear_end(ring, span);
        }
    }

    /// Bytes from the tail to the next place where home begins.
    fn distance_home(&self, ring: RingView<'_>) -> u64 {
        u64::from(self.home_offset).wrapping_sub(self.tail.0) & (ring.capacity() - 1)
    }

    /// True when `span` bytes and the zero behind them can be written without a look at anything.
    #[inline]
    pub(super) fn is_clear(&self, span: u64) -> bool {
        span + FRAME_ALIGNMENT <= self.clear_until.since(self.tail)
    }

    /// Bytes between the tail and what the consumer, as last seen, may still read: also the frame at home
    /// that it took last, because it looks for another in its place. Nothing else is ever written.
    #[inline]
    #[must_use]
    pub fn free_size(&self, ring: RingView<'_>) -> u64 {
        let kept = self.head == self.home_until && sound("home is kept while it is looked at");
        let head = if kept { self.home_from() } else { self.head };
        // Note: only a head that lies can be further away: it was in the middle of the frame at home, so that
        // more was free, and is at that frame's end now.
        ring.capacity().saturating_sub(self.tail.since(head))
    }

    /// End of the page that holds the byte `ahead` of the tail, of the ring, or of the free space.
    fn clear_end(&self, ring: RingView<'_>, ahead: u64) -> Position {
        let offset = ring.offset(self.tail);
        let page_left = PAGE_SIZE - (offset + ahead + u64::from(self.home_phase)) % PAGE_SIZE;
        let ring_left = ring.capacity() - offset;
        self.tail.plus((ahead + page_left).min(ring_left).min(self.free_size(ring)))
    }
}
