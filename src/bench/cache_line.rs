//! The least that two cores can do: hand each other a cache line.
//!
//! One slot each way. A slot's first word is a sequence number, stored last with Release; the
//! reader polls it with Acquire, copies the payload out, copies it into the answer's slot and
//! publishes that. With a payload of 64 bytes the whole message, sequence included, is exactly one
//! cache line.
//!
//! No slot is written while it is read: the client writes request n+1 after it has seen answer n,
//! which the server published after it had copied request n.

use std::hint;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::mapping::SharedWords;
use super::{BenchError, Subject};

const WORD_SIZE: usize = 8;
const LINE_SIZE: usize = 64;

/// Most bytes of a message.
pub const SIZE_MAX: usize = 4096;

/// Where the response slot starts. Two lines beyond the request slot's end, so that the prefetcher
/// of adjacent lines does not couple the two and their words do not lie at equal offsets of a page.
const RESPONSE_OFFSET: usize = SIZE_MAX + 2 * LINE_SIZE;

/// Three pages: the two slots, rounded up.
const REGION_WORD_COUNT: usize = 3 * 4096 / WORD_SIZE;

const _: () = assert!(RESPONSE_OFFSET + SIZE_MAX <= REGION_WORD_COUNT * WORD_SIZE);
const _: () = assert!(RESPONSE_OFFSET.is_multiple_of(LINE_SIZE));

/// Polls between two looks at the clock; about a millisecond.
const POLLS_PER_LOOK: u32 = 1 << 16;

/// How long the client polls for one answer; the first one waits for the responder's start.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Both slots of one pair of processes.
#[derive(Debug)]
pub(super) struct CacheLine {
    region: SharedWords,
    size: usize,
}

impl CacheLine {
    /// Makes the memory for messages of `size` bytes, and its descriptor for the other side.
    pub(super) fn create(size: usize) -> Result<(Self, OwnedFd), BenchError> {
        check_size(size)?;
        let (region, memory) = SharedWords::create(REGION_WORD_COUNT)?;
        Ok((Self { region, size }, memory))
    }

    /// Maps what the other side has made for the same `size`.
    pub(super) fn open(memory: impl AsFd, size: usize) -> Result<Self, BenchError> {
        check_size(size)?;
        Ok(Self { region: SharedWords::open(memory, REGION_WORD_COUNT)?, size })
    }

    /// Answers for as long as this process lives; its watchdog and its parent bound that.
    pub(super) fn answer_forever(&self) -> ! {
        let (request, response) = (self.request(), self.response());
        let mut copy = vec![0; self.size];
        let mut answered = 0;
        loop {
            let sequence = request.sequence();
            if sequence == answered {
                hint::spin_loop();
                continue;
            }
            request.copy_out(sequence, &mut copy);
            response.publish(&copy);
            answered = sequence;
        }
    }

    fn request(&self) -> Slot<'_> {
        Slot(&self.region.words()[..self.size / WORD_SIZE])
    }

    fn response(&self) -> Slot<'_> {
        Slot(&self.region.words()[RESPONSE_OFFSET / WORD_SIZE..][..self.size / WORD_SIZE])
    }
}

/// The client's side. The stamp in the payload's first word is the sequence number.
impl Subject for CacheLine {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
        let sequence = word_of(payload);
        let response = self.response();
        self.request().publish(payload);
        if !response.poll(sequence) {
            return Err(BenchError::Silent { who: "cache-line responder" });
        }
        answer.resize(self.size, 0);
        response.copy_out(sequence, answer);
        Ok(())
    }
}

/// The words of one direction; the first is the sequence number.
#[derive(Clone, Copy)]
struct Slot<'r>(&'r [AtomicU64]);

impl Slot<'_> {
    /// Copies a message in from back to front, the sequence last.
    ///
    /// The reader polls the first line; written early, it would be fetched away from a writer that
    /// is still busy with the others.
    #[inline]
    fn publish(self, message: &[u8]) {
        let (sequence, words) = self.0.split_first().expect("a slot has a word");
        let (_, rest) = message.split_at(WORD_SIZE);
        for (word, bytes) in words.iter().zip(rest.chunks_exact(WORD_SIZE)).rev() {
            word.store(word_of(bytes), Ordering::Relaxed);
        }
        sequence.store(word_of(message), Ordering::Release); // Pairs with `Slot::sequence`.
    }

    #[inline]
    fn sequence(self) -> u64 {
        self.0[0].load(Ordering::Acquire) // Pairs with `Slot::publish`.
    }

    /// Copies out the message whose `sequence` was just seen.
    #[inline]
    fn copy_out(self, sequence: u64, message: &mut [u8]) {
        let (first, rest) = message.split_at_mut(WORD_SIZE);
        first.copy_from_slice(&sequence.to_ne_bytes());
        for (word, bytes) in self.0[1..].iter().zip(rest.chunks_exact_mut(WORD_SIZE)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Polls until `expected` is there; false when [`ANSWER_WAIT_MAX`] has passed without it.
    #[inline]
    fn poll(self, expected: u64) -> bool {
        for _ in 0..POLLS_PER_LOOK {
            if self.sequence() == expected {
                return true;
            }
            hint::spin_loop();
        }
        self.poll_slowly(expected)
    }

    /// The rest of a long wait, with a clock; once a start-up, normally.
    #[cold]
    fn poll_slowly(self, expected: u64) -> bool {
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        while Instant::now() < deadline {
            for _ in 0..POLLS_PER_LOOK {
                if self.sequence() == expected {
                    return true;
                }
                hint::spin_loop();
            }
        }
        false
    }
}

/// The first word of some bytes, which are at least as long.
#[inline]
fn word_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(*bytes.first_chunk().expect("a message has a word"))
}

fn check_size(size: usize) -> Result<(), BenchError> {
    if size == 0 || size > SIZE_MAX || !size.is_multiple_of(WORD_SIZE) {
        return Err(BenchError::PayloadSize { size, size_max: SIZE_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_message_is_copied_out_whole() {
        let (ours, memory) = CacheLine::create(64).unwrap();
        let theirs = CacheLine::open(&memory, 64).unwrap();
        let message: Vec<u8> = (1..=64).collect();
        ours.request().publish(&message);

        let sequence = theirs.request().sequence();
        let mut copy = [0; 64];
        theirs.request().copy_out(sequence, &mut copy);
        assert_eq!(copy.as_slice(), message);
        assert_eq!(ours.response().sequence(), 0, "the other direction is untouched");
    }

    #[test]
    fn slots_are_whole_lines_that_do_not_touch() {
        let (pair, _) = CacheLine::create(SIZE_MAX).unwrap();
        let request = pair.request().0.as_ptr_range();
        let response = pair.response().0.as_ptr_range();
        assert!(
            request.start.addr().is_multiple_of(LINE_SIZE)
                && response.start.addr().is_multiple_of(LINE_SIZE)
        );
        assert!(response.start.addr() - request.end.addr() >= 2 * LINE_SIZE);
    }

    #[test]
    fn sizes_that_are_no_message_are_refused() {
        for size in [0, 12, SIZE_MAX + 8] {
            assert!(
                matches!(CacheLine::create(size), Err(BenchError::PayloadSize { .. })),
                "{size}"
            );
        }
    }
}
