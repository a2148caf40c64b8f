//! The exclusive connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::in_time;
use crate::IpcError;
use crate::client::testing::{
    COUNT, CRASH, FAILS, NEVER, ONE_THEN_NEVER, PAGES, PATIENCE, Peer, StandIn, WINS_THE_RACE,
    welcome,
};
use crate::client::{Client, Connection, Received, RequestOptions, WaitPolicy};
use crate::sync::{AtomicBool, Ordering};
use crate::wire::{FrameHeader, Goodbye, MessageType, Status};

const SOON: RequestOptions = RequestOptions::within(Duration::from_millis(30));

fn connect(daemon: &StandIn) -> Connection {
    Connection::connect(&daemon.options()).unwrap()
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|index| ((index * 7 + index / 251) % 256) as u8).collect()
}

/// Receives until a frame comes.
fn receive(connection: &mut Connection, into: &mut Vec<u8>) -> Received {
    let deadline = Some(Instant::now() + PATIENCE);
    assert!(connection.wait(deadline).unwrap(), "nothing came");
    connection.try_receive(into).unwrap().unwrap()
}

#[test]
fn payloads_of_every_size_come_back() {
    in_time(|| {
        let daemon = StandIn::usual();
        for check in [false, true] {
            let options = daemon
                .options()
                .request_capacity(1 << 24)
                .response_capacity(1 << 24)
                .payload_check(check);
            let mut connection = Connection::connect(&options).unwrap();
            let mut answer = Vec::new();
            for size in [0, 1, 31, 32, 33, 4096, 70_000, 262_144, 1 << 20, 3, 10 << 20, 10 << 20, 5]
            {
                let sent = payload(size);
                connection.call(MessageType::ECHO, &sent, &mut answer).unwrap();
                assert!(answer == sent, "{size} bytes came back changed");
            }
            assert_eq!(connection.in_flight(), 0);
        }
    });
}

#[test]
fn large_frames_give_their_pages_back() {
    in_time(|| {
        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 24).response_capacity(1 << 24);
        let mut connection = Connection::connect(&options).unwrap();
        let mut answer = Vec::new();
        for size in [1 << 20, 9 << 20, 300_000, 7 << 20] {
            connection.call(MessageType::ECHO, &payload(size), &mut answer).unwrap();
            connection.call(PAGES, &[], &mut answer).unwrap();
            let bytes = u64::from_le_bytes(answer[..].try_into().unwrap());
            assert!(bytes <= 40 * 4096, "{bytes} bytes of the region are left after {size}");
        }
    });
}

#[test]
fn every_way_of_waiting_gets_its_answers() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
            let mut connection = Connection::connect(&daemon.options().wait(wait)).unwrap();
            let mut answer = Vec::new();
            for number in 0..300_u32 {
                connection.call(MessageType::ECHO, &number.to_le_bytes(), &mut answer).unwrap();
                assert_eq!(answer, number.to_le_bytes());
            }
            let options = RequestOptions::within(PATIENCE);
            connection.call_with(MessageType::ECHO, b"x", options, &mut answer).unwrap();
        }
    });
}

#[test]
fn an_answer_in_many_frames_is_put_together() {
    in_time(|| {
        let daemon = StandIn::usual();
        let mut connection = connect(&daemon);
        let mut answer = vec![9; 100_000];
        connection.call(COUNT, &5000_u32.to_le_bytes(), &mut answer).unwrap();
        let expected: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(answer, expected);
    });
}

#[test]
fn a_failed_request_gives_its_detail_and_the_connection_goes_on() {
    in_time(|| {
        let daemon = StandIn::usual();
        let mut connection = connect(&daemon);
        let mut answer = Vec::new();
        let error = connection.call(FAILS, b"out of luck", &mut answer).unwrap_err();
        assert!(matches!(error, IpcError::Internal { detail } if detail == "out of luck"));
        assert!(answer.is_empty());
        let error = connection.call(MessageType::user(99), &[], &mut answer).unwrap_err();
        assert!(matches!(error, IpcError::UnknownMessageType));
        connection.call(MessageType::HEARTBEAT, &[], &mut answer).unwrap();
    });
}

