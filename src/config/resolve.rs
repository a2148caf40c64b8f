//! What must hold about providers on the network once all their settings are known.

use super::Config;
use super::error::{ConfigError, Origin, Problem};
use super::nearest::nearest;
use super::remote::RemoteConfig;
use super::schema::ProviderKind;
use super::text::{REGION, RESOURCE, is_open_to_the_network, route};
use super::value::Rule;
use crate::dialect::{Auth, Row};

impl Config {
    /// Puts region and resource into the base URLs, and checks that each provider has what its kind
    /// needs.
    pub(super) fn resolve_remotes(&mut self, errors: &mut Vec<ConfigError>) {
        let mut found = Vec::new();
        for (name, provider) in &mut self.providers {
            let ProviderKind::Remote(row, config) = &mut provider.kind else { continue };
            let missing = needs(row, config);
            found.extend(missing.into_iter().map(|(key, problem)| (name.clone(), key, problem)));

            for url in &mut config.base_urls {
                *url = url.replace(REGION, config.region.as_deref().unwrap_or(REGION));
                *url = url.replace(RESOURCE, config.resource.as_deref().unwrap_or(RESOURCE));
            }
            found.extend(disagreements(config).map(|(key, problem)| (name.clone(), key, problem)));
        }
        for (name, key, problem) in found {
            let path = format!("providers.{name}.{key}");
            if errors.iter().any(|error| error.key == path) {
                continue; // What is there is wrong, which is told already.
            }
            let origin = self.origin_within(&path, &format!("providers.{name}"));
            errors.push(ConfigError::at(origin, path, problem));
        }
    }

    /// Where a value comes from; one that is missing has no line of its own, but its table has.
    fn origin_within(&self, path: &str, table: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or_else(|| self.origin(table))
    }

    /// Checks that every provider that a route or the failover order names exists.
    pub(super) fn check_names_of_providers(&self, errors: &mut Vec<ConfigError>) {
        // A provider that is itself in error may be the one that is meant.
        if errors.iter().any(|error| error.key.starts_with("providers")) {
            return;
        }
        let mut named: Vec<(String, &str)> = Vec::new();
        for (name, model) in &self.models {
            let path = format!("models.{name}.route");
            if model.route.is_empty() && !errors.iter().any(|error| error.key == path) {
                let allowed = Rule::Routes.to_string();
                let origin = self.origin_within(&path, &format!("models.{name}"));
                errors.push(ConfigError::at(origin, path.clone(), Problem::Missing { allowed }));
            }
            let providers = model.route.iter().filter_map(|text| route(text));
            named.extend(providers.map(|(provider, _)| (path.clone(), provider)));
        }
        let failover = self.upstream.failover.iter();
        named.extend(failover.map(|name| ("upstream.failover".to_owned(), name.as_str())));

        for (path, name) in named {
            if self.providers.contains_key(name) {
                continue;
            }
            let hint = nearest(name, self.providers.keys().map(String::as_str));
            let hint = hint.map_or_else(String::new, |name| format!(", did you mean {name}?"));
            let reason = format!("there is no provider {name}{hint}");
            let origin = self.origin(&path);
            errors.push(ConfigError::at(origin, path, Problem::Conflict { reason }));
        }
    }
}

/// The settings that a kind needs and has not got.
fn needs(row: &Row, config: &RemoteConfig) -> Vec<(&'static str, Problem)> {
    let mut missing = Vec::new();
    if config.base_urls.is_empty() {
        let allowed = Rule::BaseUrls.to_string();
        missing.push(("base_urls", Problem::Missing { allowed }));
    }
    let kind = row.kind;
    let has = |part: &str| config.base_urls.iter().any(|url| url.contains(part));
    let settings = [
        ("region", config.region.is_none(), has(REGION)),
        ("resource", config.resource.is_none(), has(RESOURCE)),
    ];
    for (key, is_absent, is_used) in settings {
        let reason = if is_absent && is_used {
            format!("missing: the kind {kind} needs it, or base_urls without {{{key}}}")
        } else if is_absent && key == "region" && is_signed(row) {
            format!("missing: the kind {kind} signs its requests for a region")
        } else {
            continue;
        };
        missing.push((key, Problem::Conflict { reason }));
    }
    if row.needs_key && config.keys.is_empty() {
        let allowed = Rule::KeySources.to_string();
        missing.push(("keys", Problem::Missing { allowed }));
    }
    missing
}

#[cfg(feature = "bedrock")]
fn is_signed(row: &Row) -> bool {
    row.auth == Auth::Aws
}

#[cfg(not(feature = "bedrock"))]
fn is_signed(row: &Row) -> bool {
    // Every way there is, so that a further one is looked at here.
    match row.auth {
        Auth::Bearer | Auth::Header(_) => false,
    }
}

