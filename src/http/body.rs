//! The body of an HTTP/1 response, read when there is room for it.
//!
//! It has no buffer: what comes is read to the stack, and a piece is as large as what came.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
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
        let is_kept = keeps_alive(head) && is_unmistakable(head);
        Self { gate, framing: framing(head, incoming), is_kept }
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

/// Whether the head says one thing about the body's end. Where it says two, we take what the standard
/// takes; but somebody between the server and us may have taken the other, and what comes behind the
/// body is then no answer (RFC 9112 §6.3).
fn is_unmistakable(head: &Parts) -> bool {
    let is_chunked = head.headers.contains_key(TRANSFER_ENCODING);
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    match head.status {
        // It may say neither (RFC 9110 §8.6, RFC 9112 §6.1); that there is nothing is what we think, too.
        StatusCode::NO_CONTENT => !is_chunked && lengths.all(|length| length == "0"),
        _ => !is_chunked || lengths.next().is_none(),
    }
}

/// Whether the server lets its connection be used again (RFC 9112 §9.3).
fn keeps_alive(head: &Parts) -> bool {
    let says = |word: &str| {
        // As bytes: what is no ASCII beside a word does not hide it.
        let lists = head.headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
        let mut words = lists.flat_map(|list| list.split(|byte| *byte == b','));
        words.any(|it| it.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    // Behind a switch of protocols it is no longer HTTP.
    head.status != StatusCode::SWITCHING_PROTOCOLS
        && !says("close")
        && (head.version == Version::HTTP_11 || says("keep-alive"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;

    use futures_lite::future::block_on;
    use futures_lite::{AsyncRead, AsyncWrite};

    use super::super::tap::Tap;
    use super::*;

    /// A peer that sends this, one after the other: nothing is its end, and `None` is an error.
    struct Sent(VecDeque<Option<Vec<u8>>>);

    impl AsyncRead for Sent {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            target: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(match self.0.pop_front().expect("nobody reads on") {
                Some(bytes) => {
                    target[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                }
                None => Err(io::ErrorKind::ConnectionReset.into()),
            })
        }
    }

    impl AsyncWrite for Sent {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            panic!("there is nothing to write");
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What comes of a body of which the peer sends this: all of it or what it breaks off with, and
    /// whether the connection is kept.
    fn read(framing: Framing, sent: &[Option<&[u8]>]) -> (Result<Vec<u8>, String>, bool) {
        let sent = Sent(sent.iter().map(|bytes| bytes.map(<[u8]>::to_vec)).collect());
        let io = Tapped::new(Box::new(sent), Arc::new(Tap::default()));
        let mut body = Body { gate: Gate::new(io).0, framing, is_kept: true };
        let mut whole = Vec::new();
        // Each round reads what was sent, and there is no more.
        loop {
            match block_on(poll_fn(|context| body.poll_piece(context))) {
                Ok(Piece { data, is_last }) => {
                    assert!(is_last || !data.is_empty(), "only the last piece may be empty");
                    whole.extend_from_slice(&data);
                    if is_last {
                        return (Ok(whole), body.into_idle().is_some());
                    }
                }
                Err(said) => return (Err(said), body.into_idle().is_some()),
            }
        }
    }

    #[test]
    fn a_body_ends_with_its_last_byte_and_keeps_its_connection_if_nothing_else_came() {
        let hello = || Ok(b"hello".to_vec());
        let early = || Err(CLOSED_EARLY.to_owned());
        let broken = || Err(io::Error::from(io::ErrorKind::ConnectionReset).to_string());
        let length = Framing::Length(5);
        let chunked = Framing::chunked();
        let (close, error): (Option<&[u8]>, Option<&[u8]>) = (Some(b""), None);
        let full = [b'x'; READ_SIZE];
        for (framing, sent, outcome) in [
            (&length, &[Some(&b"hel"[..]), Some(b"lo")][..], (hello(), true)),
            (&length, &[Some(b"hel"), Some(b"lo!")], (hello(), false)),
            (&length, &[Some(b"hel"), close], (early(), false)),
            (&length, &[Some(b"hel"), error], (broken(), false)),
            (&chunked, &[Some(b"5\r\nhello\r"), Some(b"\n0\r\n\r\n")], (hello(), true)),
            (&chunked, &[Some(b"5"), Some(b"\r\nhello\r\n0\r\n\r\nH")], (hello(), false)),
            (&chunked, &[Some(b"5\r\nhello\r\n"), close], (early(), false)),
            (&chunked, &[Some(b"5\r\nhello\r\n0\r\n"), close], (early(), false)),
            (&chunked, &[Some(b"5\r\nhello\r\n"), error], (broken(), false)),
            (&Framing::UntilClose, &[Some(b"hel"), Some(b"lo"), close], (hello(), false)),
            (&Framing::UntilClose, &[Some(b"hel"), error], (broken(), false)),
            (&Framing::Length(READ_SIZE as u64), &[Some(&full)], (Ok(full.to_vec()), true)),
        ] {
            assert_eq!(read(framing.clone(), sent), outcome, "{framing:?} {sent:?}");
        }
        let (outcome, is_kept) = read(chunked, &[Some(b"5\r\nhello!\r\n")]);
        assert!(outcome.unwrap_err().contains("chunk") && !is_kept);
    }

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
            (Version::HTTP_11, &["\u{e9}, close"], false),
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
