//! Endpoints that do what a script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::super::seams::{Local, Response, Time, Transport};
use super::virtual_time::VirtualTime;
use super::world::SECOND;
use crate::dialect::{Class, Failure};

/// What an endpoint does with one request.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Before the head.
    pub(super) wait: Duration,
    /// None: the connection fails.
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<f64>,
    pub(super) acts: Vec<Act>,
}

/// What comes after the head; then the body ends.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Wait(Duration),
    Send(String),
    Break,
}

impl Reply {
    fn with(status: Option<u16>, acts: Vec<Act>) -> Self {
        Self { wait: Duration::ZERO, status, retry_after: None, acts }
    }

    /// A whole answer.
    pub(super) fn whole(text: &str) -> Self {
        Self::acts([Act::Send(format!("text {text}\n")), Act::Send("end\n".into())])
    }

    pub(super) fn acts(acts: impl Into<Vec<Act>>) -> Self {
        Self::with(Some(200), acts.into())
    }

    pub(super) fn refused(status: u16) -> Self {
        Self::with(Some(status), vec![Act::Send("no".into())])
    }

    pub(super) fn refused_for(status: u16, retry_after: f64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::refused(status) }
    }

    pub(super) fn unreachable() -> Self {
        Self::with(None, vec![])
    }

    pub(super) fn silent() -> Self {
        Self { wait: 100_000 * SECOND, ..Self::whole("late") }
    }
}

/// What an endpoint was asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) at: Duration,
    pub(super) key: String,
    pub(super) body: String,
}

/// An endpoint with a script; the last reply is repeated.
pub(super) struct FakeEndpoint {
    time: VirtualTime,
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<Asked>>,
    /// Requests and answers that are under way, and those that were read to their end.
    open: Arc<Mutex<i64>>,
    read: Arc<Mutex<u64>>,
}

impl FakeEndpoint {
    pub(super) fn new(time: &VirtualTime, replies: impl Into<VecDeque<Reply>>) -> Arc<Self> {
        Arc::new(Self {
            time: time.clone(),
            replies: Mutex::new(replies.into()),
            asked: Mutex::default(),
            open: Arc::default(),
            read: Arc::default(),
        })
    }

    pub(super) fn now_replies(&self, replies: impl Into<VecDeque<Reply>>) {
        *self.replies.lock().unwrap() = replies.into();
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn open_count(&self) -> i64 {
        *self.open.lock().unwrap()
    }

    /// Answers whose connection could be used again.
    pub(super) fn read_count(&self) -> u64 {
        *self.read.lock().unwrap()
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Mutex<i64>>);

impl Open {
    fn new(count: &Arc<Mutex<i64>>) -> Self {
        *count.lock().unwrap() += 1;
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

impl Transport for FakeEndpoint {
    fn send(&self, request: Request<Bytes>) -> Local<'_, Result<Box<dyn Response>, Failure>> {
        let key = request.headers().get("authorization");
        let key = key.map_or("", |value| value.to_str().unwrap());
        self.asked.lock().unwrap().push(Asked {
            at: self.time.now(),
            key: key.trim_start_matches("Bearer ").to_owned(),
            body: String::from_utf8(request.body().to_vec()).unwrap(),
        });
        let mut replies = self.replies.lock().unwrap();
        let reply =
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }.unwrap();
        let open = Open::new(&self.open);
        Box::pin(async move {
            if !reply.wait.is_zero() {
                self.time.sleep(reply.wait).await;
            }
            let Some(status) = reply.status else {
                return Err(Failure::new(Class::Network, "connection refused"));
            };
            let mut headers = HeaderMap::new();
            if let Some(secs) = reply.retry_after {
                headers.insert("retry-after", secs.to_string().parse().unwrap());
            }
            let response: Box<dyn Response> = Box::new(FakeResponse {
                time: self.time.clone(),
                status,
                headers,
                acts: reply.acts.into(),
                _open: open,
                read: Arc::clone(&self.read),
            });
            Ok(response)
        })
    }
}

struct FakeResponse {
    time: VirtualTime,
    status: u16,
    headers: HeaderMap,
    acts: VecDeque<Act>,
    _open: Open,
    read: Arc<Mutex<u64>>,
}

impl Response for FakeResponse {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn chunk(&mut self) -> Local<'_, Result<Option<Bytes>, Failure>> {
        Box::pin(async move {
            while let Some(act) = self.acts.pop_front() {
                match act {
                    Act::Wait(duration) => self.time.sleep(duration).await,
                    Act::Send(bytes) => return Ok(Some(bytes.into())),
                    Act::Break => return Err(Failure::new(Class::Network, "connection reset")),
                }
            }
            *self.read.lock().unwrap() += 1;
            Ok(None)
        })
    }
}

/// Nobody is there.
pub(in super::super) struct Unreachable;

impl Transport for Unreachable {
    fn send(&self, _: Request<Bytes>) -> Local<'_, Result<Box<dyn Response>, Failure>> {
        Box::pin(async { Err(Failure::new(Class::Network, "nobody is there")) })
    }
}
