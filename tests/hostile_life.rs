//! Hostile peers, theme three: doorbells, sockets, and clients that die.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "common/hostile/mod.rs"]
mod hostile;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Features, FrameHeader, Position};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::Signal;
use zerocopy::IntoBytes as _;

use common::{Daemon, role_socket, send_with_descriptors, wait_for};
use hostile::{
    Attack, CAPACITY, Gifts, PATIENCE, Peer, Seen, Siege, Stage, Until, again, busy,
    comes_and_goes, fault, hello, long_visits, one_after_the_other, overlapping_visits,
    spinning_crowd, spinning_echoes, visits,
};

const ATTACKS: &[Attack] = &[
    Attack {
        name: "a full request doorbell that blocks",
        run: |stage| {
            let mut peer = full_doorbells(stage, true, EventfdFlags::empty());
            vec![emptied_and_rung(&mut peer)]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "a full request doorbell that does not block",
        run: |stage| {
            let mut peer = full_doorbells(stage, true, EventfdFlags::NONBLOCK);
            vec![emptied_and_rung(&mut peer)]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "a full response doorbell that blocks, and is rung",
        run: |stage| {
            let mut peer = full_doorbells(stage, false, EventfdFlags::empty());
            vec![parked_again_and_again(&mut peer)]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 40)),
    },
    Attack {
        name: "a full response doorbell that does not block, and is rung",
        run: |stage| {
            let mut peer = full_doorbells(stage, false, EventfdFlags::NONBLOCK);
            vec![parked_again_and_again(&mut peer)]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 40)),
    },
    Attack {
        name: "a full response doorbell emptied while the daemon's ring waits",
        run: |stage| {
            let mut peer = full_doorbells(stage, false, EventfdFlags::empty());
            let served = parked_again_and_again(&mut peer);
            let mut count = [0; 8];
            for _ in 0..3 {
                rustix::io::read(&peer.gifts.response_doorbell, &mut count).unwrap();
                fill(&peer.gifts.response_doorbell);
                assert_eq!(parked_again_and_again(&mut peer), Seen::Served);
            }
            vec![served]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 160)),
    },
    Attack {
        name: "both doorbells full, and the client breaks the protocol",
        run: |stage| {
            let mut peer = full_doorbells(stage, false, EventfdFlags::empty());
            assert_eq!(parked_again_and_again(&mut peer), Seen::Served);
            peer.put(peer.producer.tail(), [u64::MAX; 4]);
            vec![peer.goodbye()]
        },
        must: &[fault("frame_mark"), fault("header_check")],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 40)),
    },
    Attack {
        name: "doorbells made blocking after the handshake",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            for file in [&peer.gifts.request_doorbell, &peer.gifts.response_doorbell] {
                rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::empty()).unwrap();
            }
            fill(&peer.gifts.response_doorbell);
            vec![parked_again_and_again(&mut peer)]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 40)),
    },
    Attack {
        name: "a request doorbell that its owner reads away",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let mut count = [0; 8];
            for id in 1..50 {
                peer.send(MessageType::ECHO, id, b"x");
                let _ = rustix::io::read(&peer.gifts.request_doorbell, &mut count);
                peer.ring();
                assert_eq!(peer.answer_to(id), Seen::Served);
            }
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 50)),
    },
    Attack {
        name: "always parked, by its flag",
        run: |stage| vec![parked_again_and_again(&mut Peer::connect(stage))],
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::ECHO, 40)),
    },
    Attack {
        name: "one byte on the socket",
        run: |stage| talks(stage, &[1]),
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "as many bytes on the socket as it takes",
        run: |stage| talks(stage, &[64, 4096, 100_000]),
        must: &[fault("socket_bytes"), Seen::HungUp],
        timed: again(visits),
    },
    Attack {
        name: "descriptors on the socket",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let more: Vec<OwnedFd> = (0..16).map(|_| hostile::bell()).collect();
            let more: Vec<BorrowedFd<'_>> = more.iter().map(AsFd::as_fd).collect();
            send_with_descriptors(&peer.socket, b"!", &more);
            vec![peer.goodbye()]
        },
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "an urgent byte on the socket",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let sent = rustix::net::send(&peer.socket, b"!", SendFlags::OOB | SendFlags::NOSIGNAL);
            if matches!(sent, Err(Errno::OPNOTSUPP)) {
                return vec![Seen::Left, Seen::Skipped("no urgent bytes on Unix sockets here")];
            }
            // Its echo may come before the daemon looks at the socket.
            vec![match peer.is_served() {
                Seen::Served => peer.leave(),
                other => other,
            }]
        },
        must: &[fault("socket_bytes"), Seen::Served, Seen::Left],
        timed: again(visits),
    },
    Attack {
        name: "the sending half shut down",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            peer.socket.shutdown(Shutdown::Write).unwrap();
            vec![peer.goodbye()]
        },
        must: &[Seen::HungUp],
        timed: again(visits),
    },
    Attack {
        name: "the receiving half shut down",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            peer.socket.shutdown(Shutdown::Read).unwrap();
            peer.send(MessageType::ECHO, 1, b"x");
            vec![peer.answer_to(1)]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "a fault by one who does not read the Goodbye",
        run: |stage| {
            let peer = Peer::connect(stage);
            peer.socket.shutdown(Shutdown::Read).unwrap();
            peer.put(peer.producer.tail(), [u64::MAX; 4]);
            wait_for_hang_up(&peer);
            vec![fault("frame_mark")]
        },
        must: &[fault("frame_mark")],
        timed: again(visits),
    },
    Attack {
        name: "the socket held by a second descriptor",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let second = peer.socket.try_clone().unwrap();
            drop(std::mem::replace(&mut peer.socket, second));
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "hang-up in the moment of the first frame, 200 times",
        run: |stage| {
            let offend = |index: u64| {
                let mut peer = Peer::connect(stage);
                for id in 0..index % 8 {
                    peer.send(MessageType::HEARTBEAT, id, b"");
                }
                // Some wait for a worker, which lets go of the places: who never does takes them all
                // while it waits for a core.
                if index % 50 == 49 && peer.answer_to(index % 8 - 1) != Seen::Served {
                    return Seen::Silent;
                }
                Seen::Left
            };
            (0..200).map(offend).collect()
        },
        must: &[Seen::Left],
        timed: again(|stage, work| overlapping_visits(stage, work, MessageType::HEARTBEAT)),
    },
    Attack {
        name: "killed with a connection and no word",
        run: |stage| vec![killed(stage, "connected")],
        must: &[Seen::LeftEarly],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed with half a Hello",
        run: |stage| vec![killed(stage, "half a hello")],
        must: &[Seen::LeftEarly],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed before it read the Welcome",
        run: |stage| vec![killed(stage, "greeted")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed while idle",
        run: |stage| vec![killed(stage, "welcome")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed in mid-frame",
        run: |stage| vec![killed(stage, "half a frame")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed with requests in flight",
        run: |stage| vec![killed(stage, "requests")],
        must: &[Seen::Left],
        timed: again(|stage, work| {
            one_after_the_other(work, || comes_and_ends(stage, "64 cancels"))
        }),
    },
    Attack {
        name: "killed in mid-stream",
        run: |stage| vec![killed(stage, "stream")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "a cancel"))),
    },
    Attack {
        name: "killed while parked",
        run: |stage| vec![killed(stage, "parked")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed with a full response doorbell that blocks",
        run: |stage| vec![killed(stage, "full doorbell")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "served"))),
    },
    Attack {
        name: "killed with a full response ring",
        run: |stage| vec![killed(stage, "full ring")],
        must: &[Seen::Left],
        timed: again(|stage, work| one_after_the_other(work, || comes_and_ends(stage, "busy"))),
    },
];

