//! What the model checks have in place of the kernel: memory, doorbells and a wake-up made of loom's
//! parts. Not compiled into the program.
//!
//! The invariant to remember: whoever waits here waits in loom, so that a wake-up that gets lost is a
//! deadlock, which loom reports.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex, MutexGuard};

use crate::limits::{PAGE_SIZE, WORD_SIZE};
use crate::sync::{AtomicU64, TallyU64};

/// Words on the heap, in place of `region::Mapping`.
#[derive(Debug)]
pub struct Mapping {
    words: Box<[AtomicU64]>,
}

impl Mapping {
    /// `size` bytes of zeros.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn private(size: u64) -> io::Result<Self> {
        Ok(Self { words: (0..size / WORD_SIZE).map(|_| AtomicU64::new(0)).collect() })
    }

    /// The same: models map no files.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn shared(_file: impl AsFd, size: u64) -> io::Result<Self> {
        Self::private(size)
    }

    /// Does nothing.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn give_back(&self, _start: u64, _end: u64) -> io::Result<()> {
        Ok(())
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn discard(&self, _start: u64, _end: u64) -> io::Result<()> {
        Ok(())
    }

    /// The memory.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }
}

/// Bytes on the heap, in place of the mapping behind a pool's buffers.
pub(crate) struct Buffers {
    words: Box<[TallyU64]>,
    /// One for each page: loom fails the model when two accesses to it are not ordered.
    pages: Box<[UnsafeCell<()>]>,
}

impl Buffers {
    pub(crate) fn private(size: u64) -> io::Result<Self> {
        Ok(Self {
            words: (0..size / WORD_SIZE).map(|_| TallyU64::new(0)).collect(),
            pages: (0..size / PAGE_SIZE).map(|_| UnsafeCell::new(())).collect(),
        })
    }

    /// The buffer that begins at `offset`, whose holder is about to use it.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        let index = |unit| usize::try_from(offset / unit).expect("a model's memory is small");
        self.pages[index(PAGE_SIZE)].with_mut(|_| ());
        self.words[index(WORD_SIZE)..].as_ptr().cast_mut().cast()
    }

    pub(crate) fn discard(&self, _start: u64, _end: u64) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").field("words", &self.words.len()).finish_non_exhaustive()
    }
}

/// A count that waiting takes, in place of an eventfd.
#[derive(Debug)]
pub struct Doorbell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Doorbell {
    /// A doorbell that nobody has rung.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn new() -> io::Result<Self> {
        Ok(Self { rings: Mutex::new(0), rung: Condvar::new() })
    }

    /// Wakes the sleeper.
    pub fn ring(&self) {
        *self.rings() += 1;
        self.rung.notify_one();
    }

    /// Takes all rings so far; true when there were any.
    #[must_use]
    pub fn take(&self) -> bool {
        std::mem::take(&mut *self.rings()) > 0
    }

    /// Waits for at least one ring and takes all.
    pub fn wait(&self) {
        *self.sleep() = 0;
    }

    /// Waits for at least one ring, and takes none.
    pub fn wait_for_ring(&self) {
        drop(self.sleep());
    }

    /// Rings that nobody has taken.
    #[must_use]
    pub fn pending(&self) -> u64 {
        *self.rings()
    }

    fn sleep(&self) -> MutexGuard<'_, u64> {
        let mut rings = self.rings();
        // Bounded by the rings: only a ring ends the wait.
        while *rings == 0 {
            rings = self.rung.wait(rings).expect("no holder panics");
        }
        rings
    }

    fn rings(&self) -> MutexGuard<'_, u64> {
        self.rings.lock().expect("no holder panics")
    }
}

/// The end that a worker waits on.
pub type WorkerDoorbell = Arc<Doorbell>;

/// In place of the socket pair of `wake::WorkerWaker`.
#[derive(Clone, Debug)]
pub struct WorkerWaker {
    doorbell: Arc<Doorbell>,
}

impl WorkerWaker {
    /// The waker and the end that the worker waits on.
    ///
    /// # Errors
    ///
    /// None here.
    pub fn new() -> io::Result<(Self, WorkerDoorbell)> {
        let doorbell = Arc::new(Doorbell::new()?);
        Ok((Self { doorbell: Arc::clone(&doorbell) }, doorbell))
    }

    /// Wakes the worker.
    pub fn wake(&self) {
        self.doorbell.ring();
    }
}
