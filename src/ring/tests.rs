//! The ring against an oracle, at its bounds, and against a peer that lies.
#![allow(clippy::cast_possible_truncation, reason = "payload bytes made from counters")]

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::limits::{HOME_SIZE, PAGE_SIZE, SYNC_REPLY_SIZE_MIN};
use crate::region::RegionLayout;
use crate::sync::Ordering::Relaxed;
use crate::wire::{Fault, FrameFlags, FrameHeader, MessageType, span};

struct Memory {
    words: Vec<AtomicU64>,
    head: AtomicU64,
}

impl Memory {
    fn new(capacity: u64, home: Home) -> Self {
        let words = (0..capacity / WORD_SIZE).map(|_| AtomicU64::new(0)).collect();
        Self { words, head: AtomicU64::new(home.offset) }
    }

    fn view(&self) -> RingView<'_> {
        RingView::new(&self.words, &self.head)
    }
}

/// Homes at the end and at the start of a ring, as a region has them.
fn homes(capacity: u64) -> [Home; 2] {
    let (size, early) = (HOME_SIZE, true);
    [
        Home { offset: capacity - HOME_SIZE, size, phase: HOME_SIZE, early },
        Home { offset: 0, size, phase: PAGE_SIZE - HOME_SIZE, early },
    ]
}

fn request(id: u64) -> FrameHeader {
    FrameHeader::request(MessageType::ECHO, id)
}

fn take(consumer: &mut Consumer, ring: RingView<'_>) -> Result<Option<(u64, Vec<u8>)>, Fault> {
    let Some(header) = consumer.poll(ring)? else {
        return Ok(None);
    };
    let mut payload = vec![0; header.payload_size as usize];
    consumer.copy_payload(ring, &header, &mut payload)?;
    consumer.release(ring, &header);
    Ok(Some((header.request_id, payload)))
}

/// What the two sides of a ring can do, for the oracle here and for fuzzing.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Publish(u32),
    Consume,
    Hold,
    Reveal,
}

/// A seeded sequence of operations (xorshift64*), sizes skewed to small.
fn operations(seed: u64, count: usize, size_max: u32) -> impl Iterator<Item = Operation> {
    let mut state = seed | 1;
    (0..count).map(move |_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let draw = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        let size = if draw.is_multiple_of(8) { size_max } else { size_max.min(200) };
        match draw >> 3 & 31 {
            0 => Operation::Hold,
            1..=2 => Operation::Reveal,
            odd if odd & 1 == 1 => Operation::Consume,
            _ => Operation::Publish((draw >> 8) as u32 % (size + 1)),
        }
    })
}

fn same_history_as_a_queue(capacity: u64, home: Home, seed: u64, checked: bool, again: bool) {
    let memory = Memory::new(capacity, home);
    let ring = memory.view();
    let mut producer = Producer::new(home, checked).again(again);
    let mut consumer = Consumer::new(home, checked).again(again);
    // What can be seen, and what is held back behind it.
    let (mut oracle, mut held, mut holding) = (VecDeque::new(), VecDeque::new(), false);
    let size_max = u32::try_from((capacity - FRAME_ALIGNMENT - 32).min(1 << 14)).unwrap();

    for (step, operation) in operations(seed, 4000, size_max).enumerate() {
        // Whoever asks for lines ahead, wherever the ring stands, changes nothing.
        producer.prefetch(ring);
        producer.prefetch_rest(ring);
        producer.prefetch_run(ring);
        consumer.prefetch(ring);
        consumer.prefetch_rest(ring);
        let is_taken = oracle.is_empty() && held.is_empty();
        assert!(oracle.is_empty() || !consumer.is_empty(ring), "seed {seed}");
        match operation {
            Operation::Publish(size) => {
                // Now and then it is told by another way.
                if again && is_taken && step % 3 != 0 {
                    producer.all_taken();
                }
                let payload: Vec<u8> = (0..size).map(|i| (i as u8) ^ (step as u8)).collect();
                match producer.publish(ring, request(step as u64), &payload) {
                    Ok(()) if holding => held.push_back((step as u64, payload)),
                    Ok(()) => oracle.push_back((step as u64, payload)),
                    Err(PublishError::Full) => assert!(
                        !producer.is_drained(ring).unwrap() || holding || !oracle.is_empty(),
                        "seed {seed}: an empty ring is never full"
                    ),
                    Err(error) => panic!("seed {seed}, step {step}: {error}"),
                }
            }
            Operation::Consume => {
                assert_eq!(take(&mut consumer, ring), Ok(oracle.pop_front()), "seed {seed}");
            }
            Operation::Hold => {
                producer.hold();
                holding = true;
            }
            Operation::Reveal => {
                producer.reveal(ring);
                oracle.append(&mut held);
                holding = false;
            }
        }
    }
    producer.reveal(ring);
    oracle.append(&mut held);
    while let Some(expected) = oracle.pop_front() {
        assert_eq!(take(&mut consumer, ring), Ok(Some(expected)), "seed {seed}");
    }
    assert_eq!(take(&mut consumer, ring), Ok(None));
    assert!(producer.is_drained(ring).unwrap());
}

