//! Requests that are dropped in any phase leave nothing behind.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;
use http::Request;

use super::http2::Peer;
use super::server::{Server, Stream, authority, read_request, tls};
use super::{Options, ask, endpoint, get, options, read, run, sleep, task, until_connections};
use crate::http::{Client, Endpoint};
use crate::sync::{Ordering, TallyU64};

/// Answers in pieces, each of them a little later, so that a cancel meets every phase.
fn dawdle(mut stream: impl Stream, number: u64) -> std::io::Result<()> {
    let mut random = fastrand::Rng::with_seed(number);
    while read_request(&mut stream)?.is_some() {
        let pieces: [&[u8]; 6] = [
            b"HTTP/1.1 20",
            b"0 OK\r\nTransfer-Encoding: chunked\r\n",
            b"\r\n5\r\nhel",
            b"lo\r\n",
            b"5\r\nworld\r\n0",
            b"\r\n\r\n",
        ];
        for piece in pieces {
            if random.u8(..) < 64 {
                thread::sleep(Duration::from_micros(random.u64(..300)));
            }
            stream.write_all(piece)?;
        }
    }
    Ok(())
}

/// Sends `count` requests, 32 at once, most of which are dropped at a random point at which they
/// wait; returns how many were answered.
async fn send_and_cancel(client: &Arc<Client>, endpoint: &Endpoint, count: usize) -> usize {
    let begin = |seed: u64| {
        let (client, endpoint) = (Arc::clone(client), endpoint.clone());
        task(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut answered = 0;
            for _ in 0..count / 32 {
                let whole = async {
                    let post = Request::post("/").body(Bytes::from(vec![b'q'; 2000])).unwrap();
                    let mut response = client.send(&endpoint, post).await.unwrap();
                    assert_eq!(read(&mut response).await.unwrap(), b"helloworld");
                };
                answered += usize::from(within_waits(whole, random.usize(..10)).await);
            }
            answered
        })
    };
    let tasks: Vec<_> = (0..32).map(begin).collect();
    let mut answered = 0;
    for task in tasks {
        answered += task.await;
    }
    answered
}

/// Whether `future` ends before it has waited more than `waits_max` times; else it is dropped there.
/// Unlike a time, this meets the same phases however busy the machine is.
async fn within_waits(future: impl Future<Output = ()>, waits_max: usize) -> bool {
    let mut future = pin!(future);
    let mut waits = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending if waits == waits_max => Poll::Ready(false),
        Poll::Pending => {
            waits += 1;
            Poll::Pending
        }
    })
    .await
}

fn short_idle() -> Options {
    let connection_idle = Duration::from_millis(200);
    Options {
        connections_per_host_max: 20,
        connection_idle,
        extra_ca: Some(authority()),
        ..options()
    }
}

#[test]
fn ten_thousand_cancels_leave_no_connection() {
    let server = Server::start(dawdle);
    run(async move {
        let client = Arc::new(Client::new(short_idle()).unwrap());
        let endpoint = endpoint(&server.url());
        let count = 10_240;
        let answered = send_and_cancel(&client, &endpoint, count).await;
        println!("{answered} of {count} answered, {} connections", server.accepted());
        assert!((count / 20..count).contains(&answered), "{answered} answered");
        assert!(client.connections() <= 20);
        until_connections(&client, 0).await;
        let (status, _) = ask(&client, &endpoint, get("/")).await.unwrap();
        assert_eq!(status, 200, "and the client is as good as new");
    });
}

#[test]
fn cancels_within_tls_leave_no_connection() {
    let server = Server::start(|stream, number| dawdle(tls(stream, b"http/1.1"), number));
    run(async move {
        let client = Arc::new(Client::new(short_idle()).unwrap());
        let endpoint = endpoint(&format!("https://{}", server.address));
        let answered = send_and_cancel(&client, &endpoint, 1_024).await;
        println!("{answered} of 1024 answered, {} connections", server.accepted());
        until_connections(&client, 0).await;
    });
}

#[test]
fn cancels_of_streams_leave_their_connection_in_use() {
    let server = Peer::start(|number| Peer {
        pause: Duration::from_micros(u64::from(number) * 37 % 700),
        body: b"helloworld",
        ..Peer::default()
    });
    run(async move {
        let client = Arc::new(Client::new(short_idle()).unwrap());
        let endpoint = endpoint(&format!("https://{}", server.address));
        let answered = send_and_cancel(&client, &endpoint, 2_048).await;
        println!("{answered} of 2048 answered, {} connections", server.accepted());
        assert!(server.accepted() < 20, "{} connections", server.accepted());
        until_connections(&client, 0).await;
    });
}

/// One phase each, by hand: waiting for the name is in `resolve`.
#[test]
fn a_cancel_in_each_phase_is_seen_by_the_server_at_once() {
    // The phases of the server: what it has sent when the client goes away.
    let phases: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    ];
    for phase in phases {
        let (closed, seen) = std::sync::mpsc::channel();
        let closed = std::sync::Mutex::new(closed);
        let begun = Arc::new(TallyU64::new(0));
        let begun_there = Arc::clone(&begun);
        let server = Server::start(move |mut stream, _| {
            read_request(&mut stream)?;
            stream.write_all(phase)?;
            begun_there.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0]);
            closed.lock().unwrap().send(Instant::now()).unwrap();
            Ok(())
        });
        run(async move {
            let client = Arc::new(Client::new(short_idle()).unwrap());
            let endpoint = endpoint(&server.url());
            let mut worst = Duration::ZERO;
            for round in 1..=10 {
                let whole = async { drop(ask(&client, &endpoint, get("/")).await) };
                // On a busy machine the server may need longer than any fixed time to get there.
                let in_phase = async {
                    for _ in 0..5_000 {
                        if begun.load(Ordering::Relaxed) == round {
                            break;
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                    sleep(Duration::from_millis(10)).await;
                };
                or(whole, in_phase).await;
                let dropped = Instant::now();
                until_connections(&client, 0).await;
                let at = seen.recv_timeout(Duration::from_secs(5)).unwrap();
                worst = worst.max(at.saturating_duration_since(dropped));
            }
            println!("{} bytes sent: the end was seen after {worst:?} at worst", phase.len());
        });
    }
}
