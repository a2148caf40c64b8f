//! What happened: every request, every connection, and how and when each ended.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::now_ns;

/// Requests and connections that are remembered; of more the oldest are forgotten.
const RECORDS_MAX: usize = 32_768;
/// Bytes of a request's body that are remembered.
const BODY_SIZE_MAX: usize = 256 << 10;

/// Whether a request brought the right key. The key itself is never remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The one that the server was told.
    Right,
    /// Another one.
    Wrong,
    /// None.
    Missing,
    /// A signature (AWS Signature Version 4), which is not checked.
    Signed,
}

/// How far an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Between requests, or within one.
    Idle,
    /// Nothing of the answer was sent.
    Headers,
    /// Head and preamble were sent, no output.
    Preamble,
    /// Output was sent.
    Output,
}

/// How a request or a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// As it should: the answer was sent, or the client closed a connection that was idle.
    Whole,
    /// The client closed the connection (or the stream of HTTP/2) in this phase.
    LeftByClient(Phase),
    /// We broke it off, because the script says so.
    CutByScript,
    /// We broke it off, because the request was not HTTP.
    Refused,
    /// The server stopped.
    Stopped,
}

/// An end. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// When.
    pub at_ns: u64,
    /// How.
    pub how: How,
}

/// One connection.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionRecord {
    /// Counted from 0.
    pub id: u64,
    /// When it was accepted.
    pub opened_ns: u64,
    /// Requests on it so far.
    pub requests_count: u64,
    /// `None` while it is open.
    pub ended: Option<Ended>,
}

/// One request.
#[derive(Debug, Clone, Serialize)]
pub struct RequestRecord {
    /// Counted from 0.
    pub id: u64,
    /// On which connection it came.
    pub connection: u64,
    /// When it was read.
    pub at_ns: u64,
    /// `POST`, …
    pub method: String,
    /// Path and query, or what a proxy was asked for.
    pub target: String,
    /// Names in lower case; those with a key have no value.
    pub headers: Vec<(String, String)>,
    /// Whether it brought the right key.
    pub key: Key,
    /// As text; cut at 256 KiB.
    pub body: String,
    /// The status that was answered; 0 before there is one.
    pub status: u16,
    /// `None` while it is being answered.
    pub ended: Option<Ended>,
}

/// Everything that is remembered.
#[derive(Debug, Default, Serialize)]
pub struct Log {
    /// Oldest first.
    pub requests: VecDeque<RequestRecord>,
    /// Oldest first.
    pub connections: VecDeque<ConnectionRecord>,
    /// Connections since the start.
    pub connections_count: u64,
    /// Requests since the start.
    pub requests_count: u64,
    /// Connections that are open now.
    pub connections_open: u64,
    /// Requests that are being answered now.
    pub requests_open: u64,
}

/// The log, and who waits for it to change.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    log: Mutex<Log>,
    changed: Condvar,
}

impl Recorder {
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `holds`, at most so long; says whether it held.
    pub(crate) fn wait_for(&self, limit: Duration, holds: impl Fn(&Log) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut log = self.log();
        // Bound: one round for each change, until the limit.
        while !holds(&log) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(log, left);
            log = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(crate) fn opened(&self) -> u64 {
        let mut log = self.log();
        let id = log.connections_count;
        log.connections_count += 1;
        log.connections_open += 1;
        if log.connections.len() == RECORDS_MAX {
            log.connections.pop_front();
        }
        let opened_ns = now_ns();
        log.connections.push_back(ConnectionRecord {
            id,
            opened_ns,
            requests_count: 0,
            ended: None,
        });
        drop(log);
        self.changed.notify_all();
        id
    }

    pub(crate) fn closed(&self, id: u64, how: How) {
        let at_ns = now_ns();
        let mut log = self.log();
        log.connections_open -= 1;
        if let Some(connection) = log.connection(id) {
            connection.ended = Some(Ended { at_ns, how });
        }
        drop(log);
        self.changed.notify_all();
    }

    /// A request came; its id.
    pub(crate) fn asked(&self, mut request: RequestRecord) -> u64 {
        if request.body.len() > BODY_SIZE_MAX {
            request.body.truncate(request.body.floor_char_boundary(BODY_SIZE_MAX));
        }
        let mut log = self.log();
        let id = log.requests_count;
        request.id = id;
        log.requests_count += 1;
        log.requests_open += 1;
        if let Some(connection) = log.connection(request.connection) {
            connection.requests_count += 1;
        }
        if log.requests.len() == RECORDS_MAX {
            log.requests.pop_front();
        }
        log.requests.push_back(request);
        drop(log);
        self.changed.notify_all();
        id
    }

    pub(crate) fn answered(&self, id: u64, status: u16, how: How) {
        let at_ns = now_ns();
        let mut log = self.log();
        log.requests_open -= 1;
        if let Some(request) = log.request(id) {
            request.status = status;
            request.ended = Some(Ended { at_ns, how });
        }
        drop(log);
        self.changed.notify_all();
    }
}

impl Log {
    // Ids are without gaps, so a record's place follows from the oldest one's id.

    fn connection(&mut self, id: u64) -> Option<&mut ConnectionRecord> {
        let first = self.connections.front()?.id;
        self.connections.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    fn request(&mut self, id: u64) -> Option<&mut RequestRecord> {
        let first = self.requests.front()?.id;
        self.requests.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }
}
