//! The `annulus` program: one thin door to `cli`, where each subcommand has a file of its own.
//!
//! What becomes a daemon goes through four steps, told in `cli/serve.rs`: configure, reserve, run,
//! drain.
#![deny(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
