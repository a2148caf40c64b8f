//! Hostile peers, theme four: requests that are well-formed and mean no good.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "common/hostile/mod.rs"]
mod hostile;

use std::thread;
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{ConnectOptions, Connection, RequestOptions};
use annulus::sync::Ordering::Relaxed;
use annulus::wire::{Features, FrameHeader, Hello, Status};
use rustix::process::Signal;
use zerocopy::IntoBytes as _;

use common::{Daemon, send_with_descriptors, wait_for};
use hostile::{
    Attack, CAPACITY, Gifts, PATIENCE, Peer, Seen, Siege, Stage, Until, Work, again,
    again_when_let_go, fault, long_visits, one_after_the_other, spinning_echoes, spinning_flood,
    spinning_heartbeats, visits,
};

/// Requests that one connection may have in flight.
const IN_FLIGHT: u64 = 64;
/// A stream of ten chunks, which take 50 ms at the pace below.
const PROMPT: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"on and on"}]}"#;
/// The same stream, one chunk a second: for who needs that it is still in flight.
const SLOW: &[u8] = br#"{"model":"slow/m","messages":[{"role":"user","content":"on and on"}]}"#;

/// Of sixteen requests one asks for a page of 40 KiB.
const STREAMS_AND_PAGES: &[MessageType] = &{
    let mut types = [MessageType::STREAM; 16];
    types[0] = MessageType::METRICS;
    types
};