const SIEGES: &[Siege] = &[
    Siege {
        name: "siege: the doorbell rung in a loop",
        attack: |stage, until| {
            let mut peer = Peer::connect(stage);
            while until.goes_on() {
                peer.ring();
            }
            vec![peer.is_served()]
        },
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: 20 doorbells rung in turn",
        attack: |stage, until| {
            let mut peers: Vec<Peer> = (0..20).map(|_| Peer::connect(stage)).collect();
            while until.goes_on() {
                peers.iter().for_each(Peer::ring);
            }
            peers.iter_mut().map(Peer::is_served).collect()
        },
        twin: |stage, until| spinning_crowd(stage, until, 20),
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: a full doorbell emptied and filled in a loop",
        attack: |stage, until| {
            let mut peer = full_doorbells(stage, false, EventfdFlags::empty());
            let mut id = 0;
            while until.goes_on() {
                id += 1;
                peer.line(2).store(1, Relaxed);
                peer.try_send(MessageType::ECHO, id, &[1; 64]);
                let _ = rustix::io::read(&peer.gifts.response_doorbell, &mut [0; 8]);
                fill(&peer.gifts.response_doorbell);
                while peer.take().is_some() {}
            }
            vec![peer.is_served()]
        },
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: always parked, so that each answer rings",
        attack: |stage, until| {
            let mut peer = Peer::connect(stage);
            peer.spins = true;
            let mut id = 0;
            while until.goes_on() {
                id += 1;
                peer.line(2).store(1, Relaxed);
                peer.send(MessageType::ECHO, id, &[1; 64]);
                while peer.take().is_none_or(|(header, _)| header.request_id != id) {
                    peer.line(2).store(1, Relaxed);
                    peer.notify();
                }
            }
            vec![peer.is_served()]
        },
        twin: spinning_echoes,
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: talks out of turn, is closed and comes again",
        attack: |stage, until| {
            let mut seen = Vec::new();
            while until.goes_on() {
                seen.extend(talks(stage, &[1]));
            }
            seen
        },
        twin: comes_and_goes,
        must: &[fault("socket_bytes")],
    },
];

