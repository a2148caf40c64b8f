//! TLS: whom we believe, and which protocols we offer. Built once a client.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, ServerName};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use super::SetupError;
use super::tap::BoxedIo;

/// Offered to endpoints, the better one first.
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

pub(super) struct Tls {
    endpoints: TlsConnector,
    proxies: TlsConnector,
}

impl Tls {
    /// Believes the system's authorities, or Mozilla's where the system has none, and those in the
    /// PEM file `extra_ca`.
    pub(super) fn new(extra_ca: Option<&Path>) -> Result<Self, SetupError> {
        let extra = extra_ca.map_or(Ok(Vec::new()), read_authorities)?;
        // Chosen here: rustls would take whatever some other crate installed for the process.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(extra, &provider).map_err(SetupError::Tls)?;
        let config = |protocols: &[&[u8]]| -> Result<TlsConnector, SetupError> {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(SetupError::Tls)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier))
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(Arc::new(config).into())
        };
        Ok(Self { endpoints: config(&[H2, HTTP1])?, proxies: config(&[HTTP1])? })
    }

    /// Greets an endpoint; also says whether it chose HTTP/2.
    pub(super) async fn greet(&self, host: &str, io: BoxedIo) -> io::Result<(BoxedIo, bool)> {
        let stream = greet(&self.endpoints, host, io).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok((Box::new(stream), is_h2))
    }

    /// Greets a proxy, which speaks HTTP/1.1.
    pub(super) async fn greet_proxy(&self, host: &str, io: BoxedIo) -> io::Result<BoxedIo> {
        Ok(Box::new(greet(&self.proxies, host, io).await?))
    }
}

async fn greet(
    connector: &TlsConnector,
    host: &str,
    io: BoxedIo,
) -> io::Result<TlsStream<BoxedIo>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    connector.connect(name, io).await
}

fn read_authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let refuse = |reason: String| SetupError::ExtraCa { file: file.to_owned(), reason };
    let text = fs::read(file).map_err(|error| refuse(error.to_string()))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let authorities = read.map_err(|error| refuse(error.to_string()))?;
    if authorities.is_empty() {
        return Err(refuse("it has no PEM certificate".into()));
    }
    let mut probe = RootCertStore::empty();
    for authority in &authorities {
        probe.add(authority.clone()).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(authorities)
}

fn verifier(
    extra: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    // Asked without the extra authorities first: with them an empty store would be no error.
    match Verifier::new(Arc::clone(provider)) {
        Ok(system) if extra.is_empty() => Ok(Arc::new(system)),
        Ok(_) => Ok(Arc::new(Verifier::new_with_extra_roots(extra, Arc::clone(provider))?)),
        Err(_) => mozilla(extra, provider),
    }
}

/// For a system without a store, a container for example.
fn mozilla(
    extra: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for authority in extra {
        store.add(authority)?;
    }
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    let verifier = builder.build().map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(verifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_authority_that_is_none_is_refused_with_the_files_name() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent.pem");
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "no certificate").unwrap();
        let broken = directory.path().join("broken.pem");
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&broken, pem).unwrap();
        for file in [absent, empty, broken] {
            let Err(refused) = Tls::new(Some(&file)) else { panic!("{}", file.display()) };
            assert!(matches!(refused, SetupError::ExtraCa { .. }), "{refused}");
            assert!(refused.to_string().contains(file.to_str().unwrap()), "{refused}");
        }
    }

    #[test]
    fn mozillas_authorities_stand_in_for_a_system_without_any() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = mozilla(Vec::new(), &provider).unwrap();
        assert!(!verifier.supported_verify_schemes().is_empty());
    }
}
