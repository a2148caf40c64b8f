//! The rules that join values: providers and their kinds, the last word on each key, and what must
//! agree with what.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::{ConfigError, Problem, is_secret};
use super::nearest::nearest;
use super::raw::Given;
use super::schema::{KIND, LoopbackConfig, ProviderConfig, ProviderKind};
use super::text::is_model_alias;
use super::value::{AUTO, Value, is_provider_name};
use super::{Config, Entry};
use crate::paths::{Places, check_socket_path};

impl Config {
    /// Makes the providers that any source mentions. It goes first, because the kind of a provider
    /// decides which other keys it has, and a stronger source may change the kind.
    pub(super) fn declare_providers(&mut self, givens: &[Given], errors: &mut Vec<ConfigError>) {
        let names: BTreeSet<&str> =
            givens.iter().filter_map(|g| Some(provider_of(&g.key)?.0)).collect();
        for name in &names {
            let of_name = |given: &&Given| provider_of(&given.key).is_some_and(|of| of.0 == *name);
            let its_own: Vec<&Given> = givens.iter().filter(of_name).collect();
            errors.extend(self.declare_provider(name, &its_own));
        }
        if names.is_empty() {
            let kind = ProviderKind::Loopback(LoopbackConfig::default());
            self.providers.insert(kind.name().to_owned(), ProviderConfig { kind });
        }
    }

    /// Makes one provider with the defaults of its kind, unless something is wrong with it.
    /// `givens` is not empty.
    fn declare_provider(&mut self, name: &str, givens: &[&Given]) -> Vec<ConfigError> {
        let path = format!("providers.{name}");
        let kind_path = format!("{path}.{}", KIND.name);
        let first_origin = givens[0].origin.clone();
        if !is_provider_name(name) {
            let allowed = "named in lower-case letters, digits and hyphens, at most 32".to_owned();
            return vec![ConfigError::at(first_origin, path, Problem::Refused { allowed })];
        }

        let mut kind = ProviderKind::named(name);
        let mut errors = Vec::new();
        for given in givens {
            if given.key == path && !given.raw.is_table() {
                errors.push(not_a_table(given));
            }
            if given.key == kind_path {
                match ProviderKind::read(&given.raw, &KIND.rule) {
                    Some(named) => {
                        kind = Some(named);
                        self.origins.insert(kind_path.clone(), given.origin.clone());
                    }
                    None => errors.push(ConfigError::of(given, refused_kind(given))),
                }
            }
        }
        self.origins.insert(path, first_origin.clone());
        match kind {
            Some(kind) if errors.is_empty() => {
                self.providers.insert(name.to_owned(), ProviderConfig { kind });
            }
            None if errors.is_empty() => {
                let problem = match ProviderKind::missing_feature(name) {
                    Some(feature) => left_out(feature),
                    None => Problem::Missing { allowed: KIND.rule.to_string() },
                };
                errors.push(ConfigError::at(first_origin, kind_path, problem));
            }
            _ => {}
        }
        errors
    }

    /// Makes the models that any source mentions.
    pub(super) fn declare_models(&mut self, givens: &[Given], errors: &mut Vec<ConfigError>) {
        for given in givens {
            let Some((name, key)) = model_of(given) else { continue };
            if !is_model_alias(name) {
                let path = format!("models.{name}");
                if !errors.iter().any(|error| error.key == path) {
                    let allowed = "named in letters, digits, hyphens, underscores, dots and \
                        colons, at most 64"
                        .to_owned();
                    let problem = Problem::Refused { allowed };
                    errors.push(ConfigError::at(given.origin.clone(), path, problem));
                }
                continue;
            }
            if key.is_empty() && !given.raw.is_table() {
                errors.push(not_a_table(given));
                continue;
            }
            self.origins.entry(format!("models.{name}")).or_insert_with(|| given.origin.clone());
            self.models.entry(name.to_owned()).or_default();
        }
    }

