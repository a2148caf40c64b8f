//! The shared client, from threads.

use std::thread;
use std::time::Duration;

use super::in_time;
use crate::IpcError;
use crate::client::testing::{
    COUNT, CRASH, FAILS, NEVER, ONE_THEN_NEVER, PATIENCE, Peer, StandIn, WINS_THE_RACE, completion,
    events, welcome,
};
use crate::client::{Client, RequestOptions, WaitPolicy};
use crate::protocol::{AIRequest, CodecId, Message, MessageRole, StreamEvent};
use crate::wire::{MessageType, Status, Welcome};

const SOON: RequestOptions = RequestOptions::within(Duration::from_millis(30));

pub(super) fn connect(daemon: &StandIn) -> Client {
    Client::connect(&daemon.options()).unwrap()
}

pub(super) fn request() -> AIRequest {
    AIRequest::new("stand-in", vec![Message::new(MessageRole::User, "hi")])
}

pub(super) fn credits(count: u32) -> Welcome {
    let mut welcome = welcome();
    welcome.in_flight_max = count;
    welcome
}

/// Echoes, each with a payload of its own, from several threads on one client.
fn echo_from_threads(client: &Client, threads: u32, calls: u32, size: usize) {
    thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || {
                let mut sent = vec![number as u8; size.max(8)];
                for call in 0..calls {
                    sent[..4].copy_from_slice(&call.to_le_bytes());
                    sent[4..8].copy_from_slice(&number.to_le_bytes());
                    let answer = client.call(MessageType::ECHO, &sent).unwrap();
                    assert!(answer == sent, "call {call} of thread {number}");
                }
            });
        }
    });
}

#[test]
fn eight_threads_get_their_own_answers() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::PARK] {
            let client = Client::connect(&daemon.options().wait(wait)).unwrap();
            echo_from_threads(&client, 8, 2000, 8);
        }
    });
}

#[test]
fn threads_that_poll_for_ever_get_their_own_answers() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = Client::connect(&daemon.options().wait(WaitPolicy::SPIN)).unwrap();
        echo_from_threads(&client, 3, 300, 8);
    });
}

#[test]
fn threads_with_fewer_credits_than_requests_take_turns() {
    in_time(|| {
        let daemon = StandIn::with(credits(2), Peer::serve);
        let client = connect(&daemon);
        echo_from_threads(&client, 6, 300, 8);
    });
}

#[test]
fn threads_that_overfill_the_rings_make_progress() {
    in_time(|| {
        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 14).response_capacity(1 << 14);
        let client = Client::connect(&options).unwrap();
        echo_from_threads(&client, 6, 100, 9000);
    });
}

#[test]
fn two_full_rings_do_not_lock_each_other() {
    in_time(|| {
        // The answers to one request fill the response ring many times over; the daemon takes no
        // further request before it is through, so that the request ring fills too.
        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 14).response_capacity(1 << 14);
        let client = Client::connect(&options).unwrap();
        let stream = client.stream(COUNT, &3000_u32.to_le_bytes(), RequestOptions::NONE).unwrap();
        for _ in 0..10 {
            let sent = vec![1; 9000];
            assert_eq!(client.call(MessageType::ECHO, &sent).unwrap(), sent);
        }
        assert_eq!(stream.map(Result::unwrap).count(), 3000);
    });
}

#[test]
fn answers_may_come_in_any_order() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            loop {
                let mut batch = Vec::new();
                while batch.len() < 3 {
                    let Some(request) = peer.receive() else { return };
                    batch.push(request);
                }
                // Their frames interleaved, the last request first.
                for (header, payload) in batch.iter().rev() {
                    peer.send(header.chunk(), payload);
                }
                for (header, payload) in &batch {
                    peer.answer(header, payload);
                }
            }
        });
        let client = connect(&daemon);
        thread::scope(|scope| {
            for number in 0..3_u8 {
                let client = &client;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let answer = client.call(MessageType::ECHO, &[number]).unwrap();
                        assert_eq!(answer, [number, number]);
                    }
                });
            }
        });
    });
}

#[test]
fn a_stream_gives_every_chunk_and_ends() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        let mut stream =
            client.stream(COUNT, &2000_u32.to_le_bytes(), RequestOptions::NONE).unwrap();
        for number in 0..2000_u32 {
            assert_eq!(stream.next().unwrap().unwrap(), number.to_le_bytes());
        }
        assert!(stream.next().is_none() && stream.next().is_none());
        // The payload of a last frame is a chunk too.
        let chunks: Vec<_> =
            client.stream(MessageType::ECHO, b"x", RequestOptions::NONE).unwrap().collect();
        assert!(matches!(&chunks[..], [Ok(chunk)] if chunk == b"x"));
    });
}

