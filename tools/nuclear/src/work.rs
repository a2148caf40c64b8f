//! What one client process does: connects, waits for the start, works, reports.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use annulus::bench::{Pinned, follow_parent};
use annulus::client::{Client, ConnectOptions};
use annulus::protocol::{AIRequest, Message, MessageRole};
use annulus::wire::MessageType;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::fleet::{self, Lane};
use crate::probe::{self, Probes};
use crate::team::READY;

/// Bytes of a file that is sent for analysis, and that comes back.
const FILE_SIZE: usize = 256 << 10;

/// One client process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) socket: PathBuf,
    pub(crate) parent: i32,
    /// The core to run on.
    pub(crate) core: usize,
    pub(crate) task: Task,
}

/// Connections that exchange the same.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Squad {
    pub(crate) connections: u32,
    /// On each connection.
    pub(crate) requests: u64,
    pub(crate) payload_size: usize,
    /// In flight on each connection.
    pub(crate) window: usize,
}

/// What it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Echoes on all squads at once.
    Echo(Vec<Squad>),
    /// Probes of 1 KiB, by turns beside quiet connections and beside the same ones saturated.
    Probe {
        /// The daemon's process.
        daemon: u32,
        squad: Squad,
        /// Of each kind.
        probes: u32,
    },
    /// Echoes before the start, and then quiet connections until it comes.
    Rest(Squad),
    /// Autocomplete, chat and file analysis, on connections by turns.
    Mixed { connections: u32 },
}

/// What it saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests with a good answer.
    pub(crate) answered: u64,
    pub(crate) seconds: f64,
    /// Probes beside quiet connections, and beside saturated ones.
    pub(crate) quiet: Probes,
    pub(crate) saturated: Probes,
}

/// Does the work that `text` describes and reports on standard output.
pub(crate) fn run(text: &str) -> Result<(), Failure> {
    let work: Work = serde_json::from_str(text)?;
    follow_parent(work.parent)?;
    let _pinned = Pinned::to(work.core)?;
    let outcome = match work.task {
        Task::Echo(squads) => echo(&work.socket, &squads)?,
        Task::Probe { daemon, squad, probes } => probe::run(&work.socket, daemon, squad, probes)?,
        Task::Rest(squad) => rest(&work.socket, squad)?,
        Task::Mixed { connections } => mixed(&work.socket, connections)?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Says that the connections are there and waits for the start.
pub(crate) fn line_up() -> Result<Instant, Failure> {
    println!("{READY}");
    if io::stdin().read_line(&mut String::new())? == 0 {
        return Err("the parent is gone".into());
    }
    Ok(Instant::now())
}

pub(crate) fn connect(socket: &Path, squad: Squad) -> Result<Vec<Lane>, Failure> {
    let Squad { connections, requests, payload_size, window } = squad;
    fleet::connect(socket, connections, payload_size, window, requests)
}

fn echo(socket: &Path, squads: &[Squad]) -> Result<Outcome, Failure> {
    fleet::allow(squads.iter().map(|squad| squad.connections).sum())?;
    let mut lanes = Vec::new();
    for &squad in squads {
        lanes.append(&mut connect(socket, squad)?);
    }
    let started = line_up()?;
    let answered = fleet::run(&mut lanes)?;
    Ok(Outcome { answered, seconds: started.elapsed().as_secs_f64(), ..Outcome::default() })
}

/// Here the start is the end: what is to be seen happens before, while nothing happens.
fn rest(socket: &Path, squad: Squad) -> Result<Outcome, Failure> {
    fleet::allow(squad.connections)?;
    let mut lanes = connect(socket, squad)?;
    let answered = fleet::run(&mut lanes)?;
    line_up()?;
    Ok(Outcome { answered, ..Outcome::default() })
}

fn mixed(socket: &Path, connections: u32) -> Result<Outcome, Failure> {
    fleet::allow(connections)?;
    let options = ConnectOptions::new().socket_path(socket);
    let clients: Vec<Client> =
        (0..connections).map(|_| Client::connect(&options)).collect::<Result<_, _>>()?;
    let question = Message::new(MessageRole::User, "fn main() { let answer = ");
    let request = AIRequest::new("loopback", vec![question]);
    let file = vec![b'x'; FILE_SIZE];
    let started = line_up()?;
    let mut outcome = Outcome::default();
    for (index, client) in clients.iter().enumerate() {
        match index % 3 {
            0 => drop(client.complete(&request)?),
            1 => {
                for event in client.stream_completion(&request)? {
                    event?;
                }
            }
            _ => {
                if client.call(MessageType::ECHO, &file)? != file {
                    return Err("a file came back changed".into());
                }
            }
        }
        outcome.answered += 1;
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}
