//! Two processes, real memfds, real eventfds: the daemon as a user runs it.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{Client, ConnectOptions, Connection, RequestOptions, WaitPolicy};
use annulus::protocol::{AIRequest, CodecId, FinishReason, Message, MessageRole, StreamEvent};
use annulus::sync::Ordering::{Relaxed, Release};
use annulus::wire::{FrameHeader, Position, Status};
use annulus::{IpcError, MessageType};
use rustix::process::Signal;

use common::{Daemon, RawPeer, role, role_socket, serve, wait_for};

fn prompt(text: &str) -> AIRequest {
    AIRequest::new("loopback", vec![Message::new(MessageRole::User, text)])
}

#[test]
fn payloads_of_every_size_come_back_as_they_went() {
    let daemon = Daemon::start(&[]);
    for payload_check in [false, true] {
        let options = daemon.options().payload_check(payload_check);
        let mut connection = Connection::connect(&options).unwrap();
        let mut answer = Vec::new();
        let around = [4095, 4096, 4097, 5000, 65_535, 65_536, 65_537];
        let sizes = [0, 1, 7, 8, 63, 64, 65].into_iter().chain(around).chain([1 << 20, 10 << 20]);
        for size in sizes {
            let payload: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            connection.call(MessageType::ECHO, &payload, &mut answer).unwrap();
            assert!(answer == payload, "{size} bytes");
        }
    }
}

#[test]
fn answers_larger_than_half_the_ring_pass_again_and_again_a_parked_client() {
    let daemon = Daemon::start(&[]);
    let mut connection = Connection::connect(&daemon.options().wait(WaitPolicy::PARK)).unwrap();
    let mut answer = Vec::new();
    for round in 0..12_u8 {
        let payload = vec![round; (9 << 20) + 77_777 * usize::from(round)];
        connection.call(MessageType::ECHO, &payload, &mut answer).unwrap();
        assert!(answer == payload, "round {round}");
    }
}

