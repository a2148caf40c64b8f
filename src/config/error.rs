//! What is wrong with a configuration, said so that the reader can mend it without a manual.
//!
//! Loading never stops at the first error: the user mends a file once, not once for each mistake.

use std::fmt;
use std::path::PathBuf;

use super::raw::Given;
use crate::paths::PathError;

/// What takes the place of a secret in everything that people may read.
pub(super) const REDACTED: &str = "(redacted)";

/// Where a value comes from, in rising precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1; 0 stands for the whole file.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag on the command line.
    Flag,
}

/// One mistake: where it is, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{problem}", self.subject())]
pub struct ConfigError {
    /// Where the mistake is.
    pub origin: Origin,
    /// The key in its dotted form, `ipc.max_connections`; empty when the mistake is in no single
    /// key.
    pub key: String,
    /// The value as it was written, shortened; redacted when the key is named like a secret, and
    /// left out when the key is unknown, because it may be a secret in the wrong place.
    pub found: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// The kinds of mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is not TOML.
    #[error("column {column}: {message}")]
    Syntax {
        /// The column in characters, from 1.
        column: usize,
        /// What the TOML parser expected.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The system's word on it.
        reason: String,
    },
    /// A variable of the environment that is not text.
    #[error("not valid UTF-8")]
    NotText,
    /// There is no such key, or its provider's kind does not have it.
    #[error("unknown setting{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The name that was probably meant.
        nearest: Option<String>,
    },
    /// The value is of the wrong type or out of its range.
    #[error("must be {allowed}")]
    Refused {
        /// What would be right.
        allowed: String,
    },
    /// A key without a default has no value.
    #[error("missing, must be {allowed}")]
    Missing {
        /// What would be right.
        allowed: String,
    },
    /// Two values are right by themselves and wrong together.
    #[error("{reason}")]
    Conflict {
        /// How they disagree.
        reason: String,
    },
    /// No socket can be there.
    #[error(transparent)]
    Socket(#[from] PathError),
}

/// Everything that is wrong, in order of precedence and line. Displayed with one error on each
/// line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigError {
    /// A mistake in a value that may be a secret in the wrong place.
    pub(super) fn hiding(given: &Given, problem: Problem) -> Self {
        let found = Some(REDACTED.to_owned());
        Self { origin: given.origin.clone(), key: given.key.clone(), found, problem }
    }

    /// A mistake in the value that somebody wrote.
    pub(super) fn of(given: &Given, problem: Problem) -> Self {
        let secret = is_secret(&given.key);
        let found = if secret { REDACTED } else { &given.raw.shown };
        Self {
            origin: given.origin.clone(),
            key: given.key.clone(),
            found: Some(found.to_owned()),
            problem,
        }
    }

    /// A mistake that is not in a value, or not in one alone.
    pub(super) fn at(origin: Origin, key: impl Into<String>, problem: Problem) -> Self {
        let key = key.into();
        Self { origin, key, found: None, problem }
    }

    fn subject(&self) -> String {
        match &self.found {
            Some(found) => format!("{} = {found}: ", self.key),
            None if self.key.is_empty() => String::new(),
            None => format!("{}: ", self.key),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line: 0 } => write!(formatter, "{}", path.display()),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment { variable } => formatter.write_str(variable),
            Self::Flag => formatter.write_str("command line"),
        }
    }
}

/// Whether the value of a key named like this is kept out of errors and of `config show`.
pub(super) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["key", "token", "secret", "password"]
        .into_iter()
        .any(|word| name.rsplit('_').next() == Some(word))
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::Raw;

    fn given(key: &str, value: &str) -> Given {
        Given { key: key.to_owned(), raw: Raw::untyped(value), origin: Origin::Flag }
    }

    #[test]
    fn secrets_are_known_by_their_last_word() {
        for key in ["providers.x.api_key", "token", "a.client_secret", "a.b.password"] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["providers.x.api_key_file", "ipc.max_connections", "a.monkey", "token.x"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn value_of_a_secret_is_not_repeated() {
        let allowed = "shorter".to_owned();
        let error = ConfigError::of(&given("a.api_key", "sk-123"), Problem::Refused { allowed });
        assert_eq!(error.to_string(), "command line: a.api_key = (redacted): must be shorter");
    }

    #[test]
    fn value_of_another_key_is() {
        let allowed = "shorter".to_owned();
        let error = ConfigError::of(&given("a.name", "Ada"), Problem::Refused { allowed });
        assert_eq!(error.to_string(), "command line: a.name = Ada: must be shorter");
    }

    #[test]
    fn variable_that_is_not_text_is_named() {
        let origin = Origin::Environment { variable: "ANNULUS_IPC_X".to_owned() };
        let error = ConfigError::at(origin, "", Problem::NotText);
        assert_eq!(error.to_string(), "ANNULUS_IPC_X: not valid UTF-8");
    }

    #[test]
    fn origins_rise_in_precedence() {
        let file = |line| Origin::File { path: "f".into(), line };
        let environment = Origin::Environment { variable: "V".to_owned() };
        let rising = [Origin::Default, file(1), file(2), environment, Origin::Flag];
        assert!(rising.is_sorted());
    }
}
