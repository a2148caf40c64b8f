//! The same work on Annulus and on other transports, in one run.
//!
//! A client fills a buffer, it crosses to a second process's buffer, comes back, and the client
//! checks it. `docs/benchmarks.md` of the project has the figures and tells how each peer is used.
//!
//! The map: `scene` is one measurement and its processes, `meter` what a client does, `peers` the
//! transports (one file each), `run` the rounds, `report` the table.

mod meter;
mod peers;
mod report;
mod run;
mod scene;

use std::io;
use std::process::ExitCode;

use annulus::bench::ResponderArguments;
use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use peers::Peer;
use run::{Case, Extent};
use scene::{Load, Scene};

/// Bytes of a payload.
const SIZES: [usize; 3] = [64, 1024, 4096];

/// Measure Annulus beside other transports
///
/// Two processes, one core each. Every measurement runs beside the limit of its load: a cache line
/// handed over and back, or for cold round trips an eventfd. Figures are medians over rounds; a round
/// in which the host moved the cores is thrown away. Takes up to five minutes.
#[derive(Debug, Parser)]
#[command(name = "peers", args_conflicts_with_subcommands = true)]
struct Program {
    #[command(subcommand)]
    process: Option<Process>,
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, clap::Args)]
struct Arguments {
    /// Measure only these transports; repeatable. `--list` names them
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,

    /// Measure only these loads; repeatable
    #[arg(long = "case", value_name = "LOAD")]
    loads: Vec<Load>,

    /// Measure only payloads of so many bytes: 64, 1024 or 4096; repeatable
    #[arg(long = "size", value_name = "BYTES")]
    sizes: Vec<usize>,

    /// Rounds that each median is over
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,

    /// One short round, within a minute
    #[arg(long)]
    quick: bool,

    /// Print one JSON object a line instead of the table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print a Markdown table for each load instead of the one table
    #[arg(long)]
    markdown: bool,

    /// Name the transports and end
    #[arg(long)]
    list: bool,
}

/// What this executable is when it was started by itself.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
enum Process {
    #[command(hide = true)]
    Client { scene: String },
    #[command(hide = true)]
    Respond { scene: String },
    #[command(hide = true)]
    BenchResponder(ResponderArguments),
    #[command(hide = true)]
    OnCore {
        core: usize,
        program: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let program = Program::parse();
    let outcome = match &program.process {
        None => measure(&program.arguments),
        Some(Process::Client { scene }) => told(scene).and_then(|scene| run::run_client(&scene)),
        Some(Process::Respond { scene }) => {
            told(scene).and_then(|scene| run::run_responder(&scene))
        }
        Some(Process::BenchResponder(arguments)) => arguments.run().map_err(Into::into),
        Some(Process::OnCore { core, program, arguments }) => {
            run::exec_on_core(*core, program, arguments)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn told(scene: &str) -> Result<Scene> {
    serde_json::from_str(scene).context("no scene was told")
}

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        peers::ALL.iter().for_each(|peer| println!("{}", peer.name()));
        return Ok(());
    }
    let chosen: Vec<&'static dyn Peer> = if arguments.peers.is_empty() {
        peers::ALL.to_vec()
    } else {
        arguments.peers.iter().map(|name| peers::find(name)).collect::<Result<_>>()?
    };
    let loads = if arguments.loads.is_empty() { &Load::ALL[..] } else { &arguments.loads };
    let sizes = if arguments.sizes.is_empty() { &SIZES[..] } else { &arguments.sizes };
    for size in sizes {
        ensure!(SIZES.contains(size), "no payload has {size} bytes: there are 64, 1024 and 4096");
    }
    let cases: Vec<Case> =
        loads.iter().flat_map(|&load| sizes.iter().map(move |&size| Case { load, size })).collect();
    let mut extent = if arguments.quick { Extent::QUICK } else { Extent::FULL };
    extent.round_count = arguments.rounds.unwrap_or(extent.round_count);

    let outcomes = report::outcomes(&run::run(&cases, &chosen, extent)?);
    let mut output = io::stdout().lock();
    if arguments.json {
        report::write_json(&outcomes, &mut output)?;
    } else if arguments.markdown {
        report::write_markdown(&outcomes, &mut output)?;
    } else {
        report::write_table(&outcomes, &mut output)?;
    }
    let failed_count = outcomes.iter().filter(|outcome| outcome.failed.is_some()).count();
    ensure!(failed_count == 0, "{failed_count} measurements failed");
    Ok(())
}
