//! Measures cases against a daemon: connects what a case needs, and puts its limits beside it.

use std::borrow::Cow;

use super::echo::{AsyncEcho, Echo};
use super::lane::ConnectionLane;
use super::throughput::Pipeline;
use super::{
    BenchError, Case, CaseResult, Cores, DaemonCase, DaemonProcess, Instruments, Launcher, Limit,
    LimitMeter, Load, Meter, Progress, Subject, Timed, Waiting,
};
use crate::client::{ConnectOptions, Connection, WaitPolicy};
use crate::descriptors::{self, DescriptorLimit};
use crate::limits::RING_CAPACITY_MIN;

/// Descriptors of one connection while it is made: socket, region, two doorbells.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;
/// Descriptors of everything else in this process.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Measures cases against one daemon, from the calling thread.
#[derive(Debug)]
pub struct DaemonBench<'d> {
    daemon: &'d DaemonProcess,
    /// Another like it without a crowd.
    baseline: Option<&'d DaemonProcess>,
    cores: Cores,
    launcher: Launcher,
    canary: LimitMeter,
}

impl<'d> DaemonBench<'d> {
    /// A bench for a daemon of the kind that the cases are for. With one core for both, only cases
    /// that [fit it](Load::fits_one_core) can be run.
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
        Ok(Self { daemon, baseline: None, cores, launcher, canary })
    }

    /// Compares crowded cases with `baseline`: a daemon with the same settings, on which nothing is
    /// open but the connections that are used.
    #[must_use]
    pub fn with_baseline(mut self, baseline: &'d DaemonProcess) -> Self {
        self.baseline = Some(baseline);
        self
    }

    /// Runs one case beside what it cannot beat: a cache line for a hot round trip, an eventfd
    /// across cores and on one for a cold one, slots for throughput, and a daemon without a crowd
    /// for a crowded one. `progress` hears of each round.
    ///
    /// # Errors
    ///
    /// Those of [`Case::run`]; what the client met is in [`BenchError::Subject`].
    pub fn run(
        &mut self,
        daemon_case: &DaemonCase,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CaseResult, BenchError> {
        let (load, mut case) = (daemon_case.load, daemon_case.case.clone());
        allow_open_files(&mut case)?;
        let mut limits = self.limits(load, &case)?;
        let crowd = open_quietly(self.daemon, case.open - case.connections)?;
        let mut subject = self.subject(load, &case)?;
        let instruments = Instruments {
            canary: &mut self.canary,
            limits: limits
                .iter_mut()
                .map(|(name, limit)| (name.clone(), limit.as_mut() as &mut dyn Meter))
                .collect(),
            subject: subject.as_mut(),
        };
        let outcome = case.run(instruments, progress);
        drop(crowd);
        outcome
    }

    fn limits(&self, load: Load, case: &Case) -> Result<Vec<NamedMeter>, BenchError> {
        let limit = |name, limit, cores| -> Result<NamedMeter, BenchError> {
            Ok((name, Box::new(LimitMeter::new(limit, cores, self.launcher.clone())?)))
        };
        let (cores, one_core) = (self.cores, self.cores.on_one_core());
        Ok(match load {
            Load::Hot => vec![limit("cache line".into(), Limit::CacheLine, cores)?],
            Load::Cold(_) => {
                let mut limits = vec![limit("eventfd, one core".into(), Limit::Eventfd, one_core)?];
                if cores != one_core {
                    limits.insert(0, limit("eventfd, two cores".into(), Limit::Eventfd, cores)?);
                }
                limits
            }
            Load::Pipelined => {
                let count = case.connections * case.window;
                vec![limit(format!("{count} slots").into(), Limit::Slots(count), cores)?]
            }
            Load::Crowded => match self.baseline {
                Some(baseline) => {
                    let name = format!("{} open", case.connections).into();
                    vec![(name, Box::new(self.pipeline(baseline, case)?))]
                }
                None => Vec::new(),
            },
        })
    }

    fn subject(&self, load: Load, case: &Case) -> Result<Box<dyn Meter>, BenchError> {
        let options = options_for(self.daemon);
        Ok(match load {
            Load::Hot | Load::Cold(Waiting::Spin) => {
                self.timed(Echo::connect(&options, WaitPolicy::SPIN)?)
            }
            Load::Cold(Waiting::Block) => self.timed(Echo::connect(&options, WaitPolicy::PARK)?),
            Load::Cold(Waiting::Async) => self.timed(AsyncEcho::connect(&options)?),
            Load::Pipelined | Load::Crowded => Box::new(self.pipeline(self.daemon, case)?),
        })
    }

    fn timed(&self, subject: impl Subject + 'static) -> Box<dyn Meter> {
        Box::new(Timed { subject, client_core: self.cores.client })
    }

    fn pipeline(
        &self,
        daemon: &DaemonProcess,
        case: &Case,
    ) -> Result<Pipeline<ConnectionLane>, BenchError> {
        let (options, size) = (options_for(daemon), case.burst.payload_size);
        let lanes = (0..case.connections)
            .map(|_| ConnectionLane::connect(&options, case.window, size))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Pipeline::new(lanes, case.window, size, self.cores.client))
    }
}

type NamedMeter = (Cow<'static, str>, Box<dyn Meter>);

fn options_for(daemon: &DaemonProcess) -> ConnectOptions {
    ConnectOptions::new().socket_path(daemon.socket())
}

/// Opens connections on which nothing is ever sent.
fn open_quietly(daemon: &DaemonProcess, count: u32) -> Result<Vec<Connection>, BenchError> {
    let options = options_for(daemon)
        .request_capacity(RING_CAPACITY_MIN)
        .response_capacity(RING_CAPACITY_MIN);
    (0..count).map(|_| Connection::connect(&options).map_err(BenchError::subject)).collect()
}

/// Raises the limit of open files to what `case` needs: its crowd and its connections, and those of a
/// baseline. Where the system does not allow so many, the crowd is made smaller, and what was refused
/// is given. A daemon that is started afterwards inherits the limit, which is enough for it as well.
///
/// # Errors
///
/// [`BenchError::Descriptors`]: there is no room for the connections that are used.
pub fn allow_open_files(case: &mut Case) -> Result<Option<DescriptorLimit>, BenchError> {
    let connections = u64::from(case.connections);
    let needed_for =
        |open: u64| (open + connections) * DESCRIPTORS_PER_CONNECTION + DESCRIPTORS_RESERVED;
    let Err(refused) = descriptors::raise_limit(needed_for(case.open.into())) else {
        return Ok(None);
    };
    let Some(open) = open_within(refused.allowed, connections) else {
        return Err(refused.into());
    };
    descriptors::raise_limit(needed_for(open))?;
    case.open = u32::try_from(open).unwrap_or(case.open).min(case.open);
    Ok(Some(refused))
}

/// How many connections can be open, in hundreds, where so many descriptors are allowed and
/// `connections` are used; `None` when not even those fit.
fn open_within(allowed: u64, connections: u64) -> Option<u64> {
    let all = allowed.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_CONNECTION;
    let open = all.saturating_sub(connections) / 100 * 100;
    Some(open).filter(|open| *open >= connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_as_large_as_the_descriptors_allow() {
        assert_eq!(open_within(20_000, 16), Some(4_900));
        assert_eq!(open_within(524_288, 16), Some(131_000));
        assert_eq!(open_within(1_024, 1_000), None);
        assert_eq!(open_within(10, 1), None);
        let open = open_within(20_000, 16).unwrap();
        assert!((open + 16) * DESCRIPTORS_PER_CONNECTION + DESCRIPTORS_RESERVED <= 20_000);
    }
}
