//! The command line: one tree of subcommands, each in a file of its own.
//!
//! ```text
//! session     global options, configuration
//! client      how to reach the daemon      interrupt   Ctrl-C
//! output      text, JSON, colour           exit        exit codes, one table
//! failure     what went wrong, for people and for tools
//! logging     what is logged, and how      core_dumps  keeps keys and prompts out of them
//! ```
//!
//! Results go to standard output and everything else to standard error. With `--json` every line of
//! standard output is an object with a `schema`, and a failure is one object on standard error.

mod bench;
mod call;
mod chat;
mod client;
mod completions;
mod config;
mod core_dumps;
mod demo;
mod exit;
mod failure;
mod interrupt;
mod logging;
mod man;
mod output;
mod ping;
mod providers;
mod serve;
mod session;
mod status;
mod version;

use std::env;
use std::process::ExitCode;

use annulus::bench::ResponderArguments;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::exit::Exit;
use self::failure::Failure;
use self::session::{Globals, Session};

const ABOUT: &str = "The AI backend that every editor window on a Linux workstation shares";

const LONG_ABOUT: &str = "\
The AI backend that every editor window on a Linux workstation shares.

One small daemon per user, `annulus serve`, answers local clients over shared memory and carries \
their AI requests on to providers. Without any configuration a built-in provider answers, which \
needs no network and no key: try `annulus demo`.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "annulus", version, about = ABOUT, long_about = LONG_ABOUT)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),

    Demo(demo::Arguments),

    Ping(ping::Arguments),

    Status(status::Arguments),

    Call(call::Arguments),

    Chat(chat::Arguments),

    Bench(bench::Arguments),

    Config(config::Arguments),

    Providers(providers::Arguments),

    /// Print the version, the protocol's and the platform
    Version,

    Completions(completions::Arguments),

    Man(man::Arguments),

    /// Answer a benchmark; started by the benchmark itself
    #[command(hide = true)]
    BenchResponder(ResponderArguments),
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => cli,
        Err(refusal) => return refuse(&refusal),
    };
    let session = Session::new(cli.globals);
    match dispatch(&session, &cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell(session.output.json);
            failure.exit().into()
        }
    }
}

fn dispatch(session: &Session, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(arguments) => serve::run(session, arguments),
        Command::Demo(arguments) => demo::run(session, arguments),
        Command::Ping(arguments) => ping::run(session, arguments),
        Command::Status(arguments) => status::run(session, arguments),
        Command::Call(arguments) => call::run(session, arguments),
        Command::Chat(arguments) => chat::run(session, arguments),
        Command::Bench(arguments) => bench::run(session, arguments),
        Command::Config(arguments) => config::run(session, arguments),
        Command::Providers(arguments) => providers::run(session, arguments),
        Command::Version => version::run(session),
        Command::Completions(arguments) => completions::run(session, arguments),
        Command::Man(arguments) => man::run(session, arguments),
        Command::BenchResponder(arguments) => {
            arguments.run()?;
            Ok(Exit::Ok)
        }
    }
}

/// The tree, for completions and manual pages.
fn command() -> clap::Command {
    with_exit_codes(Cli::command())
}

/// Puts the exit codes under the help of `command` and of everything below it.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.after_help(exit::help()).mut_subcommands(with_exit_codes)
}

/// What clap has to say: help and version are wishes, anything else is a mistake.
fn refuse(refusal: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(refusal.kind(), DisplayHelp | DisplayVersion) {
        // A reader that went away has seen enough.
        let _ = refusal.print();
        return Exit::Ok.into();
    }
    // The command line was not understood, so whether it asked for JSON has to be guessed.
    if env::args_os().any(|argument| argument == "--json") {
        let text = refusal.render().to_string();
        let what = text.lines().next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        Failure::new(Exit::Usage, what).advise("see annulus --help").tell(true);
    } else {
        let _ = refusal.print();
    }
    Exit::Usage.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_says_what_it_does() {
        for subcommand in Cli::command().get_subcommands() {
            assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
        }
    }
}
