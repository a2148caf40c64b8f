//! What the owner of a connection can do to its bytes from outside of the task that moves them: see
//! that some came, and cut them off.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};

/// Bytes in both directions, whatever they go through.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

pub(super) type BoxedIo = Box<dyn Io>;

/// The owner's end.
#[derive(Default)]
pub(super) struct Tap {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    received: u64,
    /// The task that moves the bytes. There is one: HTTP/1 has one task a connection, and of
    /// HTTP/2's only one touches the socket.
    mover: Option<Waker>,
    /// Who wants to know of the next bytes.
    reader: Option<Waker>,
    /// The bytes' end is gone: the socket is closed.
    is_closed: bool,
    /// Who waits for that.
    watcher: Option<Waker>,
}

impl Tap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Ends the connection: reading and writing fail from now on, so its task drops the socket in
    /// its next turn.
    pub(super) fn cut(&self) {
        let mover = {
            let mut state = self.state();
            state.is_cut = true;
            state.mover.take()
        };
        if let Some(mover) = mover {
            mover.wake();
        }
    }

    /// Bytes that came so far, TLS taken off.
    pub(super) fn received(&self) -> u64 {
        self.state().received
    }

    /// Wakes whoever asks when the next bytes have come, once. One task may ask.
    pub(super) fn wake_with_bytes(&self, context: &Context<'_>) {
        keep(&mut self.state().reader, context);
    }

    /// Ready once the connection is cut; whoever asks is woken then.
    pub(super) fn poll_cut(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_cut {
            return Poll::Ready(());
        }
        keep(&mut state.mover, context);
        Poll::Pending
    }

    /// Ready once the socket is closed. One task may wait for it.
    pub(super) fn poll_closed(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_closed {
            return Poll::Ready(());
        }
        keep(&mut state.watcher, context);
        Poll::Pending
    }
}

fn keep(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

/// The bytes that a [`Tap`] watches over.
pub(super) struct Tapped {
    io: BoxedIo,
    // After the bytes, so that they are gone when it says so.
    tap: TapEnd,
}

/// Says that the bytes are gone.
struct TapEnd(Arc<Tap>);

impl Drop for TapEnd {
    fn drop(&mut self) {
        let watcher = {
            let mut state = self.0.state();
            state.is_closed = true;
            state.watcher.take()
        };
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }
}

impl Tapped {
    pub(super) fn new(io: BoxedIo, tap: Arc<Tap>) -> Self {
        Self { io, tap: TapEnd(tap) }
    }

    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        match self.tap.0.poll_cut(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let read = Pin::new(&mut self.io).poll_read(context, target);
        if let Poll::Ready(Ok(count)) = read {
            let reader = {
                let mut state = self.tap.0.state();
                state.received += count as u64;
                state.reader.take()
            };
            if let Some(reader) = reader {
                reader.wake();
            }
        }
        read
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, source)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_close(context)
    }
}
