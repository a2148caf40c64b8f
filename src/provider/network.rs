//! The pool's way to the network: endpoints, keys and signatures as the configuration has them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use secrecy::SecretString;

use super::cache::CacheSettings;
use super::key::{KeyProblem, KeySource};
use super::pool::{
    Dialects, EndpointSettings, ExecutorTime, KeyReader, Local, MemberSettings, PoolSettings,
    ProviderSettings, Response, Signer, Transport, UpstreamSettings,
};
use super::{BreakerSettings, Loopback, Provider, ProviderPool};
use crate::config::{Config, ProviderConfig, ProviderKind, Proxy, RemoteConfig, UpstreamConfig};
use crate::dialect::{Failure, Row};
use crate::error::IpcError;
use crate::executor;
use crate::http::{Client, Endpoint, Options, ProxySource};

impl ProviderPool {
    /// The pool of a configuration. Reads the system's certificates, if a provider needs them, so it
    /// takes milliseconds.
    ///
    /// # Errors
    ///
    /// [`IpcError::Io`] names the setting that cannot be used, and what to do.
    pub fn from_config(config: &Config) -> Result<Self, IpcError> {
        let invalid =
            |detail: String| IpcError::io("set up", "the providers")(io::Error::other(detail));
        let is_remote = |provider: &ProviderConfig| provider.remote().is_some();
        let client = config
            .providers
            .values()
            .any(is_remote)
            .then(|| client(&config.upstream))
            .transpose()
            .map_err(invalid)?;
        let mut providers = BTreeMap::new();
        for (name, provider) in &config.providers {
            let member = match (&provider.kind, &client) {
                (ProviderKind::Loopback(settings), _) => {
                    let provider: Arc<dyn Provider> = Arc::new(Loopback::new(settings.clone()));
                    MemberSettings::Local(provider)
                }
                (ProviderKind::Remote(row, remote), Some(client)) => {
                    let remote = member(row, remote, client)
                        .map_err(|wrong| invalid(format!("providers.{name}: {wrong}")))?;
                    MemberSettings::Remote(Box::new(remote))
                }
                (ProviderKind::Remote(..), None) => continue,
            };
            providers.insert(name.clone(), member);
        }
        let cache = config.cache.enable.then(|| CacheSettings {
            size_max: config.cache.size_max,
            ttl: Duration::from_secs(config.cache.ttl_secs),
        });
        let route = |(name, model): (&String, &crate::config::ModelConfig)| {
            (name.clone(), model.route.clone())
        };
        let settings = PoolSettings {
            providers,
            models: config.models.iter().map(route).collect(),
            default_provider: Some(config.default_provider.clone()),
            upstream: upstream(&config.upstream),
            cache,
        };
        let time = Arc::new(ExecutorTime::default());
        Self::new(settings, time, Arc::new(Dialects)).map_err(invalid)
    }
}

/// The HTTP client that all providers of a configuration share.
pub(super) fn client(config: &UpstreamConfig) -> Result<Arc<Client>, String> {
    let options = Options {
        connections_per_host_max: config.connections_per_host_max as usize,
        connection_idle: Duration::from_secs(config.connection_idle_secs),
        extra_ca: config.extra_ca.clone(),
        proxy: match config.proxy() {
            Proxy::Environment => ProxySource::Environment,
            Proxy::Direct => ProxySource::Direct,
            Proxy::Url(url) => ProxySource::Url(url.to_owned()),
        },
        ..Options::default()
    };
    Client::new(options).map(Arc::new).map_err(|error| error.to_string())
}

fn upstream(config: &UpstreamConfig) -> UpstreamSettings {
    UpstreamSettings {
        retries_max: config.retries_max,
        retry_budget: Duration::from_secs(config.retry_budget_secs),
        breaker: BreakerSettings {
            failures_max: config.breaker_failures,
            // More successes than there are probes would never come.
            successes_min: config.breaker_successes.min(config.breaker_probes),
            open_for: Duration::from_secs(config.breaker_open_secs),
            probes_max: config.breaker_probes,
        },
        failover: config.failover.clone(),
    }
}

fn member(
    row: &'static Row,
    config: &RemoteConfig,
    client: &Arc<Client>,
) -> Result<ProviderSettings, String> {
    let mut settings = ProviderSettings::new(row);
    for url in &config.base_urls {
        settings.endpoints.push(EndpointSettings {
            transport: Arc::new(Way::new(client, url, config)?),
            weight: config.weight,
            signer: signer(row, config, url),
        });
    }
    settings.keys = keys(row, config).into_iter().map(key_reader).collect();
    settings.api_version.clone_from(&config.api_version);
    settings.models.clone_from(&config.models);
    settings.default_model.clone_from(&config.default_model);
    settings.no_temperature.clone_from(&config.no_temperature);
    settings.max_tokens_default = config.max_tokens_default;
    settings.context_size = config.context_size;
    settings.requests_per_minute = config.requests_per_minute;
    settings.tokens_per_minute = config.tokens_per_minute;
    settings.first_output_timeout = config.first_output_timeout();
    settings.idle_timeout = config.idle_timeout().unwrap_or(FOREVER);
    settings.total_timeout = config.total_timeout();
    settings.headers = headers(config)?;
    Ok(settings)
}

