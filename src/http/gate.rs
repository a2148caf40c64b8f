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

use super::open::HEAD_SIZE_MAX;
use super::tap::Tapped;

/// Bytes of informational heads and of the one that counts: there may be any number of the former.
const HEADS_SIZE_MAX: usize = 4 * HEAD_SIZE_MAX as usize;

/// The connection while it has a request.
pub(super) struct Gate {
    io: Tapped,
    /// Bytes of the request that the peer has not taken.
    unsent: BytesMut,
    /// Nothing of the request is on this side any more.
    is_sent: bool,
    heads: Heads,
    /// Bytes of heads that hyper has been shown.
    shown: usize,
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
            shown: 0,
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
        self.shown = self.shown.saturating_add(count);
        let Some(end) = self.heads.find_end(&target[..count]) else {
            if self.shown > HEADS_SIZE_MAX {
                // hyper would go on for as long as they come, and for as fast as they do in one turn.
                return Poll::Ready(Err(io::Error::other(ENDLESS)));
            }
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

const ENDLESS: &str = "informational heads and no response";

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
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::task::Waker;

    use super::super::tap::Tap;
    use super::*;

    /// A peer that sends this, and takes three bytes every other time.
    #[derive(Default)]
    struct Narrow {
        sends: VecDeque<Vec<u8>>,
        is_ready: bool,
        takes_nothing: bool,
        taken: Rc<RefCell<Taken>>,
    }

    #[derive(Default)]
    struct Taken {
        bytes: Vec<u8>,
        /// How many of them were there at the last flush.
        flushed: usize,
    }

    impl AsyncRead for Narrow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            target: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let Some(sent) = self.sends.pop_front() else { return Poll::Pending };
            target[..sent.len()].copy_from_slice(&sent);
            Poll::Ready(Ok(sent.len()))
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            source: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_ready = !self.is_ready;
            if self.is_ready {
                return Poll::Pending;
            }
            let count = if self.takes_nothing { 0 } else { source.len().min(3) };
            self.taken.borrow_mut().bytes.extend_from_slice(&source[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut taken = self.taken.borrow_mut();
            taken.flushed = taken.bytes.len();
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gate(peer: Narrow) -> (Gate, Rc<Cell<bool>>) {
        Gate::new(Tapped::new(Box::new(peer), Arc::new(Tap::default())))
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_request_is_hypers_no_more_and_is_sent_while_the_body_is_waited_for() {
        const REQUEST: &[u8] = b"the head of it, and then its body";
        // What was written first may have begun to go.
        for (first, is_ready) in [(10, false), (10, true), (1, true), (3, true), (4, false)] {
            let taken = Rc::default();
            let peer = Narrow { is_ready, taken: Rc::clone(&taken), ..Narrow::default() };
            let mut gate = gate(peer).0;
            for part in [&REQUEST[..first], &REQUEST[first..first + 5], &REQUEST[first + 5..]] {
                let written = Pin::new(&mut gate).poll_write(&mut context(), part);
                assert!(matches!(written, Poll::Ready(Ok(count)) if count == part.len()));
            }
            // Every other time three bytes go at least.
            for _ in 0..REQUEST.len() {
                assert!(!gate.is_sent || taken.borrow().flushed == REQUEST.len());
                assert!(gate.poll_body(&mut context(), &mut [0; 8]).is_pending());
            }
            assert_eq!(taken.borrow().bytes, REQUEST, "{first} {is_ready}");
            assert_eq!(taken.borrow().flushed, REQUEST.len());
            assert!(gate.into_idle().is_some());
        }
        let mut gate = gate(Narrow::default()).0;
        assert!(Pin::new(&mut gate).poll_write(&mut context(), REQUEST).is_ready());
        assert!(Pin::new(&mut gate).poll_flush(&mut context()).is_pending());
        assert!(gate.into_idle().is_none(), "the request is not sent");
    }

    #[test]
    fn a_peer_that_takes_nothing_and_does_not_say_why_is_an_error() {
        let mut gate = gate(Narrow { takes_nothing: true, ..Narrow::default() }).0;
        assert!(Pin::new(&mut gate).poll_write(&mut context(), b"request").is_ready());
        let flushed = Pin::new(&mut gate).poll_flush(&mut context());
        assert!(matches!(flushed, Poll::Ready(Err(_))), "{flushed:?}");
        assert!(gate.into_idle().is_none());
    }

    #[test]
    fn hyper_sees_the_head_and_the_body_gets_the_rest() {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        let body: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).take(20_000).collect();
        let sends = [&HEAD[..9], &[&HEAD[9..], &body[..19_000]].concat(), &body[19_000..]];
        let sends = sends.iter().map(|sent| sent.to_vec()).collect();
        let (mut gate, has_head) = gate(Narrow { sends, ..Narrow::default() });
        let mut space = vec![0; 32_000];
        for (part, is_whole) in [(&HEAD[..9], false), (&HEAD[9..], true)] {
            let read = Pin::new(&mut gate).poll_read(&mut context(), &mut space);
            assert!(matches!(read, Poll::Ready(Ok(count)) if space[..count] == *part));
            assert_eq!(has_head.get(), is_whole);
        }
        assert!(Pin::new(&mut gate).poll_read(&mut context(), &mut space).is_pending());
        let mut got = Vec::new();
        for size in [8_000, 8_000, 3_000, 1_000] {
            let read = gate.poll_body(&mut context(), &mut space[..8_000]);
            assert!(matches!(read, Poll::Ready(Ok(count)) if count == size), "{read:?}");
            got.extend_from_slice(&space[..size]);
        }
        assert!(got == body && gate.into_idle().is_some());
    }

    #[test]
    fn a_connection_with_bytes_behind_its_answer_is_not_idle() {
        let sends = [b"HTTP/1.1 204 No\r\n\r\nH".to_vec()].into();
        let mut gate = gate(Narrow { sends, ..Narrow::default() }).0;
        assert!(Pin::new(&mut gate).poll_read(&mut context(), &mut [0; 99]).is_ready());
        assert!(gate.into_idle().is_none());
    }

    #[test]
    fn informational_heads_have_a_bound_and_one_head_does_not_meet_it() {
        let head = b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n".repeat(100);
        let rounds = HEADS_SIZE_MAX / head.len();
        let sends = std::iter::repeat_n(head, rounds + 1).collect();
        let mut gate = gate(Narrow { sends, ..Narrow::default() }).0;
        let mut space = vec![0; 32_000];
        for round in 0..=rounds {
            let read = Pin::new(&mut gate).poll_read(&mut context(), &mut space);
            let Poll::Ready(read) = read else { panic!("there is more") };
            assert_eq!(read.is_ok(), round < rounds, "{round}");
        }
    }

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

    /// Where hyper's parser ends the head that counts.
    fn parsed_end(bytes: &[u8]) -> Result<Option<usize>, httparse::Error> {
        let mut at = 0;
        // Each round takes a head.
        while at < bytes.len() {
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            match response.parse(&bytes[at..])? {
                httparse::Status::Partial => return Ok(None),
                httparse::Status::Complete(size) => at += size,
            }
            if !matches!(response.code, Some(100 | 102..=199)) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_ends_where_hypers_parser_ends_it() {
        const LINES: &[&str] = &[
            "HTTP/1.1 200 OK",
            "HTTP/1.1 100",
            "HTTP/1.0 103 X ",
            "HTTP/1.1 101 1",
            "HTTP/1.1 210",
        ];
        const HEADERS: &[&str] = &["A: b", "A:", "HTTP: 100", "Ab:\t 1 "];
        const ENDS: &[&str] = &["\r\n", "\r\n", "\n"];
        const NOISE: &[u8] = b"\r\n\r\n 1H:\x00\xFF";
        let mut random = fastrand::Rng::with_seed(1);
        let (mut ended, mut open) = (0, 0);
        for _ in 0..100_000 {
            let mut text = String::new();
            for _ in 0..random.usize(..4) {
                let mut line = |text: &mut String, lines: &[&str]| {
                    text.push_str(lines[random.usize(..lines.len())]);
                    text.push_str(ENDS[random.usize(..ENDS.len())]);
                };
                line(&mut text, LINES);
                line(&mut text, &[HEADERS, &[""]].concat());
                line(&mut text, &[HEADERS, &["", "", ""]].concat());
                line(&mut text, &[""]);
            }
            let mut bytes = text.into_bytes();
            for _ in 0..random.usize(..3) {
                let (at, byte) = (random.usize(..=bytes.len()), NOISE[random.usize(..NOISE.len())]);
                let until = (at + random.usize(..2)).min(bytes.len());
                bytes.splice(at..until, [byte]);
            }
            // What is no head ends the connection.
            let Ok(end) = parsed_end(&bytes) else { continue };
            assert_eq!(Heads::default().find_end(&bytes), end, "{}", bytes.escape_ascii());
            *if end.is_some() { &mut ended } else { &mut open } += 1;
        }
        assert!(ended > 10_000 && open > 10_000, "{ended} {open}");
    }
}
