//! The reading side of a ring.

use super::{Home, RingView, small};
use crate::copy::{copy_out, prefetch};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, PADDING_RUN_MAX, WORD_SIZE};
use crate::sync::Ordering::{self, Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, sound};
use crate::wire::{Fault, FrameFlags, FrameHeader, HeaderWords, Position};

const HEADER_WORDS: usize = (FRAME_HEADER_SIZE / WORD_SIZE) as usize;

/// How far ahead [`Consumer::prefetch_run`] looks, in frames and at most in bytes: of long frames the
/// processor finds the rest by itself.
const PREFETCH_FRAMES: u64 = 4;
const PREFETCH_AHEAD_MAX: u64 = 1024;
/// What [`Consumer::prefetch`] asks for, in bytes, and the most that [`Consumer::prefetch_rest`] does.
const PREFETCH_SIZE: u64 = 2 * FRAME_ALIGNMENT;
const PREFETCH_SIZE_MAX: u64 = 20 * FRAME_ALIGNMENT;

/// Takes frames out of the ring whose [`RingView`] each call is given (always the same ring).
#[derive(Debug)]
pub struct Consumer {
    /// Where the next header will appear. Ours alone; the ring holds a copy for the producer.
    pub(super) head: Position,
    /// The first word of the frame that was passed last, if that stood at home and the next may, too;
    /// else 0.
    home_word: u64,
    /// Bytes that frames take which others may follow at home: as many as the longest of them.
    home_extent: u32,
    home_offset: u32,
    home_size: u32,
    /// A frame may follow another one at home.
    again: bool,
    /// Verify [`FrameHeader::check_payload`].
    payload_checked: bool,
    /// Bytes that the last frame took: the next is likely to take as many.
    span_last: u32,
    /// Why the last look said [`Look::Broken`].
    broken: Option<Fault>,
}

/// What [`Consumer::look`] found at the head.
///
/// Without a [`Fault`] in it, which only fits in memory; [`HeaderWords`] says why that matters.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// Nothing is published.
    Nothing,
    /// A frame, judged; it stays until it is released.
    Frame(HeaderWords),
    /// What stands there is no frame: ask [`Consumer::fault`], and close.
    Broken,
}

impl Consumer {
    /// A consumer for an empty ring of zeros.
    #[must_use]
    pub const fn new(home: Home, payload_checked: bool) -> Self {
        Self {
            head: home.start(),
            home_word: 0,
            home_extent: 0,
            home_offset: small(home.offset),
            home_size: small(home.size),
            again: false,
            payload_checked,
            span_last: 0,
            broken: None,
        }
    }

    /// The same for a ring whose sides have agreed that a frame may follow another at home.
    #[must_use]
    pub const fn again(mut self, again: bool) -> Self {
        self.again = again;
        self
    }

    /// Where the next frame will stand.
    #[must_use]
    pub const fn head(&self) -> Position {
        self.head
    }

    /// True when nothing is published at the head, nor at home if it may be there: the cheapest look.
    #[inline]
    #[must_use]
    pub fn is_empty(&self, ring: RingView<'_>) -> bool {
        let is_home = self.home_word != 0 && self.is_news(self.load_home(ring, Relaxed));
        !is_home && ring.words[ring.index(self.head)].load(Relaxed) == 0
    }

    /// Looks for the oldest published frame and gives a judged copy of its header. The frame stays
    /// where it is until [`Consumer::release`].
    ///
    /// # Errors
    ///
    /// Any frame [`Fault`]: what stands at the head is not a frame. Nothing is consumed; the caller
    /// closes the connection.
    #[inline]
    pub fn poll(&mut self, ring: RingView<'_>) -> Result<Option<FrameHeader>, Fault> {
        match self.look(ring) {
            Look::Frame(header) => Ok(Some(header.header())),
            Look::Nothing => Ok(None),
            Look::Broken => Err(self.fault()),
        }
    }

