//! From an endpoint to bytes that go there and back: name, address, proxy, TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures_lite::future::{or, pending, poll_fn};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use http::HeaderValue;

use super::endpoint::{Endpoint, bracketed};
use super::proxy::{Proxies, Proxy};
use super::resolve::Resolver;
use super::socket::{Gauge, Socket};
use super::tap::BoxedIo;
use super::tls::Tls;
use crate::dialect::{Class, Failure};
use crate::executor::sleep;

/// The next address is tried when the one before has not answered for this long (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Bytes of a proxy's answer to CONNECT.
const PROXY_HEAD_SIZE_MAX: usize = 8 << 10;

/// What connecting needs.
pub(super) struct Connector {
    pub(super) resolver: Resolver,
    pub(super) proxies: Proxies,
    pub(super) tls: Tls,
    pub(super) sockets: Gauge,
}

/// A way to the endpoint.
pub(super) struct Connected {
    pub(super) io: BoxedIo,
    /// Whether both sides agreed on HTTP/2.
    pub(super) is_h2: bool,
}

impl Connector {
    /// Connects within the endpoint's time. Dropping the future drops what it had opened.
    ///
    /// # Errors
    ///
    /// [`Class::Network`], with the step that failed and where.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Connected, Failure> {
        let too_late = async {
            sleep(endpoint.connect_timeout).await;
            let waited = endpoint.connect_timeout;
            Err(network(format!("no connection to {} within {waited:?}", endpoint.target())))
        };
        or(self.connect_in_time(endpoint), too_late).await
    }

    async fn connect_in_time(&self, endpoint: &Endpoint) -> Result<Connected, Failure> {
        let io = match self.proxies.find(endpoint) {
            None => {
                let socket = self.dial(endpoint.host(), endpoint.port()).await;
                Box::new(socket.map_err(|detail| {
                    network(format!("cannot connect to {}: {detail}", endpoint.target()))
                })?)
            }
            Some(proxy) => self.connect_by(proxy, endpoint).await?,
        };
        if !endpoint.is_https {
            return Ok(Connected { io, is_h2: false });
        }
        let greeted = self.tls.greet(endpoint.host(), io).await;
        let (io, is_h2) = greeted
            .map_err(|error| network(format!("TLS with {} failed: {error}", endpoint.target())))?;
        Ok(Connected { io, is_h2 })
    }

    /// To a proxy, and by CONNECT through it if the endpoint is `https`.
    async fn connect_by(&self, proxy: &Proxy, endpoint: &Endpoint) -> Result<BoxedIo, Failure> {
        let failed = |detail: String| network(format!("cannot connect to the {proxy}: {detail}"));
        let socket = self.dial(&proxy.host, proxy.port).await.map_err(failed)?;
        let mut io: BoxedIo = Box::new(socket);
        if proxy.is_https {
            let greeted = self.tls.greet_proxy(&proxy.host, io).await;
            io = greeted.map_err(|error| failed(format!("TLS failed: {error}")))?;
        }
        if endpoint.is_https {
            let target = endpoint.target();
            let tunnel = open_tunnel(&mut io, &target, proxy.authorization.as_ref()).await;
            tunnel.map_err(|error| {
                network(format!("the {proxy} did not connect to {target}: {error}"))
            })?;
        }
        Ok(io)
    }

    async fn dial(&self, host: &str, port: u16) -> Result<Socket, String> {
        let addresses = self.resolver.resolve(host).await;
        let addresses =
            addresses.map_err(|error| format!("cannot resolve {}: {error}", bracketed(host)))?;
        first_to_connect(&addresses, port, &self.sockets).await.map_err(|error| error.to_string())
    }
}

pub(super) fn network(detail: String) -> Failure {
    Failure::new(Class::Network, detail)
}

type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<Socket>> + 'a>>;

