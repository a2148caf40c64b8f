//! The keys of providers on the network, and of what lies between them and the clients.

use std::path::PathBuf;
use std::time::Duration;

use super::key_source::KeySource;
use super::schema::{Fields, FieldsMut, SECS_MAX, U32_MAX, section};
use super::text::{header, route};
use super::value::{AUTO, Field, Key, Rule};
use crate::dialect::Row;

section! {
    /// `[providers.NAME]` of a kind that has a row in [`crate::dialect::ROWS`].
    ///
    /// The defaults of a kind are those of [`RemoteConfig::of`]. Once loaded, `base_urls` have no
    /// placeholders.
    pub struct RemoteConfig {
        /// Where the provider is; of several the less busy one is asked. {region} and {resource}
        /// stand for the settings of that name. The default is the kind's.
        base_urls: Vec<String> = Vec::new(), Rule::BaseUrls;

        /// Where the keys are; requests spread over several. The default is the variables that hold
        /// the kind's key by custom, of which the first that is set counts.
        keys: Vec<KeySource> = Vec::new(), Rule::KeySources;

        /// The name of the Azure resource or of the Google Cloud project.
        resource: Option<String> = None, Rule::Label;

        /// The region, for Amazon Bedrock and Vertex AI.
        region: Option<String> = None, Rule::Label;

        /// The version of Azure's older interface, like 2024-10-21; without it the newer one is
        /// used, which has no versions. In both the model is the name of the deployment.
        api_version: Option<String> = None, Rule::Label;

        /// The models that are offered. Without any, every model may be asked for.
        models: Vec<String> = Vec::new(), Rule::Models;

        /// Answers the requests that name only the provider.
        default_model: Option<String> = None, Rule::Model;

        /// Models that refuse a temperature; it is left out for them.
        no_temperature: Vec<String> = Vec::new(), Rule::Models;

        /// The longest answer, where the provider demands a limit and the request has none.
        max_tokens_default: u32 = 8_192, Rule::Range(1, 10_000_000, "tokens");

        /// The context that a local model gets. Ollama's own default cuts long prompts.
        context_size: Option<u32> = None, Rule::Range(256, 100_000_000, "tokens");

        /// Requests that each key may make in a minute.
        requests_per_minute: Option<u32> = None, Rule::Range(1, U32_MAX, "");

        /// Tokens, of prompts and answers, that each key may use in a minute.
        tokens_per_minute: Option<u32> = None, Rule::Range(1, U32_MAX, "");

        /// How long a connection may take to come about, its encryption included.
        connect_timeout_ms: u32 = 5_000, Rule::Range(10, 600_000, "milliseconds");

        /// How long the first output may take; 0 waits as long as it takes. The default is the
        /// kind's: local servers load models meanwhile.
        first_output_timeout_secs: u64 = 60, Rule::Range(0, SECS_MAX, "seconds");

        /// How long a stream may be silent; 0 waits as long as it takes.
        idle_timeout_secs: u64 = 90, Rule::Range(0, SECS_MAX, "seconds");

        /// How long a whole answer may take; 0 sets no limit.
        total_timeout_secs: u64 = 0, Rule::Range(0, SECS_MAX, "seconds");

        /// Allows http:// to other hosts than this one. Keys and prompts can be read on the way.
        allow_http: bool = false, Rule::Switch;

        /// Headers of every request.
        headers: Vec<String> = Vec::new(), Rule::Headers;

        /// Its share of the requests that several providers could answer.
        weight: u32 = 1, Rule::Range(1, 1_000, "");
    }
}

section! {
    /// `[models.NAME]`: a name of our own for a model, and who answers for it.
    pub struct ModelConfig {
        /// Who is asked, as provider/model. The first is preferred, the others are asked in turn when
        /// it fails.
        route: Vec<String> = Vec::new(), Rule::Routes;
    }
}

section! {
    /// `[upstream]`: how providers on the network are reached, and what happens when they fail.
    pub struct UpstreamConfig {
        /// How often a failed request is tried again. Nothing is tried again once output has come.
        retries_max: u32 = 2, Rule::Range(0, 10, "");

        /// The time that all tries of a request may take until the first output.
        retry_budget_secs: u64 = 60, Rule::Range(0, 3_600, "seconds");

        /// So many failures in a row, and an endpoint is not asked for a while.
        breaker_failures: u32 = 5, Rule::Range(1, 1_000, "");

        /// So many successes after that, and it is asked as before.
        breaker_successes: u32 = 2, Rule::Range(1, 1_000, "");

        /// How long that while is.
        breaker_open_secs: u64 = 60, Rule::Range(1, 3_600, "seconds");

        /// How many requests try after it whether the endpoint is well again.
        breaker_probes: u32 = 3, Rule::Range(1, 1_000, "");

        /// Connections to one host; further requests wait for one.
        connections_per_host_max: u32 = 1_000, Rule::Range(1, 10_000, "");

        /// An unused connection is closed after so long.
        connection_idle_secs: u64 = 90, Rule::Range(1, 3_600, "seconds");

        /// Certificates to trust beside those of the system, in PEM.
        extra_ca: Option<PathBuf> = None, Rule::File;

        /// The proxy for all hosts but this one. "auto" heeds HTTPS_PROXY, HTTP_PROXY and NO_PROXY,
        /// which alone can hold the proxy's password.
        proxy: Option<String> = Some(AUTO.to_owned()), Rule::Proxy;

        /// Providers that are asked in turn, with their default model, when the one that a request
        /// names fails.
        failover: Vec<String> = Vec::new(), Rule::ProviderNames;

        /// Lets the system write the memory of a daemon that crashes to a file, and the user's other
        /// programs look into it. Keys and prompts are in it.
        core_dumps: bool = false, Rule::Switch;
    }
}