    /// [`Consumer::poll`] for paths on which every nanosecond counts: always inlined, so that the header
    /// stays in registers.
    #[inline(always)]
    pub fn look(&mut self, ring: RingView<'_>) -> Look {
        let mut paddings = 0;
        loop {
            // Both loads pair with the last store in `Producer::store`: the frame and the zero behind it.
            let ordering = if sound("acquire in poll") { Acquire } else { Relaxed };
            let first = if self.home_word == 0 {
                ring.words[ring.index(self.head)].load(ordering)
            } else {
                self.look_at_home(ring, ordering)
            };
            let index = ring.index(self.head);
            if first == 0 {
                return Look::Nothing;
            }
            let rest = &ring.words[index + 1..index + HEADER_WORDS];
            // Copied once; from here on only this copy is judged.
            let [second, third, fourth] = [0, 1, 2].map(|word: usize| rest[word].load(Relaxed));
            let Some(header) = HeaderWords::judge([first, second, third, fourth], self.head) else {
                return self.refuse(first, second, third, fourth);
            };
            if !header.is_padding() {
                let available = ring.capacity() - ring.offset(self.head);
                if header.span() > available && sound("a frame ends inside the ring") {
                    return self.refuse_span(header.span(), available);
                }
                if header.flags() & FrameFlags::HOME.bits() != 0
                    && !self.may_stay_home(ring, header.span())
                {
                    return self.refuse_home(header.flags());
                }
                return Look::Frame(header);
            }
            if !self.skip_padding(ring.words, ring.head, header.payload_size(), paddings) {
                return Look::Broken;
            }
            paddings += 1;
        }
    }

