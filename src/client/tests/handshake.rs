//! Refusals, silence and nonsense in place of a welcome.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use zerocopy::IntoBytes;

use super::in_time;
use crate::IpcError;
use crate::client::testing::{StandIn, receive_hello, wait_for_hang_up, welcome};
use crate::client::{Client, ConnectOptions, Connection};
use crate::wire::{Fault, PROTOCOL_MAJOR, Status, Welcome};

/// What connecting to a daemon that says `welcome` gives.
fn refusal(welcome: Welcome) -> IpcError {
    in_time(move || {
        let daemon = StandIn::with(welcome, |_| {});
        Connection::connect(&daemon.options()).unwrap_err()
    })
}

/// What connecting to a daemon that answers these bytes and hangs up gives.
fn answered_with(bytes: Vec<u8>) -> IpcError {
    in_time(move || {
        let daemon = StandIn::raw(move |mut socket, _, _| {
            receive_hello(&socket);
            socket.write_all(&bytes).unwrap();
        });
        Connection::connect(&daemon.options()).unwrap_err()
    })
}

#[test]
fn without_a_daemon_the_error_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("annulus.sock");
    let options = ConnectOptions::new().socket_path(&path);
    let missing = Connection::connect(&options).unwrap_err();
    assert!(matches!(missing, IpcError::NotRunning { socket_path } if socket_path == path));

    drop(UnixListener::bind(&path).unwrap());
    let stale = Client::connect(&options).unwrap_err();
    assert!(matches!(stale, IpcError::NotRunning { .. }));
}

#[test]
fn a_busy_daemon_says_when_to_come_back() {
    let mut welcome = Welcome::refusal(Status::Busy);
    welcome.retry_after_ms = 250;
    let expected = Duration::from_millis(250);
    assert!(matches!(refusal(welcome), IpcError::Busy { retry_after } if retry_after == expected));
}

#[test]
fn a_daemon_that_stops_says_so() {
    assert!(matches!(refusal(Welcome::refusal(Status::ShuttingDown)), IpcError::ShuttingDown));
}

#[test]
fn every_other_refusal_carries_its_status() {
    for status in [
        Status::VersionUnsupported,
        Status::CodecUnsupported,
        Status::RegionRefused,
        Status::NotAuthorized,
        Status::Fault,
    ] {
        let error = refusal(Welcome::refusal(status));
        assert!(
            matches!(error, IpcError::Refused { status: found, fault: None } if found == status)
        );
    }
}

#[test]
fn a_welcome_of_another_version_is_a_refusal() {
    let mut other = welcome();
    other.version_major = PROTOCOL_MAJOR + 1;
    assert!(matches!(refusal(other), IpcError::Refused { status: Status::VersionUnsupported, .. }));
}

#[test]
fn a_cut_welcome_is_a_fault() {
    for size in [0, 1, 63] {
        let bytes = welcome().as_bytes()[..size].to_vec();
        assert!(matches!(
            answered_with(bytes),
            IpcError::Fault(Fault::HandshakeCut { received, .. }) if received as usize == size
        ));
    }
}

#[test]
fn something_else_behind_the_socket_is_a_fault() {
    let error = answered_with(vec![b'x'; 64]);
    assert!(matches!(error, IpcError::Fault(Fault::HandshakeMagic { .. })));
}

#[test]
fn a_refusal_before_the_hello_is_read() {
    in_time(|| {
        let daemon = StandIn::raw(|mut socket, _, _| {
            socket.write_all(Welcome::refusal(Status::Busy).as_bytes()).unwrap();
        });
        for _ in 0..20 {
            let error = Connection::connect(&daemon.options()).unwrap_err();
            assert!(matches!(error, IpcError::Busy { .. }), "{error}");
        }
    });
}

#[test]
fn a_silent_daemon_times_out() {
    in_time(|| {
        let daemon = StandIn::raw(|socket, _, _| wait_for_hang_up(&socket));
        let options = daemon.options().connect_timeout(Duration::from_millis(30));
        let error = Connection::connect(&options).unwrap_err();
        let timed_out = ErrorKind::TimedOut;
        assert!(matches!(error, IpcError::Io { source, .. } if source.kind() == timed_out));
    });
}

#[test]
fn a_full_backlog_times_out() {
    in_time(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.sock");
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let options =
            ConnectOptions::new().socket_path(&path).connect_timeout(Duration::from_millis(30));
        let error = Connection::connect(&options).unwrap_err();
        let timed_out = ErrorKind::TimedOut;
        assert!(matches!(error, IpcError::Io { source, .. } if source.kind() == timed_out));
    });
}

#[test]
fn what_was_agreed_can_be_asked() {
    in_time(|| {
        let daemon = StandIn::usual();
        let connection = Connection::connect(&daemon.options()).unwrap();
        assert_eq!((connection.connection_id(), connection.daemon_instance()), (7, 9));
        assert_eq!((connection.in_flight_max(), connection.message_size_max()), (64, 10 << 20));
    });
}
