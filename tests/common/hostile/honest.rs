//! The honest client beside every attack: it works all the time, and its latency is taken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{ConnectOptions, Connection, RequestOptions};

use super::PATIENCE;
use super::latency::Latency;

/// How long an honest request may take before it counts as failed.
pub(super) const HONEST_DEADLINE: Duration = Duration::from_secs(10);
/// Heartbeats that make a p99: the worst but one of so many. Echoes come twice as often.
const HEARTBEATS_MIN: usize = 100;

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
    /// Requests so far, of whatever kind.
    requests: AtomicU64,
    /// Whether a request that begins now belongs to the window.
    measured: AtomicBool,
    /// Nanoseconds of each echo and each heartbeat of the window.
    samples: Mutex<[Vec<u64>; 2]>,
}

impl Honest {
    pub(super) fn start(options: ConnectOptions) -> Self {
        let shared = Arc::new(HonestShared::default());
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let done = ours.work(&options);
            if let Err(wrong) = &done {
                // At once, for each row from here on will say no more than that it was starved.
                println!("    the honest client met an error: {wrong}");
            }
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
            let measured = self.measured.load(Ordering::Relaxed);
            let began = Instant::now();
            let done = connection.call_with(message_type, payload, options, answer);
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            // Which of the samples this is, if it is one: the others have sizes of their own.
            let which = match (message_type, payload.len()) {
                (MessageType::ECHO, ..=64) => Some(0),
                (MessageType::HEARTBEAT, _) => Some(1),
                _ => None,
            };
            if let (true, Some(which)) = (measured, which) {
                self.samples.lock().unwrap()[which].push(took);
            }
            self.requests.fetch_add(1, Ordering::Release);
            done
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
            for _ in 0..24 {
                for _ in 0..2 {
                    call(MessageType::ECHO, &payloads[0], &mut answer)
                        .map_err(failed("an echo"))?;
                    if answer != payloads[0] {
                        return Err("an echo came back changed".into());
                    }
                }
                call(MessageType::HEARTBEAT, b"", &mut answer).map_err(failed("a heartbeat"))?;
                thread::sleep(Duration::from_micros(50));
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Begins a window without samples.
    pub(super) fn forget(&self) {
        *self.samples.lock().unwrap() = Default::default();
    }

    /// Whether requests that begin from now on count.
    pub(super) fn measure(&self, on: bool) {
        self.measured.store(on, Ordering::Relaxed);
    }

    /// True when the window's p99 means something.
    pub(super) fn has_enough(&self) -> bool {
        let samples = self.samples.lock().unwrap();
        samples[0].len() >= 2 * HEARTBEATS_MIN && samples[1].len() >= HEARTBEATS_MIN
    }

    /// True when it has met an error and works no more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the window and gives its p99; `None` when too little was done to have one.
    pub(super) fn latency(&self) -> Option<Latency> {
        self.measure(false);
        // The request under way may be the one that the window's work holds up.
        let requests = self.requests.load(Ordering::Relaxed);
        let patience = Instant::now() + PATIENCE;
        while self.requests.load(Ordering::Acquire) == requests {
            if self.is_over() || Instant::now() >= patience {
                return None;
            }
            thread::sleep(Duration::from_micros(50));
        }
        let enough = self.has_enough();
        // By the nearest rank: the smallest sample that 99 of 100 do not exceed.
        let p99 = |samples: &mut Vec<u64>| {
            samples.sort_unstable();
            samples[(samples.len() * 99).div_ceil(100) - 1]
        };
        let [mut echoes, mut heartbeats] = std::mem::take(&mut *self.samples.lock().unwrap());
        enough.then(|| [p99(&mut echoes), p99(&mut heartbeats)])
    }

    /// Waits until the honest client has done all that it does so many times more.
    pub(super) fn wait_for_rounds(&self, count: u64) -> Result<(), String> {
        let goal = self.rounds.load(Ordering::Relaxed) + count;
        let patience = Instant::now() + PATIENCE;
        while self.rounds.load(Ordering::Relaxed) < goal {
            if self.is_over() || Instant::now() >= patience {
                return Err("the honest client met an error or was starved".into());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}