    /// Writes one value to its field.
    pub(super) fn apply(&mut self, given: &Given) -> Result<(), ConfigError> {
        if let Some((name, key)) = provider_of(&given.key) {
            let is_declared = self.providers.contains_key(name);
            if !is_declared || key.is_empty() || key == KIND.name {
                return Ok(()); // `declare_providers` has taken it, or has said what is wrong.
            }
        }
        if let Some((name, key)) = model_of(given)
            && (key.is_empty() || !self.models.contains_key(name))
        {
            return Ok(()); // So has `declare_models`.
        }

        let entry = self.entries_mut().into_iter().find(|entry| entry.path == given.key);
        let Some(Entry { key, field, .. }) = entry else {
            return Err(self.unknown(given));
        };
        if !field.set(&given.raw, &key.rule) {
            let allowed = key.rule.allowed(&given.raw, field.is_optional());
            let problem = Problem::Refused { allowed };
            let hides = key.rule.hides(&given.raw);
            return Err(if hides {
                ConfigError::hiding(given, problem)
            } else {
                ConfigError::of(given, problem)
            });
        }
        self.origins.insert(given.key.clone(), given.origin.clone());
        Ok(())
    }

    fn unknown(&self, given: &Given) -> ConfigError {
        let entries = self.entries();
        let mut names = BTreeSet::from(["providers", "models"]);
        for entry in &entries {
            names.extend(entry.path.rsplit_once('.').map(|(section, _)| section));
        }
        if names.contains(given.key.as_str()) {
            return not_a_table(given);
        }
        names.extend(entries.iter().map(|entry| entry.path.as_str()));
        let nearest = match provider_of(&given.key) {
            // Somebody wants to write a key into the file: `keys` says how that is done.
            Some((name, key)) if self.is_remote(name) && is_secret(key) => {
                Some(format!("providers.{name}.keys"))
            }
            _ => nearest(&given.key, names).map(str::to_owned),
        };
        ConfigError::at(given.origin.clone(), given.key.as_str(), Problem::Unknown { nearest })
    }

    fn is_remote(&self, name: &str) -> bool {
        self.providers.get(name).is_some_and(|provider| provider.remote().is_some())
    }

    /// Replaces "auto" by the standard path, and checks that a socket can be where it shall be.
    pub(super) fn resolve_socket_path(&mut self, places: &Places, errors: &mut Vec<ConfigError>) {
        const KEY: &str = "ipc.socket_path";
        let resolved = if self.ipc.socket_path == Path::new(AUTO) {
            places.socket().map(|place| {
                self.ipc.socket_path = place.path;
                self.notes.extend(place.note);
            })
        } else {
            check_socket_path(&self.ipc.socket_path)
        };
        let error = |error| ConfigError::at(self.origin(KEY), KEY, Problem::Socket(error));
        errors.extend(resolved.map_err(error).err());
    }

    /// Replaces "auto" by the only provider, and checks that there is such a provider.
    pub(super) fn resolve_default_provider(&mut self, errors: &mut Vec<ConfigError>) {
        const KEY: &str = "default_provider";
        // A provider that is itself in error may be the one that is meant.
        if errors.iter().any(|error| error.key.starts_with("providers")) {
            return;
        }
        let names: Vec<&str> = self.providers.keys().map(String::as_str).collect();
        let problem = match (self.default_provider.as_str(), names.as_slice()) {
            (AUTO, [only]) => {
                self.default_provider = (*only).to_owned();
                return;
            }
            (AUTO, _) => Problem::Missing { allowed: format!("one of {}", names.join(", ")) },
            (name, _) if names.contains(&name) => return,
            (name, _) => {
                let hint = nearest(name, names.iter().copied());
                let hint = hint.map_or_else(String::new, |name| format!(", did you mean {name}?"));
                Problem::Conflict { reason: format!("there is no provider {name}{hint}") }
            }
        };
        errors.push(ConfigError::at(self.origin(KEY), KEY, problem));
    }

