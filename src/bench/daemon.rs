//! A daemon of one's own: `annulus serve` as a child process on a private socket.
//!
//! It outlives nobody: dropped, it is killed and reaped; and the kernel kills it when the thread
//! that started it ends. The user's configuration, environment and running daemon stay out of it.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, kill_process, pidfd_open, set_parent_process_death_signal,
};

use super::BenchError;
use crate::paths::check_socket_path;

/// How long a daemon may take until it listens.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// How long one may take to stop when it is asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes of the daemon's log that an error repeats.
const LOG_SHOWN_MAX: usize = 1_000;

/// Variables that configure a daemon.
const VARIABLE_PREFIX: &str = "ANNULUS_";

/// A running daemon and the private directory in which it lives.
#[derive(Debug)]
pub struct DaemonProcess {
    child: Child,
    home: Home,
}

impl DaemonProcess {
    /// Starts `program` (this executable, `/proc/self/exe`) as a daemon whose configuration is the
    /// defaults and `settings`, dotted keys and their values; returns when it listens. The daemon
    /// ends by itself after `life`, so that whoever waits for a hung one is answered by its end.
    ///
    /// # Errors
    ///
    /// [`BenchError::NotStarted`]: it ended, with what it said, or did not listen in time.
    pub fn start(
        program: &Path,
        settings: &[(&str, String)],
        life: Duration,
    ) -> Result<Self, BenchError> {
        let home = Home::create()?;
        let log = File::create(home.log()).map_err(BenchError::system("write a daemon's log"))?;
        let mut command = Command::new(program);
        command.arg0("annulus").arg("serve");
        command.arg("--follow").arg(process::id().to_string());
        command.arg("--life").arg(life.as_secs().max(1).to_string());
        command.arg("--config").arg("/dev/null").arg("--socket").arg(home.socket());
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with(VARIABLE_PREFIX) {
                command.env_remove(variable);
            }
        }
        let child = command
            .process_group(0) // Ctrl-C is for us: we decide when the daemon goes.
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(BenchError::system("start a daemon"))?;
        let mut daemon = Self { child, home };
        daemon.wait_until_it_listens()?;
        Ok(daemon)
    }

    /// The socket on which it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.socket()
    }

    /// The directory to remove if this process has to end without dropping anything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.home.0
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has; returns how long that took.
    ///
    /// # Errors
    ///
    /// [`BenchError::Silent`]: it did not stop in time, or not well. It is killed.
    pub fn stop(mut self) -> Result<Duration, BenchError> {
        let asked = Instant::now();
        let id = Pid::from_child(&self.child);
        let exit =
            pidfd_open(id, PidfdFlags::empty()).map_err(BenchError::system("watch a daemon"))?;
        kill_process(id, Signal::TERM).map_err(BenchError::system("stop a daemon"))?;
        if !wait_readable(&exit, asked + STOP_TIME_MAX)? {
            return Err(BenchError::Silent { who: "daemon that was asked to stop" });
        }
        let status = self.child.wait().map_err(BenchError::system("reap a daemon"))?;
        if !status.success() {
            return Err(BenchError::Silent { who: "daemon that was asked to stop" });
        }
        Ok(asked.elapsed())
    }

    /// The first line on its standard output says that it listens; an end of file, that it ended.
    fn wait_until_it_listens(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_TIME_MAX;
        let mut stdout = self.child.stdout.take().expect("a pipe was asked for");
        match read_line(&mut stdout, deadline)? {
            Some(_) => {
                // The pipe stays open, so that a further line could not kill the daemon.
                self.child.stdout = Some(stdout);
                Ok(())
            }
            None => Err(BenchError::NotStarted { reason: self.last_words() }),
        }
    }

    /// What its log ends with, on one line.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.home.log()).unwrap_or_default();
        let start = log.len().saturating_sub(LOG_SHOWN_MAX);
        let tail = log.get(log.ceil_char_boundary(start)..).unwrap_or_default();
        let lines: Vec<&str> =
            tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { "it did not say why".to_owned() } else { lines.join("; ") }
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        // Either may fail only because the child has already ended, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the kernel to end this process with its parent, then makes sure that the parent was still
/// there to be asked about: one that died before the request would send no signal.
///
/// # Errors
///
/// [`BenchError::System`]: the parent is another one, so the one that was meant has ended before it
/// could be followed.
pub fn follow_parent(parent: i32) -> Result<(), BenchError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(BenchError::system("follow the parent"))?;
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        let source = std::io::Error::other("it has ended");
        return Err(BenchError::System { operation: "follow the parent", source });
    }
    Ok(())
}

/// A private directory, removed on drop.
#[derive(Debug)]
struct Home(PathBuf);

impl Home {
    /// Makes it in the runtime directory, or where temporary files go; wherever the path is short
    /// enough for a socket.
    fn create() -> Result<Self, BenchError> {
        let nanoseconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        let name = format!("annulus-{}-{nanoseconds:08x}", process::id());
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places = runtime.into_iter().chain([env::temp_dir(), PathBuf::from("/tmp")]);

        let mut refusal = None;
        for place in places.filter(|place| place.is_absolute()) {
            let home = place.join(&name);
            if check_socket_path(&home.join(SOCKET)).is_err() {
                continue;
            }
            // mkdir(2) neither follows a link nor takes over what is there.
            match DirBuilder::new().mode(0o700).create(&home) {
                Ok(()) => return Ok(Self(home)),
                Err(error) => refusal = Some(error),
            }
        }
        let refusal = refusal.unwrap_or_else(|| std::io::Error::other("every path is too long"));
        Err(BenchError::System { operation: "make a directory for a daemon", source: refusal })
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left is a few bytes in a directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SOCKET: &str = "s";

/// Reads up to the first newline; `None` when the writer went away before, or time is up.
fn read_line(stdout: &mut ChildStdout, deadline: Instant) -> Result<Option<String>, BenchError> {
    let mut line = Vec::new();
    // At most as many turns as the line has bytes, which the deadline bounds.
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        if !wait_readable(stdout.as_fd(), deadline)?
            || stdout.read(&mut byte).map_err(BenchError::system("hear a daemon"))? == 0
        {
            return Ok(None);
        }
        line.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// Waits until there is something to read, an end included; false when time is up.
fn wait_readable(file: impl std::os::fd::AsFd, deadline: Instant) -> Result<bool, BenchError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("seconds of a start or stop fit");
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            // Bounded: what is left shrinks.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(BenchError::system("wait for a daemon")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_goes_with_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;

        let home = Home::create().unwrap();
        let path = home.0.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(check_socket_path(&home.socket()).is_ok());
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_program_that_is_no_daemon_is_reported_with_its_last_words() {
        let refused =
            DaemonProcess::start(Path::new("/bin/cat"), &[], Duration::from_secs(1)).unwrap_err();
        assert!(matches!(refused, BenchError::NotStarted { .. }));
        assert!(refused.to_string().contains("cat"), "{refused}");
    }
}
