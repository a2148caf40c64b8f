//! Regions that are written, shared, emptied or resized in spite of what they are for.

use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Features, FrameHeader, Position};

use crate::hostile::{
    Attack, CAPACITY, Gifts, Peer, Seen, Stage, Until, again, fault, long_visits, spinning_echoes,
    visits,
};

pub(crate) const ATTACKS: &[Attack] = &[
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

fn laps_itself(stage: &Stage) -> Vec<Seen> {
    let peer = Peer::connect(stage);
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
    vec![peer.leave()]
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
    [first, second].map(Peer::leave).into()
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
