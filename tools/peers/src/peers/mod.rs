//! The peers, one file each, and the seam that they share.

mod annulus;
mod bare;
mod iceoryx2;
mod ipc_channel;
mod node;
mod records;
mod ringfire;
mod shmem_ipc;
mod shmipc;
pub(crate) mod tonic;
mod unix_socket;

use anyhow::{Context as _, Result};

use crate::meter::{self, Figures, Link};
use crate::scene::{Load, Responder, Scene, Wait};

/// The peer that the others are compared with.
pub(crate) const OURS: &str = "annulus";

/// A way in which two processes can exchange requests and answers.
pub(crate) trait Peer: Sync {
    /// Its name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// How it waits under this load, or why it is not measured under it.
    fn wait(&self, load: Load) -> Result<Wait, &'static str>;

    /// Why it cannot be run on this machine.
    fn missing(&self) -> Option<String> {
        None
    }

    /// In the responder: answers for as long as this process lives, and says when it is ready.
    fn respond(&self, scene: &Scene) -> Result<()>;

    /// In the client: starts the responder and connects to it.
    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)>;

    /// In the client: the whole measurement.
    fn measure(&self, scene: &Scene) -> Result<Figures> {
        let (mut link, _responder) = self.connect(scene)?;
        meter::measure(link.as_mut(), scene)
    }
}

/// All peers; the bare ones first.
pub(crate) const ALL: [&dyn Peer; 15] = [
    &annulus::Annulus,
    &bare::Bare::CacheLine,
    &bare::Bare::Eventfd,
    &bare::Bare::Futex,
    &ringfire::Ringfire,
    &shmem_ipc::ShmemIpc,
    &iceoryx2::Iceoryx2,
    &shmipc::Shmipc,
    &unix_socket::UnixSocket::Plain,
    &unix_socket::UnixSocket::Batched,
    &ipc_channel::IpcChannel,
    &tonic::Tonic::Unary,
    &tonic::Tonic::Stream,
    &node::Node::Net,
    &node::Node::Fork,
];

/// The bare exchange that nothing beats under this load.
pub(crate) const fn limit_of(load: Load) -> &'static dyn Peer {
    match load {
        Load::Hot | Load::Pipelined => &bare::Bare::CacheLine,
        Load::Cold => &bare::Bare::Eventfd,
    }
}

pub(crate) fn find(name: &str) -> Result<&'static dyn Peer> {
    let found = ALL.iter().find(|peer| peer.name() == name);
    found.copied().with_context(|| format!("there is no peer {name}"))
}
