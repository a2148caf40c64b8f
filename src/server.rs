//! [`IpcServer`]: puts the daemon together, starts its threads, and stops them.
//!
//! ```no_run
//! use annulus::{AsyncRequest, AsyncResponder, IpcServer, MessageType, Request, Responder};
//!
//! const SUM: MessageType = MessageType::user(0);
//! const SLOW: MessageType = MessageType::user(1);
//!
//! let server = IpcServer::builder()
//!     .register_handler(SUM, |request: &Request<'_>, responder: &mut Responder<'_>| {
//!         let sum: u64 = request.payload().iter().map(|byte| u64::from(*byte)).sum();
//!         responder.reply(&sum.to_le_bytes())
//!     })
//!     .register_async_handler(SLOW, async |request: AsyncRequest, responder: AsyncResponder| {
//!         responder.reply(request.payload()).await
//!     })
//!     .register_provider_handlers()
//!     .start()?;
//! println!("serving {}", server.socket_path().display());
//! server.join()?;
//! # Ok::<(), annulus::IpcError>(())
//! ```

mod departure;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use rustix::thread::{CpuSet, sched_getaffinity};

use self::departure::Departure;
use crate::config::{Config, Sources};
use crate::connection::{Handler, Request, Responder, Route, Routes, TableOptions};
use crate::control::{Control, ControlOptions, Export, Listener};
use crate::descriptors;
use crate::error::IpcError;
use crate::executor;
use crate::limits::{DESCRIPTORS_PER_CONNECTION, DESCRIPTORS_RESERVED};
use crate::link::{ShardEnd, WorkerEnd, link};
use crate::metrics::{BuildInfo, Metrics, MetricsOptions};
use crate::paths::Places;
use crate::pool::{BufferPool, PoolSizes};
use crate::protocol::{Codec, JsonCodec, RkyvCodec};
use crate::provider::{self, ProviderPool};
use crate::region::Doorbell;
use crate::scheduling;
use crate::shard::{DataShard, ShardShared};
use crate::wake::{ShardWaker, WorkerWaker};
use crate::wire::{Fault, MessageType};
use crate::worker::{self, AsyncHandler, WorkerOptions, WorkerStop};

/// A data shard's executor is built small: it does no I/O through glommio.
const SHARD_IO_MEMORY: usize = 64 << 10;
const SHARD_RING_DEPTH: usize = 8;

/// The daemon. Start with [`IpcServer::builder`].
#[derive(Debug)]
pub struct IpcServer;

impl IpcServer {
    /// A server with the built-in synchronous handlers (echo, heartbeat) and both codecs.
    pub fn builder() -> IpcServerBuilder {
        let echo = |request: &Request<'_>, responder: &mut Responder<'_>| {
            responder.reply(request.payload())
        };
        let heartbeat =
            |_request: &Request<'_>, responder: &mut Responder<'_>| responder.reply(&[]);
        let mut routes = Routes::new();
        routes.set(MessageType::ECHO, Route::Synchronous(Arc::new(echo)));
        routes.set(MessageType::HEARTBEAT, Route::Synchronous(Arc::new(heartbeat)));
        IpcServerBuilder {
            config: None,
            codecs: vec![Arc::new(JsonCodec), Arc::new(RkyvCodec)],
            routes,
            synchronous: Vec::new(),
            asynchronous: HashMap::new(),
            with_providers: false,
            when_settled: None,
        }
    }
}

/// Collects what a server is made from.
#[must_use = "a builder does nothing before `start`"]
pub struct IpcServerBuilder {
    config: Option<Config>,
    codecs: Vec<Arc<dyn Codec>>,
    routes: Routes,
    /// Types that the user serves on the data shards.
    synchronous: Vec<MessageType>,
    asynchronous: HashMap<MessageType, Arc<dyn AsyncHandler>>,
    with_providers: bool,
    when_settled: Option<Box<dyn FnMut() + Send>>,
}