    /// Checks what must agree, where both sides are right by themselves.
    pub(super) fn compare(&self, errors: &mut Vec<ConfigError>) {
        let mut disagree = |key: &str, other: &str, reason: String| {
            if !errors.iter().any(|error| error.key == key || error.key == other) {
                let reason = format!("{reason} ({})", self.origin(other));
                errors.push(ConfigError::at(self.origin(key), key, Problem::Conflict { reason }));
            }
        };

        let count = self.shards.count;
        let cores_count = self.shards.cores.as_ref().map(Vec::len);
        if cores_count.is_some_and(|cores_count| cores_count != count as usize) {
            let cores_count = cores_count.unwrap_or_default();
            let reason = format!("lists {cores_count} cores, but shards.count = {count}");
            disagree("shards.cores", "shards.count", reason);
        }
        if self.metrics.export_path.is_some() && !self.metrics.enable {
            let reason = "nothing would be written, because metrics.enable = false".to_owned();
            disagree("metrics.export_path", "metrics.enable", reason);
        }
    }
}

/// Splits `providers.NAME.KEY`; the key is empty for the table itself.
fn provider_of(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("providers.")?;
    Some(path.split_once('.').unwrap_or((path, "")))
}

/// Splits `models.NAME.KEY` at the last dot, because the name may have some; the key is empty for
/// the table itself.
fn model_of(given: &Given) -> Option<(&str, &str)> {
    let path = given.key.strip_prefix("models.")?;
    if given.raw.is_table() {
        return Some((path, ""));
    }
    Some(path.rsplit_once('.').unwrap_or((path, "")))
}

fn not_a_table(given: &Given) -> ConfigError {
    let problem = Problem::Refused { allowed: format!("a table, [{}]", given.key) };
    // `providers.openai = "…"` may well be a key.
    if given.raw.is_text() {
        ConfigError::hiding(given, problem)
    } else {
        ConfigError::of(given, problem)
    }
}

/// What is wrong with a kind that does not exist, or not in this program.
fn refused_kind(given: &Given) -> Problem {
    let name = given.raw.text().unwrap_or_default();
    if let Some(feature) = ProviderKind::missing_feature(name) {
        return left_out(feature);
    }
    let hint = nearest(name, ProviderKind::documented_names());
    let hint = hint.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
    Problem::Refused { allowed: format!("{}{hint}", KIND.rule.allowed(&given.raw, false)) }
}

