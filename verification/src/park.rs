//! Parking and waking: with the flag's own words and an eventfd's stand-in, loom's deadlock is the
//! lost wake-up.

use annulus::region::Doorbell;
use annulus::ring::ParkFlag;
use annulus::sync::Ordering::{Acquire, Release};
use annulus::sync::{AtomicU64, sound};
use loom::sync::Arc;
use loom::thread;

use crate::ready::ReadySet;
use crate::stage::{Bound, Memory, Reader, UNIT_PAYLOAD, Writer, explore};

/// One direction between two peers: a ring, and how each side is woken.
struct Channel {
    memory: Memory,
    reader_parked: AtomicU64,
    reader_bell: Doorbell,
    writer_blocked: AtomicU64,
    writer_bell: Doorbell,
}

impl Channel {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(),
            reader_parked: AtomicU64::new(0),
            reader_bell: Doorbell::new().unwrap(),
            writer_blocked: AtomicU64::new(0),
            writer_bell: Doorbell::new().unwrap(),
        })
    }

    /// Publishes and wakes; parks while the ring is full.
    fn send(&self, writer: &mut Writer, id: u64) {
        while !writer.publish(&self.memory, id, UNIT_PAYLOAD) {
            let flag = ParkFlag::new(&self.writer_blocked);
            flag.arm();
            if writer.is_unmoved(&self.memory) {
                self.writer_bell.wait();
            }
            flag.disarm();
        }
        wake(&self.reader_parked, &self.reader_bell);
    }

    /// Takes one frame and wakes the producer; parks while there is none.
    fn receive(&self, reader: &mut Reader) -> u64 {
        loop {
            if let Some(id) = reader.take(&self.memory) {
                wake(&self.writer_blocked, &self.writer_bell);
                return id;
            }
            let flag = ParkFlag::new(&self.reader_parked);
            flag.arm();
            if reader.is_empty(&self.memory) {
                self.reader_bell.wait();
            }
            flag.disarm();
        }
    }
}

/// What every sender does after it has published or released.
fn wake(parked: &AtomicU64, bell: &Doorbell) {
    let flag = ParkFlag::new(parked);
    if flag.take() {
        bell.ring();
        if !sound("flag cleared before the ring") {
            flag.disarm();
        }
    }
}

#[test]
fn no_wake_up_of_a_parked_consumer_is_lost_within_8_preemptions() {
    explore(Bound::Preemptions(8), || {
        let channel = Channel::new();
        let there = Arc::clone(&channel);
        let producer = thread::spawn(move || {
            let mut writer = Writer::new();
            for id in 1..=2 {
                there.send(&mut writer, id);
            }
        });
        let mut reader = Reader::new();
        for id in 1..=2 {
            assert_eq!(channel.receive(&mut reader), id);
        }
        producer.join().unwrap();
    });
}

#[test]
fn no_wake_up_of_a_blocked_producer_is_lost_in_every_execution() {
    explore(Bound::None, || {
        let channel = Channel::new();
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        for id in 0..3 {
            assert!(writer.publish(&channel.memory, id, UNIT_PAYLOAD));
        }
        let there = Arc::clone(&channel);
        let producer = thread::spawn(move || there.send(&mut writer, 3));
        // The consumer does not park here: only the other direction is looked at.
        for id in 0..2 {
            assert_eq!(channel.receive(&mut reader), id);
        }
        producer.join().unwrap();
    });
}

#[test]
fn a_round_trip_in_which_both_sides_park_ends_in_every_execution() {
    explore(Bound::None, || {
        let (requests, responses) = (Channel::new(), Channel::new());
        let (inbox, outbox) = (Arc::clone(&requests), Arc::clone(&responses));
        let daemon = thread::spawn(move || {
            let id = inbox.receive(&mut Reader::new());
            outbox.send(&mut Writer::new(), id + 1);
        });
        requests.send(&mut Writer::new(), 1);
        assert_eq!(responses.receive(&mut Reader::new()), 2);
        daemon.join().unwrap();
    });
}

#[test]
fn one_park_is_rung_at_most_once_in_every_execution() {
    explore(Bound::None, || {
        let channel = Channel::new();
        let there = Arc::clone(&channel);
        let producer = thread::spawn(move || {
            let mut writer = Writer::new();
            for id in 1..=3 {
                there.send(&mut writer, id);
            }
        });
        // Parks once and never looks again: three frames, one ring.
        ParkFlag::new(&channel.reader_parked).arm();
        producer.join().unwrap();
        assert!(channel.reader_bell.pending() <= 1, "rung more than once");
    });
}

#[test]
fn a_shard_that_two_threads_wake_misses_neither_within_4_preemptions() {
    explore(Bound::Preemptions(4), || {
        struct Shard {
            mail: [AtomicU64; 2],
            parked: AtomicU64,
            bell: Doorbell,
        }
        let shard = Arc::new(Shard {
            mail: [AtomicU64::new(0), AtomicU64::new(0)],
            parked: AtomicU64::new(0),
            bell: Doorbell::new().unwrap(),
        });
        let senders: Vec<_> = (0..2)
            .map(|index| {
                let shard = Arc::clone(&shard);
                thread::spawn(move || {
                    shard.mail[index].store(1, Release);
                    wake(&shard.parked, &shard.bell);
                })
            })
            .collect();
        let mut seen = [false; 2];
        let mut look = || {
            for (mail, seen) in shard.mail.iter().zip(&mut seen) {
                *seen |= mail.load(Acquire) == 1;
            }
            seen
        };
        let mut before = look();
        while before != [true; 2] {
            let flag = ParkFlag::new(&shard.parked);
            flag.arm();
            let now = look();
            if now == before {
                shard.bell.wait();
            }
            flag.disarm();
            before = look();
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_shard_that_parks_misses_no_news_of_a_slot_within_8_preemptions() {
    explore(Bound::Preemptions(8), || {
        struct Link {
            ready: ReadySet,
            replies: [Memory; 2],
            parked: AtomicU64,
            bell: Doorbell,
        }
        let link = Arc::new(Link {
            ready: ReadySet::new(2),
            replies: [Memory::new(), Memory::new()],
            parked: AtomicU64::new(0),
            bell: Doorbell::new().unwrap(),
        });
        let there = Arc::clone(&link);
        let worker = thread::spawn(move || {
            for slot in 0..2 {
                assert!(Writer::new().publish(&there.replies[slot], slot as u64, 0));
                there.ready.add(slot);
                wake(&there.parked, &there.bell);
            }
        });
        let mut taken = 0;
        while taken < 2 {
            link.ready.take_each(|slot| {
                // Each slot has one frame here: news without a frame would be news lost.
                assert_eq!(Reader::new().take(&link.replies[slot as usize]), Some(u64::from(slot)));
                taken += 1;
            });
            if taken < 2 {
                let flag = ParkFlag::new(&link.parked);
                flag.arm();
                if link.ready.is_empty() {
                    link.bell.wait();
                }
                flag.disarm();
            }
        }
        worker.join().unwrap();
    });
}
