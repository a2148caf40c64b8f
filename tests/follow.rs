//! A shard waits on the core of the one client that it serves, and takes its own core back when the
//! two have something to do at the same time; a worker with a crowd of requests leaves that core to
//! them. Seen from outside: where their threads may run.
#![cfg(all(feature = "server", feature = "client"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::config::{Config, Sources};
use annulus::paths::Places;
use annulus::{AsyncRequest, AsyncResponder, IpcServer, MessageType, RunningServer};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Two servers that start at once would not know whose threads are whose.
static ALONE: Mutex<()> = Mutex::new(());
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for both sides to park, even on a busy machine, most of the time.
const PAUSE: Duration = Duration::from_millis(3);

/// Requests of this type are answered only by their cancellation.
const HOLD: MessageType = MessageType::user(0);
/// And of this one by the worker, at once.
const STIR: MessageType = MessageType::user(1);

/// The threads of a server's only shard: its own, and one of its executor's, which never moves; and its
/// worker's.
struct Shard {
    tasks: Vec<PathBuf>,
    home: usize,
    workers: Vec<PathBuf>,
}

impl Shard {
    /// The core on which it may run; its own unless it was seen on another.
    fn core(&self) -> usize {
        let away = |task: &PathBuf| match runs_on(task)[..] {
            [core] if core != self.home => Some(core),
            _ => None,
        };
        self.tasks.iter().find_map(away).unwrap_or(self.home)
    }

    /// True when the worker keeps off this core.
    fn worker_avoids(&self, core: usize) -> bool {
        let avoids = |task: &PathBuf| {
            let id = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
            !sched_getaffinity(Pid::from_raw(id)).unwrap().is_set(core)
        };
        self.workers.iter().any(avoids)
    }
}

/// A server whose only shard has the core `home` for its own.
fn serve(directory: &Path, home: usize, follow_client: bool) -> (RunningServer, Shard) {
    let socket = directory.join("annulus.sock");
    let text = format!(
        "ipc.socket_path = {socket:?}\nshards.cores = [{home}]\n\
         shards.follow_client = {follow_client}\n"
    );
    let sources = Sources {
        file: Some(("test.toml".into(), text)),
        environment: Vec::new(),
        overrides: Vec::new(),
        places: Places::of_process(),
    };
    let before = threads();
    let config = Config::load(&sources).unwrap();
    let hold = async |_: AsyncRequest, _: AsyncResponder| std::future::pending().await;
    let stir = async |_: AsyncRequest, _: AsyncResponder| Ok(());
    let builder = IpcServer::builder().config(config);
    let server =
        builder.register_async_handler(HOLD, hold).register_async_handler(STIR, stir).start();
    let tasks = |name: &str| {
        let mut tasks = threads();
        tasks.retain(|task| {
            let comm = fs::read_to_string(task.join("comm")).unwrap_or_default();
            // The executor adds its number, and the kernel cuts the name.
            comm.starts_with(name) && !before.contains(task)
        });
        assert!(!tasks.is_empty(), "no thread {name}");
        tasks
    };
    let shard = Shard { tasks: tasks("annulus-shard0"), home, workers: tasks("annulus-worker") };
    (server.unwrap(), shard)
}

fn threads() -> Vec<PathBuf> {
    fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path()).collect()
}

/// The cores on which a thread may run, as far as they are listed one by one.
fn runs_on(task: &Path) -> Vec<usize> {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap_or_default().split(',').filter_map(|core| core.trim().parse().ok()).collect()
}

fn connect(server: &RunningServer, wait: WaitPolicy) -> Connection {
    let options = ConnectOptions::new().socket_path(server.socket_path()).wait(wait);
    Connection::connect(&options).unwrap()
}

fn pin(core: usize) {
    let mut mask = CpuSet::new();
    mask.set(core);
    sched_setaffinity(None, &mask).unwrap();
}

/// Calls after pauses until the shard may run on `core`; false when it never does.
fn cold_calls(client: &mut Connection, shard: &Shard, core: usize, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while shard.core() != core {
        if Instant::now() > deadline {
            return false;
        }
        cold_call(client);
    }
    true
}

