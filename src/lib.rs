//! Annulus: the AI backend that every editor window on a Linux workstation shares.
#![deny(unsafe_code)]
#![cfg_attr(annulus_loom, allow(dead_code, reason = "the models have no mapped memory"))]

#[cfg(feature = "cli")]
pub mod bench;
pub mod checksum;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod connection;
#[cfg(feature = "server")]
mod control;
mod copy;
#[cfg(feature = "server")]
pub mod descriptors;
mod error;
pub mod limits;
#[cfg(feature = "server")]
pub mod link;
#[cfg(feature = "server")]
pub mod metrics;
pub mod paths;
#[cfg(not(annulus_loom))]
pub mod pool;
pub mod protocol;
#[cfg(feature = "server")]
pub mod provider;
#[cfg(not(annulus_loom))]
pub mod region;
pub mod ring;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod shard;
pub mod sync;
#[cfg(feature = "server")]
pub mod wake;
pub mod wire;
#[cfg(feature = "server")]
pub mod worker;

#[cfg(feature = "server")]
pub use connection::{Handler, Request, Responder};
pub use error::IpcError;
#[cfg(feature = "server")]
pub use server::{IpcServer, IpcServerBuilder, RunningServer, ShutdownHandle};
pub use wire::MessageType;
#[cfg(feature = "server")]
pub use worker::{AsyncHandler, AsyncRequest, AsyncResponder};
