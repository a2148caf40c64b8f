//! What comes beside the Hello: descriptors of every number, credentials, urgent bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use zerocopy::IntoBytes as _;

use crate::hostile::{
    Attack, CAPACITY, Gifts, Seen, Stage, again, answer, answer_and_leave, bell, connect, hello,
    refused, visits,
};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "each number of descriptors but three",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            [0, 1, 2, 4, 7, 8, 9, 30, 253]
                .into_iter()
                .map(|count| {
                    let socket = connect(stage);
                    let all: Vec<_> = gifts.all().into_iter().cycle().take(count).collect();
                    pass(&socket, hello().as_bytes(), &all);
                    answer(&socket)
                })
                .collect()
        },
        must: &[refused("descriptor_count")],
        timed: again(visits),
    },
    Attack {
        name: "descriptors one at a time, with single bytes",
        run: |stage| vec![spread(stage, &[0, 30, 63])],
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "a descriptor with every byte",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let socket = connect(stage);
            for byte in hello().as_bytes() {
                // Refused in the middle: what follows finds the socket closed.
                if try_pass(&socket, &[*byte], &gifts.all()[..1]).is_err() {
                    break;
                }
            }
            vec![answer(&socket)]
        },
        must: &[refused("descriptor_count")],
        timed: again(visits),
    },
    Attack {
        name: "a flood of descriptors, 253 with each byte",
        run: |stage| {
            let flood = |_| {
                let files: Vec<OwnedFd> = (0..253).map(|_| bell()).collect();
                let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
                let socket = connect(stage);
                for _ in 0..16 {
                    if try_pass(&socket, b"A", &files).is_err() {
                        break;
                    }
                }
                answer(&socket)
            };
            (0..8).map(flood).collect()
        },
        must: &[refused("descriptor_count")],
        timed: again(visits),
    },
    Attack {
        name: "credentials beside the descriptors",
        run: credentials,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "an urgent byte in the middle of the Hello",
        run: urgent_byte,
        must: &[Seen::Served, refused("handshake_cut"), refused("handshake_magic")],
        timed: again(visits),
    },
];

/// Single bytes; the descriptors come with the bytes at `places`, spread over them.
pub(crate) fn spread(stage: &Stage, places: &[usize]) -> Seen {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let all = gifts.all();
    let socket = connect(stage);
    for (index, byte) in hello().as_bytes().iter().enumerate() {
        let with: &[BorrowedFd<'_>] = match places.iter().position(|place| *place == index) {
            None => &[],
            Some(_) if places.len() == 1 => &all,
            Some(place) => &all[place..=place],
        };
        pass(&socket, &[*byte], with);
    }
    answer_and_leave(&socket)
}

fn pass(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    try_pass(socket, bytes, descriptors).unwrap();
}

/// Sends bytes with up to 253 descriptors, the kernel's `SCM_MAX_FD`.
pub(crate) fn try_pass(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let bytes = [std::io::IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)
}

fn credentials(stage: &Stage) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let all = gifts.all();
    let socket = connect(stage);
    let ours = rustix::net::UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::getuid(),
        gid: rustix::process::getgid(),
    };
    let mut space =
        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmCredentials(ours)));
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&all)));
    let hello = hello();
    let bytes = [std::io::IoSlice::new(hello.as_bytes())];
    rustix::net::sendmsg(&socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    vec![answer_and_leave(&socket)]
}

fn urgent_byte(stage: &Stage) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let socket = connect(stage);
    let hello = hello();
    let (first, rest) = hello.as_bytes().split_at(20);
    pass(&socket, first, &gifts.all());
    let sent = rustix::net::send(&socket, b"!", SendFlags::OOB | SendFlags::NOSIGNAL);
    if matches!(sent, Err(Errno::OPNOTSUPP)) {
        drop(socket);
        return vec![Seen::LeftEarly, Seen::Skipped("no urgent bytes on Unix sockets here")];
    }
    let _ = try_pass(&socket, rest, &[]);
    vec![answer_and_leave(&socket)]
}
