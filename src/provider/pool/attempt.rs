//! One attempt: one request to one endpoint with one key, and the answer as it comes in.
//!
//! Dropping it drops the connection at once. The invariant to remember: however it ends, its lease
//! learns of it exactly once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use secrecy::SecretString;

use super::keepsakes::KeepsakeTable;
use super::lease::Lease;
use super::request::without_key;
use super::seams::{Decode, Response, Time, Wire};
use super::watch::{TimedOut, Watch};
use crate::dialect::{Class, Failure};
use crate::protocol::{AIRequest, StreamEvent};

/// Bytes of a refusal that are read.
const REFUSAL_SIZE_MAX: usize = 64 << 10;
/// How long a refusal's body may take.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes behind the end of an answer that are read for the sake of the connection.
const REST_SIZE_MAX: usize = 64 << 10;
/// How long they may take: what is on its way already, and less than a new connection.
const REST_TIME_MAX: Duration = Duration::from_millis(10);

/// What attempts need of their pool.
pub(super) struct Tools {
    pub(super) time: Arc<dyn Time>,
    pub(super) wire: Arc<dyn Wire>,
    pub(super) keepsakes: KeepsakeTable,
}

/// One attempt, whose answer has begun.
pub(super) struct Attempt {
    /// Before the lease, so that the connection is gone when its place is given to others.
    response: Option<Box<dyn Response>>,
    decoder: Box<dyn Decode>,
    /// Comes after the events from before it.
    failure: Option<Failure>,
    watch: Watch,
    /// The latest time for the first output; none once it is there.
    output_by: Option<Duration>,
    last_bytes: Option<Duration>,
    secret: Option<SecretString>,
    lease: Lease,
    tools: Arc<Tools>,
}

impl Attempt {
    /// Sends a request, and waits for the first output of its answer.
    ///
    /// # Errors
    ///
    /// Whatever went wrong before it; nothing has reached the client, so others may be asked.
    pub(super) async fn begin(
        tools: &Arc<Tools>,
        lease: Lease,
        message: Request<Bytes>,
        secret: Option<SecretString>,
        request: &AIRequest,
    ) -> Result<(StreamEvent, Self), Failure> {
        let settings = &lease.member.settings;
        let sent = tools.time.now();
        let mut attempt = Self {
            response: None,
            decoder: tools.wire.decode(settings.row, request),
            failure: None,
            watch: Watch::new(Arc::clone(&tools.time)),
            output_by: settings.first_output_timeout.map(|timeout| sent + timeout),
            last_bytes: None,
            secret,
            lease,
            tools: Arc::clone(tools),
        };
        match attempt.first(message).await {
            Ok(event) => {
                attempt.lease.first_output(tools.time.now().saturating_sub(sent));
                let event = attempt.given(event);
                Ok((event, attempt))
            }
            Err(failure) => Err(attempt.failed(failure)),
        }
    }

    /// The next event; [`StreamEvent::End`] is the last.
    ///
    /// # Errors
    ///
    /// The answer broke off. Nobody else may be asked: the client has a part of it.
    pub(super) async fn next(&mut self) -> Result<StreamEvent, Failure> {
        match self.event().await {
            Ok(event) => Ok(self.given(event)),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// What it uses.
    pub(super) const fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn first(&mut self, message: Request<Bytes>) -> Result<StreamEvent, Failure> {
        let transport =
            Arc::clone(&self.lease.member.lock().endpoints[self.lease.endpoint].transport);
        let sent = self.watch.before(self.output_by, transport.send(message)).await;
        let response = sent.map_err(|TimedOut| self.silent())??;
        if !(200..300).contains(&response.status()) {
            return Err(self.refusal(response).await);
        }
        self.response = Some(response);
        let event = self.event().await?;
        // It failed with the very bytes that it began with: nobody has seen a part of it.
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(event),
        }
    }

    async fn event(&mut self) -> Result<StreamEvent, Failure> {
        // Bounded: each round ends in an event, a failure, or more of the body.
        loop {
            if let Some(event) = self.decoder.next_event() {
                return Ok(event);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.read().await?;
        }
    }

    /// Reads a piece of the body.
    async fn read(&mut self) -> Result<(), Failure> {
        let Some(response) = &mut self.response else {
            return Err(Failure::new(Class::Incomplete, "the body ended before the answer did"));
        };
        let idle_by = self.last_bytes.map(|last| last + self.lease.member.settings.idle_timeout);
        let deadline = match (self.output_by, idle_by) {
            (Some(output), Some(idle)) => Some(output.min(idle)),
            (one, other) => one.or(other),
        };
        let chunk = self.watch.before(deadline, response.chunk()).await;
        let fed = match chunk.map_err(|TimedOut| self.silent())?? {
            Some(bytes) => {
                self.last_bytes = Some(self.tools.time.now());
                let fed = self.decoder.feed(&bytes);
                // A tool call is an event when it is whole, and may be long: that is no stall.
                if self.decoder.has_output() {
                    self.output_by = None;
                }
                fed
            }
            None => {
                self.response = None;
                self.decoder.finish()
            }
        };
        // Events from before it come first.
        self.failure = fed.err();
        Ok(())
    }

    /// What there is to do with an event on its way to the client.
    fn given(&mut self, event: StreamEvent) -> StreamEvent {
        for (call_id, keepsake) in self.decoder.take_keepsakes() {
            self.tools.keepsakes.keep(self.lease.member.settings.row.kind, call_id, keepsake);
        }
        if let StreamEvent::End { usage, .. } = &event {
            self.lease.succeed(usage);
        }
        event
    }

    /// Reads what is left of the body behind the end of the answer, if it is not much: then the
    /// connection serves others.
    pub(super) async fn read_rest(&mut self) {
        let Some(mut response) = self.response.take() else { return };
        let rest = async {
            let mut size = 0;
            while size <= REST_SIZE_MAX {
                match response.chunk().await {
                    Ok(Some(bytes)) => size += bytes.len(),
                    Ok(None) | Err(_) => break,
                }
            }
        };
        let deadline = self.tools.time.now() + REST_TIME_MAX;
        // Whether it came or not, the answer is whole.
        let _ = self.watch.before(Some(deadline), rest).await;
    }

    /// Reads an answer that is none.
    async fn refusal(&mut self, mut response: Box<dyn Response>) -> Failure {
        let mut body = Vec::new();
        let reading = async {
            while body.len() < REFUSAL_SIZE_MAX {
                match response.chunk().await {
                    Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                    // The status says most of it.
                    Ok(None) | Err(_) => break,
                }
            }
        };
        let deadline = self.tools.time.now() + REFUSAL_TIME_MAX;
        let _ = self.watch.before(Some(deadline), reading).await;
        body.truncate(REFUSAL_SIZE_MAX);
        let row = self.lease.member.settings.row;
        let today = self.tools.time.today();
        self.tools.wire.refusal(row, response.status(), response.headers(), &body, today)
    }

    fn silent(&self) -> Failure {
        let settings = &self.lease.member.settings;
        let now = self.tools.time.now();
        let detail = match (self.output_by, settings.first_output_timeout) {
            (Some(by), Some(timeout)) if now >= by => {
                format!("no output within {} s", timeout.as_secs_f64())
            }
            _ => format!("no byte for {} s", settings.idle_timeout.as_secs_f64()),
        };
        Failure::new(Class::Stalled, detail)
    }

    fn failed(&mut self, failure: Failure) -> Failure {
        self.response = None;
        self.lease.fail(&failure);
        without_key(failure, self.secret.as_ref())
    }
}
