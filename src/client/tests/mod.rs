//! The client against a stand-in daemon.
#![allow(clippy::cast_possible_truncation, reason = "payloads are patterns of bytes")]

mod connection;
mod handshake;
mod pool;
mod shared;
mod tasks;
#[cfg(feature = "tokio")]
mod tokio;

use std::sync::mpsc::channel;
use std::thread;

use super::testing::PATIENCE;

/// Runs `body`, failing the test if it hangs.
fn in_time<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let running = thread::spawn(move || {
        let value = body();
        let _ = sender.send(());
        value
    });
    // A panic drops the sender and shows in the join.
    let waited = receiver.recv_timeout(PATIENCE * 2);
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "the test hangs");
    running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
