//! Keys and prompts stay where they belong, above all when things go wrong: not in the log at its most
//! talkative, not on the metrics page or in its file, keys in no error's text, and neither in a core.
#![cfg(feature = "cli")]

mod common;
#[path = "common/providers.rs"]
mod providers;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use annulus::MessageType;
use annulus::protocol::{AIRequest, Message, MessageRole};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake_upstream::TlsOptions;
use rustix::process::{Resource, Signal, getrlimit, setrlimit};

use common::{Daemon, PATIENCE, wait_for};
use providers::{
    KEY, KEY_VARIABLE, KINDS, client, complete, daemon_with, provider, stream, upstream_with,
};

const PROMPT: &str = "my-diary-says-that-i-owe-the-baker-a-crown";
/// A key that no header can carry.
const BAD_KEY: &str = "sk-bad\u{7}-5647382910-zyxwvu";
const PROXY_USER: &str = "someone";
const PROXY_PASSWORD: &str = "proxy-pass-8675309";
const HEADER_VALUE: &str = "header-value-31415926";

/// Everything that must not be found.
fn secrets() -> Vec<String> {
    let credentials = STANDARD.encode(format!("{PROXY_USER}:{PROXY_PASSWORD}"));
    let mut secrets = keys();
    secrets.extend([PROMPT.to_owned(), HEADER_VALUE.to_owned(), credentials]);
    secrets
}

/// What must not be found even by the client that asked.
fn keys() -> Vec<String> {
    let after_the_bell = BAD_KEY.split('\u{7}').next_back().unwrap();
    let within = STANDARD.encode(KEY);
    vec![
        KEY.to_owned(),
        KEY[8..].to_owned(),
        within[..within.len() - 4].to_owned(),
        after_the_bell.to_owned(),
        PROXY_PASSWORD.to_owned(),
    ]
}

#[track_caller]
fn assert_clean(what: &str, bytes: &[u8], secrets: &[String]) {
    assert!(!bytes.is_empty(), "{what}: nothing to look through");
    for secret in secrets {
        if let Some(at) = find(bytes, secret) {
            let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
            panic!("{what}: {secret} in {:?}", String::from_utf8_lossy(around));
        }
    }
}

fn find(bytes: &[u8], secret: &str) -> Option<usize> {
    bytes.windows(secret.len()).position(|window| window == secret.as_bytes())
}

/// An upstream that repeats whatever it is told, in each way that an error may have; the first part of
/// the path says which.
fn parrot() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the program.
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || repeat(connection));
        }
    });
    address
}

