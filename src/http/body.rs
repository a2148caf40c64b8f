//! The body of an HTTP/1 response, read when there is room for it.
//!
//! It has no buffer: what comes is read to the stack, and a piece is as large as what came.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::response::Parts;
use http::{StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::framing::Framing;
use super::gate::Gate;
use super::line::{CLOSED_EARLY, Piece};
use super::tap::Tapped;

/// Bytes that are read at once.
const READ_SIZE: usize = 8 << 10;

pub(super) struct Body {
    gate: Gate,
    framing: Framing,
    /// The connection may serve another request once this body is over.
    is_kept: bool,
}

impl Body {
    /// The body behind a head that hyper has read, with what hyper made of the head.
    pub(super) fn new(gate: Gate, head: &Parts, incoming: &Incoming) -> Self {
        Self { gate, framing: framing(head, incoming), is_kept: keeps_alive(head) }
    }

    /// Whether no piece is to be expected.
    pub(super) fn is_over(&self) -> bool {
        self.framing.is_over()
    }

    /// The connection of a body that is over, if it may be used again.
    pub(super) fn into_idle(self) -> Option<Tapped> {
        if self.is_kept { self.gate.into_idle() } else { None }
    }

    /// Ready with the next piece, if the body is not over.
    ///
    /// # Errors
    ///
    /// Why it breaks off. The connection is not to be used again.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, String>> {
        let polled = self.poll_next(context);
        self.is_kept &= !matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, String>> {
        let mut space = [0; READ_SIZE];
        // Bounded by the framing: what is not body is counted.
        loop {
            let read = ready!(self.gate.poll_body(context, &mut space));
            let count = read.map_err(|error| error.to_string())?;
            if count == 0 {
                self.is_kept = false;
                let is_whole = self.framing == Framing::UntilClose;
                let last = Piece { data: Bytes::new(), is_last: true };
                return Poll::Ready(
                    is_whole.then_some(last).ok_or_else(|| CLOSED_EARLY.to_owned()),
                );
            }
            let decoded = self.framing.decode(&mut space[..count]);
            let decoded = decoded.map_err(|malformed| malformed.to_string())?;
            self.is_kept &= decoded.left_over.is_none_or(|count| count == 0);
            let is_last = decoded.left_over.is_some();
            if decoded.size > 0 || is_last {
                let data = Bytes::copy_from_slice(&space[..decoded.size]);
                return Poll::Ready(Ok(Piece { data, is_last }));
            }
        }
    }
}

/// How the body ends (RFC 9112 §6.3): hyper has found out, and tells all but one thing. A head that
/// leaves it open is an error there.
fn framing(head: &Parts, incoming: &Incoming) -> Framing {
    match incoming.size_hint().exact() {
        _ if incoming.is_end_stream() => Framing::Length(0),
        Some(size) => Framing::Length(size),
        None if is_chunked(head) => Framing::chunked(),
        None => Framing::UntilClose,
    }
}

/// Whether the last transfer coding is `chunked`; otherwise the body ends with the connection.
fn is_chunked(head: &Parts) -> bool {
    let last = head.headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let codings = last.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let last = codings.rsplit(',').next().unwrap_or_default();
    last.trim().eq_ignore_ascii_case("chunked")
}

/// Whether the server lets its connection be used again (RFC 9112 §9.3).
fn keeps_alive(head: &Parts) -> bool {
    let says = |word: &str| {
        let lists = head.headers.get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
        lists.flat_map(|list| list.split(',')).any(|it| it.trim().eq_ignore_ascii_case(word))
    };
    // Behind a switch of protocols it is no longer HTTP.
    head.status != StatusCode::SWITCHING_PROTOCOLS
        && !says("close")
        && (head.version == Version::HTTP_11 || says("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, name: &'static str, values: &[&'static str]) -> Parts {
        let response = http::Response::builder().version(version);
        let response =
            values.iter().fold(response, |response, value| response.header(name, *value));
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_connection_is_kept_if_version_and_headers_say_so() {
        for (version, connection, kept) in [
            (Version::HTTP_11, &[][..], true),
            (Version::HTTP_11, &["upgrade, Close"], false),
            (Version::HTTP_11, &["keep-alive", "x", "close"], false),
            (Version::HTTP_11, &["closed"], true),
            (Version::HTTP_10, &[], false),
            (Version::HTTP_10, &["Keep-Alive"], true),
            (Version::HTTP_10, &["keep-alive, close"], false),
        ] {
            let head = head(version, "connection", connection);
            assert_eq!(keeps_alive(&head), kept, "{version:?} {connection:?}");
        }
    }

    #[test]
    fn a_body_is_chunked_if_that_is_its_last_coding() {
        for (codings, chunked) in [
            (&["chunked"][..], true),
            (&["gzip, Chunked"], true),
            (&["gzip", "chunked"], true),
            (&["chunked, gzip"], false),
            (&["chunked", "gzip"], false),
            (&["xchunked"], false),
            (&[], false),
        ] {
            let head = head(Version::HTTP_11, "transfer-encoding", codings);
            assert_eq!(is_chunked(&head), chunked, "{codings:?}");
        }
    }
}
