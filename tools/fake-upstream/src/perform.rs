//! Carries a plan out, on whatever kind of connection.

use std::future::Future;

use tokio::time::Instant;

use crate::encode::Stamp;
use crate::plan::{Action, End, Plan};
use crate::record::Phase;

/// The client is gone.
#[derive(Debug)]
pub(crate) struct Left;

/// One answer's way to the client. What is sent may be kept until the next wait or the end.
pub(crate) trait Sink: Send {
    /// Status and headers.
    fn head(&mut self, plan: &Plan) -> impl Future<Output = Result<(), Left>> + Send;
    /// A part of the body.
    fn send(
        &mut self,
        bytes: &[u8],
        stamp: Option<Stamp>,
    ) -> impl Future<Output = Result<(), Left>> + Send;
    /// Until then, without end for `None`, or until the client leaves.
    fn wait(&mut self, until: Option<Instant>) -> impl Future<Output = Result<(), Left>> + Send;
    /// The body's end.
    fn end(&mut self, end: End) -> impl Future<Output = Result<(), Left>> + Send;
}

/// Sends an answer.
///
/// # Errors
///
/// The client left, in this phase.
pub(crate) async fn perform(plan: &Plan, sink: &mut impl Sink) -> Result<(), Phase> {
    let mut phase = Phase::Headers;
    run(plan, sink, &mut phase).await.map_err(|Left| phase)
}

async fn run(plan: &Plan, sink: &mut impl Sink, phase: &mut Phase) -> Result<(), Left> {
    if let Some(wait) = plan.head_wait {
        sink.wait(wait.map(|time| Instant::now() + time)).await?;
    }
    sink.head(plan).await?;
    *phase = Phase::Preamble;
    let mut paced = Instant::now();
    for action in &plan.actions {
        match action {
            Action::Send { bytes, stamp } => sink.send(bytes, *stamp).await?,
            Action::Output => {
                *phase = Phase::Output;
                paced = Instant::now();
            }
            // Moments are kept even when one is missed, so that the rate is what was asked for.
            Action::Pace(period) => {
                paced += *period;
                sink.wait(Some(paced)).await?;
            }
            Action::Wait(wait) => sink.wait(wait.map(|time| Instant::now() + time)).await?,
            Action::Repeat { bytes, every } => loop {
                // Bound: the client's patience; `wait` says when it is gone.
                sink.send(bytes, None).await?;
                sink.wait(Some(Instant::now() + *every)).await?;
            },
        }
    }
    sink.end(plan.end).await
}
