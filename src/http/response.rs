//! The answer to a request: its head at once, its body as it is asked for.

use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};

use super::connect::network;
use super::line::Piece;
use super::open::describe;
use super::pool::{Exclusive, Pool, Stream};
use crate::dialect::Failure;

/// A response. Read to its end, it leaves its connection to the next request; dropped before, it
/// closes the connection at once (HTTP/2: resets its stream).
pub struct Response {
    /// The status, whatever it is: redirects are not followed.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// None once the body is over.
    source: Option<Source>,
    /// The body's failure, which asking again does not heal.
    failure: Option<Failure>,
}

/// Where the body comes from, and what the response keeps from others until it is over.
pub(super) enum Source {
    Exclusive { pool: Arc<Pool>, origin: Arc<str>, exclusive: Exclusive },
    Stream { stream: Stream, body: Incoming },
}

impl Response {
    /// A response that has been read up to its body.
    pub(super) fn new(head: &Parts, is_over: bool, source: Source) -> Self {
        let mut response = Self {
            status: head.status.as_u16(),
            headers: detached(&head.headers),
            source: Some(source),
            failure: None,
        };
        if is_over {
            response.finish();
        }
        response
    }

    /// The next piece of the body, never an empty one; `None` at its end. Trailers are left out.
    ///
    /// What is not asked for is not read from the socket, except for two pieces ahead. The future may
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
        let piece = match &mut self.source {
            None => return Ok(None),
            Some(Source::Exclusive { exclusive, .. }) => exclusive.line.piece().await,
            Some(Source::Stream { body, .. }) => next_piece(body).await,
        };
        match piece {
            Ok(Piece { data, is_last }) => {
                if is_last {
                    self.finish();
                }
                Ok(Some(data).filter(|data| !data.is_empty()))
            }
            Err(detail) => {
                self.source = None;
                let detail = format!("the response broke off: {detail}");
                Err(self.failure.insert(network(detail)).clone())
            }
        }
    }

    fn finish(&mut self) {
        match self.source.take() {
            // Otherwise it cannot be used again.
            Some(Source::Exclusive { pool, origin, exclusive }) if !exclusive.line.is_closed() => {
                pool.give_back(&origin, exclusive);
            }
            Some(Source::Stream { stream, .. }) => stream.finish(),
            Some(Source::Exclusive { .. }) | None => {}
        }
    }
}

/// The next piece of a body that hyper reads.
async fn next_piece(body: &mut Incoming) -> Result<Piece, String> {
    // Bounded by the peer: h2 limits empty frames.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| describe(&error))?;
        let is_last = body.is_end_stream();
        match Frame::into_data(frame) {
            Ok(data) if !data.is_empty() || is_last => return Ok(Piece { data, is_last }),
            Ok(_) | Err(_) => {}
        }
    }
    // A reset without an error is the end for hyper (RFC 9113 §8.1), whether the body was whole or not.
    if !body.is_end_stream() {
        return Err(RESET_EARLY.to_owned());
    }
    Ok(Piece { data: Bytes::new(), is_last: true })
}

const RESET_EARLY: &str = "the stream was reset before its end";

/// The same headers in memory of their own. hyper's are slices of what it first read, and one of them
/// keeps all 8 KiB of that for as long as the response lasts.
fn detached(headers: &HeaderMap) -> HeaderMap {
    let copy = |(name, value): (&HeaderName, &HeaderValue)| {
        // What was a value is one.
        Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    headers.iter().filter_map(copy).collect()
}
