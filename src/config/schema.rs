//! Keys, each with its name, type, default, range and meaning, said once: here the root's, those of
//! `[ipc]`, `[metrics]`, `[shards]` and the loopback; all others are in `remote`.
//!
//! [`section!`] turns a struct with defaults and rules into the plain struct that the daemon reads
//! and into the list of its fields, over which everything else loops: parsing, the environment,
//! errors, the template and `config show`. A key is added by adding a field to its section.

use std::path::PathBuf;
use std::time::Duration;

use super::raw::Raw;
use super::remote::RemoteConfig;
use super::value::{AUTO, Field, Key, Rule, Value};
use crate::dialect::{ROWS, Row};
use crate::limits::{
    CONNECTIONS_MAX_DEFAULT, MESSAGE_SIZE_MAX_CEILING, MESSAGE_SIZE_MAX_DEFAULT,
    MESSAGE_SIZE_MAX_FLOOR,
};

/// A year: long enough for anybody, and far from where adding it to a clock could overflow.
pub(super) const SECS_MAX: u64 = 31_536_000;

/// For numbers that mean nothing in particular when they are large.
pub(super) const U32_MAX: u64 = u32::MAX as u64;

/// Values of `ipc.max_message_size`.
const MESSAGE_SIZE: Rule =
    Rule::Range(MESSAGE_SIZE_MAX_FLOOR as u64, MESSAGE_SIZE_MAX_CEILING as u64, "bytes");

/// The root's only key of its own; it stays a field of `Config`, for the reader's sake.
pub(super) const DEFAULT_PROVIDER: Key = Key {
    name: "default_provider",
    rule: Rule::ProviderName,
    help: &[
        " Answers the requests that name no provider.",
        " \"auto\" is the only one configured.",
    ],
};

/// The key that selects the other keys of a provider.
pub(super) const KIND: Key = Key {
    name: "kind",
    rule: Rule::Kind,
    help: &[" What answers. May be left out when the provider is named like its kind."],
};

/// The keys of a section and their fields.
pub(super) type Fields<'a> = Vec<(&'static Key, &'a dyn Field)>;
/// The same, to be written.
pub(super) type FieldsMut<'a> = Vec<(&'static Key, &'a mut dyn Field)>;

/// Declares a section: `field: Type = default, rule;` under a doc comment, which is the key's help.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $section:ident {
            $( $(#[doc = $help:literal])+ $field:ident: $type:ty = $default:expr, $rule:expr; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $section {
            $( $(#[doc = $help])+ pub $field: $type, )+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $section {
            const KEYS: &'static [Key] = &[
                $( Key { name: stringify!($field), rule: $rule, help: &[$($help),+] }, )+
            ];

            pub(super) fn fields(&self) -> Fields<'_> {
                let fields: [&dyn Field; _] = [$( &self.$field, )+];
                Self::KEYS.iter().zip(fields).collect()
            }

            pub(super) fn fields_mut(&mut self) -> FieldsMut<'_> {
                let fields: [&mut dyn Field; _] = [$( &mut self.$field, )+];
                Self::KEYS.iter().zip(fields).collect()
            }
        }
    };
}
pub(super) use section;

section! {
    /// `[ipc]`: the socket, and what its connections may use.
    ///
    /// The default `socket_path` is the word `auto`; `Config::load` puts the real path in its
    /// place.
    pub struct IpcConfig {
        /// Where clients connect. "auto" is annulus/annulus.sock in $XDG_RUNTIME_DIR.
        socket_path: PathBuf = AUTO.into(), Rule::SocketPath;

        /// Connections served at once; a further one is refused at its handshake.
        max_connections: u32 = CONNECTIONS_MAX_DEFAULT, Rule::Range(1, 10_000, "");

        /// A connection that stays quiet for so long is closed; 0 keeps it forever.
        idle_timeout_secs: u64 = 300, Rule::Range(0, SECS_MAX, "seconds");

        /// The largest request or reply chunk.
        max_message_size: u32 = MESSAGE_SIZE_MAX_DEFAULT, MESSAGE_SIZE;

        /// Buffers of each shard for payloads that outlive their frame, up to 1 MiB; four for
        /// larger ones come on top.
        buffer_pool_size: u32 = 100, Rule::Range(8, 4_096, "buffers");

        /// A client that has not finished its handshake by then is turned away.
        handshake_timeout_ms: u32 = 1_000, Rule::Range(10, 60_000, "milliseconds");

        /// How long a stopping daemon lets running requests finish.
        shutdown_timeout_secs: u64 = 5, Rule::Range(0, 300, "seconds");

        /// Deadline of a request that has none of its own and is handled asynchronously;
        /// 0 sets none.
        request_timeout_secs: u64 = 0, Rule::Range(0, SECS_MAX, "seconds");
    }
}

