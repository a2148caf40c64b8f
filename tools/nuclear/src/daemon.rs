//! The daemon under stress: started for one level, watched from outside through `/proc`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::{Cores, DaemonKind, DaemonProcess, daemon_settings};
use annulus::footprint::Footprint;

use crate::Failure;

/// Ends a daemon whose level hangs.
const LIFE: Duration = Duration::from_secs(3_600);

/// How long closed connections may take to leave the daemon.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Finds the `annulus` program beside this one, unless one is named.
pub(crate) fn program(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let beside = || Ok::<_, std::io::Error>(env::current_exe()?.with_file_name("annulus"));
    let program = named.map_or_else(beside, Ok)?;
    if program.is_file() {
        return Ok(program);
    }
    let program = program.display();
    Err(format!("no annulus program at {program}: build it, or name it with --annulus").into())
}

/// Starts a daemon with one shard on `cores.server`.
pub(crate) fn start(program: &std::path::Path, cores: Cores) -> Result<DaemonProcess, Failure> {
    start_with(program, &daemon_settings(DaemonKind::Pinned, cores))
}

/// Starts a daemon with these settings.
pub(crate) fn start_with(
    program: &std::path::Path,
    settings: &[(&str, String)],
) -> Result<DaemonProcess, Failure> {
    Ok(DaemonProcess::start(program, settings, LIFE)?)
}

/// The largest of the samples that were taken, each kind of memory for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peak {
    pub(crate) pss_bytes: u64,
    /// The PSS of each sample, in bytes.
    pss_samples: Vec<u64>,
    pub(crate) owned_bytes: u64,
    pub(crate) anon_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) shmem_bytes: u64,
    pub(crate) samples: u64,
}

impl Peak {
    /// Takes one sample.
    pub(crate) fn sample(&mut self, daemon: &DaemonProcess) -> Result<(), Failure> {
        let footprint = Footprint::of_process(daemon.id())?;
        self.pss_bytes = self.pss_bytes.max(footprint.pss_bytes);
        self.owned_bytes = self.owned_bytes.max(footprint.owned_bytes());
        self.anon_bytes = self.anon_bytes.max(footprint.pss_anon_bytes);
        self.file_bytes = self.file_bytes.max(footprint.pss_file_bytes);
        self.shmem_bytes = self.shmem_bytes.max(footprint.pss_shmem_bytes);
        self.samples += 1;
        self.pss_samples.push(footprint.pss_bytes);
        Ok(())
    }

    /// The median of the PSS over the samples, in bytes; 0 without any.
    pub(crate) fn pss_median_bytes(&self) -> u64 {
        let mut samples = self.pss_samples.clone();
        samples.sort_unstable();
        samples.get(samples.len() / 2).copied().unwrap_or(0)
    }
}

/// How many descriptors the daemon has open: some for each connection.
pub(crate) fn descriptor_count(daemon: &DaemonProcess) -> Result<usize, Failure> {
    Ok(fs::read_dir(format!("/proc/{}/fd", daemon.id()))?.count())
}

/// Waits until no more descriptors are open than `quiet`; false when they never close.
pub(crate) fn drain(daemon: &DaemonProcess, quiet: usize) -> Result<bool, Failure> {
    let deadline = Instant::now() + DRAIN_TIME_MAX;
    while descriptor_count(daemon)? > quiet {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}