fn cold_call(client: &mut Connection) {
    thread::sleep(PAUSE);
    let mut answer = Vec::new();
    client.call(MessageType::ECHO, b"cold", &mut answer).unwrap();
    assert_eq!(answer, b"cold");
}

/// Has the worker do something: a crowd that does nothing is in nobody's way.
fn stir(client: &mut Connection) {
    client.call(STIR, b"", &mut Vec::new()).unwrap();
}

/// Calls without a pause, likewise.
fn hot_calls(client: &mut Connection, shard: &Shard, core: usize) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    while Instant::now() < deadline {
        for _ in 0..200 {
            client.call(MessageType::ECHO, b"hot", &mut answer).unwrap();
        }
        if shard.core() == core {
            return true;
        }
    }
    false
}

/// The shard's core and the client's, or `None` where there is only one.
fn two_cores() -> Option<(usize, usize)> {
    let mask = sched_getaffinity(None).unwrap();
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core));
    let pair = cores.next().zip(cores.next());
    if pair.is_none() {
        eprintln!("skipped: this process has one core");
    }
    pair
}

#[test]
fn a_shard_waits_beside_its_client_and_takes_its_core_back_when_it_is_hot() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((home, client_core)) = two_cores() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (server, shard) = serve(directory.path(), home, true);
    pin(client_core);
    let mut client = connect(&server, WaitPolicy::default());
    for _ in 0..3 {
        assert!(cold_calls(&mut client, &shard, client_core, PATIENCE), "the shard never came");
        assert!(hot_calls(&mut client, &shard, home), "the shard never took its core back");
    }

    // A second client that parks elsewhere pulls the other way: the shard stays on its own core.
    assert!(cold_calls(&mut client, &shard, client_core, PATIENCE), "the shard never came");
    let mut other = connect(&server, WaitPolicy::PARK);
    pin(home);
    (0..5).for_each(|_| cold_call(&mut other));
    assert!(cold_calls(&mut other, &shard, home, PATIENCE), "the shard never left");
    pin(client_core);
    let patience = Duration::from_millis(500);
    assert!(!cold_calls(&mut client, &shard, client_core, patience), "the shard took sides");
}

#[test]
fn a_client_that_polls_for_ever_is_followed_too_and_nobody_where_it_is_switched_off() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((home, client_core)) = two_cores() else { return };
    for follow_client in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (server, shard) = serve(directory.path(), home, follow_client);
        thread::scope(|scope| {
            scope.spawn(|| {
                pin(client_core);
                let mut client = connect(&server, WaitPolicy::SPIN);
                let patience = if follow_client { PATIENCE } else { Duration::from_millis(500) };
                let came = cold_calls(&mut client, &shard, client_core, patience);
                assert_eq!(came, follow_client, "the shard beside its client");
                if came {
                    assert!(
                        hot_calls(&mut client, &shard, home),
                        "the shard never took its core back"
                    );
                }
            });
        });
    }
}

#[test]
fn a_worker_with_a_crowd_of_requests_leaves_the_core_to_the_shard_and_its_client() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((home, client_core)) = two_cores() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (server, shard) = serve(directory.path(), home, true);
    pin(client_core);
    let mut client = connect(&server, WaitPolicy::default());
    assert!(cold_calls(&mut client, &shard, client_core, PATIENCE), "the shard never came");
    assert!(!shard.worker_avoids(client_core), "it leaves, but has nothing to do");

    let mut others = connect(&server, WaitPolicy::PARK);
    for _ in 0..40 {
        others.try_send(HOLD, b"").unwrap();
    }
    others.notify();
    let deadline = Instant::now() + PATIENCE;
    while !shard.worker_avoids(client_core) {
        assert!(Instant::now() < deadline, "the worker never left");
        cold_call(&mut client);
        stir(&mut client);
    }
    // Hot, the shard is on its own core again, and the worker may run where it likes.
    while shard.worker_avoids(client_core) {
        assert!(Instant::now() < deadline, "the worker stays away from a core that nobody needs");
        hot_calls(&mut client, &shard, home);
        stir(&mut client);
    }
    assert!(cold_calls(&mut client, &shard, client_core, PATIENCE), "the shard never came");
    drop(others);
    while shard.worker_avoids(client_core) {
        assert!(Instant::now() < deadline, "the worker never came back");
        thread::sleep(PAUSE);
    }
}
