//! Annulus itself: a daemon with one data shard, and one connection to it.

use annulus::bench::{DaemonKind, daemon_settings};
use annulus::client::{ConnectOptions, Connection, WaitPolicy};
use annulus::config::{Config, Sources};
use annulus::limits::{RING_CAPACITY_MAX, RING_CAPACITY_MIN, SYNC_REPLY_SIZE_MIN};
use annulus::paths::Places;
use annulus::wire::{Status, span};
use annulus::{IpcServer, MessageType};
use anyhow::{Result, ensure};

use super::Peer;
use crate::meter::{Link, Patience, Take, WINDOW};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

pub(crate) struct Annulus;

impl Peer for Annulus {
    fn name(&self) -> &'static str {
        super::OURS
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        Ok(if load == Load::Cold { Wait::Sleeps } else { Wait::Polls })
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let settings = daemon_settings(DaemonKind::Pinned, scene.cores());
        let mut overrides: Vec<(String, String)> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        overrides.push(("ipc.socket_path".to_owned(), scene.path("s").display().to_string()));
        let places = Places::of_process();
        let sources = Sources { file: None, environment: Vec::new(), overrides, places };
        let server = IpcServer::builder().config(Config::load(&sources)?).start()?;
        say_ready()?;
        Ok(server.join()?)
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let responder = scene.start_responder(&[])?;
        let wait = if scene.wait == Wait::Polls { WaitPolicy::SPIN } else { WaitPolicy::PARK };
        let mut options = ConnectOptions::new().socket_path(scene.path("s")).wait(wait);
        if scene.load == Load::Pipelined {
            let capacity = window_capacity(scene.size)?;
            options = options.request_capacity(capacity).response_capacity(capacity);
        }
        let connection = Connection::connect(&options)?;
        Ok((Box::new(Client { connection, received: Vec::with_capacity(scene.size) }), responder))
    }
}

/// Bytes of a ring that holds the window twice over: about what one of the default size would use of its own.
fn window_capacity(size: usize) -> Result<u64> {
    let in_flight = span(u32::try_from(size)?) * WINDOW as u64;
    let room_for_reply = 4 * u64::from(SYNC_REPLY_SIZE_MIN);
    let capacity = (2 * in_flight + room_for_reply).next_power_of_two();
    Ok(capacity.clamp(RING_CAPACITY_MIN, RING_CAPACITY_MAX))
}

struct Client {
    connection: Connection,
    received: Vec<u8>,
}

impl Link for Client {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.connection.call(MessageType::ECHO, payload, &mut self.received)?;
        ensure!(self.received.len() == answer.len(), "an answer has another size");
        answer.copy_from_slice(&self.received);
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        Ok(self.connection.try_send(MessageType::ECHO, payload)?.is_some())
    }

    fn flush(&mut self) -> Result<()> {
        self.connection.notify();
        Ok(())
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        let mut patience = Patience::new();
        let mut is_empty = true;
        // Bounded: answers by the requests in flight, polls by patience.
        loop {
            match self.connection.try_receive(&mut self.received)? {
                Some(received) => {
                    ensure!(received.last && received.status == Status::Ok, "a request failed");
                    take(&self.received)?;
                    is_empty = false;
                }
                None if is_empty => patience.spin()?,
                None => return Ok(()),
            }
        }
    }
}
