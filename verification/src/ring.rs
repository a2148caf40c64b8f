//! One producer, one consumer, one ring of four units.

use annulus::limits::FRAME_ALIGNMENT;
use annulus::ring::Home;
use loom::sync::Arc;
use loom::thread;

use crate::stage::{Bound, Memory, PAYLOAD_MAX, Reader, UNIT_PAYLOAD, Writer, explore};

/// Three of the ring's four units.
const HOME: Home = Home { offset: 0, size: 3 * FRAME_ALIGNMENT, phase: 0, early: false };

/// A ring with a home, at which one frame of two units stands, which has been taken.
fn ring_at_home() -> (Arc<Memory>, Writer, Reader) {
    let (memory, mut writer, mut reader) =
        (Arc::new(Memory::new()), Writer::at_home(HOME), Reader::at_home(HOME));
    assert!(writer.publish(&memory, 100, UNIT_PAYLOAD + 8));
    assert_eq!(reader.take(&memory), Some(100));
    (memory, writer, reader)
}

/// Looks so often while the producer may be at work; gives the id that comes next, of those from 1 on.
fn take_in_order(reader: &mut Reader, memory: &Memory, looks: u32) -> u64 {
    let mut expected = 1;
    for _ in 0..looks {
        if let Some(id) = reader.take(memory) {
            assert_eq!(id, expected);
            expected += 1;
        }
    }
    expected
}

/// Takes the rest, up to `last`, and finds nothing behind it.
fn take_rest(reader: &mut Reader, memory: &Memory, next: u64, last: u64) {
    for id in next..=last {
        assert!(!reader.is_empty(memory));
        assert_eq!(reader.take(memory), Some(id));
    }
    assert!(reader.is_empty(memory));
    assert_eq!(reader.take(memory), None);
}

/// A ring that has been gone round once, so that every unit holds a frame of an earlier lap.
fn used_ring() -> (Arc<Memory>, Writer, Reader) {
    let (memory, mut writer, mut reader) = (Arc::new(Memory::new()), Writer::new(), Reader::new());
    for id in 100..104 {
        assert!(writer.publish(&memory, id, UNIT_PAYLOAD));
        assert_eq!(reader.take(&memory), Some(id));
    }
    (memory, writer, reader)
}

#[test]
fn frames_pass_whole_and_in_order_round_the_ring_within_4_preemptions() {
    explore(Bound::Preemptions(4), || {
        let (memory, mut writer, mut reader) = used_ring();
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            // Five units in a ring of four, of which three hold frames.
            for id in 1..=5 {
                writer.publish_polling(&shared, id, 8);
            }
        });
        for id in 1..=5 {
            assert_eq!(reader.take_polling(&memory), id);
        }
        producer.join().unwrap();
        assert_eq!(reader.take(&memory), None);
    });
}

#[test]
fn padding_before_the_end_of_the_ring_is_passed_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) = used_ring();
        // Leaves one unit before the end, so the frame of two units needs padding.
        for id in 200..203 {
            assert!(writer.publish(&memory, id, 0));
            assert_eq!(reader.take(&memory), Some(id));
        }
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            writer.publish_polling(&shared, 1, UNIT_PAYLOAD + 8);
            writer.publish_polling(&shared, 2, 8);
        });
        for id in 1..=2 {
            assert_eq!(reader.take_polling(&memory), id);
        }
        producer.join().unwrap();
    });
}

#[test]
fn a_poll_gives_nothing_or_the_whole_frame_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) = used_ring();
        let shared = Arc::clone(&memory);
        let producer =
            thread::spawn(move || assert!(writer.publish(&shared, 7, UNIT_PAYLOAD + 16)));
        // `take` compares every byte; a torn header would be a fault, which panics.
        let early = (0..2).find_map(|_| reader.take(&memory));
        assert!(matches!(early, None | Some(7)));
        producer.join().unwrap();
        assert_eq!(early.or_else(|| reader.take(&memory)), Some(7));
        assert_eq!(reader.take(&memory), None);
    });
}

#[test]
fn frames_that_are_held_back_are_seen_whole_and_all_at_once_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) = used_ring();
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            writer.hold();
            assert!(writer.publish(&shared, 1, UNIT_PAYLOAD));
            assert!(writer.publish(&shared, 2, UNIT_PAYLOAD));
            writer.reveal(&shared);
        });
        // Whoever sees the first must find the second behind it.
        let early = reader.take(&memory);
        if early.is_some() {
            assert_eq!((early, reader.take(&memory)), (Some(1), Some(2)));
        }
        producer.join().unwrap();
        if early.is_none() {
            assert_eq!((reader.take(&memory), reader.take(&memory)), (Some(1), Some(2)));
        }
        assert_eq!(reader.take(&memory), None);
    });
}

