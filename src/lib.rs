//! Annulus: the AI backend that every editor window on a Linux workstation shares.
#![deny(unsafe_code)]

pub mod checksum;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
mod error;
pub mod limits;
#[cfg(feature = "server")]
pub mod metrics;
pub mod paths;
pub mod pool;
pub mod protocol;
pub mod region;
pub mod ring;
pub mod sync;
pub mod wire;

pub use error::IpcError;
