//! Hostile peers, theme two: what a client can do before it is one.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "common/hostile/mod.rs"]
mod hostile;

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use annulus::region::RegionLayout;
use annulus::wire::{Features, HELLO_SIZE, Hello, Status};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use zerocopy::IntoBytes as _;

use common::{Daemon, role_socket, send_with_descriptors};
use hostile::{
    Attack, CAPACITY, Gifts, PATIENCE, Peer, Seen, Siege, Stage, Until, again, again_when_let_go,
    answer, bell, comes_and_goes, comes_and_goes_beside_echoes, connect, crowd, fault, hello,
    offer, one_after_the_other, refused, region_refused, visits,
};

/// Connections that this theme's daemon serves at once.
///
/// More than handshakes can be under way, and than a row that is repeated without a pause leaves behind
/// while a shard waits 40 ms for a core: only those are refused who are too many.
const CONNECTIONS: usize = 400;
/// How long its handshakes may take.
const HANDSHAKE_MS: u64 = 300;

const ATTACKS: &[Attack] = &[
    Attack {
        name: "Hello cut after each byte, and gone",
        run: |stage| {
            cut_anywhere(stage, |socket| {
                drop(socket);
                Seen::LeftEarly
            })
        },
        must: &[Seen::LeftEarly],
        timed: again(|stage, work| comes_and_goes_beside_echoes(stage, work.until)),
    },
    Attack {
        name: "Hello cut after each byte, and half closed",
        run: |stage| {
            cut_anywhere(stage, |socket| {
                socket.shutdown(Shutdown::Write).unwrap();
                answer(&socket)
            })
        },
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "nothing sent, until the timeout",
        run: |stage| vec![answer(&connect(stage))],
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "Hello byte by byte, until the timeout",
        run: byte_by_byte_too_slowly,
        must: &[refused("handshake_cut")],
        timed: again(visits),
    },
    Attack {
        name: "Hello byte by byte, in time",
        run: byte_by_byte,
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "Hello twice in one write",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let socket = connect(stage);
            let twice = [hello().as_bytes(), hello().as_bytes()].concat();
            send_with_descriptors(&socket, &twice, &gifts.all());
            assert_eq!(answer(&socket), Seen::Served);
            vec![last_word(socket)]
        },
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "Hello once more after the Welcome, with descriptors",
        run: |stage| {
            let mut peer = Peer::connect(stage);
            send_with_descriptors(&peer.socket, hello().as_bytes(), &peer.gifts.all());
            vec![peer.goodbye()]
        },
        must: &[fault("socket_bytes")],
        timed: again(visits),
    },
    Attack {
        name: "each byte of the magic wrong",
        run: |stage| changed(stage, 0..8, |at, bytes| bytes[at] ^= 0x20),
        must: &[refused("handshake_magic")],
        timed: again(visits),
    },
    Attack {
        name: "other major versions",
        run: |stage| {
            let set = |version: u16, bytes: &mut [u8]| {
                bytes[8..10].copy_from_slice(&version.to_le_bytes());
            };
            changed(stage, [0, 2, 0x0101, u16::MAX], set)
        },
        must: &[Seen::Refused(Status::VersionUnsupported, None)],
        timed: again(visits),
    },
    Attack {
        name: "a minor version from the future",
        run: |stage| {
            changed(stage, [1_u16, u16::MAX], |version, bytes| {
                bytes[10..12].copy_from_slice(&version.to_le_bytes());
            })
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "every feature bit that there is not",
        run: |stage| {
            let unknown = Features::from_bits_retain(u32::MAX);
            let (region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let mut peer = Peer::bringing(&stage.socket(), region, gifts, unknown);
            assert_eq!(peer.welcome.features, Features::PAYLOAD_CHECK.bits());
            vec![peer.is_served()]
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "codecs that nobody has",
        run: |stage| changed(stage, [0, 3, 127, 128, 255], |codec: u8, bytes| bytes[32] = codec),
        must: &[Seen::Refused(Status::CodecUnsupported, None)],
        timed: again(visits),
    },
    Attack {
        name: "reserved bytes of the Hello set",
        run: |stage| changed(stage, 33..64, |at, bytes| bytes[at] = 0xFF),
        must: &[Seen::Served],
        timed: again(visits),
    },
    Attack {
        name: "capacities that are zero, odd, tiny, huge or overflow together",
        run: capacities,
        must: &[region_refused("ring_capacity")],
        timed: again(visits),
    },
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
    Attack {
        name: "the connection's own socket as the region",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let socket = connect(stage);
            let [_, first, second] = gifts.all();
            send_with_descriptors(&socket, hello().as_bytes(), &[socket.as_fd(), first, second]);
            vec![answer(&socket)]
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a region that is no memory: pipe, device, directory, socket, eventfd, epoll",
        run: |stage| {
            let (_region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
            strange_files(Path::new("/dev/zero"))
                .into_iter()
                .map(|file| {
                    gifts.region = file;
                    offer(stage, &hello(), &gifts)
                })
                .collect()
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "each choice of seals that lacks one",
        run: |stage| {
            let all = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL];
            let choice = |bits: usize| {
                (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| all[bit]).collect()
            };
            (0..7).map(|bits| with_memfd(stage, size(), choice(bits))).collect()
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "regular files, on disk and on tmpfs",
        run: regular_files,
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a memfd of huge pages",
        run: huge_pages,
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a region that is empty, too small or too large",
        run: |stage| {
            let sizes = [0, 1, 4096, size() - 4096, size() - 1, size() + 1, size() + 4096, 1 << 40];
            sizes.map(|size| with_memfd(stage, size, SEALS)).into()
        },
        must: &[region_refused("region_size")],
        timed: again(visits),
    },
    Attack {
        name: "a region that shrank before it was sealed",
        run: |stage| {
            let file = memfd(size(), SealFlags::empty());
            rustix::fs::ftruncate(&file, size() / 2).unwrap();
            rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
            vec![with_region(stage, file)]
        },
        must: &[region_refused("region_size")],
        timed: again(visits),
    },
    Attack {
        name: "a region sealed against writing, now or later",
        run: |stage| {
            [SealFlags::WRITE, SealFlags::FUTURE_WRITE]
                .map(|seal| with_memfd(stage, size(), SEALS | seal))
                .into()
        },
        must: &[region_refused("region_unmappable")],
        timed: again(visits),
    },
    Attack {
        name: "a region opened for reading or writing only",
        run: |stage| {
            [OFlags::RDONLY, OFlags::WRONLY]
                .map(|flags| with_region(stage, reopened(&memfd(size(), SEALS), flags).unwrap()))
                .into()
        },
        must: &[region_refused("region_unmappable")],
        timed: again(visits),
    },
    Attack {
        name: "a region opened as a mere path",
        run: |stage| {
            vec![with_region(stage, reopened(&memfd(size(), SEALS), OFlags::PATH).unwrap())]
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "an executable region",
        run: executable_region,
        must: &[Seen::Served],
        timed: again(visits),
    },
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
                answer(&socket)
            };
            (0..20).map(offend).collect()
        },
        must: &[Seen::Served],
        timed: again(visits),
    },
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
                socket.write_all(&hello().as_bytes()[..index]).unwrap();
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
    Attack {
        name: "another user, past open permissions",
        run: another_user,
        must: &[Seen::Refused(Status::NotAuthorized, None)],
        timed: again(|stage, work| {
            one_after_the_other(work, || as_user(stage, rustix::process::getuid().as_raw()))
        }),
    },
];

const SIEGES: &[Siege] = &[
    Siege {
        name: "siege: connects and hangs up",
        attack: |stage, until| {
            let mut seen = Vec::new();
            while until.goes_on() {
                drop(connect(stage));
                seen.push(Seen::LeftEarly);
            }
            seen
        },
        twin: comes_and_goes_beside_echoes,
        must: &[Seen::LeftEarly],
    },
    Siege {
        name: "siege: refused and back again",
        attack: |stage, until| {
            let mut seen = Vec::new();
            while until.goes_on() {
                seen.extend(changed(stage, [0_usize], |at, bytes| bytes[at] = 0));
            }
            seen
        },
        twin: comes_and_goes,
        must: &[refused("handshake_magic")],
    },
    Siege {
        name: "siege: descriptors by the hundred",
        attack: |stage, until| {
            let files: Vec<OwnedFd> = (0..253).map(|_| bell()).collect();
            let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            let mut seen = Vec::new();
            while until.goes_on() {
                let socket = connect(stage);
                let _ = try_pass(&socket, b"ANNULUS", &files);
                seen.push(answer(&socket));
            }
            seen
        },
        twin: comes_and_goes,
        must: &[refused("descriptor_count")],
    },
    Siege {
        name: "siege: a Hello that drips while others stall",
        attack: |stage, until| {
            let sockets: Vec<UnixStream> = (0..20).map(|_| connect(stage)).collect();
            let mut sent = 0;
            while until.goes_on() && sent < 60 {
                for socket in &sockets {
                    let mut socket = socket;
                    // Refused by now, if the window is longer than a handshake may take.
                    let _ = socket.write_all(&hello().as_bytes()[sent..=sent]);
                }
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            drop(sockets);
            vec![Seen::LeftEarly; 20]
        },
        twin: comes_and_goes_beside_echoes,
        must: &[Seen::LeftEarly],
    },
    Siege {
        name: "siege: knocks at a full daemon",
        attack: |stage, until| {
            let before = stage.daemon.held();
            let held: Vec<Peer> = (2..CONNECTIONS).map(|_| Peer::connect(stage)).collect();
            let mut seen = vec![Seen::Left; held.len()];
            while until.goes_on() {
                seen.push(answer(&connect(stage)));
            }
            drop(held);
            // The twin is not to be refused for our sake.
            stage.daemon.wait_until_it_holds(before);
            seen
        },
        twin: comes_and_goes,
        must: &[Seen::Left, Seen::Refused(Status::Busy, None)],
    },
];

#[test]
fn whoever_is_no_client_is_refused_by_name_and_costs_nobody_anything() {
    let connections = format!("ipc.max_connections={CONNECTIONS}");
    let timeout = format!("ipc.handshake_timeout_ms={HANDSHAKE_MS}");
    let stage = Stage::new(&[&connections, &timeout]);
    stage.suffer(ATTACKS);
    stage.withstand(SIEGES);
    stage.finish();
}

/// The listener's backlog never empties, and each newcomer is refused at once.
#[test]
fn a_full_daemon_under_a_flood_of_newcomers_still_stops() {
    let mut daemon = Daemon::start(&["ipc.max_connections=1", "ipc.shutdown_timeout_secs=1"]);
    let held = Peer::at(&daemon.socket(), CAPACITY, Features::empty());
    let socket = daemon.socket();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let until = Until::after(Duration::from_secs(20));
                while until.goes_on() && !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = UnixStream::connect(&socket);
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        daemon.signal(Signal::TERM);
        let mut code = None;
        while code.is_none() && began.elapsed() < Duration::from_secs(15) {
            code = daemon.child.try_wait().unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("stopped after {:?}", began.elapsed());
        assert_eq!(code.and_then(|code| code.code()), Some(0), "it goes on accepting");
    });
    drop(held);
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Bytes of a region with two rings of [`CAPACITY`].
fn size() -> u64 {
    RegionLayout::new(CAPACITY, CAPACITY).size()
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("annulus-region", flags).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    if !seals.is_empty() {
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    }
    file
}

fn with_region(stage: &Stage, region: OwnedFd) -> Seen {
    let gifts = Gifts { region, request_doorbell: bell(), response_doorbell: bell() };
    offer(stage, &hello(), &gifts)
}

fn with_memfd(stage: &Stage, size: u64, seals: SealFlags) -> Seen {
    with_region(stage, memfd(size, seals))
}

/// What an honest client brings, but for one doorbell.
fn with_bell(place: usize, other: OwnedFd) -> Gifts {
    let (_region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
    match place {
        1 => gifts.request_doorbell = other,
        _ => gifts.response_doorbell = other,
    }
    gifts
}

/// The same file, opened anew through procfs.
fn reopened(file: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

fn is_eventfd(file: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    link == Path::new("anon_inode:[eventfd]")
}

fn strange_files(device: &Path) -> Vec<OwnedFd> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let create = rustix::event::epoll::CreateFlags::CLOEXEC;
    vec![
        read,
        write,
        fs::File::options().read(true).write(true).open(device).unwrap().into(),
        fs::File::open("/").unwrap().into(),
        ours.into(),
        bell(),
        rustix::event::epoll::create(create).unwrap(),
    ]
}

fn last_word(mut socket: UnixStream) -> Seen {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    match annulus::wire::Goodbye::decode(&bytes) {
        Some(goodbye) => Seen::Closed(Status::from_wire(goodbye.status), goodbye.fault_name()),
        None => Seen::HungUp,
    }
}

/// One offender for each length of a Hello that is not whole.
fn cut_anywhere(stage: &Stage, end: fn(UnixStream) -> Seen) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let offend = |size: usize| {
        let socket = connect(stage);
        if size > 0 {
            send_with_descriptors(&socket, &hello().as_bytes()[..size], &gifts.all());
        }
        end(socket)
    };
    (0..HELLO_SIZE).map(offend).collect()
}

/// One offender for each value: a good Hello with something changed.
fn changed<T>(
    stage: &Stage,
    values: impl IntoIterator<Item = T>,
    change: fn(T, &mut [u8]),
) -> Vec<Seen> {
    let offend = |value| {
        let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
        let mut bytes = hello().as_bytes().to_vec();
        change(value, &mut bytes);
        let socket = connect(stage);
        send_with_descriptors(&socket, &bytes, &gifts.all());
        answer(&socket)
    };
    values.into_iter().map(offend).collect()
}

fn capacities(stage: &Stage) -> Vec<Seen> {
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let good = CAPACITY;
    let pairs = [
        (0, good),
        (good, 0),
        (1, good),
        (good - 1, good),
        (good + 64, good),
        (1 << 13, good),
        (good, 1 << 28),
        (1 << 63, 1 << 63),
        (u64::MAX, good),
        (u64::MAX - 4095, 4096),
        (3 << 14, 3 << 14),
    ];
    pairs
        .map(|(request, response)| {
            offer(stage, &Hello::new(request, response, 1, Features::empty()), &gifts)
        })
        .into()
}

fn byte_by_byte(stage: &Stage) -> Vec<Seen> {
    vec![spread(stage, &[0]), spread(stage, &[63])]
}

/// Single bytes; the descriptors come with the bytes at `places`, spread over them.
fn spread(stage: &Stage, places: &[usize]) -> Seen {
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
    answer(&socket)
}

fn byte_by_byte_too_slowly(stage: &Stage) -> Vec<Seen> {
    let socket = connect(stage);
    let pause = Duration::from_millis(2 * HANDSHAKE_MS / 64);
    for byte in hello().as_bytes() {
        if try_pass(&socket, &[*byte], &[]).is_err() {
            break;
        }
        thread::sleep(pause);
    }
    vec![answer(&socket)]
}

fn pass(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    try_pass(socket, bytes, descriptors).unwrap();
}

/// Sends bytes with up to 253 descriptors, the kernel's `SCM_MAX_FD`.
fn try_pass(
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
    vec![answer(&socket)]
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
    vec![answer(&socket)]
}

fn regular_files(stage: &Stage) -> Vec<Seen> {
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(size()).unwrap();
    let mut seen = vec![with_region(stage, on_disk.into())];
    match tempfile::tempfile_in("/dev/shm") {
        Err(_) => seen.push(Seen::Skipped("no tmpfs to write to")),
        Ok(file) => {
            file.set_len(size()).unwrap();
            seen.push(with_region(stage, file.into()));
        }
    }
    seen
}

fn huge_pages(stage: &Stage) -> Vec<Seen> {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB;
    let Ok(file) = rustix::fs::memfd_create("annulus-region", flags) else {
        println!("skipped: this kernel has no huge pages for memfds");
        return vec![Seen::Skipped("no huge pages here")];
    };
    // Reserves nothing before it is mapped, so a machine without free huge pages will do.
    if rustix::fs::ftruncate(&file, 4 << 20).is_err()
        || rustix::fs::fcntl_add_seals(&file, SEALS).is_err()
    {
        return vec![Seen::Skipped("no sealed huge pages here")];
    }
    vec![with_region(stage, file)]
}

fn executable_region(stage: &Stage) -> Vec<Seen> {
    let flags = [MemfdFlags::EXEC, MemfdFlags::NOEXEC_SEAL];
    let offend = |flag: MemfdFlags| {
        let flags = flag | MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let Ok(region) = rustix::fs::memfd_create("annulus-region", flags) else {
            return Seen::Skipped("this kernel knows no such flag");
        };
        rustix::fs::ftruncate(&region, size()).unwrap();
        rustix::fs::fcntl_add_seals(&region, SEALS).unwrap();
        let layout = RegionLayout::new(CAPACITY, CAPACITY);
        let mapped = annulus::region::Region::map(region.as_fd(), layout).unwrap();
        mapped.view().initialize();
        let gifts = Gifts { region, request_doorbell: bell(), response_doorbell: bell() };
        let mut peer = Peer::bringing(&stage.socket(), mapped, gifts, Features::empty());
        let served = peer.is_served();
        let maps = fs::read_to_string(format!("/proc/{}/maps", stage.daemon.child.id())).unwrap();
        let mut regions = maps.lines().filter(|line| line.contains("annulus-region"));
        assert!(regions.all(|line| line.contains(" rw-s ")), "{maps}");
        served
    };
    flags.map(offend).into()
}

/// The role of another user: says hello, and how it was answered.
#[test]
fn role_of_another_user() {
    let Some(socket) = role_socket() else { return };
    let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
    let socket = UnixStream::connect(socket).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The refusal may be there before the Hello.
    let _ = try_pass(&socket, hello().as_bytes(), &gifts.all());
    println!("\nanswered: {}", answer(&socket));
}

fn another_user(stage: &Stage) -> Vec<Seen> {
    const NOBODY: u32 = 65_534;
    vec![as_user(stage, NOBODY)]
}

/// What the daemon answers to a process of this user, past open permissions.
fn as_user(stage: &Stage, user: u32) -> Seen {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return Seen::Skipped("only root can become another user");
    }
    let socket = stage.socket();
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("another-user");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Somebody was careless: everything is open, and only the credentials are left.
    let open = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(place.path(), 0o755);
    open(&program, 0o755);
    open(socket.parent().unwrap(), 0o755);
    open(&socket, 0o666);
    let output = Command::new(&program)
        .args(["--exact", "role_of_another_user", "--nocapture", "--test-threads=1"])
        .env_clear()
        .env(common::ROLE, &socket)
        .current_dir("/")
        .uid(user)
        .gid(user)
        .stdin(Stdio::null())
        .output();
    open(&socket, 0o600);
    open(socket.parent().unwrap(), 0o700);
    let Ok(output) = output else {
        println!("skipped: another user cannot start this test");
        return Seen::Skipped("another user cannot start this test");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers = [Seen::Refused(Status::NotAuthorized, None), Seen::Served];
    let answered = |seen: &Seen| said.contains(&format!("answered: {seen}"));
    answers.into_iter().find(answered).unwrap_or_else(|| {
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        Seen::Silent
    })
}
