//! `annulus ping`: is the daemon there, and how quickly does it answer?

use std::time::{Duration, Instant};

use annulus::IpcError;
use annulus::bench::duration_text;
use annulus::client::{Connection, RequestOptions};
use annulus::wire::MessageType;
use serde::Serialize;

use super::client::{connect_options, parse_seconds};
use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

/// Ask the daemon whether it is there
///
/// Sends a heartbeat, which takes the whole way of an AI request except the provider, then a few
/// echoes, which only go to a data shard and back.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many echoes to send
    #[arg(short, long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// How long one answer may take
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Body {
    socket: String,
    connect_ns: u64,
    /// To the providers' executor and back: the whole way that an AI request takes.
    heartbeat_ns: u64,
    /// To the data shard and back, in the order in which they were sent.
    round_trips_ns: Vec<u64>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = session.client_config()?;
    let started = Instant::now();
    let options = connect_options(&config).connect_timeout(arguments.timeout);
    let mut connection = Connection::connect(&options)?;
    let connect_ns = nanoseconds(started.elapsed());

    let mut answer = Vec::new();
    let mut round_trip = |message_type| {
        let sent = Instant::now();
        let options = RequestOptions::within(arguments.timeout);
        connection.call_with(message_type, &[], options, &mut answer)?;
        Ok::<_, IpcError>(nanoseconds(sent.elapsed()))
    };
    let heartbeat_ns = round_trip(MessageType::HEARTBEAT)?;
    let mut round_trips_ns = Vec::with_capacity(arguments.count as usize);
    for _ in 0..arguments.count {
        round_trips_ns.push(round_trip(MessageType::ECHO)?);
    }

    let socket = config.ipc.socket_path.display().to_string();
    let body = Body { socket, connect_ns, heartbeat_ns, round_trips_ns };
    if session.output.json {
        session.output.object("annulus.ping/1", body)?;
    } else {
        session.output.line(&sentence(&body))?;
    }
    Ok(Exit::Ok)
}

fn sentence(body: &Body) -> String {
    let best = body.round_trips_ns.iter().min().copied().unwrap_or(body.heartbeat_ns);
    format!(
        "{}: connected in {}, heartbeat {}, echo at best {}",
        body.socket,
        duration_text(body.connect_ns),
        duration_text(body.heartbeat_ns),
        duration_text(best)
    )
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_echo_is_what_is_told() {
        let body = Body {
            socket: "/s".into(),
            connect_ns: 300_000,
            heartbeat_ns: 80_000,
            round_trips_ns: vec![500, 400],
        };
        assert_eq!(
            sentence(&body),
            "/s: connected in 300 µs, heartbeat 80.0 µs, echo at best 400 ns"
        );
    }
}
