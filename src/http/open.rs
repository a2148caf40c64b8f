//! Opens a connection for a request, and runs it in a task of its own until it closes.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;

use futures_lite::future::or;
use hyper::client::conn::http2;
use smol_hyper::rt::FuturesIo;

use super::connect::{Connected, Connector, network};
use super::endpoint::Endpoint;
use super::exchange;
use super::line::{CLOSED_EARLY, Line};
use super::pool::{Exclusive, Slot, Stream};
use super::tap::{Tap, Tapped};
use crate::dialect::Failure;
use crate::executor::spawn;

/// Bytes of a response's head.
pub(super) const HEAD_SIZE_MAX: u32 = 64 << 10;
pub(super) const HEADERS_MAX: usize = 128;
/// Bytes that the peer may send of one HTTP/2 response before we have read them.
const STREAM_WINDOW: u32 = 64 << 10;
/// Streams that were reset and whose last frames may still come. Every hasty client makes one; with
/// too few, a late frame would be a fault of the peer and end the connection.
const RESET_STREAMS_MAX: usize = 1024;

/// What hyper takes for the peer's limit of streams until it has heard of one: none that a peer can
/// set, and not the one of a peer that sets none.
const STREAMS_UNTOLD: usize = usize::MAX - 1;

/// Bytes of what hyper and a server say of an error.
const SAID_SIZE_MAX: usize = 512;

/// A new connection, with its first request's place on it.
pub(super) enum Opened {
    Exclusive(Exclusive),
    Stream(Stream),
}

/// Connects. Dropping the future closes what it had opened and leaves `slot` to the next.
pub(super) async fn open(
    connector: &Connector,
    endpoint: &Endpoint,
    slot: Slot,
    streams_max: usize,
) -> Result<Opened, Failure> {
    let Connected { io, is_h2 } = match connector.connect(endpoint).await {
        Ok(connected) => connected,
        Err(failure) => {
            slot.fail();
            return Err(failure);
        }
    };
    let tap = Arc::new(Tap::default());
    let io = Tapped::new(io, Arc::clone(&tap));
    if is_h2 {
        // One stream's unread bytes must not stop the others: there is room for the windows of all.
        let streams = u32::try_from(streams_max).unwrap_or(u32::MAX);
        let handshake = http2::Builder::new(LocalTasks)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(
                STREAM_WINDOW.saturating_mul(streams.saturating_add(1)).min(i32::MAX as u32),
            )
            .max_header_list_size(HEAD_SIZE_MAX)
            .max_concurrent_reset_streams(RESET_STREAMS_MAX)
            .initial_max_send_streams(STREAMS_UNTOLD)
            .handshake(FuturesIo::new(io))
            .await;
        let (sender, connection) = handshake.map_err(|error| not_opened(endpoint, &error))?;
        let (slot, stream) = slot.open_shared(sender, Arc::clone(&tap));
        let (limit, bytes) = (slot.stream_limit(), Arc::clone(&tap));
        let (mut connection, mut told) = (Box::pin(connection), STREAMS_UNTOLD);
        // hyper polls its connection with each request, and so learns of a limit that has changed.
        let connection = poll_fn(move |context| {
            let polled = connection.as_mut().poll(context).map(drop);
            let streams_max = connection.current_max_send_streams();
            if streams_max == STREAMS_UNTOLD {
                // The first one comes with the peer's first bytes (RFC 9113 §3.4), and others wait for it.
                bytes.wake_with_bytes(context);
            } else if streams_max != told {
                told = streams_max;
                limit.iter().for_each(|limit| limit.is(streams_max));
            }
            polled
        });
        spawn(run(connection, tap, slot));
        Ok(Opened::Stream(stream))
    } else {
        let (line, end) = Line::new();
        let (slot, exclusive) = slot.open_exclusive(line, Arc::clone(&tap));
        let cut = Arc::clone(&tap);
        // Boxed, because each future around it would hold it twice.
        let mut connection = Box::pin(exchange::serve(io, end));
        let connection = poll_fn(move |context| match connection.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            // Also seen here and not only where bytes move: none move while nobody takes them.
            Poll::Pending => cut.poll_cut(context),
        });
        spawn(run(connection, tap, slot));
        Ok(Opened::Exclusive(exclusive))
    }
}

fn not_opened(endpoint: &Endpoint, error: &hyper::Error) -> Failure {
    network(format!("no HTTP with {}: {error}", endpoint.target()))
}

/// Runs a connection until it ends by itself, is cut or was idle for too long. Its slot is free once
/// its socket is closed: of HTTP/2 that is in a task of its own, which outlives `connection` when the
/// server goes away politely, until the last stream has ended.
async fn run<T>(connection: impl Future<Output = T>, tap: Arc<Tap>, slot: Slot) {
    let ended = async {
        drop(connection.await);
        poll_fn(|context| tap.poll_closed(context)).await;
    };
    or(ended, slot.expired()).await;
    tap.cut();
    poll_fn(|context| tap.poll_closed(context)).await;
    drop(slot);
}

/// hyper's tasks beside ours.
#[derive(Clone)]
struct LocalTasks;

impl<T: Future<Output = ()> + 'static> hyper::rt::Executor<T> for LocalTasks {
    fn execute(&self, task: T) {
        spawn(task);
    }
}

/// What a failure says of hyper's error: with its cause, which has the reason, and of a server that
/// goes away its own words, of which there may be 16 KiB.
pub(super) fn describe(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    let is_cut = cause
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    match cause {
        _ if is_cut || error.is_incomplete_message() => CLOSED_EARLY.into(),
        Some(cause) => {
            let mut said = format!("{error}: {cause}");
            said.truncate(said.floor_char_boundary(SAID_SIZE_MAX));
            said
        }
        None => error.to_string(),
    }
}
