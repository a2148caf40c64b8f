//! The daemon's own cases: what a client of it waits for, beside the limit of the same exchange.

use std::time::Duration;

use super::throughput::Pipeline;
use super::{
    BenchError, Burst, Case, CaseResult, Cores, DaemonProcess, Instruments, Launcher, Limit,
    LimitMeter, Meter, Pace, Subject, Timed,
};
use crate::client::{ConnectOptions, Connection, WaitPolicy};
use crate::wire::MessageType;

/// Connections of the largest case.
const CONNECTIONS_MAX: u32 = 1_000;
/// Connections above which each keeps fewer requests in flight.
const CONNECTIONS_FEW: u32 = 16;
/// Requests in flight on each of few connections, and on each of many: there its requests of 64
/// bytes fit the connection's one page.
const WINDOW_FEW: usize = 64;
const WINDOW_MANY: usize = 1;

/// How long both sides are left alone before a cold round trip.
const PARK_TIME: Duration = Duration::from_millis(1);

/// How requests meet the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One after the other, both sides polling.
    Hot,
    /// Each after a pause in which both sides have parked.
    Cold,
    /// Many in flight on every connection.
    Pipelined,
}

/// No round of a case starts after this, so that all of them take less than a minute.
const CASE_TIME_MAX: Duration = Duration::from_secs(5);

/// One case of the daemon.
#[derive(Clone, Debug)]
pub struct DaemonCase {
    /// How requests meet the daemon.
    pub load: Load,
    /// How many, how large, on how many connections.
    pub case: Case,
}

/// All cases of the daemon, within a minute together.
#[must_use]
pub fn daemon_cases() -> Vec<DaemonCase> {
    let mut cases = Vec::new();
    for (size, operation_count) in [(64, 200_000), (1024, 200_000), (4096, 100_000)] {
        cases.push(DaemonCase::new(Load::Hot, size, 1, operation_count));
    }
    cases.push(DaemonCase::new(Load::Cold, 64, 1, 400));
    for size in [64, 1024] {
        for connections in [1, 16, CONNECTIONS_MAX] {
            cases.push(DaemonCase::new(Load::Pipelined, size, connections, 1_000_000));
        }
    }
    cases
}

/// The settings of a daemon that is to be measured on `cores`.
#[must_use]
pub fn daemon_settings(cores: Cores) -> Vec<(&'static str, String)> {
    vec![
        ("shards.count", "1".to_owned()),
        ("shards.cores", cores.server.to_string()),
        ("ipc.max_connections", (CONNECTIONS_MAX + 8).to_string()),
        ("ipc.idle_timeout_secs", "0".to_owned()),
    ]
}

impl Load {
    /// The name of its cases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "rtt_hot",
            Self::Cold => "rtt_cold",
            Self::Pipelined => "throughput",
        }
    }

    /// Whether one core is enough for both sides: not when either polls.
    #[must_use]
    pub const fn fits_one_core(self) -> bool {
        matches!(self, Self::Cold)
    }
}

impl DaemonCase {
    /// A case of five rounds, each burst within a second.
    #[must_use]
    pub fn new(load: Load, payload_size: usize, connections: u32, operation_count: u32) -> Self {
        let burst = Burst {
            payload_size,
            warmup_count: operation_count / 20,
            operation_count,
            pace: if load == Load::Cold { Pace::Parked(PARK_TIME) } else { Pace::BackToBack },
            time_max: Duration::from_secs(1),
        };
        let mut case = Case::new(load.name(), connections, burst);
        case.time_max = CASE_TIME_MAX;
        Self { load, case }
    }

    /// Requests in flight on each connection.
    #[must_use]
    pub const fn window(&self) -> usize {
        match self.load {
            Load::Hot | Load::Cold => 1,
            Load::Pipelined if self.case.connections <= CONNECTIONS_FEW => WINDOW_FEW,
            Load::Pipelined => WINDOW_MANY,
        }
    }
}

/// Measures cases against one daemon, from the calling thread.
#[derive(Debug)]
pub struct DaemonBench<'d> {
    daemon: &'d DaemonProcess,
    cores: Cores,
    launcher: Launcher,
    canary: LimitMeter,
}

