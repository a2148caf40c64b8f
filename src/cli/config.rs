//! `annulus config`: writes a configuration file, checks it, and tells where each value comes from.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use annulus::config::{Config, ConfigErrors, Origin, Row, Sources};
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Mistake};
use super::session::Session;

/// Look after the configuration file
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write a file in which every key is explained and commented out
    Init {
        /// Replace the file if there is one
        #[arg(long)]
        force: bool,

        /// Write it to standard output instead
        #[arg(long, conflicts_with = "force")]
        stdout: bool,
    },

    /// Check the file, the environment and the flags, and list every mistake
    Check,

    /// Print every key with its value and where that comes from; secrets stay hidden
    Show,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    match arguments.action {
        Action::Init { stdout: true, .. } => {
            session.output.raw(Config::template().as_bytes())?;
            Ok(Exit::Ok)
        }
        Action::Init { force, .. } => init(session, force),
        Action::Check => check(session),
        Action::Show => show(session),
    }
}

fn init(session: &Session, force: bool) -> Result<Exit, Failure> {
    let path = session.config_file()?;
    if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(Failure::io("create", directory.display()))?;
    }
    write_new(&path, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failed, format!("{} exists already", path.display()))
                .advise("edit it, or replace it with --force")
        }
        _ => Failure::io("write", path.display())(error),
    })?;

    if session.output.json {
        #[derive(Serialize)]
        struct Body {
            path: String,
        }
        session
            .output
            .object("annulus.config_init/1", Body { path: path.display().to_string() })?;
    } else {
        session.output.line(&format!("wrote {}", path.display()))?;
    }
    Ok(Exit::Ok)
}

/// Writes the template; the file may get keys later, so nobody else can read it from the start.
fn write_new(path: &Path, force: bool) -> io::Result<()> {
    if force {
        // A fresh file rather than a truncated one: a crash leaves the old or the new, and the mode
        // is ours.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let _ = fs::remove_file(&fresh);
        write_new(Path::new(&fresh), false)?;
        return fs::rename(&fresh, path);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(Config::template().as_bytes())?;
    file.sync_all()
}

fn check(session: &Session) -> Result<Exit, Failure> {
    let sources = session.sources()?;
    let file = sources.file.as_ref().map(|(path, _)| path.display().to_string());
    let loaded = Config::load(&sources);
    if session.output.json {
        return check_in_json(session, file, &loaded);
    }
    let config = loaded?;
    match file {
        Some(path) => session.output.line(&format!("ok: {path}"))?,
        None => session.output.line("ok: there is no configuration file, the defaults hold")?,
    }
    session.note_all(&config);
    Ok(Exit::Ok)
}

/// The mistakes are what was asked for, so they go to standard output.
fn check_in_json(
    session: &Session,
    file: Option<String>,
    loaded: &Result<Config, ConfigErrors>,
) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Body<'c> {
        ok: bool,
        file: Option<String>,
        notes: &'c [String],
        errors: Vec<Mistake>,
    }
    let (notes, errors) = match loaded {
        Ok(config) => (config.notes(), Vec::new()),
        Err(errors) => (&[] as &[String], errors.0.iter().map(Mistake::of).collect()),
    };
    let ok = errors.is_empty();
    session.output.object("annulus.config_check/1", Body { ok, file, notes, errors })?;
    Ok(if ok { Exit::Ok } else { Exit::Usage })
}

fn show(session: &Session) -> Result<Exit, Failure> {
    let sources: Sources = session.sources()?;
    let config = Config::load(&sources)?;
    let rows = config.explain();
    if session.output.json {
        #[derive(Serialize)]
        struct Body {
            settings: Vec<Setting>,
        }
        let settings = rows.iter().map(Setting::of).collect();
        session.output.object("annulus.config_show/1", Body { settings })?;
    } else {
        session.output.raw(toml_of(session, &rows).as_bytes())?;
        session.note_all(&config);
    }
    Ok(Exit::Ok)
}

/// The rows as a file that means the same, the origins as comments.
fn toml_of(session: &Session, rows: &[Row]) -> String {
    let paint = session.output.paint;
    let name = |row: &Row| row.key.rsplit('.').next().unwrap_or_default().to_owned();
    let assignment = |row: &Row| format!("{} = {}", name(row), row.value);
    let width = rows.iter().map(|row| assignment(row).chars().count()).max().unwrap_or(0);

    let mut text = String::new();
    let mut last_section = String::new();
    for row in rows {
        let section = row.section();
        if section != last_section {
            text += &format!("\n{}\n", paint.bold(&format!("[{section}]")));
            last_section = section;
        }
        let origin = paint.dim(&format!("# {}", row.origin));
        text += &format!("{:<width$}  {origin}\n", assignment(row));
    }
    text
}

/// A row for tools: the value as JSON has it.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: serde_json::Value,
    origin: Source,
}

#[derive(Debug, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
enum Source {
    Default,
    File { path: String, line: usize },
    Environment { variable: String },
    Flag,
}

impl Setting {
    fn of(row: &Row) -> Self {
        // Every value is TOML, except the word in place of a secret, which is text already.
        let parsed = toml::from_str::<serde_json::Value>(&format!("value = {}", row.value));
        let value = match parsed {
            Ok(mut table) => table["value"].take(),
            Err(_) => row.value.clone().into(),
        };
        let origin = match &row.origin {
            Origin::Default => Source::Default,
            Origin::File { path, line } => {
                Source::File { path: path.display().to_string(), line: *line }
            }
            Origin::Environment { variable } => Source::Environment { variable: variable.clone() },
            Origin::Flag => Source::Flag,
        };
        Self { key: row.key.clone(), value, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_type_of_their_value() {
        let row = |value: &str| Row {
            key: "k".to_owned(),
            value: value.to_owned(),
            origin: Origin::Default,
        };
        for (toml, json) in [
            ("5", serde_json::json!(5)),
            ("true", serde_json::json!(true)),
            ("\"text\"", serde_json::json!("text")),
            ("[0, 1]", serde_json::json!([0, 1])),
            ("(redacted)", serde_json::json!("(redacted)")),
        ] {
            assert_eq!(Setting::of(&row(toml)).value, json);
        }
    }

    #[test]
    fn a_file_is_replaced_only_by_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        write_new(&path, false).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(write_new(&path, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        write_new(&path, true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), Config::template());
    }
}
