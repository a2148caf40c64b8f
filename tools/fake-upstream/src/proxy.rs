//! The server as a proxy: tunnels (`CONNECT`), and requests for a whole URL.
//!
//! Both end as a tunnel: a forwarded request has its target rewritten, and then bytes go both ways.
//! That further requests on such a connection name a whole URL too is all right with the other
//! end (RFC 9112 §3.2.2).

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::ProxyOptions;
use crate::http1::{Wire, write_short};
use crate::record::How;
use crate::server::{Request, Shared};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const WANTS_CREDENTIALS: &str = "HTTP/1.1 407 Proxy Authentication Required\r\n\
    proxy-authenticate: Basic realm=\"fake\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const UNREACHABLE: &str =
    "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// Carries one connection to where its first request wants to go, and says how it ended.
pub(crate) async fn carry(
    shared: &Shared,
    options: &ProxyOptions,
    request: Request,
    mut client: impl Wire,
    ahead: Vec<u8>,
) -> How {
    let is_allowed = options.credentials.as_ref().is_none_or(|wanted| {
        let wanted = format!("Basic {}", STANDARD.encode(wanted));
        request.header("proxy-authorization") == Some(wanted.as_str())
    });
    let (target, first) = if request.method == "CONNECT" {
        (request.target.clone(), ahead)
    } else {
        forwarded(&request, ahead)
    };
    let record = shared.record(&request);
    let refusal = if !is_allowed {
        Some((407, WANTS_CREDENTIALS))
    } else if target.is_empty() {
        Some((400, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
    } else {
        None
    };
    if let Some((status, head)) = refusal {
        // A client that does not wait for it misses nothing.
        let _ = write_short(&mut client, head).await;
        record.ended(status, How::Refused);
        return How::Refused;
    }
    let Some(mut upstream) = connect(options, &target).await else {
        let _ = write_short(&mut client, UNREACHABLE).await;
        record.ended(502, How::Refused);
        return How::Refused;
    };
    let begun = async {
        if request.method == "CONNECT" {
            write_short(&mut client, CONNECTED).await?;
        }
        upstream.write_all(&first).await
    };
    // Either side's end is an end like any other here.
    if begun.await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut upstream).await;
    }
    record.ended(200, How::Whole);
    How::Whole
}

/// Host and port of a request for a whole URL, and its bytes as the other end wants them.
fn forwarded(request: &Request, ahead: Vec<u8>) -> (String, Vec<u8>) {
    let Some(rest) = request.target.strip_prefix("http://") else {
        return (String::new(), Vec::new());
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = if path.is_empty() { "/" } else { path };
    let mut bytes = format!("{} {path} HTTP/1.1\r\n", request.method).into_bytes();
    for (name, value) in request.headers.iter().filter(|(name, _)| !name.starts_with("proxy-")) {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&request.body);
    bytes.extend_from_slice(&ahead);
    let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    (if port { host.to_owned() } else { format!("{host}:80") }, bytes)
}

async fn connect(options: &ProxyOptions, target: &str) -> Option<TcpStream> {
    let address = match options.target {
        Some(address) => address,
        None => {
            let mut found = lookup_host(target).await.ok()?;
            found.find(|address: &SocketAddr| address.ip().is_loopback())?
        }
    };
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await.ok()?.ok()?;
    // Slower without it, and nothing worse.
    let _ = stream.set_nodelay(true);
    Some(stream)
}
