//! The only door to atomics, fences, cells and spin hints.
//!
//! Under the private cfg `annulus_loom` the same names come from loom, so that the model checks in
//! `verification/` run the very code that ships. Plain `--cfg loom` would also change tokio.
//! What is the kernel's and not loom's (mapped memory, eventfds, sockets) is then in `stand_in`.

#[cfg(not(annulus_loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(annulus_loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// For counts that tell nobody anything about other memory: the models do not explore them.
#[cfg(any(feature = "server", annulus_loom))]
pub use core::sync::atomic::AtomicU64 as TallyU64;

#[cfg(all(test, not(annulus_loom)))]
thread_local! {
    /// Lets a test do something between any two polls of its thread.
    pub(crate) static ON_HINT: std::cell::RefCell<Option<Box<dyn Fn()>>> = Default::default();
}

/// Tells the processor (or loom's scheduler) that this thread is in a polling loop.
#[inline]
pub fn spin_hint() {
    #[cfg(all(test, not(annulus_loom)))]
    ON_HINT.with_borrow(|act| act.iter().for_each(|act| act()));
    #[cfg(not(annulus_loom))]
    core::hint::spin_loop();
    #[cfg(annulus_loom)]
    loom::thread::yield_now();
}

/// Always true, except where a harness plants the bug called `canary` to see whether it is found:
/// then the code that asks leaves out, or weakens, what it is about to do.
///
/// `tools/canaries.d/list` says which check has to find it, and `tools/canaries` makes sure that it
/// does. A constant unless the private cfg `annulus_loom` or `annulus_canary` is set.
#[doc(hidden)]
#[inline(always)]
#[must_use]
pub fn sound(canary: &str) -> bool {
    #[cfg(not(any(annulus_loom, annulus_canary)))]
    let planted = {
        let _ = canary;
        false
    };
    #[cfg(any(annulus_loom, annulus_canary))]
    let planted = {
        use std::sync::LazyLock;
        static PLANTED: LazyLock<Option<String>> =
            LazyLock::new(|| std::env::var("ANNULUS_CANARY").ok());
        PLANTED.as_deref() == Some(canary)
    };
    !planted
}
