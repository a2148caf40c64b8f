//! The limits: what this machine does when there is no code between the two sides.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::cache_line::CacheLine;
use super::doorbell::{Alarm, Doorbells};
use super::slots::{SlotLane, Slots};
use super::throughput::Pipeline;
use super::{
    BenchError, Burst, Case, CaseResult, Cores, Instruments, Launcher, Meter, Pace, Pinned,
    Progress, ResponderKind, Samples, time_round_trips,
};

/// Seconds that a responder lives beyond its burst, for its start.
const START_TIME_MAX: Duration = Duration::from_secs(5);

/// Messages under way in a limit of slots that is measured alone.
const SLOT_COUNT: u32 = 64;

/// A bare exchange between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Both sides poll shared memory; the payload is copied out and back. 8 to 4096 bytes.
    CacheLine,
    /// Both sides poll shared memory in which so many messages are under way; each is copied in and
    /// out on both sides, and nothing else is done.
    Slots(u32),
    /// Both sides block on an eventfd; only 8 bytes travel.
    Eventfd,
}

/// Measures a [`Limit`] between two cores, with a fresh responder for each burst.
///
/// Fresh, so that between bursts nothing polls on the cores that the next one needs. The calling
/// thread is pinned to the client's core for the length of a burst, and must live as long: the
/// responder ends with it.
#[derive(Clone, Debug)]
pub struct LimitMeter {
    limit: Limit,
    cores: Cores,
    launcher: Launcher,
}

impl LimitMeter {
    /// A meter of `limit` with the responder on `cores.server`.
    ///
    /// # Errors
    ///
    /// [`BenchError::SharedCore`]: a polling limit on one core.
    pub fn new(limit: Limit, cores: Cores, launcher: Launcher) -> Result<Self, BenchError> {
        if limit != Limit::Eventfd && cores.server == cores.client {
            return Err(BenchError::SharedCore { core: cores.client });
        }
        Ok(Self { limit, cores, launcher })
    }

    fn measure_cache_line(&self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        let (mut client, memory) = CacheLine::create(burst.payload_size)?;
        let life = burst.time_max + START_TIME_MAX;
        let lent = [memory.as_fd()];
        let _responder = self.launcher.start(
            ResponderKind::CacheLine,
            burst.payload_size,
            1,
            self.cores,
            life,
            &lent,
        )?;
        time_round_trips(&mut client, burst, samples)
    }

    fn measure_slots(
        &self,
        count: u32,
        burst: &Burst,
        samples: &mut Samples,
    ) -> Result<(), BenchError> {
        let size = burst.payload_size;
        let (slots, memory) = Slots::create(size, count as usize)?;
        let life = burst.time_max * 2 + START_TIME_MAX;
        let lent = [memory.as_fd()];
        let _responder =
            self.launcher.start(ResponderKind::Slots, size, count, self.cores, life, &lent)?;
        Pipeline::new([SlotLane::new(slots)], count, size, self.cores.client)
            .measure_burst(burst, samples)
    }

    fn measure_eventfd(&self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        let mut client = Doorbells::create()?;
        let life = burst.time_max + START_TIME_MAX;
        let lent = [client.request.as_fd(), client.response.as_fd()];
        let responder = self.launcher.start(
            ResponderKind::Eventfd,
            burst.payload_size,
            1,
            self.cores,
            life,
            &lent,
        )?;
        let _alarm = Alarm::set(responder.id(), &client.response, life)?;
        let _ends_first = responder; // Locals drop in reverse: the alarm waits for its end.
        time_round_trips(&mut client, burst, samples)
    }
}

impl Meter for LimitMeter {
    fn measure(&mut self, burst: &Burst, samples: &mut Samples) -> Result<(), BenchError> {
        let _pinned = Pinned::to(self.cores.client)?;
        match self.limit {
            Limit::CacheLine => self.measure_cache_line(burst, samples),
            Limit::Slots(count) => self.measure_slots(count, burst, samples),
            Limit::Eventfd => self.measure_eventfd(burst, samples),
        }
    }
}

/// A limit, as a case of its own.
#[derive(Clone, Debug)]
pub struct LimitCase {
    /// What is exchanged.
    pub limit: Limit,
    /// Whether both sides share the client's core.
    pub on_one_core: bool,
    /// How often, how large, at what pace.
    pub case: Case,
}

/// The limits that `annulus bench` reports, about ten seconds in all.
#[must_use]
pub fn limit_cases() -> Vec<LimitCase> {
    let parked = Pace::Parked(Duration::from_millis(1));
    let case = |name: &str, limit, on_one_core, payload_size, operation_count, pace| {
        let warmup_count = operation_count / 20;
        let burst = Burst {
            payload_size,
            warmup_count,
            operation_count,
            pace,
            time_max: Duration::from_secs(5),
        };
        LimitCase { limit, on_one_core, case: Case::new(name, 1, burst) }
    };
    let slots = |payload_size| {
        let limit = Limit::Slots(SLOT_COUNT);
        let mut limit =
            case("limit/slots", limit, false, payload_size, 1_000_000, Pace::BackToBack);
        limit.case.window = SLOT_COUNT;
        limit
    };
    vec![
        case("limit/cache-line", Limit::CacheLine, false, 64, 200_000, Pace::BackToBack),
        case("limit/cache-line", Limit::CacheLine, false, 1024, 200_000, Pace::BackToBack),
        case("limit/cache-line", Limit::CacheLine, false, 4096, 100_000, Pace::BackToBack),
        slots(64),
        slots(1024),
        slots(4096),
        case("limit/eventfd", Limit::Eventfd, false, 8, 5_000, Pace::BackToBack),
        case("limit/eventfd-parked", Limit::Eventfd, false, 8, 500, parked),
        case("limit/eventfd-one-core", Limit::Eventfd, true, 8, 20_000, Pace::BackToBack),
        case("limit/eventfd-one-core-parked", Limit::Eventfd, true, 8, 500, parked),
    ]
}