/// Tries addresses in turn, the next one as soon as one failed or was silent for [`ATTEMPT_DELAY`].
/// The first to connect wins and the others are dropped.
pub(super) async fn first_to_connect(
    addresses: &[IpAddr],
    port: u16,
    sockets: &Gauge,
) -> io::Result<Socket> {
    let mut rest = addresses.iter();
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // Every pass begins or ends an attempt, so there are at most two for each address.
    loop {
        if let Some(address) = rest.next() {
            let address = SocketAddr::new(*address, port);
            attempts.push(Box::pin(Socket::connect(address, sockets)));
        }
        if attempts.is_empty() {
            return Err(error);
        }
        let has_more = !rest.as_slice().is_empty();
        let overdue = async {
            if !has_more {
                pending::<()>().await;
            }
            sleep(ATTEMPT_DELAY).await;
            None
        };
        match or(async { Some(next_settled(&mut attempts).await) }, overdue).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(failed)) => error = failed,
            None => {}
        }
    }
}

/// Waits for one of the attempts and removes it.
async fn next_settled(attempts: &mut Vec<Attempt<'_>>) -> io::Result<Socket> {
    poll_fn(|context| {
        let polled = attempts.iter_mut().map(|attempt| attempt.as_mut().poll(context));
        let settled = polled.enumerate().find(|(_, polled)| polled.is_ready());
        settled.map_or(std::task::Poll::Pending, |(index, polled)| {
            drop(attempts.swap_remove(index));
            polled
        })
    })
    .await
}

/// Asks a proxy for a tunnel (RFC 9110 §9.3.6).
async fn open_tunnel(
    io: &mut BoxedIo,
    target: &str,
    authorization: Option<&HeaderValue>,
) -> io::Result<()> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        request.extend(b"Proxy-Authorization: ");
        request.extend(authorization.as_bytes());
        request.extend(b"\r\n");
    }
    request.extend(b"\r\n");
    io.write_all(&request).await?;
    io.flush().await?;

    let mut head = Vec::new();
    let mut piece = [0; 512];
    while head.len() < PROXY_HEAD_SIZE_MAX {
        let count = io.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(&piece[..count]);
        if let Some(size) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            let body = &head[size + 4..];
            return judge_tunnel(&head[..size], body);
        }
    }
    Err(io::Error::other("its answer has no end"))
}

/// Whether a proxy's answer to CONNECT is a tunnel. A refusal may have a body, which nobody needs; in
/// a tunnel nothing comes before we greet the endpoint.
fn judge_tunnel(head: &[u8], body: &[u8]) -> io::Result<()> {
    let status = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(1..)?.strip_prefix(b" ")?.first_chunk::<3>())
        .filter(|status| status.iter().all(u8::is_ascii_digit))
        .ok_or_else(|| io::Error::other("its answer is not HTTP/1"))?;
    let hint = match status {
        [b'2', ..] if body.is_empty() => return Ok(()),
        [b'2', ..] => return Err(io::Error::other("it sent more than a tunnel")),
        b"407" => ", it asks for credentials",
        _ => "",
    };
    let status = String::from_utf8_lossy(status);
    Err(io::Error::other(format!("status {status}{hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_2xx_with_nothing_after_it_is_a_tunnel() {
        judge_tunnel(b"HTTP/1.1 200 Connection established", b"").unwrap();
        judge_tunnel(b"HTTP/1.0 204\r\nVia: x", b"").unwrap();
        let refused = judge_tunnel(b"HTTP/1.1 407 Who?", b"<html>").unwrap_err().to_string();
        assert!(refused.contains("407") && refused.contains("credentials"), "{refused}");
        for (head, body) in [
            (&b"HTTP/1.1 200 OK"[..], &b"more"[..]),
            (b"HTTP/1.1 302 Found", b""),
            (b"HTTP/1.1 2x0 OK", b""),
            (b"HTTP/1.1 20", b""),
            (b"HTTP/2 200 OK", b""),
            (b"SSH-2.0-OpenSSH", b""),
            (b"", b""),
        ] {
            judge_tunnel(head, body).unwrap_err();
        }
    }
}
