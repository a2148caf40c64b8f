//! The daemon's own cases: what is measured of it, how often, and what a daemon for it is like.

use std::time::Duration;

use super::{Burst, Case, Cores, Pace};

/// Connections of the cases with some, and with many.
const CONNECTIONS_FEW: u32 = 16;
const CONNECTIONS_MANY: u32 = 1_000;
/// Open connections of the most crowded case: as many as a daemon takes.
const CONNECTIONS_MAX: u32 = 10_000;

/// Requests in flight on each connection: where few connections keep the daemon busy; where each of
/// many waits for its answer before it asks again; where many send batches.
const WINDOW_FEW: u32 = 64;
const WINDOW_SINGLE: u32 = 1;
const WINDOW_BATCH: u32 = 16;

/// How long both sides are left alone before a cold round trip.
const PARK_TIME: Duration = Duration::from_millis(1);

/// No round of a case starts after this, so that all of them take about a minute.
const CASE_TIME_MAX: Duration = Duration::from_secs(5);

/// How requests meet the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One after the other, both sides polling.
    Hot,
    /// Each after a pause in which both sides have parked.
    Cold(Waiting),
    /// Many in flight on every connection.
    Pipelined,
    /// Many in flight on some connections, while many others are open and quiet.
    Crowded,
}

/// How a client waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It parks at once.
    Block,
    /// It polls until the answer is there, unless the daemon has come to its core.
    Spin,
    /// It awaits a future, which the client's own thread drives.
    Async,
}

/// What a daemon for a case is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonKind {
    /// Its shard is kept on the server's core.
    Pinned,
    /// It is left to place its shard, as it does unless it is told.
    Free,
    /// Pinned, with room for as many connections as a daemon takes.
    Crowded,
}

/// One case of the daemon.
#[derive(Clone, Debug)]
pub struct DaemonCase {
    /// How requests meet the daemon.
    pub load: Load,
    /// How many, how large, on how many connections.
    pub case: Case,
}

/// All cases of the daemon, about a minute together.
#[must_use]
pub fn daemon_cases() -> Vec<DaemonCase> {
    let mut cases = Vec::new();
    for (size, operation_count) in [(64, 200_000), (1024, 200_000), (4096, 100_000)] {
        cases.push(DaemonCase::new(Load::Hot, size, 1, operation_count));
    }
    for size in [64, 1024] {
        for (connections, window) in [
            (1, WINDOW_FEW),
            (CONNECTIONS_FEW, WINDOW_FEW),
            (CONNECTIONS_MANY, WINDOW_SINGLE),
            (CONNECTIONS_MANY, WINDOW_BATCH),
        ] {
            let case = DaemonCase::new(Load::Pipelined, size, connections, 1_000_000);
            cases.push(case.with_window(window));
        }
    }
    cases.push(DaemonCase::new(Load::Pipelined, 4096, 1, 300_000));
    for waiting in [Waiting::Block, Waiting::Spin, Waiting::Async] {
        cases.push(DaemonCase::new(Load::Cold(waiting), 64, 1, 200));
    }
    for open in [CONNECTIONS_FEW, CONNECTIONS_MANY, CONNECTIONS_MAX] {
        let case = DaemonCase::new(Load::Crowded, 64, CONNECTIONS_FEW, 1_000_000);
        cases.push(case.with_window(WINDOW_BATCH).with_open(open));
    }
    cases
}

/// The settings of a daemon that is to be measured on `cores`.
#[must_use]
pub fn daemon_settings(kind: DaemonKind, cores: Cores) -> Vec<(&'static str, String)> {
    let connections_max = match kind {
        DaemonKind::Crowded => CONNECTIONS_MAX,
        DaemonKind::Pinned | DaemonKind::Free => CONNECTIONS_MANY + 8,
    };
    let mut settings = vec![
        ("shards.count", "1".to_owned()),
        ("ipc.max_connections", connections_max.to_string()),
        ("ipc.idle_timeout_secs", "0".to_owned()),
    ];
    if kind != DaemonKind::Free {
        settings.push(("shards.cores", cores.server.to_string()));
        settings.push(("shards.follow_client", "false".to_owned()));
    }
    settings
}

