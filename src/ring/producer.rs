//! The writing side of a ring: frames, and when they are shown. Where they go is `room`'s.

mod room;

use thiserror::Error;

use self::room::Course;
use super::{Home, RingView, small};
use crate::copy::{copy_in, prefetch_to_write};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, WORD_SIZE};
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::sound;
use crate::wire::{Fault, FrameFlags, FrameHeader, Position, payload_check, span};

const HEADER_WORDS: usize = (FRAME_HEADER_SIZE / WORD_SIZE) as usize;

/// What [`Producer::prefetch`] asks for, in bytes: a short frame, and the lines that are claimed behind it.
const PREFETCH_SIZE: u64 = 4 * FRAME_ALIGNMENT;
/// Most bytes that are asked for at once.
const PREFETCH_SIZE_MAX: u64 = 20 * FRAME_ALIGNMENT;
/// How far ahead [`Producer::prefetch_run`] asks, in frames that are short; of others for the next.
const PREFETCH_FRAMES: u64 = 3;
const PREFETCH_AHEAD_MAX: u64 = 1024;

/// Why a frame was not published. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The consumer has not freed enough space yet: try again after it has moved.
    #[error("the ring is full")]
    Full,
    /// No state of this ring can take a frame of this size.
    #[error("a frame of {span} bytes can never fit a ring of {capacity} bytes")]
    TooLarge {
        /// Bytes that the frame takes.
        span: u64,
        /// Bytes of the ring.
        capacity: u64,
    },
    /// The consumer's head is not where it may be: close the connection.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Publishes frames into the ring whose [`RingView`] each call is given (always the same ring).
#[derive(Debug)]
pub struct Producer {
    /// Where the next header goes; always holds a zero word in the ring.
    pub(super) tail: Position,
    /// The consumer's head when we last looked, found to be valid; or the tail, when the last frame went
    /// home again: nothing before it is in use.
    pub(super) head: Position,
    /// What the consumer has certainly published as its head: `head`, or the end of the frame that was at
    /// home before the last one.
    pub(super) head_published: Position,
    /// Where the last frame ends that another may follow in its place.
    home_until: Position,
    /// Bytes that such frames take, however short: as many as the longest of them; 0 before the first.
    home_extent: u32,
    /// The parts of [`Home`].
    home_offset: u32,
    home_size: u32,
    home_phase: u32,
    home_early: bool,
    /// [`FrameFlags::HOME`] and, every other time, [`FrameFlags::AGAIN`].
    home_flags: u8,
    /// The consumer is known to have taken everything.
    taken: bool,
    /// A frame may follow another one at home.
    again: bool,
    /// Up to here frames can be written without looking at anything: the end of the page or of the
    /// space known to be free, whichever comes first. Never before the tail.
    pub(super) clear_until: Position,
    /// A place ahead, or one already passed, where we have stored the zero of a header to come.
    zero_at: Position,
    /// The oldest frame that is whole in the ring but for its first word: where that goes.
    held: Position,
    /// Its first word; 0 when nothing is held back. Whatever was published since then lies behind it.
    held_word: u64,
    /// The first word of the frame behind that one, if that one stands at home, where the consumer looks at
    /// both places; else 0.
    held_behind: u64,
    /// The next frame is held back.
    holding: bool,
    /// Bytes that the last frame took: the next is likely to take as many.
    span_last: u32,
    /// Where the last padding ends.
    padded_until: Position,
    /// The most bytes that were lately under way, at the end of a page or when there was no room.
    under_way_most: u32,
    /// Fill in and let the peer verify [`payload_check`].
    payload_checked: bool,
}

impl Producer {
    /// A producer for an empty ring of zeros.
    #[must_use]
    pub const fn new(home: Home, payload_checked: bool) -> Self {
        let start = home.start();
        Self {
            tail: start,
            head: start,
            head_published: start,
            home_until: start,
            home_extent: 0,
            home_flags: FrameFlags::HOME.bits(),
            taken: false,
            again: false,
            clear_until: start,
            home_offset: small(home.offset),
            home_size: small(home.size),
            home_phase: small(home.phase),
            home_early: home.early,
            zero_at: start,
            held: start,
            held_word: 0,
            held_behind: 0,
            holding: false,
            span_last: 0,
            padded_until: start,
            under_way_most: 0,
            payload_checked,
        }
    }

    /// The same for a ring whose sides have agreed that a frame may follow another at home.
    #[must_use]
    pub const fn again(mut self, again: bool) -> Self {
        self.again = again;
        self
    }

    /// The consumer has said by another way that it has taken everything, and has published its head before
    /// it said so. Of use as long as the last frame stands at home: the next may go there again
    /// without a look at the consumer's head.
    #[inline(always)]
    pub const fn all_taken(&mut self) {
        self.taken = true;
    }