#[test]
fn a_payload_beyond_the_limit_is_not_sent() {
    in_time(|| {
        let daemon = StandIn::usual();
        let mut connection = connect(&daemon);
        let mut answer = Vec::new();
        let fits = (1 << 16) - 96;
        connection.call(MessageType::ECHO, &payload(fits), &mut answer).unwrap();
        for size in [fits + 1, (10 << 20) + 1] {
            let error = connection.call(MessageType::ECHO, &payload(size), &mut answer);
            assert!(matches!(
                error.unwrap_err(),
                IpcError::MessageTooLarge { size: found, max } if found == size as u64 && max == fits as u64
            ));
        }
        connection.call(MessageType::ECHO, &payload(fits), &mut answer).unwrap();
    });
}

#[test]
fn requests_in_flight_are_told_apart_by_id() {
    in_time(|| {
        // Answers four at a time, the last first.
        let daemon = StandIn::with(welcome(), |peer| {
            loop {
                let mut batch = Vec::new();
                while batch.len() < 4 {
                    let Some(request) = peer.receive() else { return };
                    batch.push(request);
                }
                for (header, payload) in batch.iter().rev() {
                    peer.answer(header, payload);
                }
            }
        });
        let mut connection = connect(&daemon);
        let mut into = Vec::new();
        for _ in 0..50 {
            let mut ids = Vec::new();
            for number in 0..4_u8 {
                let id = connection.try_send(MessageType::ECHO, &[number]).unwrap().unwrap();
                ids.push(id);
            }
            connection.notify();
            connection.prefetch();
            assert_eq!(connection.in_flight(), 4);
            for number in (0..4_u8).rev() {
                let received = receive(&mut connection, &mut into);
                assert_eq!(received.request_id, ids[usize::from(number)]);
                assert!(received.last && received.status == Status::Ok && received.size == 1);
                assert_eq!(into, [number]);
            }
        }
        assert_eq!(connection.in_flight(), 0);
    });
}

#[test]
fn beyond_its_credits_a_connection_is_busy() {
    in_time(|| {
        let mut welcome = welcome();
        welcome.in_flight_max = 2;
        let daemon = StandIn::with(welcome, Peer::serve);
        let mut connection = connect(&daemon);
        let first = connection.try_send(NEVER, &[]).unwrap().unwrap();
        connection.try_send(NEVER, &[]).unwrap().unwrap();
        assert!(matches!(connection.try_send(NEVER, &[]), Err(IpcError::Busy { .. })));
        assert!(matches!(
            connection.call(NEVER, &[], &mut Vec::new()),
            Err(IpcError::InvalidRequest { .. })
        ));
        connection.cancel(first).unwrap();
        let mut into = Vec::new();
        let received = receive(&mut connection, &mut into);
        assert_eq!((received.request_id, received.status), (first, Status::Cancelled));
        connection.try_send(NEVER, &[]).unwrap().unwrap();
    });
}

#[test]
fn a_deadline_cancels_and_late_frames_are_swallowed() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
            let mut connection = Connection::connect(&daemon.options().wait(wait)).unwrap();
            let mut answer = Vec::new();
            for message_type in [NEVER, ONE_THEN_NEVER, WINS_THE_RACE] {
                let error = connection.call_with(message_type, &[], SOON, &mut answer);
                assert!(matches!(error, Err(IpcError::Timeout)));
                let sent = daemon.wait_for(message_type);
                assert!((1..=30).contains(&sent.deadline_ms));
                let cancel = daemon.wait_for(MessageType::CANCEL);
                assert_eq!(cancel.request_id, sent.request_id);
                connection.call(MessageType::ECHO, b"after", &mut answer).unwrap();
                assert_eq!(answer, b"after");
            }
            while connection.in_flight() > 0 {
                connection.call(MessageType::HEARTBEAT, &[], &mut answer).unwrap();
            }
        }
    });
}