impl Load {
    /// The name of its cases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "rtt_hot",
            Self::Cold(Waiting::Block) => "rtt_cold_block",
            Self::Cold(Waiting::Spin) => "rtt_cold_spin",
            Self::Cold(Waiting::Async) => "rtt_cold_async",
            Self::Pipelined => "throughput",
            Self::Crowded => "open",
        }
    }

    /// Whether one core is enough for both sides: not when either polls.
    #[must_use]
    pub const fn fits_one_core(self) -> bool {
        matches!(self, Self::Cold(Waiting::Block | Waiting::Async))
    }

    /// Whether many requests are in flight, so that the rate says more than a latency.
    #[must_use]
    pub const fn is_pipelined(self) -> bool {
        matches!(self, Self::Pipelined | Self::Crowded)
    }

    /// The daemon that it is meant for.
    #[must_use]
    pub const fn daemon(self) -> DaemonKind {
        match self {
            Self::Hot | Self::Pipelined => DaemonKind::Pinned,
            Self::Cold(_) => DaemonKind::Free,
            Self::Crowded => DaemonKind::Crowded,
        }
    }
}

impl DaemonCase {
    /// A case of five rounds, each burst within a second; a pipelined one with as many requests in
    /// flight on each connection as keep the daemon busy.
    #[must_use]
    pub fn new(load: Load, payload_size: usize, connections: u32, operation_count: u32) -> Self {
        let is_cold = matches!(load, Load::Cold(_));
        let burst = Burst {
            payload_size,
            warmup_count: operation_count / 20,
            operation_count,
            pace: if is_cold { Pace::Parked(PARK_TIME) } else { Pace::BackToBack },
            time_max: Duration::from_secs(1),
        };
        let mut case = Case::new(load.name(), connections, burst);
        case.time_max = CASE_TIME_MAX;
        case.window = if load.is_pipelined() { WINDOW_FEW } else { 1 };
        Self { load, case }
    }

    /// The same with so many requests in flight on each connection.
    #[must_use]
    pub fn with_window(mut self, window: u32) -> Self {
        self.case.window = window;
        self
    }

    /// The same while so many connections are open, its own included.
    #[must_use]
    pub fn with_open(mut self, open: u32) -> Self {
        self.case.open = open;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};
    use crate::paths::Places;

    #[test]
    fn every_case_has_a_name_of_its_load_and_a_size_that_can_be_stamped() {
        for DaemonCase { load, case } in daemon_cases() {
            assert_eq!(case.name, load.name());
            assert!(case.burst.payload_size.is_multiple_of(8) && case.burst.payload_size > 0);
            assert!(case.connections <= case.open && case.open <= CONNECTIONS_MAX);
            assert!(case.window == 1 || load.is_pipelined());
        }
    }

    #[test]
    fn every_bar_of_throughput_has_its_case() {
        let cases = daemon_cases();
        let has = |size, connections, window| {
            cases.iter().any(|case| {
                let DaemonCase { load, case } = case;
                *load == Load::Pipelined
                    && (case.burst.payload_size, case.connections, case.window)
                        == (size, connections, window)
            })
        };
        for size in [64, 1024] {
            assert!(has(size, 1, 64) && has(size, 16, 64));
            assert!(has(size, 1_000, 1) && has(size, 1_000, 16));
        }
        assert!(has(4096, 1, 64));
    }

    #[test]
    fn a_daemon_takes_its_settings_and_has_room_for_its_cases() {
        let cores = Cores { server: 1, client: 0 };
        for DaemonCase { load, case } in daemon_cases() {
            let settings = daemon_settings(load.daemon(), cores);
            let of = |key| settings.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
            assert!(of("ipc.max_connections").unwrap().parse::<u32>().unwrap() >= case.open);
            assert_eq!(of("shards.cores").is_none(), matches!(load, Load::Cold(_)));
            let overrides = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            let sources = Sources {
                file: None,
                environment: Vec::new(),
                overrides: overrides.collect(),
                places: Places {
                    runtime_dir: Some("/run/user/1".into()),
                    config_home: None,
                    state_home: None,
                    home: None,
                    runtime_root: "/run/user".into(),
                    uid: 1,
                },
            };
            Config::load(&sources).unwrap();
        }
    }
}