    /// Where the next frame will stand; everything before it is published.
    #[must_use]
    pub const fn tail(&self) -> Position {
        self.tail
    }

    /// The consumer's head as last seen; it may have moved on.
    #[must_use]
    pub const fn head_seen(&self) -> Position {
        self.head
    }

    /// Publishes one frame: `header` with its sizes and checks filled in, then `payload`.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`] is normal: nothing was written, the caller keeps its frame.
    /// [`PublishError::TooLarge`]: this frame never fits. [`PublishError::Fault`]: close.
    #[inline(always)]
    pub fn publish(
        &mut self,
        ring: RingView<'_>,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), PublishError> {
        self.publish_at(ring, header, payload, Course::Homeward)
    }

    /// [`Producer::publish`] for frames that share the room which [`Producer::has_room`] promised:
    /// it never goes home, because what lies between is not free before the consumer has passed it.
    ///
    /// # Errors
    ///
    /// As [`Producer::publish`].
    #[inline(always)]
    pub fn publish_onward(
        &mut self,
        ring: RingView<'_>,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), PublishError> {
        self.publish_at(ring, header, payload, Course::Onward)
    }

    #[inline(always)]
    fn publish_at(
        &mut self,
        ring: RingView<'_>,
        mut header: FrameHeader,
        payload: &[u8],
        course: Course,
    ) -> Result<(), PublishError> {
        let size = u32::try_from(payload.len()).map_err(|_| PublishError::TooLarge {
            span: payload.len() as u64,
            capacity: ring.capacity(),
        })?;
        let span = span(size);
        let mut is_home = false;
        if self.is_taken() {
            let stays = self.may_stay_home(span);
            if stays {
                self.stay_home(ring);
            } else if !self.is_clear(span) {
                self.make_room(ring.words, ring.head, span, course)?;
            }
            is_home = stays || self.comes_home(ring, span, course);
        } else if !self.is_clear(span) {
            self.make_room(ring.words, ring.head, span, course)?;
            is_home = self.is_taken() && self.comes_home(ring, span, course);
        }
        header.payload_size = size;
        header.payload_check = if self.payload_checked { payload_check(payload) } else { 0 };
        self.span_last = small(span);
        let mut taken = span;
        if is_home {
            header.flags |= self.begin_home(span);
            taken = self.extent();
        }
        self.store(ring, &header, payload, taken);
        if is_home {
            // The next frame is likely to stand in the same lines, so none is claimed.
            self.home_until = self.tail;
            return Ok(());
        }
        self.claim_ahead(ring, span);
        if !self.is_clear(span) && self.home_early && course == Course::Homeward {
            self.go_home_early(ring.words, ring.head, span);
        }
        Ok(())
    }

    /// From here on frames stay unseen until [`Producer::reveal`] shows them all at once.
    ///
    /// A consumer that polls fetches the line of each header as soon as it is written, and the next
    /// frame's producer waits for its own line meanwhile: of many frames in a row each costs a journey
    /// of its line. Held back, they cost one for all. Who holds sees to it that it is not for long.
    #[inline]
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// Shows the consumer every frame that was held back, with one store, or two.
    #[inline(always)]
    pub fn reveal(&mut self, ring: RingView<'_>) {
        self.holding = false;
        if self.held_word != 0 {
            // Publishes all that was stored before; pairs with the load in `Consumer::look`.
            let ordering = if sound("release in reveal") { Release } else { Relaxed };
            ring.words[ring.index(self.held)].store(self.held_word, ordering);
            self.held_word = 0;
            if self.held_behind != 0 {
                // After the one at home: who sees this one looks there once more.
                let behind = ring.index(self.home_until);
                ring.words[behind].store(std::mem::take(&mut self.held_behind), ordering);
            }
        }
    }

    /// True when frames are held back.
    #[inline]
    #[must_use]
    pub const fn is_holding(&self) -> bool {
        self.held_word != 0
    }

    /// Asks for the lines into which the next frame goes, the first few of them. For a producer that
    /// has others to serve first: until its turn comes the lines are here, and its stores do not wait.
    #[inline(always)]
    pub fn prefetch(&self, ring: RingView<'_>) {
        // Behind a frame at home the consumer looks as well: those lines are best left alone.
        let size = if self.stands_at_home() {
            PREFETCH_SIZE.min(self.span_last.into())
        } else {
            PREFETCH_SIZE
        };
        self.prefetch_between(ring, self.next(), 0, size);
    }

    /// Asks for the rest of a frame that is as long as the last one.
    #[inline(always)]
    pub fn prefetch_rest(&self, ring: RingView<'_>) {
        let size = u64::from(self.span_last).min(PREFETCH_SIZE_MAX);
        self.prefetch_between(ring, self.next(), PREFETCH_SIZE, size);
    }