fn left_out(feature: &str) -> Problem {
    let reason = format!(
        "this program was built without it: build it with `cargo build --features {feature}`, or take \
         another kind"
    );
    Problem::Conflict { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::tests::{file, nothing};
    use crate::config::{KeySource, Origin, Sources};

    fn load(text: &str) -> Result<Config, String> {
        let sources = Sources { file: file(text), ..nothing() };
        Config::load(&sources).map_err(|errors| errors.to_string())
    }

    fn overridden(overrides: &[(&str, &str)]) -> Result<Config, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let sources = Sources { overrides: overrides.iter().map(own).collect(), ..nothing() };
        Config::load(&sources).map_err(|errors| errors.to_string())
    }

    #[test]
    fn provider_named_like_its_kind_needs_no_kind() {
        let config = load("[providers.loopback]\n").unwrap();
        assert_eq!(config.default_provider, "loopback");
        let config = overridden(&[("providers.loopback.chunk_size", "3")]).unwrap();
        let ProviderKind::Loopback(loopback) = &config.providers["loopback"].kind else { panic!() };
        assert_eq!(loopback.chunk_size, 3);
    }

    #[test]
    fn provider_without_a_kind_is_told_at_its_table() {
        let error = load("\n[providers.fast]\nchunk_size = 1\n").unwrap_err();
        let start = "config.toml:2: providers.fast.kind: missing, must be one of \"";
        assert!(error.starts_with(start) && error.contains("\"loopback\""), "{error}");
    }

    #[test]
    fn unknown_kind_is_told_with_those_allowed_and_the_nearest() {
        let error = load("[providers.fast]\nkind = \"opnai\"\nmodel = \"m\"\n").unwrap_err();
        let start = "config.toml:2: providers.fast.kind = \"opnai\": must be one of \"";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with("; did you mean \"openai\"?"), "{error}");
    }

    #[cfg(not(feature = "bedrock"))]
    #[test]
    fn kind_that_was_left_out_of_the_program_says_how_to_get_it() {
        for text in ["[providers.bedrock]\n", "[providers.aws]\nkind = \"bedrock\"\n"] {
            let error = load(text).unwrap_err();
            assert!(error.contains("cargo build --features bedrock"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn provider_on_the_network_has_the_keys_and_defaults_of_its_kind() {
        let config = load("[providers.openai]\nweight = 3\n").unwrap();
        assert_eq!(config.default_provider, "openai");
        let (row, remote) = config.providers["openai"].remote().unwrap();
        assert_eq!((row.kind, remote.weight), ("openai", 3));
        assert_eq!(remote.base_urls, ["https://api.openai.com/v1"]);
        assert_eq!(remote.keys, [KeySource::Environment("OPENAI_API_KEY".to_owned())]);
        let error = load("[providers.openai]\nchunk_size = 3\n").unwrap_err();
        assert_eq!(error, "config.toml:2: providers.openai.chunk_size: unknown setting");
    }

    #[test]
    fn key_among_the_settings_is_told_where_to_go_and_stays_hidden() {
        for name in ["api_key", "key", "token", "client_secret"] {
            let error = load(&format!("[providers.openai]\n{name} = \"sk-123\"\n")).unwrap_err();
            assert_eq!(
                error,
                format!(
                    "config.toml:2: providers.openai.{name}: unknown setting, \
                     did you mean providers.openai.keys?"
                )
            );
        }
        for text in ["[providers]\nopenai = \"sk-123\"\n", "[providers]\nopenai = [\"sk-123\"]\n"] {
            let error = load(text).unwrap_err();
            assert!(
                error.contains("(redacted): must be a table") && !error.contains("sk-"),
                "{error}"
            );
        }
    }

    #[test]
    fn model_has_a_name_of_its_own_and_a_route() {
        let text = "[providers.loopback]\n[models.\"gpt-4.1\"]\nroute = [\"loopback/x\"]\n\
                    [models.fast]\nroute = [\"loopback/a/b\", \"loopback/y\"]\n";
        let config = load(text).unwrap();
        assert_eq!(config.models["gpt-4.1"].routes().next(), Some(("loopback", "x")));
        assert_eq!(config.models["fast"].routes().next(), Some(("loopback", "a/b")));
        assert_eq!(
            config.origin("models.gpt-4.1.route"),
            Origin::File { path: "config.toml".into(), line: 3 }
        );
        let config = overridden(&[("models.gpt-4.1.route", "loopback/z")]).unwrap();
        assert_eq!(config.models["gpt-4.1"].route, ["loopback/z"]);
    }

    #[test]
    fn model_in_error_is_told_once() {
        for (text, expected) in [
            ("[models.fast]\n", "config.toml:1: models.fast.route: missing, must be a list of"),
            ("[models.fast]\nroute = []\n", "config.toml:2: models.fast.route: missing, must be"),
            (
                "[models.fast]\nroute = [\"x\"]\n",
                "config.toml:2: models.fast.route = [\"x\"]: must be",
            ),
            ("[models]\nfast = 3\n", "config.toml:2: models.fast = 3: must be a table"),
            ("[models.\"a b\"]\nroute = []\n", "config.toml:1: models.a b: must be named in"),
            (
                "[models.fast]\nroute = [\"loopback/x\"]\nroot = 1\n",
                "config.toml:3: models.fast.root: unknown setting, did you mean models.fast.route?",
            ),
            (
                "[models.fast]\nroute = [\"lopback/x\"]\n",
                "config.toml:2: models.fast.route: there is no provider lopback, did you mean loopback?",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn key_of_no_kind_is_unknown_and_its_value_stays_hidden() {
        assert_eq!(
            load("[providers.loopback]\nchunk_sise = \"sk-123\"\napi_key = \"sk-123\"\n")
                .unwrap_err(),
            "config.toml:2: providers.loopback.chunk_sise: unknown setting, \
             did you mean providers.loopback.chunk_size?\n\
             config.toml:3: providers.loopback.api_key: unknown setting"
        );
    }

    #[test]
    fn name_of_a_provider_has_no_capitals_or_underscores() {
        for name in ["My", "my_own", "1st", "auto", &"x".repeat(33)] {
            let error = load(&format!("[providers.{name}]\nkind = \"loopback\"\n")).unwrap_err();
            let expected = format!("config.toml:1: providers.{name}: must be named in lower-case");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn provider_that_is_no_table_is_refused() {
        assert_eq!(
            overridden(&[("providers.loopback", "3")]).unwrap_err(),
            "command line: providers.loopback = 3: must be a table, [providers.loopback]"
        );
    }

    #[test]
    fn right_key_in_the_wrong_section_is_suggested() {
        assert_eq!(
            overridden(&[("metrics.max_connections", "3")]).unwrap_err(),
            "command line: metrics.max_connections: unknown setting, did you mean ipc.max_connections?"
        );
    }

    #[test]
    fn default_provider_is_needed_as_soon_as_there_are_two() {
        let two = "[providers.a]\nkind = \"loopback\"\n[providers.b]\nkind = \"loopback\"\n";
        assert_eq!(
            load(two).unwrap_err(),
            "default: default_provider: missing, must be one of a, b"
        );
        let config = load(&format!("default_provider = \"b\"\n{two}")).unwrap();
        assert_eq!(config.default_provider, "b");
    }

    #[test]
    fn default_provider_must_exist() {
        assert_eq!(
            overridden(&[("default_provider", "lopback")]).unwrap_err(),
            "command line: default_provider: there is no provider lopback, did you mean loopback?"
        );
    }

    #[test]
    fn cores_must_be_as_many_as_shards() {
        assert_eq!(
            load("[shards]\ncores = [0, 1]\n").unwrap_err(),
            "config.toml:2: shards.cores: lists 2 cores, but shards.count = 1 (default)"
        );
        assert!(load("[shards]\ncount = 2\ncores = [0, 1]\n").is_ok());
    }

    #[test]
    fn values_in_error_are_not_compared() {
        let error = load("[shards]\ncount = 65\ncores = [0, 1]\n").unwrap_err();
        assert_eq!(error, "config.toml:2: shards.count = 65: must be 1 to 64");
    }

    #[test]
    fn export_path_needs_metrics() {
        assert_eq!(
            load("[metrics]\nenable = false\nexport_path = \"/m\"\n").unwrap_err(),
            "config.toml:3: metrics.export_path: nothing would be written, \
             because metrics.enable = false (config.toml:2)"
        );
    }

    #[test]
    fn stronger_source_can_take_an_optional_value_away() {
        let sources = Sources {
            file: file("[shards]\ncores = [0]\n"),
            overrides: vec![("shards.cores".to_owned(), "none".to_owned())],
            ..nothing()
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.shards.cores, None);
        assert_eq!(config.origin("shards.cores"), Origin::Flag);
    }

    #[test]
    fn long_socket_path_is_refused() {
        let long = format!("/{}", "x".repeat(107));
        assert_eq!(
            overridden(&[("ipc.socket_path", &long)]).unwrap_err(),
            format!(
                "command line: ipc.socket_path: the socket path {long} has 108 bytes, \
                 a Unix socket allows 107"
            )
        );
    }

    #[test]
    fn standard_socket_path_matters_only_when_it_is_used() {
        let mut sources = nothing();
        sources.places.runtime_dir = None;
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.starts_with("default: ipc.socket_path: no private place"), "{error}");

        sources.overrides = vec![("ipc.socket_path".to_owned(), "/s".to_owned())];
        assert!(Config::load(&sources).is_ok());
    }

    #[test]
    fn unusual_standard_path_comes_with_a_note() {
        let mut sources = nothing();
        sources.places.runtime_dir = None;
        sources.places.home = Some("/home/ada".into());
        let config = Config::load(&sources).unwrap();
        assert!(config.notes()[0].contains("/home/ada/.local/state/annulus/run/annulus.sock"));
    }
}
