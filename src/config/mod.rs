//! The configuration: flags over environment over file over defaults.
//!
//! Every value remembers where it comes from ([`Origin`]), so that `annulus config show` can tell;
//! and all mistakes are reported together ([`ConfigErrors`]). The keys themselves are in `schema`
//! and `remote`, each described once.

mod document;
mod environment;
mod error;
mod key_source;
mod merge;
mod nearest;
mod raw;
mod remote;
mod resolve;
mod schema;
mod sources;
mod template;
mod text;
mod value;

use std::collections::BTreeMap;

pub use self::error::{ConfigError, ConfigErrors, Origin, Problem};
pub use self::key_source::KeySource;
pub use self::remote::{CacheConfig, ModelConfig, Proxy, RemoteConfig, UpstreamConfig};
pub use self::schema::{
    IpcConfig, LoopbackConfig, MetricsConfig, ProviderConfig, ProviderKind, ShardsConfig,
};
pub use self::sources::{FILE_VARIABLE, Sources};

use self::error::{REDACTED, is_secret};
use self::schema::{DEFAULT_PROVIDER, Fields, FieldsMut};
use self::value::{AUTO, Field, Key};

/// A configuration that has passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The provider for requests that name none; a key of [`Config::providers`].
    pub default_provider: String,
    /// `[ipc]`. Its `socket_path` is the real one.
    pub ipc: IpcConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[shards]`.
    pub shards: ShardsConfig,
    /// `[upstream]`.
    pub upstream: UpstreamConfig,
    /// `[cache]`.
    pub cache: CacheConfig,
    /// `[providers.NAME]` by name; never empty.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// `[models.NAME]` by name; every provider that a route names exists.
    pub models: BTreeMap<String, ModelConfig>,
    /// Where values come from, by dotted key; a default has no entry.
    origins: BTreeMap<String, Origin>,
    notes: Vec<String>,
}

/// One line of `annulus config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The dotted key.
    pub key: String,
    /// The value in TOML, or a word in its place when it is a secret.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

impl Row {
    /// The section as the head of its table in TOML, without brackets; empty for the root.
    pub fn section(&self) -> String {
        let Some((section, _)) = self.key.rsplit_once('.') else { return String::new() };
        match section.strip_prefix("models.") {
            // The name of a model may have dots, `gpt-4.1`, which would be further tables.
            Some(name) if name.contains(['.', ':']) => format!("models.\"{name}\""),
            _ => section.to_owned(),
        }
    }
}

/// A key in its place: its dotted form, its description and its value.
struct Entry<F> {
    path: String,
    key: &'static Key,
    field: F,
}

impl Config {
    /// Puts the sources together and checks the result.
    ///
    /// # Errors
    ///
    /// Every mistake in every source, also in values that a stronger source replaces: a file that
    /// is wrong should not be right by chance. Values are compared with each other only when they
    /// are right by themselves.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut config = Self::defaults();
        let keys: Vec<String> = config.entries().into_iter().map(|entry| entry.path).collect();
        let mut errors = Vec::new();

        let givens = sources.givens(&keys, &mut errors);
        // What a file in error holds is unknown, so nothing can be said about how values join.
        let complete = errors.iter().all(|error| !matches!(error.problem, Problem::Syntax { .. }));
        if complete {
            config.declare_providers(&givens, &mut errors);
            config.declare_models(&givens, &mut errors);
        }
        for given in &givens {
            errors.extend(config.apply(given).err());
        }
        if complete {
            config.resolve_socket_path(&sources.places, &mut errors);
            config.resolve_default_provider(&mut errors);
            config.compare(&mut errors);
            config.resolve_remotes(&mut errors);
            config.check_names_of_providers(&mut errors);
        }

