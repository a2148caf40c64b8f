//! Both sides of one ring and a peer that writes whatever it likes, as a sequence of operations.

use std::collections::VecDeque;

use annulus::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE, HOME_SIZE, PAGE_SIZE, WORD_SIZE};
use annulus::ring::{Consumer, Home, Producer, PublishError, RingView};
use annulus::sync::AtomicU64;
use annulus::sync::Ordering::Relaxed;
use annulus::wire::{Fault, FrameHeader, MessageType, Position};

/// What can happen to a ring. The last three only a hostile peer does.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Publish {
        size: usize,
    },
    Consume,
    Hold,
    Reveal,
    MakeRoom {
        span: u64,
    },
    WriteWord {
        index: usize,
        value: u64,
    },
    WriteHead {
        value: u64,
    },
    /// A header whose check is right and whose content is not.
    Forge {
        at_tail: bool,
        payload_size: u32,
        message_type: u16,
    },
}

/// Reads operations from bytes until they end: a tag, then little-endian numbers.
struct Script<'b>(&'b [u8]);

impl Script<'_> {
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(bytes);
        Some(u64::from_le_bytes(wide))
    }

    fn operation(&mut self) -> Option<Operation> {
        Some(match self.number::<1>()? % 10 {
            0..=1 => Operation::Publish { size: self.number::<2>()? as usize },
            2..=3 => Operation::Consume,
            4 => Operation::MakeRoom { span: self.number::<2>()? },
            5 => Operation::WriteWord {
                index: self.number::<2>()? as usize,
                value: self.number::<8>()?,
            },
            6 => Operation::WriteHead { value: self.number::<8>()? },
            7 => Operation::Forge {
                at_tail: self.number::<1>()? & 1 == 1,
                payload_size: self.number::<4>()? as u32,
                message_type: self.number::<2>()? as u16,
            },
            8 => Operation::Hold,
            _ => Operation::Reveal,
        })
    }
}

/// A ring with its two honest ends, and what the queue that it stands for holds.
struct Harness {
    words: Vec<AtomicU64>,
    head: AtomicU64,
    producer: Producer,
    consumer: Consumer,
    /// Ids and payload sizes; `None` once a hostile peer has written.
    oracle: Option<VecDeque<(u64, usize)>>,
    /// What has been published and is held back.
    held: VecDeque<(u64, usize)>,
    holding: bool,
    published: u64,
}

/// The first byte chooses the ring, the rest is the script.
pub fn ring(bytes: &[u8]) {
    let Some((choice, script)) = bytes.split_first() else { return };
    // So large that it starts over while it is busy, or not.
    let capacity = if choice & 16 != 0 { 1 << 16 } else { 1 << 14 };
    let (size, early) = (HOME_SIZE, true);
    let at_end = Home { offset: capacity - HOME_SIZE, size, phase: HOME_SIZE, early };
    let at_start = Home { offset: 0, size, phase: PAGE_SIZE - HOME_SIZE, early };
    let (capacity, home) = match choice & 3 {
        0 => (256, Home::NONE),
        1 => (capacity, at_end),
        2 => (capacity, at_start),
        _ => (1024, Home::NONE),
    };
    let mut harness = Harness::new(capacity, home, choice & 4 != 0, choice & 8 != 0);
    let mut script = Script(script);
    // Bounded by the input: each operation takes at least one byte of it.
    while let Some(operation) = script.operation() {
        harness.apply(operation);
    }
    harness.drain();
}

impl Harness {
    fn new(capacity: u64, home: Home, checked: bool, again: bool) -> Self {
        Self {
            words: (0..capacity / WORD_SIZE).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(home.offset),
            producer: Producer::new(home, checked).again(again),
            consumer: Consumer::new(home, checked).again(again),
            oracle: Some(VecDeque::new()),
            held: VecDeque::new(),
            holding: false,
            published: 0,
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Publish { size } => self.publish(size),
            Operation::Consume => drop(self.consume()),
            Operation::Hold => {
                self.producer.hold();
                self.holding = true;
            }
            Operation::Reveal => self.reveal(),
            Operation::MakeRoom { span } => self.make_room(span),
            Operation::WriteWord { index, value } => {
                let index = index % self.words.len();
                self.words[index].store(value, Relaxed);
                self.oracle = None;
            }
            Operation::WriteHead { value } => {
                self.head.store(value, Relaxed);
                self.oracle = None;
            }
            Operation::Forge { at_tail, payload_size, message_type } => {
                let position = if at_tail { self.producer.tail() } else { self.consumer.head() };
                let mut header = FrameHeader::request(MessageType::from_wire(message_type), 0);
                header.payload_size = payload_size;
                self.forge(header, position);
            }
        }
        let under_way = self.producer.tail().since(self.producer.head_seen());
        let capacity = RingView::new(&self.words, &self.head).capacity();
        assert!(under_way <= capacity, "a head that cannot be was believed");
    }

