//! Frames that are none: headers, lengths, padding, payloads and their checks.

use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::Relaxed;
use annulus::wire::{Features, FrameHeader, Position, Status};

use crate::hostile::{
    Attack, CAPACITY, Peer, Seen, Stage, Until, again, fault, spinning_echoes, visits,
};
use crate::random;

pub(crate) const ATTACKS: &[Attack] = &[
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
];

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

/// Publishes a frame without a payload, waits until the daemon has passed it, and gives the next
/// position.
///
/// # Errors
///
/// The daemon's last word, when it does not come to that position.
pub(crate) fn pass(
    peer: &mut Peer,
    position: Position,
    header: FrameHeader,
) -> Result<Position, Seen> {
    let next = Position(position.0 + header.span());
    peer.word(peer.request_offset(next)).store(0, Relaxed);
    peer.put(position, header.sealed(position));
    let until = Until::after(Duration::from_secs(10));
    let mut spins = 0_u32;
    while peer.line(3).load(Relaxed) != next.0 {
        spins += 1;
        // Not each time: a system call would slow the attack down.
        if !until.goes_on() || spins.is_multiple_of(1024) && peer.is_over() {
            return Err(peer.goodbye());
        }
        peer.notify();
        std::hint::spin_loop();
    }
    Ok(next)
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
    for index in 0..268 {
        // A fourth padding in a row is a fault if it comes while the daemon still looks.
        let header = match index % 4 {
            3 => FrameHeader::request(MessageType::ECHO, index),
            _ => FrameHeader::padding(CAPACITY - 64),
        };
        match pass(&mut peer, position, header) {
            Ok(next) => position = next,
            Err(last_word) => return vec![last_word],
        }
    }
    vec![peer.answer_to(267)]
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