const ATTACKS: &[Attack] = &[
    Attack {
        name: "the id of a stream in flight, for a second stream",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            peer.send(MessageType::STREAM, 7, SLOW);
            peer.send(MessageType::STREAM, 7, SLOW);
            vec![peer.goodbye()]
        },
        must: &[fault("request_id_in_use")],
        timed: again(visits_with_a_stream),
    },
    Attack {
        name: "the id of a stream in flight, for an echo",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            peer.send(MessageType::STREAM, 7, SLOW);
            peer.send(MessageType::ECHO, 7, b"x");
            let echoed = peer.receive(PATIENCE).is_some();
            assert!(echoed);
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits_with_a_stream),
    },
    Attack {
        name: "ids at both ends of 64 bits, each many times",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            for id in [0, u64::MAX, 1 << 63].repeat(20) {
                peer.send(MessageType::HEARTBEAT, id, b"");
                let answered = peer.answer_to(id);
                if answered != Seen::Served {
                    return vec![answered];
                }
            }
            vec![Seen::Served]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::HEARTBEAT, 60)),
    },
    Attack {
        name: "cancels for ids that never were, 10,000 times",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            for id in 0..10_000 {
                send_patiently(&mut peer, MessageType::CANCEL, id, b"");
            }
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "cancels for another connection's request",
        run: foreign_cancels,
        must: &[Seen::Served],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "one stream cancelled a thousand times",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            peer.send(MessageType::STREAM, 1, SLOW);
            for _ in 0..1000 {
                send_patiently(&mut peer, MessageType::CANCEL, 1, b"with a payload");
            }
            vec![peer.answer_to(1)]
        },
        must: &[Seen::Answered(Status::Cancelled)],
        timed: again(|stage, work| spinning_echoes(stage, work.until)),
    },
    Attack {
        name: "a deadline of 2^32 - 1 ms",
        run: |stage| vec![with_deadline(stage, MessageType::HEARTBEAT, u32::MAX)],
        must: &[Seen::Served],
        timed: again(|stage, work| long_visits(stage, work, MessageType::HEARTBEAT, 1)),
    },
    Attack {
        name: "a deadline of 2^32 - 1 ms on a stream, and gone",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            for id in 0..IN_FLIGHT {
                let mut header = FrameHeader::request(MessageType::STREAM, id);
                header.deadline_ms = u32::MAX;
                assert!(peer.publish(header, PROMPT));
            }
            peer.notify();
            let first = peer.receive(PATIENCE);
            assert!(first.is_some());
            vec![Seen::Left]
        },
        must: &[Seen::Left],
        timed: again(|stage, work| reading(asking(stage, 1, &[MessageType::STREAM]), work.until)),
    },
    Attack {
        name: "a deadline of 1 ms on a long stream",
        run: |stage| vec![with_deadline(stage, MessageType::STREAM, 1)],
        must: &[Seen::Answered(Status::Timeout)],
        timed: again(visits_with_a_stream),
    },
    Attack {
        name: "a deadline on an echo, which has none",
        run: |stage| vec![with_deadline(stage, MessageType::ECHO, 1)],
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "one request in flight too many",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            for id in 0..=IN_FLIGHT {
                peer.send(MessageType::STREAM, id, SLOW);
            }
            vec![peer.answer_to(IN_FLIGHT)]
        },
        must: &[Seen::Answered(Status::Busy)],
        timed: again(|stage, work| reading(asking(stage, 1, &[MessageType::STREAM]), work.until)),
    },
    Attack {
        name: "types that nobody serves",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let types = [7, 8, 15, 16, 17, 0x0FFF, 0x1000, 0x1001, 0xEFFF];
            let ask = |number| {
                let message_type = MessageType::from_wire(number);
                peer.send(message_type, u64::from(number), b"x");
                peer.answer_to(u64::from(number))
            };
            let seen: Vec<Seen> = types.into_iter().map(ask).collect();
            // One connection, so one entry; all were answered alike.
            assert!(seen.iter().all(|other| *other == seen[0]), "{seen:?}");
            vec![seen[0]]
        },
        must: &[Seen::Answered(Status::UnknownMessageType)],
        timed: again(visits),
    },
    Attack {
        name: "payloads that are no JSON, or too deep",
        run: |stage| malformed(stage, 1),
        must: &[Seen::Answered(Status::InvalidRequest)],
        timed: again(|stage, work| long_visits(stage, work, MessageType::HEARTBEAT, 2)),
    },
    Attack {
        name: "payloads that are no rkyv archive",
        run: |stage| malformed(stage, 2),
        must: &[Seen::Answered(Status::InvalidRequest)],
        timed: again(|stage, work| long_visits(stage, work, MessageType::HEARTBEAT, 2)),
    },
    Attack {
        name: "small answers never read, then all of them",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            let sent = fill_both_rings(&mut peer, MessageType::ECHO, &[5; 64]);
            let mut answers = 0;
            while answers < sent {
                let Some((header, _)) = peer.receive(PATIENCE) else { return vec![Seen::Silent] };
                answers += u64::from(header.is_last());
            }
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(echoes_and_a_rest),
    },
    Attack {
        name: "small answers never read, and gone",
        run: |stage| {
            (0..8)
                .map(|_| {
                    let mut peer = Peer::connect(stage);
                    let _ = fill_both_rings(&mut peer, MessageType::ECHO, &[5; 64]);
                    Seen::Left
                })
                .collect()
        },
        must: &[Seen::Left],
        timed: again(echoes_and_a_rest),
    },
    Attack {
        name: "answers of 40 KiB never read",
        run: |stage| never_reads_pages(stage, 1, IN_FLIGHT),
        must: &[Seen::Left],
        timed: again_when_let_go(|stage, work| {
            reading(asking(stage, 1, &[MessageType::METRICS]), work.until)
        }),
    },
    Attack {
        name: "answers of 40 KiB never read, by 24 connections",
        run: |stage| never_reads_pages(stage, 24, 3),
        must: &[Seen::Left],
        timed: again_when_let_go(|stage, work| {
            reading(asking_for(stage, 24, 3, &[MessageType::METRICS]), work.until)
        }),
    },
    Attack {
        name: "64 streams never read",
        run: |stage| never_reads_streams(stage, 1),
        must: &[Seen::Left],
        timed: again_when_let_go(|stage, work| {
            reading(asking(stage, 1, &[MessageType::STREAM]), work.until)
        }),
    },
    Attack {
        name: "64 streams never read, by 20 connections",
        run: |stage| never_reads_streams(stage, 20),
        must: &[Seen::Left],
        timed: again_when_let_go(|stage, work| {
            reading(asking(stage, 20, &[MessageType::STREAM]), work.until)
        }),
    },
    Attack {
        name: "more streams in flight than one shard had entries",
        run: |stage| never_reads_streams(stage, 260),
        must: &[Seen::Left],
        timed: again_when_let_go(|stage, work| {
            reading(asking(stage, 260, &[MessageType::STREAM]), work.until)
        }),
    },
];