/// Measures `cases` in order and hands each result to `report` as soon as it is there.
///
/// # Errors
///
/// The first case that fails ends the run.
pub fn run_limits(
    cases: &[LimitCase],
    cores: Cores,
    launcher: &Launcher,
    progress: &mut dyn FnMut(Progress),
    mut report: impl FnMut(CaseResult),
) -> Result<(), BenchError> {
    let mut canary = LimitMeter::new(Limit::CacheLine, cores, launcher.clone())?;
    for LimitCase { limit, on_one_core, case } in cases {
        let placed = if *on_one_core { cores.on_one_core() } else { cores };
        let mut subject = LimitMeter::new(*limit, placed, launcher.clone())?;
        let instruments =
            Instruments { canary: &mut canary, limits: Vec::new(), subject: &mut subject };
        report(case.run(instruments, progress)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::responder::tests::test_launcher;
    use super::*;

    const BURST: Burst = Burst {
        payload_size: 64,
        warmup_count: 5,
        operation_count: 50,
        pace: Pace::BackToBack,
        time_max: Duration::from_secs(10),
    };

    /// Two cores, or `None` where the environment allows only one.
    fn two_cores() -> Option<Cores> {
        Cores::choose().inspect_err(|reason| eprintln!("skipped: {reason}")).ok()
    }

    fn measure(limit: Limit, cores: Cores, burst: &Burst) -> Result<Samples, BenchError> {
        let mut samples = Samples::new();
        LimitMeter::new(limit, cores, test_launcher())?.measure(burst, &mut samples)?;
        Ok(samples)
    }

    #[test]
    fn cache_lines_cross_between_two_processes_at_every_size() {
        let Some(cores) = two_cores() else { return };
        for payload_size in [8, 64, 1024, 4096] {
            let samples =
                measure(Limit::CacheLine, cores, &Burst { payload_size, ..BURST }).unwrap();
            assert_eq!(samples.count(), 50);
            assert!(samples.summary().p50_ns > 0);
        }
    }

    #[test]
    fn slots_carry_many_messages_at_once() {
        let Some(cores) = two_cores() else { return };
        for (count, payload_size) in [(1, 64), (16, 1024), (300, 4096)] {
            let burst = Burst { payload_size, operation_count: 2_000, ..BURST };
            let samples = measure(Limit::Slots(count), cores, &burst).unwrap();
            assert!(samples.count() > 0 && samples.summary().msgs_per_s > 0.0);
        }
    }

    #[test]
    fn eventfds_wake_each_other_across_cores_and_on_one() {
        let Some(cores) = two_cores() else { return };
        let parked = Burst { pace: Pace::Parked(Duration::from_micros(200)), ..BURST };
        for cores in [cores, cores.on_one_core()] {
            for burst in [BURST, parked] {
                assert_eq!(measure(Limit::Eventfd, cores, &burst).unwrap().count(), 50);
            }
        }
    }

    #[test]
    fn a_polling_limit_on_one_core_is_refused() {
        let one = Cores { server: 1, client: 1 };
        for limit in [Limit::CacheLine, Limit::Slots(2)] {
            let refused = measure(limit, one, &BURST);
            assert!(matches!(refused, Err(BenchError::SharedCore { core: 1 })));
        }
    }

    #[test]
    fn a_responder_that_never_answers_is_reported_and_not_waited_for() {
        let core = rustix::thread::sched_getcpu();
        let cores = Cores { server: core, client: core };
        // The test harness takes the arguments for filters that match nothing, and ends.
        let deaf = Launcher::new("/proc/self/exe", ["--exact".into()]);
        let mut meter = LimitMeter::new(Limit::Eventfd, cores, deaf).unwrap();
        let failed = meter.measure(&BURST, &mut Samples::new()).unwrap_err();
        assert!(matches!(failed, BenchError::Silent { .. }), "{failed}");
    }

    #[test]
    fn every_reported_limit_can_be_run() {
        let Some(cores) = two_cores() else { return };
        let mut cases = limit_cases();
        for LimitCase { case, .. } in &mut cases {
            case.round_count = 1;
            case.burst = Burst { warmup_count: 2, operation_count: 10, ..case.burst };
        }
        let mut results = Vec::new();
        match run_limits(&cases, cores, &test_launcher(), &mut |_| {}, |result| {
            results.push(result)
        }) {
            Ok(()) => assert_eq!(results.len(), cases.len()),
            Err(BenchError::Noisy { .. }) => {
                eprintln!("a noisy machine; {} cases were complete", results.len())
            }
            Err(other) => panic!("{other}"),
        }
    }
}
