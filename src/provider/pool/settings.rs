//! What a pool is made from. Each field is a key of the configuration, with its name and its unit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::seams::{KeyReader, Signer, Transport};
use crate::dialect::Row;
use crate::provider::Provider;
use crate::provider::breaker::BreakerSettings;
use crate::provider::cache::CacheSettings;

/// A whole pool.
pub struct PoolSettings {
    /// `[providers.NAME]`, by name.
    pub providers: BTreeMap<String, MemberSettings>,
    /// `[models.NAME] route`: names of models, and where each is to be had, the best first.
    pub models: BTreeMap<String, Vec<String>>,
    /// `default_provider`: who gets the models that name no provider.
    pub default_provider: Option<String>,
    /// `[upstream]`.
    pub upstream: UpstreamSettings,
    /// `[cache]`, if it is enabled.
    pub cache: Option<CacheSettings>,
}

/// One provider of a pool.
pub enum MemberSettings {
    /// Asked over the network.
    Remote(Box<ProviderSettings>),
    /// Answers by itself, and never fails over: the loopback provider.
    Local(Arc<dyn Provider>),
}

/// `[upstream]`: what all remote providers have in common.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// How often one request is sent again to an endpoint, or with a key, that failed it.
    pub retries_max: u32,
    /// How long after its start a request is still sent again. Going elsewhere is always allowed.
    pub retry_budget: Duration,
    /// The breaker of each endpoint.
    pub breaker: BreakerSettings,
    /// Names of providers that are asked in turn when those of the model's route have failed.
    pub failover: Vec<String>,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            retries_max: 2,
            retry_budget: Duration::from_secs(60),
            breaker: BreakerSettings::default(),
            failover: Vec::new(),
        }
    }
}

/// A remote provider.
pub struct ProviderSettings {
    /// What kind it is.
    pub row: &'static Row,
    /// Where it is; one at least.
    pub endpoints: Vec<EndpointSettings>,
    /// Its keys. May be empty when the row needs none.
    pub keys: Vec<Arc<dyn KeyReader>>,
    /// Azure's `api-version`.
    pub api_version: Option<String>,
    /// The models offered; empty when that is not known.
    pub models: Vec<String>,
    /// The model of requests that name only the provider, and of those that come by failover.
    pub default_model: Option<String>,
    /// Models that refuse a temperature.
    pub no_temperature: Vec<String>,
    /// `maxTokens` where the dialect demands one and the request has none.
    pub max_tokens_default: u32,
    /// The context that a local model is to have, in tokens.
    pub context_size: Option<u32>,
    /// Requests in a minute with one key.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute with one key, counted as a quarter of the prompt's characters and the
    /// longest answer allowed.
    pub tokens_per_minute: Option<u32>,
    /// How long an endpoint may take to the first output.
    pub first_output_timeout: Option<Duration>,
    /// How long a body may be silent once it has begun.
    pub idle_timeout: Duration,
    /// How long a request may take in all.
    pub total_timeout: Option<Duration>,
    /// Headers of every request, beyond the row's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// One of a provider's endpoints.
pub struct EndpointSettings {
    /// The way to it.
    pub transport: Arc<dyn Transport>,
    /// How much of the load it is to bear, beside the others; 0 counts as 1.
    pub weight: u32,
    /// How requests to it are signed, for rows whose key is not sent.
    pub signer: Option<Arc<dyn Signer>>,
}

impl ProviderSettings {
    /// A provider of this kind with the configuration's defaults, without endpoints and keys.
    #[must_use]
    pub fn new(row: &'static Row) -> Self {
        Self {
            row,
            endpoints: Vec::new(),
            keys: Vec::new(),
            api_version: None,
            models: Vec::new(),
            default_model: None,
            no_temperature: Vec::new(),
            max_tokens_default: 8192,
            context_size: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            first_output_timeout: row
                .first_output_secs
                .map(|secs| Duration::from_secs(u64::from(secs))),
            idle_timeout: Duration::from_secs(90),
            total_timeout: None,
            headers: Vec::new(),
        }
    }
}
