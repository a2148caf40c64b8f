//! The two plain instruments: a [`Counter`] only grows, a [`Gauge`] goes both ways.
//!
//! Both have **one writer** at a time and any number of readers. So an update is a relaxed load and
//! a relaxed store, two plain moves, where a read-modify-write would lock the cache line. A second
//! writer would be safe but wrong: updates get lost.

use crate::sync::Ordering::Relaxed;
use crate::sync::TallyU64;

/// A number of things that happened, or of bytes that passed. Starts at 0.
///
/// Relaxed: a reader sees some recent value, and promises nothing about the order of two counters.
#[derive(Debug, Default)]
pub struct Counter(TallyU64);

impl Counter {
    /// Counts one. Only the owning shard may call this.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `amount` at once. Only the owning shard may call this.
    ///
    /// Wraps at 2⁶⁴, which a scraper takes for a restart: at 10 GB/s that is 58 years of bytes.
    pub fn add(&self, amount: u64) {
        let before = self.0.load(Relaxed);
        self.0.store(before.wrapping_add(amount), Relaxed);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number of things that exist now. Starts at 0 and never goes below.
#[derive(Debug, Default)]
pub struct Gauge(TallyU64);

impl Gauge {
    /// Replaces the value. Only the owning shard may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Raises the value by `amount`. Only the owning shard may call this.
    pub fn add(&self, amount: u64) {
        self.set(self.value().saturating_add(amount));
    }

    /// Lowers the value by `amount`. Only the owning shard may call this.
    ///
    /// Taking more than was added is the caller's bug: a debug build stops there, a release build
    /// stays at 0 rather than show 18 quintillion open connections.
    pub fn sub(&self, amount: u64) {
        let before = self.value();
        debug_assert!(amount <= before, "gauge at {before} lowered by {amount}");
        self.set(before.saturating_sub(amount));
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_adds_up() {
        let counter = Counter::default();
        counter.increment();
        counter.add(41);
        assert_eq!(counter.value(), 42);
    }

    #[test]
    fn counter_wraps_as_a_scraper_expects_of_a_restart() {
        let counter = Counter::default();
        counter.add(u64::MAX);
        counter.add(3);
        assert_eq!(counter.value(), 2);
    }

    #[test]
    fn gauge_goes_both_ways() {
        let gauge = Gauge::default();
        gauge.add(5);
        gauge.sub(2);
        assert_eq!(gauge.value(), 3);
        gauge.set(7);
        assert_eq!(gauge.value(), 7);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "gauge at 1 lowered by 2"))]
    fn gauge_never_shows_less_than_nothing() {
        let gauge = Gauge::default();
        gauge.add(1);
        gauge.sub(2);
        assert_eq!(gauge.value(), 0);
    }
}