#[test]
fn doorbells_and_deaths_wake_the_daemon_and_never_hold_it() {
    let stage = Stage::new(&["providers.loopback.chunks_per_second=100"]);
    stage.suffer(ATTACKS);
    stage.withstand(SIEGES);
    stage.finish();
}

/// All hang-ups in one moment: more completions than the shard's uring has room for.
#[test]
fn a_thousand_clients_that_hang_up_while_the_daemon_is_stopped_are_all_let_go() {
    const CLIENTS: usize = 1000;
    annulus::descriptors::raise_limit(8 * CLIENTS as u64).unwrap();
    let daemon = Daemon::start(&["ipc.max_connections=1001"]);
    let mut honest = daemon.connect();
    let mut answer = Vec::new();
    honest.call(MessageType::ECHO, b"before", &mut answer).unwrap();
    let before = daemon.held();
    for round in 0..2 {
        let mut clients: Vec<Peer> =
            (0..CLIENTS).map(|_| Peer::at(&daemon.socket(), 1 << 14, Features::empty())).collect();
        // And half of them leave something to answer and a doorbell to ring.
        for (id, client) in (0..).zip(clients.iter_mut().step_by(2)) {
            client.line(2).store(1, Relaxed);
            client.send(MessageType::HEARTBEAT, id, b"");
        }
        daemon.signal(Signal::STOP);
        for client in &clients {
            client.ring();
        }
        if round == 1 {
            // These break the protocol too, in the same moment.
            for client in &clients {
                let _ = (&client.socket).write_all(b"bye");
                client.put(client.producer.tail(), [u64::MAX; 4]);
            }
        }
        drop(clients);
        daemon.signal(Signal::CONT);
        honest.call(MessageType::ECHO, b"after", &mut answer).unwrap();
        daemon.wait_until_it_holds(before);
        honest.call(MessageType::HEARTBEAT, b"", &mut answer).unwrap();
    }
}