#[test]
fn any_sequence_has_the_history_of_a_queue() {
    let [at_end, at_start] = homes(1 << 14);
    let [large_at_end, large_at_start] = homes(1 << 16);
    let small = Home { offset: 256, size: 256, phase: 0, early: false };
    for seed in 1..=40 {
        same_history_as_a_queue(256, Home::NONE, seed, seed % 2 == 0, false);
        for (home, capacity) in [(at_end, 1 << 14), (at_start, 1 << 14), (small, 512)] {
            same_history_as_a_queue(capacity, home, seed, seed % 2 == 0, false);
            same_history_as_a_queue(capacity, home, seed, seed % 2 == 0, true);
        }
        // So large that it starts over while it is busy.
        for home in [large_at_end, large_at_start] {
            same_history_as_a_queue(1 << 16, home, seed, false, seed % 2 == 0);
        }
    }
}

#[test]
fn positions_come_round_without_anyone_noticing() {
    let memory = Memory::new(1 << 14, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, true), Consumer::new(Home::NONE, true));
    let late = Position(u64::MAX - 4095);
    (producer.tail, producer.head, producer.clear_until) = (late, late, late);
    consumer.head = late;
    memory.head.store(late.0, Relaxed);
    for id in 0..200 {
        producer.publish(ring, request(id), &[id as u8; 300]).unwrap();
        assert_eq!(take(&mut consumer, ring), Ok(Some((id, vec![id as u8; 300]))));
    }
    assert!(producer.tail().0 < late.0);
}

#[test]
fn held_frames_are_unseen_until_they_are_shown_all_at_once() {
    let memory = Memory::new(1 << 14, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, true), Consumer::new(Home::NONE, true));
    producer.publish(ring, request(0), b"seen").unwrap();
    producer.hold();
    for id in 1..4 {
        producer.publish(ring, request(id), b"held").unwrap();
    }
    assert!(producer.is_holding());
    assert_eq!(take(&mut consumer, ring), Ok(Some((0, b"seen".to_vec()))));
    assert_eq!(take(&mut consumer, ring), Ok(None));
    producer.reveal(ring);
    assert!(!producer.is_holding());
    for id in 1..4 {
        assert_eq!(take(&mut consumer, ring), Ok(Some((id, b"held".to_vec()))));
    }
    producer.publish(ring, request(4), b"seen").unwrap();
    assert_eq!(take(&mut consumer, ring), Ok(Some((4, b"seen".to_vec()))));
}

