//! Where a provider is: the parsed base URL of a configuration.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::SetupError;

/// How long resolving, connecting, a proxy and TLS may take together unless the endpoint says
/// otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A provider's base URL: `scheme://host[:port][/prefix]`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What the connection pool goes by: `scheme://host:port`.
    pub(super) origin: Arc<str>,
    /// The `Host` header: without the port when that is the scheme's own.
    pub(super) authority: Arc<str>,
    /// A name in lower case or an address; IPv6 without brackets.
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) is_https: bool,
    /// What every path begins with: empty, or `/…` without a slash at its end.
    pub(super) prefix: Arc<str>,
    pub(super) connect_timeout: Duration,
}

impl Endpoint {
    /// Parses a base URL.
    ///
    /// # Errors
    ///
    /// [`SetupError::Url`] when it is none, has credentials, a query or a fragment, or is `http://`
    /// to a host that is not this machine and `allow_http` is false: keys would be readable on the
    /// way.
    pub fn parse(url: &str, allow_http: bool) -> Result<Self, SetupError> {
        let refuse = |reason| SetupError::Url { url: without_credentials(url), reason };
        if url.contains('#') {
            return Err(refuse("it must not have a fragment"));
        }
        let uri: http::Uri = url.parse().map_err(|_| refuse("it is no URL"))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse("it must begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it must not contain credentials"));
        }
        if uri.query().is_some() {
            return Err(refuse("it must not have a query"));
        }
        let host = unbracketed(authority.host()).to_ascii_lowercase();
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        if !is_https && !allow_http && !is_loopback(&host) {
            return Err(refuse("http:// shows keys to everybody on the way; allow_http allows it"));
        }
        let own_port = if is_https { 443 } else { 80 };
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| refuse("its port is no port"))?,
            None if authority.as_str().ends_with(':') => own_port,
            None if authority.as_str() == authority.host() => own_port,
            None => return Err(refuse("its port is no port")),
        };
        let bracketed = bracketed(&host);
        let scheme = if is_https { "https" } else { "http" };
        let authority =
            if port == own_port { bracketed.clone() } else { format!("{bracketed}:{port}") };
        Ok(Self {
            origin: format!("{scheme}://{bracketed}:{port}").into(),
            authority: authority.into(),
            host: host.into(),
            port,
            is_https,
            prefix: uri.path().trim_end_matches('/').into(),
            connect_timeout: CONNECT_TIMEOUT,
        })
    }

    /// Gives resolving, connecting, a proxy and TLS together this long. 5 s unless this is called.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own if the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is on this machine: an address of the loopback network, or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// `host:port`, as a proxy's CONNECT and our errors have it.
    pub(super) fn target(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

/// Whether `host` never leaves this machine. RFC 6761 §6.3: `localhost` and what is below it do not.
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A URL as an error may show it: nothing that stands before an `@`.
pub(super) fn without_credentials(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…@{}", &url[..scheme], &url[at + 1..])
        }
        (_, Some(at)) => format!("…@{}", &url[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_apart() {
        let endpoint = Endpoint::parse("https://API.example.com/v1/", false).unwrap();
        assert_eq!(&*endpoint.origin, "https://api.example.com:443");
        assert_eq!(&*endpoint.authority, "api.example.com");
        assert_eq!(&*endpoint.prefix, "/v1");
        assert_eq!((endpoint.host(), endpoint.port()), ("api.example.com", 443));
        assert_eq!(endpoint.to_string(), "https://api.example.com/v1");

        let endpoint = Endpoint::parse("http://[::1]:1234", false).unwrap();
        assert_eq!(&*endpoint.origin, "http://[::1]:1234");
        assert_eq!(&*endpoint.authority, "[::1]:1234");
        assert_eq!((endpoint.host(), endpoint.target().as_str()), ("::1", "[::1]:1234"));
        assert!(endpoint.is_loopback() && endpoint.prefix.is_empty());
    }

    #[test]
    fn plain_http_stays_on_this_machine_unless_it_is_allowed() {
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "a.localhost"] {
            Endpoint::parse(&format!("http://{host}:80"), false).unwrap();
        }
        for host in ["example.com", "10.0.0.1", "localhost.example.com", "[::2]", "0.0.0.0"] {
            let url = format!("http://{host}/v1");
            let refused = Endpoint::parse(&url, false).unwrap_err();
            assert!(refused.to_string().contains("allow_http"), "{refused}");
            Endpoint::parse(&url, true).unwrap();
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_and_credentials_are_not_shown() {
        for url in [
            "",
            "api.example.com",
            "ftp://example.com",
            "https://",
            "https:///v1",
            "https://example.com:99999",
            "https://example.com:x",
            "https://example.com/v1?key=1",
            "https://example.com/#a",
            "https://user:secret@example.com",
        ] {
            let refused = Endpoint::parse(url, true).expect_err(url).to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
        assert_eq!(without_credentials("http://a:b@c@d:1"), "http://…@d:1");
        assert_eq!(without_credentials("a:b@d:1"), "…@d:1");
    }
}
