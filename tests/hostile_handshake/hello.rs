//! The Hello: cut, slow, doubled, changed.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use annulus::wire::{Features, HELLO_SIZE, Hello, Status};
use zerocopy::IntoBytes as _;

use crate::HANDSHAKE_MS;
use crate::common::send_with_descriptors;
use crate::descriptors::{spread, try_pass};
use crate::hostile::{
    Attack, CAPACITY, Gifts, Peer, Seen, Stage, again, answer, answer_and_leave,
    comes_and_goes_beside_echoes, connect, fault, hello, last_word, offer, refused, region_refused,
    visits,
};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "Hello cut after each byte, and gone",
        run: |stage| {
            cut_anywhere(stage, |socket| {
                drop(socket);
                Seen::LeftEarly
            })
        },
        must: &[Seen::LeftEarly],
        timed: again(|stage, work| comes_and_goes_beside_echoes(stage, work.until)),
    },
    Attack {
        name: "Hello cut after each byte, and half closed",
        run: |stage| {
            cut_anywhere(stage, |socket| {
                socket.shutdown(Shutdown::Write).unwrap();
                answer(&socket)
            })
        },
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "nothing sent, until the timeout",
        run: |stage| vec![answer(&connect(stage))],
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "Hello byte by byte, until the timeout",
        run: byte_by_byte_too_slowly,
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "Hello byte by byte, in time",
        run: byte_by_byte,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "Hello twice in one write",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let socket = connect(stage);
            let twice = [hello().as_bytes(), hello().as_bytes()].concat();
            send_with_descriptors(&socket, &twice, &gifts.all());
            assert_eq!(answer(&socket), Seen::Served);
            vec![last_word(&socket)]
        },
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "Hello once more after the Welcome, with descriptors",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            send_with_descriptors(&peer.socket, hello().as_bytes(), &peer.gifts.all());
            vec![peer.goodbye()]
        },
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "each byte of the magic wrong",
        run: |stage| changed(stage, 0..8, |at, bytes| bytes[at] ^= 0x20),
        must: &[refused("handshake_magic")],
        timed: again(visits),
    },
    Attack {
        name: "other major versions",
        run: |stage| {
            let set = |version: u16, bytes: &mut [u8]| {
                bytes[8..10].copy_from_slice(&version.to_le_bytes());
            };
            changed(stage, [0, 2, 0x0101, u16::MAX], set)
        },
        must: &[Seen::Refused(Status::VersionUnsupported, None)],
        timed: again(visits),
    },
    Attack {
        name: "a minor version from the future",
        run: |stage| {
            changed(stage, [1_u16, u16::MAX], |version, bytes| {
                bytes[10..12].copy_from_slice(&version.to_le_bytes());
            })
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "every feature bit that there is not",
        run: |stage| {
            let unknown = Features::from_bits_retain(u32::MAX);
            let (region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let mut peer = Peer::bringing(&stage.socket(), region, gifts, unknown);
            assert_eq!(peer.welcome.features, Features::all().bits());
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "codecs that nobody has",
        run: |stage| changed(stage, [0, 3, 127, 128, 255], |codec: u8, bytes| bytes[32] = codec),
        must: &[Seen::Refused(Status::CodecUnsupported, None)],
        timed: again(visits),
    },
    Attack {
        name: "reserved bytes of the Hello set",
        run: |stage| changed(stage, 33..64, |at, bytes| bytes[at] = 0xFF),
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "capacities that are zero, odd, tiny, huge or overflow together",
        run: capacities,
        must: &[region_refused("ring_capacity")],
        timed: again(visits),
    },
];

/// One offender for each length of a Hello that is not whole.
fn cut_anywhere(stage: &Stage, end: fn(UnixStream) -> Seen) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let offend = |size: usize| {
        let socket = connect(stage);
        if size > 0 {
            send_with_descriptors(&socket, &hello().as_bytes()[..size], &gifts.all());
        }
        end(socket)
    };
    (0..HELLO_SIZE).map(offend).collect()
}

/// One offender for each value: a good Hello with something changed.
pub(crate) fn changed<T>(
    stage: &Stage,
    values: impl IntoIterator<Item = T>,
    change: fn(T, &mut [u8]),
) -> Vec<Seen> {
    let offend = |value| {
        let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
        let mut bytes = hello().as_bytes().to_vec();
        change(value, &mut bytes);
        let socket = connect(stage);
        send_with_descriptors(&socket, &bytes, &gifts.all());
        answer_and_leave(&socket)
    };
    values.into_iter().map(offend).collect()
}

fn capacities(stage: &Stage) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let good = CAPACITY;
    let pairs = [
        (0, good),
        (good, 0),
        (1, good),
        (good - 1, good),
        (good + 64, good),
        (1 << 13, good),
        (good, 1 << 28),
        (1 << 63, 1 << 63),
        (u64::MAX, good),
        (u64::MAX - 4095, 4096),
        (3 << 14, 3 << 14),
    ];
    pairs
        .map(|(request, response)| {
            offer(stage, &Hello::new(request, response, 1, Features::empty()), &gifts)
        })
        .into()
}

fn byte_by_byte(stage: &Stage) -> Vec<Seen> {
    vec![spread(stage, &[0]), spread(stage, &[63])]
}

fn byte_by_byte_too_slowly(stage: &Stage) -> Vec<Seen> {
    let socket = connect(stage);
    let pause = Duration::from_millis(2 * HANDSHAKE_MS / 64);
    for byte in hello().as_bytes() {
        if try_pass(&socket, &[*byte], &[]).is_err() {
            break;
        }
        thread::sleep(pause);
    }
    vec![answer(&socket)]
}
