//! Stress levels for Annulus, by the names of its origin: each sets a daemon of its own under one
//! kind of load and holds what it sees against the level's bars.
//!
//! ```text
//! levels   what each level does, and its bars     report     bars, verdict, table, JSON
//! rest     a daemon at rest, and its memory       activity   what the daemon's threads have done
//! providers  what the way to a provider costs
//! daemon   the daemon and its memory              team       client processes, started together
//! work     what one client process does           fleet      many connections on one thread
//! probe    level 3's client
//! ```
//!
//! The daemon (`annulus serve`) and the clients (this program, started again) are processes of their
//! own. `docs/stress.md` says what each level shows and what it does not.
//!
//! Exit codes: 0 every bar met, 1 a bar missed, 2 usage, 3 a level could not be run, 4 a level that
//! is not built yet.

mod activity;
mod daemon;
mod fleet;
mod levels;
mod probe;
mod providers;
mod report;
mod rest;
mod team;
mod work;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::levels::Stage;
use self::providers::Measure;
use self::report::Report;

const EXIT_MISSED: u8 = 1;
const EXIT_FAILED: u8 = 3;
const EXIT_NOT_BUILT: u8 = 4;

/// What stops a level: a sentence for whoever ran it.
type Failure = Box<dyn Error + Send + Sync>;

/// Put a daemon under stress and hold what it does against its bars
///
/// 1 connection bomb, 2 memory destruction, 3 latency torture, 4 leak detection; 5 chaos is not
/// built yet. One message is one request and its answer.
#[derive(Debug, Parser)]
#[command(name = "nuclear", version)]
struct Arguments {
    /// The level
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=5), required_unless_present_any = ["rest", "providers", "work"])]
    level: Option<u8>,

    /// No level: what the daemon does and takes with nothing to do, and its memory beside few and
    /// many connections
    #[arg(long, conflicts_with_all = ["level", "full", "processes"])]
    rest: bool,

    /// No level: what the way to a provider costs, with an upstream of our own
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["level", "rest", "full", "processes"])]
    providers: Option<Measure>,

    /// Encrypt between the daemon and its upstream
    #[arg(long, requires = "providers")]
    tls: bool,

    /// Many requests on one connection between the daemon and its upstream
    #[arg(long, requires = "tls")]
    http2: bool,

    /// Where the upstream listens [default: any free port of the loopback]
    #[arg(long, value_name = "ADDRESS", requires = "providers")]
    listen: Option<SocketAddr>,

    /// Another proxy, before the same upstream, that gets requests for comparison
    #[arg(long, value_name = "ADDRESS", requires = "listen", conflicts_with = "tls")]
    beside: Option<SocketAddr>,

    /// Requests a second that the other proxy can hold
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    beside_rate: u32,

    /// The fake-upstream program [default: the one beside this one]
    #[arg(long, value_name = "FILE", requires = "providers")]
    upstream: Option<PathBuf>,

    /// A setting of the daemon, for comparison; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "providers", value_parser = setting)]
    settings: Vec<(String, String)>,

    /// The origin's amounts, however long they take; without it at most a minute
    #[arg(long)]
    full: bool,

    /// Level 1 from 50 client processes of 20 connections instead of one of 1,000
    #[arg(long)]
    processes: bool,

    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,

    /// Divide the amounts by this: a look at whether it runs, with figures that mean little
    #[arg(long, value_name = "DIVISOR", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    scale: u32,

    /// The annulus program [default: the one beside this one]
    #[arg(long, value_name = "FILE")]
    annulus: Option<PathBuf>,

    /// Plant a leak of one connection for each cycle of level 4, to see it found
    #[arg(long, hide = true)]
    plant_leak: bool,

    /// Plant a request while the daemon is at rest, to see it found
    #[arg(long, hide = true, requires = "rest")]
    plant_request: bool,

    /// What a client process does; written by its parent
    #[arg(long, hide = true)]
    work: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.work {
        Some(text) => work::run(text).map(|()| ExitCode::SUCCESS),
        None => run_level(&arguments),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("nuclear: {failure}");
        EXIT_FAILED.into()
    })
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn run_level(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let stage = Stage {
        annulus: daemon::program(arguments.annulus.clone())?,
        full: arguments.full,
        divisor: arguments.scale,
        plant_leak: arguments.plant_leak,
        plant_request: arguments.plant_request,
    };
    let mut report = Report::default();
    match arguments.level {
        _ if let Some(what) = arguments.providers => {
            let options = providers::Options {
                upstream: arguments.upstream.clone(),
                listen: arguments.listen,
                tls: arguments.tls,
                http2: arguments.http2,
                settings: arguments.settings.clone(),
                beside: arguments.beside.map(|address| (address, arguments.beside_rate)),
            };
            providers::measure(what, &stage, &options, &mut report)?;
        }
        _ if arguments.rest => rest::measure(&stage, &mut report)?,
        Some(1) => levels::connection_bomb(&stage, arguments.processes, &mut report)?,
        Some(2) => levels::memory_destruction(&stage, &mut report)?,
        Some(3) => levels::latency_torture(&stage, &mut report)?,
        Some(4) => levels::leak_detection(&stage, &mut report)?,
        _ => {
            eprintln!("nuclear: level 5 (chaos) is not built yet: it comes with restarts");
            return Ok(EXIT_NOT_BUILT.into());
        }
    }
    report.print(arguments.json)?;
    Ok(if report.is_met() { ExitCode::SUCCESS } else { EXIT_MISSED.into() })
}
