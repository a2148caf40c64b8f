//! The shared client, driven by tokio.

use std::thread;
use std::time::Duration;

use futures_lite::StreamExt;
use tokio::runtime::{Builder, Runtime};

use super::in_time;
use super::shared::{connect, credits};
use super::tasks::{all, echo_many};
use crate::IpcError;
use crate::client::testing::{COUNT, NEVER, ONE_THEN_NEVER, Peer, StandIn};
use crate::client::{Client, RequestOptions};
use crate::wire::MessageType;

const SOON: RequestOptions = RequestOptions::within(Duration::from_millis(30));

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn client_threads() -> usize {
    // Names are cut at 15 bytes; "annulus-client" fits.
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name == b"annulus-client\n").count()
}

#[test]
fn requests_are_answered_in_both_kinds_of_runtime() {
    in_time(|| {
        let daemon = StandIn::usual();
        let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for runtime in [runtime(), threads] {
            let client = connect(&daemon);
            runtime.block_on(async {
                client.drive_with_tokio().unwrap();
                echo_many(&client, 200, 20, 8).await;
                let payload = 1000_u32.to_le_bytes();
                let stream = client.stream_async(COUNT, payload, RequestOptions::NONE).unwrap();
                assert_eq!(stream.map(Result::unwrap).count().await, 1000);
            });
        }
    });
}

#[test]
fn tasks_of_their_own_share_a_client() {
    in_time(|| {
        let daemon = StandIn::with(credits(5), Peer::serve);
        let client = connect(&daemon);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            client.drive_with_tokio().unwrap();
            let tasks: Vec<_> = (0..8_u32)
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move { echo_many(&client, 50, 3, 8).await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn deadlines_fall_and_full_rings_empty() {
    in_time(|| {
        let daemon = StandIn::usual();
        let options = daemon.options().request_capacity(1 << 14).response_capacity(1 << 14);
        let client = Client::connect(&options).unwrap();
        runtime().block_on(async {
            client.drive_with_tokio().unwrap();
            let calls = (0..6).map(|_| client.call_with_async(NEVER, &[], SOON)).collect();
            for answer in all(calls).await {
                assert!(matches!(answer, Err(IpcError::Timeout)));
            }
            echo_many(&client, 20, 10, 9000).await;
        });
    });
}

#[test]
fn a_daemon_that_dies_wakes_every_task() {
    in_time(|| {
        let mut daemon = StandIn::usual();
        let client = connect(&daemon);
        let waiting = thread::spawn(move || {
            runtime().block_on(async {
                client.drive_with_tokio().unwrap();
                all((0..4).map(|_| client.call_async(NEVER, &[])).collect()).await
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
fn a_runtime_takes_over_from_the_thread_and_the_thread_from_a_runtime() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        // The thread drives this one first.
        let mut stream = client.stream_async(ONE_THEN_NEVER, [], RequestOptions::NONE).unwrap();
        futures_lite::future::block_on(async {
            assert_eq!(stream.next().await.unwrap().unwrap(), b"one");
            assert!(futures_lite::future::poll_once(stream.next()).await.is_none());
        });
        let runtime = runtime();
        runtime.block_on(async {
            client.drive_with_tokio().unwrap();
            echo_many(&client, 20, 3, 8).await;
        });
        // It ends while a task waits: the thread is back in office, and the deadline falls.
        let pending = client.call_with_async(NEVER, &[], SOON);
        let mut pending = Box::pin(pending);
        runtime.block_on(async {
            assert!(futures_lite::future::poll_once(pending.as_mut()).await.is_none());
        });
        drop(runtime);
        let answer = futures_lite::future::block_on(pending);
        assert!(matches!(answer, Err(IpcError::Timeout)));
        futures_lite::future::block_on(echo_many(&client, 20, 3, 8));
        assert!(client_threads() >= 1);
    });
}

#[test]
fn without_a_runtime_or_its_io_there_is_an_error() {
    in_time(|| {
        let daemon = StandIn::usual();
        let client = connect(&daemon);
        assert!(matches!(client.drive_with_tokio(), Err(IpcError::Io { .. })));
        let bare = Builder::new_current_thread().build().unwrap();
        bare.block_on(async {
            assert!(matches!(client.drive_with_tokio(), Err(IpcError::Io { .. })));
        });
        assert_eq!(client.call(MessageType::ECHO, b"x").unwrap(), b"x");
    });
}