#[test]
fn a_zero_stands_behind_every_frame_over_what_an_earlier_lap_left() {
    let home = Home { offset: 2048, size: 2048, phase: 0, early: true };
    for (home, seed) in [(Home::NONE, 1), (home, 2), (Home::NONE, 3), (home, 4)] {
        let memory = Memory::new(1 << 14, home);
        let ring = memory.view();
        let (mut producer, mut consumer) = (Producer::new(home, false), Consumer::new(home, false));
        // Runs of one size, between them another: what was foretold comes true, or not.
        for round in 0..4_000_u64 {
            let size = [64, 1024, 20, 200, 1024, 64, 0, 500][(round / (3 + seed) % 8) as usize];
            let payload = vec![0xFF; size];
            if round % 50 < 7 {
                producer.hold();
            }
            while producer.publish(ring, request(round), &payload).is_err() {
                producer.reveal(ring);
                while take(&mut consumer, ring).unwrap().is_some() {}
            }
            let behind = &ring.words[ring.index(producer.tail())];
            assert_eq!(behind.load(Relaxed), 0, "behind frame {round} of seed {seed}");
            if round % 50 >= 7 {
                producer.reveal(ring);
            }
            if round % 3 != 0 {
                let _ = take(&mut consumer, ring).unwrap();
            }
        }
    }
}

#[test]
fn full_ring_returns_the_frame_and_takes_it_later() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, false), Consumer::new(Home::NONE, false));
    // Three units of four: the last stays free for the zero behind a frame.
    for id in 0..3 {
        producer.publish(ring, request(id), &[0; 32]).unwrap();
    }
    assert_eq!(producer.publish(ring, request(3), &[]), Err(PublishError::Full));
    assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, 0);
    producer.publish(ring, request(3), &[]).unwrap();
    for id in 1..=3 {
        assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, id);
    }
}

#[test]
fn space_of_frames_that_were_passed_goes_back_all_at_once() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, false), Consumer::new(Home::NONE, false));
    for id in 0..3 {
        producer.publish(ring, request(id), &[0; 32]).unwrap();
    }
    for id in 0..2 {
        let Look::Frame(header) = consumer.look(ring) else { panic!("frame {id}") };
        assert_eq!(header.request_id(), id);
        consumer.pass(ring, header);
    }
    assert_eq!(producer.publish(ring, request(3), &[]), Err(PublishError::Full));
    consumer.release_passed(ring);
    producer.publish(ring, request(3), &[]).unwrap();
    producer.publish(ring, request(4), &[]).unwrap();
    for id in 2..=4 {
        assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, id);
    }
}

#[test]
fn a_frame_as_large_as_the_ring_passes_wherever_the_ring_stands() {
    let memory = Memory::new(1024, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, false), Consumer::new(Home::NONE, false));
    let largest = vec![7; 1024 - 64 - 32];
    for round in 0..40 {
        producer.publish(ring, request(round), b"small").unwrap();
        assert!(take(&mut consumer, ring).unwrap().is_some());
        // It may need two tries: one puts the padding down, the consumer passes it.
        while producer.publish(ring, request(round), &largest).is_err() {
            assert_eq!(take(&mut consumer, ring), Ok(None));
        }
        assert_eq!(take(&mut consumer, ring).unwrap().unwrap().1, largest);
    }
    let too_large = vec![7; 1024 - 32];
    let refused = producer.publish(ring, request(0), &too_large);
    assert_eq!(refused, Err(PublishError::TooLarge { span: 1024, capacity: 1024 }));
}

#[test]
fn room_that_was_promised_is_there() {
    let memory = Memory::new(1 << 14, Home::NONE);
    let ring = memory.view();
    let (mut producer, mut consumer) =
        (Producer::new(Home::NONE, false), Consumer::new(Home::NONE, false));
    for operation in operations(11, 4000, 12_000) {
        match operation {
            Operation::Publish(size) => {
                if producer.has_room(ring, span(size)).unwrap() {
                    producer.publish(ring, request(1), &vec![0; size as usize]).unwrap();
                }
            }
            Operation::Consume => {
                take(&mut consumer, ring).unwrap();
            }
            Operation::Hold => producer.hold(),
            Operation::Reveal => producer.reveal(ring),
        }
    }
}

