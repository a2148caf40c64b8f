//! `annulus completions`: what a shell needs to complete our command line.

use clap_complete::Shell;

use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "annulus", &mut script);
    session.output.raw(&script)?;
    Ok(Exit::Ok)
}
