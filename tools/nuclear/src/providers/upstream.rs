//! The upstream, a process of its own, and what it noted.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, process};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::Options;
use crate::Failure;

/// Ends an upstream whose measurement hangs.
const LIFE_SECS: u32 = 600;

/// A running upstream; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    child: Child,
    url: String,
    /// What it leaves: its authority's certificate, and its log.
    authority: PathBuf,
    log: PathBuf,
    is_encrypted: bool,
}

/// What the upstream noted of one request. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// When it was read.
    pub(super) at_ns: u64,
    pub(super) body: String,
    /// `None`: it was not answered in full.
    pub(super) ended: Option<Ended>,
}

/// An answer's end.
#[derive(Debug, Deserialize)]
pub(super) struct Ended {
    /// When the last byte was written.
    pub(super) at_ns: u64,
}

#[derive(Deserialize)]
struct Log {
    requests: Vec<Asked>,
}

impl Upstream {
    /// Starts it; returns when it listens.
    pub(super) fn start(options: &Options) -> Result<Self, Failure> {
        let beside =
            || Ok::<_, std::io::Error>(env::current_exe()?.with_file_name("fake-upstream"));
        let program = options.upstream.clone().map_or_else(beside, Ok)?;
        let file =
            |name: &str| env::temp_dir().join(format!("annulus-nuclear-{}.{name}", process::id()));
        let (authority, log) = (file("pem"), file("log"));
        let mut command = Command::new(&program);
        command.arg("--for-secs").arg(LIFE_SECS.to_string()).arg("--log-file").arg(&log);
        if let Some(listen) = options.listen {
            command.arg("--listen").arg(listen.to_string());
        }
        if options.tls {
            command.arg("--tls").arg("--ca-file").arg(&authority);
            if options.http2 {
                command.arg("--http2");
            }
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|error| {
            let program = program.display();
            format!("cannot start {program}: {error}; build it, or name it with --upstream")
        })?;
        let is_encrypted = options.tls;
        let mut upstream = Self { child, url: String::new(), authority, log, is_encrypted };
        let stdout = upstream.child.stdout.as_mut().ok_or("the upstream has no output")?;
        BufReader::new(stdout.take(1 << 10)).read_line(&mut upstream.url)?;
        upstream.url.truncate(upstream.url.trim_end().len());
        if upstream.url.is_empty() {
            return Err("the upstream ended before it listened; it has said why".into());
        }
        Ok(upstream)
    }

    /// Its URL, without a path.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens without TLS; `None` with it.
    pub(super) fn plain_address(&self) -> Option<SocketAddr> {
        self.url.strip_prefix("http://")?.parse().ok()
    }

    /// Whom to trust to believe its certificate.
    pub(super) fn authority(&self) -> Option<&Path> {
        self.is_encrypted.then_some(self.authority.as_path())
    }

    /// Stops it; returns what it noted of all requests.
    pub(super) fn stop(mut self) -> Result<Vec<Asked>, Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        if !self.child.wait()?.success() {
            return Err("the upstream did not stop well; it has said why".into());
        }
        let log: Log = serde_json::from_slice(&fs::read(&self.log)?)?;
        Ok(log.requests)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Each fails only where there is nothing left to end or to remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
        let _ = fs::remove_file(&self.authority);
    }
}
