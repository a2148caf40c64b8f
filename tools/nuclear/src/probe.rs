//! Level 3's client: probes of one connection, by turns beside a thousand others that are at rest and
//! beside the same ones with a backlog.
//!
//! The invariant to remember: both kinds meet the same machine. They take turns every few dozen
//! milliseconds and are sent at the same pace, so a slice of a core that the kernel gives to somebody
//! else, or the host takes away, is met by as many of the one as of the other.

use std::fs::{self, File};
use std::hint;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use annulus::bench::Samples;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::fleet::{self, Lane};
use crate::work::{self, Outcome, Squad};

/// Answers at or over this are slow ones, in nanoseconds: the bar of level 3.
const SLOW_NS: u128 = 10_000;

/// How often the two kinds of probes take turns.
const BLOCKS: u32 = 20;

/// Rounds over all connections before probes are timed beside them: saturation, not its first moment.
const SATURATION_ROUNDS: u32 = 32;

/// How long the backlog may take to be answered when its turn is over.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// The latencies of probes of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Probes {
    pub(crate) count: u64,
    /// How many took [`SLOW_NS`] or more.
    pub(crate) slow: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p999_ns: u64,
    /// Probes at whose answer the last saturating connection had requests in flight.
    pub(crate) beside_backlog: u64,
    /// Probes during which the kernel ran something else on the shard's core or on ours, and the
    /// 99.9th percentile of all others.
    pub(crate) displaced: u64,
    pub(crate) undisplaced_p999_ns: u64,
}

/// Times `probes` of each kind.
pub(crate) fn run(
    socket: &Path,
    daemon: u32,
    squad: Squad,
    probes: u32,
) -> Result<Outcome, Failure> {
    fleet::allow(squad.connections + 2)?;
    let one = |payload_size| Squad { connections: 1, requests: u64::MAX, payload_size, window: 1 };
    let mut prober = work::connect(socket, one(1024))?.remove(0);
    // While the others rest, it keeps the daemon polling between two probes.
    let mut keeper = work::connect(socket, one(64))?;
    let mut lanes = work::connect(socket, squad)?;
    let started = work::line_up()?;
    let delays = Delays::of(daemon)?;
    let (mut quiet, mut saturated) = (Clocked::default(), Clocked::default());
    for block in 0..BLOCKS {
        let count = (block + 1) * probes / BLOCKS - block * probes / BLOCKS;
        // Until the daemon has met every connection as one of those that saturate it.
        let mut unseen = Clocked::default();
        unseen.time(SATURATION_ROUNDS, Duration::ZERO, &mut prober, &mut lanes, &delays)?;
        let began = Instant::now();
        saturated.time(count, Duration::ZERO, &mut prober, &mut lanes, &delays)?;
        let pace = began.elapsed() / count.max(1);
        drain(&mut lanes)?;
        quiet.time(count, pace, &mut prober, &mut keeper, &delays)?;
    }
    let (quiet, saturated) = (quiet.probes(), saturated.probes());
    let answered = quiet.count + saturated.count;
    Ok(Outcome { answered, seconds: started.elapsed().as_secs_f64(), quiet, saturated })
}

/// Takes every answer that is still to come.
fn drain(lanes: &mut [Lane]) -> Result<(), Failure> {
    let deadline = Instant::now() + DRAIN_TIME_MAX;
    let mut answer = Vec::new();
    for lane in lanes {
        while lane.is_busy() {
            if !lane.take(&mut answer)? && Instant::now() > deadline {
                return Err(format!("a backlog was not answered in {DRAIN_TIME_MAX:?}").into());
            }
        }
    }
    Ok(())
}

/// Probes of one kind while they are being timed.
#[derive(Debug, Default)]
struct Clocked {
    probes: Probes,
    all: Samples,
    undisplaced: Samples,
}