/// The headers that a configuration adds.
pub(super) fn headers(config: &RemoteConfig) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let pairs = config.header_pairs().map(|(name, value)| {
        let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        header.ok_or_else(|| format!("the header {name} cannot be sent: see headers"))
    });
    pairs.collect()
}

/// Longer than any daemon runs, and far from where adding it to a clock could overflow.
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// The places of a provider's keys. Of the customary variables it is the first that is set, and none
/// where the kind needs no key.
fn keys(row: &Row, config: &RemoteConfig) -> Vec<KeySource> {
    if !config.has_customary_keys(row) {
        return config.keys.clone();
    }
    let is_set = |source: &&KeySource| !matches!(source.read(), Err(error) if error.problem == KeyProblem::NotSet);
    let set = config.keys.iter().find(is_set);
    // So that the error of a request says which variable to set.
    let first = config.keys.first().filter(|_| row.needs_key);
    set.or(first).cloned().into_iter().collect()
}

/// The way to one endpoint.
pub(super) struct Way {
    client: Arc<Client>,
    endpoint: Endpoint,
}

impl Way {
    pub(super) fn new(
        client: &Arc<Client>,
        url: &str,
        config: &RemoteConfig,
    ) -> Result<Self, String> {
        let endpoint =
            Endpoint::parse(url, config.allow_http).map_err(|error| error.to_string())?;
        Ok(Self {
            client: Arc::clone(client),
            endpoint: endpoint.with_connect_timeout(config.connect_timeout()),
        })
    }
}

impl Transport for Way {
    fn send(&self, request: Request<Bytes>) -> Local<'_, Result<Box<dyn Response>, Failure>> {
        Box::pin(async move {
            let response = self.client.send(&self.endpoint, request).await?;
            Ok(Box::new(response) as Box<dyn Response>)
        })
    }
}

impl Response for crate::http::Response {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> &http::HeaderMap {
        &self.headers
    }

    fn chunk(&mut self) -> Local<'_, Result<Option<Bytes>, Failure>> {
        Box::pin(Self::chunk(self))
    }
}

/// A key where the configuration says it is.
struct Source(KeySource);

fn key_reader(source: KeySource) -> Arc<dyn KeyReader> {
    Arc::new(Source(source))
}

impl KeyReader for Source {
    fn read(&self) -> Local<'_, Result<SecretString, String>> {
        let source = self.0.clone();
        Box::pin(async move {
            // A keyring asks its user, a program takes its time: not on the executor's thread.
            let read = executor::block(move || source.read()).await;
            read.map_err(|error| error.to_string())
        })
    }
}

#[cfg(not(feature = "bedrock"))]
fn signer(_row: &Row, _config: &RemoteConfig, _url: &str) -> Option<Arc<dyn Signer>> {
    None
}

#[cfg(feature = "bedrock")]
fn signer(row: &Row, config: &RemoteConfig, url: &str) -> Option<Arc<dyn Signer>> {
    (row.auth == crate::dialect::Auth::Aws).then(|| {
        let region = config.region.clone().unwrap_or_default();
        let signer: Arc<dyn Signer> = Arc::new(aws::AwsSigner::new(url, region));
        signer
    })
}

#[cfg(feature = "bedrock")]
mod aws {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::Request;
    use secrecy::{ExposeSecret, SecretString};

    use crate::dialect::signature::{Unsigned, authorize};
    use crate::dialect::{Class, Failure};
    use crate::provider::pool::Signer;

    /// Signs requests to one endpoint in one region.
    pub(super) struct AwsSigner {
        base_url: String,
        region: String,
    }

    impl AwsSigner {
        pub(super) fn new(base_url: &str, region: String) -> Self {
            Self { base_url: base_url.trim_end_matches('/').to_owned(), region }
        }
    }

    impl Signer for AwsSigner {
        fn sign(
            &self,
            request: &mut Request<Bytes>,
            key: &SecretString,
            today: SystemTime,
        ) -> Result<(), Failure> {
            let url = format!("{}{}", self.base_url, request.uri());
            let mut headers = Vec::new();
            for (name, value) in request.headers() {
                let value = value.to_str().map_err(|_| {
                    Failure::new(Class::BadRequest, format!("the header {name} is no text"))
                })?;
                headers.push((name.as_str(), value));
            }
            let unsigned = Unsigned { url: &url, headers: &headers, body: request.body() };
            let signed = authorize(&unsigned, key.expose_secret(), &self.region, today)?;
            request.headers_mut().extend(signed);
            Ok(())
        }
    }
}
