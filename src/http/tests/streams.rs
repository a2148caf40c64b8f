//! HTTP/2 servers that take fewer streams than we would open, or no more of them: nothing that was not
//! begun with fails.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, yield_now};
use http::Request;

use super::http2::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, STATUS_200,
    client, read_frame, read_preface, write_frame,
};
use super::server::{Server, authority, tls};
use super::{Options, ask, endpoint, options, run, sleep, task, until_connections};
use crate::dialect::Class;
use crate::http::{Client, Endpoint, Response};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const REFUSED_STREAM: u32 = 7;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A body that is begun and not ended before the client resets it.
const LONG: &str = "long";
/// A body that is sent whole.
const SHORT: &str = "short";
/// The same, after the server has lowered its limit to one stream.
const LOWER: &str = "lower";
/// The server goes away before this request, and what it had begun goes on.
const LEAVE: &str = "leave";

/// How one connection's server treats streams. What a request wants is in its body.
#[derive(Clone)]
struct Peer {
    /// The limit that it tells first, if any.
    told: Option<u32>,
    /// What it says in the end of its connection.
    leaves_with: u32,
    last_words: &'static [u8],
    /// How often it does so, over all connections; from then on [`LEAVE`] is answered as [`SHORT`].
    leaves: Arc<Mutex<u32>>,
    /// Streams that it takes at once; it refuses more.
    takes: usize,
    /// The most that were open at once.
    most: Arc<Mutex<usize>>,
    refused: Arc<Mutex<u32>>,
}

impl Peer {
    fn new(told: Option<u32>, takes: usize) -> Self {
        Self {
            told,
            leaves_with: NO_ERROR,
            last_words: b"bye",
            leaves: Arc::new(Mutex::new(u32::MAX)),
            takes,
            most: Arc::default(),
            refused: Arc::default(),
        }
    }

    fn start(&self) -> (Server, Endpoint) {
        let peer = self.clone();
        let server = Server::start(move |stream, _| peer.serve(&mut tls(stream, b"h2")));
        let endpoint = endpoint(&format!("https://{}", server.address));
        (server, endpoint)
    }

    fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        read_preface(stream)?;
        write_frame(stream, SETTINGS, 0, 0, &self.told.map_or(Vec::new(), limit))?;
        let mut asked: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut open = HashSet::new();
        let (mut takes, mut has_left) = (self.takes, false);
        // Ends when the client closes.
        loop {
            let (kind, flags, id, payload) = read_frame(stream)?;
            match kind {
                SETTINGS if flags & ACK == 0 => write_frame(stream, SETTINGS, ACK, 0, &[])?,
                PING if flags & ACK == 0 => write_frame(stream, PING, ACK, 0, &payload)?,
                GOAWAY => return Ok(()),
                RST_STREAM => {
                    open.remove(&id);
                }
                // Nobody looks at what comes after the end.
                HEADERS | DATA if !has_left => {
                    let body = asked.entry(id).or_default();
                    if kind == DATA {
                        body.extend(payload);
                    }
                    if flags & END_STREAM == 0 {
                        continue;
                    }
                    let body = asked.remove(&id).unwrap_or_default();
                    if open.len() >= takes {
                        *self.refused.lock().unwrap() += 1;
                        write_frame(stream, RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())?;
                        continue;
                    }
                    if body == LEAVE.as_bytes() && self.is_to_leave() {
                        let last = id.saturating_sub(2).to_be_bytes();
                        let mut payload = [last, self.leaves_with.to_be_bytes()].concat();
                        payload.extend(self.last_words);
                        write_frame(stream, GOAWAY, 0, 0, &payload)?;
                        has_left = true;
                        continue;
                    }
                    if body == LOWER.as_bytes() {
                        takes = 1;
                        write_frame(stream, SETTINGS, 0, 0, &limit(1))?;
                    }
                    open.insert(id);
                    let mut most = self.most.lock().unwrap();
                    *most = open.len().max(*most);
                    write_frame(stream, HEADERS, END_HEADERS, id, STATUS_200)?;
                    let is_long = body == LONG.as_bytes();
                    write_frame(stream, DATA, if is_long { 0 } else { END_STREAM }, id, &body)?;
                    if !is_long {
                        open.remove(&id);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether it leaves once more.
    fn is_to_leave(&self) -> bool {
        let mut leaves = self.leaves.lock().unwrap();
        let left = leaves.checked_sub(1);
        *leaves = left.unwrap_or(0);
        left.is_some()
    }
}

/// The one setting that matters here.
fn limit(streams_max: u32) -> Vec<u8> {
    [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &streams_max.to_be_bytes()].concat()
}

fn wanting(what: &'static str) -> Request<Bytes> {
    Request::post("/v1").body(Bytes::from(what)).unwrap()
}

/// A client that may have this many connections to one host.
fn client_of(connections_max: usize) -> Arc<Client> {
    let options = Options {
        extra_ca: Some(authority()),
        connections_per_host_max: connections_max,
        ..options()
    };
    Arc::new(Client::new(options).unwrap())
}

/// Begins an answer that does not end.
async fn begin(client: &Client, endpoint: &Endpoint) -> Response {
    let mut response = client.send(endpoint, wanting(LONG)).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), LONG);
    response
}

/// Begins so many at once.
async fn begin_all(client: &Arc<Client>, endpoint: &Endpoint, count: usize) -> Vec<Response> {
    let begin = |_| {
        let (client, endpoint) = (Arc::clone(client), endpoint.clone());
        task(async move { begin(&client, &endpoint).await })
    };
    let tasks: Vec<_> = (0..count).map(begin).collect();
    let mut begun = Vec::new();
    for task in tasks {
        begun.push(task.await);
    }
    begun
}

#[test]
fn streams_beyond_a_servers_limit_go_on_another_connection() {
    let peer = Peer::new(Some(2), 2);
    let (server, endpoint) = peer.start();
    run(async move {
        let client = client(100);
        let begun = begin_all(&client, &endpoint, 7).await;
        assert_eq!((server.accepted(), *peer.most.lock().unwrap()), (4, 2));
        assert_eq!(*peer.refused.lock().unwrap(), 0, "the limit was known in time");
        drop(begun);
    });
}

#[test]
fn where_no_more_connections_are_allowed_a_request_waits_for_a_stream() {
    let peer = Peer::new(Some(1), 1);
    let (server, endpoint) = peer.start();
    run(async move {
        let client = client_of(1);
        let first = begin(&client, &endpoint).await;
        let second = {
            let (client, endpoint) = (Arc::clone(&client), endpoint.clone());
            task(async move { ask(&client, &endpoint, wanting(SHORT)).await })
        };
        for _ in 0..100 {
            yield_now().await;
        }
        sleep(Duration::from_millis(20)).await;
        drop(first);
        assert_eq!(second.await.unwrap(), (200, SHORT.into()));
        assert_eq!((server.accepted(), *peer.refused.lock().unwrap()), (1, 0));
    });
}

/// A limit that nobody told, or that is told too late.
#[test]
fn a_refused_stream_goes_on_another_connection() {
    let peer = Peer::new(None, 1);
    let (server, endpoint) = peer.start();
    run(async move {
        let client = client(100);
        let first = begin(&client, &endpoint).await;
        let others = begin_all(&client, &endpoint, 2).await;
        assert_eq!((server.accepted(), *peer.most.lock().unwrap()), (3, 1));
        drop((first, others));
    });
}

#[test]
fn a_server_that_refuses_everything_is_asked_four_times() {
    let (server, endpoint) = Peer::new(None, 0).start();
    run(async move {
        let client = client(100);
        let failure = ask(&client, &endpoint, wanting(SHORT)).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert!(failure.detail.contains("refused stream"), "{failure}");
        assert_eq!(server.accepted(), 4);
        until_connections(&client, 0).await;
    });
}

#[test]
fn a_limit_that_is_lowered_later_holds_too() {
    let peer = Peer::new(Some(10), 10);
    let (server, endpoint) = peer.start();
    run(async move {
        let client = client(100);
        assert_eq!(ask(&client, &endpoint, wanting(SHORT)).await.unwrap().0, 200);
        assert_eq!(ask(&client, &endpoint, wanting(LOWER)).await.unwrap(), (200, LOWER.into()));
        let first = begin(&client, &endpoint).await;
        let second = begin(&client, &endpoint).await;
        assert_eq!((server.accepted(), *peer.refused.lock().unwrap()), (2, 0));
        drop((first, second));
    });
}

#[test]
fn what_a_leaving_server_had_not_begun_is_asked_elsewhere_and_the_rest_goes_on() {
    for leaves_with in [NO_ERROR, ENHANCE_YOUR_CALM] {
        // As often as a request is sent again: any of the others may be on each connection that it leaves.
        let leaves = Arc::new(Mutex::new(3));
        let peer = Peer { leaves_with, leaves: Arc::clone(&leaves), ..Peer::new(Some(100), 100) };
        let (server, endpoint) = peer.start();
        run(async move {
            let client = client(100);
            let mut begun = begin_all(&client, &endpoint, 3).await;
            assert_eq!(server.accepted(), 1);
            let leave = |what| {
                let (client, endpoint) = (Arc::clone(&client), endpoint.clone());
                task(async move { ask(&client, &endpoint, wanting(what)).await })
            };
            // The server of the next connection leaves as well, if it is told to.
            let tasks: Vec<_> = [SHORT, LEAVE, SHORT, SHORT, SHORT].map(leave).into();
            for (index, task) in tasks.into_iter().enumerate() {
                let body = if index == 1 { LEAVE } else { SHORT };
                assert_eq!(task.await.unwrap(), (200, body.into()), "request {index}");
            }
            // One for what was begun, and one for each time that the server left.
            assert_eq!(server.accepted(), 4);
            *leaves.lock().unwrap() = u32::MAX;
            let failure = ask(&client, &endpoint, wanting(LEAVE)).await.unwrap_err();
            assert_eq!(failure.class, Class::Network, "everybody left");
            for response in &mut begun {
                let silence = async {
                    sleep(Duration::from_millis(10)).await;
                    None
                };
                assert_eq!(or(async { Some(response.chunk().await) }, silence).await, None);
            }
        });
    }
}

/// Not only a kept connection: the server's word counts, not how old it is.
#[test]
fn a_new_connection_whose_server_leaves_before_the_first_request_is_replaced() {
    let peer = Peer { last_words: &[b'x'; 10_000], ..Peer::new(Some(100), 100) };
    let (server, endpoint) = peer.start();
    run(async move {
        let client = client(100);
        let failure = ask(&client, &endpoint, wanting(LEAVE)).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert!(failure.detail.contains("xxx") && failure.detail.len() < 1000, "{failure}");
        assert_eq!(server.accepted(), 4, "three times more, and no further");
        assert_eq!(ask(&client, &endpoint, wanting(SHORT)).await.unwrap().0, 200);
        until_connections(&client, 1).await;
    });
}
