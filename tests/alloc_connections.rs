//! Clients that come and go, break the protocol or are refused leave nothing behind: no block on a
//! data shard, and not one byte of heap in the whole process that was not there before.
#![cfg(feature = "cli")]

mod audit;
mod common;

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::client::{Connection, WaitPolicy};
use annulus::limits::{HOME_SIZE, LINE_SIZE, WORD_SIZE};
use annulus::region::{Doorbell, Region, RegionLayout, create_region_file};
use annulus::ring::Producer;
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{Fault, Features, FrameHeader, Hello, Position, Status, WELCOME_SIZE, Welcome};
use annulus::{AsyncRequest, AsyncResponder};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use zerocopy::IntoBytes as _;

use audit::allocator::bytes_live;
use audit::{Audit, echo, print, repeat, wait_for};
use common::{RawPeer, send_with_descriptors};

/// Never answers.
const HOLD: MessageType = MessageType::user(0);
/// Connections that are made before anything is measured, so that every list has its size.
const WARM_UP: usize = 100;
const CYCLES: usize = 1_000;
/// Tries to end with no more bytes than at the beginning, and looks at each end, a millisecond apart.
const ROUNDS: usize = 4;
const LOOKS: usize = 1_000;
/// Clients that commit the same fault.
const OFFENDERS: usize = 20;
const CAPACITY: u64 = 1 << 16;
const CONNECTIONS_MAX: usize = 8;

#[test]
fn alloc_clients_that_come_and_go_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let settings = format!(
        "ipc.max_connections = {CONNECTIONS_MAX}\nipc.max_message_size = 4096\nshards.count = 2"
    );
    let mut audit = Audit::start(directory.path(), &settings, |builder| {
        builder.register_async_handler(HOLD, async |_: AsyncRequest, _: AsyncResponder| {
            std::future::pending::<()>().await;
            Ok(())
        })
    });

    measure(&mut audit, "connect, serve, disconnect", CYCLES, |audit| {
        echo(&mut connect(audit), 100, 1);
    });
    measure(&mut audit, "connect, disconnect with a request in flight", CYCLES / 10, |audit| {
        let mut client = connect(audit);
        client.try_send(HOLD, b"never heard of again").unwrap().unwrap();
        client.notify();
        // A worker answers it behind the request before.
        client.try_send(MessageType::HEARTBEAT, &[]).unwrap().unwrap();
        client.notify();
        client.wait(None).unwrap();
    });
    measure(&mut audit, "refused as one too many", OFFENDERS, |audit| {
        // The audit itself holds a connection.
        let held: Vec<Connection> = (1..CONNECTIONS_MAX).map(|_| connect(audit)).collect();
        Connection::connect(&audit.options()).unwrap_err();
        drop(held);
    });
    for (fault, offence) in OFFENCES {
        measure_fault(&mut audit, fault, offence);
    }
    for (fault, hello) in BAD_HELLOS {
        measure_fault(&mut audit, fault, hello);
    }
    // A fault of tools that decode a buffer; no client can cause it.
    let caused = OFFENCES.len() + BAD_HELLOS.len() + 1;
    assert_eq!(caused, Fault::NAMES.len(), "every fault that a client can cause is here");
    measure(&mut audit, "a message that is too large", OFFENDERS, |audit| {
        let mut peer = raw(audit, Features::empty());
        let mut header = request(1);
        header.payload_size = peer.welcome.message_size_max + 1;
        // Home is too small for it: past padding, at the ring's start.
        place(&peer, HOME_SIZE, header);
        place(&peer, 0, FrameHeader::padding(HOME_SIZE));
        let goodbye = peer.goodbye().expect("a last word");
        assert_eq!(Status::from_wire(goodbye.status), Status::MessageTooLarge);
    });
    let before = bytes_live();
    std::mem::forget(std::hint::black_box(Box::new(7_u64)));
    assert_eq!(bytes_live() - before, 8, "canary: eight bytes that are leaked are seen");
    audit.finish();
}