section! {
    /// `[metrics]`: what the daemon counts, and where that can be read.
    pub struct MetricsConfig {
        /// Whether the file of export_path is written.
        enable: bool = true, Rule::Switch;

        /// How often the file of export_path is written.
        export_interval_secs: u64 = 60, Rule::Range(1, 86_400, "seconds");

        /// A file that the daemon rewrites in the Prometheus text format.
        export_path: Option<PathBuf> = None, Rule::File;
    }
}

section! {
    /// `[shards]`: the threads that serve the rings.
    pub struct ShardsConfig {
        /// How many there are.
        count: u32 = 1, Rule::Range(1, 64, "");

        /// The core of each; without it the system places them.
        cores: Option<Vec<u32>> = None, Rule::Cores;

        /// How long a connection that has become quiet is still polled before it is parked.
        spin_us: u32 = 50, Rule::Range(0, 10_000, "microseconds");

        /// Whether a shard with nothing to do waits on the core of the one client that it serves,
        /// which wakes it there several times faster. Its own cores are for work.
        follow_client: bool = true, Rule::Switch;
    }
}

section! {
    /// A provider that streams an answer made from the prompt, without a network and without a key.
    pub struct LoopbackConfig {
        /// Pace of the answer, in chunks each second; 0 is as fast as possible.
        chunks_per_second: u32 = 0, Rule::Range(0, U32_MAX, "");

        /// Text of the answer in each chunk.
        chunk_size: u32 = 16, Rule::Range(1, 65_536, "bytes");

        /// Breaks the answer off after so many chunks, to try out what clients do then.
        fail_after_chunks: Option<u32> = None, Rule::Range(0, U32_MAX, "");
    }
}

/// `[providers.NAME]`: one source of answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// What answers, with the settings of that kind.
    pub kind: ProviderKind,
}

/// The kinds of provider. Each has its own keys; the keys of another kind are refused.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ProviderKind {
    /// `kind = "loopback"`: needs nothing.
    Loopback(LoopbackConfig),
    /// A provider on the network, by its row in [`ROWS`].
    Remote(&'static Row, Box<RemoteConfig>),
}

impl IpcConfig {
    /// How long a connection may stay quiet; `None` is forever.
    pub fn idle_timeout(&self) -> Option<Duration> {
        (self.idle_timeout_secs > 0).then(|| Duration::from_secs(self.idle_timeout_secs))
    }

    /// The deadline of a request that has none of its own; `None` sets none.
    pub fn request_timeout(&self) -> Option<Duration> {
        (self.request_timeout_secs > 0).then(|| Duration::from_secs(self.request_timeout_secs))
    }
}

impl ProviderConfig {
    pub(super) fn fields(&self) -> Fields<'_> {
        let mut fields: Fields<'_> = vec![(&KIND, &self.kind)];
        fields.extend(match &self.kind {
            ProviderKind::Loopback(config) => config.fields(),
            ProviderKind::Remote(_, config) => config.fields(),
        });
        fields
    }

    /// The fields except `kind`: writing that one would replace all the others.
    pub(super) fn fields_mut(&mut self) -> FieldsMut<'_> {
        match &mut self.kind {
            ProviderKind::Loopback(config) => config.fields_mut(),
            ProviderKind::Remote(_, config) => config.fields_mut(),
        }
    }

    /// The row and the settings of a provider on the network.
    pub fn remote(&self) -> Option<(&'static Row, &RemoteConfig)> {
        match &self.kind {
            ProviderKind::Remote(row, config) => Some((row, config)),
            ProviderKind::Loopback(_) => None,
        }
    }
}

impl ProviderKind {
    const LOOPBACK: &'static str = "loopback";