#[test]
fn abandoned_requests_keep_their_credit_until_they_end() {
    in_time(|| {
        let mut welcome = welcome();
        welcome.in_flight_max = 1;
        let daemon = StandIn::with(welcome, Peer::serve);
        let mut connection = connect(&daemon);
        let mut answer = Vec::new();
        for _ in 0..3 {
            let error = connection.call_with(NEVER, &[], SOON, &mut answer);
            assert!(matches!(error, Err(IpcError::Timeout)));
            connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
        }
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    in_time(|| {
        let daemon = StandIn::usual();
        let mut connection = connect(&daemon);
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(!connection.wait(Some(soon)).unwrap());
        assert!(Instant::now() >= soon);
    });
}

#[test]
fn a_full_ring_gives_none_and_takes_the_request_later() {
    in_time(|| {
        // Takes nothing until the client has met a full ring.
        let is_full = Arc::new(AtomicBool::new(false));
        let met = Arc::clone(&is_full);
        let daemon = StandIn::with(welcome(), move |peer| {
            while !met.load(Ordering::Relaxed) && peer.is_wanted() {
                std::thread::sleep(Duration::from_millis(1));
            }
            peer.serve();
        });
        let mut connection = Connection::connect(
            &daemon.options().request_capacity(1 << 14).response_capacity(1 << 14),
        )
        .unwrap();
        let sent = payload(3000);
        let (mut ids, mut into) = (Vec::new(), Vec::new());
        while let Some(id) = connection.try_send(MessageType::ECHO, &sent).unwrap() {
            ids.push(id);
        }
        is_full.store(true, Ordering::Relaxed);
        assert!((2..=6).contains(&ids.len()), "{}", ids.len());
        connection.notify();
        for id in ids {
            assert_eq!(receive(&mut connection, &mut into).request_id, id);
            assert_eq!(into, sent);
        }
        assert!(connection.try_send(MessageType::ECHO, &sent).unwrap().is_some());
    });
}

#[test]
fn a_daemon_that_waits_for_space_is_told_of_it() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
            let options = daemon.options().response_capacity(1 << 14).wait(wait);
            let mut connection = Connection::connect(&options).unwrap();
            let mut answer = Vec::new();
            connection.call(COUNT, &4000_u32.to_le_bytes(), &mut answer).unwrap();
            assert_eq!(answer.len(), 16_000);
            // Larger than half of the ring: behind padding that has to be skipped first.
            for _ in 0..4 {
                connection.call(MessageType::ECHO, &payload(9000), &mut answer).unwrap();
                assert_eq!(answer, payload(9000));
            }
            // By hand, without ever waiting.
            let count = 4000_u32.to_le_bytes();
            connection.try_send(COUNT, &count).unwrap().unwrap();
            connection.notify();
            std::thread::sleep(Duration::from_millis(5));
            while connection.in_flight() > 0 {
                let _ = connection.try_receive(&mut answer).unwrap();
            }
        }
    });
}

#[test]
fn a_call_waits_for_space_and_sends_its_cancels_first() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            std::thread::sleep(Duration::from_millis(50));
            peer.serve();
        });
        let mut connection =
            Connection::connect(&daemon.options().request_capacity(1 << 14)).unwrap();
        let mut answer = Vec::new();
        // Each fills more than half of the ring and is given up before the daemon looks.
        for _ in 0..2 {
            let options = RequestOptions::within(Duration::from_millis(5));
            let error = connection.call_with(NEVER, &payload(9000), options, &mut answer);
            assert!(matches!(error, Err(IpcError::Timeout)));
        }
        connection.call(MessageType::ECHO, &payload(9000), &mut answer).unwrap();
        assert_eq!(answer, payload(9000));
        daemon.wait_for(MessageType::CANCEL);
    });
}