/// Warms up, then runs `cycle` so often, and expects that the process holds as many bytes as before.
///
/// A worker's tables grow with the most that it ever had at one time, which depends on how the threads
/// happen to run. That ends; what grows in every round is a leak.
fn measure(audit: &mut Audit, name: &str, cycles: usize, mut cycle: impl FnMut(&Audit)) {
    for _ in 0..WARM_UP.min(cycles) {
        cycle(audit);
    }
    wait_until_alone(audit);
    audit.settle();
    audit.count();
    let mut grown = [0; ROUNDS];
    for grown in &mut grown {
        let before = bytes_live();
        let blocks = audit.measure(name, |audit| {
            repeat(cycles, || cycle(audit));
            wait_until_alone(audit);
            cycles
        });
        assert!(blocks.control > 0, "the control thread allocates a little, so counting works");
        // What a worker drops in its own time is waited for.
        for _ in 0..LOOKS {
            *grown = bytes_live() - before;
            if *grown <= 0 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        print(&format!("{:<48} {grown:>10} bytes more than before: once more", ""));
    }
    panic!("{name}: the heap grew in every round, in bytes by {grown:?}");
}

fn measure_fault(audit: &mut Audit, fault: &str, mut offence: impl FnMut(&Audit)) {
    let series = format!("annulus_faults_total{{fault=\"{fault}\"}}");
    let before = audit.series(&series);
    let mut offences = 0;
    measure(audit, fault, OFFENDERS, |audit| {
        offences += 1;
        offence(audit);
    });
    assert_eq!(audit.series(&series) - before, offences, "{fault}");
}

/// Until the audit's own connection is the only one, so that the next cycle finds room.
fn wait_until_alone(audit: &Audit) {
    wait_for("the connections to be gone", || {
        let open = |shard| audit.server.metrics().shard(shard).activity.connections_open.value();
        open(0) + open(1) == 1
    });
}

/// Connects as soon as there is room: a slot is free a moment after its client has gone.
fn connect(audit: &Audit) -> Connection {
    let mut connected = None;
    let options = audit.options().wait(WaitPolicy::default());
    wait_for("a free slot", || {
        connected = Connection::connect(&options).ok();
        connected.is_some()
    });
    connected.unwrap()
}

/// A client that does as it likes, connected as soon as there is room.
fn raw(audit: &Audit, features: Features) -> RawPeer {
    wait_until_alone(audit);
    let mut peer = None;
    wait_for("a free slot", || {
        peer = RawPeer::try_connect(audit.server.socket_path(), features);
        peer.is_some()
    });
    peer.unwrap()
}

/// Stores a header at so many bytes behind the start of the request ring's home, sealed for its
/// place, and rings.
fn place(peer: &RawPeer, behind: u64, header: FrameHeader) {
    place_words(peer, behind, header.sealed(position(peer, behind)));
}

fn position(peer: &RawPeer, behind: u64) -> Position {
    Position(peer.region.layout().request_home().offset + behind)
}

fn place_words(peer: &RawPeer, behind: u64, words: [u64; 4]) {
    let layout = peer.region.layout();
    let offset = position(peer, behind).0 % layout.request_capacity();
    let start = usize::try_from((layout.request_offset() + offset) / 8).unwrap();
    let memory = &peer.region.words()[start..start + 4];
    for (target, word) in memory.iter().zip(words).skip(1) {
        target.store(word, Relaxed);
    }
    memory[0].store(words[0], Release);
    peer.request_doorbell.ring();
}

/// The daemon's last word is `fault`.
fn expect_goodbye(mut peer: RawPeer, fault: &str) {
    let goodbye = peer.goodbye().expect("a last word");
    assert_eq!(goodbye.fault_name(), Some(fault));
}

fn request(id: u64) -> FrameHeader {
    FrameHeader::request(MessageType::ECHO, id)
}

type Offence = fn(&Audit);

/// Every fault of a client that is connected.
const OFFENCES: [(&str, Offence); 10] = [
    ("frame_mark", |audit| {
        let peer = raw(audit, Features::empty());
        place_words(&peer, 0, [1, 2, 3, 4]);
        expect_goodbye(peer, "frame_mark");
    }),
    ("header_check", |audit| {
        let peer = raw(audit, Features::empty());
        let mut words = request(1).sealed(position(&peer, 0));
        words[1] ^= 1;
        place_words(&peer, 0, words);
        expect_goodbye(peer, "header_check");
    }),
    ("payload_check", |audit| {
        let peer = raw(audit, Features::PAYLOAD_CHECK);
        let mut header = request(1);
        (header.payload_size, header.payload_check) = (8, 1);
        place(&peer, 0, header);
        expect_goodbye(peer, "payload_check");
    }),
    ("undefined_bits", |audit| {
        let peer = raw(audit, Features::empty());
        let mut header = request(1);
        header.reserved = 1;
        place(&peer, 0, header);
        expect_goodbye(peer, "undefined_bits");
    }),
    ("frame_overrun", |audit| {
        let peer = raw(audit, Features::empty());
        let mut header = request(1);
        header.payload_size = 4096;
        place(&peer, 0, header);
        expect_goodbye(peer, "frame_overrun");
    }),
    ("padding", |audit| {
        let peer = raw(audit, Features::empty());
        // From the last to the first: the daemon sees either none of them or all.
        for unit in (0..5).rev() {
            place(&peer, unit * 64, FrameHeader::padding(64));
        }
        expect_goodbye(peer, "padding");
    }),
    ("head_overrun", |audit| {
        let peer = raw(audit, Features::empty());
        let layout = peer.region.layout();
        // Line 1 of the shared header: our head, which says that we have read what was never sent.
        let head = (layout.request_capacity() + HOME_SIZE + LINE_SIZE) / WORD_SIZE;
        let head = usize::try_from(head).unwrap();
        peer.region.words()[head].store(1 << 20, Release);
        let mut producer = Producer::new(layout.request_home(), false);
        // The daemon looks at the head only when it seems to have no space left.
        for id in 0..64 {
            let published =
                producer.publish(peer.region.view().request_ring(), request(id), &[0; 960]);
            peer.request_doorbell.ring();
            if published.is_err() {
                break;
            }
        }
        expect_goodbye(peer, "head_overrun");
    }),
    ("reserved_message_type", |audit| {
        let peer = raw(audit, Features::empty());
        place(&peer, 0, FrameHeader::request(MessageType::from_wire(u16::MAX), 1));
        expect_goodbye(peer, "reserved_message_type");
    }),
    ("request_id_in_use", |audit| {
        let peer = raw(audit, Features::empty());
        place(&peer, 0, FrameHeader::request(HOLD, 1));
        place(&peer, 64, FrameHeader::request(HOLD, 1));
        expect_goodbye(peer, "request_id_in_use");
    }),
    ("socket_bytes", |audit| {
        let mut peer = raw(audit, Features::empty());
        peer.socket.write_all(b"hello?").unwrap();
        expect_goodbye(peer, "socket_bytes");
    }),
];

/// Every fault of a handshake.
const BAD_HELLOS: [(&str, Offence); 8] = [
    ("handshake_magic", |audit| {
        let mut hello = honest_hello().as_bytes().to_vec();
        hello[0] ^= 1;
        refused(audit, &hello, &gifts(), "handshake_magic");
    }),
    ("handshake_cut", |audit| {
        let hello = honest_hello();
        let socket = UnixStream::connect(audit.server.socket_path()).unwrap();
        send_with_descriptors(&socket, &hello.as_bytes()[..20], &[]);
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        expect_refusal(&socket, "handshake_cut");
    }),
    ("descriptor_count", |audit| {
        refused(audit, honest_hello().as_bytes(), &gifts()[..2], "descriptor_count");
    }),
    ("not_an_eventfd", |audit| {
        let mut gifts = gifts();
        gifts[1] = create_region_file(4096).unwrap();
        refused(audit, honest_hello().as_bytes(), &gifts, "not_an_eventfd");
    }),
    ("region_seals", |audit| {
        let mut gifts = gifts();
        gifts[0] = memfd_create("unsealed", MemfdFlags::CLOEXEC).unwrap();
        refused(audit, honest_hello().as_bytes(), &gifts, "region_seals");
    }),
    ("region_size", |audit| {
        let mut gifts = gifts();
        gifts[0] = create_region_file(4096).unwrap();
        refused(audit, honest_hello().as_bytes(), &gifts, "region_size");
    }),
    ("ring_capacity", |audit| {
        let hello = Hello::new(CAPACITY + 64, CAPACITY, 1, Features::empty());
        refused(audit, hello.as_bytes(), &gifts(), "ring_capacity");
    }),
    ("region_unmappable", |audit| {
        let mut gifts = gifts();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        gifts[0] = memfd_create("sealed against writes", flags).unwrap();
        ftruncate(&gifts[0], layout().size()).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
        fcntl_add_seals(&gifts[0], seals).unwrap();
        refused(audit, honest_hello().as_bytes(), &gifts, "region_unmappable");
    }),
];

fn layout() -> RegionLayout {
    RegionLayout::new(CAPACITY, CAPACITY)
}

fn honest_hello() -> Hello {
    Hello::new(CAPACITY, CAPACITY, 1, Features::empty())
}

/// What an honest client passes.
fn gifts() -> [OwnedFd; 3] {
    let (_, file) = Region::create(layout()).unwrap();
    let doorbell = || Doorbell::new().unwrap().as_fd().try_clone_to_owned().unwrap();
    [file, doorbell(), doorbell()]
}

/// Sends a Hello with `gifts` and expects to be refused for `fault`.
fn refused(audit: &Audit, hello: &[u8], gifts: &[OwnedFd], fault: &str) {
    let socket = UnixStream::connect(audit.server.socket_path()).unwrap();
    let gifts: Vec<BorrowedFd<'_>> = gifts.iter().map(AsFd::as_fd).collect();
    send_with_descriptors(&socket, hello, &gifts);
    expect_refusal(&socket, fault);
}

fn expect_refusal(mut socket: &UnixStream, fault: &str) {
    let mut bytes = [0; WELCOME_SIZE];
    socket.read_exact(&mut bytes).unwrap();
    let welcome = Welcome::decode(&bytes).unwrap();
    assert_eq!(welcome.fault_name(), Some(fault));
}