fn repeat(mut connection: TcpStream) {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::new();
    let mut piece = [0; 8192];
    // Bounded: up to the end of what the client sends.
    while !is_whole(&request) {
        match connection.read(&mut piece) {
            Ok(size) if size > 0 => request.extend_from_slice(&piece[..size]),
            _ => break,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let said: String = request.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let said = said.replace('"', "'");
    let in_base64 = STANDARD.encode(KEY);
    let error = format!(r#"{{"error":{{"message":"{said} {in_base64}","code":"{said}"}}}}"#);
    let head = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status} {said}\r\nx-request-id: {said}\r\nretry-after: {said}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let output = r#"data: {"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
    let answer = match request.split('/').nth(1).unwrap_or_default() {
        "refuse" => head("401", &error),
        "fail" => head("500", &error),
        "limit" => head("429", &error),
        "text" => head("503", &said),
        "away" => head("302", &said).replace("x-request-id", "location"),
        "inside" => head("200", &format!("data: {error}\n\n")),
        "broken" => head("200", &format!("data: {{\"choices\": {said}\n\n")),
        "middle" => head("200", &format!("{output}\n\ndata: {{\"choices\": {said}\n\n")),
        "cut" => head("200", &format!("{output}\n\n")),
        "noise" => format!("{said}\r\n\r\n"),
        // A proxy that does not connect.
        _ => format!("HTTP/1.1 407 {said}\r\nx-said: {said}\r\ncontent-length: 0\r\n\r\n"),
    };
    // Whoever does not listen to the end misses nothing.
    let _ = connection.write_all(answer.as_bytes());
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// Asks for everything that goes wrong; gives the errors' texts.
fn run(daemon: &Daemon, names: &[String]) -> String {
    let mut texts = String::new();
    let client = client(daemon);
    for name in names {
        let model = format!("{name}/m");
        let request = AIRequest::new(model, vec![Message::new(MessageRole::User, PROMPT)]);
        for answer in [stream(&client, &request), complete(&client, &request)] {
            texts += &format!("{name}: {}\n{:?}\n", answer.failure(), answer.error);
        }
    }
    texts
}

#[test]
fn a_failing_run_leaves_no_key_and_no_prompt_behind() {
    let parrot = parrot();
    let trusted_by_nobody = upstream_with(|options| options.tls = Some(TlsOptions::default()));
    let with_http2 = upstream_with(|options| {
        options.tls = Some(TlsOptions { http2: true, ..TlsOptions::default() });
    });
    let mut config = "upstream.retries_max = 0\nmetrics.export_interval_secs = 1\n".to_owned();
    let mut names = Vec::new();
    let mut add = |name: String, kind: &str, url: &str, more: &str| {
        config += &provider(&name, kind, url, more);
        names.push(name);
    };
    let header = format!("headers = [\"X-Extra: {HEADER_VALUE}\"]\n");
    for (kind, _) in KINDS {
        for way in [
            "refuse", "fail", "limit", "text", "away", "inside", "broken", "middle", "cut", "noise",
        ] {
            add(format!("{kind}-{way}"), kind, &format!("http://{parrot}/{way}"), &header);
        }
    }
    add("no-tls".into(), "openai", &format!("https://{parrot}"), "");
    add("no-trust".into(), "openai", &trusted_by_nobody.url(), "");
    add("http2".into(), "openai", &with_http2.url(), &format!("keys = [\"env:OTHER\"]\n{header}"));
    add("by-proxy".into(), "openai", "https://upstream.invalid", "");
    add("plain-by-proxy".into(), "openai", "http://upstream.invalid", "allow_http = true\n");
    add(
        "bad-header".into(),
        "openai",
        &format!("http://{parrot}/fail"),
        "keys = [\"env:BAD_KEY\"]\n",
    );
    add("no-key".into(), "openai", &format!("http://{parrot}/fail"), "keys = [\"env:NO_KEY\"]\n");

    let proxy = format!("http://{PROXY_USER}:{PROXY_PASSWORD}@{parrot}");
    let environment = [
        ("HTTPS_PROXY", proxy.as_str()),
        ("http_proxy", proxy.as_str()),
        ("BAD_KEY", BAD_KEY),
        // Not this upstream's, but good to look for all the same.
        ("OTHER", &KEY[8..]),
        ("RUST_LOG", "trace"),
    ];
    let daemon = daemon_with(&config, |command, home| {
        command.envs(environment);
        command
            .arg("--set")
            .arg(format!("metrics.export_path={}", home.join("annulus.prom").display()));
        let authority = home.join("authority.pem");
        fs::write(&authority, with_http2.ca_pem().unwrap()).unwrap();
        command.arg("--set").arg(format!("upstream.extra_ca={}", authority.display()));
        command.stderr(fs::File::create(home.join("log")).unwrap());
    });
    let texts = run(&daemon, &names);
    assert_clean("errors", texts.as_bytes(), &keys());

    let client = client(&daemon);
    let page = client.call(MessageType::METRICS, b"").unwrap();
    assert!(String::from_utf8_lossy(&page).contains("annulus_provider_requests_total{"));
    assert_clean("the metrics page", &page, &secrets());
    let read = |file: &str| fs::read(daemon.home().join(file)).unwrap_or_default();
    wait_for("the metrics file", || find(&read("annulus.prom"), "bad-header").is_some());
    assert_clean("the metrics file", &read("annulus.prom"), &secrets());
    let log = read("log");
    // Release builds have no trace points.
    let lowest = if cfg!(debug_assertions) { "TRACE" } else { "DEBUG" };
    assert!(find(&log, lowest).is_some() && find(&log, "a provider failed").is_some());
    assert_clean("the log", &log, &secrets());

    // The commands that look at the same configuration.
    let commands: [&[&str]; 4] = [
        &["config", "show"],
        &["providers", "list"],
        &["providers", "check"],
        &["--json", "providers", "check", "openai-refuse"],
    ];
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_annulus"))
            .env_clear()
            .envs(environment)
            .env("HOME", daemon.home())
            .env(KEY_VARIABLE, KEY)
            .arg("--config")
            .arg(daemon.home().join("config.toml"))
            .args(["--set", &format!("default_provider={}", names[0])])
            .args(arguments)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        // A header's value is shown by `config show`: it is the user's own, and no key.
        assert_clean(&arguments.join(" "), &said, &keys());
    }
}

/// Lets a daemon that has asked a provider crash; whether it left a core, and the core if it is there.
fn crash(settings: &str) -> (bool, Option<Vec<u8>>) {
    let parrot = parrot();
    let name = "openai".to_owned();
    let url = format!("http://{parrot}/fail");
    let config =
        format!("{settings}upstream.retries_max = 0\n{}", provider(&name, &name, &url, ""));
    let mut daemon = daemon_with(&config, |command, home| {
        command.current_dir(home);
    });
    run(&daemon, &[name]);
    daemon.signal(Signal::ABORT);
    let status = daemon.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    (status.core_dumped(), core_in(daemon.home()))
}

fn core_in(directory: &Path) -> Option<Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let mut cores = files.filter(|file| file.file_name().to_string_lossy().starts_with("core"));
    cores.next().map(|file| fs::read(file.path()).unwrap())
}

#[test]
fn a_crash_leaves_no_core_unless_that_is_allowed() {
    // Inherited by the daemon; the system's own limit stays.
    let mut limit = getrlimit(Resource::Core);
    limit.current = limit.maximum;
    setrlimit(Resource::Core, limit).unwrap();

    let (was_dumped, core) = crash("");
    assert!(!was_dumped && core.is_none());

    // And it is not the system that forbids it, where it does not.
    let (was_dumped, core) = crash("upstream.core_dumps = true\n");
    match core {
        Some(core) => {
            assert!(was_dumped);
            assert!(find(&core, KEY).is_some() && find(&core, PROMPT).is_some());
        }
        None if was_dumped => println!("the core went elsewhere: see core_pattern"),
        None => println!("skipped: this system writes no cores"),
    }
}
