//! Frames that follow each other at home, and a client that lies about where they stand or what it took.

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Features, FrameFlags, FrameHeader, Position};

use crate::hostile::{
    Attack, CAPACITY, Peer, Seen, Stage, Until, again, fault, long_visits, visits,
};

/// Echoes that one offender asks for whose answers it never looks at.
const UNREAD_COUNT: u64 = 400;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "a frame that says it is at home where none can be",
        run: elsewhere,
        must: &[fault("undefined_bits")],
        timed: again(visits),
    },
    Attack {
        name: "scribbles over the word at home while the daemon looks at it",
        run: scribbled,
        must: &[fault("frame_mark"), fault("header_check")],
        timed: again(visits),
    },
    Attack {
        name: "the next frame at home before the last was taken",
        run: |stage| vec![unread(stage, true)],
        must: &[Seen::Served, fault("frame_mark"), fault("header_check"), fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
    Attack {
        name: "answers that were taken, it says, and never were",
        run: |stage| vec![unread(stage, false)],
        must: &[Seen::Served, fault("head_overrun")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 400)),
    },
];

fn peer(stage: &Stage) -> Peer {
    Peer::with(stage, CAPACITY, Features::HOME_AGAIN)
}

fn elsewhere(stage: &Stage) -> Vec<Seen> {
    let mut too_long = FrameHeader::request(MessageType::ECHO, 1);
    (too_long.flags, too_long.payload_size) = (FrameFlags::HOME.bits(), 1800);
    let mut header = FrameHeader::request(MessageType::ECHO, 1);
    header.flags = FrameFlags::HOME.bits();
    let mut first = peer(stage);
    first.put_sealed(too_long);
    let mut second = peer(stage);
    // The honest one stands at home, and the next behind it.
    assert_eq!(second.is_served(), Seen::Served);
    second.put_sealed(header);
    vec![first.goodbye(), second.goodbye()]
}

fn scribbled(stage: &Stage) -> Vec<Seen> {
    let home = |peer: &Peer| Position(peer.region.layout().request_home().offset);
    let offend = |change: u64| {
        let mut peer = peer(stage);
        assert_eq!(peer.is_served(), Seen::Served);
        let word = peer.word(peer.request_offset(home(&peer)));
        word.store(word.load(Relaxed) ^ change, Release);
        peer.notify();
        peer.goodbye()
    };
    [1, 1 << 20, 0xFF << 56, 1 << 32].map(offend).into()
}

/// Asks and asks without a look at the answers: either writes over requests that may not have been taken, or says
/// of each answer that it has it.
fn unread(stage: &Stage, overwrites: bool) -> Seen {
    let mut peer = peer(stage);
    let until = Until::after(crate::hostile::PATIENCE);
    for id in 0..UNREAD_COUNT {
        let mut header = FrameHeader::request(MessageType::ECHO, id);
        header.flags = FrameFlags::TAKEN.bits();
        if overwrites {
            peer.producer.all_taken();
        }
        while !peer.publish(header, &[7; 64]) && until.goes_on() && !peer.is_over() {
            std::thread::yield_now();
        }
        peer.notify();
    }
    peer.leave()
}
