//! One connection with HTTP/2. The ends that break a body off are a reset of its stream there, and
//! pauses within the head do not exist.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use tokio::time::{Instant, sleep_until};

use crate::encode::Stamp;
use crate::http1::Wire;
use crate::perform::{Left, Sink, perform};
use crate::plan::{End, Plan};
use crate::record::{How, Phase};
use crate::server::{Request, Shared};

const BODY_SIZE_MAX: usize = 64 << 20;

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, connection: u64, wire: impl Wire) -> How {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1_000);
    let Ok(mut http) = builder.handshake::<_, Bytes>(wire).await else {
        return How::Refused;
    };
    // Bound: one round for each request of the client. Its streams are tasks of their own, because
    // the connection moves only while it is polled here.
    while let Some(accepted) = http.accept().await {
        let Ok((request, respond)) = accepted else {
            return How::LeftByClient(Phase::Idle);
        };
        tokio::spawn(answer(Arc::clone(&shared), connection, request, respond));
    }
    How::Whole
}

async fn answer(
    shared: Arc<Shared>,
    connection: u64,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let Ok(data) = data else { return };
        // A window that cannot be given back belongs to a stream that has ended.
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
        if body.len() > BODY_SIZE_MAX {
            return;
        }
    }
    let headers = parts.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let request = Request {
        connection,
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: headers.collect(),
        body,
    };
    let answer = shared.answer(request);
    let mut sink = Http2 { respond, body: None, split: answer.plan.split };
    if let Some(time) = answer.plan.refuse {
        shared.refuse_for(time);
        sink.respond.send_reset(Reason::REFUSED_STREAM);
        answer.ended(How::CutByScript);
        return;
    }
    match perform(&answer.plan, &mut sink).await {
        Err(phase) => answer.ended(How::LeftByClient(phase)),
        Ok(()) if answer.plan.end != End::Whole => answer.ended(How::CutByScript),
        Ok(()) => answer.ended(How::Whole),
    }
}

struct Http2 {
    respond: SendResponse<Bytes>,
    /// Once the head is sent.
    body: Option<SendStream<Bytes>>,
    split: Option<usize>,
}

impl Sink for Http2 {
    async fn head(&mut self, plan: &Plan) -> Result<(), Left> {
        let mut response = Response::builder().status(plan.status);
        for (name, value) in &plan.headers {
            response = response.header(name, value);
        }
        if let Some(length) = plan.length {
            response = response.header("content-length", length);
        }
        let response = response.body(()).map_err(|_| Left)?;
        self.body = Some(self.respond.send_response(response, false).map_err(|_| Left)?);
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8], stamp: Option<Stamp>) -> Result<(), Left> {
        let mut bytes = bytes.to_vec();
        if let Some(stamp) = stamp {
            stamp.write(&mut bytes);
        }
        let body = self.body.as_mut().ok_or(Left)?;
        let size = self.split.unwrap_or(bytes.len()).max(1);
        for part in bytes.chunks(size) {
            body.send_data(Bytes::copy_from_slice(part), false).map_err(|_| Left)?;
            if self.split.is_some() {
                // The connection writes what it has before the next part is there.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>) -> Result<(), Left> {
        let asleep = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let (respond, body) = (&mut self.respond, &mut self.body);
        let reset = poll_fn(|context| match body {
            Some(body) => body.poll_reset(context),
            None => respond.poll_reset(context),
        });
        tokio::select! {
            biased;
            _ = reset => Err(Left),
            () = asleep => Ok(()),
        }
    }

    async fn end(&mut self, end: End) -> Result<(), Left> {
        let body = self.body.as_mut().ok_or(Left)?;
        if end == End::Whole {
            return body.send_data(Bytes::new(), true).map_err(|_| Left);
        }
        // What was sent before has to be on its way: a reset throws away what still waits.
        self.wait(Some(Instant::now() + crate::http1::BEFORE_RESET)).await?;
        if let Some(body) = self.body.as_mut() {
            body.send_reset(Reason::INTERNAL_ERROR);
        }
        Ok(())
    }
}
