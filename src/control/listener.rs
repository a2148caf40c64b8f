//! The daemon's socket: its directory, its lock, its permissions, and who may connect.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::IpcError;

/// Connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 1024;

/// The listening socket. Its path is ours as long as the lock is held.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Held, not read: a second daemon cannot take it.
    _lock: File,
}

impl Listener {
    /// Binds `path`, 0600 in a directory of our own; a socket left behind by a daemon that died is
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`IpcError::AlreadyRunning`] when a live daemon has it, else [`IpcError::Io`] with what was
    /// tried.
    pub(crate) fn bind(path: &Path) -> Result<Self, IpcError> {
        let shown = path.display().to_string();
        prepare_directory(path)?;
        let lock = take_lock(path)?;
        match fs::symlink_metadata(path) {
            // We hold the lock, so whoever made this socket is gone.
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(path).map_err(IpcError::io("remove the stale socket", &shown))?;
            }
            Ok(_) => {
                let in_the_way = io::Error::other("something else than a socket is in its place");
                return Err(IpcError::io("bind", shown)(in_the_way));
            }
            Err(_) => {}
        }
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(IpcError::io("create a socket for", &shown))?;
        // Before binding: the file appears with these permissions (unix(7), Linux).
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))
            .map_err(IpcError::io("restrict", &shown))?;
        let address = SocketAddrUnix::new(path).map_err(IpcError::io("bind", &shown))?;
        rustix::net::bind(&socket, &address).map_err(IpcError::io("bind", &shown))?;
        rustix::net::listen(&socket, BACKLOG).map_err(IpcError::io("listen on", &shown))?;
        Ok(Self { socket, path: path.to_owned(), _lock: lock })
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket's file: newcomers see that nobody is there.
    pub(crate) fn withdraw(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// True when the peer runs as the same user as we do (SO_PEERCRED, unix(7)).
pub(super) fn is_our_user(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Makes the socket's directory, 0700, or checks the one that is there.
fn prepare_directory(path: &Path) -> Result<(), IpcError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(directory) = directory else { return Ok(()) };
    let shown = directory.display().to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(IpcError::io("create the directory", &shown))?;
    let found = fs::metadata(directory).map_err(IpcError::io("look at the directory", &shown))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    let named_for_us = directory.file_name().is_some_and(|name| name == "annulus");
    if ours && named_for_us && found.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .map_err(IpcError::io("restrict the directory", &shown))?;
    } else if found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0 {
        let open = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others can write to it and could replace the socket: use a private directory",
        );
        return Err(IpcError::io("use the directory", shown)(open));
    }
    Ok(())
}

/// Takes the lock beside the socket, for as long as the file is open.
fn take_lock(path: &Path) -> Result<File, IpcError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let shown = Path::new(&lock_path).display().to_string();
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(IpcError::io("open the lock", &shown))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(IpcError::AlreadyRunning { socket_path: path.to_owned() })
        }
        Err(error) => Err(IpcError::io("lock", shown)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn socket_and_directory_are_private() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("annulus/annulus.sock");
        let listener = Listener::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        UnixStream::connect(listener.path()).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_the_first_one_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("annulus.sock");
        let _first = Listener::bind(&path).unwrap();
        let refused = Listener::bind(&path).unwrap_err();
        assert!(matches!(refused, IpcError::AlreadyRunning { .. }), "{refused}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("annulus.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&path).unwrap());

        fs::write(&path, "a person's notes").unwrap();
        let refused = Listener::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("something else than a socket"), "{refused}");
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let shared = home.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Listener::bind(&shared.join("annulus.sock")).unwrap_err().to_string();
        assert!(refused.contains("others can write"), "{refused}");
    }
}
