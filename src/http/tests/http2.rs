//! HTTP/2, against a server of a few frames (RFC 9113) that needs no HPACK but a static entry.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;
use http::Request;

use super::server::{Server, authority, tls};
use super::{Options, ask, endpoint, get, options, run, sleep, task, until_connections};
use crate::dialect::Class;
use crate::http::Client;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
pub(super) const STATUS_200: &[u8] = &[0x88];
const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;
const INTERNAL_ERROR: u32 = 2;

/// What one connection's server does with requests.
#[derive(Clone)]
pub(super) struct Peer {
    /// Before each answer.
    pub(super) pause: Duration,
    pub(super) body: &'static [u8],
    /// Whether answers end.
    pub(super) is_endless: bool,
    /// After so many frames of each body, of three, it is reset with this code.
    pub(super) reset: Option<(usize, u32)>,
    /// Goes away, politely or not, instead of answering this request (from 1).
    pub(super) leaves_at: Option<(u32, Leaving)>,
    /// Where the error codes of resets go, and when they came.
    pub(super) resets: Arc<Mutex<Vec<(u32, Instant)>>>,
}

#[derive(Clone, Copy)]
pub(super) enum Leaving {
    /// Closes the socket.
    Abruptly,
    /// GOAWAY for what has not been answered; what had been goes on.
    Politely,
    /// Resets this one stream.
    Refusing(u32),
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            pause: Duration::ZERO,
            body: b"hello",
            is_endless: false,
            reset: None,
            leaves_at: None,
            resets: Arc::default(),
        }
    }
}

impl Peer {
    pub(super) fn start(of: impl Fn(u32) -> Self + Send + Sync + 'static) -> Server {
        Server::start(move |stream, number| {
            let peer = of(u32::try_from(number).unwrap());
            peer.serve(&mut tls(stream, b"h2"))
        })
    }

    fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        read_preface(stream)?;
        write_frame(stream, SETTINGS, 0, 0, &[])?;
        let mut request_count = 0;
        let mut open: HashMap<u32, ()> = HashMap::new();
        // Ends when the client closes.
        loop {
            let (kind, flags, id, payload) = read_frame(stream)?;
            match kind {
                SETTINGS if flags & ACK == 0 => write_frame(stream, SETTINGS, ACK, 0, &[])?,
                PING if flags & ACK == 0 => write_frame(stream, PING, ACK, 0, &payload)?,
                RST_STREAM => {
                    open.remove(&id);
                    let code = u32::from_be_bytes(payload.try_into().unwrap());
                    self.resets.lock().unwrap().push((code, Instant::now()));
                }
                GOAWAY => return Ok(()),
                HEADERS | DATA => {
                    if kind == HEADERS {
                        open.insert(id, ());
                    }
                    if kind == DATA && !payload.is_empty() {
                        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
                        write_frame(stream, WINDOW_UPDATE, 0, 0, &size)?;
                    }
                    if flags & END_STREAM == 0 || open.remove(&id).is_none() {
                        continue;
                    }
                    request_count += 1;
                    std::thread::sleep(self.pause);
                    match self.leaves_at.filter(|(at, _)| *at == request_count) {
                        None => self.answer(stream, id)?,
                        Some((_, Leaving::Abruptly)) => return Ok(()),
                        Some((_, Leaving::Politely)) => {
                            let last = id.saturating_sub(2).to_be_bytes();
                            let payload = [last, 0u32.to_be_bytes()].concat();
                            write_frame(stream, GOAWAY, 0, 0, &payload)?;
                        }
                        Some((_, Leaving::Refusing(code))) => {
                            write_frame(stream, RST_STREAM, 0, id, &code.to_be_bytes())?;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn answer(&self, stream: &mut impl Write, id: u32) -> io::Result<()> {
        write_frame(stream, HEADERS, END_HEADERS, id, STATUS_200)?;
        let (first, last) = self.body.split_at(self.body.len() / 2);
        let frames = [(first, 0), (b"", 0), (last, END_STREAM)];
        for (count, (data, flags)) in (1..).zip(frames) {
            if self.is_endless && flags == END_STREAM {
                break;
            }
            // h2 takes few empty ones on one connection.
            if data.is_empty() && self.reset.is_none() {
                continue;
            }
            write_frame(stream, DATA, flags, id, data)?;
            if let Some((after, code)) = self.reset
                && after == count
            {
                return write_frame(stream, RST_STREAM, 0, id, &code.to_be_bytes());
            }
        }
        Ok(())
    }
}

pub(super) fn read_preface(stream: &mut impl Read) -> io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    Ok(())
}

pub(super) fn write_frame(
    stream: &mut impl Write,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame)?;
    stream.flush()
}

pub(super) fn read_frame(stream: &mut impl Read) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let mut payload = vec![0; size as usize];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], id, payload))
}

pub(super) fn client(streams_max: usize) -> Arc<Client> {
    let options = Options {
        extra_ca: Some(authority()),
        streams_per_connection_max: streams_max,
        ..options()
    };
    Arc::new(Client::new(options).unwrap())
}

fn post() -> Request<Bytes> {
    Request::post("/v1").body(Bytes::from("question")).unwrap()
}

