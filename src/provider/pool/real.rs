//! The real world behind the pool's seams, but for the network: the executor's time and our dialects.

use std::time::{Duration, Instant, SystemTime};

use super::seams::{Decode, Local, Time, Wire};
use crate::dialect::{Call, Decoder, Encoding, Failure, Row, refusal};
use crate::executor;
use crate::protocol::AIRequest;

/// The time of the executor that runs here.
#[derive(Debug, Clone, Copy)]
pub struct ExecutorTime {
    started: Instant,
}

impl Default for ExecutorTime {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Time for ExecutorTime {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn today(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> Local<'static, ()> {
        Box::pin(executor::sleep(duration))
    }
}

/// The dialects of [`crate::dialect`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Dialects;

impl Wire for Dialects {
    fn encode(&self, encoding: &Encoding<'_>, request: &AIRequest) -> Result<Call, Failure> {
        encoding.encode(request)
    }

    fn decode(&self, row: &'static Row, request: &AIRequest) -> Box<dyn Decode> {
        Box::new(Decoder::new(row, request))
    }

    fn refusal(
        &self,
        row: &'static Row,
        status: u16,
        headers: &http::HeaderMap,
        body: &[u8],
        today: SystemTime,
    ) -> Failure {
        refusal(row, status, headers, body, today)
    }
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::sync::Arc;

    use super::super::watch::{TimedOut, Watch};
    use super::*;

    #[test]
    fn deadlines_hold_on_an_executor() {
        executor::testing::run(async {
            let time = ExecutorTime::default();
            let mut watch = Watch::new(Arc::new(time));
            for _ in 0..3 {
                let deadline = time.now() + Duration::from_millis(5);
                let late = watch.before(Some(deadline), future::pending::<()>()).await;
                assert_eq!(late, Err(TimedOut));
                assert!(time.now() >= deadline);
            }
        });
    }
}
