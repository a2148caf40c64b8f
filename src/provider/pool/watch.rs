//! Deadlines for many short waits with few timers.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::seams::{Local, Time};

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimedOut;

/// Ends waits at deadlines that mostly move on before they pass, as that of an idle stream does with
/// each chunk. It sets an alarm only where one is missing, and looks at the clock when that rings: a
/// stream of any number of chunks costs a timer each idle time, not each chunk.
pub(super) struct Watch {
    time: Arc<dyn Time>,
    alarm: Option<(Duration, Local<'static, ()>)>,
}

impl Watch {
    pub(super) const fn new(time: Arc<dyn Time>) -> Self {
        Self { time, alarm: None }
    }

    /// Waits for `work`, until `deadline` at most.
    ///
    /// # Errors
    ///
    /// [`TimedOut`]; `work` is dropped.
    pub(super) async fn before<F: Future>(
        &mut self,
        deadline: Option<Duration>,
        work: F,
    ) -> Result<F::Output, TimedOut> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            // Bounded: each round leaves, or sets an alarm that lies ahead.
            loop {
                let now = self.time.now();
                if now >= deadline {
                    return Poll::Ready(Err(TimedOut));
                }
                // An alarm that rings too early does no harm; one that rings too late would.
                if self.alarm.as_ref().is_none_or(|(at, _)| *at > deadline) {
                    self.alarm = Some((deadline, self.time.sleep(deadline - now)));
                }
                let Some((_, alarm)) = &mut self.alarm else { return Poll::Pending };
                if alarm.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.alarm = None;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::super::tests::virtual_time::VirtualTime;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn work_that_takes_too_long_is_dropped_at_its_deadline() {
        let time = VirtualTime::default();
        let mut watch = Watch::new(Arc::new(time.clone()));
        let start = time.now();
        let deadline = Some(start + 3 * SECOND);
        let late = time.run(watch.before(deadline, future::pending::<()>()));
        assert_eq!((late, time.now()), (Err(TimedOut), start + 3 * SECOND));
        let on_time = time.run(watch.before(None, time.sleep(100 * SECOND)));
        assert_eq!(on_time, Ok(()));
    }

    #[test]
    fn moving_deadlines_take_few_timers_and_still_hold() {
        let time = VirtualTime::default();
        let mut watch = Watch::new(Arc::new(time.clone()));
        let sleep = |duration| {
            let time = time.clone();
            async move { time.sleep(duration).await }
        };
        let before = time.timers_set();
        for _ in 0..1000 {
            let deadline = Some(time.now() + 90 * SECOND);
            assert_eq!(time.run(watch.before(deadline, sleep(SECOND))), Ok(()));
        }
        // A thousand are the work's own.
        assert!(time.timers_set() - before < 1000 + 20, "{}", time.timers_set() - before);
        let deadline = time.now() + SECOND / 2;
        let late = time.run(watch.before(Some(deadline), sleep(SECOND)));
        assert_eq!((late, time.now()), (Err(TimedOut), deadline));
    }
}
