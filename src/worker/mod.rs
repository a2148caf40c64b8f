//! A worker executor: an executor that runs asynchronous handlers for the data shards.
//!
//! The http shard is one of these, with the providers' handlers; users' handlers have one of their own.
//! Both run on tokio (`crate::executor`). Here allocating and awaiting are fine. Each request is one
//! task; its future is dropped the moment that it is cancelled, its deadline passes or its client dies,
//! and with it whatever it holds upstream.
//!
//! The invariant to remember: a request gets exactly one last frame, because one task sends it, on
//! one thread, and only if nothing was sent before.

mod crowd;
#[cfg(not(annulus_loom))]
mod executor;
mod handler;
#[cfg(annulus_loom)]
pub mod model;
mod session;

pub use handler::{AsyncHandler, AsyncRequest, AsyncResponder};

use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{FutureExt, future};

use self::crowd::Crowd;
#[cfg(annulus_loom)]
use self::model as executor;
use self::session::{LinkState, Sessions};
use crate::error::IpcError;
use crate::link::{Job, JobKind, WorkerEnd};
use crate::protocol::Codec;
use crate::sync::{AtomicBool, Ordering, sound};
use crate::wake::{WorkerDoorbell, WorkerWaker};
use crate::wire::{FrameHeader, MessageType};

/// Jobs that one round takes from a link before the tasks have their turn.
const JOBS_PER_ROUND: usize = 256;

/// What a worker executor is made from.
pub(crate) struct WorkerOptions {
    /// One end for each data shard.
    pub(crate) links: Vec<WorkerEnd>,
    pub(crate) handlers: HashMap<MessageType, Arc<dyn AsyncHandler>>,
    pub(crate) codecs: Arc<[Arc<dyn Codec>]>,
    /// Deadline of requests that bring none.
    pub(crate) request_timeout: Option<Duration>,
    /// The end that the worker reads; see [`WorkerWaker`].
    pub(crate) doorbell: WorkerDoorbell,
    pub(crate) stop: Arc<WorkerStop>,
}

/// Ends a worker executor once its shards have stopped.
pub(crate) struct WorkerStop {
    stopping: AtomicBool,
    waker: Arc<WorkerWaker>,
}

impl WorkerStop {
    pub(crate) fn new(waker: Arc<WorkerWaker>) -> Self {
        Self { stopping: AtomicBool::new(false), waker }
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release); // Pairs with `is_stopping`.
        self.waker.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Runs until told to stop; the future of the executor's one long task. Calls `serves` once nothing
/// stands in the way any more, and drops what that gives when it has ended.
pub(crate) async fn run<G>(options: WorkerOptions, serves: impl FnOnce() -> G) -> io::Result<()> {
    let WorkerOptions { links, handlers, codecs, request_timeout, doorbell, stop } = options;
    let mut doorbell = executor::Doorbell::new(doorbell)?;
    let _serving = serves();
    let links: Vec<Rc<LinkState>> =
        links.into_iter().map(|end| Rc::new(LinkState::new(end))).collect();
    let crowd = Crowd::new(links.clone());
    let mut sessions: Vec<Sessions> =
        links.iter().map(|link| Sessions::new(Rc::clone(link), Rc::clone(&crowd))).collect();
    let server = Rc::new(Server { handlers, codecs, request_timeout, crowd });
    // Bounded by the daemon's life; each round ends in a sleep or in a job.
    while !stop.is_stopping() {
        for (link, sessions) in links.iter().zip(&mut sessions) {
            // Bounded: a client that floods us with cancels would otherwise keep all tasks waiting.
            for _ in 0..JOBS_PER_ROUND {
                let Some(job) = link.take_job() else { break };
                dispatch(job, sessions, &server);
            }
            link.wake_waiters();
        }
        for link in &links {
            link.arm();
        }
        if links.iter().any(|link| link.has_job()) && sound("last look for a job") {
            future::yield_now().await;
        } else if !doorbell.rung().await? {
            break;
        }
        for link in &links {
            link.disarm();
        }
    }
    Ok(())
}

/// What every request of this worker shares.
struct Server {
    handlers: HashMap<MessageType, Arc<dyn AsyncHandler>>,
    codecs: Arc<[Arc<dyn Codec>]>,
    request_timeout: Option<Duration>,
    crowd: Rc<Crowd>,
}

fn dispatch(job: Job, sessions: &mut Sessions, server: &Rc<Server>) {
    let Job { slot, connection_id, kind } = job;
    match kind {
        JobKind::Cancel { request_id } => sessions.cancel(slot, connection_id, request_id),
        JobKind::Closed => sessions.close(slot),
        JobKind::Request { header, codec, payload } => {
            let session = sessions.open(slot, connection_id);
            let ticket = session.admit(header.request_id);
            let codec = server
                .codecs
                .iter()
                .find(|known| known.id().0 == codec)
                .expect("a handshake grants only codecs that there are");
            let request = AsyncRequest::new(header, payload, Arc::clone(codec), connection_id);
            let responder = AsyncResponder::new(Rc::clone(&session), Rc::clone(&ticket), header);
            let server = Rc::clone(server);
            let member = server.crowd.join();
            executor::spawn(async move {
                // Whatever of a handler panics: its call, its future, or that as it is dropped.
                let served = AssertUnwindSafe(server.serve(request, responder.clone()));
                let outcome = served.catch_unwind().await.unwrap_or(Err(IpcError::HandlerPanic));
                // The handler's future is gone by now, and what it held upstream with it.
                responder.finish(outcome).await;
                session.retire(header.request_id, &ticket);
                drop(member);
            });
        }
    }
}

impl Server {
    /// Runs one handler up to its end, its deadline or its cancellation.
    async fn serve(
        &self,
        request: AsyncRequest,
        responder: AsyncResponder,
    ) -> Result<(), IpcError> {
        let handler =
            self.handlers.get(&request.message_type()).ok_or(IpcError::UnknownMessageType)?;
        let deadline = deadline(&request.header(), self.request_timeout);
        let cancelled = responder.cancelled();
        let handled = handler.handle(request, responder);
        let stopped = async {
            cancelled.await;
            Err(IpcError::Cancelled)
        };
        let late = async {
            match deadline {
                Some(deadline) => executor::sleep(deadline).await,
                None => future::pending().await,
            }
            Err(IpcError::Timeout)
        };
        // Cancellation first: who cancels wants no more work done.
        stopped.or(handled).or(late).await
    }
}

fn deadline(header: &FrameHeader, otherwise: Option<Duration>) -> Option<Duration> {
    match header.deadline_ms {
        0 => otherwise,
        milliseconds => Some(Duration::from_millis(u64::from(milliseconds))),
    }
}