#[test]
fn a_daemon_that_dies_ends_every_wait() {
    for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
        in_time(move || {
            let mut daemon = StandIn::usual();
            let mut connection = Connection::connect(&daemon.options().wait(wait)).unwrap();
            let waiting = std::thread::spawn(move || {
                let error = connection.call(NEVER, &[], &mut Vec::new()).unwrap_err();
                (connection, error)
            });
            daemon.wait_for(NEVER);
            daemon.die();
            let (mut connection, error) = waiting.join().unwrap();
            assert!(matches!(error, IpcError::ConnectionLost { .. }), "{error}");
            assert!(connection.is_closed());
            assert!(connection.check_alive().is_err());
            assert!(connection.call(MessageType::ECHO, &[], &mut Vec::new()).is_err());
            assert!(connection.wait(None).is_err());
        });
    }
}

/// A stand-in that comes to the client's core when that already waits, and does `then` when it has parked.
fn comes_to_its_client(core: u32, then: fn(&mut Peer, &FrameHeader)) -> StandIn {
    StandIn::with(welcome(), move |peer| {
        let Some((header, _)) = peer.receive() else { return };
        // Who takes this already waits, and set out when nobody was beside it.
        peer.send(header.chunk(), b"");
        assert!(peer.sees_all_taken(), "a client does not take what came");
        peer.sit_on(Some(core));
        assert!(peer.sees_it_park(), "a client polls where its daemon wants to run");
        then(peer, &header);
    })
}

#[test]
fn a_client_that_polls_for_ever_parks_when_its_daemon_comes_to_its_core() {
    // Its thread is left on the one core where it is now.
    let core = rustix::thread::sched_getcpu();
    let mut mask = rustix::thread::CpuSet::new();
    mask.set(core);
    let core = u32::try_from(core).unwrap();
    let pin = move || rustix::thread::sched_setaffinity(None, &mask).unwrap();

    in_time(move || {
        let daemon = comes_to_its_client(core, |peer, header| {
            // Gone again, and before the answer: from then on the next one may be waited for.
            peer.sit_on(None);
            peer.answer(header, b"beside");
            let Some((header, _)) = peer.receive() else { return };
            std::thread::sleep(Duration::from_millis(20));
            peer.answer(&header, &[u8::from(peer.is_parked())]);
        });
        pin();
        let options = daemon.options().wait(WaitPolicy::SPIN);
        let mut connection = Connection::connect(&options).unwrap();
        let mut answer = Vec::new();
        connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
        assert_eq!(answer, b"beside");
        connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
        assert_eq!(answer, [0], "it polls");
    });
    in_time(move || {
        let daemon = comes_to_its_client(core, |_, _| ());
        pin();
        let options = daemon.options().wait(WaitPolicy::SPIN);
        let mut connection = Connection::connect(&options).unwrap();
        let lost = connection.call(MessageType::ECHO, b"x", &mut Vec::new()).unwrap_err();
        assert!(matches!(lost, IpcError::ConnectionLost { .. }), "{lost}");
    });
    in_time(move || {
        let daemon = StandIn::with(welcome(), move |peer| {
            let Some((header, _)) = peer.receive() else { return };
            // Before the answer: whoever has that knows it.
            peer.sit_on(Some(core));
            peer.answer(&header, b"beside");
            while peer.receive().is_some() {}
        });
        pin();
        let options = daemon.options().wait(WaitPolicy::SPIN);
        let mut connection = Connection::connect(&options).unwrap();
        connection.call(MessageType::ECHO, b"x", &mut Vec::new()).unwrap();
        let late = connection.call_with(MessageType::ECHO, b"x", SOON, &mut Vec::new());
        assert!(matches!(late, Err(IpcError::Timeout)), "{late:?}");
    });
    in_time(move || {
        let daemon = comes_to_its_client(core, |peer, header| peer.answer(header, b"shared"));
        pin();
        let client = Client::connect(&daemon.options().wait(WaitPolicy::SPIN)).unwrap();
        assert_eq!(client.call(MessageType::ECHO, b"x").unwrap(), b"shared");
    });
}