/// The last word is waited for elsewhere; here only the hang-up, by one that cannot read.
fn wait_for_hang_up(peer: &Peer) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    wait_for("the hang-up", || {
        let mut files = [PollFd::new(&peer.socket, PollFlags::empty())];
        poll(&mut files, Some(&Timespec::default())).unwrap();
        files[0].revents().contains(PollFlags::HUP)
    });
}

/// Fills the counter of an eventfd, so that the next write must wait.
fn fill(file: &OwnedFd) {
    let flags = rustix::fs::fcntl_getfl(file).unwrap();
    rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    // The largest number that a counter holds; it fits only when the daemon has not just rung.
    for _ in 0..1000 {
        let _ = rustix::io::read(file, &mut [0; 8]);
        if rustix::io::write(file, &(u64::MAX - 1).to_ne_bytes()).is_ok() {
            break;
        }
    }
    rustix::fs::fcntl_setfl(file, flags).unwrap();
}

/// A peer one of whose doorbells is full before the handshake.
fn full_doorbells(stage: &Stage, request: bool, flags: EventfdFlags) -> Peer {
    let (region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let doorbell = eventfd(0, EventfdFlags::CLOEXEC | flags).unwrap();
    fill(&doorbell);
    match request {
        true => gifts.request_doorbell = doorbell,
        false => gifts.response_doorbell = doorbell,
    }
    Peer::bringing(&stage.socket(), region, gifts, Features::empty())
}

/// A full request doorbell is its owner's trouble, and over when it is emptied.
fn emptied_and_rung(peer: &mut Peer) -> Seen {
    let sent = peer.publish(FrameHeader::request(MessageType::ECHO, 1), b"x");
    assert!(sent);
    thread::sleep(Duration::from_millis(5));
    let _ = rustix::io::read(&peer.gifts.request_doorbell, &mut [0; 8]);
    peer.ring();
    match peer.answer_to(1) {
        Seen::Served => peer.is_served(),
        other => other,
    }
}

/// Sets the parked flag before each of some requests, so that the daemon rings for each.
fn parked_again_and_again(peer: &mut Peer) -> Seen {
    for id in 1..40 {
        peer.line(2).store(1, Release);
        peer.send(MessageType::ECHO, id, b"x");
        let answered = peer.answer_to(id);
        if answered != Seen::Served {
            return answered;
        }
    }
    peer.is_served()
}

/// One offender for each number of bytes on the socket.
fn talks(stage: &Stage, sizes: &[usize]) -> Vec<Seen> {
    let offend = |size: &usize| {
        let mut peer = Peer::connect(stage);
        peer.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = peer.socket.write_all(&vec![b'?'; *size]);
        peer.goodbye()
    };
    sizes.iter().map(offend).collect()
}

/// Starts a process that goes up to `step`, and kills it there.
fn killed(stage: &Stage, step: &str) -> Seen {
    let (mut child, came) = started(stage, step);
    child.kill().unwrap();
    child.wait().unwrap();
    match step {
        _ if !came => Seen::Silent,
        "connected" | "half a hello" => Seen::LeftEarly,
        _ => Seen::Left,
    }
}

/// The twin of those who are killed: a process that goes up to `step`, and leaves by itself.
fn comes_and_ends(stage: &Stage, step: &str) -> Seen {
    let (mut child, came) = started(stage, step);
    drop(child.stdin.take());
    let ended = child.wait().unwrap();
    if came && ended.success() { Seen::Left } else { Seen::Silent }
}

/// A process that plays the role below up to `step`, and whether it has come so far.
fn started(stage: &Stage, step: &str) -> (Child, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role_of_one_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(common::ROLE, stage.socket())
        .env(STEP, step)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.as_mut().unwrap());
    let came = stdout.lines().any(|line| line.unwrap().contains("here I stand"));
    (child, came)
}