#[test]
fn a_quiet_ring_stays_on_one_page() {
    for home in homes(1 << 16) {
        let memory = Memory::new(1 << 16, home);
        let ring = memory.view();
        let (mut producer, mut consumer) = (Producer::new(home, false), Consumer::new(home, false));
        for id in 0..10_000 {
            producer.publish(ring, request(id), &[1; 64]).unwrap();
            assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, id);
        }
        let touched = memory.words.iter().enumerate().filter(|(_, word)| word.load(Relaxed) != 0);
        for (index, _) in touched {
            let offset = index as u64 * WORD_SIZE;
            assert!((home.offset..home.offset + HOME_SIZE).contains(&offset), "offset {offset}");
        }
        // Positions ran on through many laps.
        assert!(producer.tail().0 > 100 << 16);
    }
}

/// Keeps `window` frames of `size` bytes under way for a long while; gives the pages that were touched.
fn pages_of_a_busy_ring(capacity: u64, home: Home, window: u64, size: usize) -> u64 {
    let memory = Memory::new(capacity, home);
    let ring = memory.view();
    let mut producer = Producer::new(home, false).again(true);
    let mut consumer = Consumer::new(home, false).again(true);
    let payload = vec![1; size];
    for id in 0..4 * capacity / span(size as u32) {
        let answer = span((size as u32).max(SYNC_REPLY_SIZE_MIN));
        assert!(producer.has_room(ring, answer).unwrap(), "frame {id} of {window}");
        producer.publish(ring, request(id), &payload).unwrap();
        if let Some(oldest) = (id + 1).checked_sub(window) {
            assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, oldest);
        }
    }
    let is_touched = |page: &&[AtomicU64]| page.iter().any(|word| word.load(Relaxed) != 0);
    memory.words.chunks((PAGE_SIZE / WORD_SIZE) as usize).filter(is_touched).count() as u64
}

/// The homes that the rings of a region have, in the one that its client writes and in the daemon's.
fn homes_of_a_region(capacity: u64) -> [Home; 2] {
    let layout = RegionLayout::new(capacity, capacity);
    [layout.request_home(), layout.response_home()]
}

#[test]
fn a_busy_ring_keeps_to_what_is_under_way_and_some_pages() {
    let capacity = 1 << 20;
    for home in homes_of_a_region(capacity) {
        for (window, size) in [(2, 64), (16, 64), (64, 64), (16, 1024), (3, 4096), (16, 4096)] {
            let pages = pages_of_a_busy_ring(capacity, home, window, size);
            let under_way = window * span(size as u32);
            let pages_max = (2 * under_way + 2 * span(size as u32)).div_ceil(PAGE_SIZE) + 3;
            assert!(pages <= pages_max, "{window} of {size} bytes: {pages} pages, not {pages_max}");
        }
    }
}

#[test]
fn a_window_that_was_almost_taken_has_its_room_when_it_is_filled_again() {
    for (capacity, size) in [(1 << 15, 64), (1 << 17, 1024), (1 << 24, 1024)] {
        for home in homes_of_a_region(capacity) {
            let memory = Memory::new(capacity, home);
            let ring = memory.view();
            let mut producer = Producer::new(home, false).again(true);
            let mut consumer = Consumer::new(home, false).again(true);
            let (mut sent, mut taken) = (0, 0);
            // Full for a while, then all but one taken for a page or two, and full again.
            for round in 0..2_000_u64 {
                let window = if round % 100 > 95 - round % 13 { 2 } else { 64 };
                while sent < taken + window {
                    let answer = span(SYNC_REPLY_SIZE_MIN);
                    assert!(producer.has_room(ring, answer).unwrap(), "{sent} of {size} bytes");
                    producer.publish(ring, request(sent), &vec![1; size]).unwrap();
                    sent += 1;
                }
                while sent > taken + window / 2 {
                    assert_eq!(take(&mut consumer, ring).unwrap().unwrap().0, taken);
                    taken += 1;
                }
            }
        }
    }
}

