//! One connection with HTTP/1.1: written by hand, because a library would not let us lie.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;

use crate::clock::Timer;
use crate::encode::Stamp;
use crate::perform::{Left, Sink, perform};
use crate::plan::{End, Plan};
use crate::proxy;
use crate::record::{How, Phase};
use crate::server::{Request, Shared};

const HEAD_SIZE_MAX: usize = 64 << 10;
const BODY_SIZE_MAX: usize = 64 << 20;
const HEADERS_MAX: usize = 100;
/// Bytes that are collected before they are written.
const WRITE_SIZE: usize = 64 << 10;
/// Bytes of further requests that are read while one is answered.
const AHEAD_SIZE_MAX: usize = 64 << 10;
/// So that what was sent before a reset arrives before it.
pub(crate) const BEFORE_RESET: Duration = Duration::from_millis(10);

/// What carries a connection.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// Lets its end be a reset (`SO_LINGER` of zero, socket(7)).
    fn reset_on_drop(&self);
}

impl Wire for TcpStream {
    fn reset_on_drop(&self) {
        // If the system refuses, the end is a close.
        let _ = self.set_zero_linger();
    }
}

impl Wire for TlsStream<TcpStream> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, connection: u64, wire: impl Wire) -> How {
    let mut http = Http1 {
        wire,
        input: Vec::new(),
        output: Vec::new(),
        chunked: false,
        split: None,
        timer: None,
    };
    // Bound: one round for each request of the client.
    loop {
        let request = match http.request(connection).await {
            Ok(Some(request)) => request,
            Ok(None) => return How::Refused,
            Err(Left) if http.input.is_empty() => return How::Whole,
            Err(Left) => return How::LeftByClient(Phase::Idle),
        };
        if let Some(options) = &shared.options.proxy {
            return proxy::carry(&shared, options, request, http.wire, http.input).await;
        }
        let closes = request.header("connection").is_some_and(|value| value == "close");
        let answer = shared.answer(request);
        if let Some(time) = answer.plan.refuse {
            shared.refuse_for(time);
            http.wire.reset_on_drop();
            answer.ended(How::CutByScript);
            return How::CutByScript;
        }
        http.split = answer.plan.split;
        match perform(&answer.plan, &mut http).await {
            Err(phase) => {
                answer.ended(How::LeftByClient(phase));
                return How::LeftByClient(phase);
            }
            Ok(()) if answer.plan.end != End::Whole => {
                answer.ended(How::CutByScript);
                return How::CutByScript;
            }
            Ok(()) => answer.ended(How::Whole),
        }
        if closes {
            return How::Whole;
        }
    }
}

struct Http1<W> {
    wire: W,
    /// Read, and not yet understood.
    input: Vec<u8>,
    /// Not yet written.
    output: Vec<u8>,
    chunked: bool,
    split: Option<usize>,
    /// Made with the first wait.
    timer: Option<Timer>,
}

impl<W: Wire> Http1<W> {
    /// The next request; `None` when what came is not HTTP as we take it.
    async fn request(&mut self, connection: u64) -> Result<Option<Request>, Left> {
        // Bound: the sizes of head and body.
        let (mut request, head_size, body_size) = loop {
            match head(&self.input, connection) {
                Head::Whole(request, head_size, body_size) => {
                    break (request, head_size, body_size);
                }
                Head::Partial if self.input.len() <= HEAD_SIZE_MAX => self.fill().await?,
                Head::Partial | Head::Wrong => return Ok(None),
            }
        };
        while self.input.len() < head_size + body_size {
            self.fill().await?;
        }
        let rest = self.input.split_off(head_size + body_size);
        request.body = std::mem::replace(&mut self.input, rest).split_off(head_size);
        Ok(Some(request))
    }

    async fn fill(&mut self) -> Result<(), Left> {
        fill(&mut self.wire, &mut self.input).await
    }

    async fn flush(&mut self) -> Result<(), Left> {
        let written = self.wire.write_all(&self.output).await;
        self.output.clear();
        written.map_err(|_| Left)?;
        // Of TLS: a record may wait in the session.
        self.wire.flush().await.map_err(|_| Left)
    }

