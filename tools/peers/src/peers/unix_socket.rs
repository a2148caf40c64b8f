//! A Unix stream socket: a system call for each message, or 64 KiB at a time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Result, ensure};

use super::Peer;
use crate::meter::{Link, Patience, Take};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

/// Most bytes of one read or write of the batched kind.
const BATCH_SIZE: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnixSocket {
    /// One write and at least one read for each message.
    Plain,
    /// As many messages as there are, up to 64 KiB, for each read and write.
    Batched,
}

impl Peer for UnixSocket {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain => "unix-socket",
            Self::Batched => "unix-socket-64k",
        }
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        match (self, load) {
            (Self::Batched, Load::Hot | Load::Cold) => Err("one at a time it is the plain socket"),
            (_, Load::Cold) => Ok(Wait::Sleeps),
            (_, Load::Hot | Load::Pipelined) => Ok(Wait::Polls),
        }
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let listener = UnixListener::bind(scene.path("s"))?;
        say_ready()?;
        let mut stream = Stream::new(listener.accept()?.0, scene.wait)?;
        let mut bytes = vec![0; BATCH_SIZE];
        // Until the client goes.
        loop {
            let size = match self {
                Self::Plain => stream.read_exact(&mut bytes[..scene.size]).map(|()| scene.size)?,
                Self::Batched => stream.read(&mut bytes)?,
            };
            stream.write_all(&bytes[..size])?;
        }
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let responder = scene.start_responder(&[])?;
        let stream = Stream::new(UnixStream::connect(scene.path("s"))?, scene.wait)?;
        let link: Box<dyn Link> = match self {
            Self::Plain => Box::new(Plain { stream, answer: vec![0; scene.size] }),
            Self::Batched => Box::new(Batched {
                stream,
                size: scene.size,
                unsent: Vec::with_capacity(BATCH_SIZE),
                received: vec![0; BATCH_SIZE],
                received_size: 0,
            }),
        };
        Ok((link, responder))
    }
}

/// A stream whose operations block, or are tried again and again.
struct Stream(UnixStream);

impl Stream {
    fn new(stream: UnixStream, wait: Wait) -> Result<Self> {
        stream.set_nonblocking(wait == Wait::Polls)?;
        Ok(Self(stream))
    }

    /// Some bytes, at least one.
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut patience = Patience::new();
        loop {
            match self.0.read(into) {
                Ok(size) => {
                    ensure!(size > 0, "the other side hung up");
                    return Ok(size);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => patience.spin()?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[inline]
    fn read_exact(&mut self, into: &mut [u8]) -> Result<()> {
        let mut filled_size = 0;
        while filled_size < into.len() {
            filled_size += self.read(&mut into[filled_size..])?;
        }
        Ok(())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let mut patience = Patience::new();
        let mut written_size = 0;
        while written_size < bytes.len() {
            match self.0.write(&bytes[written_size..]) {
                Ok(size) => written_size += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => patience.spin()?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

struct Plain {
    stream: Stream,
    answer: Vec<u8>,
}

impl Link for Plain {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.stream.write_all(payload)?;
        self.stream.read_exact(answer)
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.stream.write_all(payload)?;
        Ok(true)
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        self.stream.read_exact(&mut self.answer)?;
        take(&self.answer)
    }
}

struct Batched {
    stream: Stream,
    size: usize,
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// Bytes of `received` that belong to an answer that is not whole yet.
    received_size: usize,
}

impl Link for Batched {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.stream.write_all(payload)?;
        self.stream.read_exact(answer)
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        if self.unsent.len() + payload.len() > BATCH_SIZE {
            self.flush()?;
        }
        self.unsent.extend_from_slice(payload);
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        // Bounded: at least one byte a turn, until an answer is whole.
        while self.received_size < self.size {
            self.received_size += self.stream.read(&mut self.received[self.received_size..])?;
        }
        let whole_size = self.received_size - self.received_size % self.size;
        self.received[..whole_size].chunks_exact(self.size).try_for_each(take)?;
        self.received.copy_within(whole_size..self.received_size, 0);
        self.received_size -= whole_size;
        Ok(())
    }
}