#[test]
fn requests_share_one_connection_up_to_its_streams() {
    let pause = Duration::from_millis(1);
    let server = Peer::start(move |_| Peer { pause, ..Peer::default() });
    run(async move {
        let endpoint = endpoint(&format!("https://{}", server.address));
        for (streams_max, connections) in [(100, 1), (10, 3)] {
            let client = client(streams_max);
            let before = server.accepted();
            let begin = |_| {
                let (client, endpoint) = (Arc::clone(&client), endpoint.clone());
                task(async move { ask(&client, &endpoint, post()).await })
            };
            let tasks: Vec<_> = (0..30).map(begin).collect();
            for task in tasks {
                assert_eq!(task.await.unwrap(), (200, b"hello".to_vec()));
            }
            let opened = server.accepted() - before;
            assert!((1..=connections).contains(&opened), "{opened} connections");
            assert_eq!(client.connections(), opened);
        }
    });
}

#[test]
fn a_response_that_is_dropped_resets_its_stream_and_leaves_the_connection() {
    let resets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&resets);
    let server = Peer::start(move |_| Peer {
        is_endless: true,
        resets: Arc::clone(&seen),
        ..Peer::default()
    });
    run(async move {
        let (client, endpoint) = (client(100), endpoint(&format!("https://{}", server.address)));
        for count in 1..=10 {
            let mut response = client.send(&endpoint, get("/")).await.unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "he");
            let dropped = Instant::now();
            drop(response);
            while resets.lock().unwrap().len() < count {
                assert!(dropped.elapsed() < Duration::from_secs(5), "no reset");
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(resets.lock().unwrap()[count - 1].0, CANCEL);
        }
        assert_eq!((server.accepted(), client.connections()), (1, 1));
    });
}

/// A server may reset the rest of a request without an error once it has answered (RFC 9113 §8.1), and
/// not before.
#[test]
fn a_body_that_is_reset_before_its_end_is_a_failure_whatever_the_reason() {
    for code in [NO_ERROR, INTERNAL_ERROR, CANCEL] {
        for after in [1, 2, 3] {
            let server =
                Peer::start(move |_| Peer { reset: Some((after, code)), ..Peer::default() });
            run(async move {
                let client = client(100);
                let endpoint = endpoint(&format!("https://{}", server.address));
                let answer = ask(&client, &endpoint, post()).await;
                if after == 3 {
                    assert_eq!(answer, Ok((200, b"hello".to_vec())), "{code}");
                } else {
                    let failure = answer.unwrap_err();
                    assert_eq!(failure.class, Class::Network, "{failure}");
                    assert!(failure.detail.contains("broke off"), "{failure}");
                }
                assert_eq!(client.connections(), 1);
            });
        }
    }
}

#[test]
fn a_kept_connection_that_goes_away_is_replaced_once() {
    for leaving in [Leaving::Abruptly, Leaving::Politely, Leaving::Refusing(INTERNAL_ERROR)] {
        let server =
            Peer::start(move |_| Peer { leaves_at: Some((2, leaving)), ..Peer::default() });
        run(async move {
            let client = client(100);
            let endpoint = endpoint(&format!("https://{}", server.address));
            assert_eq!(ask(&client, &endpoint, post()).await.unwrap().0, 200);
            let second = ask(&client, &endpoint, post()).await;
            if matches!(leaving, Leaving::Refusing(_)) {
                assert_eq!(second.unwrap_err().class, Class::Network);
                assert_eq!(server.accepted(), 1, "the server's word is not asked for twice");
            } else {
                assert_eq!(second.unwrap(), (200, b"hello".to_vec()));
                assert_eq!(server.accepted(), 2);
            }
            drop(client);
        });
    }
}

/// A server that is going down still ends what it has begun.
#[test]
fn a_polite_end_leaves_the_streams_that_had_begun() {
    let server = Peer::start(|number| Peer {
        is_endless: number == 0,
        leaves_at: (number == 0).then_some((2, Leaving::Politely)),
        ..Peer::default()
    });
    run(async move {
        let (client, endpoint) = (client(100), endpoint(&format!("https://{}", server.address)));
        let mut begun = client.send(&endpoint, post()).await.unwrap();
        assert_eq!(begun.chunk().await.unwrap().unwrap(), "he");
        assert_eq!(ask(&client, &endpoint, post()).await.unwrap(), (200, b"hello".to_vec()));
        assert_eq!(server.accepted(), 2);
        // Neither an end nor a failure: it goes on.
        let silence = async {
            sleep(Duration::from_millis(50)).await;
            None
        };
        assert_eq!(or(async { Some(begun.chunk().await) }, silence).await, None);
        assert_eq!(client.connections(), 2);
        drop(begun);
        until_connections(&client, 1).await;
    });
}

#[test]
fn a_new_connection_that_goes_away_is_a_failure() {
    let leaves_at = Some((1, Leaving::Abruptly));
    let server = Peer::start(move |_| Peer { leaves_at, ..Peer::default() });
    run(async move {
        let (client, endpoint) = (client(100), endpoint(&format!("https://{}", server.address)));
        let failure = ask(&client, &endpoint, post()).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert_eq!(server.accepted(), 1);
        until_connections(&client, 0).await;
    });
}

#[test]
fn an_idle_shared_connection_is_closed_after_its_time() {
    let server = Peer::start(|_| Peer::default());
    run(async move {
        let options = Options {
            extra_ca: Some(authority()),
            connection_idle: Duration::from_millis(100),
            ..options()
        };
        let client = Client::new(options).unwrap();
        let endpoint = endpoint(&format!("https://{}", server.address));
        ask(&client, &endpoint, post()).await.unwrap();
        assert_eq!(client.connections(), 1);
        until_connections(&client, 0).await;
        ask(&client, &endpoint, post()).await.unwrap();
        assert_eq!(server.accepted(), 2);
    });
}
