//! Clients without a daemon: what the same upstream, kernel and cores give whoever speaks HTTP to
//! them directly.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use annulus::bench::Samples;
use fake_upstream::{STAMP_SIZE, now_ns, stamp_of};
use rustix::event::{Timespec, epoll};

use crate::Failure;

/// How long nothing at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bytes that one read takes at most.
const READ_SIZE: usize = 16 << 10;
/// What the last bytes of a chunked body are (RFC 9112 §7.1).
const BODY_END: &[u8] = b"\r\n0\r\n\r\n";

/// One connection, which is kept.
#[derive(Debug)]
pub(super) struct Bare {
    stream: TcpStream,
    /// The answer as far as it came.
    answer: Vec<u8>,
}

impl Bare {
    pub(super) fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self { stream, answer: Vec::with_capacity(READ_SIZE) })
    }

    /// Asks a model a question and waits for the end of its stream.
    pub(super) fn ask(&mut self, model: &str, prompt: &str) -> Result<(), Failure> {
        self.send(model, prompt)?;
        while !self.is_whole()? {
            if self.read()? == 0 {
                return Err("an answer without a daemon was cut".into());
            }
        }
        Ok(())
    }

    fn send(&mut self, model: &str, prompt: &str) -> Result<(), Failure> {
        let body = serde_json::json!({
            "model": model, "stream": true, "messages": [{"role": "user", "content": prompt}],
        })
        .to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer none\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.answer.clear();
        Ok(self.stream.write_all((head + &body).as_bytes())?)
    }

    /// Reads what is there, once.
    fn read(&mut self) -> io::Result<usize> {
        let size = self.answer.len();
        self.answer.resize(size + READ_SIZE, 0);
        let count = self.stream.read(&mut self.answer[size..]);
        self.answer.truncate(size + count.as_ref().map_or(0, |count| *count));
        count
    }

    fn is_whole(&self) -> Result<bool, Failure> {
        let head = &self.answer[..self.answer.len().min(12)];
        if head.len() == 12 && !head.ends_with(b" 200") {
            let text = String::from_utf8_lossy(&self.answer);
            return Err(format!("an answer without a daemon is none: {text}").into());
        }
        Ok(self.answer.ends_with(BODY_END))
    }
}

/// Reads so many streams of a model on one thread, each on a connection of its own and one begun every
/// `gap`; returns how long after its stamp each chunk was read. The first `skipped` of each stream
/// count only as received.
pub(super) fn watch(
    address: SocketAddr,
    model: &str,
    streams: usize,
    gap: Duration,
    skipped: u64,
) -> Result<(Samples, u64), Failure> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (mut open, mut samples, mut received) = (Vec::new(), Samples::new(), 0);
    let mut ended = 0;
    let mut events = Vec::with_capacity(streams);
    let (started, mut last) = (Instant::now(), Instant::now());
    // Bounded: streams end, or silence ends the wait.
    while ended < streams {
        if open.len() < streams && started.elapsed() >= gap * u32::try_from(open.len())? {
            let mut bare = Bare::connect(address)?;
            let data = epoll::EventData::new_u64(open.len() as u64);
            epoll::add(&poll, &bare.stream, data, epoll::EventFlags::IN)?;
            bare.send(model, "count")?;
            open.push((bare, 0));
            last = Instant::now();
        }
        events.clear();
        // Looks all the time, as the clients of the daemon do.
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&at_once))?;
        for event in &events {
            let (bare, chunks) = &mut open[usize::try_from(event.data.u64())?];
            if bare.read()? == 0 {
                return Err("a stream without a daemon was cut".into());
            }
            let now = now_ns();
            let end = bare.answer.ends_with(BODY_END);
            for stamp in take_stamps(&mut bare.answer) {
                *chunks += 1;
                received += 1;
                if *chunks > skipped {
                    samples.record(Duration::from_nanos(now.saturating_sub(stamp)));
                }
            }
            ended += usize::from(end);
            last = Instant::now();
        }
        if last.elapsed() > SILENCE_MAX {
            return Err("no chunk came for 20 s".into());
        }
    }
    Ok((samples, received))
}

/// Takes the stamps out of what came, and leaves what may be the beginning of one, or of the end.
fn take_stamps(answer: &mut Vec<u8>) -> Vec<u64> {
    let mut stamps = Vec::new();
    let text = String::from_utf8_lossy(answer);
    let mut rest = text.as_ref();
    while let Some(start) = rest.find('@') {
        let Some(stamp) = stamp_of(&rest[start..]) else { break };
        stamps.push(stamp);
        rest = &rest[start + STAMP_SIZE..];
    }
    let keep = rest.len().min(STAMP_SIZE);
    let taken = answer.len() - keep;
    answer.drain(..taken);
    stamps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_taken_once_wherever_the_bytes_are_cut() {
        let text = b"data: @00000000000000000012 a\n\ndata: @00000000000000000034 b\n\nend of it";
        for cut in 0..text.len() {
            let mut answer = text[..cut].to_vec();
            let mut stamps = take_stamps(&mut answer);
            answer.extend(&text[cut..]);
            stamps.extend(take_stamps(&mut answer));
            assert_eq!(stamps, [12, 34], "cut at {cut}");
        }
    }
}
