//! An HTTP client for tokio's runtime: what the providers are asked with.
//!
//! ```text
//! endpoint   Endpoint            a base URL, taken apart
//! proxy      ProxySource         HTTPS_PROXY and its like
//! connect    Connector           name → address → (proxy) → (TLS); resolve, socket, tls beside it
//! host       Host                who may have which connection: a pure state machine; by BootInstant
//! pool       Pool                the connections, each given back by being dropped
//! open       open                a new connection and the task that runs it; tap cuts it off
//! exchange   serve               what an HTTP/1 connection's task does; line leads to who asks
//! body       Body                an HTTP/1 body; framing finds its end, gate its beginning
//! unanswered Unanswered          what a request without a response may do next
//! response   Response            status, headers, and a body that is read when it is asked for
//! ```
//!
//! HTTP/1.1 with keep-alive, HTTP/2 where a server chooses it by ALPN; hyper does both, without a
//! runtime, but for HTTP/1's bodies. Redirects are not followed: they would take the key to somebody
//! else.
//!
//! The invariant to remember: **whatever is dropped is over at once**. A future or a [`Response`]
//! that is dropped in any phase closes its connection (resets its stream), and nobody is told to
//! wait for it.

mod body;
mod boot_instant;
mod connect;
mod endpoint;
mod exchange;
#[doc(hidden)]
pub mod framing;
mod gate;
mod host;
mod line;
mod open;
mod pool;
mod proxy;
mod resolve;
mod response;
mod socket;
mod tap;
#[cfg(test)]
mod tests;
mod tls;
mod unanswered;

pub use endpoint::Endpoint;
pub use proxy::ProxySource;
pub use response::Response;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request};
use http_body_util::Full;
use hyper::body::Body as _;

use self::connect::{Connector, network};
use self::host::Limits;
use self::line::NoHead;
use self::open::{Opened, describe, open};
use self::pool::{Exclusive, Lease, Pool, Stream};
use self::proxy::Proxies;
use self::resolve::Resolver;
use self::response::Source;
use self::socket::Gauge;
use self::tls::Tls;
use self::unanswered::{Remedy, Unanswered};
use crate::dialect::Failure;

/// How often a request that no server took up is sent again.
const UNPROCESSED_RESENDS_MAX: u32 = 3;

/// How a [`Client`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Connections to one host, open or being opened; requests beyond wait in their order.
    pub connections_per_host_max: usize,
    /// Requests at once on one HTTP/2 connection; fewer where its server takes fewer.
    pub streams_per_connection_max: usize,
    /// How long a connection without a request stays open.
    pub connection_idle: Duration,
    /// A PEM file of authorities to believe beside the system's.
    pub extra_ca: Option<PathBuf>,
    /// Where the proxies come from.
    pub proxy: ProxySource,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_per_host_max: 100,
            streams_per_connection_max: 100,
            connection_idle: Duration::from_secs(90),
            extra_ca: None,
            proxy: ProxySource::Environment,
        }
    }
}

/// What is wrong with a client's set-up: for whoever wrote the configuration. No text has
/// credentials in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A base URL.
    #[error("the base URL {url:?} cannot be used: {reason}")]
    Url {
        /// As it was written, without credentials.
        url: String,
        /// What to change.
        reason: &'static str,
    },
    /// A proxy's URL.
    #[error("the proxy {url:?} cannot be used: {reason}")]
    Proxy {
        /// As it was written, without credentials.
        url: String,
        /// What to change.
        reason: &'static str,
    },
    /// The file of additional authorities.
    #[error("the authorities in {} cannot be used: {reason}", file.display())]
    ExtraCa {
        /// The file.
        file: PathBuf,
        /// What to change.
        reason: String,
    },
    /// The TLS library.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
}

/// An HTTP client. To be used in a `LocalRuntime` of tokio's, as handlers are: a connection
/// belongs to the one that opened it, so one client for each is fastest.
pub struct Client {
    pool: Arc<Pool>,
    connector: Connector,
    streams_max: usize,
}

impl Client {
    /// A client without connections. Reads the system's certificates, so it takes milliseconds.
    ///
    /// # Errors
    ///
    /// [`SetupError`]: a proxy's URL, or the file of authorities.
    pub fn new(options: Options) -> Result<Self, SetupError> {
        // With none at all every request would wait forever.
        let streams_max = options.streams_per_connection_max.max(1);
        let limits = Limits {
            connections_max: options.connections_per_host_max.max(1),
            streams_max,
            idle: options.connection_idle,
        };
        let connector = Connector {
            resolver: Resolver::default(),
            proxies: Proxies::new(&options.proxy)?,
            tls: Tls::new(options.extra_ca.as_deref())?,
            sockets: Gauge::default(),
        };
        Ok(Self { pool: Pool::new(limits), connector, streams_max })
    }

