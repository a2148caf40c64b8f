//! `annulus providers`: which there are, whether each could answer, and which models it has.
//!
//! Keys are looked for and never shown: only where they are, and what is wrong with them.

use annulus::config::{Config, ProviderConfig, ProviderKind, RemoteConfig};
use annulus::dialect::{ROWS, Row};
use annulus::provider::key::{KeyProblem, KeySource, Keys};
use serde::Serialize;

use self::check::Checked;
use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

mod check;

/// Look after the providers of AI answers
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the configured providers: endpoints, where their keys are, models. Starts no program
    List {
        /// List every kind that can be configured instead
        #[arg(long)]
        all: bool,
    },

    /// Read the keys of each provider, ask it, and say what is wrong; ends with 1 if something is
    Check {
        /// This one only
        name: Option<String>,
    },

    /// List the models of a provider
    Models {
        /// The provider, as the configuration names it
        name: String,
    },
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.action {
        Action::List { all: true } => list_kinds(session),
        Action::List { all: false } => list(session, &session.client_config()?),
        Action::Check { name } => check(session, &session.client_config()?, name.as_deref()),
        Action::Models { name } => models(session, &session.client_config()?, name),
    }
}

/// A kind that can be configured.
#[derive(Debug, Serialize)]
struct Kind {
    kind: &'static str,
    /// None for a provider that is part of the daemon.
    dialect: Option<&'static str>,
    /// Empty: the configuration has to say.
    base_url: &'static str,
    key_variables: &'static [&'static str],
    needs_key: bool,
}

fn list_kinds(session: &Session) -> Result<Exit, Failure> {
    let kind = |kind: &'static str| match Row::of(kind) {
        Some(row) => Kind {
            kind,
            dialect: Some(row.dialect.name()),
            base_url: row.base_url,
            key_variables: row.key_variables,
            needs_key: row.needs_key,
        },
        None => Kind { kind, dialect: None, base_url: "", key_variables: &[], needs_key: false },
    };
    let kinds: Vec<Kind> = ProviderKind::names().into_iter().map(kind).collect();
    if session.output.json {
        #[derive(Serialize)]
        struct Body {
            kinds: Vec<Kind>,
        }
        session.output.object("annulus.providers_kinds/1", Body { kinds })?;
        return Ok(Exit::Ok);
    }
    let width = ROWS.iter().map(|row| row.kind.len()).max().unwrap_or(0).max("loopback".len());
    for kind in &kinds {
        let name = session.output.paint.bold(&format!("{:<width$}", kind.kind));
        let dialect = kind.dialect.unwrap_or("-");
        let place = match (kind.dialect, kind.base_url) {
            (None, _) => "part of the daemon, needs nothing",
            (_, "") => "wherever base_urls says",
            (_, url) => url,
        };
        let line = format!("{name}  {dialect:<9}  {place}  {}", kind.key_variables.join(" "));
        session.output.line(line.trim_end())?;
    }
    Ok(Exit::Ok)
}

/// A configured provider.
#[derive(Debug, Serialize)]
struct Listed<'c> {
    name: &'c str,
    is_default: bool,
    kind: &'static str,
    dialect: Option<&'static str>,
    endpoints: &'c [String],
    needs_key: bool,
    keys: Vec<ListedKey>,
    models: &'c [String],
    default_model: Option<&'c str>,
}

/// Where a key is, or is not.
#[derive(Debug, Serialize)]
struct ListedKey {
    source: String,
    /// `found`, `missing`, `unset` where nothing is missing without it, or `not_read` where a
    /// program would have to run.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl<'c> Listed<'c> {
    fn of(config: &'c Config, name: &'c str, provider: &'c ProviderConfig) -> Self {
        let is_default = name == config.default_provider;
        let listed = Self {
            name,
            is_default,
            kind: provider.kind.name(),
            dialect: None,
            endpoints: &[],
            needs_key: false,
            keys: Vec::new(),
            models: &[],
            default_model: None,
        };
        let Some((row, remote)) = provider.remote() else { return listed };
        Self {
            dialect: Some(row.dialect.name()),
            endpoints: &remote.base_urls,
            needs_key: row.needs_key,
            keys: ListedKey::all(row, remote),
            models: &remote.models,
            default_model: remote.default_model.as_deref(),
            ..listed
        }
    }

    fn lines(&self) -> Vec<String> {
        let dialect = self.dialect.map_or_else(String::new, |name| format!(", dialect {name}"));
        let mut lines = vec![format!("  kind      {}{dialect}", self.kind)];
        lines.extend(self.endpoints.iter().map(|url| format!("  endpoint  {url}")));
        for key in &self.keys {
            let source = &key.source;
            let state = match (key.state, &key.problem) {
                (_, Some(problem)) => problem.clone(),
                ("not_read", None) => format!("{source}: not read here, but by `check`"),
                ("unset", None) => format!("{source}: not set, and not needed"),
                (state, None) => format!("{source}: {state}"),
            };
            lines.push(format!("  key       {state}"));
        }
        if !self.models.is_empty() {
            lines.push(format!("  models    {}", self.models.join(", ")));
        }
        lines.extend(self.default_model.map(|model| format!("  default   {model}")));
        lines
    }
}

