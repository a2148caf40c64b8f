//! The clock that all processes of the machine share, and stamps of it in answer texts.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Bytes of a stamp: `@` and twenty digits.
pub const STAMP_SIZE: usize = 21;
/// What stands in an encoded body until the stamp is known. It needs no escaping in JSON.
pub(crate) const BLANK_STAMP: &str = "@00000000000000000000";

/// Nanoseconds of `CLOCK_MONOTONIC` (clock_gettime(2)), comparable between processes.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// When the chunk with this text was sent, in nanoseconds of [`now_ns`]; `None` without a stamp.
#[must_use]
pub fn stamp_of(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once('@')?;
    rest.get(..STAMP_SIZE - 1)?.parse().ok()
}

/// Writes the stamp of now over a blank one.
pub(crate) fn write_stamp(target: &mut [u8]) {
    let mut rest = now_ns();
    for digit in target[1..STAMP_SIZE].iter_mut().rev() {
        // Note: cannot overflow: a digit is below ten.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// A timer of its own for one connection. tokio's have milliseconds: the chunks of many streams would
/// come in bursts that no network has.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(
        deprecated,
        reason = "what takes its place is unsafe, and an OwnedFd is what it asks for"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::new(timer)?))
    }

    /// Waits until then.
    pub(crate) async fn sleep_until(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        let mut rung = [0; 8];
        // Bounded: it rings once, and what is said before that is old.
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut rung)?)) {
                Ok(read) => return read.map(drop),
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_as_the_moment_it_was_written() {
        let before = now_ns();
        let mut text = format!("{BLANK_STAMP} word").into_bytes();
        write_stamp(&mut text);
        let stamp = stamp_of(std::str::from_utf8(&text).unwrap()).unwrap();
        assert!((before..=now_ns()).contains(&stamp));
        assert_eq!(stamp_of("no stamp @12"), None);
    }
}
