//! A TCP connection that is counted while it is open.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::sync::{Ordering, TallyU64};

/// How many sockets are open or being connected.
#[derive(Clone, Default)]
pub(super) struct Gauge(Arc<TallyU64>);

impl Gauge {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self.clone())
    }
}

struct Entered(Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connected socket.
pub(super) struct Socket {
    stream: TcpStream,
    _entered: Entered,
}

impl Socket {
    /// Connects, without Nagle's delay (RFC 896): requests are written whole.
    pub(super) async fn connect(address: SocketAddr, gauge: &Gauge) -> io::Result<Self> {
        let entered = gauge.enter();
        let stream = TcpStream::connect(address).await.map_err(io::Error::from)?;
        let socket = Self { stream, _entered: entered };
        socket.stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(socket)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, target)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, source)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
