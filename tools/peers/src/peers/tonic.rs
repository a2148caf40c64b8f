//! tonic: gRPC over a Unix socket, a call for each request or one stream for all.

use std::collections::VecDeque;
use std::time::Duration;

use ::tonic::transport::{Channel, Endpoint, Server, Uri};
use ::tonic::{Request, Response, Status, Streaming};
use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};

use super::Peer;
use crate::meter::{Link, Take, WINDOW};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "written by tonic-build")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.Echo.rs"));
}

/// How long a connection or call may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// A request or its answer.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tonic {
    /// A unary call for each request.
    Unary,
    /// One call that streams both ways.
    Stream,
}

impl Peer for Tonic {
    fn name(&self) -> &'static str {
        match self {
            Self::Unary => "tonic",
            Self::Stream => "tonic-stream",
        }
    }

    fn wait(&self, _: Load) -> Result<Wait, &'static str> {
        Ok(Wait::Sleeps)
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        runtime()?.block_on(async {
            let listener = UnixListener::bind(scene.path("s"))?;
            say_ready()?;
            let incoming = UnixListenerStream::new(listener);
            Server::builder()
                .add_service(EchoServer::new(Responding))
                .serve_with_incoming(incoming)
                .await?;
            Ok(())
        })
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let responder = scene.start_responder(&[])?;
        let runtime = runtime()?;
        let path = scene.path("s");
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The address is a matter of form: the connector knows the path.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(TIME_MAX);
        let channel = runtime.block_on(endpoint.connect_with_connector(connector))?;
        let mut client = EchoClient::new(channel);
        let link: Box<dyn Link> = match self {
            Self::Unary => {
                Box::new(UnaryClient { runtime, client, calls: FuturesUnordered::new() })
            }
            Self::Stream => {
                let (requests, queue) = mpsc::channel(WINDOW);
                let responses =
                    runtime.block_on(client.stream(ReceiverStream::new(queue)))?.into_inner();
                Box::new(StreamClient { runtime, requests, responses, unsent: VecDeque::new() })
            }
        };
        Ok((link, responder))
    }
}

/// One thread a process: each is pinned to one core.
fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start tokio")
}

struct Responding;

#[::tonic::async_trait]
impl Echo for Responding {
    type StreamStream = BoxStream<'static, Result<Payload, Status>>;

    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(request.into_inner().boxed()))
    }
}

fn copy_answer(received: &Payload, answer: &mut [u8]) -> Result<()> {
    ensure!(received.bytes.len() == answer.len(), "an answer has another size");
    answer.copy_from_slice(&received.bytes);
    Ok(())
}

struct UnaryClient {
    runtime: Runtime,
    client: EchoClient<Channel>,
    calls: FuturesUnordered<BoxFuture<'static, Result<Response<Payload>, Status>>>,
}

impl Link for UnaryClient {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        let call = self.client.unary(Payload { bytes: payload.to_vec() });
        let response = self.runtime.block_on(call)?;
        copy_answer(response.get_ref(), answer)
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        // A clone of a client is a handle to the same connection.
        let mut client = self.client.clone();
        let payload = Payload { bytes: payload.to_vec() };
        self.calls.push(Box::pin(async move { client.unary(payload).await }));
        Ok(true)
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        let response = self.runtime.block_on(self.calls.next()).context("nothing was asked")??;
        take(&response.get_ref().bytes)
    }
}

struct StreamClient {
    runtime: Runtime,
    requests: mpsc::Sender<Payload>,
    responses: Streaming<Payload>,
    unsent: VecDeque<Payload>,
}

impl Link for StreamClient {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        let Self { runtime, requests, responses, .. } = self;
        runtime.block_on(async {
            requests.send(Payload { bytes: payload.to_vec() }).await?;
            let received = responses.message().await?.context("the stream ended")?;
            copy_answer(&received, answer)
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.unsent.push_back(Payload { bytes: payload.to_vec() });
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        // The channel holds as many as may be in flight.
        self.unsent.drain(..).try_for_each(|payload| Ok(self.requests.try_send(payload)?))
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        let received = self.runtime.block_on(self.responses.message())?;
        take(&received.context("the stream ended")?.bytes)
    }
}
