//! The shared client, from tasks of no particular runtime.

use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use futures_lite::future::{block_on, or, poll_once, zip};
use futures_lite::stream::StreamExt;

use super::in_time;
use super::shared::{connect, credits, request};
use crate::IpcError;
use crate::client::testing::{
    COUNT, CRASH, FAILS, NEVER, ONE_THEN_NEVER, PATIENCE, Peer, StandIn, completion, events,
    welcome,
};
use crate::client::{Client, RequestOptions, WaitPolicy};
use crate::wire::MessageType;

const SOON: RequestOptions = RequestOptions::within(Duration::from_millis(30));

/// Runs futures from `futures` all at once.
pub(super) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

/// Echoes, many in flight from one task.
pub(super) async fn echo_many(client: &Client, rounds: u32, width: u32, size: usize) {
    for round in 0..rounds {
        let calls = (0..width).map(|number| async move {
            let mut sent = vec![number as u8; size];
            sent[..4].copy_from_slice(&round.to_le_bytes());
            let answer = client.call_async(MessageType::ECHO, &sent).await.unwrap();
            assert!(answer == sent, "call {number} of round {round}");
        });
        all(calls.collect()).await;
    }
}

#[test]
fn many_requests_of_one_task_are_in_flight() {
    in_time(|| {
        let daemon = StandIn::usual();
        for wait in [WaitPolicy::default(), WaitPolicy::PARK] {
            let client = Client::connect(&daemon.options().wait(wait)).unwrap();
            block_on(echo_many(&client, 200, 20, 8));
        }
    });
}

#[test]
fn tasks_and_threads_share_a_client() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| block_on(echo_many(&client, 300, 3, 8)));
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for number in 0..600_u32 {
                        let sent = number.to_le_bytes();
                        assert_eq!(client.call(MessageType::ECHO, &sent).unwrap(), sent);
                    }
                });
            }
        });
    });
}

#[test]
fn tasks_wait_for_credits_and_for_space() {
    in_time(|| {
        let daemon = StandIn::with(credits(3), Peer::serve);
        let client = connect(&daemon);
        block_on(echo_many(&client, 30, 10, 8));

        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 14).response_capacity(1 << 14);
        let client = Client::connect(&options).unwrap();
        block_on(echo_many(&client, 20, 10, 9000));
    });
}

#[test]
fn a_stream_gives_every_chunk_and_ends() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        block_on(async {
            let payload = 2000_u32.to_le_bytes();
            let mut stream = client.stream_async(COUNT, payload, RequestOptions::NONE).unwrap();
            for number in 0..2000_u32 {
                assert_eq!(stream.next().await.unwrap().unwrap(), number.to_le_bytes());
            }
            assert!(stream.next().await.is_none() && stream.next().await.is_none());

            let mut stream = client.stream_async(FAILS, *b"why", RequestOptions::NONE).unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap(), b"some of it");
            assert!(matches!(stream.next().await, Some(Err(IpcError::Internal { .. }))));
            assert!(stream.next().await.is_none());
        });
    });
}

#[test]
fn completions_come_whole_and_in_pieces() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        block_on(async {
            let request = request();
            assert_eq!(client.complete_async(&request).await.unwrap(), completion("stand-in"));
            let stream = client.stream_completion_async(&request, RequestOptions::NONE).unwrap();
            let streamed: Vec<_> = stream.map(Result::unwrap).collect().await;
            assert_eq!(streamed, events("stand-in"));
            client.ping_async(RequestOptions::within(PATIENCE)).await.unwrap();
        });
    });
}

#[test]
fn dropping_a_future_or_a_stream_cancels() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        block_on(async {
            assert!(poll_once(client.call_async(NEVER, &[])).await.is_none());
            let sent = daemon.wait_for(NEVER);
            assert_eq!(daemon.wait_for(MessageType::CANCEL).request_id, sent.request_id);

            let mut stream = client.stream_async(ONE_THEN_NEVER, [], RequestOptions::NONE).unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap(), b"one");
            drop(stream);
            let sent = daemon.wait_for(ONE_THEN_NEVER);
            assert_eq!(daemon.wait_for(MessageType::CANCEL).request_id, sent.request_id);
            client.call_async(MessageType::ECHO, b"x").await.unwrap();
        });
    });
}

#[test]
fn a_stream_that_was_never_polled_sends_nothing() {
    in_time(|| {
        let daemon = StandIn::with(credits(1), Peer::serve);
        let client = connect(&daemon);
        let stream = client.stream_async(NEVER, [], RequestOptions::NONE).unwrap();
        // It holds the only credit; dropping it gives it back, also to a thread that is parked.
        thread::scope(|scope| {
            let waiting = scope.spawn(|| client.call(MessageType::ECHO, b"x"));
            thread::sleep(Duration::from_millis(20));
            drop(stream);
            assert_eq!(waiting.join().unwrap().unwrap(), b"x");
        });
    });
}