/// Begins so many streams, cancels them, and takes their last frames.
fn cancels(peer: &mut Peer, count: u64, stream: &[u8]) {
    for id in 1..=count {
        peer.send(MessageType::STREAM, id, stream);
    }
    for id in 1..=count {
        peer.send(MessageType::CANCEL, id, b"");
    }
    let mut left = count;
    while left > 0 {
        let (header, _) = peer.receive(PATIENCE).unwrap();
        left -= u64::from(header.is_last());
    }
}

const STEP: &str = "ANNULUS_TEST_STEP";
/// How long a client goes on that fills both of its rings, and its twin.
const FILLING: Duration = Duration::from_millis(300);

/// The role of a client that is killed at one step of its life.
#[test]
fn role_of_one_that_is_killed() {
    let (Some(socket), Ok(step)) = (role_socket(), std::env::var(STEP)) else { return };
    let stands = || {
        println!("\nhere I stand");
        let _ = std::io::stdin().read_line(&mut String::new());
    };
    if let "connected" | "half a hello" | "greeted" = step.as_str() {
        let stream = UnixStream::connect(&socket).unwrap();
        let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
        match step.as_str() {
            "half a hello" => {
                send_with_descriptors(&stream, &hello().as_bytes()[..32], &gifts.all());
            }
            "greeted" => {
                send_with_descriptors(&stream, hello().as_bytes(), &gifts.all());
                // The Welcome is there and stays there.
                thread::sleep(Duration::from_millis(20));
            }
            _ => {}
        }
        return stands();
    }
    let mut peer = Peer::at(&socket, CAPACITY, Features::empty());
    let stream = br#"{"model":"m","messages":[{"role":"user","content":"long"}]}"#;
    match step.as_str() {
        "half a frame" => {
            let tail = peer.producer.tail();
            let words = FrameHeader::request(MessageType::ECHO, 1).sealed(tail);
            let at = peer.request_offset(Position(tail.0));
            for (offset, word) in [(8, words[1]), (16, words[2]), (24, words[3])] {
                peer.word(at + offset).store(word, Relaxed);
            }
            peer.ring();
        }
        "served" => assert_eq!(peer.is_served(), Seen::Served),
        "busy" => {
            // The twin of the one below that fills its rings.
            peer.spins = true;
            let until = Until::after(FILLING);
            assert_eq!(busy(peer, until, MessageType::ECHO), [Seen::Left]);
        }
        // The twins of the two below: they say that they want no more.
        "a cancel" => cancels(&mut peer, 1, stream),
        "64 cancels" => cancels(&mut peer, 64, stream),
        "requests" => {
            for id in 1..=64 {
                peer.send(MessageType::STREAM, id, stream);
            }
        }
        "stream" => {
            peer.send(MessageType::STREAM, 1, stream);
            peer.receive(Duration::from_secs(10)).unwrap();
        }
        "parked" => {
            peer.line(2).store(1, Release);
            peer.send(MessageType::STREAM, 1, stream);
            let mut count = [0; 8];
            thread::sleep(Duration::from_millis(30));
            let _ = rustix::io::read(&peer.gifts.response_doorbell, &mut count);
            peer.line(2).store(1, Release);
        }
        "full doorbell" => {
            let flags = rustix::fs::OFlags::empty();
            rustix::fs::fcntl_setfl(&peer.gifts.response_doorbell, flags).unwrap();
            fill(&peer.gifts.response_doorbell);
            assert_eq!(parked_again_and_again(&mut peer), Seen::Served);
            peer.line(2).store(1, Release);
            peer.send(MessageType::ECHO, 1 << 20, b"x");
        }
        "full ring" => {
            // Until there is no space in either ring.
            let until = Until::after(FILLING);
            let mut id = 0;
            while until.goes_on() {
                id += 1;
                peer.try_send(MessageType::ECHO, id, &[5; 1000]);
            }
        }
        _ => {}
    }
    stands();
}