    fn publish(&mut self, size: usize) {
        let ring = RingView::new(&self.words, &self.head);
        let header = FrameHeader::request(MessageType::ECHO, self.published);
        // A hostile peer says it whenever it likes, an honest one when it is true; and not always.
        let is_taken = self.oracle.as_ref().is_none_or(VecDeque::is_empty) && self.held.is_empty();
        if is_taken && !size.is_multiple_of(3) {
            self.producer.all_taken();
        }
        let refused = self.producer.publish(ring, header, &vec![self.published as u8; size]);
        let Some(oracle) = &mut self.oracle else { return };
        let fits = size as u64 + FRAME_HEADER_SIZE + FRAME_ALIGNMENT <= ring.capacity();
        match refused {
            Ok(()) => {
                let seen = if self.holding { &mut self.held } else { oracle };
                seen.push_back((self.published, size));
                self.published += 1;
            }
            Err(PublishError::Full) => {}
            Err(PublishError::TooLarge { .. }) => assert!(!fits, "{size} bytes fit"),
            Err(PublishError::Fault(fault)) => panic!("nobody broke the protocol: {fault}"),
        }
    }

    fn reveal(&mut self) {
        self.producer.reveal(RingView::new(&self.words, &self.head));
        self.holding = false;
        if let Some(oracle) = &mut self.oracle {
            oracle.append(&mut self.held);
        }
    }

    fn make_room(&mut self, span: u64) {
        let ring = RingView::new(&self.words, &self.head);
        let span = span.next_multiple_of(FRAME_ALIGNMENT).max(FRAME_ALIGNMENT);
        if self.producer.has_room(ring, span) != Ok(true) {
            return;
        }
        let before = self.published;
        self.publish((span - FRAME_HEADER_SIZE) as usize);
        if self.oracle.is_some() {
            assert_eq!(self.published, before + 1, "room that was promised is there");
        }
    }

    /// Takes one frame, if there is one; its payload is copied in any case.
    fn consume(&mut self) -> Result<Option<(u64, usize)>, Fault> {
        let ring = RingView::new(&self.words, &self.head);
        let taken = self.consumer.poll(ring).and_then(|header| {
            let Some(header) = header else { return Ok(None) };
            let mut payload = vec![0; header.payload_size as usize];
            self.consumer.copy_payload(ring, &header, &mut payload)?;
            self.consumer.release(ring, &header);
            if self.oracle.is_some() {
                assert!(payload.iter().all(|byte| *byte == header.request_id as u8));
            }
            Ok(Some((header.request_id, payload.len())))
        });
        if let Some(oracle) = &mut self.oracle {
            assert_eq!(taken, Ok(oracle.pop_front()), "the history of a queue");
        }
        taken
    }

    fn forge(&mut self, header: FrameHeader, position: Position) {
        let index = (position.0 / WORD_SIZE) as usize % self.words.len();
        for (word, value) in self.words[index..].iter().zip(header.sealed(position)) {
            word.store(value, Relaxed);
        }
        self.oracle = None;
    }

    /// Empties the ring: every frame comes out, or a fault ends it.
    fn drain(&mut self) {
        self.reveal();
        let units = self.words.len() as u64 * WORD_SIZE / FRAME_ALIGNMENT;
        for _ in 0..=units {
            match self.consume() {
                Ok(Some(_)) => {}
                Ok(None) => {
                    assert!(self.oracle.as_ref().is_none_or(VecDeque::is_empty));
                    return;
                }
                Err(_) => return,
            }
        }
        assert!(self.oracle.is_none(), "more frames than units");
    }
}