    /// Kinds that this program may have been built without, and the cargo feature that they need.
    const FEATURES: [(&'static str, &'static str); 1] = [("bedrock", "bedrock")];

    /// The kind of this name with its defaults.
    pub(super) fn named(name: &str) -> Option<Self> {
        if name == Self::LOOPBACK {
            return Some(Self::Loopback(LoopbackConfig::default()));
        }
        Row::of(name).map(|row| Self::Remote(row, Box::new(RemoteConfig::of(row))))
    }

    /// The name of the kind in the configuration file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loopback(_) => Self::LOOPBACK,
            Self::Remote(row, _) => row.kind,
        }
    }

    /// The cargo feature that a kind of this name needs and this program was built without.
    pub(super) fn missing_feature(name: &str) -> Option<&'static str> {
        let (_, feature) = Self::FEATURES.into_iter().find(|(kind, _)| *kind == name)?;
        Self::named(name).is_none().then_some(feature)
    }

    /// The names of all kinds that this program has.
    pub fn names() -> Vec<&'static str> {
        let mut names = vec![Self::LOOPBACK];
        names.extend(ROWS.iter().map(|row| row.kind));
        names
    }

    /// The names of all kinds, also of those that this program was built without: the documents are
    /// the same for every build.
    pub(super) fn documented_names() -> Vec<&'static str> {
        let mut names = Self::names();
        names.extend(Self::FEATURES.into_iter().map(|(kind, _)| kind));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The names of all keys that a provider of some kind can have.
    pub(super) fn key_names() -> Vec<&'static str> {
        let mut names: Vec<&str> = vec![KIND.name];
        for fields in [LoopbackConfig::default().fields(), RemoteConfig::default().fields()] {
            names.extend(fields.iter().map(|(key, _)| key.name));
        }
        names
    }
}

impl Value for ProviderKind {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        Self::named(&String::read(raw, rule)?)
    }

    fn text(&self) -> String {
        Value::text(&self.name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::remote::{CacheConfig, ModelConfig, UpstreamConfig};

    /// All sections with their defaults, those of every kind of provider included.
    fn each_field(mut check: impl FnMut(&Key, &mut dyn Field)) {
        let mut sections =
            (IpcConfig::default(), MetricsConfig::default(), ShardsConfig::default());
        let mut others =
            (UpstreamConfig::default(), CacheConfig::default(), ModelConfig::default());
        let names = ProviderKind::names().into_iter();
        let kinds = names.map(|name| ProviderKind::named(name).unwrap());
        let mut providers: Vec<_> = kinds.map(|kind| ProviderConfig { kind }).collect();
        let fields = [sections.0.fields_mut(), sections.1.fields_mut(), sections.2.fields_mut()];
        let other_fields = [others.0.fields_mut(), others.1.fields_mut(), others.2.fields_mut()];
        for (key, field) in fields.into_iter().chain(other_fields).flatten() {
            check(key, field);
        }
        for (key, field) in providers.iter_mut().flat_map(ProviderConfig::fields_mut) {
            check(key, field);
        }
    }

    #[test]
    fn every_default_keeps_its_own_rule() {
        each_field(|key, field| {
            let text = field.text();
            let bare = Raw::untyped(text.trim_matches('"'));
            assert!(field.set(&bare, &key.rule), "{} = {text}", key.name);
            assert_eq!(field.text(), text, "{}", key.name);
        });
    }

    #[test]
    fn every_key_says_what_it_means() {
        each_field(|key, _| assert!(key.help.concat().ends_with('.'), "{}", key.name));
    }

    #[test]
    fn every_kind_answers_to_its_name() {
        for name in ProviderKind::names() {
            assert_eq!(ProviderKind::named(name).unwrap().name(), name);
        }
        assert!(ProviderKind::named("no such kind").is_none());
    }

    #[test]
    fn zero_timeouts_are_none() {
        let mut ipc = IpcConfig::default();
        assert_eq!(ipc.idle_timeout(), Some(Duration::from_secs(300)));
        assert_eq!(ipc.request_timeout(), None);
        ipc.idle_timeout_secs = 0;
        ipc.request_timeout_secs = 2;
        assert_eq!(ipc.idle_timeout(), None);
        assert_eq!(ipc.request_timeout(), Some(Duration::from_secs(2)));
    }
}
