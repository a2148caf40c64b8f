//! What runs the tasks of a worker: tokio's current-thread runtime, on a thread of its own.
//!
//! The thread that asks the providers is woken for each chunk of each stream. glommio's executor pays
//! for each of its sleeps: two timers set and taken back, its three urings submitted to one by one, and a
//! membarrier(2) that interrupts every other core on which the daemon runs. tokio sleeps in one
//! epoll_wait(2), and what handlers of users' programs are likely to use is made for it.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::time::Duration;

use rustix::thread::{sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, LocalOptions};
pub(crate) use tokio::time::sleep;

/// A keyring that waits for its user must not hold up the names of other providers' hosts.
const BLOCKING_THREADS_MAX: usize = 4;
/// Such a thread waits so long for more to do.
const BLOCKING_THREAD_KEPT: Duration = Duration::from_secs(1);

/// Runs `main`, and the tasks that are spawned meanwhile, until `main` has ended; the others are
/// dropped then. A task that panics ends alone.
///
/// # Errors
///
/// The system's, when no descriptor is left.
///
/// # Panics
///
/// In a task of another runtime of tokio's, which must not block.
// Not inlined into its thread, whose code lies with what serves connections (`serving.ld`).
#[inline(never)]
pub(crate) fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
    // Where this thread can run now: wherever it is by then, those for what blocks may run there.
    let cores = sched_getaffinity(None)?;
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_KEPT)
        .thread_name("annulus-block")
        .on_thread_start(move || {
            // Where it cannot, it runs where the runtime does.
            let _ = sched_setaffinity(None, &cores);
        })
        .build_local(LocalOptions::default())?;
    let output = runtime.block_on(main);
    // What blocks still goes on to its end, which nobody learns of.
    runtime.shutdown_background();
    Ok(output)
}

/// Runs `task` beside the others, on this thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Does `work`, which may take its time, on a thread of its own. Dropped, it goes on to its end, which
/// nobody learns of.
pub(crate) async fn block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(output) => output,
        // Nobody else cancels it than the end of the runtime, with which this task ends.
        Err(failed) => resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
