//! Answers piece by piece: for a thread as iterators, for a task as streams.
//!
//! All of them are fused: after an error, and after the end, there is nothing more. Dropping one
//! before its end cancels the request.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::{FusedStream, Stream};

use super::flight::Flight;
use crate::error::IpcError;
use crate::protocol::{Codec, StreamEvent};

/// The payloads of an answer's frames, one by one; each step blocks until the next is there.
///
/// An empty last frame is only the end. A request that failed gives its error, then nothing.
pub struct ResponseStream {
    flight: Option<Flight>,
}

impl ResponseStream {
    pub(super) const fn new(flight: Flight) -> Self {
        Self { flight: Some(flight) }
    }
}

impl Iterator for ResponseStream {
    type Item = Result<Vec<u8>, IpcError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.flight.as_mut()?.next_chunk();
        if !matches!(next, Some(Ok(_))) {
            self.flight = None;
        }
        next
    }
}

impl std::iter::FusedIterator for ResponseStream {}

/// The events of a streamed completion; each step blocks until the next is there.
///
/// An event that does not decode gives [`IpcError::Codec`] and cancels the request.
pub struct CompletionStream {
    chunks: ResponseStream,
    codec: Arc<dyn Codec>,
}

impl CompletionStream {
    pub(super) fn new(chunks: ResponseStream, codec: Arc<dyn Codec>) -> Self {
        Self { chunks, codec }
    }
}

impl Iterator for CompletionStream {
    type Item = Result<StreamEvent, IpcError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = decode(&*self.codec, self.chunks.next()?);
        if event.is_err() {
            self.chunks.flight = None;
        }
        Some(event)
    }
}

impl std::iter::FusedIterator for CompletionStream {}

/// The payloads of an answer's frames, one by one, for a task.
///
/// An empty last frame is only the end. A request that failed gives its error, then nothing.
pub struct AsyncResponseStream {
    flight: Option<Flight>,
    /// The request, until it is sent.
    payload: Option<Vec<u8>>,
}

impl AsyncResponseStream {
    pub(super) const fn new(flight: Flight, payload: Vec<u8>) -> Self {
        Self { flight: Some(flight), payload: Some(payload) }
    }
}

impl Stream for AsyncResponseStream {
    type Item = Result<Vec<u8>, IpcError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(flight) = &mut this.flight else {
            return Poll::Ready(None);
        };
        if let Some(payload) = &this.payload {
            match flight.poll_send(cx, payload) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => this.payload = None,
                Poll::Ready(Err(error)) => {
                    this.flight = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let next = flight.poll_chunk(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            this.flight = None;
        }
        next
    }
}

impl FusedStream for AsyncResponseStream {
    fn is_terminated(&self) -> bool {
        self.flight.is_none()
    }
}

/// The events of a streamed completion, for a task.
///
/// An event that does not decode gives [`IpcError::Codec`] and cancels the request.
pub struct AsyncCompletionStream {
    chunks: AsyncResponseStream,
    codec: Arc<dyn Codec>,
}

impl AsyncCompletionStream {
    pub(super) fn new(chunks: AsyncResponseStream, codec: Arc<dyn Codec>) -> Self {
        Self { chunks, codec }
    }
}

impl Stream for AsyncCompletionStream {
    type Item = Result<StreamEvent, IpcError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match Pin::new(&mut this.chunks).poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(chunk)) => {
                let event = decode(&*this.codec, chunk);
                if event.is_err() {
                    this.chunks.flight = None;
                }
                Poll::Ready(Some(event))
            }
        }
    }
}

impl FusedStream for AsyncCompletionStream {
    fn is_terminated(&self) -> bool {
        self.chunks.is_terminated()
    }
}

fn decode(codec: &dyn Codec, chunk: Result<Vec<u8>, IpcError>) -> Result<StreamEvent, IpcError> {
    Ok(codec.decode_stream_event(&chunk?)?)
}

macro_rules! debug_as_a_name {
    ($($stream:ident),*) => {$(
        impl fmt::Debug for $stream {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($stream)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_as_a_name!(ResponseStream, CompletionStream, AsyncResponseStream, AsyncCompletionStream);
