//! The minimal client of `docs/examples`, which was written from `docs/protocol.md` alone, against a
//! real server. So the document is enough to write a client from.
#![cfg(feature = "server")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use annulus::IpcServer;
use annulus::config::{Config, Sources};
use annulus::paths::Places;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/minimal_client.py");
/// Several hundred times what it takes, for a machine under load.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Why Python cannot run the client here.
fn missing() -> Option<&'static str> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("the client relies on the memory order of x86-64");
    }
    let probe = "import sys; sys.exit(sys.version_info < (3, 10))";
    let found = Command::new("python3").args(["-c", probe]).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => None,
        _ => Some("no python3 of at least 3.10"),
    }
}

fn config(socket_path: &Path) -> Config {
    let sources = Sources {
        file: None,
        environment: Vec::new(),
        overrides: vec![("ipc.socket_path".into(), socket_path.display().to_string())],
        places: Places::of_process(),
    };
    Config::load(&sources).unwrap()
}

/// Waits for `child` and gives what it printed; kills it when its time is over.
fn finish(mut child: Child) -> (bool, String, String) {
    let deadline = Instant::now() + TIME_MAX;
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // It prints a few lines, which a pipe holds.
    let (mut printed, mut complaint) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    (ended.is_some_and(|status| status.success()), printed, complaint)
}

#[test]
fn a_client_written_from_the_document_is_served() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket_path = directory.path().join("annulus.sock");
    let server =
        IpcServer::builder().config(config(&socket_path)).register_provider_handlers().start();
    let server = server.unwrap();

    for options in [&[][..], &["--payload-check"]] {
        let child = Command::new("python3")
            .arg(CLIENT)
            .arg("--socket")
            .arg(&socket_path)
            .args(["--prompt", "größer? 🎈"])
            .args(options)
            .env("PYTHONUTF8", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (succeeded, printed, complaint) = finish(child);
        assert!(succeeded, "{options:?}\n{printed}\n{complaint}");
        for line in [
            "echo: 64 bytes in",
            "echo: every size came back",
            "heartbeat: ok",
            "finish reason stop",
            "You asked: größer? 🎈",
        ] {
            assert!(printed.contains(line), "no {line:?} in\n{printed}");
        }
    }
    drop(server);
}
