//! What happens when a thread that serves is gone.

use super::ShutdownHandle;

/// Kept by a thread that serves, for as long as it does: stops the server when the thread ends without
/// having been told to. What it served would wait for ever, and nobody would know why.
pub(super) struct Departure<T: Fn() -> bool> {
    name: String,
    was_told: T,
    stop: ShutdownHandle,
}

impl<T: Fn() -> bool> Departure<T> {
    pub(super) fn of(name: String, stop: ShutdownHandle, was_told: T) -> Self {
        Self { name, was_told, stop }
    }
}

impl<T: Fn() -> bool> Drop for Departure<T> {
    fn drop(&mut self) {
        if !(self.was_told)() {
            tracing::error!("the thread {} has ended by itself: the server stops", self.name);
            self.stop.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::region::Doorbell;

    #[test]
    fn only_a_thread_that_was_not_told_to_end_stops_the_server() {
        let stop = ShutdownHandle { doorbell: Arc::new(Doorbell::new().unwrap()) };
        drop(Departure::of("told".into(), stop.clone(), || true));
        assert!(!stop.doorbell.take());
        let departure = Departure::of("not told".into(), stop.clone(), || false);
        let thread = std::thread::spawn(move || {
            let _departure = departure;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(stop.doorbell.take());
    }
}
