//! The driver as a task of a tokio runtime.
//!
//! It does what the thread does, turn by turn, except that it never polls for long: between turns it
//! gives the runtime its thread back.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::driver::{Control, Driving, Turn};
use super::options::WaitPolicy;
use super::shared::Shared;
use super::wait::Pace;
use crate::error::IpcError;

/// Socket, response doorbell, the driver's own doorbell, and its timer.
const SOURCE_COUNT: usize = 4;
const SOCKET: usize = 0;

/// Puts a task of the current runtime in office.
pub(super) fn drive(shared: &Arc<Shared>) -> Result<(), IpcError> {
    let runtime = Handle::try_current()
        .map_err(io::Error::other)
        .map_err(IpcError::io("find", "a tokio runtime"))?;
    let control = Control::new()?;
    let sources = Sources::new(shared, &control)
        .map_err(IpcError::io("watch", "the connection in a tokio runtime"))?;
    shared.replace_driver(&control);
    // Steps down also when the runtime drops the task unpolled.
    let driving = Driving { shared: Arc::clone(shared), control };
    runtime.spawn(run(driving, sources));
    Ok(())
}

async fn run(driving: Driving, mut sources: Sources) {
    let (shared, control) = (&*driving.shared, &*driving.control);
    loop {
        let turn = shared.drive_turn(control, &mut Pace::new(WaitPolicy::PARK, None));
        let until = shared.next_attention();
        let look = match turn {
            Turn::Stop => return,
            Turn::Again => {
                yield_once().await;
                false
            }
            Turn::Idle | Turn::Armed => {
                if sources.set_timer(until).is_err() {
                    return; // Whoever still waits gets the thread.
                }
                match sources.ready().await {
                    Some(look) => look,
                    None => return,
                }
            }
        };
        if turn != Turn::Again {
            shared.driver_woke(control, look);
        }
        shared.attend();
    }
}

/// Everything that wakes the driver. The descriptors are duplicates: a runtime wants its own.
struct Sources {
    watched: [AsyncFd<OwnedFd>; SOURCE_COUNT],
    timer: OwnedFd,
    timer_at: Option<Instant>,
}

impl Sources {
    fn new(shared: &Shared, control: &Control) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let watch = |file: &dyn AsFd| {
            let file = file.as_fd().try_clone_to_owned()?;
            // Panics without an I/O driver; a person should hear that as an error.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| register(file)))
                .unwrap_or_else(|_| Err(io::Error::other("its I/O is not enabled")))
        };
        let watched = [
            watch(&shared.link.socket())?,
            watch(shared.link.response_doorbell())?,
            watch(control.doorbell())?,
            watch(&timer)?,
        ];
        Ok(Self { watched, timer, timer_at: None })
    }

    fn set_timer(&mut self, at: Option<Instant>) -> io::Result<()> {
        if at == self.timer_at {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = at.map_or(zero, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // Note: a timer of zero would never fire.
            let left = left.max(std::time::Duration::from_nanos(1));
            Timespec::try_from(left).unwrap_or(zero)
        });
        let value = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)?;
        self.timer_at = at;
        Ok(())
    }

    /// Waits for any of the sources; true when it was the socket, `None` when the runtime ends.
    async fn ready(&mut self) -> Option<bool> {
        let ready = poll_fn(|cx| self.poll_ready(cx)).await;
        // The timer may have fired; the same instant must be set again then.
        self.timer_at = None;
        ready
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Option<bool>> {
        let mut ready = [false; SOURCE_COUNT];
        for (source, ready) in self.watched.iter().zip(&mut ready) {
            match source.poll_read_ready(cx) {
                // Before the driver looks, so that what comes afterwards is an event of its own.
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    *ready = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {}
            }
        }
        if ready == [false; SOURCE_COUNT] {
            return Poll::Pending;
        }
        Poll::Ready(Some(ready[SOCKET]))
    }
}

#[allow(deprecated, reason = "sound for an `OwnedFd`; its successor needs a tokio of this year")]
fn register(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(file, Interest::READABLE)
}

/// Lets the runtime's other tasks have a turn.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
