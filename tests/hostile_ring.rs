//! Hostile peers, theme one: what a client can do to memory that it shares with the daemon.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "common/hostile/mod.rs"]
mod hostile;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Features, FrameHeader, Position, Status};

use hostile::{
    Attack, CAPACITY, Gifts, Peer, Seen, Siege, Stage, Until, again, comes_and_goes, fault,
    long_visits, spinning_echoes, two_spinning, visits,
};

const ATTACKS: &[Attack] = &[
    Attack {
        name: "a header with one bit flipped, each of 256",
        run: each_bit_of_a_header,
        must: &[fault("header_check"), fault("frame_mark")],
        timed: again(visits),
    },
    Attack {
        name: "each flag bit set, and sealed",
        run: each_flag,
        must: &[fault("undefined_bits")],
        timed: again(visits),
    },
    Attack {
        name: "each reserved bit set, and sealed",
        run: each_reserved_bit,
        must: &[fault("undefined_bits")],
        timed: again(visits),
    },
    Attack {
        name: "a request that carries a status",
        run: |stage| each(stage, [1, 11, u16::MAX], |status, it| it.status = status),
        must: &[fault("undefined_bits")],
        timed: again(visits),
    },
    Attack {
        name: "another mark, sealed",
        run: |stage| each(stage, [0_u8, 0x5A, 0xFF, 0xA4], |mark, it| it.mark = mark),
        must: &[fault("frame_mark")],
        timed: again(visits),
    },
    Attack {
        name: "types from 0xf000 on",
        run: |stage| {
            each(stage, [0xF000, 0xF001, 0xF00D, 0xFFFF], |kind, it| it.message_type = kind)
        },
        must: &[fault("reserved_message_type")],
        timed: again(visits),
    },
    Attack {
        name: "a frame that claims up to 4 GiB",
        run: |stage| {
            let sizes = [u32::MAX, u32::MAX - 31, 1 << 31, 1 << 27, 1 << 16];
            each(stage, sizes, |size, it| it.payload_size = size)
        },
        must: &[fault("frame_overrun")],
        timed: again(visits),
    },
    Attack {
        name: "a frame one byte past the ring's end",
        run: |stage| each(stage, [1856 - 32 + 1], |size, it| it.payload_size = size),
        must: &[fault("frame_overrun")],
        timed: again(visits),
    },
    Attack {
        name: "a frame up to the ring's very end",
        run: up_to_the_end,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "padding longer than the ring, up to 4 GiB",
        run: |stage| {
            let sizes = [u32::MAX, u32::MAX - 31, (1 << 16) + 32, 1 << 31];
            each(stage, sizes, |size, it| pad(it, size))
        },
        must: &[fault("padding")],
        timed: again(visits),
    },
    Attack {
        name: "padding that is no multiple of 64",
        run: |stage| each(stage, [0, 1, 31, 33, 95], |size, it| pad(it, size)),
        must: &[fault("padding")],
        timed: again(visits),
    },
    Attack {
        name: "four paddings in a row",
        run: paddings_in_a_row,
        must: &[fault("padding")],
        timed: again(visits),
    },
    Attack {
        name: "padding as long as the ring",
        run: as_long_as_the_ring,
        must: &[fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "two hundred paddings, each almost as long as the ring",
        run: a_lap_at_a_time,
        must: &[Seen::Served],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "a payload above message_size_max",
        run: too_large,
        must: &[Seen::Closed(Status::MessageTooLarge, None)],
        timed: again(visits),
    },
    Attack {
        name: "a good frame copied to another position",
        run: copied_elsewhere,
        must: &[fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "a frame of an earlier lap in its old place",
        run: from_an_earlier_lap,
        must: &[fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "a frame inside another one's payload",
        run: frame_in_a_payload,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "random words at the head, 64 times",
        run: random_words,
        must: &[fault("frame_mark"), fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "a first word and nothing behind it",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let words = FrameHeader::request(MessageType::ECHO, 1).sealed(peer.producer.tail());
            peer.put(peer.producer.tail(), [words[0], 0, 0, 0]);
            vec![peer.goodbye()]
        },
        must: &[fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "a payload whose check is wrong",
        run: |stage| {
            let mut peer = Peer::with(stage, CAPACITY, Features::PAYLOAD_CHECK);
            let mut header = FrameHeader::request(MessageType::ECHO, 1);
            (header.payload_size, header.payload_check) = (8, 0xDEAD_BEEF);
            peer.put_sealed(header);
            vec![peer.goodbye()]
        },
        must: &[fault("payload_check")],
        timed: again(visits),
    },
    Attack {
        name: "a payload check where none was granted",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let mut header = FrameHeader::request(MessageType::ECHO, 1);
            (header.payload_size, header.payload_check) = (8, 0xDEAD_BEEF);
            peer.put_sealed(header);
            vec![peer.answer_to(1)]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "the length changes between two reads",
        run: lengths_that_flip,
        must: &[fault("header_check"), Seen::Served],
        timed: again(|stage, work| two_spinning(stage, work.until)),
    },
    Attack {
        name: "type and flags change between two reads",
        run: types_that_flip,
        must: &[fault("header_check"), Seen::Served],
        timed: again(|stage, work| two_spinning(stage, work.until)),
    },
    Attack {
        name: "a payload that changes under its check",
        run: payloads_that_flip,
        must: &[fault("payload_check"), Seen::Served],
        timed: again(|stage, work| two_spinning(stage, work.until)),
    },
    Attack {
        name: "response head runs backwards",
        run: |stage| heads(stage, &[|head| head / 128 * 64, |_| 0]),
        must: &[fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
    Attack {
        name: "response head passes the tail",
        run: |stage| heads(stage, &[|head| head + (1 << 20), |head| head + (1 << 62)]),
        must: &[fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
    Attack {
        name: "response head at the end of 64 bits",
        run: |stage| heads(stage, &[|_| u64::MAX, |_| u64::MAX - 63, |_| 1 << 63]),
        must: &[fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
    Attack {
        name: "response head between two lines",
        run: |stage| heads(stage, &[|head| head + 1, |head| head + 8, |head| head + 63]),
        must: &[fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
    Attack {
        name: "response head flips between right and wrong",
        run: heads_that_flip,
        must: &[fault("head_overrun")],
        timed: again(|stage, work| two_spinning(stage, work.until)),
    },
    Attack {
        name: "the daemon's own head overwritten",
        run: |stage| scribbled(stage, 3, &[0, u64::MAX, 1, 1 << 40]),
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "the constants of line 0 overwritten",
        run: |stage| scribbled(stage, 0, &[0, u64::MAX]),
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "odd values in the parked and blocked flags",
        run: |stage| {
            let lines = [2, 4, 5];
            lines.iter().flat_map(|line| scribbled(stage, *line, &[u64::MAX, 2, 1])).collect()
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "a thread scribbles over the whole header",
        run: scribbling_thread,
        must: &[fault("head_overrun"), Seen::Served],
        timed: again(|stage, work| two_spinning(stage, work.until)),
    },
    Attack {
        name: "requests written over ones not yet taken",
        run: laps_itself,
        must: &[
            fault("header_check"),
            fault("frame_mark"),
            fault("frame_overrun"),
            fault("head_overrun"),
            Seen::Served,
        ],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "one region for two connections",
        run: two_connections_one_region,
        must: &[Seen::Served, fault("head_overrun"), fault("header_check"), fault("frame_mark")],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "pages taken away under the daemon",
        run: pages_taken_away,
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 200)),
    },
    Attack {
        name: "the region resized and sealed once more",
        run: resized_after_the_handshake,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "the region overwritten through write(2)",
        run: overwritten_through_the_file,
        must: &[fault("frame_mark"), fault("header_check")],
        timed: again(visits),
    },
];

const SIEGES: &[Siege] = &[
    Siege {
        name: "siege: padding, one by one, without end",
        attack: padding_drip,
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: flags scribbled over by a thread",
        attack: flags_scribbled,
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: broken frames, one connection after the other",
        attack: |stage, until| {
            let mut seen = Vec::new();
            while until.goes_on() {
                let mut peer = Peer::connect(stage);
                peer.put(peer.producer.tail(), [u64::MAX; 4]);
                seen.push(peer.goodbye());
            }
            seen
        },
        twin: comes_and_goes,
        must: &[fault("header_check"), fault("frame_mark")],
    },
    Siege {
        name: "siege: half a frame at the head, and the doorbell rung",
        attack: |stage, until| {
            let mut peer = Peer::connect(stage);
            let at = peer.request_offset(peer.producer.tail());
            peer.word(at + 8).store(u64::MAX, Relaxed);
            while until.goes_on() {
                peer.ring();
            }
            vec![peer.is_served()]
        },
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
];

#[test]
fn memory_that_lies_costs_its_owner_the_connection_and_nobody_else_anything() {
    let stage = Stage::new(&[]);
    stage.suffer(ATTACKS);
    stage.withstand(SIEGES);
    stage.finish();
}

/// One offender for each value: an echo request with something changed before it is sealed.
fn each<T, const N: usize>(
    stage: &Stage,
    values: [T; N],
    change: fn(T, &mut FrameHeader),
) -> Vec<Seen> {
    let offend = |value| {
        let mut peer = Peer::connect(stage);
        let mut header = FrameHeader::request(MessageType::ECHO, 1);
        change(value, &mut header);
        peer.put_sealed(header);
        peer.goodbye()
    };
    values.map(offend).into()
}

fn pad(header: &mut FrameHeader, size: u32) {
    (header.message_type, header.payload_size) = (0, size);
}

fn each_bit_of_a_header(stage: &Stage) -> Vec<Seen> {
    let offend = |bit: usize| {
        let mut peer = Peer::connect(stage);
        let mut header = FrameHeader::request(MessageType::ECHO, 0x0123_4567);
        header.payload_size = 8;
        let mut words = header.sealed(peer.producer.tail());
        words[bit / 64] ^= 1 << (bit % 64);
        peer.put(peer.producer.tail(), words);
        peer.goodbye()
    };
    (0..256).map(offend).collect()
}

fn each_flag(stage: &Stage) -> Vec<Seen> {
    each(stage, [0, 1, 2, 3, 4, 5, 6, 7], |bit: u8, it| it.flags = 1 << bit)
}

fn each_reserved_bit(stage: &Stage) -> Vec<Seen> {
    each(stage, [0, 1, 4, 7, 8, 12, 14, 15], |bit: u16, it| it.reserved = 1 << bit)
}

fn up_to_the_end(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.send(MessageType::ECHO, 1, &[1; 1856 - 32]);
    vec![peer.answer_to(1)]
}

fn paddings_in_a_row(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let start = peer.producer.tail().0;
    // Backwards, so that the daemon finds all of them at once.
    for index in (0..8).rev() {
        let position = Position(start + 64 * index);
        peer.put(position, FrameHeader::padding(64).sealed(position));
    }
    vec![peer.goodbye()]
}

/// Waits until the daemon has come to `head`.
fn wait_for_head(peer: &Peer, head: u64) -> bool {
    let until = Until::after(Duration::from_secs(10));
    while peer.line(3).load(Relaxed) != head {
        if !until.goes_on() {
            return false;
        }
        peer.notify();
        std::hint::spin_loop();
    }
    true
}

fn as_long_as_the_ring(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    // The place of the next header is this one's own.
    peer.put_sealed(FrameHeader::padding(CAPACITY));
    vec![peer.goodbye()]
}

fn a_lap_at_a_time(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut position = peer.producer.tail();
    for _ in 0..200 {
        let next = Position(position.0 + CAPACITY - 64);
        peer.word(peer.request_offset(next)).store(0, Relaxed);
        peer.put(position, FrameHeader::padding(CAPACITY - 64).sealed(position));
        if !wait_for_head(&peer, next.0) {
            return vec![peer.goodbye()];
        }
        position = next;
    }
    peer.word(peer.request_offset(Position(position.0 + 64))).store(0, Relaxed);
    peer.put(position, FrameHeader::request(MessageType::ECHO, 1).sealed(position));
    vec![peer.answer_to(1)]
}

fn too_large(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let home = peer.producer.tail();
    peer.put(home, FrameHeader::padding(1856).sealed(home));
    let start = Position(home.0 + 1856);
    let mut header = FrameHeader::request(MessageType::ECHO, 1);
    header.payload_size = u32::try_from(CAPACITY - 32).unwrap();
    peer.put(start, header.sealed(start));
    assert_eq!(peer.answer_to(1), Seen::Answered(Status::MessageTooLarge));
    vec![peer.goodbye()]
}

fn copied_elsewhere(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let tail = peer.producer.tail();
    let words = FrameHeader::request(MessageType::ECHO, 1).sealed(tail);
    peer.put(tail, words);
    assert_eq!(peer.answer_to(1), Seen::Served);
    peer.put(Position(tail.0 + 64), words);
    vec![peer.goodbye()]
}

fn from_an_earlier_lap(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let tail = peer.producer.tail();
    peer.put(tail, FrameHeader::request(MessageType::ECHO, 1).sealed(tail));
    assert_eq!(peer.answer_to(1), Seen::Served);
    // Up to the same place of the next lap, where the old frame still stands.
    let next = Position(tail.0 + 64);
    peer.put(next, FrameHeader::padding(CAPACITY - 64).sealed(next));
    vec![peer.goodbye()]
}

fn frame_in_a_payload(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let tail = peer.producer.tail();
    // The payload begins at 32; at 64 stands what would be a frame there.
    let inner = FrameHeader::request(MessageType::ECHO, 666).sealed(Position(tail.0 + 64));
    let mut payload = vec![0; 32];
    payload.extend(inner.iter().flat_map(|word| word.to_le_bytes()));
    peer.send(MessageType::ECHO, 1, &payload);
    let (header, answer) = peer.receive(Duration::from_secs(10)).unwrap();
    assert_eq!((header.request_id, answer == payload), (1, true));
    let served = peer.is_served();
    assert_eq!(peer.receive(Duration::from_millis(5)), None, "the inner frame was taken for one");
    vec![served]
}

/// A generator that needs no crate: splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn random_words(stage: &Stage) -> Vec<Seen> {
    let mut state = 42;
    let offend = |index: u64| {
        let mut peer = Peer::connect(stage);
        let mut words = [(); 4].map(|()| random(&mut state) | 1);
        if index.is_multiple_of(2) {
            // With the right mark, the check alone stands between it and the daemon.
            words[0] = words[0] & !(0xFF << 56) | 0xA5 << 56;
        }
        peer.put(peer.producer.tail(), words);
        peer.goodbye()
    };
    (0..64).map(offend).collect()
}

/// Runs `flip` on a thread of its own for as long as `work` takes.
fn beside<T>(flip: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                flip();
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// Publishes frames, each with a word that another thread flips, until one is caught or all passed.
fn flipping(stage: &Stage, change: fn(&mut FrameHeader)) -> Vec<Seen> {
    let offend = |_| {
        let mut peer = Peer::connect(stage);
        let mut position = peer.producer.tail();
        for id in 1..=40 {
            let mut header = FrameHeader::request(MessageType::ECHO, id);
            header.payload_size = 16;
            let right = header.sealed(position);
            change(&mut header);
            let wrong = header.sealed(position);
            let at = peer.request_offset(position);
            position.0 += 64;
            peer.word(peer.request_offset(position)).store(0, Relaxed);
            for (offset, word) in [(8, right[1]), (16, right[2]), (24, right[3])] {
                peer.word(at + offset).store(word, Relaxed);
            }
            let flip = || {
                peer.word(at).store(right[0], Release);
                peer.word(at).store(wrong[0], Release);
            };
            if beside(flip, || is_taken(&peer, position)) {
                return peer.goodbye();
            }
            if let wrong @ (Seen::Silent | Seen::Answered(_)) = peer.answer_to(id) {
                return wrong;
            }
        }
        Seen::Served
    };
    (0..4).map(offend).collect()
}

/// Waits until the daemon has taken everything before `position`; true when it hung up instead.
fn is_taken(peer: &Peer, position: Position) -> bool {
    let until = Until::after(Duration::from_secs(10));
    while peer.line(3).load(Relaxed) < position.0 && !peer.is_over() && until.goes_on() {
        peer.notify();
    }
    peer.is_over()
}

fn lengths_that_flip(stage: &Stage) -> Vec<Seen> {
    flipping(stage, |header| header.payload_size = 1 << 30)
}

fn types_that_flip(stage: &Stage) -> Vec<Seen> {
    flipping(stage, |header| (header.message_type, header.flags) = (0xF000, 0x80))
}

fn payloads_that_flip(stage: &Stage) -> Vec<Seen> {
    let offend = |_| {
        let mut peer = Peer::with(stage, CAPACITY, Features::PAYLOAD_CHECK);
        for id in 1..=20 {
            let at = peer.request_offset(peer.producer.tail());
            let sent = peer.publish(FrameHeader::request(MessageType::ECHO, id), &[0; 1024]);
            assert!(sent);
            let word = peer.word(at + 32 + 512);
            let flip = || word.store(word.load(Relaxed) ^ u64::MAX, Relaxed);
            if beside(flip, || is_taken(&peer, peer.producer.tail())) {
                return peer.goodbye();
            }
            if let answered @ (Seen::Silent | Seen::Answered(_)) = peer.answer_to(id) {
                return answered;
            }
        }
        Seen::Served
    };
    (0..4).map(offend).collect()
}

/// Sends echoes until the daemon, which looks at our head only when it must, has closed.
fn until_closed(peer: &mut Peer) -> Seen {
    let until = Until::after(Duration::from_secs(10));
    let mut id = 1 << 32;
    while until.goes_on() && !peer.is_over() {
        id += 1;
        if !peer.try_send(MessageType::ECHO, id, &[3; 200]) {
            thread::sleep(Duration::from_micros(100));
        }
    }
    peer.goodbye()
}

fn heads(stage: &Stage, wrong: &[fn(u64) -> u64]) -> Vec<Seen> {
    let offend = |wrong: &fn(u64) -> u64| {
        let mut peer = Peer::connect(stage);
        // Far enough that the daemon has seen a head that is not zero.
        for id in 1..200 {
            peer.send(MessageType::ECHO, id, &[3; 200]);
            assert_eq!(peer.answer_to(id), Seen::Served);
        }
        let head = peer.line(1).load(Relaxed);
        peer.line(1).store(wrong(head), Release);
        until_closed(&mut peer)
    };
    wrong.iter().map(offend).collect()
}

fn heads_that_flip(stage: &Stage) -> Vec<Seen> {
    let offend = |_| {
        let mut peer = Peer::connect(stage);
        // Through a second mapping of the same file, as a second process would.
        let layout = peer.region.layout();
        let twin = annulus::region::Region::map(peer.gifts.all()[0], layout).unwrap();
        let index = usize::try_from((layout.header_offset() + 64) / 8).unwrap();
        let head = &twin.words()[index];
        beside(
            || {
                head.store(u64::MAX, Release);
                head.store(0, Release);
            },
            || until_closed(&mut peer),
        )
    };
    (0..2).map(offend).collect()
}

fn scribbled(stage: &Stage, line: u64, values: &[u64]) -> Vec<Seen> {
    let offend = |value: &u64| {
        let mut peer = Peer::connect(stage);
        for word in 0..8 {
            let offset = peer.region.layout().header_offset() + 64 * line + 8 * word;
            peer.word(offset).store(*value, Release);
        }
        // By hand, for our own producer would trust the daemon's head.
        peer.put_sealed(FrameHeader::request(MessageType::ECHO, 1));
        // Whatever the flags say by now, ringing is always allowed.
        peer.ring();
        peer.answer_to(1)
    };
    values.iter().map(offend).collect()
}

fn scribbling_thread(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let layout = peer.region.layout();
    let twin = annulus::region::Region::map(peer.gifts.all()[0], layout).unwrap();
    let start = usize::try_from(layout.header_offset() / 8).unwrap();
    let state = std::sync::atomic::AtomicU64::new(7);
    beside(
        || {
            let mut seed = state.load(Ordering::Relaxed);
            let index = usize::try_from(random(&mut seed) % 48).unwrap();
            twin.words()[start + index].store(random(&mut seed), Relaxed);
            state.store(seed, Ordering::Relaxed);
        },
        || {
            let until = Until::after(Duration::from_millis(500));
            let mut id = 0;
            while until.goes_on() && !peer.is_over() {
                id += 1;
                let _ = peer.producer.publish(
                    peer.region.view().request_ring(),
                    FrameHeader::request(MessageType::ECHO, id),
                    &[9; 100],
                );
                peer.ring();
                let _ = peer.take();
            }
        },
    );
    if peer.is_over() { vec![peer.goodbye()] } else { vec![Seen::Served] }
}

fn laps_itself(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut position = peer.producer.tail();
    let until = Until::after(Duration::from_millis(300));
    let mut id = 0;
    // A producer without a look at the head, far faster than the daemon, which waits for space.
    while until.goes_on() && !peer.is_over() {
        for _ in 0..1000 {
            id += 1;
            let mut header = FrameHeader::request(MessageType::ECHO, id);
            header.payload_size = u32::try_from(32 + 64 * (id % 3)).unwrap();
            let left = CAPACITY - position.0 % CAPACITY;
            if header.span() > left {
                header.payload_size = u32::try_from(left - 32).unwrap();
            }
            let next = Position(position.0 + header.span());
            peer.word(peer.request_offset(next)).store(0, Relaxed);
            peer.put(position, header.sealed(position));
            position = next;
        }
    }
    if peer.is_over() { vec![peer.goodbye()] } else { vec![Seen::Served] }
}

fn two_connections_one_region(stage: &Stage) -> Vec<Seen> {
    let (region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let layout = region.layout();
    let second = Gifts {
        region: gifts.region.try_clone().unwrap(),
        request_doorbell: gifts.request_doorbell.try_clone().unwrap(),
        response_doorbell: gifts.response_doorbell.try_clone().unwrap(),
    };
    let map = annulus::region::Region::map(second.all()[0], layout).unwrap();
    let socket = stage.socket();
    let mut first = Peer::bringing(&socket, region, gifts, Features::empty());
    let mut second = Peer::bringing(&socket, map, second, Features::empty());
    let until = Until::after(Duration::from_millis(100));
    let mut id = 0;
    while until.goes_on() && !(first.is_over() && second.is_over()) {
        for peer in [&mut first, &mut second] {
            id += 1;
            let _ = peer.producer.publish(
                peer.region.view().request_ring(),
                FrameHeader::request(MessageType::ECHO, id),
                &[1; 80],
            );
            peer.ring();
            let _ = peer.take();
        }
    }
    [first, second]
        .map(|mut peer| if peer.is_over() { peer.goodbye() } else { Seen::Served })
        .into()
}

fn pages_taken_away(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut position = peer.producer.tail();
    for id in 1..200 {
        peer.put(position, FrameHeader::request(MessageType::ECHO, id).sealed(position));
        position.0 += 64;
        if let other @ (Seen::Silent | Seen::Answered(_)) = peer.answer_to(id) {
            return vec![other];
        }
        // Everything that was ever written reads as zeros again, the shared header too.
        peer.region.give_back(0, peer.region.layout().size()).unwrap();
        peer.line(1).store(peer.consumer.head().0, Release);
        peer.line(4).store(1, Release);
    }
    vec![Seen::Served]
}

fn resized_after_the_handshake(stage: &Stage) -> Vec<Seen> {
    use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
    let mut peer = Peer::connect(stage);
    let file = &peer.gifts.region;
    for size in [0, 4096, 1 << 30] {
        assert!(ftruncate(file, size).is_err(), "a sealed file changed its size");
    }
    assert!(fcntl_add_seals(file, SealFlags::FUTURE_WRITE).is_err());
    vec![peer.is_served()]
}

fn overwritten_through_the_file(stage: &Stage) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let size = usize::try_from(peer.region.layout().size()).unwrap();
    let ones = vec![0xFF; size];
    let written = rustix::io::pwrite(&peer.gifts.region, &ones, 0).unwrap();
    assert_eq!(written, size);
    peer.ring();
    vec![peer.goodbye()]
}

fn padding_drip(stage: &Stage, until: Until) -> Vec<Seen> {
    let peer = Peer::connect(stage);
    let mut position = peer.producer.tail();
    while until.goes_on() {
        let span = 64;
        let next = Position(position.0 + span);
        peer.word(peer.request_offset(next)).store(0, Relaxed);
        peer.put(position, FrameHeader::padding(span).sealed(position));
        position = next;
        if !wait_for_head(&peer, position.0) {
            return vec![Seen::Silent];
        }
    }
    let mut peer = peer;
    peer.word(peer.request_offset(Position(position.0 + 64))).store(0, Relaxed);
    peer.put(position, FrameHeader::request(MessageType::ECHO, 1).sealed(position));
    vec![peer.answer_to(1)]
}

fn flags_scribbled(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut id = 0;
    while until.goes_on() {
        id += 1;
        for _ in 0..50 {
            for line in [2, 4, 5] {
                peer.line(line).store(id % 2, Relaxed);
            }
        }
        peer.line(2).store(1, Relaxed);
        if peer.publish(FrameHeader::request(MessageType::ECHO, id), &[1; 64]) {
            peer.ring();
        }
        let _ = peer.take();
    }
    peer.ring();
    vec![peer.is_served()]
}
