//! What the models stand on: a small ring, and the explorer with its bound.

use std::io::{Write as _, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use annulus::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, WORD_SIZE};
use annulus::ring::{Consumer, Home, Look, Producer, PublishError, RingView};
use annulus::sync::{AtomicU64 as Word, spin_hint};
use annulus::wire::{FrameHeader, MessageType};

/// Bytes of every ring here: the smallest there is, four units of one cache line.
pub(crate) const CAPACITY: u64 = 4 * FRAME_ALIGNMENT;
/// Bytes of payload that fill a frame of one unit.
pub(crate) const UNIT_PAYLOAD: usize = (FRAME_ALIGNMENT - FRAME_HEADER_SIZE) as usize;
/// Bytes of the largest payload that the ring takes: one unit stays free.
pub(crate) const PAYLOAD_MAX: usize = (CAPACITY - FRAME_ALIGNMENT - FRAME_HEADER_SIZE) as usize;

/// How far a model is explored; its test's name says it.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Every execution that loom knows.
    None,
    /// Those with up to so many switches that nothing forced.
    Preemptions(usize),
}

/// Runs `model` in every execution within `bound`, and at most `ANNULUS_PREEMPTIONS` (for planted
/// bugs, which show early). Says how many executions that were and how long they took.
///
/// With a bug planted the first model that finds it ends the program: one is enough.
pub(crate) fn explore(bound: Bound, model: impl Fn() + Sync + Send + 'static) {
    let planted = std::env::var_os("ANNULUS_CANARY").is_some();
    match catch_unwind(AssertUnwindSafe(|| run(bound, model))) {
        Ok(report) => println!("{report}"),
        Err(_) if planted => {
            // Past libtest, which keeps what a test prints until the test has ended.
            let _ = writeln!(stdout(), "test {} ... FAILED", name());
            exit(1);
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// Explores a `model` that misuses what it is about: some execution of it must panic with `message`.
pub(crate) fn explore_misuse(
    bound: Bound,
    message: &str,
    model: impl Fn() + Sync + Send + 'static,
) {
    let panic = catch_unwind(AssertUnwindSafe(|| run(bound, model)))
        .expect_err("the misuse went unnoticed");
    let said = panic.downcast_ref::<String>().expect("a panic with a text");
    assert!(said.contains(message), "another panic: {said}");
}

fn run(bound: Bound, model: impl Fn() + Sync + Send + 'static) -> String {
    let asked = std::env::var("ANNULUS_PREEMPTIONS")
        .ok()
        .map(|text| text.parse().expect("ANNULUS_PREEMPTIONS is a number"));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = match (bound, asked) {
        (Bound::None, asked) => asked,
        (Bound::Preemptions(own), asked) => Some(asked.map_or(own, |asked: usize| asked.min(own))),
    };
    let reach = match builder.preemption_bound {
        None => "in all".to_owned(),
        Some(count) => format!("within {count} preemptions"),
    };
    // A model with a whole table in it takes more steps than loom's default allows.
    builder.max_branches = 10_000;
    let (executions, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    let count = executions.load(Relaxed);
    format!("{}: {count} executions {reach}, {:.1} s", name(), started.elapsed().as_secs_f64())
}

/// The test that runs: its thread bears its name.
fn name() -> String {
    std::thread::current().name().unwrap_or("a model").to_owned()
}

/// The memory of one ring.
pub(crate) struct Memory {
    words: Vec<Word>,
    head: Word,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let words = (0..CAPACITY / WORD_SIZE).map(|_| Word::new(0)).collect();
        Self { words, head: Word::new(0) }
    }

    pub(crate) fn view(&self) -> RingView<'_> {
        RingView::new(&self.words, &self.head)
    }
}

/// The writing side.
pub(crate) struct Writer(Producer);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Producer::new(Home::NONE, false))
    }

    /// For a ring with this home, where a frame may follow another.
    pub(crate) fn at_home(home: Home) -> Self {
        Self(Producer::new(home, false).again(true))
    }

    /// Publishes frame `id`, whose payload follows from its id and size. False when the ring is full.
    pub(crate) fn publish(&mut self, memory: &Memory, id: u64, size: usize) -> bool {
        let header = FrameHeader::request(MessageType::ECHO, id);
        match self.0.publish(memory.view(), header, &payload(id, size)) {
            Ok(()) => true,
            Err(PublishError::Full) => false,
            Err(error) => panic!("an honest consumer never causes {error}"),
        }
    }

    /// Publishes frame `id`, polling while the ring is full.
    pub(crate) fn publish_polling(&mut self, memory: &Memory, id: u64, size: usize) {
        while !self.publish(memory, id, size) {
            spin_hint();
        }
    }

    /// Holds what is published from now on back.
    pub(crate) fn hold(&mut self) {
        self.0.hold();
    }

    /// Shows what was held back.
    pub(crate) fn reveal(&mut self, memory: &Memory) {
        self.0.reveal(memory.view());
    }

    /// The producer itself, for code that publishes on its own.
    pub(crate) fn producer(&mut self) -> &mut Producer {
        &mut self.0
    }

    /// True when the consumer has not moved since the ring was found full.
    pub(crate) fn is_unmoved(&self, memory: &Memory) -> bool {
        self.0.is_unmoved(memory.view())
    }
}

/// The reading side.
pub(crate) struct Reader(Consumer);

impl Reader {
    pub(crate) fn new() -> Self {
        Self(Consumer::new(Home::NONE, false))
    }

    /// For a ring with this home, where a frame may follow another.
    pub(crate) fn at_home(home: Home) -> Self {
        Self(Consumer::new(home, false).again(true))
    }

    /// Takes one frame as a shard does: gives its id to `answer` before its space goes back in any other way
    /// than by the answer. False when there is none.
    pub(crate) fn take_and_answer(&mut self, memory: &Memory, answer: impl FnOnce(u64)) -> bool {
        let ring = memory.view();
        let Look::Frame(header) = self.0.look(ring) else { return false };
        let mut bytes = vec![0; header.payload_size() as usize];
        self.0.copy_payload(ring, header, &mut bytes).expect("payloads are not checked");
        assert_eq!(bytes, payload(header.request_id(), bytes.len()), "a torn or stale payload");
        self.0.pass(ring, header);
        answer(header.request_id());
        self.0.release_passed(ring);
        true
    }

    /// Takes one frame and gives its id, having compared its payload with what the id says.
    pub(crate) fn take(&mut self, memory: &Memory) -> Option<u64> {
        let ring = memory.view();
        let header = self.0.poll(ring).expect("an honest producer's frames have no fault")?;
        let mut bytes = vec![0; header.payload_size as usize];
        self.0.copy_payload(ring, &header, &mut bytes).expect("payloads are not checked");
        assert_eq!(bytes, payload(header.request_id, bytes.len()), "a torn or stale payload");
        self.0.release(ring, &header);
        Some(header.request_id)
    }

    /// Takes one frame, polling while there is none.
    pub(crate) fn take_polling(&mut self, memory: &Memory) -> u64 {
        loop {
            if let Some(id) = self.take(memory) {
                return id;
            }
            spin_hint();
        }
    }

    pub(crate) fn is_empty(&self, memory: &Memory) -> bool {
        self.0.is_empty(memory.view())
    }
}

/// Differs in every word from the payload of any other id.
pub(crate) fn payload(id: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| (id as u8).wrapping_mul(31).wrapping_add(at as u8) | 1).collect()
}
