//! Which endpoints are reached through a proxy, by the rules that curl made usual.
//!
//! The invariant to remember: a proxy's credentials leave this module in one header, never in a text.

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::SetupError;
use super::endpoint::{Endpoint, bracketed, unbracketed, without_credentials};

/// Where a client's proxies come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxySource {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case; the lower one first.
    #[default]
    Environment,
    /// This URL for everything that is not on this machine: `http[s]://[user:password@]host[:port]`.
    Url(String),
    /// None.
    Direct,
}

/// One proxy.
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether the way to the proxy itself is TLS.
    pub(super) is_https: bool,
    /// `Proxy-Authorization`, marked as sensitive.
    pub(super) authorization: Option<HeaderValue>,
}

/// Without the credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy {}:{}", bracketed(&self.host), self.port)
    }
}

impl Proxy {
    /// Parses a proxy's URL; without a scheme it is `http://`, and without a port 1080, as curl has it.
    fn parse(url: &str) -> Result<Self, SetupError> {
        let refuse = |reason| SetupError::Proxy { url: without_credentials(url), reason };
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(refuse("only http:// and https:// proxies are spoken to")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let (host, port) = host_and_port(address).ok_or_else(|| refuse("it names no host"))?;
        let own_port = if is_https { 443 } else { 1080 };
        let port = port.map_or(Ok(own_port), str::parse);
        let authorization = credentials.map(|credentials| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let mut pair = percent_decoded(user);
            pair.push(b':');
            pair.extend(percent_decoded(password));
            let value = format!("Basic {}", STANDARD.encode(pair));
            let mut value = HeaderValue::try_from(value).expect("base64 is a header's value");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.map_err(|_| refuse("its port is no port"))?,
            is_https,
            authorization,
        })
    }
}

/// `host:port`, `[v6]:port`, a bare IPv6 address, each with or without its port.
fn host_and_port(text: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if let Some(end) = text.find(']').filter(|_| text.starts_with('[')) {
        let port = &text[end + 1..];
        if !port.is_empty() && !port.starts_with(':') {
            return None;
        }
        (unbracketed(&text[..=end]), port.strip_prefix(':'))
    } else if text.matches(':').count() > 1 {
        (text, None)
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    (!host.is_empty()).then_some((host, port))
}

/// RFC 3986 §2.1; what is no escape stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        let escape = (first == b'%').then(|| rest.first_chunk::<2>()).flatten();
        let digits = escape.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                bytes = &rest[2..];
            }
            None => {
                decoded.push(first);
                bytes = rest;
            }
        }
    }
    decoded
}

/// The proxies of one client.
#[derive(Default)]
pub(super) struct Proxies {
    https: Option<Arc<Proxy>>,
    http: Option<Arc<Proxy>>,
    exempt: Vec<Exempt>,
}

impl Proxies {
    pub(super) fn new(source: &ProxySource) -> Result<Self, SetupError> {
        match source {
            ProxySource::Environment => Self::from_variables(|name| env::var(name).ok()),
            ProxySource::Url(url) => {
                let proxy = Arc::new(Proxy::parse(url)?);
                Ok(Self { https: Some(Arc::clone(&proxy)), http: Some(proxy), exempt: Vec::new() })
            }
            ProxySource::Direct => Ok(Self::default()),
        }
    }

    fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Self, SetupError> {
        let variable = |name: &str| {
            let value = read(&name.to_ascii_lowercase()).or_else(|| read(name))?;
            let value = value.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let proxy = |name| {
            let url = variable(name).or_else(|| variable("ALL_PROXY"));
            url.map(|url| Proxy::parse(&url).map(Arc::new)).transpose()
        };
        let exempt = variable("NO_PROXY").unwrap_or_default();
        Ok(Self {
            https: proxy("HTTPS_PROXY")?,
            http: proxy("HTTP_PROXY")?,
            exempt: exempt.split([',', ' ']).filter_map(Exempt::parse).collect(),
        })
    }

    /// The proxy for an endpoint, if it has one. This machine never has.
    pub(super) fn find(&self, endpoint: &Endpoint) -> Option<&Arc<Proxy>> {
        let proxy = if endpoint.is_https { &self.https } else { &self.http };
        let is_exempt = endpoint.is_loopback()
            || self.exempt.iter().any(|exempt| exempt.covers(endpoint.host(), endpoint.port()));
        proxy.as_ref().filter(|_| !is_exempt)
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Exempt {
    All,
    /// A name and everything below it, perhaps on one port only.
    Name(String, Option<u16>),
    /// The addresses that begin with the same bits.
    Network(IpAddr, u8),
}

impl Exempt {
    /// What is no entry is left out, as curl does it.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = unbracketed(address).parse().ok()?;
            let bits = bits.parse().ok()?;
            let bits_max = if address.is_ipv6() { 128 } else { 32 };
            return (bits <= bits_max).then_some(Self::Network(address, bits));
        }
        let (host, port) = host_and_port(text)?;
        let port = port.map(str::parse).transpose().ok()?;
        let name = host.strip_prefix('*').unwrap_or(host).trim_start_matches('.');
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self::Name(name, port))
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Name(_, Some(own)) if *own != port => false,
            Self::Name(name, _) => {
                if let Ok(address) = host.parse::<IpAddr>() {
                    return name.parse() == Ok(address);
                }
                let host = host.strip_suffix('.').unwrap_or(host);
                let before = host.strip_suffix(name.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Self::Network(network, bits) => host.parse().is_ok_and(|host| match (network, host) {
                (IpAddr::V4(network), IpAddr::V4(host)) => {
                    let differing = network.to_bits() ^ host.to_bits();
                    differing.leading_zeros() >= u32::from(*bits)
                }
                (IpAddr::V6(network), IpAddr::V6(host)) => {
                    let differing = network.to_bits() ^ host.to_bits();
                    differing.leading_zeros() >= u32::from(*bits)
                }
                _ => false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, SetupError> {
        Proxies::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn found(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.find(&Endpoint::parse(url, true).unwrap()).map(|proxy| proxy.to_string())
    }

    #[test]
    fn each_scheme_has_its_variable_and_the_lower_case_wins() {
        let set = [
            ("HTTPS_PROXY", "http://upper:1"),
            ("https_proxy", "http://lower:2"),
            ("ALL_PROXY", "all:3"),
        ];
        let proxies = proxies(&set).unwrap();
        assert_eq!(found(&proxies, "https://a.example").unwrap(), "proxy lower:2");
        assert_eq!(found(&proxies, "http://a.example").unwrap(), "proxy all:3");
        for url in ["http://localhost:1", "https://127.0.0.1:1", "https://[::1]:1"] {
            assert_eq!(found(&proxies, url), None, "{url} is this machine");
        }
        assert_eq!(found(&Proxies::default(), "https://a.example"), None);
    }

    #[test]
    fn a_variable_without_a_value_is_none() {
        let proxies = proxies(&[("HTTPS_PROXY", " "), ("HTTP_PROXY", "")]).unwrap();
        assert_eq!(found(&proxies, "https://a.example"), None);
    }

    #[test]
    fn no_proxy_is_read_as_curl_reads_it() {
        let table = [
            ("*", "https://a.example", true),
            ("a.example", "https://a.example", true),
            ("A.EXAMPLE", "https://a.example", true),
            (".a.example", "https://a.example", true),
            ("*.a.example", "https://x.a.example", true),
            ("a.example", "https://x.y.a.example", true),
            ("a.example", "https://ba.example", false),
            ("a.example", "https://a.example.com", false),
            ("a.example:443", "https://a.example", true),
            ("a.example:8443", "https://a.example", false),
            ("b, a.example ,c", "https://a.example", true),
            ("b a.example", "https://a.example", true),
            ("a.example.", "https://a.example", true),
            ("10.0.0.0/8", "http://10.1.2.3", true),
            ("10.0.0.0/8", "http://11.1.2.3", false),
            ("10.0.0.1", "http://10.0.0.1", true),
            ("0.0.1", "http://10.0.0.1", false),
            ("0.0.0.0/0", "http://8.8.8.8", true),
            ("fd00::/8", "http://[fd12::1]", true),
            ("fd00::/8", "http://[fe12::1]", false),
            ("[fd12::1]:80", "http://[fd12::1]", true),
            ("fd12::1", "http://[fd12::1]", true),
            ("10.0.0.0/33", "http://10.0.0.1", false),
            ("a.example:x", "https://a.example", false),
            ("", "https://a.example", false),
            (",,  ,", "https://a.example", false),
        ];
        for (no_proxy, url, is_exempt) in table {
            let proxies = proxies(&[("ALL_PROXY", "p:1"), ("NO_PROXY", no_proxy)]).unwrap();
            assert_eq!(found(&proxies, url).is_none(), is_exempt, "{no_proxy:?} for {url}");
        }
    }

    #[test]
    fn credentials_become_a_header_and_no_text() {
        let proxy = Proxy::parse("http://us%40er:pass%3Aword%@p.example:3128/").unwrap();
        let authorization = proxy.authorization.clone().unwrap();
        let pair = STANDARD.encode("us@er:pass:word%");
        assert_eq!(authorization.to_str().unwrap(), format!("Basic {pair}"));
        assert_eq!(format!("{authorization:?}"), "Sensitive");
        assert_eq!(proxy.to_string(), "proxy p.example:3128");

        for url in ["socks5://user:secret@p:1", "http://user:secret@p:port", "http://user:secret@"]
        {
            let Err(refused) = Proxy::parse(url) else { panic!("{url}") };
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
        let bare = Proxy::parse("[::2]").unwrap();
        assert_eq!((bare.host.as_str(), bare.port, bare.is_https), ("::2", 1080, false));
        assert_eq!(Proxy::parse("https://p").unwrap().port, 443);
    }
}
