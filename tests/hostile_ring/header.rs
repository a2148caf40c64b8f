//! What both sides share beside the rings: positions, flags and constants of the region's header.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::FrameHeader;

use crate::hostile::{
    Attack, Peer, Seen, Stage, Until, again, fault, long_visits, two_spinning, visits,
};
use crate::{beside, random};

pub(crate) const ATTACKS: &[Attack] = &[
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
];

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
    vec![peer.leave()]
}