impl IpcServerBuilder {
    /// Serves with this configuration instead of the defaults.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Offers one more codec to handshakes; one with a known id replaces that.
    pub fn with_codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codecs.retain(|known| known.id() != codec.id());
        self.codecs.push(codec);
        self
    }

    /// Serves `message_type` on the data shards; see [`Handler`] for what that demands.
    ///
    /// # Panics
    ///
    /// For [`MessageType::CANCEL`] and types that are not for clients.
    pub fn register_handler(
        mut self,
        message_type: MessageType,
        handler: impl Handler + 'static,
    ) -> Self {
        check_type(message_type);
        self.asynchronous.remove(&message_type);
        self.synchronous.push(message_type);
        self.routes.set(message_type, Route::Synchronous(Arc::new(handler)));
        self
    }

    /// Serves `message_type` on a worker executor of its own, which all such handlers share.
    ///
    /// # Panics
    ///
    /// As [`IpcServerBuilder::register_handler`].
    pub fn register_async_handler(
        mut self,
        message_type: MessageType,
        handler: impl AsyncHandler + 'static,
    ) -> Self {
        check_type(message_type);
        self.synchronous.retain(|known| *known != message_type);
        self.asynchronous.insert(message_type, Arc::new(handler));
        self
    }

    /// Serves *complete*, *stream*, *heartbeat* and *metrics* on the http shard, with the configured
    /// providers.
    pub fn register_provider_handlers(mut self) -> Self {
        self.with_providers = true;
        self
    }

    /// Has `settled` called each time that some clients have connected and no other has for a tenth of a
    /// second, once a second at most: for a program that gives back what only their handshakes needed. It
    /// runs on the thread that lets clients in, so it must be quick.
    pub fn when_settled(mut self, settled: impl FnMut() + Send + 'static) -> Self {
        self.when_settled = Some(Box::new(settled));
        self
    }

    /// Binds the socket and starts all threads; returns when every shard serves.
    ///
    /// # Errors
    ///
    /// [`IpcError::AlreadyRunning`], or [`IpcError::Io`] with what was tried: the limit of open
    /// files, the socket, a uring (io_uring may be disabled on this machine).
    pub fn start(self) -> Result<RunningServer, IpcError> {
        let config = match self.config {
            Some(config) => config,
            None => default_config()?,
        };
        let slot_count = config.ipc.max_connections as usize;
        let needed = u64::from(config.ipc.max_connections) * DESCRIPTORS_PER_CONNECTION
            + DESCRIPTORS_RESERVED;
        descriptors::raise_limit(needed).map_err(|limit| {
            IpcError::io("raise the limit of", "open files")(io::Error::other(limit))
        })?;
        let listener = Listener::bind(&config.ipc.socket_path)?;
        let socket_path = listener.path().to_owned();

        let metrics = Arc::new(Metrics::new(MetricsOptions {
            shard_count: config.shards.count as usize,
            fault_names: &Fault::NAMES,
            started: SystemTime::now(),
            build: BuildInfo {
                version: env!("CARGO_PKG_VERSION"),
                revision: option_env!("ANNULUS_REVISION").unwrap_or("unknown"),
            },
        }));
        let codecs: Arc<[Arc<dyn Codec>]> = self.codecs.into();
        let mut worker_handlers = Vec::new();
        let mut routes = self.routes;
        if self.with_providers {
            let providers = ProviderPool::from_config(&config)?;
            metrics.show_providers(providers.metrics());
            let handlers = provider::handlers(providers, Arc::clone(&metrics));
            worker_handlers.push(("annulus-http", handlers));
        }
        if !self.asynchronous.is_empty() {
            worker_handlers.push(("annulus-worker", self.asynchronous));
        }
        // The user's handlers win over the providers': asynchronous ones because they come later.
        for (index, (_, handlers)) in worker_handlers.iter().enumerate() {
            for message_type in handlers.keys().filter(|known| !self.synchronous.contains(known)) {
                routes.set(*message_type, Route::Worker(index));
            }
        }

        let shards = ShardPlan::for_config(&config).map_err(IpcError::io("make", "shards"))?;
        let mut running = RunningServer {
            socket_path,
            metrics: Arc::clone(&metrics),
            stop: ShutdownHandle {
                doorbell: Arc::new(Doorbell::new().map_err(IpcError::io("create", "a doorbell"))?),
            },
            control: None,
            shards: Vec::new(),
            workers: Vec::new(),
        };
        let mut ends: Vec<Vec<ShardEnd>> = shards.iter().map(|_| Vec::new()).collect();
        for (name, handlers) in worker_handlers {
            let links = running
                .start_worker(name, handlers, &shards, &codecs, &config)
                .map_err(IpcError::io("start the executor", name))?;
            for (ends, end) in ends.iter_mut().zip(links) {
                ends.push(end);
            }
        }
        let routes = Arc::new(routes);
        let followed = if config.shards.follow_client {
            sched_getaffinity(None).map_err(IpcError::io("find", "the cores of this process"))?
        } else {
            CpuSet::new()
        };
        for (index, (plan, links)) in shards.iter().zip(ends).enumerate() {
            let options = TableOptions {
                slot_count,
                routes: Arc::clone(&routes),
                codecs: Arc::clone(&codecs),
                links,
                pool: plan.pool.clone(),
                metrics: Arc::clone(&metrics),
                shard_index: index,
                message_size_max: config.ipc.max_message_size,
                spin_ns: u64::from(config.shards.spin_us) * 1000,
                idle_timeout_ns: config
                    .ipc
                    .idle_timeout()
                    .map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)),
            };
            let drain = Duration::from_secs(config.ipc.shutdown_timeout_secs);
            running
                .start_shard(index, plan, options, drain, followed)
                .map_err(IpcError::io("start", format!("data shard {index}")))?;
        }
        let control = Control::new(ControlOptions {
            listener,
            shards: shards.iter().map(|plan| Arc::clone(&plan.shared)).collect(),
            cores: shards.iter().map(|plan| plan.core).collect(),
            codecs,
            metrics,
            config,
            stop: Arc::clone(&running.stop.doorbell),
            when_settled: self.when_settled,
        });
        let control = thread::Builder::new()
            .name("annulus-control".into())
            .spawn(move || control.run())
            .map_err(IpcError::io("start", "the control thread"))?;
        running.control = Some(control);
        Ok(running)
    }
}

