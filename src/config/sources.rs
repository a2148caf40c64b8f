//! Where values come from: the file, the environment and the command line, gathered and flattened.
//!
//! Loading works on a [`Sources`] value alone, so every test can say what the process would have
//! seen.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::document::file_givens;
use super::environment::{PREFIX, environment_key};
use super::error::{ConfigError, ConfigErrors, Origin, Problem};
use super::raw::{Given, Raw};
use crate::paths::Places;

/// The variable that names the configuration file. It is not a key.
pub const FILE_VARIABLE: &str = "ANNULUS_CONFIG";

/// A larger file is not a configuration; it may be a device that never ends.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// Everything that a configuration is made from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The configuration file and its text.
    pub file: Option<(PathBuf, String)>,
    /// Variables and their values. Those that do not belong to the configuration are passed over.
    pub environment: Vec<(String, String)>,
    /// Dotted keys and their values, from the command line; the last one for a key counts.
    pub overrides: Vec<(String, String)>,
    /// What the standard path of the socket is worked out from.
    pub places: Places,
}

impl Sources {
    /// Gathers what this process sees. The file is `explicit`, or the one that `ANNULUS_CONFIG`
    /// names, or the standard one, which alone may be missing.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a variable of ours is not text.
    pub fn of_process(
        explicit: Option<&Path>,
        overrides: Vec<(String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let places = Places::of_process();
        let mut errors = Vec::new();

        let named = env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
        let explicit = explicit.map(Path::to_owned).or_else(|| named.map(PathBuf::from));
        let file = read_file(explicit, places.config_file()).unwrap_or_else(|error| {
            errors.push(error);
            None
        });

        let environment = our_variables(env::vars_os(), &mut errors);

        if errors.is_empty() {
            Ok(Self { file, environment, overrides, places })
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Flattens the sources, the weakest first. `keys` are the dotted keys outside of providers.
    pub(super) fn givens(&self, keys: &[String], errors: &mut Vec<ConfigError>) -> Vec<Given> {
        let mut givens = match &self.file {
            Some((path, text)) => file_givens(path, text, keys, errors),
            None => Vec::new(),
        };
        for (variable, value) in &self.environment {
            let Some(key) = environment_key(variable, keys) else {
                continue;
            };
            let variable = variable.clone();
            let origin = Origin::Environment { variable };
            let raw = Raw::untyped(value);
            match key {
                Ok(key) => givens.push(Given { key, raw, origin }),
                Err(problem) => errors.push(ConfigError::at(origin, "", problem)),
            }
        }
        givens.extend(self.overrides.iter().map(|(key, value)| Given {
            key: key.clone(),
            raw: Raw::untyped(value),
            origin: Origin::Flag,
        }));
        givens
    }
}

/// Picks the variables that are named like ours.
fn our_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
    errors: &mut Vec<ConfigError>,
) -> Vec<(String, String)> {
    let mut ours = Vec::new();
    for (variable, value) in variables {
        let variable = variable.to_string_lossy().into_owned();
        if !variable.starts_with(PREFIX) || variable == FILE_VARIABLE {
            continue;
        }
        match value.into_string() {
            Ok(value) => ours.push((variable, value)),
            Err(_) => {
                let origin = Origin::Environment { variable };
                errors.push(ConfigError::at(origin, "", Problem::NotText));
            }
        }
    }
    ours
}

/// Reads the file that was named, or the standard one if it is there.
fn read_file(
    explicit: Option<PathBuf>,
    standard: Option<PathBuf>,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let may_be_missing = explicit.is_none();
    let Some(path) = explicit.or(standard) else {
        return Ok(None);
    };
    let unreadable = |reason: String| {
        let origin = Origin::File { path: path.clone(), line: 0 };
        ConfigError::at(origin, "", Problem::Unreadable { reason })
    };

    let mut text = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(size) if size as u64 > FILE_SIZE_MAX => {
            Err(unreadable(format!("larger than {FILE_SIZE_MAX} bytes")))
        }
        Ok(_) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;

    /// A machine on which nobody has configured anything.
    pub(in crate::config) fn nothing() -> Sources {
        let places = Places {
            runtime_dir: Some("/run/user/7".into()),
            config_home: None,
            state_home: None,
            home: None,
            runtime_root: "/nowhere".into(),
            uid: 7,
        };
        Sources { file: None, environment: Vec::new(), overrides: Vec::new(), places }
    }

    /// A configuration file of this text.
    pub(in crate::config) fn file(text: &str) -> Option<(PathBuf, String)> {
        Some(("config.toml".into(), text.to_owned()))
    }

    #[test]
    fn missing_file_is_fine_unless_it_was_named() {
        let missing = PathBuf::from("/nowhere/config.toml");
        assert_eq!(read_file(None, Some(missing.clone())), Ok(None));
        assert_eq!(read_file(None, None), Ok(None));
        let error = read_file(Some(missing), None).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/config.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn named_file_goes_before_the_standard_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.toml");
        std::fs::write(&path, "a").unwrap();
        let read = read_file(Some(path.clone()), Some("/nowhere/config.toml".into()));
        assert_eq!(read, Ok(Some((path, "a".to_owned()))));
    }

    #[test]
    fn file_that_is_no_text_or_never_ends_is_unreadable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(
            read_file(None, Some(path)).unwrap_err().problem,
            Problem::Unreadable { .. }
        ));
        let endless = read_file(Some("/dev/zero".into()), None).unwrap_err();
        assert_eq!(endless.to_string(), "/dev/zero: cannot be read: larger than 1048576 bytes");
    }

    #[test]
    fn variable_that_is_not_text_is_told_when_it_is_ours() {
        use std::os::unix::ffi::OsStringExt;
        let pair = |variable: &str, value: &[u8]| {
            (OsString::from(variable), OsString::from_vec(value.to_vec()))
        };
        let variables = [
            pair("ANNULUS_IPC_SOCKET_PATH", &[0xff]),
            pair("ANNULUS_CONFIG", &[0xff]),
            pair("OTHER", &[0xff]),
            pair("ANNULUS_SHARDS_COUNT", b"2"),
        ];
        let mut errors = Vec::new();
        let ours = our_variables(variables.into_iter(), &mut errors);
        assert_eq!(ours, [("ANNULUS_SHARDS_COUNT".to_owned(), "2".to_owned())]);
        assert_eq!(ConfigErrors(errors).to_string(), "ANNULUS_IPC_SOCKET_PATH: not valid UTF-8");
    }

    #[test]
    fn file_in_error_is_not_held_against_the_other_sources() {
        let sources = Sources {
            file: file("[providers.fast\n"),
            environment: vec![
                ("ANNULUS_PROVIDERS_FAST_CHUNK_SIZE".to_owned(), "1".to_owned()),
                ("ANNULUS_DEFAULT_PROVIDER".to_owned(), "fast".to_owned()),
                ("ANNULUS_SHARDS_COUNT".to_owned(), "0".to_owned()),
            ],
            ..nothing()
        };
        let errors = Config::load(&sources).unwrap_err().0;
        assert!(matches!(errors[0].problem, Problem::Syntax { .. }));
        assert_eq!(errors.last().unwrap().key, "shards.count");
        assert!(!errors.iter().any(|error| error.key.contains("provider")), "{errors:?}");
    }
}