#[test]
fn a_batch_finds_room_in_an_empty_ring_wherever_that_stands() {
    let answer = span(SYNC_REPLY_SIZE_MIN);
    let batches = [(1 << 15, 32, 64), (1 << 24, 20, 64), (1 << 24, 2, 64), (1 << 24, 16, 1024)];
    for (capacity, count, size) in batches {
        for home in homes_of_a_region(capacity) {
            let memory = Memory::new(capacity, home);
            let ring = memory.view();
            let mut producer = Producer::new(home, false).again(true);
            let mut consumer = Consumer::new(home, false).again(true);
            let mut shortened = 0;
            let rounds = 5_000;
            for _ in 0..rounds {
                for _ in 0..count {
                    producer.hold();
                    let has_room = producer.has_room(ring, answer).unwrap();
                    if !has_room || producer.publish(ring, request(0), &vec![1; size]).is_err() {
                        shortened += 1;
                        break;
                    }
                }
                producer.reveal(ring);
                while take(&mut consumer, ring).unwrap().is_some() {}
            }
            // The first, and what is forgotten where most page ends meet no batch.
            let allowed = 1 + rounds / 400;
            assert!(shortened <= allowed, "{shortened} batches of {count} times {size} bytes");
            // One at a time, it is soon at home again.
            for _ in 0..20_000 {
                producer.all_taken();
                producer.publish(ring, request(0), &vec![1; size]).unwrap();
                while take(&mut consumer, ring).unwrap().is_some() {}
            }
            let from = Position(producer.tail().0 - span(size as u32));
            assert_eq!(ring.offset(from), home.offset, "{size} bytes");
        }
    }
}

#[test]
fn after_many_large_frames_small_ones_keep_to_some_pages() {
    let capacity = 1 << 24;
    // Where a frame may follow another at home, as many pages as a batch may take.
    for (home, again, pages_max) in homes_of_a_region(capacity)
        .into_iter()
        .flat_map(|home| [(home, false, 4), (home, true, 16 + 6)])
    {
        let memory = Memory::new(capacity, home);
        let ring = memory.view();
        let mut producer = Producer::new(home, false).again(again);
        let mut consumer = Consumer::new(home, false).again(again);
        for _ in 0..3 {
            while producer.publish(ring, request(0), &vec![1; 1 << 18]).is_ok() {}
            while take(&mut consumer, ring).unwrap().is_some() {}
        }
        let mut pages = HashSet::new();
        for _ in 0..5_000 {
            producer.publish(ring, request(0), &[1; 64]).unwrap();
            while take(&mut consumer, ring).unwrap().is_some() {}
            let from = Position(producer.tail().0 - span(64));
            pages.insert((ring.offset(from) + home.phase) / PAGE_SIZE);
        }
        assert!(pages.len() <= pages_max, "{} pages, again: {again}", pages.len());
    }
}

#[test]
fn one_frame_at_a_time_stands_where_the_last_one_did() {
    for home in homes(1 << 16) {
        let memory = Memory::new(1 << 16, home);
        let ring = memory.view();
        let mut producer = Producer::new(home, true).again(true);
        let mut consumer = Consumer::new(home, true).again(true);
        for id in 0..1_000 {
            // The longest comes first, and once the others know, none walks on.
            let payload = vec![id as u8; [1024, 64, 700, 0][(id % 4) as usize]];
            producer.all_taken();
            producer.publish(ring, request(id), &payload).unwrap();
            assert!(!consumer.is_empty(ring));
            assert_eq!(take(&mut consumer, ring), Ok(Some((id, payload))));
            assert!(consumer.is_empty(ring));
            assert_eq!(take(&mut consumer, ring), Ok(None));
        }
        assert_eq!(producer.tail().0 - span(1024), home.offset + 999 * (1 << 16));
        let end = home.offset + span(1024);
        for (index, word) in memory.words.iter().enumerate() {
            let is_home = (home.offset..end).contains(&(index as u64 * WORD_SIZE));
            assert!(is_home || word.load(Relaxed) == 0, "word {index}");
        }
    }
}

