//! `annulus demo`: the main job on a fresh machine, within seconds, without a key or a network.
//!
//! A daemon of our own streams an answer, cancels another one half-way, and is measured beside the
//! limits of this machine in the same run. Nothing is left behind, however it ends.

use std::time::{Duration, Instant};

use annulus::bench::{
    BenchError, CaseResult, Cores, DaemonBench, DaemonCase, DaemonKind, DaemonProcess, Launcher,
    Load, Waiting, daemon_settings,
};
use annulus::client::{Client, ConnectOptions};
use annulus::protocol::{AIRequest, Message, MessageRole, StreamEvent};
use annulus::wire::MessageType;
use serde::Serialize;

use super::bench::{start_daemon, table_of};
use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

const SCHEMA: &str = "annulus.demo/1";

/// The daemon's life when something hangs.
const DAEMON_LIFE: Duration = Duration::from_secs(60);

/// A pace at which a person sees the answer grow: about 200 characters a second.
const CHUNKS_PER_SECOND: u32 = 60;
const CHUNK_SIZE: u32 = 4;

const PROMPT: &str = "Why should every editor window on this machine share one AI backend?";
const LONG_PROMPT: &str = "Tell me a very long story, and take your time.";

/// Before every line of an answer.
const INDENT: &str = "    ";

/// After so many chunks the second answer is cancelled.
const CHUNKS_BEFORE_CANCEL: usize = 18;

/// How long to wait until the daemon has counted the cancelled request.
const COUNT_TIME_MAX: Duration = Duration::from_secs(1);
/// The line of its metrics that counts them.
const CANCELLED_COUNTER: &str = "annulus_errors_total{type=\"stream\",status=\"cancelled\"}";

/// Show what Annulus does: stream, cancel, and how fast
///
/// Needs no configuration, no key and no network: the daemon, started on a private socket, answers
/// with its built-in loopback provider. Takes less than 15 seconds and leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// What happened, one object per step.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Step<'d> {
    Started { pid: u32, start_ms: f64, server_core: usize, client_core: usize },
    Streamed { text: &'d str, chunks: usize, first_chunk_ms: f64, whole_ms: f64 },
    Cancelled { chunks: usize, next_answer_ms: f64, counted_by_daemon: bool },
    Unmeasured { case: &'d str, reason: String },
    Stopped { stop_ms: f64 },
}

pub(crate) fn run(session: &Session, _: &Arguments) -> Result<Exit, Failure> {
    let demo = Demo { session };
    let (cores, one_core) = match Cores::choose() {
        Ok(cores) => (cores, false),
        Err(BenchError::OneCore { core }) => (Cores { server: core, client: core }, true),
        Err(error) => return Err(error.into()),
    };
    demo.line(&session.output.paint.bold("Annulus demo: a daemon of its own, no network, no key"))?;
    demo.line("")?;

    let started = Instant::now();
    let daemon = demo_daemon(cores)?;
    demo.tell_start(&daemon, cores, started.elapsed())?;

    let client = Client::connect(&ConnectOptions::new().socket_path(daemon.socket()))?;
    demo.stream(&client)?;
    demo.cancel(&client)?;
    drop(client);

    demo.measure(&daemon, cores, one_core)?;
    demo.stop(daemon)?;
    Ok(Exit::Ok)
}

fn demo_daemon(cores: Cores) -> Result<DaemonProcess, Failure> {
    let mut settings = daemon_settings(DaemonKind::Pinned, cores);
    settings.push(("providers.loopback.chunks_per_second", CHUNKS_PER_SECOND.to_string()));
    settings.push(("providers.loopback.chunk_size", CHUNK_SIZE.to_string()));
    start_daemon(&settings, DAEMON_LIFE)
}

struct Demo<'s> {
    session: &'s Session,
}

