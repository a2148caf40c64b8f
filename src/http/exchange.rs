//! Requests on an HTTP/1 connection, one after the other: hyper writes each and reads the head of its
//! response, we read the body.
//!
//! A connection of hyper's keeps 25 KiB for as long as a response lasts: to read, to write, and for
//! the queue through which requests reach it. A stream lasts for minutes and needs none of that.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use futures_lite::AsyncRead as _;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1;
use smol_hyper::rt::FuturesIo;

use super::body::Body;
use super::gate::Gate;
use super::line::{CLOSED_EARLY, Head, LineEnd, NoHead};
use super::open::{HEAD_SIZE_MAX, HEADERS_MAX, describe};
use super::tap::Tapped;

/// Answers the requests that come by `line` until the connection ends or is not to be used again.
pub(super) async fn serve(mut io: Tapped, line: LineEnd) {
    // Ends with the connection at the latest.
    while let Some(request) = next_request(&mut io, &line).await {
        // Boxed: it is large, and gone before the body comes.
        let (head, mut body) = match Box::pin(exchange(io, request)).await {
            Ok(answered) => answered,
            Err(no_head) => return line.answer(Err(no_head)),
        };
        let mut is_over = head.is_over;
        line.answer(Ok(head));
        // Bounded by the peer, and by who asks: one piece is read ahead of the one that waits.
        while !is_over {
            let piece = poll_fn(|context| body.poll_piece(context)).await;
            is_over = piece.as_ref().map_or(true, |piece| piece.is_last);
            line.send(piece).await;
        }
        match body.into_idle() {
            Some(idle) => io = idle,
            None => return,
        }
    }
}

/// Waits for a request; `None` when the connection ends, or speaks without having been asked.
async fn next_request(io: &mut Tapped, line: &LineEnd) -> Option<Request<Full<Bytes>>> {
    poll_fn(|context| match Pin::new(&mut *io).poll_read(context, &mut [0]) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => line.poll_request(context).map(Some),
    })
    .await
}

/// Sends a request and waits for the head of its response.
async fn exchange(io: Tapped, request: Request<Full<Bytes>>) -> Result<(Head, Body), NoHead> {
    let (gate, has_head) = Gate::new(io);
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_SIZE_MAX as usize)
        .max_header_size(HEAD_SIZE_MAX as usize)
        .max_headers(HEADERS_MAX)
        .handshake(FuturesIo::new(gate))
        .await;
    let (mut sender, mut connection) =
        handshake.map_err(|error| NoHead { detail: describe(&error), is_unsent: true })?;
    let mut response = pin!(sender.try_send_request(request));
    let mut has_ended = false;
    let response = poll_fn(|context| {
        // How it ended is told to who waits for the response.
        has_ended = has_ended || connection.poll_without_shutdown(context).is_ready();
        match response.as_mut().poll(context) {
            Poll::Ready(Err(error)) => {
                // hyper gives back what it has not begun to write.
                let is_unsent = error.message().is_some();
                Poll::Ready(Err(NoHead { detail: describe(&error.into_error()), is_unsent }))
            }
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Pending if has_ended => Poll::Ready(Err(NoHead::sent(CLOSED_EARLY))),
            Poll::Pending if has_head.get() => Poll::Ready(Err(NoHead::sent(UNCLEAR))),
            Poll::Pending => Poll::Pending,
        }
    });
    let (parts, incoming) = response.await?.into_parts();
    let connection = connection.into_parts();
    if !has_head.get() || !connection.read_buf.is_empty() {
        return Err(NoHead::sent(UNCLEAR));
    }
    let body = Body::new(connection.io.into_inner(), &parts, &incoming);
    Ok((Head { is_over: body.is_over(), parts }, body))
}

/// hyper and the gate do not agree where a head ends.
const UNCLEAR: &str = "the head of the response has no clear end";

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::task::Context;

    use futures_lite::AsyncWrite;
    use futures_lite::future::block_on;

    use super::super::tap::Tap;
    use super::*;

    /// A peer that has closed, or closes when it has the request.
    struct Closing {
        is_closed: bool,
    }

    impl futures_lite::AsyncRead for Closing {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            context.waker().wake_by_ref();
            if self.is_closed { Poll::Ready(Ok(0)) } else { Poll::Pending }
        }
    }

    impl AsyncWrite for Closing {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            source: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_closed = true;
            Poll::Ready(Ok(source.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_request_is_unsent_only_if_nothing_of_it_was_written() {
        for is_closed in [true, false] {
            let io = Tapped::new(Box::new(Closing { is_closed }), Arc::new(Tap::default()));
            let request = Request::new(Full::new(Bytes::from_static(b"question")));
            let no_head = block_on(exchange(io, request)).map(drop).unwrap_err();
            assert_eq!(no_head.is_unsent, is_closed, "{no_head:?}");
        }
    }
}