#[test]
fn a_frame_as_large_as_the_ring_passes_behind_one_at_home() {
    let home = Home { offset: 0, size: 512, phase: 0, early: false };
    let memory = Memory::new(1024, home);
    let ring = memory.view();
    let mut producer = Producer::new(home, false).again(true);
    let mut consumer = Consumer::new(home, false).again(true);
    let largest = vec![7; 1024 - 64 - 32];
    for round in 0..40 {
        producer.publish(ring, request(round), b"small").unwrap();
        assert!(take(&mut consumer, ring).unwrap().is_some());
        let mut tries = 0;
        while producer.publish(ring, request(round), &largest).is_err() {
            assert_eq!(take(&mut consumer, ring), Ok(None));
            tries += 1;
            assert!(tries < 4, "it makes way for itself");
        }
        assert_eq!(take(&mut consumer, ring).unwrap().unwrap().1, largest);
    }
}

#[test]
fn frames_that_share_a_promised_room_fit_it_wherever_home_is() {
    let home = Home { offset: 0, size: 512, phase: 0, early: false };
    let memory = Memory::new(1024, home);
    let ring = memory.view();
    let mut producer = Producer::new(home, false).again(true);
    let mut consumer = Consumer::new(home, false).again(true);
    for room in [960, 512, 128, 960, 448] {
        // The last frame stands at home, and takes 384 bytes there however short the next ones are.
        producer.publish(ring, request(0), &[7; 300]).unwrap();
        while take(&mut consumer, ring).unwrap().is_some() {}
        producer.all_taken();
        let mut tries = 0;
        while !producer.has_room(ring, room).unwrap() {
            assert_eq!(take(&mut consumer, ring), Ok(None));
            tries += 1;
            assert!(tries < 4, "it makes way for itself");
        }
        producer.publish_onward(ring, request(1), &[1; 32]).unwrap();
        let rest = usize::try_from(room - 64 - 32).unwrap();
        producer.publish_onward(ring, request(2), &vec![2; rest]).unwrap();
        assert_eq!(take(&mut consumer, ring), Ok(Some((1, vec![1; 32]))));
        assert_eq!(take(&mut consumer, ring), Ok(Some((2, vec![2; rest]))));
        assert_eq!(take(&mut consumer, ring), Ok(None));
    }
}

#[test]
fn a_frame_that_claims_a_home_where_none_is_is_a_fault() {
    let home = Home { offset: 128, size: 128, phase: 0, early: false };
    let memory = Memory::new(512, home);
    let ring = memory.view();
    let flags = FrameFlags::HOME.bits();
    let place = |position: Position, size: u32| {
        let mut header = request(1);
        (header.flags, header.payload_size) = (flags, size);
        let index = ring.index(position);
        for (word, value) in memory.words[index..].iter().zip(header.sealed(position)) {
            word.store(value, Relaxed);
        }
    };
    let fault = Err(Fault::UndefinedBits { flags, reserved: 0 });
    place(Position(128), 32);
    assert_eq!(Consumer::new(home, false).poll(ring), fault, "nobody agreed on it");
    assert!(Consumer::new(home, false).again(true).poll(ring).is_ok());
    place(Position(128), 33);
    assert_eq!(Consumer::new(home, false).again(true).poll(ring), fault, "longer than home");
    place(Position(256), 0);
    let mut consumer = Consumer::new(home, false).again(true);
    consumer.head = Position(256);
    assert_eq!(consumer.poll(ring), fault, "somewhere else");
}

#[test]
fn a_head_that_runs_away_or_back_is_a_fault() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    for wrong in [64 * 9, u64::MAX, 1, 7] {
        memory.head.store(wrong, Relaxed);
        let mut producer = Producer::new(Home::NONE, false);
        let refused = producer.publish(ring, request(0), &[]);
        let fault = Fault::HeadOverrun { head: wrong, oldest: 0, tail: 0 };
        assert_eq!(refused, Err(PublishError::Fault(fault)));
    }
    memory.head.store(0, Relaxed);
    let mut producer = Producer::new(Home::NONE, false);
    producer.publish(ring, request(0), &[]).unwrap();
    memory.head.store(64, Relaxed);
    assert!(producer.is_drained(ring).unwrap());
    memory.head.store(0, Relaxed);
    let back = Fault::HeadOverrun { head: 0, oldest: 64, tail: 64 };
    assert_eq!(producer.is_drained(ring), Err(back));
}