#[test]
fn a_frame_of_an_earlier_lap_is_never_taken_again_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) = used_ring();
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            assert!(writer.publish(&shared, 1, UNIT_PAYLOAD));
            assert!(writer.publish(&shared, 2, UNIT_PAYLOAD));
        });
        // Behind the last frame stands a frame of the first lap, header, checks and all.
        let next = take_in_order(&mut reader, &memory, 4);
        producer.join().unwrap();
        take_rest(&mut reader, &memory, next, 2);
    });
}

#[test]
fn a_frame_as_large_as_the_ring_passes_from_any_place_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) =
            (Arc::new(Memory::new()), Writer::new(), Reader::new());
        assert!(writer.publish(&memory, 9, 0));
        assert_eq!(reader.take(&memory), Some(9));
        let shared = Arc::clone(&memory);
        // It stands in one place only: padding goes first, and must be passed.
        let producer = thread::spawn(move || writer.publish_polling(&shared, 1, PAYLOAD_MAX));
        assert_eq!(reader.take_polling(&memory), 1);
        producer.join().unwrap();
    });
}

#[test]
fn a_full_ring_takes_the_frame_once_space_is_released_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) =
            (Arc::new(Memory::new()), Writer::new(), Reader::new());
        for id in 0..3 {
            assert!(writer.publish(&memory, id, UNIT_PAYLOAD));
        }
        assert!(!writer.publish(&memory, 3, UNIT_PAYLOAD), "three units of four are full");
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            writer.publish_polling(&shared, 3, UNIT_PAYLOAD);
            writer.publish_polling(&shared, 4, UNIT_PAYLOAD);
        });
        for id in 0..=4 {
            assert_eq!(reader.take_polling(&memory), id);
        }
        producer.join().unwrap();
    });
}

/// One frame in the place of that at home, shorter than it, then one behind it, where the consumer looks as well.
fn one_at_home_and_one_behind(holds: bool) {
    explore(Bound::None, move || {
        let (memory, mut writer, mut reader) = ring_at_home();
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            writer.producer().all_taken();
            if holds {
                writer.hold();
            }
            assert!(writer.publish(&shared, 1, UNIT_PAYLOAD));
            assert!(writer.publish(&shared, 2, UNIT_PAYLOAD));
            writer.reveal(&shared);
        });
        let next = take_in_order(&mut reader, &memory, 3);
        producer.join().unwrap();
        take_rest(&mut reader, &memory, next, 2);
    });
}

#[test]
fn a_frame_that_follows_another_at_home_is_seen_before_those_behind_it_in_every_execution() {
    one_at_home_and_one_behind(false);
}

#[test]
fn frames_at_home_and_behind_it_that_are_held_back_are_seen_in_order_in_every_execution() {
    one_at_home_and_one_behind(true);
}

#[test]
fn a_ring_that_walks_on_leaves_home_alone_while_it_is_looked_at_in_every_execution() {
    explore(Bound::None, || {
        let (memory, mut writer, mut reader) = ring_at_home();
        let shared = Arc::clone(&memory);
        let producer = thread::spawn(move || {
            // Two behind it, and a third that would stand at home, a lap later.
            let is_full = |id: &u64| !writer.publish(&shared, *id, UNIT_PAYLOAD);
            (1..=3).find(is_full).map_or(3, |refused| refused - 1)
        });
        let next = take_in_order(&mut reader, &memory, 3);
        let published = producer.join().unwrap();
        take_rest(&mut reader, &memory, next, published);
    });
}

#[test]
fn an_answer_says_that_a_frame_at_home_was_taken_in_every_execution() {
    explore(Bound::None, || {
        let (requests, mut client, mut daemon) = ring_at_home();
        let (answers, mut answering, mut answered) = ring_at_home();
        client.producer().all_taken();
        assert!(client.publish(&requests, 1, UNIT_PAYLOAD));
        let (shared_requests, shared_answers) = (Arc::clone(&requests), Arc::clone(&answers));
        let serving = thread::spawn(move || {
            let answer = |id| {
                answering.producer().all_taken();
                assert!(answering.publish(&shared_answers, id, UNIT_PAYLOAD));
            };
            assert!(daemon.take_and_answer(&shared_requests, answer));
            daemon
        });
        if answered.take(&answers) == Some(1) {
            // Over the first; and what the daemon's head says by now is no older than that.
            client.producer().all_taken();
            assert!(client.publish(&requests, 2, UNIT_PAYLOAD));
            assert_eq!(client.producer().is_drained(requests.view()), Ok(false));
            let mut daemon = serving.join().unwrap();
            assert_eq!(daemon.take(&requests), Some(2));
            assert_eq!(client.producer().is_drained(requests.view()), Ok(true));
        } else {
            serving.join().unwrap();
            assert_eq!(answered.take(&answers), Some(1));
        }
    });
}