    /// How many sockets are open or being connected, idle ones among them.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connector.sockets.count()
    }

    /// Sends a request and waits for the head of its response. The request's URI is a path, perhaps
    /// with a query, to which the endpoint's prefix is added; `Host` and `Content-Length` are set
    /// here, and `User-Agent` unless the request has one.
    ///
    /// Waits without a limit for a free connection and for the head: that is the caller's to bound,
    /// by dropping the future. Only connecting has the endpoint's own limit.
    ///
    /// A kept connection that turns out to be dead before anything came of the response is replaced
    /// by a new one, once. A request that was not sent, or of which the server says that it did not
    /// process it, is sent again, up to three times.
    ///
    /// # Errors
    ///
    /// [`Class::Network`](crate::dialect::Class::Network): the connection could not be made or
    /// broke. Any status is a [`Response`].
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        request: Request<Bytes>,
    ) -> Result<Response, Failure> {
        let (mut resends, mut was_replaced) = (0, false);
        // Bounded: at most four resends.
        loop {
            let broken = match self.try_send(endpoint, &request).await {
                Ok(response) => return Ok(response),
                Err(broken) => broken,
            };
            match broken.remedy {
                Remedy::Resend if resends < UNPROCESSED_RESENDS_MAX => resends += 1,
                Remedy::Replace if !was_replaced => was_replaced = true,
                Remedy::Resend | Remedy::Replace | Remedy::None => return Err(broken.failure),
            }
            // The others were kept as long as this one.
            self.pool.drop_idle(&endpoint.origin);
        }
    }

    async fn try_send(
        &self,
        endpoint: &Endpoint,
        request: &Request<Bytes>,
    ) -> Result<Response, Broken> {
        match self.pool.lease(endpoint).await {
            Lease::Exclusive(exclusive) => self.send_exclusive(endpoint, request, exclusive).await,
            Lease::Stream(stream) => send_stream(endpoint, request, stream).await,
            Lease::Open(slot) => {
                match open(&self.connector, endpoint, slot, self.streams_max).await? {
                    Opened::Exclusive(exclusive) => {
                        self.send_exclusive(endpoint, request, exclusive).await
                    }
                    Opened::Stream(stream) => send_stream(endpoint, request, stream).await,
                }
            }
        }
    }

    async fn send_exclusive(
        &self,
        endpoint: &Endpoint,
        request: &Request<Bytes>,
        exclusive: Exclusive,
    ) -> Result<Response, Broken> {
        let proxy = self.connector.proxies.find(endpoint).filter(|_| !endpoint.is_https);
        let form = if proxy.is_some() { Form::Absolute } else { Form::Origin };
        let mut request = addressed(endpoint, request, form)?;
        let host = HeaderValue::try_from(&*endpoint.authority).map_err(invalid)?;
        request.headers_mut().insert(HOST, host);
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let received_before = exclusive.tap.received();
        match exclusive.line.ask(request).await {
            Ok(head) => {
                let pool = Arc::clone(&self.pool);
                let origin = Arc::clone(&endpoint.origin);
                let source = Source::Exclusive { pool, origin, exclusive };
                Ok(Response::new(&head.parts, head.is_over, source))
            }
            Err(NoHead { detail, is_unsent }) => {
                let is_untouched = exclusive.tap.received() == received_before;
                let unanswered =
                    if is_unsent { Unanswered::Unprocessed } else { Unanswered::Broken };
                let remedy = unanswered.remedy(exclusive.is_reused && is_untouched);
                Err(Broken::new(endpoint, &detail, remedy))
            }
        }
    }
}

async fn send_stream(
    endpoint: &Endpoint,
    request: &Request<Bytes>,
    mut stream: Stream,
) -> Result<Response, Broken> {
    let request = addressed(endpoint, request, Form::Absolute)?;
    match stream.sender.try_send_request(request).await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let is_over = body.is_end_stream();
            Ok(Response::new(&head, is_over, Source::Stream { stream, body }))
        }
        Err(error) => {
            let is_unsent = error.message().is_some();
            let error = error.into_error();
            let unanswered = Unanswered::of(&error, is_unsent);
            let remedy = unanswered.remedy(stream.is_reused);
            match unanswered {
                Unanswered::Crowded => stream.crowd(),
                Unanswered::Reset => drop(stream),
                Unanswered::Unprocessed | Unanswered::Broken => stream.refuse(),
            }
            Err(Broken::new(endpoint, &describe(&error), remedy))
        }
    }
}

/// A request that got no response.
struct Broken {
    failure: Failure,
    remedy: Remedy,
}

impl Broken {
    fn new(endpoint: &Endpoint, detail: &str, remedy: Remedy) -> Self {
        let detail = format!("no response from {}: {detail}", endpoint.target());
        Self { failure: network(detail), remedy }
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { failure, remedy: Remedy::None }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.pool.retire();
    }
}

/// How a request names what it asks for (RFC 9112 §3.2). HTTP/2 makes its own of the absolute form.
#[derive(PartialEq, Eq)]
enum Form {
    Origin,
    Absolute,
}

/// The request as it is sent to this endpoint.
fn addressed(
    endpoint: &Endpoint,
    request: &Request<Bytes>,
    form: Form,
) -> Result<Request<Full<Bytes>>, Failure> {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let path = PathAndQuery::try_from(format!("{}{path}", endpoint.prefix)).map_err(invalid)?;
    let uri = match form {
        Form::Origin => Uri::from(path),
        Form::Absolute => {
            let scheme = if endpoint.is_https { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(&*endpoint.authority);
            uri.path_and_query(path).build().map_err(invalid)?
        }
    };
    let mut addressed = Request::new(Full::new(request.body().clone()));
    *addressed.method_mut() = request.method().clone();
    *addressed.uri_mut() = uri;
    *addressed.headers_mut() = request.headers().clone();
    let own = HeaderValue::from_static(concat!("annulus/", env!("CARGO_PKG_VERSION")));
    addressed.headers_mut().entry(USER_AGENT).or_insert(own);
    Ok(addressed)
}

fn invalid(error: impl std::fmt::Display) -> Failure {
    network(format!("the request's address is invalid: {error}"))
}
