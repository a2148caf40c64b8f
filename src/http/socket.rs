//! A TCP connection that is counted while it is open, and that notices when nobody is there any more.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use rustix::net::sockopt;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::sync::{Ordering, TallyU64};

/// After so long without a byte the peer's system is asked whether it is still there. A path that died
/// without a word (a NAT that forgot us, a machine that was switched off) shows no other sign, and an
/// answer that may take as long as it takes would wait for ever.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Between two such questions.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// So many without an answer end the connection: after a minute, sooner than a silent stream does.
const PROBES_MAX: u32 = 3;

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
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = Self { stream, _entered: entered };
        socket.keep_alive()?;
        Ok(socket)
    }

    /// Lets the kernel find out when the other end is gone (tcp(7)). Not `TCP_USER_TIMEOUT`, which would
    /// also end a connection whose peer is well and only takes nothing for a while, as a server does
    /// that loads a model before it reads the question.
    fn keep_alive(&self) -> io::Result<()> {
        let stream = &self.stream;
        sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
        sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, PROBES_MAX)?;
        Ok(sockopt::set_socket_keepalive(stream, true)?)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut target = ReadBuf::new(target);
        let stream = Pin::new(&mut self.stream);
        ready!(tokio::io::AsyncRead::poll_read(stream, context, &mut target))?;
        Poll::Ready(Ok(target.filled().len()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.stream), context, source)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.stream), context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::executor;

    async fn connect(address: SocketAddr) {
        let gauge = Gauge::default();
        let socket = Socket::connect(address, &gauge).await.unwrap();
        assert_eq!(gauge.count(), 1);
        let stream = &socket.stream;
        assert!(sockopt::tcp_nodelay(stream).unwrap());
        assert!(sockopt::socket_keepalive(stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(stream).unwrap(), PROBE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(stream).unwrap(), PROBE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(stream).unwrap(), PROBES_MAX);
        drop(socket);
        assert_eq!(gauge.count(), 0);
    }

    #[test]
    fn a_connection_sends_at_once_and_asks_whether_the_peer_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        executor::testing::run(connect(address));
    }

    #[test]
    fn who_cannot_connect_learns_why() {
        // A port that nobody is given who asks for any.
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        executor::testing::run(async move {
            let refused = Socket::connect(address, &Gauge::default()).await.map(drop);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