impl ListedKey {
    /// Looks for keys without starting a program.
    fn all(row: &Row, remote: &RemoteConfig) -> Vec<Self> {
        let read = |source: &KeySource| {
            let read = || source.read().map_err(|error| (error.to_string(), error.problem));
            (!source.runs_a_program()).then(read)
        };
        let read: Vec<_> = remote.keys.iter().map(|source| (source, read(source))).collect();
        // The same rule as that of `Keys::read`.
        let is_found = read.iter().any(|(_, key)| matches!(key, Some(Ok(_))));
        let may_be_unset = remote.has_customary_keys(row) && (is_found || !row.needs_key);
        let listed = |(source, key): (&KeySource, _)| {
            let (state, problem) = match key {
                None => ("not_read", None),
                Some(Ok(_)) => ("found", None),
                Some(Err((_, KeyProblem::NotSet))) if may_be_unset => ("unset", None),
                Some(Err((text, _))) => ("missing", Some(text)),
            };
            Self { source: source.to_string(), state, problem }
        };
        read.into_iter().map(listed).collect()
    }
}

fn list(session: &Session, config: &Config) -> Result<Exit, Failure> {
    let providers: Vec<Listed<'_>> =
        config.providers.iter().map(|(name, of)| Listed::of(config, name, of)).collect();
    if session.output.json {
        #[derive(Serialize)]
        struct Body<'c> {
            providers: Vec<Listed<'c>>,
        }
        session.output.object("annulus.providers_list/1", Body { providers })?;
        return Ok(Exit::Ok);
    }
    for provider in &providers {
        let default = if provider.is_default { " (default)" } else { "" };
        session.output.line(&format!("{}{default}", session.output.paint.bold(provider.name)))?;
        for line in provider.lines() {
            session.output.line(&line)?;
        }
    }
    Ok(Exit::Ok)
}

fn check(session: &Session, config: &Config, name: Option<&str>) -> Result<Exit, Failure> {
    let chosen = match name {
        Some(name) => vec![find(config, name)?],
        None => config.providers.iter().map(|(name, of)| (name.as_str(), of)).collect(),
    };
    let checked: Vec<Checked<'_>> = chosen
        .into_iter()
        .map(|(name, provider)| Checked::of(&config.upstream, name, provider))
        .collect();
    let ok = checked.iter().all(|provider| provider.ok);
    if session.output.json {
        #[derive(Serialize)]
        struct Body<'c> {
            ok: bool,
            providers: Vec<Checked<'c>>,
        }
        session.output.object("annulus.providers_check/1", Body { ok, providers: checked })?;
    } else {
        for provider in &checked {
            for line in provider.lines(session.output.paint) {
                session.output.line(&line)?;
            }
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::Failed })
}

fn models(session: &Session, config: &Config, name: &str) -> Result<Exit, Failure> {
    let (name, provider) = find(config, name)?;
    let Some((row, remote)) = provider.remote() else {
        let kind = provider.kind.name();
        return Err(Failure::new(Exit::Failed, format!("{name} is a {kind}: it has no models"))
            .advise("it answers to every name"));
    };
    let keys = Keys::read(row, remote);
    if let Some(error) = keys.missing.first().filter(|_| row.needs_key && keys.found.is_empty()) {
        return Err(Failure::new(Exit::Failed, format!("{name}: {error}")));
    }
    let failed = |problem: &str| Failure::new(Exit::Failed, format!("{name}: {problem}"));
    let (models, source) = match check::models(row, remote, &config.upstream, &keys) {
        Ok(Some(models)) => (models, "provider"),
        Ok(None) => (remote.models.clone(), "configuration"),
        Err(problem) => return Err(failed(&problem)),
    };
    if models.is_empty() && source == "configuration" {
        let kind = row.kind;
        let what = format!("{name}: a {kind} lists no models, and the configuration names none");
        return Err(Failure::new(Exit::Failed, what).advise("list them under its key models"));
    }
    if session.output.json {
        #[derive(Serialize)]
        struct Body<'c> {
            name: &'c str,
            /// Who says so: `provider` or `configuration`.
            source: &'static str,
            models: Vec<String>,
        }
        session.output.object("annulus.providers_models/1", Body { name, source, models })?;
    } else {
        for model in models {
            session.output.line(&model)?;
        }
    }
    Ok(Exit::Ok)
}

fn find<'c>(config: &'c Config, name: &str) -> Result<(&'c str, &'c ProviderConfig), Failure> {
    let found = config.providers.get_key_value(name);
    found.map(|(name, provider)| (name.as_str(), provider)).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no provider {name}"))
            .advise("`annulus providers list` names them")
    })
}