const SIEGES: &[Siege] = &[
    Siege {
        name: "siege: echoes never read",
        attack: |stage, until| {
            let mut peer = Peer::connect(stage);
            let mut id = 0;
            while until.goes_on() {
                id += 1;
                let _ = peer.try_send(MessageType::ECHO, id, &[1; 64]);
                peer.ring();
            }
            vec![Seen::Left]
        },
        twin: spinning_echoes,
        must: &[Seen::Left],
    },
    Siege {
        name: "siege: streams and pages never read, by five",
        attack: |stage, until| {
            let peers = asking(stage, 5, STREAMS_AND_PAGES);
            until.rest();
            vec![Seen::Left; peers.len()]
        },
        twin: |stage, until| reading(asking(stage, 5, STREAMS_AND_PAGES), until),
        must: &[Seen::Left],
    },
    Siege {
        name: "siege: 1,280 streams never read",
        attack: |stage, until| {
            let peers = asking(stage, 20, &[MessageType::STREAM]);
            until.rest();
            vec![Seen::Left; peers.len()]
        },
        twin: |stage, until| reading(asking(stage, 20, &[MessageType::STREAM]), until),
        must: &[Seen::Left],
    },
    Siege {
        name: "siege: a request that cannot end, cancelled in a loop",
        attack: |stage, until| {
            let mut peer = Peer::with(stage, 1 << 14, Features::empty());
            for id in 0..IN_FLIGHT {
                send_patiently(&mut peer, MessageType::STREAM, id, PROMPT);
            }
            while until.goes_on() {
                for id in 0..IN_FLIGHT {
                    let _ = peer.try_send(MessageType::CANCEL, id, b"");
                }
            }
            vec![Seen::Left]
        },
        twin: spinning_heartbeats,
        must: &[Seen::Left],
    },
    Siege {
        name: "siege: unknown types in a loop",
        attack: |stage, until| flood(stage, until, MessageType::user(0)),
        twin: |stage, until| flood(stage, until, MessageType::ECHO),
        must: &[Seen::Served],
    },
    Siege {
        name: "siege: payloads that do not decode, in a loop",
        attack: |stage, until| {
            let mut peer = Peer::connect(stage);
            let deep = vec![b'['; 4000];
            let mut id = 0;
            while until.goes_on() {
                id += 1;
                let _ = peer.try_send(MessageType::COMPLETE, id, &deep);
                while peer.take().is_some() {}
            }
            vec![peer.is_served()]
        },
        twin: spinning_flood,
        must: &[Seen::Served],
    },
];

/// Asks without end, 64 bytes at a time, and waits for no answer.
fn flood(stage: &Stage, until: Until, message_type: MessageType) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    let mut id = 0;
    while until.goes_on() {
        id += 1;
        let _ = peer.try_send(message_type, id, &[1; 64]);
        while peer.take().is_some() {}
    }
    vec![peer.is_served()]
}

#[test]
fn requests_that_mean_no_good_cost_only_their_sender() {
    let stage = Stage::new(&[
        "default_provider=loopback",
        "providers.loopback.chunks_per_second=200",
        "providers.slow.kind=loopback",
        "providers.slow.chunks_per_second=1",
    ]);
    stage.suffer(ATTACKS);
    stage.withstand(SIEGES);
    stage.finish();
}

