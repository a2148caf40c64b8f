//! The command line with a daemon: serve, ping, call, chat, demo and bench as a user runs them.
#![cfg(feature = "cli")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Whatever is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A home of its own with a daemon in it, killed at the end in any case.
struct Daemon {
    home: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts `annulus serve` with these settings and waits until it listens.
    fn start(settings: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = annulus(home.path(), &["serve"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let socket = home.path().join("annulus/annulus.sock");
        assert_eq!(line, format!("listening on {}\n", socket.display()));
        Self { home, child }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        annulus(self.home.path(), arguments)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The value of a line of the daemon's metrics.
    fn metric(&self, name: &str) -> u64 {
        let page = stdout(&self.run(&["call", "metrics"]));
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Context switches of all its threads, by thread name.
    fn switches(&self) -> Vec<(String, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_task = |directory: &Path| {
            let name = fs::read_to_string(directory.join("comm")).unwrap().trim().to_owned();
            let status = fs::read_to_string(directory.join("status")).unwrap();
            let count = |line: &str| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            (name, lines.map(count).sum())
        };
        let mut switches: Vec<_> = tasks.map(|task| of_task(&task.unwrap().path())).collect();
        switches.sort();
        switches
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn annulus(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command
        .env_clear()
        // So that tools/coverage counts the program too.
        .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)))
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .stdin(Stdio::null())
        .args(arguments);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ended by itself")
}

fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end of `child` and gives its exit code.
fn wait(child: &mut Child) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("the program ended by itself");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("still there after {PATIENCE:?}");
}

fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a chat on a slow daemon and returns when its first chunk has come.
fn slow_chat(daemon: &Daemon) -> Child {
    let mut command = daemon.command(&["chat", "hello"]);
    let mut chat = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    chat.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    chat
}

const SLOW: [&str; 2] =
    ["providers.loopback.chunks_per_second=5", "providers.loopback.chunk_size=4"];

#[test]
fn ping_tells_times_and_the_socket() {
    let daemon = Daemon::start(&[]);
    let output = daemon.run(&["ping"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("annulus.sock: connected in "), "{}", stdout(&output));

    let value = &json_lines(&stdout(&daemon.run(&["ping", "--json", "--count", "3"])))[0];
    assert_eq!(value["schema"], "annulus.ping/1");
    assert_eq!(value["round_trips_ns"].as_array().unwrap().len(), 3);
    assert!(value["heartbeat_ns"].as_u64().unwrap() > 0);
}

#[test]
fn status_tells_whose_memory_it_is_and_who_is_connected() {
    let daemon = Daemon::start(&[]);
    let value = &json_lines(&stdout(&daemon.run(&["status", "--json"])))[0];
    assert_eq!(value["schema"], "annulus.status/1");
    assert_eq!(value["process_id"], daemon.child.id());
    assert_eq!(value["connections_open"], 1);
    let bytes = |name: &str| value["memory"][name].as_u64().unwrap();
    assert_eq!(bytes("private_bytes") + bytes("shared_bytes"), bytes("rss_bytes"));
    let owned = bytes("pss_anon_bytes") + bytes("pss_file_bytes");
    assert_eq!(value["owned_bytes"].as_u64().unwrap(), owned);
    assert!(owned > 0 && owned <= bytes("pss_bytes"));

    let text = stdout(&daemon.run(&["status"]));
    assert!(text.contains("connections") && text.contains("private memory"), "{text}");
}

#[test]
fn status_tells_how_the_providers_are() {
    // Nobody listens there.
    let daemon = Daemon::start(&[
        "providers.ollama.base_urls=http://127.0.0.1:1",
        "default_provider=ollama",
        "upstream.breaker_failures=1",
        "upstream.retries_max=0",
    ]);
    let status = || json_lines(&stdout(&daemon.run(&["status", "--json"]))).remove(0);
    let before = status();
    assert_eq!(
        (&before["providers_ready"], &before["providers"][0]["name"]),
        (&true.into(), &"ollama".into())
    );

    let failed = daemon.run(&["chat", "--model", "m", "hello"]);
    let said = stderr(&failed);
    let expected = "annulus: the provider failed: ollama: network error: cannot connect to ";
    assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");

    let after = status();
    let provider = &after["providers"][0];
    assert_eq!((&after["providers_ready"], &provider["ready"]), (&false.into(), &false.into()));
    assert_eq!(
        (&provider["endpoints"]["open"], &provider["requests_in_flight"]),
        (&1.into(), &0.into())
    );
    assert_eq!(provider["requests_total"], serde_json::json!({"network": 1}));
    let text = stdout(&daemon.run(&["status"]));
    assert!(
        text.contains(
            "provider ollama           left alone for a while; breakers: 1 open; ended: 1 network"
        ),
        "{text}"
    );
}

#[test]
fn call_carries_bytes_through_and_tells_their_encoding() {
    let daemon = Daemon::start(&[]);
    assert_eq!(stdout(&daemon.run(&["call", "echo", "--data", "größer"])), "größer");

    let bytes = daemon.home.path().join("bytes");
    fs::write(&bytes, [0, 0xff, b'a']).unwrap();
    let file = bytes.display().to_string();
    assert_eq!(daemon.run(&["call", "echo", &file]).stdout, [0, 0xff, b'a']);
    let mut from_stdin = daemon.command(&["call", "1", "-", "--json"]);
    let output = from_stdin.stdin(fs::File::open(&bytes).unwrap()).output().unwrap();
    let value = &json_lines(&stdout(&output))[0];
    assert_eq!((&value["schema"], &value["type"]), (&"annulus.call/1".into(), &"echo".into()));
    assert_eq!((&value["encoding"], &value["payload"]), (&"hex".into(), &"00ff61".into()));
}

#[test]
fn call_of_a_stream_prints_every_part() {
    let daemon = Daemon::start(&[]);
    let request = r#"{"model":"loopback","messages":[{"role":"user","content":"hi"}]}"#;
    let output = daemon.run(&["call", "stream", "--json", "--data", request]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let parts = json_lines(&stdout(&output));
    assert!(parts.len() > 2);
    assert!(parts.iter().enumerate().all(|(index, part)| part["index"] == index));
    assert!(parts.iter().rev().skip(1).all(|part| part["last"] == false));
    assert_eq!(parts.last().unwrap()["last"], true);
}

#[test]
fn what_the_daemon_refuses_ends_with_its_code() {
    let daemon = Daemon::start(&[]);
    let unknown = daemon.run(&["call", "0x1000"]);
    assert_eq!(code(&unknown), 1);
    assert!(stderr(&unknown).contains("no handler"), "{}", stderr(&unknown));
    assert_eq!(code(&daemon.run(&["call", "stream", "--data", "not json"])), 1);

    let second = daemon.run(&["serve"]);
    assert_eq!(code(&second), 4);
    assert!(stderr(&second).contains("already serves"), "{}", stderr(&second));
}

#[test]
fn chat_streams_the_answer_and_its_events() {
    let daemon = Daemon::start(&[]);
    let output = daemon.run(&["chat", "--model", "m", "hello", "there"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("You asked: hello there\n"));
    assert!(stdout(&output).ends_with('\n'));

    let events = json_lines(&stdout(&daemon.run(&["chat", "--json", "hello"])));
    assert!(events.iter().all(|event| event["schema"] == "annulus.chat/1"));
    assert!(events[..events.len() - 1].iter().all(|event| event["type"] == "text"));
    assert_eq!(events.last().unwrap()["finishReason"], "stop");

    let cut = daemon.run(&["chat", "--max-tokens", "2", "hello"]);
    assert_eq!((code(&cut), stdout(&cut)), (0, "You aske\n".to_owned()));
    assert!(stderr(&cut).contains("cut off"), "{}", stderr(&cut));
}

#[test]
fn chat_takes_its_prompt_from_standard_input() {
    let daemon = Daemon::start(&[]);
    let file = daemon.home.path().join("prompt");
    fs::write(&file, "from a pipe").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = daemon.command(arguments);
        stdout(&command.stdin(fs::File::open(&file).unwrap()).output().unwrap())
    };
    assert!(run(&["chat"]).starts_with("You asked: from a pipe\n"));
    assert!(run(&["chat", "review", "-"]).starts_with("You asked: review from a pipe\n"));
    assert_eq!(code(&daemon.run(&["chat"])), 2, "an empty prompt");
}

#[test]
fn ctrl_c_cancels_the_request_and_the_daemon_knows() {
    let daemon = Daemon::start(&SLOW);
    let mut chat = slow_chat(&daemon);
    signal(&chat, Signal::INT);
    assert_eq!(wait(&mut chat), 130);
    let mut said = String::new();
    chat.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "annulus: cancelled\n");
    let counter = "annulus_errors_total{type=\"stream\",status=\"cancelled\"}";
    wait_until(|| daemon.metric(counter) == 1, "the daemon counts the cancelled stream");
}

#[test]
fn deadline_that_passes_ends_with_5() {
    let daemon = Daemon::start(&SLOW);
    let output = daemon.run(&["chat", "--timeout", "0.3", "hello"]);
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
    let request = r#"{"model":"loopback","messages":[{"role":"user","content":"hi"}]}"#;
    let output = daemon.run(&["call", "complete", "--timeout", "0.3", "--data", request]);
    assert_eq!(code(&output), 5, "{}", stderr(&output));
}

#[test]
fn daemon_that_dies_half_way_ends_with_6() {
    let daemon = Daemon::start(&SLOW);
    let mut chat = slow_chat(&daemon);
    signal(&daemon.child, Signal::KILL);
    assert_eq!(wait(&mut chat), 6);
}

#[test]
fn full_daemon_ends_with_4() {
    let mut settings = SLOW.to_vec();
    settings.push("ipc.max_connections=1");
    let daemon = Daemon::start(&settings);
    let mut chat = slow_chat(&daemon);
    let output = daemon.run(&["ping", "--json"]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert_eq!(json_lines(&stderr(&output))[0]["kind"], "refused");
    chat.kill().unwrap();
    chat.wait().unwrap();
}

#[test]
fn sigterm_stops_the_daemon_and_takes_its_socket_away() {
    for stop in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut daemon = Daemon::start(&[]);
        assert_eq!(code(&daemon.run(&["ping"])), 0);
        signal(&daemon.child, stop);
        assert_eq!(wait(&mut daemon.child), 0);
        assert!(!daemon.home.path().join("annulus/annulus.sock").exists());
        assert_eq!(code(&daemon.run(&["ping"])), 3);
    }
}

#[test]
fn second_signal_does_not_wait_for_running_requests() {
    let mut daemon = Daemon::start(&SLOW);
    let mut chat = slow_chat(&daemon);
    signal(&daemon.child, Signal::TERM);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(daemon.child.try_wait().unwrap(), None, "the answer is not whole yet");
    signal(&daemon.child, Signal::TERM);
    assert_eq!(wait(&mut daemon.child), 130);
    assert_ne!(wait(&mut chat), 0);
}

#[test]
fn idle_daemon_makes_no_wake_ups() {
    let daemon = Daemon::start(&["ipc.idle_timeout_secs=0"]);
    assert_eq!(code(&daemon.run(&["chat", "hello"])), 0);
    thread::sleep(Duration::from_millis(500));
    let before = daemon.switches();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.switches(), before);
}

#[test]
#[cfg(target_env = "gnu")]
fn daemon_runs_with_a_malloc_without_thread_caches() {
    let daemon = Daemon::start(&[]);
    let environment = fs::read(format!("/proc/{}/environ", daemon.child.id())).unwrap();
    let expected = b"GLIBC_TUNABLES=glibc.malloc.tcache_count=0";
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == expected));
}

