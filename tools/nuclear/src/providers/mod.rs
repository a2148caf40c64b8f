//! What the way to a provider costs: our own upstream behind a daemon, and beside it the same
//! upstream without one.
//!
//! ```text
//! requests   complete, open loop: what is added to the time that the upstream takes
//! chunks     many streams: when a chunk that was sent is in its client's ring
//! streams    as many streams as there are: whole, with what memory, and what others notice
//! upstream   the upstream's process, and what it noted       bare     clients without a daemon
//! windows    clients with many streams each                  paced    requests when they are due
//! ```
//!
//! The invariant to remember: all times are of one clock, `CLOCK_MONOTONIC`, which all processes of
//! a machine share; so a moment that the upstream noted can be subtracted from one that was noted
//! here.
//!
//! Daemon, upstream and clients share the cores of one machine. With fewer cores than busy threads
//! (the upstream, the http shard, the data shard, the client) every figure has waits for a core in it
//! that belong to the other three: the bare clients' figures, taken in the same run, show how much.

mod bare;
mod chunks;
mod paced;
mod requests;
mod streams;
mod upstream;
mod windows;

use std::net::SocketAddr;
use std::path::PathBuf;

use annulus::bench::{Cores, DaemonKind, DaemonProcess, Samples, daemon_settings};
use annulus::protocol::{AIRequest, Codec as _, JsonCodec, Message, MessageRole};
use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::upstream::Upstream;
use crate::Failure;
use crate::daemon;
use crate::levels::{Stage, as_float};
use crate::report::Report;

/// The provider's name in the daemon's configuration.
const PROVIDER: &str = "fake";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// What a request takes beyond its upstream's time, at 1,000 requests/s
    Requests,
    /// From an upstream's send to the client's ring, 200 streams of 50 chunks/s
    Chunks,
    /// 1,000 streams at once: all whole, the daemon's memory, and echoes beside them
    Streams,
}

/// How.
#[derive(Debug)]
pub(crate) struct Options {
    /// The `fake-upstream` program.
    pub(crate) upstream: Option<PathBuf>,
    /// Where the upstream listens.
    pub(crate) listen: Option<SocketAddr>,
    /// Encrypted between daemon and upstream.
    pub(crate) tls: bool,
    /// HTTP/2 there.
    pub(crate) http2: bool,
    /// Further settings of the daemon.
    pub(crate) settings: Vec<(String, String)>,
    /// Another proxy before the same upstream, and requests a second that it can hold.
    pub(crate) beside: Option<(SocketAddr, u32)>,
}

/// What every measurement starts from.
struct Scene<'a> {
    stage: &'a Stage,
    options: &'a Options,
    cores: Cores,
    /// The cores that this process had when it started.
    all: CpuSet,
}

pub(crate) fn measure(
    what: Measure,
    stage: &Stage,
    options: &Options,
    report: &mut Report,
) -> Result<(), Failure> {
    let scene = Scene { stage, options, cores: Cores::choose()?, all: sched_getaffinity(None)? };
    match what {
        Measure::Requests => {}
        // Its clients look at their rings all the time.
        Measure::Chunks => leave_core(scene.cores.client)?,
        // What the upstream and the clients of the streams do is not what the echoes are to notice.
        Measure::Streams => leave_core(scene.cores.client)?,
    }
    let upstream = Upstream::start(options)?;
    match what {
        Measure::Requests => requests::measure(&scene, upstream, report),
        Measure::Chunks => chunks::measure(&scene, &upstream, report),
        Measure::Streams => streams::measure(&scene, &upstream, report),
    }
}

/// Leaves a core to whoever pins itself to it: this process, and those that it starts, run on the
/// others.
fn leave_core(core: usize) -> Result<(), Failure> {
    let mut others = sched_getaffinity(None)?;
    others.unset(core);
    Ok(sched_setaffinity(None, &others)?)
}

impl Scene<'_> {
    /// A daemon whose provider is this upstream, on all cores even if this process has left one.
    fn start_daemon_on_all(&self, upstream: &Upstream) -> Result<DaemonProcess, Failure> {
        let ours = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.all)?;
        let daemon = self.start_daemon(upstream);
        sched_setaffinity(None, &ours)?;
        daemon
    }

    /// A daemon whose provider is this upstream.
    fn start_daemon(&self, upstream: &Upstream) -> Result<DaemonProcess, Failure> {
        let mut settings = daemon_settings(DaemonKind::Free, self.cores);
        settings.extend([
            ("providers.fake.kind", "openai-compatible".to_owned()),
            ("providers.fake.base_urls", format!("[\"{}/v1\"]", upstream.url())),
        ]);
        if let Some(authority) = upstream.authority() {
            settings.push(("upstream.extra_ca", authority.display().to_string()));
        }
        let further = self.options.settings.iter();
        settings.extend(further.map(|(key, value)| (key.as_str(), value.clone())));
        daemon::start_with(&self.stage.annulus, &settings)
    }
}

/// A request for a model of the upstream, as a client of the daemon sends it.
fn payload(model: &str, prompt: String) -> Result<Vec<u8>, Failure> {
    let question = Message::new(MessageRole::User, prompt);
    let request = AIRequest::new(format!("{PROVIDER}/{model}"), vec![question]);
    let mut payload = Vec::new();
    JsonCodec.encode_request(&request, &mut payload)?;
    Ok(payload)
}

/// `p50 …, p99 …` in microseconds.
fn quantiles(samples: &Samples) -> String {
    let summary = samples.summary();
    let (p50, p99) = (micros(summary.p50_ns), micros(summary.p99_ns));
    format!("p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {:.1} us", micros(summary.p999_ns))
}

fn micros(nanoseconds: u64) -> f64 {
    as_float(nanoseconds) / 1e3
}
