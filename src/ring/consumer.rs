//! The reading side of a ring.

use super::{Home, RingView};
use crate::copy::copy_out;
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, PADDING_RUN_MAX, WORD_SIZE};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::sound;
use crate::wire::{Fault, FrameHeader, Position};

const HEADER_WORDS: usize = (FRAME_HEADER_SIZE / WORD_SIZE) as usize;

/// Takes frames out of the ring whose [`RingView`] each call is given (always the same ring).
#[derive(Debug)]
pub struct Consumer {
    /// Where the next header will appear. Ours alone; the ring holds a copy for the producer.
    pub(super) head: Position,
    /// Verify [`FrameHeader::check_payload`].
    payload_checked: bool,
}

impl Consumer {
    /// A consumer for an empty ring of zeros.
    #[must_use]
    pub const fn new(home: Home, payload_checked: bool) -> Self {
        Self { head: home.start(), payload_checked }
    }

    /// Where the next frame will stand.
    #[must_use]
    pub const fn head(&self) -> Position {
        self.head
    }

    /// True when nothing is published at the head: the cheapest look, one load.
    #[inline]
    #[must_use]
    pub fn is_empty(&self, ring: RingView<'_>) -> bool {
        ring.words[ring.index(self.head)].load(Relaxed) == 0
    }

    /// Looks for the oldest published frame and gives a judged copy of its header. The frame stays
    /// where it is until [`Consumer::release`].
    ///
    /// # Errors
    ///
    /// Any frame [`Fault`]: what stands at the head is not a frame. Nothing is consumed; the caller
    /// closes the connection.
    #[inline(always)]
    pub fn poll(&mut self, ring: RingView<'_>) -> Result<Option<FrameHeader>, Fault> {
        let Some(header) = self.peek(ring)? else { return Ok(None) };
        if header.is_padding() {
            return self.poll_behind(header, ring);
        }
        Ok(Some(header))
    }

    /// Skips padding, and whatever padding follows it.
    #[inline(never)]
    fn poll_behind(
        &mut self,
        mut padding: FrameHeader,
        ring: RingView<'_>,
    ) -> Result<Option<FrameHeader>, Fault> {
        for _ in 0..PADDING_RUN_MAX {
            self.advance(ring, padding_span(&padding, ring.capacity())?);
            match self.peek(ring)? {
                Some(header) if header.is_padding() => padding = header,
                other => return Ok(other),
            }
        }
        Err(Fault::Padding { span: 0, capacity: ring.capacity() })
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
        header: &FrameHeader,
        target: &mut [u8],
    ) -> Result<(), Fault> {
        assert_eq!(target.len(), header.payload_size as usize);
        copy_out(&ring.words[ring.index(self.head) + HEADER_WORDS..], target);
        if self.payload_checked { header.check_payload(target) } else { Ok(()) }
    }

    /// Gives the space of the frame that [`Consumer::poll`] gave back to the producer.
    #[inline]
    pub fn release(&mut self, ring: RingView<'_>, header: &FrameHeader) {
        self.advance(ring, header.span());
    }

    /// Bytes from the ring's start to the frame at the head, for giving pages back.
    #[must_use]
    pub fn offset(&self, ring: RingView<'_>) -> u64 {
        ring.offset(self.head)
    }

    /// A judged copy of the header at the head, padding or not.
    #[inline(always)]
    fn peek(&self, ring: RingView<'_>) -> Result<Option<FrameHeader>, Fault> {
        let index = ring.index(self.head);
        // Pairs with the last store in `Producer::store`: the frame and the zero behind it.
        let first =
            ring.words[index].load(if sound("acquire in poll") { Acquire } else { Relaxed });
        if first == 0 {
            return Ok(None);
        }
        let rest = &ring.words[index + 1..index + HEADER_WORDS];
        // Copied once; from here on only this copy is judged.
        let words = [first, rest[0].load(Relaxed), rest[1].load(Relaxed), rest[2].load(Relaxed)];
        let header = FrameHeader::judge(words, self.head)?;
        let available = ring.capacity() - ring.offset(self.head);
        if header.span() > available
            && !header.is_padding()
            && sound("a frame ends inside the ring")
        {
            return Err(Fault::FrameOverrun { span: header.span(), available });
        }
        Ok(Some(header))
    }

    #[inline]
    fn advance(&mut self, ring: RingView<'_>, span: u64) {
        self.head = self.head.plus(span);
        // Frees the space; pairs with `Producer::look_at_head`.
        ring.head.store(self.head.0, Release);
    }
}

fn padding_span(header: &FrameHeader, capacity: u64) -> Result<u64, Fault> {
    let span = u64::from(header.payload_size) + FRAME_HEADER_SIZE;
    if span > capacity || !span.is_multiple_of(FRAME_ALIGNMENT) {
        return Err(Fault::Padding { span, capacity });
    }
    Ok(span)
}
