//! The least that two cores can do with many messages under way: copy each in and out of shared
//! memory, twice each way.
//!
//! As many slots each way as requests in flight, used in turn. As with the cache line, a message's
//! first word is its sequence number and is stored last. Client and server each copy every message
//! once in and once out, with the same wide copies as the rings, and do nothing else: no header, no
//! check, no flag, no positions. So a case of 4 KiB beside this shows how far it is from being bound
//! by memcpy and by the lines that travel.
//!
//! No slot is written while it is read: request n + count goes where request n was, after answer n
//! has been taken, which the server published after it had copied request n.

use std::hint;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::BenchError;
use super::lane::Lane;
use super::mapping::SharedWords;
use crate::copy::{copy_in, copy_out};

const WORD_SIZE: usize = 8;
const LINE_WORDS: usize = 8;

/// Most bytes of all slots of one direction.
pub const SIZE_MAX: usize = 1 << 28;

/// The slots of one pair of processes, in both directions.
#[derive(Debug)]
pub(super) struct Slots {
    region: SharedWords,
    /// Bytes of a message.
    size: usize,
    /// Words from one slot to the next: whole lines.
    stride: usize,
    /// Slots of one direction.
    count: usize,
}

impl Slots {
    /// Makes the memory for `count` messages of `size` bytes each way, and its descriptor for the
    /// other side.
    pub(super) fn create(size: usize, count: usize) -> Result<(Self, OwnedFd), BenchError> {
        let stride = stride_of(size, count)?;
        let (region, memory) = SharedWords::create(region_word_count(stride, count))?;
        Ok((Self { region, size, stride, count }, memory))
    }

    /// Maps what the other side has made for the same numbers.
    pub(super) fn open(memory: impl AsFd, size: usize, count: usize) -> Result<Self, BenchError> {
        let stride = stride_of(size, count)?;
        let region = SharedWords::open(memory, region_word_count(stride, count))?;
        Ok(Self { region, size, stride, count })
    }

    /// Answers for as long as this process lives; its watchdog and its parent bound that.
    pub(super) fn answer_forever(&self) -> ! {
        let mut copy = vec![0; self.size];
        let mut place = Place::default();
        loop {
            let request = self.request(place.index);
            if sequence(request) != place.stamp + 1 {
                hint::spin_loop();
                continue;
            }
            take(request, place.stamp + 1, &mut copy);
            publish(self.response(place.index), &copy);
            place.advance(self.count);
        }
    }

    #[inline]
    fn request(&self, index: usize) -> &[AtomicU64] {
        &self.region.words()[index * self.stride..][..self.size / WORD_SIZE]
    }

    /// Behind the requests and two lines more, so that the prefetcher of adjacent lines does not
    /// couple the directions.
    #[inline]
    fn response(&self, index: usize) -> &[AtomicU64] {
        let start = self.count * self.stride + 2 * LINE_WORDS;
        &self.region.words()[start + index * self.stride..][..self.size / WORD_SIZE]
    }
}

/// How far one side has come in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The number of the message that was handled last; zero when there was none.
    stamp: u64,
    /// The slot of the next one.
    index: usize,
}

impl Place {
    #[inline]
    fn advance(&mut self, count: usize) {
        self.stamp += 1;
        self.index += 1;
        if self.index == count {
            self.index = 0;
        }
    }
}

/// The client's side. Its stamps, which rise from one, are the sequence numbers.
#[derive(Debug)]
pub(super) struct SlotLane {
    slots: Slots,
    sent: Place,
    received: Place,
}

impl SlotLane {
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, sent: Place::default(), received: Place::default() }
    }
}

impl Lane for SlotLane {
    #[inline]
    fn try_send(&mut self, payload: &[u8]) -> Result<bool, BenchError> {
        if self.sent.stamp - self.received.stamp == self.slots.count as u64 {
            return Ok(false);
        }
        publish(self.slots.request(self.sent.index), payload);
        self.sent.advance(self.slots.count);
        Ok(true)
    }

    #[inline]
    fn flush(&mut self) {}

    #[inline]
    fn try_receive(&mut self, answer: &mut Vec<u8>) -> Result<bool, BenchError> {
        let response = self.slots.response(self.received.index);
        let expected = self.received.stamp + 1;
        if sequence(response) != expected {
            return Ok(false);
        }
        answer.resize(self.slots.size, 0);
        take(response, expected, answer);
        self.received.advance(self.slots.count);
        Ok(true)
    }

