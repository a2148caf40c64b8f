//! `annulus serve`: the daemon. Configure, reserve, run, drain.
//!
//! The main thread sleeps in a blocking read until a signal comes or the server stops; an idle
//! daemon makes no wake-ups at all.

use std::io::{self, Write as _};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use annulus::bench::follow_parent;
use annulus::trim;
use annulus::{IpcError, IpcServer, RunningServer, ShutdownHandle};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::core_dumps;
use super::exit::Exit;
use super::failure::Failure;
use super::logging;
use super::output::Tagged;
use super::session::Session;

/// What the server may take beyond `ipc.shutdown_timeout_secs` before it is given up.
const GRACE: Duration = Duration::from_secs(3);

/// The waiting thread does next to nothing.
const WAITER_STACK_SIZE: usize = 64 * 1024;

/// Run the daemon
///
/// Prints one line with its socket when it is ready, and logs to stderr. SIGTERM, SIGINT or SIGHUP
/// stop it gracefully: running requests may finish within ipc.shutdown_timeout_secs. A second
/// signal stops it at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// End when the process with this id does, which must be our parent
    #[arg(long, hide = true, value_name = "PID")]
    follow: Option<i32>,

    /// End after so many seconds in any case; for daemons that are only measured
    #[arg(long, hide = true, value_name = "SECONDS")]
    life: Option<u64>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    // Configure.
    trim::start_without_thread_caches();
    trim::share_one_heap();
    if let Some(parent) = arguments.follow {
        follow_parent(parent)?;
    }
    if let Some(seconds) = arguments.life {
        end_after(Duration::from_secs(seconds), "its life is over");
    }
    let config = session.config()?;
    logging::start(session)?;
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    core_dumps::forbid(&config)?;
    let patience = Duration::from_secs(config.ipc.shutdown_timeout_secs) + GRACE;

    // Reserve. Signals first: one that comes while the server starts is not lost.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(Failure::io("watch", "the signals SIGTERM, SIGINT and SIGHUP"))?;
    // What the server reserves untouched shall not lie where the configuration was read.
    trim::give_back_heap();
    let program = trim::ProgramPages::find().map(Arc::new);
    let mut builder = IpcServer::builder().config(config).register_provider_handlers();
    if let Ok(program) = &program {
        let program = Arc::clone(program);
        builder = builder.when_settled(move || {
            // What was refused once is no news.
            let _ = program.give_back();
        });
    }
    let server = builder.start()?;

    // Run.
    let socket_path = server.socket_path().to_owned();
    let stop = server.shutdown_handle();
    let ended = wait_for_end(server, signals.handle())?;
    // Before anybody waits for an answer.
    let program = program.and_then(|program| trim::give_back(&program).map(|()| program));
    let program = program
        .inspect_err(|error| tracing::debug!(%error, "memory that only the start needed is kept"));
    announce(session, &socket_path);

    // Drain.
    watch_signals(signals, &stop, patience, program.ok().as_deref());
    match ended.join() {
        Ok(outcome) => outcome?,
        Err(_) => return Err(Failure::new(Exit::Failed, "the server's waiting thread panicked")),
    }
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Says that clients may connect. Not being heard is no reason for a daemon to stop.
fn announce(session: &Session, socket_path: &Path) {
    #[derive(Serialize)]
    struct Body {
        event: &'static str,
        socket: String,
        pid: u32,
    }
    let socket = socket_path.display().to_string();
    let line = if session.output.json {
        let body = Body { event: "listening", socket, pid: process::id() };
        Tagged::new("annulus.serve/1", body).to_line()
    } else {
        format!("listening on {socket}")
    };
    let _ = writeln!(io::stdout(), "{line}");
}

/// Joins the server on a thread of its own, so that the main thread can watch signals meanwhile;
/// closing the signals wakes it.
fn wait_for_end(
    server: RunningServer,
    signals: Handle,
) -> Result<JoinHandle<Result<(), IpcError>>, Failure> {
    let wait = move || {
        let outcome = server.join();
        signals.close();
        outcome
    };
    thread::Builder::new()
        .name("annulus-wait".into())
        .stack_size(WAITER_STACK_SIZE)
        .spawn(wait)
        .map_err(Failure::io("start", "the waiting thread"))
}

/// Sleeps until the server has ended, by a signal or by itself; without `program`, of which what sleeps
/// needs next to nothing (`serving.ld`).
#[inline(never)]
fn watch_signals(
    mut signals: Signals,
    stop: &ShutdownHandle,
    patience: Duration,
    program: Option<&trim::ProgramPages>,
) {
    // What was refused once is no news.
    let _ = program.map(trim::ProgramPages::give_back);
    let mut stopping = false;
    for signal in signals.forever() {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        if stopping {
            tracing::warn!("{name} again: stopping at once");
            process::exit(Exit::Interrupted.code().into());
        }
        stopping = true;
        tracing::info!("{name}: stopping; once more to stop at once");
        stop.shutdown();
        end_after(patience, "it did not stop in time");
    }
}

/// Ends the process if it is still there after `time`.
fn end_after(time: Duration, reason: &'static str) {
    let end = move || {
        thread::sleep(time);
        tracing::error!("ended after {} s: {reason}", time.as_secs());
        process::exit(Exit::Failed.code().into());
    };
    // Without the thread, the server's own bound on stopping still holds.
    let _ = thread::Builder::new().name("annulus-end".into()).spawn(end);
}