impl Demo<'_> {
    fn tell_start(
        &self,
        daemon: &DaemonProcess,
        cores: Cores,
        time: Duration,
    ) -> Result<(), Failure> {
        let (pid, Cores { server, client }) = (daemon.id(), cores);
        let start_ms = milliseconds(time);
        self.step(&Step::Started { pid, start_ms, server_core: server, client_core: client })?;
        self.line(&format!(
            "  daemon {pid} listened after {start_ms:.0} ms; its shard runs on core {server}, we on \
             core {client}\n"
        ))
    }

    fn stream(&self, client: &Client) -> Result<(), Failure> {
        self.heading("1", "An answer, shown as it is made")?;
        self.prompt(PROMPT)?;
        let mut answer = String::new();
        let mut chunks = 0;
        let mut first_chunk = None;
        let asked = Instant::now();
        for event in client.stream_completion(&request(PROMPT))? {
            if let StreamEvent::Text { text } = event? {
                first_chunk.get_or_insert_with(|| asked.elapsed());
                chunks += 1;
                self.indented(&text)?;
                answer += &text;
            }
        }
        let first_chunk_ms = milliseconds(first_chunk.unwrap_or_default());
        let whole_ms = milliseconds(asked.elapsed());
        self.text("\n")?;
        self.step(&Step::Streamed { text: &answer, chunks, first_chunk_ms, whole_ms })?;
        self.aside(&format!(
            "{chunks} chunks in {:.1} s, paced to {CHUNKS_PER_SECOND} a second for the eye",
            whole_ms / 1000.0
        ))
    }

    /// Drops a stream half-way, which cancels it, and shows that the daemon has noticed.
    fn cancel(&self, client: &Client) -> Result<(), Failure> {
        self.heading("2", "Another one, cancelled half-way")?;
        self.prompt(LONG_PROMPT)?;
        let mut stream = client.stream_completion(&request(LONG_PROMPT))?;
        let mut chunks = 0;
        for event in stream.by_ref() {
            if let StreamEvent::Text { text } = event? {
                self.indented(&text)?;
                chunks += 1;
            }
            if chunks == CHUNKS_BEFORE_CANCEL {
                break;
            }
        }
        let cancelled = Instant::now();
        drop(stream);
        client.ping()?;
        let next_answer_ms = milliseconds(cancelled.elapsed());
        self.text(&format!(" {}\n", self.session.output.paint.bold("✂ cancelled")))?;

        let counted_by_daemon = wait_for_count(client)?;
        self.step(&Step::Cancelled { chunks, next_answer_ms, counted_by_daemon })?;
        let counted = if counted_by_daemon { "; it counts the stream as cancelled" } else { "" };
        self.aside(&format!(
            "the daemon answered the next request on this connection after {next_answer_ms:.1} \
             ms{counted}"
        ))
    }

    fn measure(&self, daemon: &DaemonProcess, cores: Cores, one_core: bool) -> Result<(), Failure> {
        self.heading("3", "How fast, beside what this machine can do at best")?;
        if one_core {
            self.aside("only one core is allowed here: nothing that polls can be measured")?;
        }
        if cfg!(debug_assertions) {
            self.aside("this is a debug build, its figures mean little")?;
        }
        let mut bench = DaemonBench::new(daemon, cores, Launcher::this_executable())?;
        let mut results = Vec::new();
        for case in cases().iter().filter(|case| !one_core || case.load.fits_one_core()) {
            self.progress(&format!("  measuring {} …", case.load.name()));
            let outcome = bench.run(case, &mut |_| {});
            self.progress("");
            match outcome {
                Ok(result) => self.keep(result, &mut results)?,
                // A restless machine is no fault of the daemon's.
                Err(error) if error.ends_only_its_case() => {
                    let name = case.load.name();
                    self.step(&Step::Unmeasured { case: name, reason: error.to_string() })?;
                    self.aside(&format!("{name} could not be measured: {error}"))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.table(&results)
    }

    fn keep(&self, result: CaseResult, results: &mut Vec<CaseResult>) -> Result<(), Failure> {
        if self.session.output.json {
            self.session.output.line(&result.to_json_line())?;
        }
        results.push(result);
        Ok(())
    }

    fn table(&self, results: &[CaseResult]) -> Result<(), Failure> {
        if results.is_empty() {
            return self.line("");
        }
        for line in table_of(self.session, results)?.lines() {
            self.line(&format!("  {line}"))?;
        }
        self.aside(
            "beside: two processes that hand over a bare cache line, eventfd or slots of memory",
        )
    }

    fn stop(&self, daemon: DaemonProcess) -> Result<(), Failure> {
        let stop_ms = milliseconds(daemon.stop()?);
        self.step(&Step::Stopped { stop_ms })?;
        let next = self.session.output.paint.cyan("annulus serve");
        self.line(&format!("  daemon stopped after {stop_ms:.0} ms. Run your own: {next}"))
    }

    fn heading(&self, number: &str, text: &str) -> Result<(), Failure> {
        let paint = self.session.output.paint;
        self.line(&format!("{} {}", paint.cyan(number), paint.bold(text)))
    }

    fn prompt(&self, prompt: &str) -> Result<(), Failure> {
        self.line(&format!("  {} {prompt}", self.session.output.paint.green(">")))?;
        self.text(INDENT)
    }

    fn aside(&self, text: &str) -> Result<(), Failure> {
        self.line(&format!("  {}\n", self.session.output.paint.dim(text)))
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    fn text(&self, text: &str) -> Result<(), Failure> {
        if self.session.output.json { Ok(()) } else { self.session.output.raw(text.as_bytes()) }
    }

    /// A piece of an answer, whose lines stand below the prompt.
    fn indented(&self, text: &str) -> Result<(), Failure> {
        self.text(&text.trim_end_matches('\n').replace('\n', &format!("\n{INDENT}")))
    }

    fn step(&self, step: &Step<'_>) -> Result<(), Failure> {
        if self.session.output.json { self.session.output.object(SCHEMA, step) } else { Ok(()) }
    }

    /// A line that the next one replaces; for terminals only.
    fn progress(&self, text: &str) {
        if !self.session.output.json && self.session.output.paint_stderr.is_on() {
            eprint!("\r\x1b[K{text}");
        }
    }
}

/// The bench's own cases, fewer and shorter.
fn cases() -> Vec<DaemonCase> {
    let mut cases = vec![
        DaemonCase::new(Load::Hot, 64, 1, 100_000),
        DaemonCase::new(Load::Cold(Waiting::Block), 64, 1, 150),
        DaemonCase::new(Load::Pipelined, 64, 1, 500_000),
        DaemonCase::new(Load::Pipelined, 64, 16, 500_000),
    ];
    for DaemonCase { case, .. } in &mut cases {
        case.round_count = 3;
        case.rejected_count_max = 5;
        case.burst.time_max = Duration::from_millis(300);
        case.time_max = Duration::from_millis(2_500);
    }
    cases
}

fn request(prompt: &str) -> AIRequest {
    AIRequest::new("loopback", vec![Message::new(MessageRole::User, prompt)])
}

/// Whether the daemon counts a cancelled stream; it does so when it has let go of it.
fn wait_for_count(client: &Client) -> Result<bool, Failure> {
    let deadline = Instant::now() + COUNT_TIME_MAX;
    // Bounded by the deadline.
    loop {
        let page = client.call(MessageType::METRICS, &[])?;
        let page = String::from_utf8_lossy(&page);
        let count = page.lines().find_map(|line| line.strip_prefix(CANCELLED_COUNTER));
        if count.is_some_and(|count| count.trim() != "0") {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn milliseconds(time: Duration) -> f64 {
    // Three decimals are microseconds; more would be noise.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_measurements_fit_the_promised_time() {
        let worst: Duration = cases().iter().map(|case| case.case.time_max).sum();
        // One round may start just before the bound; streaming takes a few seconds more.
        assert!(worst <= Duration::from_secs(10), "{worst:?}");
    }

    #[test]
    fn some_case_is_left_for_a_single_core() {
        assert!(cases().iter().any(|case| case.load.fits_one_core()));
    }
}
