//! Windows of an editor, each a connection with some streams, all read by one thread.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use annulus::bench::Samples;
use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::wire::{MessageType, Status};
use fake_upstream::{now_ns, stamp_of};

use super::payload;
use crate::Failure;
use crate::fleet;

/// How long nothing at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Streams, and how they are watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows<'a> {
    pub(super) model: &'a str,
    pub(super) windows: usize,
    /// Of each window.
    pub(super) streams: usize,
    /// Between the starts of two streams.
    pub(super) gap: Duration,
    /// Chunks of each stream that count only as received.
    pub(super) skipped: u64,
    /// Between two looks at the rings; `None` looks all the time.
    pub(super) nap: Option<Duration>,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// From a chunk's stamp until it was in its client's ring.
    pub(super) samples: Samples,
    pub(super) chunks: u64,
    /// Streams that ended as they should.
    pub(super) whole: u64,
}

impl Windows<'_> {
    /// Opens the streams and reads them to their ends; calls `all_begun` once each has had a chunk.
    pub(super) fn watch(self, socket: &Path, mut all_begun: impl FnMut()) -> Result<Seen, Failure> {
        fleet::allow(u32::try_from(self.windows)?)?;
        let options = ConnectOptions::new().socket_path(socket).wait(WaitPolicy::SPIN);
        let connect = |_| Connection::connect(&options).map(|it| (it, HashMap::new()));
        let mut windows: Vec<(Connection, HashMap<u64, u64>)> =
            (0..self.windows).map(connect).collect::<Result<_, _>>()?;
        let payload = payload(self.model, "count".to_owned())?;
        let total = self.windows * self.streams;
        let mut seen = Seen { samples: Samples::new(), chunks: 0, whole: 0 };
        let (mut opened, mut begun, mut ended) = (0, 0, 0);
        let mut frame = Vec::new();
        let (started, mut last) = (Instant::now(), Instant::now());
        // Bounded: streams end, or silence ends the wait.
        while ended < total {
            if opened < total && started.elapsed() >= self.gap * u32::try_from(opened)? {
                let (connection, streams) = &mut windows[opened % self.windows];
                let id = connection.try_send(MessageType::STREAM, &payload)?;
                streams.insert(id.ok_or("a request ring is full")?, 0);
                connection.notify();
                opened += 1;
            }
            let mut came = false;
            for (connection, streams) in &mut windows {
                while let Some(received) = connection.try_receive(&mut frame)? {
                    let now = now_ns();
                    came = true;
                    if received.status != Status::Ok {
                        let text = String::from_utf8_lossy(&frame);
                        return Err(format!("a stream broke: {:?} {text}", received.status).into());
                    }
                    let chunks = streams.get_mut(&received.request_id).ok_or("a strange id")?;
                    if received.last {
                        ended += 1;
                        seen.whole += 1;
                    } else if let Some(stamp) = stamp_of(std::str::from_utf8(&frame)?) {
                        *chunks += 1;
                        seen.chunks += 1;
                        if *chunks == 1 {
                            begun += 1;
                            if begun == total {
                                all_begun();
                            }
                        }
                        if *chunks > self.skipped {
                            seen.samples.record(Duration::from_nanos(now.saturating_sub(stamp)));
                        }
                    }
                }
            }
            if came {
                last = Instant::now();
            } else if last.elapsed() > SILENCE_MAX {
                return Err("no chunk came for 20 s".into());
            } else if let Some(nap) = self.nap {
                thread::sleep(nap);
            }
        }
        Ok(seen)
    }
}
