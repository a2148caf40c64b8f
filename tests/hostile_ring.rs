//! Hostile peers, theme one: what a client can do to memory that it shares with the daemon.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "hostile_ring/frames.rs"]
mod frames;
#[path = "hostile_ring/header.rs"]
mod header;
#[path = "hostile_ring/home.rs"]
mod home;
#[path = "common/hostile/mod.rs"]
mod hostile;
#[path = "hostile_ring/reads.rs"]
mod reads;
#[path = "hostile_ring/region.rs"]
mod region;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use annulus::MessageType;
use annulus::sync::Ordering::Relaxed;
use annulus::wire::FrameHeader;

use frames::pass;
use hostile::{Peer, Seen, Siege, Stage, Until, comes_and_goes, fault, spinning_echoes};

const SIEGES: &[Siege] = &[
    Siege {
        name: "siege: padding, one by one, without end",
        attack: padding_drip,
        twin: spinning_echoes,
        // The next one may come while the daemon still looks: then it has met four in a row.
        must: &[Seen::Served, fault("padding")],
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
    let themes = [frames::ATTACKS, home::ATTACKS, reads::ATTACKS, header::ATTACKS, region::ATTACKS];
    for attacks in themes {
        stage.suffer(attacks);
    }
    stage.withstand(SIEGES);
    stage.finish();
}

/// A generator that needs no crate: splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
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

fn padding_drip(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut position = peer.producer.tail();
    while until.goes_on() {
        match pass(&mut peer, position, FrameHeader::padding(64)) {
            Ok(next) => position = next,
            Err(last_word) => return vec![last_word],
        }
    }
    // The last padding, too, may have been the fourth.
    vec![match pass(&mut peer, position, FrameHeader::request(MessageType::ECHO, 1)) {
        Ok(_) => peer.answer_to(1),
        Err(last_word) => last_word,
    }]
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