#[test]
fn who_polls_for_ever_says_where_it_is_only_when_it_waits() {
    for (wait, says) in [(WaitPolicy::SPIN, [1, 0]), (WaitPolicy::default(), [1, 1])] {
        in_time(move || {
            let daemon = StandIn::with(welcome(), |peer| {
                let mut said = Vec::new();
                for _ in 0..2 {
                    let Some((header, _)) = peer.receive() else { return };
                    peer.looks_parked();
                    peer.answer(&header, b"");
                    said.push(u8::from(peer.rung_from().is_some()));
                }
                let Some((header, _)) = peer.receive() else { return };
                peer.answer(&header, &said);
            });
            let mut connection = Connection::connect(&daemon.options().wait(wait)).unwrap();
            let mut answer = Vec::new();
            // The second is waited for, and the third is not.
            connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
            connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
            connection.try_send(MessageType::ECHO, b"x").unwrap().unwrap();
            connection.wait(None).unwrap();
            connection.try_receive(&mut answer).unwrap().unwrap();
            assert_eq!(answer, says);
        });
    }
}

#[test]
fn a_goodbye_says_why() {
    in_time(|| {
        let daemon = StandIn::usual();
        let mut connection = connect(&daemon);
        let error = connection.call(CRASH, &[], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, IpcError::ShuttingDown));
    });
}

#[test]
fn what_came_before_a_hang_up_is_still_received() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            let Some((header, _)) = peer.receive() else { return };
            // A drain: the last word first, then what was in flight.
            peer.goodbye(Goodbye::new(Status::ShuttingDown));
            std::thread::sleep(Duration::from_millis(20));
            peer.answer(&header, b"served");
        });
        let mut connection = connect(&daemon);
        let mut answer = Vec::new();
        connection.call(MessageType::ECHO, &[], &mut answer).unwrap();
        assert_eq!(answer, b"served");
        let error = connection.call(MessageType::ECHO, &[], &mut answer).unwrap_err();
        assert!(matches!(error, IpcError::ShuttingDown));
    });
}

#[test]
fn a_request_never_takes_the_place_of_a_cancel_that_was_not_read() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            let mut cancels = 0_u32;
            while let Some((header, payload)) = peer.receive() {
                if header.message_type() == MessageType::CANCEL {
                    cancels += 1;
                    // What comes behind it is there before it is read.
                    std::thread::sleep(Duration::from_micros(50));
                } else {
                    assert_eq!(payload, cancels.to_le_bytes());
                    peer.answer(&header, &payload);
                }
            }
        });
        let mut connection = connect(&daemon);
        let mut answer = Vec::new();
        let mut cancels = 0_u32;
        for round in 0..200 {
            for _ in 0..round % 3 {
                connection.cancel(u64::MAX).unwrap();
                cancels += 1;
            }
            connection.call(MessageType::ECHO, &cancels.to_le_bytes(), &mut answer).unwrap();
            assert_eq!(answer, cancels.to_le_bytes());
        }
    });
}

#[test]
fn nonsense_in_the_ring_is_a_fault_once_and_for_all() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            let Some((header, _)) = peer.receive() else { return };
            let mut nonsense = header.answer(Status::Ok);
            nonsense.flags = 0b1_0000;
            peer.send(nonsense, &[]);
            while peer.receive().is_some() {}
        });
        let mut connection = connect(&daemon);
        for _ in 0..2 {
            let error = connection.call(MessageType::ECHO, &[], &mut Vec::new()).unwrap_err();
            assert!(matches!(error, IpcError::Fault(_)), "{error}");
        }
        assert!(connection.is_closed());
    });
}