    /// In a run of frames that are as long as the last one, asks for the lines of one that is some
    /// frames further on. Stores reach the cache in their order, so without this each frame would
    /// wait for its lines after the one before it had got its own.
    #[inline(always)]
    pub fn prefetch_run(&self, ring: RingView<'_>) {
        let span = u64::from(self.span_last);
        let ahead = PREFETCH_FRAMES * span;
        let ahead = if ahead <= PREFETCH_AHEAD_MAX { ahead } else { span };
        self.prefetch_between(ring, self.tail, ahead, ahead + span.min(PREFETCH_SIZE_MAX));
    }

    /// Where the next frame is likely to stand.
    #[inline(always)]
    fn next(&self) -> Position {
        if self.stands_at_home() { self.home_from() } else { self.tail }
    }

    /// Asks for the lines `from` so many bytes behind `next` up to, but not including, `until`.
    #[inline(always)]
    fn prefetch_between(&self, ring: RingView<'_>, next: Position, from: u64, until: u64) {
        // Bounded by `PREFETCH_SIZE_MAX`.
        let mut ahead = from;
        while ahead < until {
            prefetch_to_write(&ring.words[ring.index(next.plus(ahead))]);
            ahead += FRAME_ALIGNMENT;
        }
    }

    /// Publishes a padding frame over `span` bytes, which may wrap: it has no payload.
    #[inline(never)]
    fn store_padding(&mut self, ring: RingView<'_>, span: u64) {
        // What is clear behind it, the caller finds out.
        self.clear_until = self.tail.plus(span);
        self.store(ring, &FrameHeader::padding(span), &[], span);
        self.padded_until = self.tail;
        self.claim_ahead(ring, span);
    }

    /// A frame of `span` bytes will stand at the tail, which is at home: gives its flags.
    #[inline(always)]
    fn begin_home(&mut self, span: u64) -> u8 {
        let flags = self.home_flags;
        self.home_flags ^= FrameFlags::AGAIN.bits();
        self.home_extent = self.home_extent.max(small(span));
        flags
    }

    /// Writes and publishes. The caller has made sure that `span` and one unit more are free, and
    /// that a frame with a payload ends inside the ring.
    #[inline(always)]
    fn store(&mut self, ring: RingView<'_>, header: &FrameHeader, payload: &[u8], span: u64) {
        let next = self.tail.plus(span);
        // Note: a remembered zero still stands, for only frames up to `tail` were written since, and
        // one that reaches over it ends behind it.
        if next != self.zero_at && sound("zero behind a frame") {
            ring.words[ring.index(next)].store(0, Relaxed);
        }

        let frame = &ring.words[ring.index(self.tail)..];
        let (target, body) = frame.split_at(HEADER_WORDS);
        copy_in(body, payload);
        let words = header.sealed(self.tail);
        target[3].store(words[3], Relaxed);
        target[2].store(words[2], Relaxed);
        target[1].store(words[1], Relaxed);
        if self.holding && self.held_word == 0 {
            (self.held, self.held_word) = (self.tail, words[0]);
        } else if self.held_word != 0 && self.is_behind_held() {
            self.held_behind = words[0];
        } else {
            // Publishes all of the above; pairs with the load in `Consumer::look`.
            target[0].store(words[0], if sound("release in store") { Release } else { Relaxed });
        }
        self.taken = false;
        self.tail = next;
    }

    /// True when the tail is right behind a frame at home that is held back.
    #[inline(always)]
    fn is_behind_held(&self) -> bool {
        self.stands_at_home() && self.held == self.home_from()
    }

    /// Stores zeros into the two lines behind the next header's and where the next frame ends if it is
    /// as long as this one, as far as those are free.
    ///
    /// Nobody reads them yet: this takes the lines away from the consumer's cache now, while we
    /// would only wait, instead of at the next publish. Measured on a 64-byte round trip: 201 ns with
    /// it, 271 ns without, 120 ns being the bare cache-line limit of the same run.
    ///
    /// The next frame then has its zero already. Stored once more before the frame is shown, it held up
    /// everything behind it: stores come out in their order (TSO), and the consumer's prefetcher had
    /// fetched that line. Without that, 64 bytes: 1.90 → 1.51 times the limit.
    #[inline(always)]
    fn claim_ahead(&mut self, ring: RingView<'_>, span: u64) {
        if !self.is_clear(2 * FRAME_ALIGNMENT) {
            return;
        }
        let line = (FRAME_ALIGNMENT / WORD_SIZE) as usize;
        let next = ring.index(self.tail);
        ring.words[next + line].store(0, Relaxed);
        ring.words[next + 2 * line].store(0, Relaxed);
        if span > 2 * FRAME_ALIGNMENT {
            // In a run the next frame comes at once, and nothing is gained by a line more.
            if self.holding || !self.is_clear(span) {
                return;
            }
            ring.words[ring.index(self.tail.plus(span))].store(0, Relaxed);
        }
        self.zero_at = self.tail.plus(span);
    }
}
