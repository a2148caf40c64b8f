//! shmipc: a session with one stream, protocol version 4, woken by eventfds, which its documentation
//! recommends for small messages and low latency.

use std::os::unix::net::SocketAddr;

use ::shmipc::config::{Config, SizePercentPair};
use ::shmipc::consts::MemMapType;
use ::shmipc::session::{SessionManager, SessionManagerConfig};
use ::shmipc::stream::Stream;
use ::shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use ::shmipc::{Error, Listener};
use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::{Builder, Runtime};

use super::Peer;
use crate::meter::{Link, Take};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

pub(crate) struct Shmipc;

impl Peer for Shmipc {
    fn name(&self) -> &'static str {
        "shmipc"
    }

    fn wait(&self, _: Load) -> Result<Wait, &'static str> {
        Ok(Wait::Sleeps)
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let runtime = runtime()?;
        runtime.block_on(async {
            let config = config(scene)?;
            let mut listener =
                Listener::new(DefaultUnixListen, address(scene)?, config.config().clone()).await?;
            say_ready()?;
            let mut stream = listener.accept().await?;
            // Until the client goes.
            loop {
                // Everything that is there goes back with one wake-up.
                let chunk = stream.read_chunk().await.map_err(failed)?.to_vec();
                stream.release_read_and_reuse();
                write(&mut stream, &chunk)?;
                flush(&mut stream).await?;
            }
        })
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let responder = scene.start_responder(&[])?;
        let runtime = runtime()?;
        let manager = runtime
            .block_on(SessionManager::new(config(scene)?, DefaultUnixConnect, address(scene)?))
            .map_err(|error| anyhow!("cannot open a session: {error:?}"))?;
        let stream = manager.get_stream().map_err(failed)?;
        let client = Client { runtime, stream, answer: vec![0; scene.size], _manager: manager };
        Ok((Box::new(client), responder))
    }
}

/// One thread a process: each is pinned to one core.
fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start tokio")
}

fn address(scene: &Scene) -> Result<SocketAddr> {
    Ok(SocketAddr::from_pathname(scene.path("s"))?)
}

/// That of its own benchmark, with less memory: slices that a payload fits in.
fn config(scene: &Scene) -> Result<SessionManagerConfig> {
    let size = u32::try_from(scene.size)? + 256;
    let config = Config {
        mem_map_type: MemMapType::MemMapTypeMemFd,
        queue_cap: 65_536,
        share_memory_buffer_cap: 32 << 20,
        share_memory_path_prefix: scene.path("buffer").display().to_string(),
        queue_path: scene.path("queue").display().to_string(),
        buffer_slice_sizes: vec![SizePercentPair { size, percent: 100 }],
        ..Config::default().with_v4_eventfd()
    };
    let mut config = SessionManagerConfig::new().with_config(config).with_session_num(1);
    config.config_mut().verify()?;
    Ok(config)
}

fn failed(error: Error) -> anyhow::Error {
    anyhow!("shmipc failed: {error}")
}

fn write(stream: &mut Stream, bytes: &[u8]) -> Result<()> {
    stream.write_bytes(bytes).map(drop).map_err(failed)
}

async fn flush(stream: &mut Stream) -> Result<()> {
    stream.flush(false).await.map_err(failed)
}

struct Client {
    runtime: Runtime,
    stream: Stream,
    answer: Vec<u8>,
    _manager: SessionManager<DefaultUnixConnect>,
}

impl Link for Client {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        let stream = &mut self.stream;
        self.runtime.block_on(async {
            write(stream, payload)?;
            flush(stream).await?;
            let bytes = stream.read_exact_bytes(answer.len()).await.map_err(failed)?;
            answer.copy_from_slice(&bytes);
            drop(bytes);
            stream.release_read_and_reuse();
            Ok(())
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        write(&mut self.stream, payload)?;
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        self.runtime.block_on(flush(&mut self.stream))
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        let Self { runtime, stream, answer, .. } = self;
        runtime.block_on(async {
            let bytes = stream.read_exact_bytes(answer.len()).await.map_err(failed)?;
            answer.copy_from_slice(&bytes);
            drop(bytes);
            stream.release_read_and_reuse();
            take(answer)
        })
    }
}
