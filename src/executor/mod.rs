//! What runs the tasks of a thread that serves over the network: tokio's current-thread runtime, or
//! glommio's executor.
//!
//! The thread that asks the providers is woken for each chunk of each stream. glommio's executor pays
//! for each of its sleeps: two timers set and taken back, its three urings submitted to one by one, and a
//! membarrier(2) that interrupts every other core on which the daemon runs. tokio sleeps in one
//! epoll_wait(2).
//!
//! A runtime runs inside the one task of a glommio executor, as a data shard does: glommio makes the
//! thread and places it. Whoever calls [`spawn`], [`sleep`] and [`block`] on a thread without a
//! runtime gets glommio's, so the same code serves on both.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::time::Duration;

use rustix::thread::{sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle, LocalOptions};

/// A keyring that waits for its user must not hold up the names of other providers' hosts.
const BLOCKING_THREADS_MAX: usize = 4;
/// Such a thread waits so long for more to do.
const BLOCKING_THREAD_KEPT: Duration = Duration::from_secs(1);

/// True on a thread that a runtime of tokio's runs.
pub(crate) fn is_tokio() -> bool {
    Handle::try_current().is_ok()
}

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
    if is_tokio() {
        tokio::task::spawn_local(task);
    } else {
        glommio::spawn_local(task).detach();
    }
}

/// Waits. What is dropped earlier leaves nothing behind.
pub(crate) async fn sleep(duration: Duration) {
    if is_tokio() {
        tokio::time::sleep(duration).await;
    } else {
        glommio::timer::sleep(duration).await;
    }
}

/// Does `work`, which may take its time, on a thread of its own. Dropped, it goes on to its end, which
/// nobody learns of.
pub(crate) async fn block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if !is_tokio() {
        return glommio::executor().spawn_blocking(work).await;
    }
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
