//! Asks providers, as the configuration has them: what `check` finds out, and their models.
//!
//! What a provider says is told without our keys, and without what a terminal would obey.

use annulus::config::{ProviderConfig, RemoteConfig, UpstreamConfig};
use annulus::dialect::{Class, Failure, Row};
use annulus::provider::key::{Keys, Redactor};
use annulus::provider::probe::Probe;
use secrecy::SecretString;
use serde::Serialize;

use super::super::output::Paint;

/// What was found out about a provider.
#[derive(Debug, Serialize)]
pub(super) struct Checked<'c> {
    name: &'c str,
    kind: &'static str,
    pub(super) ok: bool,
    /// The sources that gave a key.
    keys: Vec<String>,
    /// Whether the provider itself was asked, over the network.
    asked: bool,
    /// One for each endpoint and key that was asked with.
    endpoints: Vec<Endpoint<'c>>,
    /// What is wrong with the keys and the endpoints.
    problems: Vec<String>,
}

/// What an endpoint said to a key.
#[derive(Debug, Serialize)]
struct Endpoint<'c> {
    url: &'c str,
    /// The source of the key; none without a key.
    key: Option<String>,
    /// The name was resolved, the connection made and, with `https`, the certificate verified.
    connected: bool,
    encrypted: bool,
    /// The key, or that there was none, was not objected to. Some list their models to anybody.
    key_refused: bool,
    /// How many models it lists.
    models: Option<usize>,
}

impl<'c> Checked<'c> {
    pub(super) fn of(
        upstream: &UpstreamConfig,
        name: &'c str,
        provider: &'c ProviderConfig,
    ) -> Self {
        let kind = provider.kind.name();
        let mut checked = Self {
            name,
            kind,
            ok: true,
            keys: Vec::new(),
            asked: false,
            endpoints: Vec::new(),
            problems: Vec::new(),
        };
        let Some((row, remote)) = provider.remote() else { return checked };
        let keys = Keys::read(row, remote);
        checked.keys = keys.found.iter().map(|(source, _)| source.to_string()).collect();
        checked.problems = keys.missing.iter().map(ToString::to_string).collect();
        for url in &remote.base_urls {
            checked.ask(Probe { row, config: remote, upstream, url, key: None }, url, &keys);
        }
        checked.ok = checked.problems.is_empty();
        checked
    }

    /// Asks an endpoint with each key, or without one where none is needed.
    fn ask(&mut self, probe: Probe<'_>, url: &'c str, keys: &Keys) {
        for (key, secret) in with(keys, probe.row) {
            let answer = Probe { key: secret, ..probe }.models();
            if matches!(answer, Ok(None)) {
                return;
            }
            self.asked = true;
            let failure = answer.as_ref().err();
            let connected = failure.is_none_or(|failure| failure.status.is_some());
            self.endpoints.push(Endpoint {
                url,
                key: key.clone(),
                connected,
                encrypted: connected && url.starts_with("https://"),
                key_refused: failure.is_some_and(|failure| failure.class == Class::Auth),
                models: answer.as_ref().ok().and_then(Option::as_ref).map(Vec::len),
            });
            if let Some(failure) = failure {
                let with = key.map(|source| format!(" with {source}")).unwrap_or_default();
                self.problems.push(format!("{url}{with}: {}", told(failure, keys)));
            }
            // No other key gets through where this one did not.
            if !connected {
                return;
            }
        }
    }

    /// What is right and what is wrong, in words.
    pub(super) fn lines(&self, paint: Paint) -> Vec<String> {
        let keys = match self.keys.as_slice() {
            [] => "no key".to_owned(),
            keys => keys.join(", "),
        };
        let mut lines = Vec::new();
        if self.ok {
            let found = match self.kind {
                "loopback" => "needs nothing".to_owned(),
                kind if self.asked => format!("{kind}, {keys}"),
                kind => format!("{kind}, {keys}; not asked, because this kind lists no models"),
            };
            lines.push(format!("{}: {}: {found}", paint.green("ok"), self.name));
        }
        for endpoint in &self.endpoints {
            let Some(models) = endpoint.models else { continue };
            let connected =
                if endpoint.encrypted { "connected, TLS verified" } else { "connected" };
            let key = endpoint.key.as_deref().map(|key| format!(", {key} not refused"));
            let key = key.unwrap_or_default();
            lines.push(format!("    {}: {connected}{key}, {models} models", endpoint.url));
        }
        let failed = |problem: &String| format!("failed: {}: {problem}", self.name);
        lines.extend(self.problems.iter().map(failed));
        lines
    }
}

/// The models by the word of the first endpoint that gives any; `None` when this kind lists none.
pub(super) fn models(
    row: &'static Row,
    remote: &RemoteConfig,
    upstream: &UpstreamConfig,
    keys: &Keys,
) -> Result<Option<Vec<String>>, String> {
    let mut problem = "it has no endpoint and no key to ask with".to_owned();
    for url in &remote.base_urls {
        for (_, key) in with(keys, row) {
            match (Probe { row, config: remote, upstream, url, key }).models() {
                Ok(None) => return Ok(None),
                Ok(Some(models)) => {
                    let redactor = redactor(keys);
                    let plain = |name: &String| plain(&redactor.redact(name));
                    return Ok(Some(models.iter().map(plain).collect()));
                }
                Err(failure) => problem = format!("{url}: {}", told(&failure, keys)),
            }
        }
    }
    Err(problem)
}

/// The keys to ask with, each with its source.
fn with<'k>(keys: &'k Keys, row: &Row) -> Vec<(Option<String>, Option<&'k SecretString>)> {
    if keys.found.is_empty() && !row.needs_key {
        return vec![(None, None)];
    }
    keys.found.iter().map(|(source, key)| (Some(source.to_string()), Some(key))).collect()
}

fn redactor(keys: &Keys) -> Redactor {
    Redactor::new(keys.found.iter().map(|(_, key)| key))
}

fn told(failure: &Failure, keys: &Keys) -> String {
    plain(&redactor(keys).redact(&failure.to_string()))
}

/// On one line, and without what a terminal would obey.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}