#[test]
fn a_completion_streams_and_arrives_whole_in_both_codecs() {
    let daemon = Daemon::start(&[]);
    for codec in [CodecId::JSON, CodecId::RKYV] {
        let client = Client::connect(&daemon.options().codec(codec)).unwrap();
        let whole = client.complete(&prompt("What is a ring?")).unwrap();
        assert!(whole.content.starts_with("You asked: What is a ring?"));
        let (mut text, mut ends) = (String::new(), 0);
        for event in client.stream_completion(&prompt("What is a ring?")).unwrap() {
            match event.unwrap() {
                StreamEvent::Text { text: piece } => text.push_str(&piece),
                StreamEvent::End { finish_reason, usage, .. } => {
                    assert_eq!((finish_reason, usage), (FinishReason::Stop, whole.usage));
                    ends += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((text, ends), (whole.content, 1));
    }
}

#[test]
fn a_dropped_stream_is_cancelled_and_the_connection_goes_on() {
    // Five seconds: it must not be over when the word of its end is heard.
    let daemon = Daemon::start(&["providers.loopback.chunks_per_second=2"]);
    let client = Client::connect(&daemon.options()).unwrap();
    let mut stream = client.stream_completion(&prompt("a long story")).unwrap();
    assert!(stream.next().unwrap().is_ok());
    drop(stream);
    client.ping().unwrap();
    wait_for("the cancelled stream to be counted", || {
        let page = client.call(MessageType::METRICS, b"").unwrap();
        let page = String::from_utf8(page).unwrap();
        page.contains("annulus_errors_total{type=\"stream\",status=\"cancelled\"} 1")
    });
}

#[test]
fn a_stream_that_fails_in_the_middle_is_an_error_and_never_a_short_answer() {
    let daemon = Daemon::start(&["providers.loopback.fail_after_chunks=3"]);
    let client = Client::connect(&daemon.options()).unwrap();
    let events: Vec<_> = client.stream_completion(&prompt("hello")).unwrap().collect();
    assert_eq!(events.iter().filter(|event| event.is_ok()).count(), 3);
    assert!(matches!(events.last(), Some(Err(IpcError::ProviderFailed { .. }))));
    assert!(matches!(client.complete(&prompt("hello")), Err(IpcError::ProviderFailed { .. })));
}

#[test]
fn a_deadline_ends_a_slow_request_on_both_sides() {
    let daemon = Daemon::start(&["providers.loopback.chunks_per_second=1"]);
    let client = Client::connect(&daemon.options()).unwrap();
    let options = RequestOptions::within(Duration::from_millis(50));
    let payload = br#"{"model":"loopback","messages":[{"role":"user","content":"slow"}]}"#;
    let ended = client.call_with(MessageType::COMPLETE, payload, options);
    assert!(matches!(ended, Err(IpcError::Timeout)), "{ended:?}");
    client.ping().unwrap();
}

#[test]
fn what_does_not_decode_is_answered_with_its_place_and_without_its_text() {
    let daemon = Daemon::start(&[]);
    let client = Client::connect(&daemon.options()).unwrap();
    let refused = client.call(MessageType::COMPLETE, br#"{"model": SECRET"#).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, IpcError::InvalidRequest { .. }), "{text}");
    assert!(text.contains("line 1") && !text.contains("SECRET"), "{text}");
    assert!(client.complete(&AIRequest::new("loopback", vec![])).is_err());
    let unknown = client.call(MessageType::user(5), b"");
    assert!(matches!(unknown, Err(IpcError::UnknownMessageType)), "{unknown:?}");
}

#[test]
fn too_large_is_refused_before_it_is_sent() {
    let daemon = Daemon::start(&["ipc.max_message_size=8192"]);
    let mut connection = daemon.connect();
    let mut answer = Vec::new();
    let refused = connection.call(MessageType::ECHO, &[0; 8193], &mut answer).unwrap_err();
    assert!(matches!(refused, IpcError::MessageTooLarge { size: 8193, max: 8192 }));
    connection.call(MessageType::ECHO, &[0; 8192], &mut answer).unwrap();
}

#[test]
fn one_connection_too_many_is_told_busy_and_when_to_come_back() {
    let daemon = Daemon::start(&["ipc.max_connections=3"]);
    let mut held: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    match Connection::connect(&daemon.options()) {
        Err(IpcError::Busy { retry_after }) => assert!(retry_after > Duration::ZERO),
        other => panic!("{other:?}"),
    }
    held.pop();
    wait_for("the place to be free", || Connection::connect(&daemon.options()).is_ok());
    held[0].call(MessageType::ECHO, b"still served", &mut Vec::new()).unwrap();
}

#[test]
fn a_silent_connection_is_closed_and_told_so() {
    let daemon = Daemon::start(&["ipc.idle_timeout_secs=1"]);
    let mut peer = RawPeer::connect(&daemon.socket());
    assert_eq!(peer.welcome.idle_timeout_secs, 1);
    let goodbye = peer.goodbye().expect("a last word");
    assert_eq!(Status::from_wire(goodbye.status), Status::IdleTimeout);
}

#[test]
fn bytes_on_the_socket_are_a_fault_with_a_name() {
    let daemon = Daemon::start(&[]);
    let mut peer = RawPeer::connect(&daemon.socket());
    peer.socket.write_all(b"hello?").unwrap();
    assert_eq!(peer.goodbye().expect("a last word").fault_name(), Some("socket_bytes"));
}

#[test]
fn several_shards_share_the_connections() {
    let daemon = Daemon::start(&["shards.count=2"]);
    let mut connections: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for connection in &mut connections {
        connection.call(MessageType::ECHO, b"x", &mut Vec::new()).unwrap();
    }
    let client = Client::connect(&daemon.options()).unwrap();
    let page = String::from_utf8(client.call(MessageType::METRICS, b"").unwrap()).unwrap();
    for shard in ["0", "1"] {
        let row = format!("annulus_connections_open{{shard=\"{shard}\"}} ");
        let open: u32 =
            page.lines().find_map(|line| line.strip_prefix(&row)).unwrap().parse().unwrap();
        assert!((4..=5).contains(&open), "shard {shard} has {open}");
    }
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_ones_socket_is_taken_over() {
    let mut daemon = Daemon::start(&[]);
    let second = serve(&daemon.socket(), &[]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains("already serves"), "{said}");
    daemon.connect();

    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(daemon.socket().exists(), "kill -9 leaves the socket behind");
    let mut third = serve(&daemon.socket(), &[]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(third.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let served = Connection::connect(&daemon.options()).is_ok();
    third.kill().unwrap();
    third.wait().unwrap();
    assert!(served, "{line}");
}

#[test]
fn stopping_finishes_the_stream_that_is_under_way() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&["providers.loopback.chunks_per_second=200"]);
        let client = Client::connect(&daemon.options()).unwrap();
        let mut stream = client.stream_completion(&prompt("drain me")).unwrap();
        stream.next().unwrap().unwrap();
        daemon.signal(signal);
        let rest: Vec<_> = stream.map(Result::unwrap).collect();
        assert!(matches!(rest.last(), Some(StreamEvent::End { .. })));
        let (code, said) = daemon.exit();
        assert_eq!(code, Some(0), "{said}");
        assert!(!daemon.socket().exists());
        assert!(client.ping().is_err());
    }
}

#[test]
fn an_idle_daemon_makes_no_wake_ups() {
    let daemon = Daemon::start(&[]);
    // With a client that has been served and then stays quiet, it is just as idle.
    let mut connection = daemon.connect();
    connection.call(MessageType::ECHO, b"x", &mut Vec::new()).unwrap();
    // Each thread goes to rest when it next has a core. One that wakes up once a second never does.
    let mut before = daemon.activity();
    wait_for("the daemon to rest", || {
        thread::sleep(Duration::from_secs(1));
        let rested = std::mem::replace(&mut before, daemon.activity());
        rested == before
    });
    thread::sleep(Duration::from_secs(10));
    let after = daemon.activity();
    println!("10 s idle: {} ticks of 10 ms, {} wake-ups", after.0 - before.0, after.1 - before.1);
    assert_eq!(after, before);
}

#[test]
fn it_listens_soon_after_it_starts() {
    let mut times: Vec<Duration> = (0..5).map(|_| Daemon::start(&[]).start_up).collect();
    times.sort();
    println!("from exec to listening, of five: {times:?}");
    // A debug build on a busy machine; the figure to quote is a release build's.
    assert!(times[2] < Duration::from_secs(2));
}

/// The client that dies: it leaves half a frame in its ring, says so, and waits to be killed.
#[test]
fn role_leaves_half_a_frame() {
    let Some(socket) = role_socket() else { return };
    let peer = RawPeer::connect(&socket);
    let home = peer.region.layout().request_home();
    let position = Position(home.offset);
    let words = FrameHeader::request(MessageType::ECHO, 1).sealed(position);
    let layout = peer.region.layout();
    let start = usize::try_from((layout.request_offset() + home.offset) / 8).unwrap();
    // All but the first word: what a producer has stored when it dies just before publishing.
    let mapping = peer.region.words();
    for (index, word) in words.iter().enumerate().skip(1) {
        mapping[start + index].store(*word, Relaxed);
    }
    peer.request_doorbell.ring();
    // Every other one also leaves a frame that announces more than is there.
    if std::process::id().is_multiple_of(2) {
        mapping[start].store(words[0], Release);
    }
    println!("half a frame");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn clients_killed_in_mid_frame_leave_nothing_behind() {
    const DEATHS: usize = 1000;
    const AT_ONCE: usize = 8;
    let daemon = Daemon::start(&[]);
    let mut honest = daemon.connect();
    let mut answer = Vec::new();
    // A worker answers this one: it has come up, and opened what it needs, when it does.
    honest.call(MessageType::HEARTBEAT, b"", &mut answer).unwrap();
    let before = daemon.held();
    let started = Instant::now();
    for _ in 0..DEATHS / AT_ONCE {
        let mut doomed: Vec<_> =
            (0..AT_ONCE).map(|_| role("role_leaves_half_a_frame", &daemon.socket())).collect();
        for child in &mut doomed {
            let stdout = BufReader::new(child.stdout.as_mut().unwrap());
            assert!(stdout.lines().any(|line| line.unwrap().contains("half a frame")));
        }
        honest.call(MessageType::ECHO, b"meanwhile", &mut answer).unwrap();
        for child in &mut doomed {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        honest.call(MessageType::ECHO, b"after", &mut answer).unwrap();
        assert_eq!(answer, b"after");
    }
    daemon.wait_until_it_holds(before);
    println!(
        "{DEATHS} clients killed in {:?}; descriptors and regions before {before:?}, after {:?}",
        started.elapsed(),
        daemon.held()
    );
}

/// The client that dies while it is streamed to.
#[test]
fn role_is_streamed_to() {
    let Some(socket) = role_socket() else { return };
    let client = Client::connect(&ConnectOptions::new().socket_path(socket)).unwrap();
    let mut stream = client.stream_completion(&prompt("never heard to its end")).unwrap();
    stream.next().unwrap().unwrap();
    println!("streaming");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn clients_killed_in_mid_stream_leave_nothing_behind() {
    let daemon = Daemon::start(&["providers.loopback.chunks_per_second=5"]);
    let mut honest = daemon.connect();
    honest.call(MessageType::HEARTBEAT, b"", &mut Vec::new()).unwrap();
    let before = daemon.held();
    for _ in 0..20 {
        let mut child = role("role_is_streamed_to", &daemon.socket());
        let stdout = BufReader::new(child.stdout.as_mut().unwrap());
        assert!(stdout.lines().any(|line| line.unwrap().contains("streaming")));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // The streams would go on for many seconds; their clients' death ends them now.
    daemon.wait_until_it_holds(before);
}