    fn frame(&mut self, bytes: &[u8]) {
        if self.chunked {
            self.output.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        }
        self.output.extend_from_slice(bytes);
        if self.chunked {
            self.output.extend_from_slice(b"\r\n");
        }
    }
}

async fn fill(wire: &mut impl Wire, input: &mut Vec<u8>) -> Result<(), Left> {
    input.reserve(8 << 10);
    match wire.read_buf(input).await {
        Ok(0) | Err(_) => Err(Left),
        Ok(_) => Ok(()),
    }
}

impl<W: Wire> Sink for Http1<W> {
    async fn head(&mut self, plan: &Plan) -> Result<(), Left> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", plan.status, reason(plan.status));
        for (name, value) in &plan.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.chunked = plan.length.is_none();
        match plan.length {
            Some(length) => head.push_str(&format!("content-length: {length}\r\n\r\n")),
            None => head.push_str("transfer-encoding: chunked\r\n\r\n"),
        }
        let Some(pace) = plan.head_pace else {
            self.output.extend_from_slice(head.as_bytes());
            return Ok(());
        };
        for byte in head.bytes() {
            self.output.push(byte);
            self.wait(Some(Instant::now() + pace)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8], stamp: Option<Stamp>) -> Result<(), Left> {
        if let Some(size) = self.split {
            let mut bytes = bytes.to_vec();
            if let Some(stamp) = stamp {
                stamp.write(&mut bytes);
            }
            for part in bytes.chunks(size) {
                self.frame(part);
                self.flush().await?;
            }
            return Ok(());
        }
        self.frame(bytes);
        if let Some(stamp) = stamp {
            let end = self.output.len() - if self.chunked { 2 } else { 0 };
            stamp.write(&mut self.output[end - bytes.len()..end]);
        }
        if self.output.len() >= WRITE_SIZE {
            self.flush().await?;
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>) -> Result<(), Left> {
        self.flush().await?;
        let timer = match (until, &self.timer) {
            (Some(_), None) => {
                self.timer = Timer::new().ok();
                &self.timer
            }
            (_, timer) => timer,
        };
        let asleep = async {
            match (until, timer) {
                (Some(until), Some(timer)) if timer.sleep_until(until).await.is_ok() => {}
                // The system has no timer for us.
                (Some(until), _) => sleep_until(until).await,
                (None, _) => std::future::pending().await,
            }
        };
        tokio::pin!(asleep);
        // Bound: rounds end with the time, or with the bytes that are read ahead.
        loop {
            let may_read = self.input.len() < AHEAD_SIZE_MAX;
            tokio::select! {
                biased;
                read = fill(&mut self.wire, &mut self.input), if may_read => read?,
                () = &mut asleep => return Ok(()),
            }
        }
    }

    async fn end(&mut self, end: End) -> Result<(), Left> {
        if end == End::Whole && self.chunked {
            self.output.extend_from_slice(b"0\r\n\r\n");
        }
        if end == End::Reset {
            self.wait(Some(Instant::now() + BEFORE_RESET)).await?;
            self.wire.reset_on_drop();
            return Ok(());
        }
        self.flush().await
    }
}

enum Head {
    /// The request without its body, and the sizes of head and body.
    Whole(Request, usize, usize),
    Partial,
    Wrong,
}

fn head(input: &[u8], connection: u64) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let size = match parsed.parse(input) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Wrong,
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Head::Wrong;
    };
    let headers = parsed.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value).into_owned();
        (header.name.to_ascii_lowercase(), value)
    });
    let request = Request {
        connection,
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
    };
    // Clients of AI providers know how long their JSON is.
    if request.header("transfer-encoding").is_some() {
        return Head::Wrong;
    }
    match request.header("content-length").unwrap_or("0").parse() {
        Ok(length) if length <= BODY_SIZE_MAX => Head::Whole(request, size, length),
        _ => Head::Wrong,
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Said So")
}

/// Writes an answer that is no stream and needs no plan.
pub(crate) async fn write_short(wire: &mut impl Wire, head: &str) -> io::Result<()> {
    wire.write_all(head.as_bytes()).await?;
    wire.flush().await
}