#[test]
fn a_head_in_the_middle_of_the_frame_at_home_gains_nothing() {
    let home = Home { offset: 0, size: HOME_SIZE, phase: 0, early: false };
    let memory = Memory::new(1 << 14, home);
    let ring = memory.view();
    let mut producer = Producer::new(home, false).again(true);
    producer.publish(ring, request(0), &[0; 1760]).unwrap();
    memory.head.store(1728, Relaxed);
    // As much as that leaves, which is more than the frame at home would.
    while producer.publish(ring, request(1), &[0; 544]).is_ok() {}
    assert!(producer.tail().0 > 1 << 14);
    memory.head.store(1792, Relaxed);
    assert!(!producer.is_drained(ring).unwrap());
    assert_eq!(producer.free_size(ring), 0);
    assert!(!producer.has_room(ring, span(544)).unwrap());
    assert_eq!(producer.publish(ring, request(1), &[]), Err(PublishError::Full));
}

#[test]
fn every_flipped_bit_of_a_published_header_is_a_fault_or_nothing() {
    for bit in 0..256 {
        let memory = Memory::new(256, Home::NONE);
        let ring = memory.view();
        let mut producer = Producer::new(Home::NONE, false);
        producer.publish(ring, request(5), b"payload").unwrap();
        let word = &memory.words[bit / 64];
        word.store(word.load(Relaxed) ^ (1 << (bit % 64)), Relaxed);
        let mut consumer = Consumer::new(Home::NONE, false);
        assert!(consumer.poll(ring).is_err(), "bit {bit}");
        assert_eq!(consumer.head(), Position(0));
    }
}

#[test]
fn a_frame_that_crosses_the_end_is_a_fault_even_with_a_valid_check() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    for size in [225, 4096, u32::MAX] {
        let mut header = request(1);
        header.payload_size = size;
        for (word, value) in memory.words.iter().zip(header.sealed(Position(0))) {
            word.store(value, Relaxed);
        }
        let fault = Consumer::new(Home::NONE, false).poll(ring).unwrap_err();
        assert_eq!(fault, Fault::FrameOverrun { span: span(size), available: 256 });
    }
}

#[test]
fn endless_or_crooked_padding_is_a_fault() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    let place = |position: Position, header: FrameHeader| {
        let index = ring.index(position);
        for (word, value) in memory.words[index..].iter().zip(header.sealed(position)) {
            word.store(value, Relaxed);
        }
    };
    for unit in 0..4 {
        place(Position(unit * 64), FrameHeader::padding(64));
    }
    let fault = Consumer::new(Home::NONE, false).poll(ring).unwrap_err();
    assert_eq!(fault, Fault::Padding { span: 0, capacity: 256 });

    for span in [72, 320] {
        place(Position(0), FrameHeader::padding(span));
        let fault = Consumer::new(Home::NONE, false).poll(ring).unwrap_err();
        assert_eq!(fault, Fault::Padding { span, capacity: 256 });
    }
}

#[test]
fn a_payload_that_changed_is_a_fault_where_payloads_are_checked() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    Producer::new(Home::NONE, true).publish(ring, request(1), b"payload!").unwrap();
    memory.words[4].store(0, Relaxed);
    let fault = take(&mut Consumer::new(Home::NONE, true), ring).unwrap_err();
    assert!(matches!(fault, Fault::PayloadCheck { .. }));
    assert!(take(&mut Consumer::new(Home::NONE, false), ring).is_ok());
}

#[test]
fn a_producer_that_dies_in_mid_frame_leaves_nothing() {
    let memory = Memory::new(256, Home::NONE);
    let ring = memory.view();
    // Everything of the frame but the first word, in the order in which `store` writes.
    let words = request(1).sealed(Position(0));
    for (target, word) in memory.words.iter().zip(words).skip(1) {
        target.store(word, Relaxed);
        assert_eq!(Consumer::new(Home::NONE, false).poll(ring), Ok(None));
    }
}