/// The settings of one provider that are right by themselves and wrong together.
fn disagreements(config: &RemoteConfig) -> impl Iterator<Item = (&'static str, Problem)> {
    let open = config.base_urls.iter().position(|url| is_open_to_the_network(url));
    let open = open.filter(|_| !config.allow_http).map(|index| {
        let reason = format!(
            "URL {} is http:// to another host, where everybody on the way can read the key: write \
             https://, or set allow_http = true",
            index + 1
        );
        ("base_urls", Problem::Conflict { reason })
    });

    let default = config.default_model.as_deref();
    let stray = default.filter(|name| {
        !config.models.is_empty() && !config.models.iter().any(|model| model == name)
    });
    let stray = stray.map(|name| {
        let hint = nearest(name, config.models.iter().map(String::as_str));
        let hint = hint.map_or_else(String::new, |name| format!(", did you mean {name}?"));
        ("default_model", Problem::Conflict { reason: format!("{name} is not among models{hint}") })
    });
    open.into_iter().chain(stray)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::config::sources::tests::{file, nothing};

    fn load(text: &str) -> Result<Config, String> {
        let sources = Sources { file: file(text), ..nothing() };
        Config::load(&sources).map_err(|errors| errors.to_string())
    }

    const ROW: Row = Row { kind: "test", base_url: "", ..crate::dialect::ROWS[0] };

    fn needed(row: &Row, change: impl FnOnce(&mut RemoteConfig)) -> Vec<&'static str> {
        let mut config = RemoteConfig::of(row);
        change(&mut config);
        needs(row, &config).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_kind_needs_what_its_base_url_is_made_of() {
        let azure = Row { base_url: "https://{resource}.host", ..ROW };
        assert_eq!(needed(&azure, |_| {}), ["resource"]);
        assert_eq!(needed(&azure, |config| config.resource = Some("r".into())), [""; 0]);
        let elsewhere = vec!["https://elsewhere".to_owned()];
        assert_eq!(needed(&azure, |config| config.base_urls = elsewhere), [""; 0]);

        let vertex = Row { base_url: "https://{region}.host/{resource}", ..ROW };
        assert_eq!(needed(&vertex, |_| {}), ["region", "resource"]);
        assert_eq!(needed(&ROW, |_| {}), ["base_urls"]);
        assert_eq!(needed(&azure, |config| config.base_urls.clear()), ["base_urls"]);
    }

    #[test]
    fn every_kind_can_be_configured_with_what_it_says_it_needs() {
        for row in crate::dialect::ROWS {
            let given = needed(row, |config| {
                config.region = Some("region".into());
                config.resource = Some("resource".into());
                if config.base_urls.is_empty() {
                    config.base_urls.push("https://host".into());
                }
            });
            assert_eq!(given, [""; 0], "{}", row.kind);
        }
    }

    #[test]
    fn a_kind_that_needs_a_key_needs_a_place_for_it() {
        let row = Row { base_url: "https://host", ..ROW };
        assert_eq!(needed(&row, |config| config.keys.clear()), ["keys"]);
        let local = Row { needs_key: false, ..row };
        assert_eq!(needed(&local, |config| config.keys.clear()), [""; 0]);
        let error = load("[providers.openai]\nkeys = []\n").unwrap_err();
        let start = "config.toml:2: providers.openai.keys: missing, must be a list of the places";
        assert!(error.starts_with(start), "{error}");
    }

    #[test]
    fn placeholders_are_replaced_by_settings() {
        let text = "[providers.openai]\nbase_urls = [\"https://{resource}.host/{region}\"]\n";
        let error = load(text).unwrap_err();
        assert_eq!(
            error,
            "config.toml:1: providers.openai.region: missing: the kind openai needs it, or base_urls \
             without {region}\n\
             config.toml:1: providers.openai.resource: missing: the kind openai needs it, or \
             base_urls without {resource}"
        );
        let config = load(&format!("{text}region = \"r1\"\nresource = \"ours\"\n")).unwrap();
        let (_, remote) = config.providers["openai"].remote().unwrap();
        assert_eq!(remote.base_urls, ["https://ours.host/r1"]);
        let path = "config.toml".into();
        assert_eq!(config.origin("providers.openai.region"), Origin::File { path, line: 3 });
    }

    #[test]
    fn plain_http_to_another_host_has_to_be_wanted() {
        let text = "[providers.openai]\nbase_urls = [\"https://a\", \"http://b\"]\n";
        let error = load(text).unwrap_err();
        let start = "config.toml:2: providers.openai.base_urls: URL 2 is http:// to another host";
        assert!(error.starts_with(start) && error.ends_with("allow_http = true"), "{error}");
        assert!(load(&format!("{text}allow_http = true\n")).is_ok());
        let local = "[providers.openai]\nbase_urls = [\"http://localhost:1/v1\"]\n";
        assert!(load(local).is_ok());
    }

    #[test]
    fn the_default_model_is_one_of_those_offered() {
        let text = "[providers.openai]\ndefault_model = \"gpt-4\"\n";
        assert!(load(text).is_ok());
        assert_eq!(
            load(&format!("{text}models = [\"gpt-4.1\"]\n")).unwrap_err(),
            "config.toml:2: providers.openai.default_model: gpt-4 is not among models, \
             did you mean gpt-4.1?"
        );
    }

    #[test]
    fn providers_of_the_failover_order_exist() {
        let text = "[upstream]\nfailover = [\"backup\", \"loopback\"]\n";
        assert_eq!(
            load(text).unwrap_err(),
            "config.toml:2: upstream.failover: there is no provider backup"
        );
        let with_backup = "default_provider = \"loopback\"\n[providers.loopback]\n\
                           [providers.backup]\nkind = \"openai\"\n";
        assert!(load(&format!("{with_backup}{text}")).is_ok());
    }
}
