//! The only door to atomics, fences, cells and spin hints.
//!
//! Under the private cfg `annulus_loom` the same names come from loom, so that the model checks in
//! `verification/` run the very code that ships. Plain `--cfg loom` would also change tokio.

#[cfg(not(annulus_loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(annulus_loom))]
pub use std::sync::Arc;

#[cfg(annulus_loom)]
pub use loom::sync::Arc;
#[cfg(annulus_loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor (or loom's scheduler) that this thread is in a polling loop.
#[inline]
pub fn spin_hint() {
    #[cfg(not(annulus_loom))]
    core::hint::spin_loop();
    #[cfg(annulus_loom)]
    loom::thread::yield_now();
}