#[test]
fn a_failed_stream_gives_what_came_and_then_its_error() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        let mut stream = client.stream(FAILS, b"why", RequestOptions::NONE).unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), b"some of it");
        let error = stream.next().unwrap().unwrap_err();
        assert!(matches!(error, IpcError::Internal { detail } if detail == "why"));
        assert!(stream.next().is_none());
    });
}

#[test]
fn a_stream_dropped_before_its_end_is_cancelled() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        let mut stream = client.stream(ONE_THEN_NEVER, &[], RequestOptions::NONE).unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), b"one");
        drop(stream);
        let sent = daemon.wait_for(ONE_THEN_NEVER);
        assert_eq!(daemon.wait_for(MessageType::CANCEL).request_id, sent.request_id);
        client.ping().unwrap();
    });
}

#[test]
fn a_stream_that_has_ended_is_not_cancelled() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        let stream = client.stream(COUNT, &5_u32.to_le_bytes(), RequestOptions::NONE).unwrap();
        // Delivered by another request's wait, not by the stream's own.
        client.ping().unwrap();
        drop(stream);
        client.ping().unwrap();
        drop(client);
        drop(daemon);
    });
}

#[test]
fn a_deadline_cancels_and_late_frames_are_swallowed() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
            let client = Client::connect(&daemon.options().wait(wait)).unwrap();
            for message_type in [NEVER, ONE_THEN_NEVER, WINS_THE_RACE] {
                let error = client.call_with(message_type, &[], SOON);
                assert!(matches!(error, Err(IpcError::Timeout)));
                let sent = daemon.wait_for(message_type);
                assert!((1..=30).contains(&sent.deadline_ms));
                let cancel = daemon.wait_for(MessageType::CANCEL);
                assert_eq!(cancel.request_id, sent.request_id);
                assert_eq!(client.call(MessageType::ECHO, b"after").unwrap(), b"after");
            }
            let late = RequestOptions::within(Duration::from_millis(500));
            let mut stream = client.stream(ONE_THEN_NEVER, &[], late).unwrap();
            // Frames come in order: behind this answer it is there, however late that is.
            client.call(MessageType::ECHO, b"x").unwrap();
            assert_eq!(stream.next().unwrap().unwrap(), b"one");
            assert!(matches!(stream.next(), Some(Err(IpcError::Timeout))));
            assert!(stream.next().is_none());
            let sent = daemon.wait_for(ONE_THEN_NEVER);
            assert_eq!(daemon.wait_for(MessageType::CANCEL).request_id, sent.request_id);
        }
    });
}

#[test]
fn deadlines_of_followers_fall_while_somebody_else_leads() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        thread::scope(|scope| {
            let leader = scope.spawn(|| {
                client.call_with(NEVER, &[], RequestOptions::within(Duration::from_millis(200)))
            });
            daemon.wait_for(NEVER);
            for _ in 0..4 {
                scope.spawn(|| {
                    assert!(matches!(client.call_with(NEVER, &[], SOON), Err(IpcError::Timeout)));
                });
            }
            assert!(matches!(leader.join().unwrap(), Err(IpcError::Timeout)));
        });
        client.ping().unwrap();
    });
}

#[test]
fn a_request_without_a_credit_waits_up_to_its_deadline() {
    in_time(|| {
        let daemon = StandIn::with(credits(1), Peer::serve);
        let client = connect(&daemon);
        let held = client.stream(NEVER, &[], RequestOptions::NONE).unwrap();
        let error = client.call_with(MessageType::ECHO, &[], SOON);
        assert!(matches!(error, Err(IpcError::Timeout)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| client.call(MessageType::ECHO, b"x"));
            thread::sleep(Duration::from_millis(10));
            drop(held);
            assert_eq!(waiting.join().unwrap().unwrap(), b"x");
        });
    });
}

#[test]
fn a_daemon_that_dies_wakes_every_waiter() {
    for wait in [WaitPolicy::default(), WaitPolicy::SPIN, WaitPolicy::PARK] {
        in_time(move || {
            let mut daemon = StandIn::with(credits(4), Peer::serve);
            let client = Client::connect(&daemon.options().wait(wait)).unwrap();
            let mut waiting = Vec::new();
            // More than there are credits: the others wait in the queue.
            for number in 0..6 {
                let client = client.clone();
                waiting.push(thread::spawn(move || {
                    if number % 2 == 0 {
                        return client.call(NEVER, &[]).unwrap_err();
                    }
                    match client.stream(NEVER, &[], RequestOptions::NONE) {
                        Ok(mut stream) => stream.next().unwrap().unwrap_err(),
                        Err(error) => error,
                    }
                }));
            }
            for _ in 0..4 {
                daemon.wait_for(NEVER);
            }
            daemon.die();
            for thread in waiting {
                let error = thread.join().unwrap();
                assert!(matches!(error, IpcError::ConnectionLost { .. }), "{error}");
            }
            assert!(client.is_closed());
            assert!(client.check_alive().is_err());
            assert!(client.ping().is_err());
            assert!(client.stream(NEVER, &[], RequestOptions::NONE).is_err());
        });
    }
}

