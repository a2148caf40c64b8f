//! An AI provider for tests: it streams in all six dialects, with scripted faults, and remembers what
//! it was asked and how each connection ended.
//!
//! ```text
//! script    Step, Fault, Piece     one answer and what goes wrong with it, also as a short text
//! hint      Hint                   what an answer says about trying again
//! rules     Rule                   which script answers which request
//! dialect   Dialect                which dialect a path speaks, and its errors
//! encode    → Encoded              what a step says, as events of a dialect
//! plan      → Plan                 what is sent and when, without a socket
//! perform   Sink                   carries a plan out
//! http1, http2                     the two kinds of connection
//! proxy                            CONNECT and forwarding
//! server    the listener, and what every request means
//! record    Log                    what happened, and when
//! ```
//!
//! The invariant to remember: everything up to the plan is pure, and nothing but the script decides
//! what is sent.
//!
//! One thread serves everything, so a program can have several of them. A client on the same machine
//! reads the moment at which a chunk was sent from the chunk ([`stamp_of`]).

mod clock;
mod dialect;
mod encode;
mod hint;
mod http1;
mod http2;
mod models;
mod perform;
mod plan;
mod proxy;
mod record;
mod rules;
mod script;
mod server;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

pub use clock::{STAMP_SIZE, now_ns, stamp_of};
pub use dialect::Dialect;
pub use hint::Hint;
pub use record::{ConnectionRecord, Ended, How, Key, Log, Phase, RequestRecord};
pub use rules::{Rule, read_rules};
pub use script::{At, Fault, Finish, Piece, Refusal, ScriptError, Step, Usage};

use self::server::{Mode, Shared};

/// How a server is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 is any that is free.
    pub listen: SocketAddr,
    /// Encrypts its connections.
    pub tls: Option<TlsOptions>,
    /// It is a proxy and answers no request itself.
    pub proxy: Option<ProxyOptions>,
    /// The key that requests must bring, in any of the headers that providers use; 401 without.
    pub key: Option<String>,
    /// The answer to a request for which there is no script.
    pub usual: Step,
}

impl Default for Options {
    /// Any free port of the loopback, plain, and ten words to whatever it is asked.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            proxy: None,
            key: None,
            usual: Step::default(),
        }
    }
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// What the certificate is for. Names that the client does not ask for make it a wrong one.
    pub names: Vec<String>,
    /// Offers HTTP/2 beside HTTP/1.1.
    pub http2: bool,
}

impl Default for TlsOptions {
    /// The loopback, HTTP/1.1 only.
    fn default() -> Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        Self { names, http2: false }
    }
}

/// What a proxy does.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// `user:password` that it wants (Basic); 407 without.
    pub credentials: Option<String>,
    /// Everything is connected here, whatever host was named. Without it only hosts of the loopback
    /// are connected.
    pub target: Option<SocketAddr>,
}

/// A running server; it stops when this is dropped, and breaks off what it is sending.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    ca_pem: Option<String>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// The address is taken, a name for the certificate is none, or the thread cannot be started.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen)?;
        let address = listener.local_addr()?;
        let identity = options.tls.as_ref().map(|tls| tls::identity(&tls.names, tls.http2));
        let identity = identity.transpose().map_err(io::Error::other)?;
        let (tls, ca_pem) = identity.map(|made| (made.config, made.ca_pem)).unzip();
        let shared = Arc::new(Shared::new(options));
        let inner = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = Builder::new()
            .name("fake-upstream".to_owned())
            .spawn(move || runtime.block_on(server::serve(inner, listener, tls)))?;
        Ok(Self { address, ca_pem, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL without a path; a provider's base URL adds what its row has (`/v1`).
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.ca_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate to trust, as PEM, of a server with TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Replaces the scripts; every sequence begins again.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.shared.rules().set(rules);
    }

    /// Looks at what happened. The server waits meanwhile.
    pub fn log<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.shared.recorder.log())
    }

    /// Waits until something has happened, at most so long; says whether it has.
    #[must_use]
    pub fn wait_for(&self, limit: Duration, holds: impl Fn(&Log) -> bool) -> bool {
        self.shared.recorder.wait_for(limit, holds)
    }

    /// Closes the listener: connections are refused until [`Self::accept`]. Those that are open stay.
    pub fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refuse);
    }

    /// Listens again, on the same port.
    pub fn accept(&self) {
        self.shared.mode.send_replace(Mode::Accept);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.mode.send_replace(Mode::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and a drop has nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Lets this process have as many descriptors as it may (setrlimit(2)): a thousand streams are more
/// than the usual limit of 1,024.
///
/// # Errors
///
/// The system refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
