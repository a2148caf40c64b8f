//! Newcomers by the hundred, and more than there are places.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use annulus::wire::Status;
use zerocopy::IntoBytes as _;

use crate::CONNECTIONS;
use crate::common::send_with_descriptors;
use crate::hostile::{
    Attack, CAPACITY, Gifts, PATIENCE, Peer, Seen, again, again_when_let_go, answer,
    comes_and_goes_beside_echoes, connect, crowd, hello, refused, visits,
};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "a newcomer that does not read its Welcome",
        run: |stage| {
            let socket = connect(stage);
            socket.shutdown(Shutdown::Read).unwrap();
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            send_with_descriptors(&socket, hello().as_bytes(), &gifts.all());
            // Long enough to be taken over; either way nothing is left of it.
            thread::sleep(Duration::from_millis(50));
            vec![Seen::Left]
        },
        must: &[Seen::Left],
        timed: again(visits),
    },
    Attack {
        name: "200 newcomers that hang up at once",
        run: |stage| {
            (0..200)
                .map(|_| {
                    drop(connect(stage));
                    Seen::LeftEarly
                })
                .collect()
        },
        must: &[Seen::LeftEarly],
        timed: again(|stage, work| comes_and_goes_beside_echoes(stage, work.until)),
    },
    Attack {
        name: "20 handshakes stalled at once",
        run: |stage| {
            let stalled: Vec<UnixStream> = (0..20).map(|_| connect(stage)).collect();
            for (index, socket) in stalled.iter().enumerate() {
                let mut socket = socket;
                // Refused by now, if so many took longer than a handshake may.
                let _ = socket.write_all(&hello().as_bytes()[..index]);
            }
            // Somebody who comes meanwhile does not wait for them.
            let began = Instant::now();
            let mut seen = vec![Peer::connect(stage).is_served()];
            assert!(began.elapsed() < PATIENCE);
            seen.extend(stalled.iter().map(answer));
            seen
        },
        must: &[Seen::Served, refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "one connection too many, and ten more",
        run: |stage| {
            // The honest client and the observer have two.
            let held: Vec<Peer> = (2..CONNECTIONS).map(|_| Peer::connect(stage)).collect();
            let mut seen: Vec<Seen> = (0..11).map(|_| answer(&connect(stage))).collect();
            assert!(seen.iter().all(|seen| *seen == Seen::Refused(Status::Busy, None)));
            seen.extend(held.into_iter().map(|mut peer| peer.is_served()));
            seen
        },
        must: &[Seen::Served, Seen::Refused(Status::Busy, None)],
        timed: again_when_let_go(|stage, _| crowd(stage, CONNECTIONS - 2)),
    },
];
