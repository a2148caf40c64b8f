//! Where things live: the socket and the configuration file, by the XDG base directory rules.
//!
//! The daemon and every client work the socket's path out on their own, so both must come to the
//! same answer: this file is the only place that knows the rules. Nothing here creates anything,
//! and no answer is ever a fixed name in a directory that other users can write.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest path that a Unix socket can be bound to, in bytes: `sun_path` holds 108 and the last
/// is a NUL (`unix(7)`).
pub const SOCKET_PATH_SIZE_MAX: usize = 107;

/// What the standard places are worked out from, gathered so that tests can invent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `$XDG_RUNTIME_DIR`, when it is set to an absolute path.
    pub runtime_dir: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, when it is set to an absolute path.
    pub config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`, when it is set to an absolute path.
    pub state_home: Option<PathBuf>,
    /// `$HOME`, when it is set to an absolute path.
    pub home: Option<PathBuf>,
    /// Where the login manager keeps the runtime directories of all users: `/run/user`.
    pub runtime_root: PathBuf,
    /// The user that this process works for.
    pub uid: u32,
}

/// A socket's path, and what the user should be told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlace {
    /// The absolute path of the socket. Its directory should be 0700 and may not exist yet.
    pub path: PathBuf,
    /// One sentence when the path is not where the user would look for it.
    pub note: Option<String>,
}

/// Why there is no usable path for the socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The environment names no directory of the user's own. Set one of the variables, or name
    /// the socket explicitly.
    #[error(
        "no private place for the socket: XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME are all unset"
    )]
    NoPlace,
    /// The path does not fit in a socket address. Choose a shorter one.
    #[error(
        "the socket path {} has {size} bytes, a Unix socket allows {SOCKET_PATH_SIZE_MAX}",
        path.display()
    )]
    TooLong {
        /// The path in question.
        path: PathBuf,
        /// Its length in bytes.
        size: usize,
    },
}

impl Places {
    /// Reads the places from the environment of this process.
    ///
    /// A variable that is empty or holds a relative path counts as unset, as the XDG base directory
    /// specification 0.8 asks.
    pub fn of_process() -> Self {
        let directory = |variable: &str| {
            env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        Self {
            runtime_dir: directory("XDG_RUNTIME_DIR"),
            config_home: directory("XDG_CONFIG_HOME"),
            state_home: directory("XDG_STATE_HOME"),
            home: directory("HOME"),
            runtime_root: PathBuf::from("/run/user"),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    /// The standard configuration file, `$XDG_CONFIG_HOME/annulus/config.toml` or the same under
    /// `~/.config`; `None` when neither variable is set. The file may not exist.
    pub fn config_file(&self) -> Option<PathBuf> {
        let config_home = self.config_home.clone();
        config_home
            .or_else(|| Some(self.home.as_ref()?.join(".config")))
            .map(|directory| directory.join("annulus/config.toml"))
    }

    /// The standard path of the socket.
    ///
    /// It is `annulus/annulus.sock` in `$XDG_RUNTIME_DIR`. When the variable is unset, as under
    /// `cron` and `sudo`, the same in `/run/user/$UID` if that directory exists and belongs to this
    /// user. Failing that it is `annulus/run/annulus.sock` in `$XDG_STATE_HOME` or
    /// `~/.local/state`, with a note, because nobody would look there.
    ///
    /// # Errors
    ///
    /// [`PathError::NoPlace`] and [`PathError::TooLong`]: the user has to name a path.
    pub fn socket(&self) -> Result<SocketPlace, PathError> {
        let (path, note) = match self.runtime_directory() {
            Some(directory) => (directory.join("annulus/annulus.sock"), None),
            None => {
                let state_home = self.state_home.clone();
                let path = state_home
                    .or_else(|| Some(self.home.as_ref()?.join(".local/state")))
                    .ok_or(PathError::NoPlace)?
                    .join("annulus/run/annulus.sock");
                let note = format!(
                    "XDG_RUNTIME_DIR is not set and {} is not usable, so the socket is {}",
                    self.login_directory().display(),
                    path.display(),
                );
                (path, Some(note))
            }
        };
        check_socket_path(&path)?;
        Ok(SocketPlace { path, note })
    }

    fn runtime_directory(&self) -> Option<PathBuf> {
        self.runtime_dir.clone().or_else(|| {
            let directory = self.login_directory();
            // A symbolic link is not followed: the link would be ours to trust, its target not.
            let metadata = fs::symlink_metadata(&directory).ok()?;
            (metadata.is_dir() && metadata.uid() == self.uid).then_some(directory)
        })
    }

    fn login_directory(&self) -> PathBuf {
        self.runtime_root.join(self.uid.to_string())
    }
}

/// Checks that a socket can be bound to `path`, or connected to there.
///
/// # Errors
///
/// [`PathError::TooLong`] above [`SOCKET_PATH_SIZE_MAX`] bytes.
pub fn check_socket_path(path: &Path) -> Result<(), PathError> {
    let size = path.as_os_str().as_bytes().len();
    if size > SOCKET_PATH_SIZE_MAX {
        let path = path.to_path_buf();
        return Err(PathError::TooLong { path, size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places of a user who has a home and nothing else.
    fn at_home(runtime_root: &Path) -> Places {
        Places {
            runtime_dir: None,
            config_home: None,
            state_home: None,
            home: Some("/home/ada".into()),
            runtime_root: runtime_root.into(),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    #[test]
    fn runtime_directory_of_the_environment_comes_first() {
        let mut places = at_home(Path::new("/nowhere"));
        places.runtime_dir = Some("/run/user/7".into());
        let place = places.socket().unwrap();
        assert_eq!(place.path, Path::new("/run/user/7/annulus/annulus.sock"));
        assert_eq!(place.note, None);
    }

    #[test]
    fn login_directory_serves_when_it_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let places = at_home(root.path());
        let ours = root.path().join(places.uid.to_string());
        fs::create_dir(&ours).unwrap();
        let place = places.socket().unwrap();
        assert_eq!(place.path, ours.join("annulus/annulus.sock"));
        assert_eq!(place.note, None);
    }

    #[test]
    fn login_directory_of_somebody_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut places = at_home(root.path());
        places.uid += 1; // The directory made below belongs to the user before.
        fs::create_dir(root.path().join(places.uid.to_string())).unwrap();
        let place = places.socket().unwrap();
        assert!(place.path.starts_with("/home/ada/.local/state"));
    }

    #[test]
    fn login_directory_behind_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let places = at_home(root.path());
        let link = root.path().join(places.uid.to_string());
        std::os::unix::fs::symlink(root.path(), link).unwrap();
        let place = places.socket().unwrap();
        assert!(place.path.starts_with("/home/ada/.local/state"));
    }

    #[test]
    fn last_resort_is_private_and_comes_with_a_note() {
        let mut places = at_home(Path::new("/nowhere"));
        let place = places.socket().unwrap();
        let expected = "/home/ada/.local/state/annulus/run/annulus.sock";
        assert_eq!(place.path, Path::new(expected));
        assert!(place.note.unwrap().ends_with(expected));

        places.state_home = Some("/state".into());
        let place = places.socket().unwrap();
        assert_eq!(place.path, Path::new("/state/annulus/run/annulus.sock"));
    }

    #[test]
    fn without_any_directory_there_is_no_socket() {
        let mut places = at_home(Path::new("/nowhere"));
        places.home = None;
        assert_eq!(places.socket(), Err(PathError::NoPlace));
        assert_eq!(places.config_file(), None);
    }

    #[test]
    fn socket_path_fits_up_to_the_last_byte() {
        let fits = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_SIZE_MAX - 1)));
        assert_eq!(check_socket_path(&fits), Ok(()));
        let path = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_SIZE_MAX)));
        let size = SOCKET_PATH_SIZE_MAX + 1;
        assert_eq!(check_socket_path(&path), Err(PathError::TooLong { path, size }));
    }

    #[test]
    fn standard_path_is_held_to_the_same_length() {
        let mut places = at_home(Path::new("/nowhere"));
        places.runtime_dir = Some(format!("/{}", "x".repeat(100)).into());
        assert!(matches!(places.socket(), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn configuration_file_follows_its_variable_then_home() {
        let mut places = at_home(Path::new("/nowhere"));
        let expected = Path::new("/home/ada/.config/annulus/config.toml");
        assert_eq!(places.config_file().as_deref(), Some(expected));
        places.config_home = Some("/etc/ada".into());
        let expected = Path::new("/etc/ada/annulus/config.toml");
        assert_eq!(places.config_file().as_deref(), Some(expected));
    }
}
