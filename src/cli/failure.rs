//! Why a command ends early, told so that the reader knows what to do.
//!
//! One line on standard error, or with `--json` one object there. Never a prompt, an answer or a
//! key: errors are pasted into bug reports.

use std::fmt::Display;
use std::io::{self, Write as _};

use annulus::IpcError;
use annulus::bench::BenchError;
use annulus::config::{ConfigError, ConfigErrors, Origin};
use annulus::wire::Status;
use serde::Serialize;

use super::exit::Exit;
use super::output::Tagged;

/// The schema of a failure in JSON.
const SCHEMA: &str = "annulus.error/1";

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// What went wrong, where, and what to do; several for a configuration. Empty exactly when
    /// nobody is left to be told.
    complaints: Vec<Complaint>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct Complaint {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
    #[serde(flatten)]
    mistake: Option<Mistake>,
}

/// A mistake in the configuration, taken apart for tools.
#[derive(Debug, Serialize)]
pub(crate) struct Mistake {
    /// What kind of source the mistake is in: `file`, `environment`, `flag` or `default`.
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variable: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    problem: String,
}

impl Failure {
    /// A failure with a message that says what and where.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let complaint = Complaint { message: message.into(), advice: None, mistake: None };
        Self { exit, complaints: vec![complaint] }
    }

    /// Adds what to do about it.
    pub(crate) fn advise(mut self, advice: &'static str) -> Self {
        for complaint in &mut self.complaints {
            complaint.advice = Some(advice);
        }
        self
    }

    /// An end without a word, because it was said already or there is nobody to hear it.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, complaints: Vec::new() }
    }

    /// A failed operation of the system: `.map_err(Failure::io("read", path.display()))`.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        object: impl Display,
    ) -> impl FnOnce(E) -> Self {
        move |error| {
            Self::new(Exit::Failed, format!("cannot {operation} {object}: {}", error.into()))
        }
    }

    /// What follows from a failed write to standard output: when the reader went away, as `head`
    /// does, there is nothing left to do and nothing wrong.
    pub(crate) fn of_stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Ok),
            _ => Self::io("write", "standard output")(error),
        }
    }

    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells the user, on standard error.
    pub(crate) fn tell(&self, json: bool) {
        if self.complaints.is_empty() {
            return;
        }
        let text = if json { self.to_json() + "\n" } else { self.to_text() };
        // Nobody can be told that nobody can be told.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn to_text(&self) -> String {
        let line = |complaint: &Complaint| match complaint.advice {
            Some(advice) => format!("annulus: {}: {advice}\n", complaint.message),
            None => format!("annulus: {}\n", complaint.message),
        };
        self.complaints.iter().map(line).collect()
    }

    fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'f> {
            kind: &'static str,
            exit_code: u8,
            errors: &'f [Complaint],
        }
        let (kind, exit_code) = (self.exit.name(), self.exit.code());
        Tagged::new(SCHEMA, Body { kind, exit_code, errors: &self.complaints }).to_line()
    }
}

impl Mistake {
    /// Takes an error of the configuration apart.
    pub(crate) fn of(error: &ConfigError) -> Self {
        let (source, file, line, variable) = match &error.origin {
            Origin::Default => ("default", None, None, None),
            Origin::File { path, line } => {
                let line = (*line > 0).then_some(*line);
                ("file", Some(path.display().to_string()), line, None)
            }
            Origin::Environment { variable } => ("environment", None, None, Some(variable.clone())),
            Origin::Flag => ("flag", None, None, None),
        };
        let problem = error.problem.to_string();
        Self { source, file, line, variable, key: error.key.clone(), problem }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        let complaint = |error: &ConfigError| Complaint {
            message: error.to_string(),
            advice: None,
            mistake: Some(Mistake::of(error)),
        };
        Self { exit: Exit::Usage, complaints: errors.0.iter().map(complaint).collect() }
    }
}

impl From<IpcError> for Failure {
    fn from(error: IpcError) -> Self {
        let failure = Self::new(Exit::of_ipc_error(&error), error.to_string());
        match advice_on(&error) {
            Some(advice) => failure.advise(advice),
            None => failure,
        }
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            // What the client met is told by its own exit code.
            BenchError::Subject(source) => match source.downcast::<IpcError>() {
                Ok(error) => Self::from(*error),
                Err(source) => Self::new(Exit::Failed, format!("the benchmark failed: {source}")),
            },
            other => Self::new(Exit::Failed, format!("the benchmark failed: {other}")),
        }
    }
}

/// What to do about `error`, where its own text does not say so.
fn advice_on(error: &IpcError) -> Option<&'static str> {
    Some(match error {
        IpcError::Refused { status, .. } => match status {
            Status::NotAuthorized => "only the user who started the daemon may connect",
            Status::Busy => "try again, or raise ipc.max_connections",
            Status::VersionUnsupported => "restart the daemon, it is of another version",
            _ => "the daemon's log says more, `annulus serve -v`",
        },
        IpcError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "only the user who started the daemon may connect"
        }
        IpcError::Timeout => "allow more with --timeout",
        IpcError::ShuttingDown => "try again when it has been restarted",
        IpcError::ConnectionLost { .. } => "the daemon's log says more, `annulus serve -v`",
        IpcError::UnknownMessageType => "built-in types are listed by `annulus call --help`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_what_to_do() {
        let failure = Failure::from(IpcError::Timeout);
        let text = failure.to_text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("annulus: ") && text.ends_with("allow more with --timeout\n"));
    }

    #[test]
    fn a_failure_in_json_names_schema_kind_and_code() {
        let line = Failure::from(IpcError::NotRunning { socket_path: "/s".into() }).to_json();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!((&value["kind"], &value["exit_code"]), (&"no_daemon".into(), &3.into()));
        let message = value["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("/s") && message.contains("annulus serve"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::of_stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit(), Exit::Ok);
        assert!(failure.complaints.is_empty());
        assert_eq!(Failure::of_stdout(io::ErrorKind::StorageFull.into()).exit(), Exit::Failed);
    }

    #[test]
    fn an_error_of_the_client_keeps_its_code_through_the_benchmark() {
        let wrapped = BenchError::Subject(Box::new(IpcError::Timeout));
        assert_eq!(Failure::from(wrapped).exit(), Exit::Timeout);
    }
}
