//! The answer to a request: its head at once, its body as it is asked for.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::or;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::connect::network;
use super::open::describe;
use super::pool::{Exclusive, Pool, Stream};
use crate::dialect::Failure;

/// How long a connection may take to get ready for another request after it has answered one: its
/// task has to have had a turn.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A response. Read to its end, it leaves its connection to the next request; dropped before, it
/// closes the connection at once (HTTP/2: resets its stream).
pub struct Response {
    /// The status, whatever it is: redirects are not followed.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    hold: Option<Hold>,
    /// The body's failure, which asking again does not heal.
    failure: Option<Failure>,
}

/// What the response keeps from others until it is over.
pub(super) enum Hold {
    Exclusive { pool: Arc<Pool>, origin: Arc<str>, exclusive: Exclusive },
    Stream(Stream),
}

impl Response {
    pub(super) fn new(response: http::Response<Incoming>, hold: Hold) -> Self {
        let (head, body) = response.into_parts();
        let mut response = Self {
            status: head.status.as_u16(),
            headers: detached(&head.headers),
            body,
            hold: Some(hold),
            failure: None,
        };
        response.finish_if_over();
        response
    }

    /// The next piece of the body, never an empty one; `None` at its end. Trailers are left out.
    ///
    /// What is not asked for is not read from the socket, except for one piece ahead. The future may
    /// be dropped and `chunk` called again: nothing is lost. How long to wait is the caller's.
    ///
    /// # Errors
    ///
    /// [`Class::Network`](crate::dialect::Class::Network) when the connection broke before the
    /// body's end. The connection is closed, and every further call says so again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        // Bounded by the peer: an HTTP/1 frame is never empty, and h2 limits empty ones.
        loop {
            let Some(frame) = self.body.frame().await else {
                self.finish();
                return Ok(None);
            };
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) if !data.is_empty() => {
                    self.finish_if_over();
                    return Ok(Some(data));
                }
                Ok(_) => {}
                Err(error) => {
                    self.hold = None;
                    let detail = format!("the response broke off: {}", describe(&error));
                    return Err(self.failure.insert(network(detail)).clone());
                }
            }
        }
    }

    /// A body of known length is over with its last byte, which the caller may not ask beyond.
    fn finish_if_over(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        match self.hold.take() {
            Some(Hold::Exclusive { pool, origin, exclusive }) => finish(pool, origin, exclusive),
            Some(Hold::Stream(stream)) => stream.finish(),
            None => {}
        }
    }
}

/// The same headers in memory of their own. hyper's are slices of what it first read, and one of them
/// keeps all 8 KiB of that for as long as the response lasts.
fn detached(headers: &HeaderMap) -> HeaderMap {
    let copy = |(name, value): (&HeaderName, &HeaderValue)| {
        // What was a value is one.
        Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    headers.iter().filter_map(copy).collect()
}

/// Puts the connection back as soon as it is ready for another request. Dropping it closes it.
fn finish(pool: Arc<Pool>, origin: Arc<str>, mut exclusive: Exclusive) {
    // The server has answered without taking the request: the next one would stand behind its rest.
    // hyper does not know, because it counts what is in its own buffer as sent.
    if exclusive.tap.is_writing() {
        return;
    }
    if exclusive.sender.is_ready() {
        pool.give_back(&origin, exclusive);
    } else if !exclusive.sender.is_closed() {
        glommio::spawn_local(async move {
            let ready = poll_fn(|context| exclusive.sender.poll_ready(context));
            let ready = async { ready.await.is_ok() };
            let too_late = async {
                glommio::timer::sleep(READY_TIMEOUT).await;
                false
            };
            if or(ready, too_late).await {
                pool.give_back(&origin, exclusive);
            }
        })
        .detach();
    }
}