        if errors.is_empty() {
            return Ok(config);
        }
        errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(ConfigErrors(errors))
    }

    /// Returns every key with its value and where that comes from, in the order of the template.
    pub fn explain(&self) -> Vec<Row> {
        let row = |entry: Entry<&dyn Field>| {
            let secret = is_secret(&entry.path);
            let value = if secret { REDACTED.to_owned() } else { entry.field.text() };
            let origin = self.origin(&entry.path);
            Row { key: entry.path, value, origin }
        };
        self.entries().into_iter().map(row).collect()
    }

    /// Returns where the value of a dotted key comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Returns what the user should be told although nothing is wrong, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns a configuration file in which every key is explained and commented out with its
    /// default. It is the same on every machine.
    pub fn template() -> String {
        template::template()
    }

    /// The defaults before anything is resolved: no provider, and "auto" for what depends on
    /// others.
    fn defaults() -> Self {
        Self {
            default_provider: AUTO.to_owned(),
            ipc: IpcConfig::default(),
            metrics: MetricsConfig::default(),
            shards: ShardsConfig::default(),
            upstream: UpstreamConfig::default(),
            cache: CacheConfig::default(),
            providers: BTreeMap::new(),
            models: BTreeMap::new(),
            origins: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    fn entries(&self) -> Vec<Entry<&dyn Field>> {
        let root: Fields<'_> = vec![(&DEFAULT_PROVIDER, &self.default_provider)];
        let mut entries = entries_in("", root);
        entries.extend(entries_in("ipc.", self.ipc.fields()));
        entries.extend(entries_in("metrics.", self.metrics.fields()));
        entries.extend(entries_in("shards.", self.shards.fields()));
        entries.extend(entries_in("upstream.", self.upstream.fields()));
        entries.extend(entries_in("cache.", self.cache.fields()));
        for (name, provider) in &self.providers {
            entries.extend(entries_in(&format!("providers.{name}."), provider.fields()));
        }
        for (name, model) in &self.models {
            entries.extend(entries_in(&format!("models.{name}."), model.fields()));
        }
        entries
    }

    /// The same to be written, without the kinds of providers: `declare_providers` sets those.
    fn entries_mut(&mut self) -> Vec<Entry<&mut dyn Field>> {
        let root: FieldsMut<'_> = vec![(&DEFAULT_PROVIDER, &mut self.default_provider)];
        let mut entries = entries_in("", root);
        entries.extend(entries_in("ipc.", self.ipc.fields_mut()));
        entries.extend(entries_in("metrics.", self.metrics.fields_mut()));
        entries.extend(entries_in("shards.", self.shards.fields_mut()));
        entries.extend(entries_in("upstream.", self.upstream.fields_mut()));
        entries.extend(entries_in("cache.", self.cache.fields_mut()));
        for (name, provider) in &mut self.providers {
            entries.extend(entries_in(&format!("providers.{name}."), provider.fields_mut()));
        }
        for (name, model) in &mut self.models {
            entries.extend(entries_in(&format!("models.{name}."), model.fields_mut()));
        }
        entries
    }
}

fn entries_in<F>(prefix: &str, fields: Vec<(&'static Key, F)>) -> Vec<Entry<F>> {
    let entry = |(key, field): (&'static Key, F)| {
        let path = format!("{prefix}{}", key.name);
        Entry { path, key, field }
    };
    fields.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::tests::{file, nothing};

    #[test]
    fn without_any_source_the_defaults_hold() {
        let config = Config::load(&nothing()).unwrap();
        assert_eq!(config.ipc.socket_path.to_str(), Some("/run/user/7/annulus/annulus.sock"));
        assert_eq!(config.ipc.max_connections, 1_000);
        assert_eq!(config.metrics, MetricsConfig::default());
        assert_eq!(config.shards, ShardsConfig::default());
        assert_eq!(config.default_provider, "loopback");
        let kind = ProviderKind::Loopback(LoopbackConfig::default());
        assert_eq!(config.providers["loopback"], ProviderConfig { kind });
        assert_eq!(config.notes(), &[] as &[String]);
    }

    #[test]
    fn stronger_source_wins_and_is_remembered() {
        let key = "ipc.max_connections";
        let mut sources = nothing();
        assert_eq!(Config::load(&sources).unwrap().origin(key), Origin::Default);

        sources.file = file("[ipc]\nmax_connections = 1\n");
        let config = Config::load(&sources).unwrap();
        let origin = Origin::File { path: "config.toml".into(), line: 2 };
        assert_eq!((config.ipc.max_connections, config.origin(key)), (1, origin));

        let variable = "ANNULUS_IPC_MAX_CONNECTIONS".to_owned();
        sources.environment = vec![(variable.clone(), "2".to_owned())];
        let config = Config::load(&sources).unwrap();
        let origin = Origin::Environment { variable };
        assert_eq!((config.ipc.max_connections, config.origin(key)), (2, origin));

        sources.overrides =
            vec![(key.to_owned(), "3".to_owned()), (key.to_owned(), "4".to_owned())];
        let config = Config::load(&sources).unwrap();
        assert_eq!((config.ipc.max_connections, config.origin(key)), (4, Origin::Flag));
    }

    #[test]
    fn every_type_is_read_from_every_source() {
        let typed = "default_provider = \"fast\"\n\
            [ipc]\nsocket_path = \"/s\"\nidle_timeout_secs = 1_0\n\
            [metrics]\nenable = true\nexport_path = \"/m\"\n\
            [shards]\ncount = 2\ncores = [4, 5]\n\
            [providers.fast]\nkind = \"loopback\"\nfail_after_chunks = 3\n";
        let mut from_file = nothing();
        from_file.file = file(typed);
        let expected = Config::load(&from_file).unwrap();
        assert_eq!(expected.shards.cores, Some(vec![4, 5]));

        let untyped = [
            ("default_provider", "fast"),
            ("ipc.socket_path", "/s"),
            ("ipc.idle_timeout_secs", "10"),
            ("metrics.enable", "1"),
            ("metrics.export_path", "/m"),
            ("shards.count", "2"),
            ("shards.cores", "4,5"),
            ("providers.fast.kind", "loopback"),
            ("providers.fast.fail_after_chunks", "3"),
        ];
        let values = |config: &Config| -> Vec<(String, String)> {
            config.explain().into_iter().map(|row| (row.key, row.value)).collect()
        };

        let mut from_flags = nothing();
        from_flags.overrides = untyped.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        assert_eq!(values(&Config::load(&from_flags).unwrap()), values(&expected));

        let mut from_environment = nothing();
        from_environment.environment = untyped
            .map(|(key, value)| {
                let variable = format!("ANNULUS_{}", key.replace('.', "_").to_ascii_uppercase());
                (variable, value.to_owned())
            })
            .to_vec();
        assert_eq!(values(&Config::load(&from_environment).unwrap()), values(&expected));
    }

    #[test]
    fn explanation_names_value_and_origin() {
        let mut sources = nothing();
        sources.file = file("[shards]\nspin_us = 7\n");
        let rows = Config::load(&sources).unwrap().explain();
        let line = |key: &str| {
            let row = rows.iter().find(|row| row.key == key).unwrap();
            format!("{} = {} ({})", row.key, row.value, row.origin)
        };
        assert_eq!(line("shards.spin_us"), "shards.spin_us = 7 (config.toml:2)");
        assert_eq!(line("shards.cores"), "shards.cores = \"none\" (default)");
        assert_eq!(line("default_provider"), "default_provider = \"loopback\" (default)");
        assert_eq!(
            line("providers.loopback.chunk_size"),
            "providers.loopback.chunk_size = 16 (default)"
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once_in_their_order() {
        let mut sources = nothing();
        sources.file =
            file("[ipc]\nmax_connections = 0\nmax_conections = 5\n[shards]\ncores = 3\n");
        sources.environment = vec![("ANNULUS_METRICS_ENABEL".to_owned(), "1".to_owned())];
        sources.overrides = vec![("shards.spin_us".to_owned(), "many".to_owned())];
        let errors = Config::load(&sources).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "config.toml:2: ipc.max_connections = 0: must be 1 to 10000\n\
             config.toml:3: ipc.max_conections: unknown setting, did you mean ipc.max_connections?\n\
             config.toml:5: shards.cores = 3: must be a list of different core numbers below 1024, \
             like [0, 1], or \"none\"\n\
             ANNULUS_METRICS_ENABEL: unknown setting, did you mean ANNULUS_METRICS_ENABLE?\n\
             command line: shards.spin_us = many: must be a whole number, 0 to 10000 microseconds"
        );
    }
}
