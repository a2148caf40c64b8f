//! Keys: read from where the configuration says they are, and never shown.
//!
//! The invariant to remember: **no error, no `Debug` and no log here contains a byte of a key**, or
//! of what a file or a program gave in place of one.

mod command;
mod redact;

pub use self::redact::{REDACTED, Redactor};
pub use crate::config::KeySource;

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use self::command::CommandError;
use crate::config::RemoteConfig;
use crate::dialect::Row;

/// The largest key, in bytes. The longest that providers give are tokens of some 4 KiB.
pub const KEY_SIZE_MAX: usize = 16 << 10;

/// How long a program may take to give a key.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(10);

/// The program that asks the desktop's keyring (libsecret).
const SECRET_TOOL: &str = "secret-tool";

/// Where systemd puts the credentials of a unit (`systemd.exec(5)`).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A key that cannot be had: from where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_text}: {problem}")]
pub struct KeyError {
    /// The source, without the arguments of a command.
    pub source_text: String,
    /// Why it gives no key.
    pub problem: KeyProblem,
}

/// Why a source gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// No such variable.
    #[error("the variable is not set: set it where the daemon starts, or take another source")]
    NotSet,
    /// Nothing but blanks.
    #[error("it is empty: put the key there")]
    Empty,
    /// Bytes that are no UTF-8, or that may not be in a header.
    #[error(
        "what it holds is no key: a key is one line of printable ASCII characters without blanks"
    )]
    Malformed,
    /// More than [`KEY_SIZE_MAX`].
    #[error("what it holds is longer than {KEY_SIZE_MAX} bytes, which no key is")]
    TooLarge,
    /// The system says no.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The system's word on it.
        reason: String,
    },
    /// A directory, a pipe or a device.
    #[error("it is no regular file: name the file that holds the key")]
    NotAFile,
    /// Somebody else's file.
    #[error("it belongs to another user, who could change it: make it yours, `chown $USER FILE`")]
    NotOurs,
    /// A file for more eyes than ours.
    #[error("other users can reach it (mode {mode:03o}): make it yours alone, `chmod 600 FILE`")]
    Exposed {
        /// Its permissions.
        mode: u32,
    },
    /// The daemon was not started by a unit with credentials.
    #[error(
        "${CREDENTIALS_VARIABLE} is not set: start the daemon from a systemd unit that has \
         LoadCredential= or LoadCredentialEncrypted="
    )]
    NoCredentials,
    /// `secret-tool` is not there.
    #[error(
        "{SECRET_TOOL} is not installed: install libsecret-tools (Debian, Ubuntu) or libsecret \
         (Fedora, Arch), or take another source"
    )]
    NoSecretTool,
    /// The keyring does not know it.
    #[error(
        "the keyring has no such entry, or is locked: store it with `{SECRET_TOOL} store \
         --label=Annulus service SERVICE username USER`"
    )]
    NotInKeyring,
    /// A program that does not exist.
    #[error("there is no such program: check its name and PATH")]
    NoProgram,
    /// A program that failed.
    #[error("the program ended with {outcome}: run it by hand to see why")]
    ProgramFailed {
        /// Its exit code or signal.
        outcome: String,
    },
    /// A program that did not come to an end.
    #[error(
        "the program gave no key within {} seconds: it may wait for input, which it does not get",
        COMMAND_TIME_MAX.as_secs()
    )]
    ProgramTooSlow,
}

impl KeySource {
    /// Reads the key. Blocks, for 10 seconds at most: not for an executor's thread.
    ///
    /// # Errors
    ///
    /// [`KeyError`], which says what to do and holds nothing of what was read.
    pub fn read(&self) -> Result<SecretString, KeyError> {
        self.read_in(&Surroundings::of_process())
    }

    /// Whether reading starts a program, which may take time or ask the user something.
    #[must_use]
    pub const fn runs_a_program(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Keyring { .. })
    }

    fn read_in(&self, surroundings: &Surroundings) -> Result<SecretString, KeyError> {
        let bytes = match self {
            Self::Environment(name) => surroundings.variable(name),
            Self::File(path) => read_file(path, true),
            Self::Credential(name) => match &surroundings.credentials {
                Some(directory) => read_file(&directory.join(name), false),
                None => Err(KeyProblem::NoCredentials),
            },
            Self::Keyring { service, user } => surroundings.ask_keyring(service, user),
            Self::Command(words) => run(words, surroundings.time_max),
        };
        bytes
            .and_then(|bytes| key_of(&bytes))
            .map_err(|problem| KeyError { source_text: self.to_string(), problem })
    }
}

