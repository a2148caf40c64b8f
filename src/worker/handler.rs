//! Asynchronous handlers: what they are given, and how they answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::session::{Session, Ticket};
use crate::error::IpcError;
use crate::limits::DETAIL_SIZE_MAX;
use crate::pool::Lease;
use crate::protocol::Codec;
use crate::sync::sound;
use crate::wire::{FrameHeader, MessageType, Status};

/// Answers requests of one message type on a worker executor, where it may allocate and await.
///
/// Its future runs on one thread (it need not be `Send`) and is dropped when the request is
/// cancelled, its deadline passes or its client goes away; so everything that it holds must be
/// released by dropping. A panic is answered with [`Status::HandlerPanic`]. The thread is a
/// current-thread runtime of tokio's with time and I/O, where `tokio::task::spawn_local` works.
///
/// Any `Fn(AsyncRequest, AsyncResponder) -> impl Future<Output = Result<(), IpcError>>` is one.
pub trait AsyncHandler: Send + Sync {
    /// Answers `request`: any number of chunks, then at most one reply. Returning without a reply
    /// sends an empty one.
    ///
    /// # Errors
    ///
    /// Become the answer's [`Status`] and its text.
    fn handle(
        &self,
        request: AsyncRequest,
        responder: AsyncResponder,
    ) -> Pin<Box<dyn Future<Output = Result<(), IpcError>>>>;
}

impl<F, R> AsyncHandler for F
where
    F: Fn(AsyncRequest, AsyncResponder) -> R + Send + Sync,
    R: Future<Output = Result<(), IpcError>> + 'static,
{
    fn handle(
        &self,
        request: AsyncRequest,
        responder: AsyncResponder,
    ) -> Pin<Box<dyn Future<Output = Result<(), IpcError>>>> {
        Box::pin(self(request, responder))
    }
}

/// One request, in a buffer of its own that goes back to the pool when this is dropped.
pub struct AsyncRequest {
    header: FrameHeader,
    payload: Option<Lease>,
    codec: Arc<dyn Codec>,
    connection_id: u64,
}

impl AsyncRequest {
    pub(super) fn new(
        header: FrameHeader,
        payload: Option<Lease>,
        codec: Arc<dyn Codec>,
        connection_id: u64,
    ) -> Self {
        Self { header, payload, codec, connection_id }
    }

    pub(super) const fn header(&self) -> FrameHeader {
        self.header
    }

    /// The message type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.header.message_type()
    }

    /// The client's id for this request, unique among its own.
    #[must_use]
    pub const fn request_id(&self) -> u64 {
        self.header.request_id
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload.as_deref().unwrap_or_default()
    }

    /// The codec that the connection chose for AI payloads.
    #[must_use]
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// The connection's number in the daemon's statistics.
    #[must_use]
    pub const fn connection_id(&self) -> u64 {
        self.connection_id
    }
}

/// Sends a handler's answer on its way to the client. Clones answer the same request.
#[derive(Clone)]
pub struct AsyncResponder {
    session: Rc<Session>,
    ticket: Rc<Ticket>,
    request: FrameHeader,
}

impl AsyncResponder {
    pub(super) fn new(session: Rc<Session>, ticket: Rc<Ticket>, request: FrameHeader) -> Self {
        Self { session, ticket, request }
    }

    /// Sends a part of the answer. Waits while the client does not read.
    ///
    /// # Errors
    ///
    /// [`IpcError::MessageTooLarge`], or [`IpcError::Cancelled`] when the client is gone.
    pub async fn chunk(&self, payload: &[u8]) -> Result<(), IpcError> {
        self.send(self.request.chunk(), payload).await
    }

    /// Sends the last part of the answer, or all of it. Waits while the client does not read.
    ///
    /// # Errors
    ///
    /// As [`AsyncResponder::chunk`].
    pub async fn reply(&self, payload: &[u8]) -> Result<(), IpcError> {
        self.send(self.request.answer(Status::Ok), payload).await
    }

    /// Ends when the request is cancelled or its client is gone.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + 'static {
        let ticket = Rc::clone(&self.ticket);
        async move { ticket.cancelled().await }
    }

    /// Ends the answer as the handler did, unless the handler has already ended it.
    pub(super) async fn finish(&self, outcome: Result<(), IpcError>) {
        let (status, detail) = match &outcome {
            Ok(()) => (Status::Ok, String::new()),
            Err(error) => (error.status(), error.answer_text()),
        };
        let end = detail.floor_char_boundary(DETAIL_SIZE_MAX as usize);
        // Nothing is left to do when even that fails: the client is gone.
        let _ = self.send(self.request.answer(status), &detail.as_bytes()[..end]).await;
    }

    async fn send(&self, header: FrameHeader, payload: &[u8]) -> Result<(), IpcError> {
        if self.ticket.is_answered() && sound("one last frame") {
            return match header.status() {
                Status::Ok if payload.is_empty() => Ok(()),
                _ => Err(IpcError::Internal { detail: "the request was already answered".into() }),
            };
        }
        self.session.publish(header, payload, &self.ticket).await
    }
}