#[test]
fn a_client_that_never_reads_is_idle_however_much_it_asks() {
    let daemon = Daemon::start(&["ipc.idle_timeout_secs=1"]);
    let mut peer = Peer::at(&daemon.socket(), CAPACITY, Features::empty());
    for id in 0..IN_FLIGHT {
        peer.send(MessageType::METRICS, id, b"");
    }
    let until = Until::after(PATIENCE);
    let mut id = IN_FLIGHT;
    while !peer.is_over() && until.goes_on() {
        id += 1;
        let _ = peer.try_send(MessageType::ECHO, id, &[1; 64]);
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(peer.goodbye(), Seen::Closed(Status::IdleTimeout, None));
}

#[test]
fn a_client_that_left_without_reading_gives_its_place_back() {
    // Chunks of one line each fill the reply ring to its very end.
    let settings = ["ipc.max_connections=2", "providers.loopback.chunk_size=1"];
    let daemon = Daemon::start(&settings);
    for _ in 0..6 {
        let mut peer = None;
        wait_for("a place", || {
            peer = Peer::try_at(&daemon.socket(), 1 << 14);
            peer.is_some()
        });
        let mut peer = peer.unwrap();
        for id in 0..IN_FLIGHT {
            send_patiently(&mut peer, MessageType::STREAM, id, PROMPT);
        }
        // Both of its rings are full by then, and the shard has parked it.
        thread::sleep(Duration::from_millis(200));
    }
    wait_for("a place", || Connection::connect(&daemon.options()).is_ok());
}

#[test]
fn a_daemon_full_of_hostile_clients_stops_in_its_time() {
    let settings = ["ipc.shutdown_timeout_secs=1", "providers.loopback.chunks_per_second=2"];
    let mut daemon = Daemon::start(&settings);
    let mut peers: Vec<Peer> =
        (0..12).map(|_| Peer::at(&daemon.socket(), CAPACITY, Features::empty())).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        match index % 3 {
            0 => drop(fill_both_rings(peer, MessageType::ECHO, &[5; 64])),
            1 => (0..IN_FLIGHT).for_each(|id| peer.send(MessageType::METRICS, id, b"")),
            _ => (0..IN_FLIGHT).for_each(|id| peer.send(MessageType::STREAM, id, PROMPT)),
        }
    }
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    let (code, said) = daemon.exit();
    println!("stopped after {:?}", began.elapsed());
    assert_eq!(code, Some(0), "{said}");
    drop(peers);
}

/// Waits for space as long as it takes.
fn send_patiently(peer: &mut Peer, message_type: MessageType, id: u64, payload: &[u8]) {
    let until = Until::after(PATIENCE);
    while !peer.try_send(message_type, id, payload) {
        assert!(until.goes_on(), "the daemon takes no requests");
        thread::sleep(Duration::from_micros(100));
    }
}

/// The twin of those who begin a stream and stay for no more of it: somebody who asks, and leaves with
/// another answer. Each costs the worker one stream.
fn visits_with_a_stream(stage: &Stage, work: Work) -> Vec<Seen> {
    one_after_the_other(work, || {
        let mut peer = Peer::connect(stage);
        peer.send(MessageType::STREAM, 1, SLOW);
        peer.is_served()
    })
}

/// The twin of those who fill both rings: it rests as long as they wait for a full ring to stay full.
fn echoes_and_a_rest(stage: &Stage, work: Work) -> Vec<Seen> {
    let seen = spinning_echoes(stage, Until::after(work.until.left() / 4));
    work.until.rest();
    seen
}

/// Sends until the daemon, which waits for space in the response ring, takes no more; gives how
/// many requests that were.
fn fill_both_rings(peer: &mut Peer, message_type: MessageType, payload: &[u8]) -> u64 {
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 100 {
        if peer.try_send(message_type, sent, payload) {
            (sent, refusals) = (sent + 1, 0);
        } else {
            refusals += 1;
            thread::sleep(Duration::from_micros(200));
        }
    }
    sent
}

fn foreign_cancels(stage: &Stage) -> Vec<Seen> {
    let mut victim = Peer::connect(stage);
    let mut offender = Peer::connect(stage);
    victim.send(MessageType::STREAM, 1, PROMPT);
    assert!(victim.receive(PATIENCE).is_some());
    for _ in 0..100 {
        send_patiently(&mut offender, MessageType::CANCEL, 1, b"");
    }
    vec![victim.answer_to(1), offender.is_served()]
}

fn with_deadline(stage: &Stage, message_type: MessageType, deadline_ms: u32) -> Seen {
    let mut peer = Peer::connect(stage);
    let mut header = FrameHeader::request(message_type, 1);
    header.deadline_ms = deadline_ms;
    assert!(peer.publish(header, PROMPT));
    peer.notify();
    peer.answer_to(1)
}

