//! A TCP connection that is counted while it is open, and that notices when nobody is there any more.
//! One of the few files with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use rustix::net::sockopt;
use tokio::io::ReadBuf;

use crate::executor;
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
    stream: Stream,
    _entered: Entered,
}

/// The bytes, by whichever executor runs here.
enum Stream {
    Tokio(tokio::net::TcpStream),
    Glommio(glommio::net::TcpStream),
}

impl Socket {
    /// Connects, without Nagle's delay (RFC 896): requests are written whole.
    pub(super) async fn connect(address: SocketAddr, gauge: &Gauge) -> io::Result<Self> {
        let entered = gauge.enter();
        let stream = if executor::is_tokio() {
            Stream::Tokio(tokio::net::TcpStream::connect(address).await?)
        } else {
            let connected = glommio::net::TcpStream::connect(address).await;
            Stream::Glommio(connected.map_err(io::Error::from)?)
        };
        let socket = Self { stream, _entered: entered };
        sockopt::set_tcp_nodelay(socket.descriptor(), true)?;
        socket.keep_alive()?;
        Ok(socket)
    }

    /// Lets the kernel find out when the other end is gone (tcp(7)). Not `TCP_USER_TIMEOUT`, which would
    /// also end a connection whose peer is well and only takes nothing for a while, as a server does
    /// that loads a model before it reads the question.
    fn keep_alive(&self) -> io::Result<()> {
        let descriptor = self.descriptor();
        sockopt::set_tcp_keepidle(descriptor, PROBE_AFTER)?;
        sockopt::set_tcp_keepintvl(descriptor, PROBE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(descriptor, PROBES_MAX)?;
        Ok(sockopt::set_socket_keepalive(descriptor, true)?)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tokio(stream) => stream.as_fd(),
            // SAFETY: `borrow_raw` needs a descriptor that stays open for as long as the borrow: the
            // stream owns it, and the borrow is one of `self`.
            Stream::Glommio(stream) => unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) },
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tokio(stream) => {
                let mut target = ReadBuf::new(target);
                ready!(tokio::io::AsyncRead::poll_read(Pin::new(stream), context, &mut target))?;
                Poll::Ready(Ok(target.filled().len()))
            }
            Stream::Glommio(stream) => Pin::new(stream).poll_read(context, target),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tokio(stream) => {
                tokio::io::AsyncWrite::poll_write(Pin::new(stream), context, source)
            }
            Stream::Glommio(stream) => Pin::new(stream).poll_write(context, source),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tokio(stream) => tokio::io::AsyncWrite::poll_flush(Pin::new(stream), context),
            Stream::Glommio(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tokio(stream) => {
                tokio::io::AsyncWrite::poll_shutdown(Pin::new(stream), context)
            }
            Stream::Glommio(stream) => Pin::new(stream).poll_close(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    async fn connect(address: SocketAddr) {
        let gauge = Gauge::default();
        let socket = Socket::connect(address, &gauge).await.unwrap();
        assert_eq!(gauge.count(), 1);
        assert_eq!(matches!(socket.stream, Stream::Tokio(_)), executor::is_tokio());
        let descriptor = socket.descriptor();
        assert!(sockopt::tcp_nodelay(descriptor).unwrap());
        assert!(sockopt::socket_keepalive(descriptor).unwrap());
        assert_eq!(sockopt::tcp_keepidle(descriptor).unwrap(), PROBE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(descriptor).unwrap(), PROBE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(descriptor).unwrap(), PROBES_MAX);
        drop(socket);
        assert_eq!(gauge.count(), 0);
    }

    #[test]
    fn a_connection_sends_at_once_and_asks_whether_the_peer_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        executor::testing::run(connect(address));
        glommio::LocalExecutor::default().run(connect(address));
    }

    #[test]
    fn who_cannot_connect_learns_why() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        executor::testing::run(async move {
            let refused = Socket::connect(address, &Gauge::default()).await.map(drop);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
