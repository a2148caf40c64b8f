//! Hostile peers, theme two: what a client can do before it is one.
//!
//! The harness is `common/hostile/`; `docs/verification.md` says what is shown.
#![cfg(feature = "cli")]

mod common;
#[path = "hostile_handshake/crowds.rs"]
mod crowds;
#[path = "hostile_handshake/descriptors.rs"]
mod descriptors;
#[path = "hostile_handshake/doorbells.rs"]
mod doorbells;
#[path = "hostile_handshake/hello.rs"]
mod hello;
#[path = "common/hostile/mod.rs"]
mod hostile;
#[path = "hostile_handshake/regions.rs"]
mod regions;

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use annulus::wire::{Features, Status};
use rustix::process::Signal;
use zerocopy::IntoBytes as _;

use common::{Daemon, role_socket};
use descriptors::try_pass;
use hello::changed;
use hostile::{
    Attack, CAPACITY, Gifts, PATIENCE, Peer, Seen, Siege, Stage, Until, again, answer, bell,
    comes_and_goes, comes_and_goes_beside_echoes, connect, hello, one_after_the_other, refused,
};

/// Connections that this theme's daemon serves at once.
///
/// More than handshakes can be under way, and than the rows, which wait for a shard before they come
/// again, leave behind: only those are refused who are too many.
const CONNECTIONS: usize = 400;

/// How long its handshakes may take.
const HANDSHAKE_MS: u64 = 300;

const OTHERS: &[Attack] = &[Attack {
    name: "another user, past open permissions",
    run: another_user,
    must: &[Seen::Refused(Status::NotAuthorized, None)],
    timed: again(|stage, work| {
        one_after_the_other(work, || as_user(stage, rustix::process::getuid().as_raw()))
    }),
}];

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
    for attacks in [
        hello::ATTACKS,
        descriptors::ATTACKS,
        regions::ATTACKS,
        doorbells::ATTACKS,
        crowds::ATTACKS,
        OTHERS,
    ] {
        stage.suffer(attacks);
    }
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