section! {
    /// `[cache]`: answers that are kept for requests that come again, word for word.
    pub struct CacheConfig {
        /// Whether answers are kept. Only those that do not depend on chance are: with a temperature
        /// of 0.
        enable: bool = false, Rule::Switch;

        /// How much of them.
        size_max: u64 = 67_108_864, Rule::Range(65_536, 17_179_869_184, "bytes");

        /// For how long.
        ttl_secs: u64 = 3_600, Rule::Range(1, SECS_MAX, "seconds");
    }
}

/// Where the requests to other hosts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy<'a> {
    /// Where `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    Environment,
    /// To the hosts themselves.
    Direct,
    /// To this URL.
    Url(&'a str),
}

impl RemoteConfig {
    /// The defaults of a kind.
    #[must_use]
    pub fn of(row: &Row) -> Self {
        Self {
            base_urls: (!row.base_url.is_empty())
                .then(|| row.base_url.to_owned())
                .into_iter()
                .collect(),
            keys: Self::customary_keys(row),
            first_output_timeout_secs: row.first_output_secs.map_or(0, u64::from),
            ..Self::default()
        }
    }

    /// Whether the keys are the kind's customary ones, of which one is enough.
    #[must_use]
    pub fn has_customary_keys(&self, row: &Row) -> bool {
        self.keys == Self::customary_keys(row)
    }

    fn customary_keys(row: &Row) -> Vec<KeySource> {
        row.key_variables.iter().map(|name| KeySource::Environment((*name).to_owned())).collect()
    }

    /// How long a connection may take to come about.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    /// How long the first output may take; `None` is forever.
    #[must_use]
    pub fn first_output_timeout(&self) -> Option<Duration> {
        seconds(self.first_output_timeout_secs)
    }

    /// How long a stream may be silent; `None` is forever.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        seconds(self.idle_timeout_secs)
    }

    /// How long a whole answer may take; `None` is forever.
    #[must_use]
    pub fn total_timeout(&self) -> Option<Duration> {
        seconds(self.total_timeout_secs)
    }

    /// The names and values of `headers`.
    pub fn header_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter_map(|text| header(text))
    }
}

impl ModelConfig {
    /// The providers and their models, the preferred one first.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.route.iter().filter_map(|text| route(text))
    }
}

impl UpstreamConfig {
    /// Where the requests to other hosts go.
    #[must_use]
    pub fn proxy(&self) -> Proxy<'_> {
        match self.proxy.as_deref() {
            None => Proxy::Direct,
            Some(AUTO) => Proxy::Environment,
            Some(url) => Proxy::Url(url),
        }
    }
}

fn seconds(count: u64) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::ROWS;

    #[test]
    fn a_kind_has_the_defaults_of_its_row() {
        for row in ROWS {
            let config = RemoteConfig::of(row);
            assert_eq!(config.base_urls.concat(), row.base_url);
            assert_eq!(config.keys.len(), row.key_variables.len());
            assert!(config.has_customary_keys(row));
            let timeout = config.first_output_timeout().map(|timeout| timeout.as_secs());
            assert_eq!(timeout, row.first_output_secs.map(u64::from));
        }
    }

    #[test]
    fn zero_is_no_timeout() {
        let config = RemoteConfig::default();
        assert_eq!(config.connect_timeout(), Duration::from_secs(5));
        assert_eq!(config.idle_timeout(), Some(Duration::from_secs(90)));
        assert_eq!(config.total_timeout(), None);
    }

    #[test]
    fn the_proxy_is_a_word_or_a_url() {
        let mut upstream = UpstreamConfig::default();
        assert_eq!(upstream.proxy(), Proxy::Environment);
        upstream.proxy = None;
        assert_eq!(upstream.proxy(), Proxy::Direct);
        upstream.proxy = Some("http://proxy:3128".to_owned());
        assert_eq!(upstream.proxy(), Proxy::Url("http://proxy:3128"));
    }

    #[test]
    fn headers_and_routes_come_in_pairs() {
        let headers = vec!["X-Title: my editor".to_owned()];
        let config = RemoteConfig { headers, ..RemoteConfig::default() };
        assert_eq!(config.header_pairs().collect::<Vec<_>>(), [("X-Title", "my editor")]);
        let model = ModelConfig { route: vec!["a/b/c".to_owned()] };
        assert_eq!(model.routes().collect::<Vec<_>>(), [("a", "b/c")]);
    }
}