impl Clocked {
    /// Before each probe all lanes are emptied and filled again, once and until `pace` has passed
    /// since the probe before; then the thread does nothing but send the probe and poll for its
    /// answer. What is timed is therefore how long the daemon, with a backlog, keeps a connection that
    /// has just become active waiting; not this thread's own work.
    fn time(
        &mut self,
        count: u32,
        pace: Duration,
        prober: &mut Lane,
        lanes: &mut [Lane],
        delays: &Delays,
    ) -> Result<(), Failure> {
        let size = lanes.first().map_or(0, Lane::payload_size);
        let (mut load, mut probe) = (vec![0; size], vec![0; prober.payload_size()]);
        let mut answer = Vec::with_capacity(size.max(prober.payload_size()));
        let mut last = Instant::now();
        for _ in 0..count {
            loop {
                for lane in &mut *lanes {
                    lane.visit(&mut load, &mut answer)?;
                }
                if last.elapsed() >= pace {
                    break;
                }
            }
            let before = delays.read()?;
            let sent = Instant::now();
            last = sent;
            prober.fill(&mut probe)?;
            // Bounded: the daemon answers, or the level's deadline ends this process.
            while !prober.take(&mut answer)? {
                hint::spin_loop();
            }
            let interval = sent.elapsed();
            if let Some(lane) = lanes.last_mut() {
                while lane.is_busy() && lane.take(&mut answer)? {}
                self.probes.beside_backlog += u64::from(lane.is_busy());
            }
            self.record(interval, delays.read()? != before);
        }
        Ok(())
    }

    fn record(&mut self, interval: Duration, displaced: bool) {
        self.all.record(interval);
        self.probes.count += 1;
        self.probes.slow += u64::from(interval.as_nanos() >= SLOW_NS);
        self.probes.displaced += u64::from(displaced);
        if !displaced {
            self.undisplaced.record(interval);
        }
    }

    fn probes(&self) -> Probes {
        let (all, undisplaced) = (self.all.summary(), self.undisplaced.summary());
        Probes {
            p50_ns: all.p50_ns,
            p999_ns: all.p999_ns,
            undisplaced_p999_ns: undisplaced.p999_ns,
            ..self.probes
        }
    }
}

/// How long the daemon's shard and this thread have waited for their cores since they were born:
/// the second number of `schedstat` (proc_pid_schedstat in the kernel's sched-stats document). It
/// grows exactly when a thread that could run comes back to a core.
#[derive(Debug)]
struct Delays([File; 2]);

impl Delays {
    fn of(daemon: u32) -> Result<Self, Failure> {
        for entry in fs::read_dir(format!("/proc/{daemon}/task"))? {
            let thread = entry?.path();
            if fs::read_to_string(thread.join("comm"))?.starts_with("annulus-shard") {
                let shard = File::open(thread.join("schedstat"))?;
                return Ok(Self([shard, File::open("/proc/thread-self/schedstat")?]));
            }
        }
        Err(format!("process {daemon} has no thread annulus-shard…").into())
    }

    /// The numbers of both, to be compared with those of another moment.
    fn read(&self) -> Result<[u64; 2], Failure> {
        let [mut shard, mut ours] = [0, 0];
        for (file, delay) in self.0.iter().zip([&mut shard, &mut ours]) {
            let mut bytes = [0; 64];
            let size = file.read_at(&mut bytes, 0)?;
            let text = std::str::from_utf8(&bytes[..size])?;
            let number = text.split_whitespace().nth(1).ok_or("no delay in schedstat")?;
            *delay = number.parse()?;
        }
        Ok([shard, ours])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displaced_probe_counts_in_one_percentile_and_not_in_the_other() {
        let mut clocked = Clocked::default();
        for _ in 0..99 {
            clocked.record(Duration::from_micros(2), false);
        }
        clocked.record(Duration::from_millis(4), true);
        let probes = clocked.probes();
        assert_eq!((probes.count, probes.slow, probes.displaced), (100, 1, 1));
        assert!(probes.p999_ns > 3_900_000, "{probes:?}");
        assert!(probes.undisplaced_p999_ns < 3_000, "{probes:?}");
    }

    #[test]
    fn the_delay_of_a_thread_that_had_to_wait_has_grown() {
        let file = || File::open("/proc/thread-self/schedstat").unwrap();
        let delays = Delays([file(), file()]);
        let before = delays.read().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let others: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    let until = Instant::now() + Duration::from_millis(200);
                    while Instant::now() < until.min(deadline) {
                        hint::spin_loop();
                    }
                })
            })
            .collect();
        let mut after = before;
        while after == before && Instant::now() < deadline {
            after = delays.read().unwrap();
        }
        for other in others {
            other.join().unwrap();
        }
        assert!(after[1] > before[1], "eight threads beside it displaced nobody");
    }
}