/// Payloads that mean nothing in this codec; each by a peer of its own.
fn malformed(stage: &Stage, codec: u8) -> Vec<Seen> {
    let deep = vec![b'['; 20_000];
    let cut = &PROMPT[..PROMPT.len() - 5];
    let long = [br#"{"model":"m","messages":["#.as_slice(), &b"null,".repeat(5000)].concat();
    let payloads: [&[u8]; 8] = [b"", b"{}", b"null", &[0xFF; 300], &[0; 4096], &deep, cut, &long];
    let offend = |payload: &[u8]| {
        let (region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
        let socket = hostile::connect(stage);
        let hello = Hello::new(CAPACITY, CAPACITY, codec, Features::empty());
        send_with_descriptors(&socket, hello.as_bytes(), &gifts.all());
        assert_eq!(hostile::answer(&socket), Seen::Served);
        let mut peer = Peer::welcomed(socket, region, gifts);
        let mut answers = [MessageType::COMPLETE, MessageType::STREAM].map(|message_type| {
            send_patiently(&mut peer, message_type, 1, payload);
            peer.answer_to(1)
        });
        answers.sort_by_key(|answer| *answer == Seen::Answered(Status::InvalidRequest));
        answers[0]
    };
    payloads.into_iter().map(offend).collect()
}

/// Connections that have asked for as much as may be in flight, of each type in turn.
fn asking(stage: &Stage, connections: usize, types: &[MessageType]) -> Vec<Peer> {
    asking_for(stage, connections, IN_FLIGHT, types)
}

fn asking_for(
    stage: &Stage,
    connections: usize,
    requests: u64,
    types: &[MessageType],
) -> Vec<Peer> {
    let mut peers: Vec<Peer> = (0..connections).map(|_| Peer::connect(stage)).collect();
    for peer in &mut peers {
        for (id, message_type) in (0..requests).zip(types.iter().cycle()) {
            peer.send(*message_type, id, PROMPT);
        }
    }
    peers
}

/// The twins of those who never read.
fn reading(mut peers: Vec<Peer>, until: Until) -> Vec<Seen> {
    while until.goes_on() {
        for peer in &mut peers {
            while until.goes_on() && peer.take().is_some() {}
            if peer.region.view().daemon_blocked().take() {
                peer.ring();
            }
        }
    }
    vec![Seen::Left; peers.len()]
}

/// Asks for pages, reads none, and looks how others fare meanwhile.
fn never_reads_pages(stage: &Stage, connections: usize, pages: u64) -> Vec<Seen> {
    let mut peers: Vec<Peer> = (0..connections).map(|_| Peer::connect(stage)).collect();
    for peer in &mut peers {
        for id in 0..pages {
            peer.send(MessageType::METRICS, id, b"");
        }
    }
    thread::sleep(Duration::from_millis(100));
    others_are_served(stage);
    vec![Seen::Left; peers.len() + 1]
}

/// The same with streams, whose chunks are small.
fn never_reads_streams(stage: &Stage, connections: usize) -> Vec<Seen> {
    let mut peers: Vec<Peer> =
        (0..connections).map(|_| Peer::with(stage, 1 << 14, Features::empty())).collect();
    for peer in &mut peers {
        for id in 0..IN_FLIGHT {
            send_patiently(peer, MessageType::STREAM, id, PROMPT);
        }
    }
    // Until the daemon has taken all that it will take.
    let taken = || peers.iter().map(|peer| peer.line(3).load(Relaxed)).sum::<u64>();
    let until = Until::after(Duration::from_secs(10));
    let mut before = 0;
    while taken() != before && until.goes_on() {
        before = taken();
        thread::sleep(Duration::from_millis(300));
    }
    others_are_served(stage);
    vec![Seen::Left; peers.len() + 1]
}

/// Whoever comes while others hold what they can gets everything, within a deadline.
///
/// The honest client does the same all the time, but would need longer to say that it is starved.
fn others_are_served(stage: &Stage) {
    let mut connection = newcomer(&stage.daemon.options());
    let options = RequestOptions::within(Duration::from_secs(8));
    let mut answer = Vec::new();
    let mut ask = |message_type, payload: &[u8]| {
        connection.call_with(message_type, payload, options, &mut answer).unwrap_or_else(|error| {
            panic!("{message_type} of {} bytes beside the attack: {error}", payload.len())
        });
    };
    ask(MessageType::ECHO, b"small");
    ask(MessageType::ECHO, &[7; 70_000]);
    ask(MessageType::HEARTBEAT, b"");
    ask(MessageType::COMPLETE, PROMPT);
}

/// Connects, and tries again while the daemon is full of those who have just left.
fn newcomer(options: &ConnectOptions) -> Connection {
    let until = Until::after(PATIENCE);
    loop {
        match Connection::connect(options) {
            Ok(connection) => return connection,
            Err(error) => assert!(until.goes_on(), "{error}"),
        }
    }
}
