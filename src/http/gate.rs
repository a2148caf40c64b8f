//! A connection's bytes, as hyper is shown them while it writes a request and reads a head.
//!
//! hyper would read on into the body and have it all in buffers of its own, and it stays busy until
//! the peer has taken the whole request. Behind the gate it sees nothing after the head, and has
//! always written everything: the rest of both is ours, and hyper can go.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};

use super::tap::Tapped;

/// The connection while it has a request.
pub(super) struct Gate {
    io: Tapped,
    /// Bytes of the request that the peer has not taken.
    unsent: BytesMut,
    /// Nothing of the request is on this side any more.
    is_sent: bool,
    heads: Heads,
    has_head: Rc<Cell<bool>>,
    /// What came with the head and belongs to the body.
    ahead: BytesMut,
}

impl Gate {
    /// The gate, and what tells that hyper has been shown the whole head.
    pub(super) fn new(io: Tapped) -> (Self, Rc<Cell<bool>>) {
        let has_head = Rc::new(Cell::new(false));
        let gate = Self {
            io,
            unsent: BytesMut::new(),
            is_sent: true,
            heads: Heads::default(),
            has_head: Rc::clone(&has_head),
            ahead: BytesMut::new(),
        };
        (gate, has_head)
    }

    /// Ready with the number of bytes that came behind the head; 0 when the peer has closed. Sends
    /// what is left of the request meanwhile: it is the peer's business to answer before it has it.
    pub(super) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        space: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_sent {
            // A peer that takes no more may have answered nevertheless: reading shows it.
            let _ = self.poll_send(context);
        }
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, space);
        }
        let count = self.ahead.len().min(space.len());
        self.ahead.copy_to_slice(&mut space[..count]);
        if self.ahead.is_empty() {
            // An empty one keeps its memory.
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(count))
    }

    /// The connection once its answer is over, if it is ready for another request: what came behind the
    /// answer was not asked for, and would be taken for the next one.
    pub(super) fn into_idle(self) -> Option<Tapped> {
        (self.is_sent && self.ahead.is_empty()).then_some(self.io)
    }

    /// Ready when the request is sent.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
        }
        self.unsent = BytesMut::new();
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        self.is_sent = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_head.get() {
            // Nobody waits for that: who has the head takes the connection out of hyper's hands.
            return Poll::Pending;
        }
        let count = ready!(Pin::new(&mut self.io).poll_read(context, target))?;
        let Some(end) = self.heads.find_end(&target[..count]) else {
            return Poll::Ready(Ok(count));
        };
        self.has_head.set(true);
        self.ahead = BytesMut::from(&target[end..count]);
        Poll::Ready(Ok(end))
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_sent = false;
        if self.unsent.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, source) {
                Poll::Ready(Ok(count)) if count < source.len() => {
                    self.unsent.extend_from_slice(&source[count..]);
                }
                Poll::Ready(written) => return Poll::Ready(written),
                Poll::Pending => self.unsent.extend_from_slice(source),
            }
        } else {
            self.unsent.extend_from_slice(source);
        }
        Poll::Ready(Ok(source.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(context)
    }
}

/// Finds the end of a response's head: the first empty line behind its first line, as hyper's parser
/// sees it. Informational heads (RFC 9110 §15.2) come before it.
#[derive(Debug, Default)]
struct Heads {
    /// The present head has its first line.
    has_line: bool,
    /// Bytes of the present line, as far as it is of interest.
    column: usize,
    is_carriage_return: bool,
    status: [u8; 3],
}

/// Where a status line (`HTTP/1.1 200 OK`) has its status.
const STATUS_AT: usize = 9;

impl Heads {
    /// The offset behind the head, if it ends in these bytes.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|byte| self.ends_with(*byte)).map(|last| last + 1)
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            if let (false, Some(index)) = (self.has_line, self.column.checked_sub(STATUS_AT))
                && let Some(digit) = self.status.get_mut(index)
            {
                *digit = byte;
            }
            self.is_carriage_return = byte == b'\r' && self.column == 0;
            self.column = self.column.saturating_add(1);
            return false;
        }
        let is_empty = self.column == 0 || (self.column == 1 && self.is_carriage_return);
        self.column = 0;
        if !is_empty {
            self.has_line = true;
            return false;
        }
        // An empty line before the first one is nothing.
        let is_end = self.has_line && !self.is_informational();
        if self.has_line {
            *self = Self::default();
        }
        is_end
    }

    fn is_informational(&self) -> bool {
        // Behind a switch of protocols comes no other head.
        self.status[0] == b'1' && self.status != *b"101"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_its_empty_line_wherever_the_bytes_are_split() {
        for head in [
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "\r\n\nHTTP/1.1 200 OK\nA: \r\n\n",
            "HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 100 On\r\n\r\nHTTP/1.0 529 X\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 204 1 1\r\nX: 100\r\n\r\n",
        ] {
            let bytes = [head, "\r\nHTTP/1.1 200 body\r\n\r\n"].concat().into_bytes();
            for split in 0..bytes.len() {
                let mut heads = Heads::default();
                let end = heads.find_end(&bytes[..split]);
                let end = end.or_else(|| Some(split + heads.find_end(&bytes[split..])?));
                assert_eq!(end, Some(head.len()), "{head:?} {split}");
            }
        }
    }

    #[test]
    fn what_has_no_empty_line_has_no_end() {
        for bytes in ["", "\r\n\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r", "A\r\n\r\r\n"]
        {
            assert_eq!(Heads::default().find_end(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
