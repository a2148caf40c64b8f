//! Words that change between two reads.

use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Features, FrameHeader, Position};

use crate::beside;
use crate::hostile::{Attack, CAPACITY, Peer, Seen, Stage, Until, again, fault, two_spinning};

pub(crate) const ATTACKS: &[Attack] = &[
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
];

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
