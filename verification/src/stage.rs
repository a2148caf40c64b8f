//! What the models stand on: a small ring, a doorbell, and the explorer with its bound.

use annulus::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, WORD_SIZE};
use annulus::ring::{Consumer, Home, Producer, PublishError, RingView};
use annulus::sync::{AtomicU64, spin_hint};
use annulus::wire::{FrameHeader, MessageType};
use loom::sync::{Condvar, Mutex};

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
/// bugs, which show early).
pub(crate) fn explore(bound: Bound, model: impl Fn() + Sync + Send + 'static) {
    let asked = std::env::var("ANNULUS_PREEMPTIONS")
        .ok()
        .map(|text| text.parse().expect("ANNULUS_PREEMPTIONS is a number"));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = match (bound, asked) {
        (Bound::None, asked) => asked,
        (Bound::Preemptions(own), asked) => Some(asked.map_or(own, |asked: usize| asked.min(own))),
    };
    builder.check(model);
}

/// The memory of one ring.
pub(crate) struct Memory {
    words: Vec<AtomicU64>,
    head: AtomicU64,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let words = (0..CAPACITY / WORD_SIZE).map(|_| AtomicU64::new(0)).collect();
        Self { words, head: AtomicU64::new(0) }
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
fn payload(id: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| (id as u8).wrapping_mul(31).wrapping_add(at as u8) | 1).collect()
}

/// Stands in for an eventfd: a count that waiting takes. A model in which it waits for ever fails,
/// because loom sees the deadlock.
pub(crate) struct Doorbell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self { rings: Mutex::new(0), rung: Condvar::new() }
    }

    pub(crate) fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    /// Waits for at least one ring and takes all.
    pub(crate) fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        *rings = 0;
    }

    /// Rings that nobody has taken.
    pub(crate) fn pending(&self) -> u64 {
        *self.rings.lock().unwrap()
    }
}
