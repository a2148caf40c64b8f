//! A connection that threads and tasks share.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flight::{Flight, Handle};
use super::options::{ConnectOptions, RequestOptions};
use super::shared::Shared;
use super::slot::Delivery;
use super::stream::{AsyncCompletionStream, AsyncResponseStream, CompletionStream, ResponseStream};
use crate::error::IpcError;
use crate::protocol::{
    AIRequest, Codec, CodecError, CodecErrorReason, CodecId, Completion, Operation, Payload,
};
use crate::wire::MessageType;

/// A connection to the daemon that any number of threads and tasks use at the same time.
///
/// Cloning is cheap and gives another handle to the same connection; the last one to be dropped,
/// streams and futures included, hangs up. Answers find their requests by id and may come in any
/// order.
///
/// Every request comes in a blocking and in an asynchronous form. The asynchronous ones need no
/// runtime: a thread `annulus-client`, started when a future first has to wait, drives them. With
/// feature `tokio`, `drive_with_tokio` has a task do that instead. **Dropping** a future or a
/// stream before its end cancels the request.
///
/// # Errors of every request
///
/// - [`IpcError::MessageTooLarge`]: nothing was sent.
/// - [`IpcError::Timeout`]: the deadline of its [`RequestOptions`] passed; the request is cancelled.
/// - [`IpcError::ConnectionLost`], [`IpcError::ShuttingDown`], [`IpcError::Fault`]: the connection
///   is over; connect again. Every request that waits gets this, and every later one.
/// - [`IpcError::Io`]: the first asynchronous wait could not start its thread.
/// - The rest is the daemon's answer: [`IpcError::from_answer`].
///
/// # Waiting
///
/// The daemon grants a number of requests in flight, [`Client::in_flight_max`]. A request beyond
/// that waits for another to end, and one that meets a full request ring waits for space, both up to
/// its deadline. A stream whose owner does not take its chunks keeps them in memory; it does not
/// hold up the others.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Connects to the daemon and shakes hands.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`](super::Connection::connect).
    pub fn connect(options: &ConnectOptions) -> Result<Self, IpcError> {
        let shared = Shared::connect(options)?;
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// Sends one request and blocks until its answer is whole: the payloads of all its frames, one
    /// after the other.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub fn call(&self, message_type: MessageType, payload: &[u8]) -> Result<Vec<u8>, IpcError> {
        self.call_with(message_type, payload, RequestOptions::NONE)
    }

    /// [`Client::call`] with options.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub fn call_with(
        &self,
        message_type: MessageType,
        payload: &[u8],
        options: RequestOptions,
    ) -> Result<Vec<u8>, IpcError> {
        let mut flight = self.begin(message_type, payload, Delivery::Whole, options)?;
        flight.send(payload)?;
        flight.whole()
    }

    /// [`Client::call`] as a future.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn call_async(
        &self,
        message_type: MessageType,
        payload: &[u8],
    ) -> Result<Vec<u8>, IpcError> {
        self.call_with_async(message_type, payload, RequestOptions::NONE).await
    }

    /// [`Client::call_with`] as a future. The deadline counts from its first poll.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn call_with_async(
        &self,
        message_type: MessageType,
        payload: &[u8],
        options: RequestOptions,
    ) -> Result<Vec<u8>, IpcError> {
        let mut flight = self.begin(message_type, payload, Delivery::Whole, options)?;
        poll_fn(|cx| flight.poll_send(cx, payload)).await?;
        poll_fn(|cx| flight.poll_whole(cx)).await
    }

    /// Sends one request, blocking while it must wait for a credit or for space, and gives its
    /// answer frame by frame.
    ///
    /// # Errors
    ///
    /// See [`Client`]; those of the answer come out of the stream.
    pub fn stream(
        &self,
        message_type: MessageType,
        payload: &[u8],
        options: RequestOptions,
    ) -> Result<ResponseStream, IpcError> {
        let mut flight = self.begin(message_type, payload, Delivery::Chunks, options)?;
        flight.send(payload)?;
        Ok(ResponseStream::new(flight))
    }

    /// One request whose answer comes frame by frame, as a [`futures_core::Stream`]. It is sent when
    /// the stream is first polled; the deadline counts from now.
    ///
    /// # Errors
    ///
    /// See [`Client`]; what goes wrong later comes out of the stream.
    pub fn stream_async(
        &self,
        message_type: MessageType,
        payload: impl Into<Vec<u8>>,
        options: RequestOptions,
    ) -> Result<AsyncResponseStream, IpcError> {
        let payload = payload.into();
        let flight = self.begin(message_type, &payload, Delivery::Chunks, options)?;
        Ok(AsyncResponseStream::new(flight, payload))
    }

    /// Asks for a whole completion.
    ///
    /// # Errors
    ///
    /// See [`Client`]; [`IpcError::Codec`] when the request cannot be written, the answer cannot be
    /// read, or this client has no codec of the connection's [`CodecId`].
    pub fn complete(&self, request: &AIRequest) -> Result<Completion, IpcError> {
        self.complete_with(request, RequestOptions::NONE)
    }

    /// [`Client::complete`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Client::complete`].
    pub fn complete_with(
        &self,
        request: &AIRequest,
        options: RequestOptions,
    ) -> Result<Completion, IpcError> {
        let (codec, payload) = self.encode(request)?;
        let answer = self.call_with(MessageType::COMPLETE, &payload, options)?;
        Ok(codec.decode_completion(&answer)?)
    }

    /// [`Client::complete`] as a future.
    ///
    /// # Errors
    ///
    /// Those of [`Client::complete`].
    pub async fn complete_async(&self, request: &AIRequest) -> Result<Completion, IpcError> {
        self.complete_with_async(request, RequestOptions::NONE).await
    }

    /// [`Client::complete_with`] as a future. The deadline counts from its first poll.
    ///
    /// # Errors
    ///
    /// Those of [`Client::complete`].
    pub async fn complete_with_async(
        &self,
        request: &AIRequest,
        options: RequestOptions,
    ) -> Result<Completion, IpcError> {
        let (codec, payload) = self.encode(request)?;
        let answer = self.call_with_async(MessageType::COMPLETE, &payload, options).await?;
        Ok(codec.decode_completion(&answer)?)
    }

    /// Asks for a completion piece by piece.
    ///
    /// # Errors
    ///
    /// Those of [`Client::complete`]; those of the answer come out of the stream.
    pub fn stream_completion(&self, request: &AIRequest) -> Result<CompletionStream, IpcError> {
        self.stream_completion_with(request, RequestOptions::NONE)
    }

    /// [`Client::stream_completion`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Client::stream_completion`].
    pub fn stream_completion_with(
        &self,
        request: &AIRequest,
        options: RequestOptions,
    ) -> Result<CompletionStream, IpcError> {
        let (codec, payload) = self.encode(request)?;
        let chunks = self.stream(MessageType::STREAM, &payload, options)?;
        Ok(CompletionStream::new(chunks, Arc::clone(codec)))
    }

    /// A completion piece by piece, as a [`futures_core::Stream`]. It is asked for when the stream
    /// is first polled; the deadline counts from now.
    ///
    /// # Errors
    ///
    /// Those of [`Client::complete`]; what goes wrong later comes out of the stream.
    pub fn stream_completion_async(
        &self,
        request: &AIRequest,
        options: RequestOptions,
    ) -> Result<AsyncCompletionStream, IpcError> {
        let (codec, payload) = self.encode(request)?;
        let chunks = self.stream_async(MessageType::STREAM, payload, options)?;
        Ok(AsyncCompletionStream::new(chunks, Arc::clone(codec)))
    }

    /// Asks whether the daemon is there, and says how long its answer took.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub fn ping(&self) -> Result<Duration, IpcError> {
        self.ping_with(RequestOptions::NONE)
    }

    /// [`Client::ping`] with options.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub fn ping_with(&self, options: RequestOptions) -> Result<Duration, IpcError> {
        let start = Instant::now();
        self.call_with(MessageType::HEARTBEAT, &[], options)?;
        Ok(start.elapsed())
    }

    /// [`Client::ping_with`] as a future.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn ping_async(&self, options: RequestOptions) -> Result<Duration, IpcError> {
        let start = Instant::now();
        self.call_with_async(MessageType::HEARTBEAT, &[], options).await?;
        Ok(start.elapsed())
    }

    /// Has a task of the current tokio runtime drive the asynchronous requests from now on, in place
    /// of the client's own thread. When that runtime ends while requests wait, the thread takes over.
    ///
    /// # Errors
    ///
    /// [`IpcError::Io`]: this is no tokio context, its runtime has no I/O, or no descriptor is left.
    #[cfg(feature = "tokio")]
    pub fn drive_with_tokio(&self) -> Result<(), IpcError> {
        super::tokio::drive(&self.handle.shared)
    }

    /// How many requests may be unanswered at one time; the daemon chose.
    #[must_use]
    pub fn in_flight_max(&self) -> u32 {
        self.handle.shared.link.agreed().in_flight_max
    }

    /// Largest payload in either direction, in bytes; the daemon chose.
    #[must_use]
    pub fn message_size_max(&self) -> u64 {
        self.handle.shared.link.agreed().message_size_max
    }

    /// Names this connection in the daemon's statistics.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.handle.shared.link.agreed().connection_id
    }

    /// Names this start of the daemon.
    #[must_use]
    pub fn daemon_instance(&self) -> u64 {
        self.handle.shared.link.agreed().daemon_instance
    }

    /// True when the connection is known to be over. Asks nobody: between requests a hang-up shows
    /// in the next one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.lost().is_some()
    }

    /// Looks whether the daemon has hung up; at most one system call, never waits. A daemon that has
    /// said goodbye counts as gone, even if it still answers what is in flight.
    ///
    /// # Errors
    ///
    /// The connection's, see [`Client`].
    pub fn check_alive(&self) -> Result<(), IpcError> {
        self.handle.shared.check_alive()
    }

    fn begin(
        &self,
        message_type: MessageType,
        payload: &[u8],
        delivery: Delivery,
        options: RequestOptions,
    ) -> Result<Flight, IpcError> {
        Flight::begin(&self.handle, message_type, payload.len(), delivery, options)
    }

    fn encode(&self, request: &AIRequest) -> Result<(&Arc<dyn Codec>, Vec<u8>), IpcError> {
        let shared = &self.handle.shared;
        let codec = shared.codec.as_ref().ok_or_else(|| unknown_codec(shared.codec_id))?;
        let mut payload = Vec::new();
        codec.encode_request(request, &mut payload)?;
        Ok((codec, payload))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connection_id", &self.connection_id())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

fn unknown_codec(codec: CodecId) -> CodecError {
    CodecError {
        operation: Operation::Encode,
        payload: Payload::Request,
        codec,
        reason: CodecErrorReason::Other("this client has no such codec"),
    }
}
