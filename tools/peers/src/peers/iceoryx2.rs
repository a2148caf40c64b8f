//! iceoryx2: its request-response service of byte slices; where a side sleeps, an event service
//! beside it wakes it.

use std::collections::VecDeque;
use std::path::Path as StdPath;

use ::iceoryx2::node::{Node, NodeBuilder};
use ::iceoryx2::pending_response::PendingResponse;
use ::iceoryx2::port::client::Client as IoxClient;
use ::iceoryx2::port::listener::Listener;
use ::iceoryx2::port::notifier::Notifier;
use ::iceoryx2::prelude::{
    Config, FileName, LogLevel, Path, SemanticString as _, SignalHandlingMode, ipc, set_log_level,
};
use ::iceoryx2::service::port_factory::event;
use ::iceoryx2::service::port_factory::request_response;
use anyhow::{Result, anyhow, ensure};

use super::Peer;
use crate::meter::{Link, Patience, Take, WINDOW};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

pub(crate) struct Iceoryx2;

impl Peer for Iceoryx2 {
    fn name(&self) -> &'static str {
        "iceoryx2"
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        Ok(if load == Load::Cold { Wait::Sleeps } else { Wait::Polls })
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let services = Services::open(scene)?;
        let server = services.echo.server_builder().initial_max_slice_len(scene.size).create()?;
        let bells = services.bells(scene, Side::Server)?;
        say_ready()?;
        // Until this process is ended.
        loop {
            if let Some(bells) = &bells {
                bells.wait()?;
            }
            let mut is_answered = false;
            while let Some(request) = server.receive()? {
                let response = request.loan_slice_uninit(request.payload().len())?;
                response.write_from_slice(request.payload()).send()?;
                is_answered = true;
            }
            match &bells {
                Some(bells) if is_answered => bells.ring()?,
                Some(_) => {}
                None => std::hint::spin_loop(),
            }
        }
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let services = Services::open(scene)?;
        let responder = scene.start_responder(&[])?;
        let client = services.echo.client_builder().initial_max_slice_len(scene.size).create()?;
        let bells = services.bells(scene, Side::Client)?;
        let pending = VecDeque::with_capacity(WINDOW);
        Ok((Box::new(Client { pending, client, bells, _services: services }), responder))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What both sides open or create.
struct Services {
    echo: request_response::PortFactory<ipc::Service, [u8], (), [u8], ()>,
    /// Wakes the server, wakes the client.
    events: [event::PortFactory<ipc::Service>; 2],
    _node: Node<ipc::Service>,
}

impl Services {
    fn open(scene: &Scene) -> Result<Self> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        // Its files go with the measurement's directory; its shared memory begins with our label, by
        // which it is removed. What was killed needs no other care.
        let prefix = format!("{}_", scene.label);
        config.global.prefix = FileName::new(prefix.as_bytes()).map_err(odd_name)?;
        config.global.node.cleanup_dead_nodes_on_destruction = false;
        config.global.set_root_path(&path_of(&scene.path("iceoryx2"))?);
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()?;
        let echo = node
            .service_builder(&"echo".try_into().map_err(odd_name)?)
            .request_response::<[u8], [u8]>()
            .max_clients(1)
            .max_servers(1)
            .max_active_requests_per_client(WINDOW)
            .max_loaned_requests(WINDOW)
            .open_or_create()?;
        let event = |name: &str| -> Result<_> {
            let name = name.try_into().map_err(odd_name)?;
            Ok(node.service_builder(&name).event().open_or_create()?)
        };
        let events = [event("requests")?, event("responses")?];
        Ok(Self { echo, events, _node: node })
    }

    /// Nothing for a scene in which both sides poll.
    fn bells(&self, scene: &Scene, side: Side) -> Result<Option<Bells>> {
        if scene.wait == Wait::Polls {
            return Ok(None);
        }
        let [wakes_server, wakes_client] = &self.events;
        let (ours, theirs) = match side {
            Side::Server => (wakes_server, wakes_client),
            Side::Client => (wakes_client, wakes_server),
        };
        let listener = ours.listener_builder().create()?;
        let notifier = theirs.notifier_builder().create()?;
        Ok(Some(Bells { listener, notifier }))
    }
}

fn odd_name(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("iceoryx2 takes no such name: {error:?}")
}

fn path_of(path: &StdPath) -> Result<Path> {
    Path::new(path.as_os_str().as_encoded_bytes()).map_err(odd_name)
}

struct Bells {
    listener: Listener<ipc::Service>,
    notifier: Notifier<ipc::Service>,
}

impl Bells {
    fn wait(&self) -> Result<()> {
        self.listener.blocking_wait(|_| {}).map_err(|error| anyhow!("cannot wait: {error:?}"))?;
        Ok(())
    }

    fn ring(&self) -> Result<()> {
        self.notifier.notify().map_err(|error| anyhow!("cannot notify: {error:?}"))?;
        Ok(())
    }
}

type Pending = PendingResponse<ipc::Service, [u8], (), [u8], ()>;

struct Client {
    pending: VecDeque<Pending>,
    client: IoxClient<ipc::Service, [u8], (), [u8], ()>,
    bells: Option<Bells>,
    _services: Services,
}

impl Link for Client {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        let request = self.client.loan_slice_uninit(payload.len())?;
        let pending = request.write_from_slice(payload).send()?;
        if let Some(bells) = &self.bells {
            bells.ring()?;
        }
        let mut patience = Patience::new();
        // Bounded by patience, or by the life of the scene.
        let response = loop {
            match (pending.receive()?, &self.bells) {
                (Some(response), _) => break response,
                (None, Some(bells)) => bells.wait()?,
                (None, None) => patience.spin()?,
            }
        };
        ensure!(response.payload().len() == answer.len(), "an answer has another size");
        answer.copy_from_slice(response.payload());
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        let request = self.client.loan_slice_uninit(payload.len())?;
        self.pending.push_back(request.write_from_slice(payload).send()?);
        Ok(true)
    }

    /// Of polling sides only: iceoryx2 sleeps in no pipelined load here.
    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        let mut patience = Patience::new();
        let mut is_empty = true;
        // Bounded: answers by the requests in flight, polls by patience.
        while let Some(oldest) = self.pending.front() {
            match oldest.receive()? {
                Some(response) => {
                    take(response.payload())?;
                    drop(response);
                    self.pending.pop_front();
                    is_empty = false;
                }
                None if is_empty => patience.spin()?,
                None => break,
            }
        }
        Ok(())
    }
}
