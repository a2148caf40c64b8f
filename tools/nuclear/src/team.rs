//! Client processes that start together: each says that it is connected, hears that all are, works,
//! and reports in one line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Failure;
use crate::work::{Outcome, Work};

/// What a client says when it is connected.
pub(crate) const READY: &str = "ready";

/// Client processes; those that still run are killed on drop.
#[derive(Debug, Default)]
pub(crate) struct Team(Vec<(Child, BufReader<ChildStdout>)>);

impl Team {
    /// Starts a client for each piece of work; returns when all are connected.
    pub(crate) fn start(works: &[Work]) -> Result<Self, Failure> {
        let mut team = Self::default();
        for work in works {
            let mut child = Command::new("/proc/self/exe")
                .arg("--work")
                .arg(serde_json::to_string(work)?)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let stdout = child.stdout.take().ok_or("a client has no output")?;
            team.0.push((child, BufReader::new(stdout)));
        }
        for (_, stdout) in &mut team.0 {
            let mut line = String::new();
            stdout.read_line(&mut line)?;
            if line.trim() != READY {
                return Err("a client ended before it was connected".into());
            }
        }
        Ok(team)
    }

    /// Lets all clients begin.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        for (child, _) in &mut self.0 {
            child.stdin.as_mut().ok_or("a client has no input")?.write_all(b"go\n")?;
        }
        Ok(())
    }

    /// Whether every client has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool, Failure> {
        for (child, _) in &mut self.0 {
            if child.try_wait()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the clients report; waits for those that are not done.
    pub(crate) fn outcomes(mut self) -> Result<Vec<Outcome>, Failure> {
        let outcome = |(child, stdout): &mut (Child, BufReader<ChildStdout>)| {
            let mut line = String::new();
            stdout.read_line(&mut line)?;
            if !child.wait()?.success() {
                return Err("a client failed; it has said why".into());
            }
            Ok(serde_json::from_str(&line)?)
        };
        self.0.iter_mut().map(outcome).collect()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // Either fails only where the client has ended, which is the aim.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