#[test]
fn a_daemon_that_dies_frees_who_waits_for_space() {
    in_time(|| {
        let mut daemon = StandIn::with(welcome(), |peer| {
            while peer.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let client = Client::connect(&daemon.options().request_capacity(1 << 14)).unwrap();
        let sending = thread::spawn(move || {
            loop {
                match client.stream(MessageType::ECHO, &[0; 9000], RequestOptions::NONE) {
                    Ok(stream) => std::mem::forget(stream),
                    Err(error) => return error,
                }
            }
        });
        thread::sleep(Duration::from_millis(20));
        daemon.die();
        let error = sending.join().unwrap();
        assert!(matches!(error, IpcError::ConnectionLost { .. }), "{error}");
    });
}

#[test]
fn a_full_ring_holds_a_request_up_to_its_deadline() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            while peer.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let client = Client::connect(&daemon.options().request_capacity(1 << 14)).unwrap();
        let _first = client.stream(MessageType::ECHO, &[0; 9000], RequestOptions::NONE).unwrap();
        let error = client.stream(MessageType::ECHO, &[0; 9000], SOON);
        assert!(matches!(error, Err(IpcError::Timeout)));
    });
}

#[test]
fn a_goodbye_says_why_to_everybody() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| client.call(NEVER, &[]));
            daemon.wait_for(NEVER);
            assert!(matches!(client.call(CRASH, &[]), Err(IpcError::ShuttingDown)));
            assert!(matches!(waiting.join().unwrap(), Err(IpcError::ShuttingDown)));
        });
        assert!(matches!(client.ping(), Err(IpcError::ShuttingDown)));
    });
}

#[test]
fn nonsense_in_the_ring_is_a_fault_for_everybody() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            let mut requests = Vec::new();
            while requests.len() < 2 {
                let Some((header, _)) = peer.receive() else { return };
                requests.push(header);
            }
            let mut nonsense = requests[0].answer(Status::Ok);
            nonsense.flags = 0b1_0000;
            peer.send(nonsense, &[]);
            while peer.receive().is_some() {}
        });
        let client = connect(&daemon);
        thread::scope(|scope| {
            let waiting =
                [scope.spawn(|| client.call(NEVER, &[])), scope.spawn(|| client.call(NEVER, &[]))];
            for thread in waiting {
                assert!(matches!(thread.join().unwrap(), Err(IpcError::Fault(_))));
            }
        });
    });
}

#[test]
fn the_last_clone_hangs_up() {
    in_time(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let daemon = StandIn::with(welcome(), move |peer| {
            peer.serve();
            sender.send(()).unwrap();
        });
        let client = connect(&daemon);
        let clone = client.clone();
        drop(client);
        clone.ping().unwrap();
        drop(clone);
        receiver.recv_timeout(PATIENCE).unwrap();
    });
}

#[test]
fn completions_speak_the_codec_of_the_connection() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        assert_eq!(client.complete(&request()).unwrap(), completion("stand-in"));
        let streamed: Result<Vec<StreamEvent>, _> =
            client.stream_completion(&request()).unwrap().collect();
        assert_eq!(streamed.unwrap(), events("stand-in"));

        let other = Client::connect(&daemon.options().codec(CodecId(200))).unwrap();
        assert!(matches!(other.complete(&request()), Err(IpcError::Codec(_))));
        other.ping().unwrap();
    });
}

#[test]
fn an_event_that_does_not_decode_ends_the_stream() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            while let Some((header, _)) = peer.receive() {
                if header.message_type() == MessageType::STREAM {
                    peer.send(header.chunk(), b"{}");
                }
            }
        });
        let client = connect(&daemon);
        let mut stream = client.stream_completion(&request()).unwrap();
        assert!(matches!(stream.next(), Some(Err(IpcError::Codec(_)))));
        assert!(stream.next().is_none());
        daemon.wait_for(MessageType::CANCEL);
    });
}

#[test]
fn a_large_payload_goes_both_ways() {
    in_time(|| {
        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 24).response_capacity(1 << 24);
        let client = Client::connect(&options).unwrap();
        let sent: Vec<u8> = (0..10 << 20).map(|index| (index / 3) as u8).collect();
        for _ in 0..3 {
            assert!(client.call(MessageType::ECHO, &sent).unwrap() == sent);
        }
    });
}