    /// The watchdog and the silence of a responder that is gone are enough.
    fn check_alive(&mut self) -> Result<(), BenchError> {
        Ok(())
    }
}

/// Copies a message in, its sequence number last.
#[inline]
fn publish(slot: &[AtomicU64], message: &[u8]) {
    let (first, rest) = message.split_at(WORD_SIZE);
    copy_in(&slot[1..], rest);
    let number = u64::from_ne_bytes(first.try_into().expect("split at a word"));
    slot[0].store(number, Ordering::Release); // Pairs with `sequence`.
}

#[inline]
fn sequence(slot: &[AtomicU64]) -> u64 {
    slot[0].load(Ordering::Acquire) // Pairs with `publish`.
}

/// Copies out the message whose sequence number was just seen.
#[inline]
fn take(slot: &[AtomicU64], sequence: u64, message: &mut [u8]) {
    let (first, rest) = message.split_at_mut(WORD_SIZE);
    first.copy_from_slice(&sequence.to_ne_bytes());
    copy_out(&slot[1..], rest);
}

/// Words from one slot to the next.
fn stride_of(size: usize, count: usize) -> Result<usize, BenchError> {
    let fits = size.checked_mul(count).is_some_and(|size| size > 0 && size <= SIZE_MAX);
    if !fits || !size.is_multiple_of(WORD_SIZE) {
        return Err(BenchError::PayloadSize { size, size_max: SIZE_MAX / count.max(1) });
    }
    Ok((size / WORD_SIZE).next_multiple_of(LINE_WORDS))
}

fn region_word_count(stride: usize, count: usize) -> usize {
    2 * stride * count + 2 * LINE_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(stamp: u64, size: usize) -> Vec<u8> {
        let mut message = vec![0xA5; size];
        message[..8].copy_from_slice(&stamp.to_ne_bytes());
        message[size - 8..].copy_from_slice(&stamp.to_ne_bytes());
        message
    }

    #[test]
    fn messages_come_back_in_order_however_often_the_slots_are_used() {
        for size in [8, 64, 1024, 4096] {
            let (ours, memory) = Slots::create(size, 3).unwrap();
            let theirs = Slots::open(&memory, size, 3).unwrap();
            let mut lane = SlotLane::new(ours);
            let (mut place, mut answer) = (Place::default(), Vec::new());
            for stamp in 1..=10 {
                assert!(!lane.try_receive(&mut answer).unwrap());
                assert!(lane.try_send(&message(stamp, size)).unwrap());
                // What the responder does once.
                let mut copy = vec![0; size];
                assert_eq!(sequence(theirs.request(place.index)), stamp);
                take(theirs.request(place.index), stamp, &mut copy);
                publish(theirs.response(place.index), &copy);
                place.advance(3);
                assert!(lane.try_receive(&mut answer).unwrap());
                assert_eq!(answer, message(stamp, size));
            }
        }
    }

    #[test]
    fn no_slot_is_used_before_its_answer_was_taken() {
        let (ours, _) = Slots::create(64, 2).unwrap();
        let mut lane = SlotLane::new(ours);
        assert!(lane.try_send(&message(1, 64)).unwrap());
        assert!(lane.try_send(&message(2, 64)).unwrap());
        assert!(!lane.try_send(&message(3, 64)).unwrap());
        assert_eq!(sequence(lane.slots.request(0)), 1);
    }

    #[test]
    fn slots_are_whole_lines_that_do_not_touch() {
        let (slots, _) = Slots::create(72, 4).unwrap();
        let last_request = slots.request(3).as_ptr_range();
        let first_response = slots.response(0).as_ptr_range();
        assert!(first_response.start.addr() - last_request.end.addr() >= 2 * 8 * LINE_WORDS);
        assert!(slots.request(1).as_ptr().addr().is_multiple_of(64));
        assert!(first_response.start.addr().is_multiple_of(64));
    }

    #[test]
    fn numbers_that_make_no_slots_are_refused() {
        for (size, count) in [(0, 1), (12, 1), (64, 0), (4096, 1 << 20), (usize::MAX, 2)] {
            assert!(matches!(Slots::create(size, count), Err(BenchError::PayloadSize { .. })));
        }
    }
}
