//! Servers on threads: blocking sockets, a thread for each connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::sync::{AtomicBool, Ordering, TallyU64};

/// What a connection's thread reads and writes.
pub(super) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// A server that calls its handler with each connection and its number, from 0.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    accepted: Arc<TallyU64>,
    is_over: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(
        handle: impl Fn(TcpStream, u64) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", handle)
    }

    pub(super) fn start_at(
        address: &str,
        handle: impl Fn(TcpStream, u64) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(TallyU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let server =
            Self { address, accepted: Arc::clone(&accepted), is_over: Arc::clone(&is_over) };
        let handle = Arc::new(handle);
        thread::spawn(move || {
            // Ends when the server is dropped, which connects once more.
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let number = accepted.fetch_add(1, Ordering::Relaxed);
                let handle = Arc::clone(&handle);
                // A client that goes away is not the test's failure.
                thread::spawn(move || {
                    stream.set_nodelay(true).and_then(|()| handle(stream, number))
                });
            }
        });
        server
    }

    /// How many connections there were so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// One request as it came: its first line, its headers in lower case, its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        let mut found = self.headers.iter().filter_map(|line| line.strip_prefix(&prefix));
        let value = found.next().unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(found.next().is_none(), "{name} twice in {self:?}");
        value
    }
}

/// Reads a request; `None` when the client closed instead.
pub(super) fn read_request(stream: &mut dyn Stream) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let lower = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        format!("{}: {value}", name.to_lowercase())
    };
    let headers: Vec<String> = lines.filter(|line| !line.is_empty()).map(lower).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    Ok(Some(Asked { line, headers, body }))
}

/// Answers every request of a connection with what `answer` makes of it.
pub(super) fn serve(stream: &mut dyn Stream, answer: impl Fn(&Asked) -> Vec<u8>) -> io::Result<()> {
    while let Some(asked) = read_request(stream)? {
        stream.write_all(&answer(&asked))?;
    }
    Ok(())
}

/// A whole response of known length.
pub(super) fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A certificate for `localhost`, `provider.test` and 127.0.0.1, and the file of its authority.
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    configuration: ServerConfig,
    _directory: TempDir,
}

static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);

    let names = ["localhost", "provider.test", "127.0.0.1"].map(str::to_owned);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(names.to_vec()).unwrap().signed_by(&key, &issuer).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    Certificates { authority: file, configuration, _directory: directory }
});

pub(super) fn authority() -> PathBuf {
    CERTIFICATES.authority.clone()
}

/// The server's side of TLS, which chooses this protocol.
pub(super) fn tls(stream: TcpStream, protocol: &[u8]) -> StreamOwned<ServerConnection, TcpStream> {
    let mut configuration = CERTIFICATES.configuration.clone();
    configuration.alpn_protocols = vec![protocol.to_vec()];
    StreamOwned::new(ServerConnection::new(Arc::new(configuration)).unwrap(), stream)
}