fn check_type(message_type: MessageType) {
    assert!(
        message_type != MessageType::CANCEL
            && message_type != MessageType::PADDING
            && message_type <= MessageType::USER_LAST,
        "message type {message_type} cannot have a handler"
    );
}

/// The defaults, with the socket where the environment says.
fn default_config() -> Result<Config, IpcError> {
    let sources = Sources {
        file: None,
        environment: Vec::new(),
        overrides: Vec::new(),
        places: Places::of_process(),
    };
    Config::load(&sources).map_err(|errors| {
        IpcError::io("load", "the default configuration")(io::Error::other(errors))
    })
}

/// What one data shard will be.
struct ShardPlan {
    core: Option<u32>,
    shared: Arc<ShardShared>,
    pool: BufferPool,
}

impl ShardPlan {
    fn for_config(config: &Config) -> io::Result<Vec<Self>> {
        let sizes = PoolSizes::for_config(config.ipc.buffer_pool_size, config.ipc.max_message_size);
        let plan = |index: usize| {
            let waker = Arc::new(ShardWaker::new()?);
            Ok(Self {
                core: config.shards.cores.as_ref().map(|cores| cores[index]),
                shared: Arc::new(ShardShared::new(waker)),
                pool: BufferPool::new(sizes)?,
            })
        };
        (0..config.shards.count as usize).map(plan).collect()
    }
}

/// A server that serves. Dropping it shuts it down and waits.
pub struct RunningServer {
    socket_path: PathBuf,
    metrics: Arc<Metrics>,
    stop: ShutdownHandle,
    control: Option<JoinHandle<Export>>,
    shards: Vec<(Arc<ShardShared>, ExecutorJoinHandle<()>)>,
    workers: Vec<(Arc<WorkerStop>, JoinHandle<io::Result<()>>)>,
}

/// Stops a server from anywhere; clones stop the same one.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    doorbell: Arc<Doorbell>,
}

impl ShutdownHandle {
    /// Asks the server to refuse new work, finish what is in flight (for `ipc.shutdown_timeout_secs`
    /// at most) and stop. Returns at once.
    pub fn shutdown(&self) {
        self.doorbell.ring();
    }
}

impl RunningServer {
    /// Where clients connect.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// What the server counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// A handle that stops this server.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.stop.clone()
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    ///
    /// [`IpcError::Internal`] when a thread of it has panicked.
    pub fn join(mut self) -> Result<(), IpcError> {
        self.wait()
    }