/// What a provider's sources gave.
#[derive(Debug, Default)]
pub struct Keys {
    /// The keys, each with the place where it is.
    pub found: Vec<(KeySource, SecretString)>,
    /// The sources that gave none. It is not empty when a key is needed and none was found.
    pub missing: Vec<KeyError>,
}

impl Keys {
    /// Reads the keys of a provider. Blocks.
    ///
    /// Of a kind's customary variables the first that is set is enough, and none is where the kind
    /// needs no key; each source that somebody configured has to give one.
    #[must_use]
    pub fn read(row: &Row, config: &RemoteConfig) -> Self {
        Self::read_in(row, config, &Surroundings::of_process())
    }

    fn read_in(row: &Row, config: &RemoteConfig, surroundings: &Surroundings) -> Self {
        let mut keys = Self::default();
        let is_customary = config.has_customary_keys(row);
        for source in &config.keys {
            match source.read_in(surroundings) {
                Ok(key) => keys.found.push((source.clone(), key)),
                Err(error) => keys.missing.push(error),
            }
            if is_customary && !keys.found.is_empty() {
                break;
            }
        }
        if is_customary {
            // A variable that is set and no key is a mistake, whatever the others are.
            let may_be_unset = !keys.found.is_empty() || !row.needs_key;
            keys.missing.retain(|error| !may_be_unset || error.problem != KeyProblem::NotSet);
        }
        keys
    }
}

/// What reading depends on beside the source, so that tests can say it.
struct Surroundings {
    variable: fn(&str) -> Option<OsString>,
    credentials: Option<PathBuf>,
    secret_tool: PathBuf,
    time_max: Duration,
}

impl Surroundings {
    fn of_process() -> Self {
        Self {
            variable: |name| env::var_os(name),
            credentials: env::var_os(CREDENTIALS_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            secret_tool: SECRET_TOOL.into(),
            time_max: COMMAND_TIME_MAX,
        }
    }

    fn variable(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
        let value = (self.variable)(name).ok_or(KeyProblem::NotSet)?;
        let bytes = Zeroizing::new(value.into_encoded_bytes());
        if bytes.len() > KEY_SIZE_MAX { Err(KeyProblem::TooLarge) } else { Ok(bytes) }
    }

    fn ask_keyring(&self, service: &str, user: &str) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
        let program = self.secret_tool.to_string_lossy();
        let words = [&*program, "lookup", "service", service, "username", user];
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        match run(&words, self.time_max) {
            Err(KeyProblem::NoProgram) => Err(KeyProblem::NoSecretTool),
            // It tells an entry that is not there, and a keyring that stays locked, in no other way.
            Err(KeyProblem::ProgramFailed { .. }) => Err(KeyProblem::NotInKeyring),
            Ok(bytes) if bytes.is_empty() => Err(KeyProblem::NotInKeyring),
            other => other,
        }
    }
}

/// The key in what a source gave.
fn key_of(bytes: &[u8]) -> Result<SecretString, KeyProblem> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err(KeyProblem::Empty);
    }
    // Also no blank: whatever is told as a key goes into a header as it is.
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(u8::is_ascii_graphic) => Ok(SecretString::from(text)),
        _ => Err(KeyProblem::Malformed),
    }
}

/// Reads a file. Only one that is ours alone will do, unless systemd looks after it.
fn read_file(path: &Path, is_private: bool) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
    let unreadable = |error: io::Error| KeyProblem::Unreadable { reason: error.to_string() };
    // Not to be held up by a pipe without a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()))?;
    // The open file is judged and not its path, which may by now lead elsewhere.
    let status = rustix::fs::fstat(&file).map_err(|errno| unreadable(errno.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(KeyProblem::NotAFile);
    }
    if is_private {
        if status.st_uid != rustix::process::geteuid().as_raw() {
            return Err(KeyProblem::NotOurs);
        }
        if status.st_mode & 0o077 != 0 {
            return Err(KeyProblem::Exposed { mode: status.st_mode & 0o777 });
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_SIZE_MAX + 1));
    File::from(file).take(KEY_SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > KEY_SIZE_MAX { Err(KeyProblem::TooLarge) } else { Ok(bytes) }
}

/// The first line of a program's output.
fn run(words: &[String], time_max: Duration) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
    command::first_line(words, KEY_SIZE_MAX, time_max).map_err(|error| match error {
        CommandError::NotFound => KeyProblem::NoProgram,
        CommandError::Io(error) => KeyProblem::Unreadable { reason: error.to_string() },
        CommandError::Failed(outcome) => KeyProblem::ProgramFailed { outcome },
        CommandError::TooLarge => KeyProblem::TooLarge,
        CommandError::TooSlow => KeyProblem::ProgramTooSlow,
    })
}

#[cfg(test)]
mod tests;