#[test]
fn deadlines_fall_without_a_runtime() {
    in_time(|| {
        let daemon = StandIn::with(credits(4), Peer::serve);
        let client = connect(&daemon);
        block_on(async {
            // Two beyond the credits: theirs fall in the queue.
            let calls = (0..6).map(|_| client.call_with_async(NEVER, &[], SOON)).collect();
            for answer in all(calls).await {
                assert!(matches!(answer, Err(IpcError::Timeout)));
            }
            for _ in 0..4 {
                daemon.wait_for(MessageType::CANCEL);
            }
            let late = RequestOptions::within(Duration::from_millis(500));
            let mut stream = client.stream_async(ONE_THEN_NEVER, [], late).unwrap();
            // Asked for now. Frames come in order: behind this answer its chunk is there, however late that is.
            let early = poll_once(stream.next()).await.flatten();
            client.call_async(MessageType::ECHO, b"x").await.unwrap();
            let first = if early.is_some() { early } else { stream.next().await };
            assert_eq!(first.unwrap().unwrap(), b"one");
            assert!(matches!(stream.next().await, Some(Err(IpcError::Timeout))));
            assert!(stream.next().await.is_none());
            client.call_async(MessageType::ECHO, b"x").await.unwrap();
        });
    });
}

#[test]
fn a_deadline_falls_while_a_thread_leads() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        thread::scope(|scope| {
            let leading = scope.spawn(|| {
                client.call_with(NEVER, &[], RequestOptions::within(Duration::from_millis(300)))
            });
            daemon.wait_for(NEVER);
            let answer = block_on(client.call_with_async(NEVER, &[], SOON));
            assert!(matches!(answer, Err(IpcError::Timeout)));
            assert!(matches!(leading.join().unwrap(), Err(IpcError::Timeout)));
        });
    });
}

#[test]
fn a_full_ring_holds_a_task_up_to_its_deadline() {
    in_time(|| {
        let daemon = StandIn::with(welcome(), |peer| {
            while peer.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let client = Client::connect(&daemon.options().request_capacity(1 << 14)).unwrap();
        let _first = client.stream(MessageType::ECHO, &[0; 9000], RequestOptions::NONE).unwrap();
        let answer = block_on(client.call_with_async(MessageType::ECHO, &[0; 9000], SOON));
        assert!(matches!(answer, Err(IpcError::Timeout)));
    });
}

#[test]
fn a_daemon_that_dies_wakes_every_task() {
    in_time(|| {
        let mut daemon = StandIn::with(credits(4), Peer::serve);
        let client = connect(&daemon);
        let waiting = thread::spawn(move || {
            block_on(async {
                let calls = all((0..3).map(|_| client.call_async(NEVER, &[])).collect());
                let streams = all((0..3)
                    .map(|_| async {
                        match client.stream_async(NEVER, [], RequestOptions::NONE) {
                            Ok(mut stream) => stream.next().await.unwrap(),
                            Err(error) => Err(error),
                        }
                    })
                    .collect());
                let (mut calls, streams) = zip(calls, streams).await;
                calls.extend(streams);
                calls
            })
        });
        for _ in 0..4 {
            daemon.wait_for(NEVER);
        }
        daemon.die();
        for answer in waiting.join().unwrap() {
            assert!(matches!(answer, Err(IpcError::ConnectionLost { .. })));
        }
    });
}

#[test]
fn a_daemon_that_dies_frees_a_task_that_waits_for_space() {
    in_time(|| {
        let mut daemon = StandIn::with(welcome(), |peer| {
            while peer.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let client = Client::connect(&daemon.options().request_capacity(1 << 14)).unwrap();
        let sending = thread::spawn(move || block_on(echo_all(&client)));
        thread::sleep(Duration::from_millis(20));
        daemon.die();
        for answer in sending.join().unwrap() {
            assert!(matches!(answer, Err(IpcError::ConnectionLost { .. })));
        }
    });

    async fn echo_all(client: &Client) -> Vec<Result<Vec<u8>, IpcError>> {
        let sent = vec![0; 9000];
        all((0..4).map(|_| client.call_async(MessageType::ECHO, &sent)).collect()).await
    }
}

#[test]
fn a_goodbye_says_why_to_tasks() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        block_on(async {
            let calls = zip(client.call_async(NEVER, &[]), client.call_async(CRASH, &[]));
            let (first, second) = calls.await;
            assert!(matches!(first, Err(IpcError::ShuttingDown)));
            assert!(matches!(second, Err(IpcError::ShuttingDown)));
        });
    });
}

#[test]
fn the_last_future_keeps_the_connection_open() {
    in_time(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let daemon = StandIn::with(welcome(), move |peer| {
            peer.serve();
            sender.send(()).unwrap();
        });
        let client = connect(&daemon);
        let mut stream =
            Box::pin(client.stream_async(ONE_THEN_NEVER, [], RequestOptions::NONE).unwrap());
        drop(client);
        assert_eq!(block_on(stream.next()).unwrap().unwrap(), b"one");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(stream.as_mut().poll_next(&mut cx).is_pending());
        assert!(receiver.try_recv().is_err());
        // The driver is parked; the last handle ends it and hangs up.
        drop(stream);
        receiver.recv_timeout(PATIENCE).unwrap();
        drop(daemon);
    });
}

#[test]
fn of_two_futures_the_loser_is_cancelled() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        let winner = async { client.call_async(MessageType::ECHO, b"won").await };
        let loser = async { client.call_async(NEVER, &[]).await };
        assert_eq!(block_on(or(loser, winner)).unwrap(), b"won");
        daemon.wait_for(MessageType::CANCEL);
    });
}
