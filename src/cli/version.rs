//! `annulus version`: what this program is, and which daemons and clients it understands.

use annulus::wire::{PROTOCOL_MAJOR, PROTOCOL_MINOR};
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

#[derive(Serialize)]
struct Body {
    version: &'static str,
    /// Programs with the same first number understand each other.
    protocol: String,
    architecture: &'static str,
    os: &'static str,
    debug: bool,
}

pub(crate) fn run(session: &Session) -> Result<Exit, Failure> {
    let body = Body {
        version: env!("CARGO_PKG_VERSION"),
        protocol: format!("{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"),
        architecture: std::env::consts::ARCH,
        os: std::env::consts::OS,
        debug: cfg!(debug_assertions),
    };
    if session.output.json {
        session.output.object("annulus.version/1", body)?;
    } else {
        let Body { version, protocol, architecture, os, debug } = body;
        let build = if debug { ", debug build" } else { "" };
        session.output.line(&format!(
            "annulus {version} (protocol {protocol}, {architecture}-{os}{build})"
        ))?;
    }
    Ok(Exit::Ok)
}
