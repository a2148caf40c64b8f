//! The honest client beside every attack: it works all the time, and its latency is taken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{ConnectOptions, Connection, RequestOptions};

use super::PATIENCE;
use super::latency::{Latency, WINDOW};

/// How long an honest request may take before it counts as failed.
pub(super) const HONEST_DEADLINE: Duration = Duration::from_secs(10);

/// A client that does what clients do, for the whole run, and minds every error.
pub(super) struct Honest {
    pub(super) shared: Arc<HonestShared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

#[derive(Default)]
pub(super) struct HonestShared {
    stop: AtomicBool,
    over: AtomicBool,
    /// Rounds so far: each has something of everything.
    pub(super) rounds: AtomicU64,
    /// Nanoseconds of each echo and each heartbeat of this window.
    samples: Mutex<[Vec<u64>; 2]>,
}

impl Honest {
    pub(super) fn start(options: ConnectOptions) -> Self {
        let shared = Arc::new(HonestShared::default());
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let done = ours.work(&options);
            ours.over.store(true, Ordering::Relaxed);
            done
        });
        Self { shared, thread: Some(thread) }
    }

    pub(super) fn stop(&mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => Err("it panicked".into()),
            None => Ok(()),
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

impl HonestShared {
    /// Bounded by `stop`; every request by its deadline.
    fn work(&self, options: &ConnectOptions) -> Result<(), String> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: annulus::IpcError| format!("{what}: {error}")
        };
        let mut connection = Connection::connect(options).map_err(failed("connect"))?;
        let mut answer = Vec::new();
        let prompt = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"maxTokens":4}"#;
        // Scratch is 64 KiB, so the largest one needs a buffer of the pool.
        let payloads: Vec<Vec<u8>> = [64, 5_000, 70_000]
            .map(|size| (0..size).map(|index| (index % 251) as u8).collect())
            .into();
        let mut call = |message_type, payload: &[u8], answer: &mut Vec<u8>| {
            let options = RequestOptions::within(HONEST_DEADLINE);
            let began = Instant::now();
            connection
                .call_with(message_type, payload, options, answer)
                .map(|()| u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
        };
        while !self.stop.load(Ordering::Relaxed) {
            for payload in &payloads[1..] {
                let what = format!("an echo of {} bytes", payload.len());
                call(MessageType::ECHO, payload, &mut answer).map_err(failed(&what))?;
                if answer != *payload {
                    return Err(format!("{what} came back changed"));
                }
            }
            call(MessageType::COMPLETE, prompt, &mut answer).map_err(failed("complete"))?;
            for _ in 0..12 {
                for _ in 0..2 {
                    let took = call(MessageType::ECHO, &payloads[0], &mut answer)
                        .map_err(failed("an echo"))?;
                    if answer != payloads[0] {
                        return Err("an echo came back changed".into());
                    }
                    self.samples.lock().unwrap()[0].push(took);
                }
                let took = call(MessageType::HEARTBEAT, b"", &mut answer)
                    .map_err(failed("a heartbeat"))?;
                self.samples.lock().unwrap()[1].push(took);
                thread::sleep(Duration::from_micros(50));
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn begin_window(&self) {
        *self.samples.lock().unwrap() = Default::default();
    }

    /// The window's p99, or nothing when too little was measured to have one.
    pub(super) fn end_window(&self) -> Option<Latency> {
        let mut samples = std::mem::take(&mut *self.samples.lock().unwrap());
        let p99 = |samples: &mut Vec<u64>| {
            samples.sort_unstable();
            samples.get((samples.len() * 99 / 100).min(samples.len().saturating_sub(1))).copied()
        };
        let [echoes, heartbeats] = &mut samples;
        // Note: a window without one answer is as slow as the window is long.
        let long = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        Some([p99(echoes).unwrap_or(long), p99(heartbeats).unwrap_or(long)])
    }

    /// Waits until the honest client has done all that it does so many times more.
    pub(super) fn wait_for_rounds(&self, count: u64) -> Result<(), String> {
        let goal = self.rounds.load(Ordering::Relaxed) + count;
        let patience = Instant::now() + PATIENCE;
        while self.rounds.load(Ordering::Relaxed) < goal {
            if self.over.load(Ordering::Relaxed) || Instant::now() >= patience {
                return Err("the honest client met an error or was starved".into());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}
