//! `annulus man`: the manual pages, made from the same tree as the help.

use std::fs;
use std::path::PathBuf;

use clap_mangen::Man;

use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

/// Print the manual page, or write one for each subcommand
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write annulus.1, annulus-ping.1 and so on into this directory
    directory: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    if let Some(directory) = &arguments.directory {
        fs::create_dir_all(directory).map_err(Failure::io("create", directory.display()))?;
        clap_mangen::generate_to(super::command(), directory)
            .map_err(Failure::io("write manual pages into", directory.display()))?;
    } else {
        let mut page = Vec::new();
        Man::new(super::command())
            .render(&mut page)
            .map_err(Failure::io("render", "the manual page"))?;
        session.output.raw(&page)?;
    }
    Ok(Exit::Ok)
}