impl<'d> DaemonBench<'d> {
    /// A bench for a daemon whose shard is on `cores.server`; see [`daemon_settings`]. With one core
    /// for both, only cases that [fit it](Load::fits_one_core) can be run.
    ///
    /// # Errors
    ///
    /// None today; a limit may refuse its cores.
    pub fn new(
        daemon: &'d DaemonProcess,
        cores: Cores,
        launcher: Launcher,
    ) -> Result<Self, BenchError> {
        let one_core = cores.server == cores.client;
        let canary = if one_core { Limit::Eventfd } else { Limit::CacheLine };
        let canary = LimitMeter::new(canary, cores, launcher.clone())?;
        Ok(Self { daemon, cores, launcher, canary })
    }

    /// Runs one case beside its limit: a cache line for a hot round trip, an eventfd for a cold one,
    /// none for throughput.
    ///
    /// # Errors
    ///
    /// Those of [`Case::run`]; what the client met is in [`BenchError::Subject`].
    pub fn run(&mut self, daemon_case: &DaemonCase) -> Result<CaseResult, BenchError> {
        let DaemonCase { load, case } = daemon_case;
        let limit = match load {
            Load::Hot => Some(Limit::CacheLine),
            Load::Cold => Some(Limit::Eventfd),
            Load::Pipelined => None,
        };
        let mut limit = match limit {
            Some(limit) => Some(LimitMeter::new(limit, self.cores, self.launcher.clone())?),
            None => None,
        };
        let mut subject = self.subject(daemon_case)?;
        case.run(Instruments {
            canary: &mut self.canary,
            limit: limit.as_mut().map(|limit| limit as &mut dyn Meter),
            subject: subject.as_mut(),
        })
    }

    fn subject(&self, daemon_case: &DaemonCase) -> Result<Box<dyn Meter>, BenchError> {
        let options = ConnectOptions::new().socket_path(self.daemon.socket());
        let client_core = self.cores.client;
        let echo = |wait| -> Result<Box<dyn Meter>, BenchError> {
            let subject = Echo::connect(&options.clone().wait(wait))?;
            Ok(Box::new(Timed { subject, client_core }))
        };
        match daemon_case.load {
            Load::Hot => echo(WaitPolicy::SPIN),
            Load::Cold => echo(WaitPolicy::PARK),
            Load::Pipelined => {
                let (window, case) = (daemon_case.window(), &daemon_case.case);
                let size = case.burst.payload_size;
                let lanes =
                    Pipeline::connect(options, case.connections, window, size, client_core)?;
                Ok(Box::new(lanes))
            }
        }
    }
}

/// A connection that sends a payload to the daemon and gets it back.
#[derive(Debug)]
struct Echo {
    connection: Connection,
    received: Vec<u8>,
}

impl Echo {
    fn connect(options: &ConnectOptions) -> Result<Self, BenchError> {
        let connection = Connection::connect(options).map_err(BenchError::subject)?;
        Ok(Self { connection, received: Vec::new() })
    }
}

impl Subject for Echo {
    /// Without a deadline, which would read the clock twice: the daemon's life is bounded instead
    /// ([`DaemonProcess::start`]), and its end ends the wait.
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<(), BenchError> {
        self.connection
            .call(MessageType::ECHO, payload, &mut self.received)
            .map_err(BenchError::subject)?;
        if self.received.len() != answer.len() {
            return Err(BenchError::AnswerSize {
                size: self.received.len(),
                expected: answer.len(),
            });
        }
        answer.copy_from_slice(&self.received);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_load_and_a_size_that_can_be_stamped() {
        for DaemonCase { load, case } in daemon_cases() {
            assert_eq!(case.name, load.name());
            assert!(case.burst.payload_size.is_multiple_of(8) && case.burst.payload_size > 0);
            assert!(case.connections <= CONNECTIONS_MAX);
        }
    }

    #[test]
    fn many_connections_keep_less_in_flight_each() {
        let window = |connections| DaemonCase::new(Load::Pipelined, 64, connections, 1).window();
        assert_eq!((window(1), window(16), window(1_000)), (64, 64, 1));
    }
}
