//! Doorbells that are none, and descriptors in odd places.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use annulus::wire::Features;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use zerocopy::IntoBytes as _;

use crate::common::send_with_descriptors;
use crate::hostile::{
    Attack, CAPACITY, Gifts, Peer, Seen, again, answer, answer_and_leave, bell, connect, hello,
    offer, region_refused, visits,
};
use crate::regions::{SEALS, memfd, reopened, size, strange_files};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "doorbells that are something else, in both places",
        run: |stage| {
            let mut seen = Vec::new();
            for place in [1, 2] {
                let mut others = strange_files(Path::new("/dev/null"));
                others.retain(|file| !is_eventfd(file));
                others.push(memfd(size(), SEALS));
                for other in others {
                    seen.push(offer(stage, &hello(), &with_bell(place, other)));
                }
            }
            seen
        },
        must: &[region_refused("not_an_eventfd")],
        timed: again(visits),
    },
    Attack {
        name: "doorbells opened as mere paths, in both places",
        run: |stage| {
            [1, 2]
                .map(|place| {
                    let path = reopened(&bell(), OFlags::PATH).unwrap();
                    offer(stage, &hello(), &with_bell(place, path))
                })
                .into()
        },
        must: &[region_refused("not_an_eventfd")],
        timed: again(visits),
    },
    Attack {
        name: "region and doorbells in another order",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let [region, first, second] = gifts.all();
            [[first, region, second], [first, second, region]]
                .map(|order| {
                    let socket = connect(stage);
                    send_with_descriptors(&socket, hello().as_bytes(), &order);
                    answer(&socket)
                })
                .into()
        },
        must: &[region_refused("not_an_eventfd")],
        timed: again(visits),
    },
    Attack {
        name: "one eventfd for both doorbells",
        run: |stage| {
            let (region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
            gifts.response_doorbell = gifts.request_doorbell.try_clone().unwrap();
            let empty = Features::empty();
            let mut peer = Peer::bringing(&stage.socket(), region, gifts, empty);
            peer.line(2).store(1, annulus::sync::Ordering::Relaxed);
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "semaphores for doorbells",
        run: |stage| {
            let (region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE;
            gifts.request_doorbell = eventfd(1_000_000, flags).unwrap();
            gifts.response_doorbell = eventfd(1_000_000, flags).unwrap();
            let empty = Features::empty();
            vec![Peer::bringing(&stage.socket(), region, gifts, empty).is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "descriptors closed before the daemon looks",
        run: |stage| {
            let offend = |_| {
                let socket = connect(stage);
                let (region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
                send_with_descriptors(&socket, hello().as_bytes(), &gifts.all());
                drop((region, gifts));
                answer_and_leave(&socket)
            };
            (0..20).map(offend).collect()
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
];

/// What an honest client brings, but for one doorbell.
fn with_bell(place: usize, other: OwnedFd) -> Gifts {
    let (_region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
    match place {
        1 => gifts.request_doorbell = other,
        _ => gifts.response_doorbell = other,
    }
    gifts
}

fn is_eventfd(file: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    link == Path::new("anon_inode:[eventfd]")
}
