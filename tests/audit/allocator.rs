//! An allocator that counts blocks for each thread and live bytes for the whole process.
//!
//! It asks the system's allocator for everything. Counting itself must not allocate, so a thread
//! is known by its number, and only whoever prints a table looks its name up.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::atomic::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Threads of one test program that are told apart; the last place is for all beyond that.
const THREADS_MAX: usize = 512;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

static THREADS: [Thread; THREADS_MAX] = [const { Thread::new() }; THREADS_MAX];
static THREADS_SEEN: AtomicUsize = AtomicUsize::new(0);
/// Bytes that were allocated and not yet given back.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// Where the first block of an audited thread came from.
static FIRST: OnceLock<String> = OnceLock::new();

thread_local! {
    /// This thread's place in `THREADS`, once it has allocated.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One thread that has allocated.
struct Thread {
    /// As gettid(2) numbers it; 0 until the place is taken.
    id: AtomicI32,
    blocks: AtomicU64,
    /// Its first block from now on is traced to its source.
    audited: AtomicBool,
    /// Looks for that source, which allocates and does not count.
    tracing: AtomicBool,
}

impl Thread {
    const fn new() -> Self {
        Self {
            id: AtomicI32::new(0),
            blocks: AtomicU64::new(0),
            audited: AtomicBool::new(false),
            tracing: AtomicBool::new(false),
        }
    }

    /// The calling thread. No thread-local here has a destructor, so this works up to the end.
    fn current() -> &'static Self {
        let place = PLACE.get().unwrap_or_else(|| {
            let place = THREADS_SEEN.fetch_add(1, Relaxed).min(THREADS_MAX - 1);
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            THREADS[place].id.store(id, Release);
            PLACE.set(Some(place));
            place
        });
        &THREADS[place]
    }

    /// As the kernel knows it: at most 15 bytes; empty when the thread has ended.
    fn name(&self) -> String {
        let path = format!("/proc/self/task/{}/comm", self.id.load(Acquire));
        fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
    }

    fn all() -> impl Iterator<Item = &'static Self> {
        THREADS.iter().filter(|thread| thread.id.load(Acquire) != 0)
    }
}

struct CountingAllocator;

impl CountingAllocator {
    fn count(size: usize) {
        LIVE.fetch_add(size as i64, Relaxed);
        let thread = Thread::current();
        if thread.tracing.load(Relaxed) {
            return;
        }
        thread.blocks.fetch_add(1, Relaxed);
        if thread.audited.swap(false, Relaxed) {
            thread.tracing.store(true, Relaxed);
            let _ = FIRST.set(Backtrace::force_capture().to_string());
            thread.tracing.store(false, Relaxed);
        }
    }
}

// SAFETY: every method passes its arguments on to the system's allocator and returns what it gave.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        Self::count(size);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Blocks that were ever allocated, by who asked for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) data_shards: u64,
    pub(crate) control: u64,
    pub(crate) workers: u64,
    /// The test, its clients, and threads that have ended.
    pub(crate) others: u64,
}

impl Blocks {
    pub(crate) fn now() -> Self {
        let mut blocks = Self::default();
        let data_shards = data_shards();
        for thread in Thread::all() {
            let name = thread.name();
            let count = if data_shards.iter().any(|shard| std::ptr::eq(*shard, thread)) {
                &mut blocks.data_shards
            } else if name == CONTROL {
                &mut blocks.control
            } else if WORKERS.iter().any(|worker| name.starts_with(worker)) {
                &mut blocks.workers
            } else {
                &mut blocks.others
            };
            *count += thread.blocks.load(Relaxed);
        }
        blocks
    }

    /// The difference; 0 for a thread that has ended meanwhile and lost its name.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            // This one alone must not hide anything: shards live as long as their server.
            data_shards: self.data_shards - before.data_shards,
            control: self.control.saturating_sub(before.control),
            workers: self.workers.saturating_sub(before.workers),
            others: self.others.saturating_sub(before.others),
        }
    }
}

/// How the threads of data shards are called; a number follows.
const SHARD: &str = "annulus-shard";
const CONTROL: &str = "annulus-control";
/// How those of workers are called.
const WORKERS: [&str; 2] = ["annulus-http", "annulus-worker"];

/// The threads that serve. glommio gives each executor one more, which inherits its name, sleeps,
/// and may still be starting while the first clients are served: the older of two is the shard.
fn data_shards() -> Vec<&'static Thread> {
    let mut by_name: BTreeMap<String, &'static Thread> = BTreeMap::new();
    for thread in Thread::all() {
        let name = thread.name();
        if name.starts_with(SHARD) {
            let oldest = by_name.entry(name).or_insert(thread);
            if thread.id.load(Acquire) < oldest.id.load(Acquire) {
                *oldest = thread;
            }
        }
    }
    by_name.into_values().collect()
}

/// Blocks that the calling thread has ever allocated.
pub(crate) fn blocks_here() -> u64 {
    Thread::current().blocks.load(Relaxed)
}

/// Bytes that the whole process holds at the moment.
pub(crate) fn bytes_live() -> i64 {
    LIVE.load(Relaxed)
}

/// Traces the next block of each data shard; gives their number.
pub(crate) fn trace_data_shards() -> usize {
    let shards = data_shards();
    for shard in &shards {
        shard.audited.store(true, Relaxed);
    }
    shards.len()
}

/// Traces the next block of the calling thread.
pub(crate) fn trace_here() {
    Thread::current().audited.store(true, Relaxed);
}

/// Where the first traced block came from.
pub(crate) fn first_traced() -> &'static str {
    FIRST.get().map_or("nowhere that was traced", String::as_str)
}
