//! What the end-to-end tests share: a daemon process, what it holds open, and a raw peer.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::io::{BufRead as _, BufReader, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{ConnectOptions, Connection};
use annulus::region::{Doorbell, Region, RegionLayout};
use annulus::wire::{Features, Goodbye, Hello, WELCOME_SIZE, Welcome};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use zerocopy::IntoBytes as _;

/// Whatever is waited for comes within this, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `annulus serve` on a socket of its own; killed and reaped at the end in any case.
pub(crate) struct Daemon {
    home: TempDir,
    pub(crate) child: Child,
    /// From before exec to the line that says it listens.
    pub(crate) start_up: Duration,
}

impl Daemon {
    /// Starts a daemon with these `--set` settings and waits until it says that it listens.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_changed(settings, |_, _| {})
    }

    /// [`Daemon::start`] with a change to its command before it is run; also given is its home.
    pub(crate) fn start_changed(
        settings: &[&str],
        change: impl FnOnce(&mut Command, &Path),
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = serve(&home.path().join("annulus.sock"), settings);
        change(&mut command, home.path());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let start_up = started.elapsed();
        let mut daemon = Self { home, child, start_up };
        if !line.starts_with("listening on ") {
            panic!("the daemon said {line:?} and {:?}", daemon.exit());
        }
        daemon
    }

    /// A directory of the daemon's own, gone with it.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("annulus.sock")
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::new().socket_path(self.socket()).connect_timeout(PATIENCE)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::connect(&self.options()).unwrap()
    }

    /// Open descriptors and mapped regions.
    pub(crate) fn held(&self) -> (usize, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let descriptors = fs::read_dir(proc.join("fd")).unwrap().count();
        let maps = fs::read_to_string(proc.join("maps")).unwrap();
        (descriptors, maps.matches("annulus-region").count())
    }

    /// Waits until the daemon holds no more than `before`.
    pub(crate) fn wait_until_it_holds(&self, before: (usize, usize)) {
        wait_for("descriptors and mappings to return", || {
            let now = self.held();
            now.0 <= before.0 && now.1 <= before.1
        });
    }

    /// CPU time in clock ticks (10 ms), and voluntary context switches of all threads.
    pub(crate) fn activity(&self) -> (u64, u64) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let switches = fs::read_dir(proc.join("task")).unwrap().map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt")).unwrap();
            line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()
        });
        (ticks, switches.sum())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the daemon has exited; gives its exit code and what it said.
    pub(crate) fn exit(&mut self) -> (Option<i32>, String) {
        let mut code = None;
        wait_for("the daemon to exit", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said).unwrap();
        }
        (code.unwrap().code(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon's command, not yet started, that reads no configuration but `settings`.
pub(crate) fn serve(socket: &Path, settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command.env_clear().env("HOME", socket.parent().unwrap());
    // So that tools/coverage counts the daemon too.
    command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
    // A bug that tools/canaries plants is the daemon's, and not this test's clients'.
    let canary = std::env::var_os("ANNULUS_DAEMON_CANARY");
    command.envs(canary.map(|canary| ("ANNULUS_CANARY", canary)));
    command.arg("serve").arg("--socket").arg(socket);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Looks every millisecond until `done`.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A client that owns its descriptors and its memory, and may do with them what it likes.
pub(crate) struct RawPeer {
    pub(crate) socket: UnixStream,
    pub(crate) region: Region,
    pub(crate) request_doorbell: Doorbell,
    pub(crate) response_doorbell: Doorbell,
    pub(crate) welcome: Welcome,
}

impl RawPeer {
    /// Shakes hands like an honest client.
    pub(crate) fn connect(socket: &Path) -> Self {
        Self::try_connect(socket, Features::empty()).expect("the daemon takes an honest client")
    }

    /// [`RawPeer::connect`] with wishes; `None` when the daemon refuses.
    pub(crate) fn try_connect(socket: &Path, features: Features) -> Option<Self> {
        let layout = RegionLayout::new(1 << 16, 1 << 16);
        let (region, file) = Region::create(layout).unwrap();
        let [request_doorbell, response_doorbell] =
            [Doorbell::new().unwrap(), Doorbell::new().unwrap()];
        let socket = UnixStream::connect(socket).unwrap();
        let hello = Hello::new(1 << 16, 1 << 16, 1, features);
        let gifts = [file.as_fd(), request_doorbell.as_fd(), response_doorbell.as_fd()];
        send_with_descriptors(&socket, hello.as_bytes(), &gifts);
        let mut bytes = [0; WELCOME_SIZE];
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (&socket).read_exact(&mut bytes).unwrap();
        let welcome = Welcome::decode(&bytes).unwrap();
        let peer = Self { socket, region, request_doorbell, response_doorbell, welcome };
        (welcome.status == 0).then_some(peer)
    }

    /// What the daemon says before it closes.
    pub(crate) fn goodbye(&mut self) -> Option<Goodbye> {
        let mut bytes = Vec::new();
        // A reset instead of an end follows when we sent more than the daemon read.
        let _ = self.socket.read_to_end(&mut bytes);
        Goodbye::decode(&bytes)
    }
}

/// Sends `bytes` and passes descriptors with them. A daemon that has refused already does not take
/// them; its Welcome is there to be read.
pub(crate) fn send_with_descriptors(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    match sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(error) => panic!("cannot send: {error}"),
    }
}

/// This test's own executable, started again to play one `role` (the name of a test function).
pub(crate) fn role(role: &str, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture", "--test-threads=1"])
        .env(ROLE, socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The socket to use, when this process was started to play a role.
pub(crate) fn role_socket() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

pub(crate) const ROLE: &str = "ANNULUS_TEST_ROLE_SOCKET";