    /// What [`Consumer::look`] found broken.
    ///
    /// # Panics
    ///
    /// When it has not said so.
    #[cold]
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.broken.expect("asked after a look that found a fault")
    }

    /// Copies the payload of the frame that [`Consumer::poll`] gave into `target`.
    ///
    /// # Errors
    ///
    /// [`Fault::PayloadCheck`] on a connection with checked payloads.
    ///
    /// # Panics
    ///
    /// When `target` is not as long as `header` says.
    #[inline(always)]
    pub fn copy_payload(
        &self,
        ring: RingView<'_>,
        header: impl Into<HeaderWords>,
        target: &mut [u8],
    ) -> Result<(), Fault> {
        let header = header.into();
        // Not `assert_eq`, which would keep both numbers in memory for its text.
        assert!(
            target.len() == header.payload_size() as usize,
            "the target has the payload's size"
        );
        copy_out(&ring.words[ring.index(self.head) + HEADER_WORDS..], target);
        if self.payload_checked { header.check_payload(target) } else { Ok(()) }
    }

    /// Gives the space of the frame that [`Consumer::poll`] gave back to the producer.
    #[inline(always)]
    pub fn release(&mut self, ring: RingView<'_>, header: impl Into<HeaderWords>) {
        self.pass(ring, header.into());
        self.release_passed(ring);
    }

    /// Goes on to the next frame; the space of this one and of others before it goes back with
    /// [`Consumer::release_passed`]. The producer looks at our head now and then, and each store after
    /// that has to fetch its line first: one for a whole visit is enough. Call it before the frame is
    /// answered.
    #[inline(always)]
    pub fn pass(&mut self, ring: RingView<'_>, header: HeaderWords) {
        let span = header.span();
        self.span_last = small(span);
        if header.flags() & FrameFlags::HOME.bits() != 0 {
            return self.pass_home(ring, header);
        }
        self.home_word = 0;
        self.head = self.head.plus(span);
    }

    /// [`Consumer::pass`] for a frame that another may follow in its place.
    #[inline(always)]
    fn pass_home(&mut self, ring: RingView<'_>, header: HeaderWords) {
        self.home_word = header.first();
        self.home_extent = self.home_extent.max(self.span_last);
        self.head = self.head.plus(u64::from(self.home_extent));
        if sound("a frame at home is released at once") {
            // Its answer says that it was taken, and then the producer goes by that, not by our head.
            self.release_passed(ring);
        }
    }

    /// Gives the space of all frames that were passed back to the producer.
    #[inline(always)]
    pub fn release_passed(&self, ring: RingView<'_>) {
        // Frees the space; pairs with `Producer::look_at_head`.
        ring.head.store(self.head.0, Release);
    }

    /// In a run of frames, asks for one that is some frames further on, if all are as long as the one
    /// at the head, which has this `header`. The place of a frame is only known from the one before it,
    /// so without this each would wait for its lines in turn. Where there is no such frame, a line is
    /// taken from the producer for nothing: not for the first of a run.
    #[inline(always)]
    pub fn prefetch_run(&self, ring: RingView<'_>, header: HeaderWords) {
        let ahead = (PREFETCH_FRAMES * header.span()).min(PREFETCH_AHEAD_MAX);
        self.prefetch_between(ring, ahead, ahead + PREFETCH_SIZE);
    }

    /// Asks for the first two lines of the next frame, so that they are here when its turn comes.
    #[inline(always)]
    pub fn prefetch(&self, ring: RingView<'_>) {
        self.prefetch_between(ring, 0, PREFETCH_SIZE);
    }

    /// Asks for the rest of a frame that is as long as the last one.
    #[inline(always)]
    pub fn prefetch_rest(&self, ring: RingView<'_>) {
        self.prefetch_between(
            ring,
            PREFETCH_SIZE,
            u64::from(self.span_last).min(PREFETCH_SIZE_MAX),
        );
    }

    /// Asks for the lines `from` so many bytes behind the head up to, but not including, `until`.
    #[inline(always)]
    fn prefetch_between(&self, ring: RingView<'_>, from: u64, until: u64) {
        // Bounded by `PREFETCH_SIZE_MAX`.
        let mut ahead = from;
        let next = if self.home_word == 0 { self.head } else { self.home() };
        while ahead < until {
            prefetch(&ring.words[ring.index(next.plus(ahead))]);
            ahead += FRAME_ALIGNMENT;
        }
    }

    /// Bytes from the ring's start to the frame at the head, for giving pages back.
    #[must_use]
    pub fn offset(&self, ring: RingView<'_>) -> u64 {
        ring.offset(self.head)
    }

    /// Keeps the fault of a header whose four words are not one.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, first: u64, second: u64, third: u64, fourth: u64) -> Look {
        self.broken = FrameHeader::judge([first, second, third, fourth], self.head).err();
        Look::Broken
    }

    /// Keeps the fault of a frame that would not end inside the ring.
    #[cold]
    #[inline(never)]
    fn refuse_span(&mut self, span: u64, available: u64) -> Look {
        self.broken = Some(Fault::FrameOverrun { span, available });
        Look::Broken
    }

    /// True when another frame may follow one of `span` bytes at the head in its place.
    #[inline(always)]
    fn may_stay_home(&self, ring: RingView<'_>, span: u64) -> bool {
        let is_home = ring.offset(self.head) == u64::from(self.home_offset);
        self.again && is_home && span + FRAME_ALIGNMENT <= u64::from(self.home_size)
    }

    /// Keeps the fault of a frame that says that it stands at home where none can.
    #[cold]
    #[inline(never)]
    fn refuse_home(&mut self, flags: u8) -> Look {
        self.broken = Some(Fault::UndefinedBits { flags, reserved: 0 });
        Look::Broken
    }

    /// Passes a padding frame that follows so many others; false, with the fault kept, when it is none that
    /// can be.
    #[inline(never)]
    fn skip_padding(
        &mut self,
        words: &[AtomicU64],
        head: &AtomicU64,
        payload_size: u32,
        others: u32,
    ) -> bool {
        let ring = RingView::of_layout(words, head);
        let (span, capacity) = (u64::from(payload_size) + FRAME_HEADER_SIZE, ring.capacity());
        if span > capacity || !span.is_multiple_of(FRAME_ALIGNMENT) {
            self.broken = Some(Fault::Padding { span, capacity });
            return false;
        }
        self.advance(ring, span);
        if others >= PADDING_RUN_MAX {
            self.broken = Some(Fault::Padding { span: 0, capacity });
            return false;
        }
        true
    }

    /// The word at home, which the producer may change while ours is the last frame there.
    #[inline(always)]
    fn load_home(&self, ring: RingView<'_>, ordering: Ordering) -> u64 {
        ring.words[ring.index(self.home())].load(ordering)
    }

    /// True for a word at home that is not that of the frame that was passed last.
    #[inline(always)]
    const fn is_news(&self, home: u64) -> bool {
        home != 0 && home != self.home_word
    }

    /// The first word of the next frame where the one that was passed last stands at home: of one in its
    /// place, to which the head moves, or of one behind it; or 0.
    #[inline(always)]
    fn look_at_home(&mut self, ring: RingView<'_>, ordering: Ordering) -> u64 {
        let mut home = self.load_home(ring, ordering);
        if !self.is_news(home) {
            let behind = ring.words[ring.index(self.head)].load(ordering);
            if behind == 0 {
                return 0;
            }
            // It stands behind a frame that has come home since the first look, or behind ours.
            if sound("home is looked at again") {
                home = self.load_home(ring, ordering);
            }
            if !self.is_news(home) {
                return behind;
            }
        }
        self.head = self.head.plus(self.distance_home(ring));
        self.home_word = 0;
        home
    }

    /// Bytes from the head to the next place where home begins.
    #[inline(always)]
    fn distance_home(&self, ring: RingView<'_>) -> u64 {
        self.home().since(self.head) & (ring.capacity() - 1)
    }

    /// Where home begins, in some lap.
    #[inline(always)]
    const fn home(&self) -> Position {
        Position(self.home_offset as u64)
    }

    #[inline]
    fn advance(&mut self, ring: RingView<'_>, span: u64) {
        self.home_word = 0;
        self.head = self.head.plus(span);
        self.release_passed(ring);
    }
}
