//! The simulation: the whole of a shard, its connections, clients and workers as state machines under
//! a scheduler with virtual time, driven by a seed. The table, the rings, the links and the pool are
//! the code that ships; the clients, the worker executors and the shell around the table are played.
//!
//! A seed is a run: it chooses sizes, pace and faults, lets everybody suffer, then stops the faults,
//! and everything must come to rest: no request without its one answer, no buffer that did not come
//! home, no slot that nobody has, no sleeper whom nobody will wake. docs/verification.md says more.
//!
//! `tools/simulation` runs many seeds, or one with its trace.
#![cfg(feature = "server")]

mod account;
mod actors;
mod client;
mod exchange;
mod plan;
mod shell;
mod stage;
mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use stage::Stage;
use world::World;

/// Seeds of a run without wishes.
const SEED_COUNT: u64 = 200;
/// Lines of the trace that a failure shows.
const TRACE_TAIL: usize = 60;

/// What became of one seed.
struct Run {
    steps: u64,
    trace: Vec<String>,
    failure: Option<String>,
}

fn run(seed: u64, traced: bool) -> Run {
    let stage = Rc::new(Stage::new(seed, traced));
    let mut steps = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(Rc::clone(&stage));
        let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
        steps = world.steps;
        if let Err(failure) = outcome {
            // What a broken world would do when it is dropped is of no interest.
            std::mem::forget(world);
            std::panic::resume_unwind(failure);
        }
    }));
    let failure = outcome.err().map(|failure| match failure.downcast::<String>() {
        Ok(text) => *text,
        Err(failure) => failure.downcast_ref::<&str>().copied().unwrap_or("a panic").to_owned(),
    });
    Run { steps, trace: stage.take_trace(), failure }
}

/// A number from the environment, where `tools/simulation` puts what it was asked for.
fn wish(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn when_the_faults_stop_everything_comes_to_rest() {
    if let Some(seed) = wish("ANNULUS_SEED") {
        return show(seed);
    }
    let first = wish("ANNULUS_SEED_FIRST").unwrap_or(0);
    let count = wish("ANNULUS_SEED_COUNT").unwrap_or(SEED_COUNT);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, steps, failed) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Bounded by the number of seeds, each by its steps.
                while !failed.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed - first >= count {
                        break;
                    }
                    let run = run(seed, false);
                    steps.fetch_add(run.steps, Relaxed);
                    if run.failure.is_some() {
                        failed.store(true, Relaxed);
                        failures.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if let Some(seed) = failures.iter().min() {
        return show(*seed);
    }
    let (steps, seconds) = (steps.into_inner(), started.elapsed().as_secs_f64());
    println!(
        "{count} seeds from {first}, {steps} steps in {seconds:.1} s: {:.0} seeds/s",
        f64::from(u32::try_from(count).unwrap()) / seconds
    );
}

/// Runs one seed with its trace, and fails if it does.
fn show(seed: u64) {
    println!("seed {seed}");
    let run = run(seed, true);
    let is_whole = wish("ANNULUS_TRACE").is_some();
    let shown = if is_whole { 0 } else { run.trace.len().saturating_sub(TRACE_TAIL) };
    if run.failure.is_some() || is_whole {
        println!("{}", run.trace[shown..].join("\n"));
    }
    println!("{} steps", run.steps);
    if let Some(failure) = run.failure {
        panic!(
            "seed {seed} fails; again, with every step: tools/simulation --trace {seed}\n{failure}"
        );
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..8 {
        let (once, again) = (run(seed, true), run(seed, true));
        assert!(once.trace == again.trace, "seed {seed} ran differently a second time");
        assert_eq!(once.steps, again.steps, "seed {seed}");
    }
}
