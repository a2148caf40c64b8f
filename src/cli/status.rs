//! `annulus status`: what the running daemon is doing and what it costs.
//!
//! The daemon answers for its work with the metrics page; for its memory the kernel answers, about
//! the process at the other end of the socket.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annulus::client::{Connection, RequestOptions};
use annulus::footprint::Footprint;
use annulus::wire::MessageType;
use serde::Serialize;

use self::providers::ProviderState;
use super::client::{connect_options, parse_seconds};
use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

mod providers;

/// Tell what the running daemon does and what it costs
///
/// Connections include the one that asks. Memory is the kernel's account of the daemon's process:
/// private is what its end would free, proportional counts shared pages in part, shared in full.
/// Clients bring the memory of their connections themselves, so "owned" leaves it out.
///
/// A provider on the network is ready while one of its endpoints is not left alone by its circuit
/// breaker.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long the daemon may take to answer
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Body {
    socket: String,
    process_id: u32,
    uptime_seconds: u64,
    /// The one that asks included.
    connections_open: u64,
    connections_accepted_total: u64,
    requests_total: u64,
    leases_in_use: u64,
    /// One provider on the network at least is ready, or none is configured.
    providers_ready: bool,
    providers: Vec<ProviderState>,
    /// What the process itself brought, its clients' regions left out.
    owned_bytes: u64,
    memory: Footprint,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = session.client_config()?;
    let options = connect_options(&config).connect_timeout(arguments.timeout);
    let mut connection = Connection::connect(&options)?;
    let process_id = connection.daemon_process_id()?;
    let mut page = Vec::new();
    let within = RequestOptions::within(arguments.timeout);
    connection.call_with(MessageType::METRICS, &[], within, &mut page)?;
    let page = Page(&String::from_utf8_lossy(&page));

    let path = format!("/proc/{process_id}/smaps_rollup");
    let memory = Footprint::of_process(process_id).map_err(Failure::io("read", path))?;
    let providers = ProviderState::all(&page);
    let body = Body {
        socket: config.ipc.socket_path.display().to_string(),
        process_id,
        uptime_seconds: page.uptime_seconds(SystemTime::now()),
        connections_open: page.sum("annulus_connections_open"),
        connections_accepted_total: page.sum("annulus_connections_accepted_total"),
        requests_total: page.sum("annulus_requests_total"),
        leases_in_use: page.sum("annulus_leases_in_use"),
        providers_ready: providers.is_empty() || providers.iter().any(ProviderState::is_ready),
        providers,
        owned_bytes: memory.owned_bytes(),
        memory,
    };
    if session.output.json {
        session.output.object("annulus.status/1", body)?;
    } else {
        session.output.line(&text(&body))?;
    }
    Ok(Exit::Ok)
}

/// The daemon's metrics, in Prometheus' text format.
struct Page<'p>(&'p str);

impl Page<'_> {
    /// The values of every sample of `name`: over shards, types, tiers.
    fn values(&self, name: &str) -> impl Iterator<Item = f64> {
        self.lines(name).filter_map(|(_, value)| value.parse().ok())
    }

    /// The labels and the counts of every sample of `name`.
    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        self.lines(name).filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
    }

    fn lines(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit_once(' ')).flatten()
        })
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    fn sum(&self, name: &str) -> u64 {
        self.values(name).sum::<f64>() as u64
    }

    /// Zero when the clock was set back since the daemon's start.
    fn uptime_seconds(&self, now: SystemTime) -> u64 {
        let started = self.values("process_start_time_seconds").next();
        let started = started.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        started.map_or(0, |started| now.saturating_sub(started).as_secs())
    }
}

fn text(body: &Body) -> String {
    let memory = &body.memory;
    let rows = [
        ("socket", body.socket.clone()),
        ("process", body.process_id.to_string()),
        ("up", format!("{} s", body.uptime_seconds)),
        ("connections", connections(body)),
        ("requests", body.requests_total.to_string()),
        ("leases in use", body.leases_in_use.to_string()),
        ("private memory", kibibytes(memory.private_bytes)),
        ("proportional memory", kibibytes(memory.pss_bytes)),
        ("  of it owned", kibibytes(body.owned_bytes)),
        ("  of it clients' regions", kibibytes(memory.pss_shmem_bytes)),
        ("shared memory", kibibytes(memory.shared_bytes)),
    ];
    let rows = rows.map(|(name, value)| (name.to_owned(), value));
    let rows = rows.into_iter().chain(body.providers.iter().map(ProviderState::row));
    let lines: Vec<String> = rows.map(|(name, value)| format!("{name:<26}{value}")).collect();
    lines.join("\n")
}

fn connections(body: &Body) -> String {
    format!("{} open, {} since the start", body.connections_open, body.connections_accepted_total)
}

fn kibibytes(bytes: u64) -> String {
    format!("{} KiB", bytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'_> = Page(
        "process_start_time_seconds 90.5\n\
         # HELP annulus_connections_open Connections open now.\n\
         annulus_connections_open{shard=\"0\"} 3\n\
         annulus_connections_open{shard=\"1\"} 4\n\
         annulus_connections_open_total 100\n",
    );

    #[test]
    fn samples_of_one_name_are_summed_and_longer_names_left_out() {
        assert_eq!(PAGE.sum("annulus_connections_open"), 7);
        assert_eq!(PAGE.sum("annulus_missing"), 0);
    }

    #[test]
    fn uptime_never_wraps() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(PAGE.uptime_seconds(at(100)), 9);
        assert_eq!(PAGE.uptime_seconds(at(1)), 0);
    }
}