#[test]
fn demo_shows_everything_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = annulus(home.path(), &["demo", "--json"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let steps = json_lines(&stdout(&output));
    let step = |name: &str| steps.iter().find(|step| step["step"] == name);
    assert!(step("streamed").unwrap()["text"].as_str().unwrap().contains("loopback provider"));
    assert_eq!(step("cancelled").unwrap()["counted_by_daemon"], true);
    assert!(step("stopped").is_some());
    let pid = step("started").unwrap()["pid"].as_u64().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "its directory is gone");
}

#[test]
fn interrupted_demo_leaves_nothing_either() {
    let home = tempfile::tempdir().unwrap();
    let mut command = annulus(home.path(), &["demo", "--json"]);
    let mut demo = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(demo.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let pid = json_lines(&line)[0]["pid"].as_u64().unwrap();
    signal(&demo, Signal::INT);
    assert_eq!(wait(&mut demo), 130);
    let daemon = format!("/proc/{pid}/exe");
    wait_until(|| fs::read_link(&daemon).is_err(), "the daemon goes with us");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "its directory is gone");
}

#[test]
fn bench_writes_one_line_for_each_case_and_a_page() {
    let home = tempfile::tempdir().unwrap();
    let page = home.path().join("page.html");
    let mut arguments = vec!["bench", "--json", "--rounds", "1", "--case", "rtt_cold_block"];
    arguments.extend(["--report", page.to_str().unwrap()]);
    let output = annulus(home.path(), &arguments).output().unwrap();
    let said = stderr(&output);
    if said.contains("only core") || said.contains("canary") {
        eprintln!("skipped: {said}");
        return;
    }
    assert_eq!(code(&output), 0, "{said}");
    let lines = json_lines(&stdout(&output));
    assert_eq!((lines.len(), &lines[0]["schema"]), (1, &"annulus.bench/2".into()));
    for field in ["case", "size", "connections", "window", "p50_ns", "p90_ns", "p99_ns", "max_ns"] {
        assert!(!lines[0][field].is_null(), "{field}");
    }
    let limits = lines[0]["limits"].as_array().unwrap();
    assert_eq!(limits.len(), 2, "across cores, and on one");
    assert!(limits.iter().all(|limit| limit["ratio_p50"].as_f64().unwrap() > 0.0));
    assert!(limits.iter().all(|limit| limit["ratio_p99"].as_f64().unwrap() > 0.0));
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("rtt_cold_block") && page.contains("<polyline"));
}