    fn wait(&mut self) -> Result<(), IpcError> {
        let mut failed = None;
        let mut note = |what: &'static str, ok: bool| {
            if !ok {
                failed.get_or_insert(what);
            }
        };
        let export = self.control.take().and_then(|control| {
            let export = control.join().ok();
            note("the control thread", export.is_some());
            export
        });
        // The control thread has told them, unless it never started or has panicked.
        for (shared, _) in &self.shards {
            shared.stop();
        }
        for (_, shard) in self.shards.drain(..) {
            note("a data shard", shard.join().is_ok());
        }
        for (stop, worker) in self.workers.drain(..) {
            stop.stop();
            note("a worker executor", matches!(worker.join(), Ok(Ok(()))));
        }
        // What was answered while the shards drained is counted, too.
        if let Some(export) = export {
            export.write();
        }
        match failed {
            None => Ok(()),
            Some(what) => Err(IpcError::Internal { detail: format!("{what} failed") }),
        }
    }

    /// Starts a worker executor and waits until it runs; gives the shards' ends of its links.
    fn start_worker(
        &mut self,
        name: &str,
        handlers: HashMap<MessageType, Arc<dyn AsyncHandler>>,
        shards: &[ShardPlan],
        codecs: &Arc<[Arc<dyn Codec>]>,
        config: &Config,
    ) -> io::Result<Vec<ShardEnd>> {
        let (waker, doorbell) = WorkerWaker::new()?;
        let waker = Arc::new(waker);
        let slot_count = config.ipc.max_connections as usize;
        let pairs: Vec<(ShardEnd, WorkerEnd)> = shards
            .iter()
            .map(|plan| {
                let shard = Arc::clone(&plan.shared.waker);
                link(slot_count, plan.pool.clone(), shard, Arc::clone(&waker))
            })
            .collect::<io::Result<_>>()?;
        let (ends, links) = pairs.into_iter().unzip();
        let stop = Arc::new(WorkerStop::new(waker));
        let options = WorkerOptions {
            links,
            handlers,
            codecs: Arc::clone(codecs),
            request_timeout: config.ipc.request_timeout(),
            doorbell,
            stop: Arc::clone(&stop),
        };
        let (report, started) = mpsc::channel();
        let (told, server) = (Arc::clone(&stop), self.stop.clone());
        let thread_name = name.to_owned();
        let worker = thread::Builder::new().name(name.to_owned()).spawn(move || {
            be_prompt();
            executor::run(worker::run(options, move || {
                let _ = report.send(());
                Departure::of(thread_name, server, move || told.is_stopping())
            }))?
        })?;
        if started.recv().is_err() {
            // It has ended before it ran: it says why.
            let why = worker.join().map_err(|_| io::Error::other("it panicked"))?;
            return Err(why.err().unwrap_or_else(|| io::Error::other("it ended")));
        }
        self.workers.push((stop, worker));
        Ok(ends)
    }

    /// Starts a data shard and waits until it serves.
    fn start_shard(
        &mut self,
        index: usize,
        plan: &ShardPlan,
        options: TableOptions,
        shutdown_timeout: Duration,
        followed: CpuSet,
    ) -> io::Result<()> {
        let placement = match plan.core {
            Some(core) => Placement::Fixed(core as usize),
            None => Placement::Unbound,
        };
        let shared = Arc::clone(&plan.shared);
        let (report, started) = mpsc::channel();
        let name = format!("annulus-shard{index}");
        let (told, server) = (Arc::clone(&shared), self.stop.clone());
        let executor = LocalExecutorBuilder::new(placement)
            .name(&name)
            .io_memory(SHARD_IO_MEMORY)
            .ring_depth(SHARD_RING_DEPTH)
            .spawn(move || async move {
                be_prompt();
                match DataShard::new(options, shared, shutdown_timeout, followed) {
                    Ok(mut shard) => {
                        let _departure = Departure::of(name, server, move || told.is_stopping());
                        let _ = report.send(Ok(()));
                        shard.run();
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })
            .map_err(executor_error)?;
        started.recv().map_err(io::Error::other)??;
        self.shards.push((Arc::clone(&plan.shared), executor));
        Ok(())
    }
}

/// For each thread that serves: it does a little whenever it is woken, and somebody waits for that.
fn be_prompt() {
    if let Err(error) = scheduling::ask_for_short_slices() {
        tracing::debug!(%error, "the system keeps its slices of time: busy cores answer later");
    }
}

/// glommio's errors are not `Sync`, so only their text goes on.
fn executor_error(error: glommio::GlommioError<()>) -> io::Error {
    io::Error::other(error.to_string())
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.shutdown();
        if let Err(error) = self.wait() {
            tracing::error!(%error, "the server did not stop cleanly");
        }
    }
}
