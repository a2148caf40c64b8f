//! Requests when they are due, whether or not the ones before have been answered.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::wire::{MessageType, Status};
use fake_upstream::now_ns;

use super::bare::Bare;
use super::payload;
use crate::Failure;

/// How long no answer at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Requests and when they are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paced<'a> {
    pub(super) model: &'a str,
    pub(super) count: usize,
    pub(super) period: Duration,
}

/// One request, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exchange {
    /// How long after it was due it was sent.
    pub(super) late_ns: u64,
    pub(super) sent_ns: u64,
    /// When its whole answer was there; 0 before.
    pub(super) answered_ns: u64,
}

impl Paced<'_> {
    /// What is asked: some lines of code, as an editor does, and a mark by which the request is found
    /// in the upstream's log.
    fn prompt(who: &str, index: usize) -> String {
        let mark = mark(who, index);
        format!(
            "{mark}\nExplain what this does, in one sentence.\n\
             fn next(&mut self) -> Option<Frame> {{\n    let head = self.head.load(Acquire);\n    \
             if head == self.tail {{\n        return None;\n    }}\n    self.take(head)\n}}\n"
        )
    }

    /// By a daemon, on one connection.
    pub(super) fn through_daemon(self, who: &str, socket: &Path) -> Result<Vec<Exchange>, Failure> {
        let options = ConnectOptions::new().socket_path(socket).wait(WaitPolicy::PARK);
        let mut connection = Connection::connect(&options)?;
        let payloads: Vec<Vec<u8>> = (0..self.count)
            .map(|index| payload(self.model, Self::prompt(who, index)))
            .collect::<Result<_, _>>()?;
        let mut exchanges = vec![Exchange::default(); self.count];
        // The ids of a connection count up, so the first one tells where each belongs.
        let (mut sent, mut answered, mut first_id) = (0, 0, None);
        let mut answer = Vec::new();
        let started = Instant::now();
        let mut last = started;
        // Bounded: requests count down, silence ends the wait.
        while answered < self.count {
            let due = started + self.period * u32::try_from(sent)?;
            let now = Instant::now();
            if sent < self.count && now >= due {
                let sent_ns = now_ns();
                // With the ring full for a moment it is late, and counted as that.
                if let Some(id) = connection.try_send(MessageType::COMPLETE, &payloads[sent])? {
                    connection.notify();
                    first_id.get_or_insert(id);
                    exchanges[sent].sent_ns = sent_ns;
                    exchanges[sent].late_ns = u64::try_from((now - due).as_nanos())?;
                    sent += 1;
                    continue;
                }
            }
            while let Some(received) = connection.try_receive(&mut answer)? {
                let now = now_ns();
                if received.status != Status::Ok || !received.last {
                    let text = String::from_utf8_lossy(&answer);
                    return Err(format!("an answer is none: {:?} {text}", received.status).into());
                }
                let index = received.request_id - first_id.unwrap_or_default();
                exchanges[usize::try_from(index)?].answered_ns = now;
                answered += 1;
                last = Instant::now();
            }
            if last.elapsed() > SILENCE_MAX {
                return Err("no answer came for 20 s".into());
            }
            let until = if sent < self.count { due } else { last + SILENCE_MAX };
            if answered < self.count {
                connection.wait(Some(until))?;
            }
        }
        Ok(exchanges)
    }

    /// Without one, on one connection: late when the answer before is.
    pub(super) fn directly(self, who: &str, to: SocketAddr) -> Result<Vec<Exchange>, Failure> {
        let mut bare = Bare::connect(to)?;
        let started = Instant::now();
        let exchange = |index: usize| {
            let due = started + self.period * u32::try_from(index)?;
            let prompt = Self::prompt(who, index);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let late = Instant::now().saturating_duration_since(due);
            let sent_ns = now_ns();
            bare.ask(self.model, &prompt)?;
            let late_ns = u64::try_from(late.as_nanos())?;
            Ok(Exchange { late_ns, sent_ns, answered_ns: now_ns() })
        };
        (0..self.count).map(exchange).collect()
    }
}

/// Finds a request in the upstream's log.
pub(super) fn mark(who: &str, index: usize) -> String {
    format!("[{who} {index:06}]")
}

/// The index of the request with this body, if it is one of `who`'s.
pub(super) fn index_of(body: &str, who: &str) -> Option<usize> {
    let (_, rest) = body.split_once(&format!("[{who} "))?;
    rest.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_a_body() {
        let body = format!("{{\"content\":\"{}\\nExplain\"}}", mark("bare", 42));
        assert_eq!(index_of(&body, "bare"), Some(42));
        assert_eq!(index_of(&body, "daemon"), None);
    }
}
