//! What every subcommand starts from: the global options and the configuration behind them.

use std::path::{self, PathBuf};

use annulus::config::{Config, FILE_VARIABLE, Sources};
use annulus::paths::Places;
use clap::{ArgAction, ColorChoice};

use super::exit::Exit;
use super::failure::Failure;
use super::output::Output;

/// The key that `--socket` is short for.
const SOCKET_KEY: &str = "ipc.socket_path";

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The configuration file [env: ANNULUS_CONFIG] [default: annulus/config.toml in
    /// $XDG_CONFIG_HOME]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The daemon's socket; short for --set ipc.socket_path=PATH
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Set a key of the configuration; repeatable, the last one counts
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,

    /// Write JSON, one object per line, each with a "schema"; errors too, on stderr
    #[arg(long, global = true)]
    json: bool,

    /// When to colour; NO_COLOR is heeded
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,

    /// Say more on stderr; -vv for all that was built in [env: RUST_LOG]
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// One run of the program: what the user wants, and how to tell them.
#[derive(Debug)]
pub(crate) struct Session {
    globals: Globals,
    /// Where results and notes go.
    pub(crate) output: Output,
}

impl Session {
    pub(crate) fn new(globals: Globals) -> Self {
        let output = Output::new(globals.json, globals.color);
        Self { globals, output }
    }

    /// How often `-v` was given.
    pub(crate) fn verbosity(&self) -> u8 {
        self.globals.verbose
    }

    /// Everything that the configuration is made from.
    ///
    /// # Errors
    ///
    /// The file or a variable cannot be read.
    pub(crate) fn sources(&self) -> Result<Sources, Failure> {
        let mut overrides = self.globals.settings.clone();
        if let Some(socket) = &self.globals.socket {
            overrides.push((SOCKET_KEY.to_owned(), absolute(socket)?));
        }
        Ok(Sources::of_process(self.globals.config.as_deref(), overrides)?)
    }

    /// The configuration.
    ///
    /// # Errors
    ///
    /// Every mistake in it.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.sources()?)?)
    }

    /// The configuration for a client: its notes matter only to somebody who looks for the socket.
    ///
    /// # Errors
    ///
    /// As [`config`](Self::config).
    pub(crate) fn client_config(&self) -> Result<Config, Failure> {
        let config = self.config()?;
        if self.verbosity() > 0 {
            self.note_all(&config);
        }
        Ok(config)
    }

    /// Tells what is unusual about `config`.
    pub(crate) fn note_all(&self, config: &Config) {
        for note in config.notes() {
            self.output.note(&format!("note: {note}"));
        }
    }

    /// The configuration file that this run reads, whether it exists or not.
    ///
    /// # Errors
    ///
    /// Nothing says where it would be.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        let named = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
        let chosen = self.globals.config.clone().or_else(|| named.map(PathBuf::from));
        chosen.or_else(|| Places::of_process().config_file()).ok_or_else(|| {
            Failure::new(Exit::Usage, "no place for the configuration: HOME is not set")
                .advise("name a file with --config")
        })
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, like ipc.max_connections=5".to_owned()),
    }
}

/// A relative path on the command line is meant from where the user stands.
fn absolute(socket: &path::Path) -> Result<String, Failure> {
    let path = path::absolute(socket).map_err(Failure::io("resolve", socket.display()))?;
    path.into_os_string().into_string().map_err(|path| {
        Failure::new(Exit::Usage, format!("--socket {}: not valid UTF-8", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_keeps_what_follows_the_first_equals_sign() {
        assert_eq!(parse_setting("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert_eq!(parse_setting("a.b="), Ok(("a.b".to_owned(), String::new())));
        assert!(parse_setting("a.b").is_err());
        assert!(parse_setting("=c").is_err());
    }

    #[test]
    fn a_relative_socket_is_made_absolute() {
        let path = absolute(path::Path::new("x.sock")).unwrap();
        assert!(path.starts_with('/') && path.ends_with("/x.sock"));
    }
}
