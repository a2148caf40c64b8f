//! The daemon as a subject: one request at a time, in each way that a client can wait.

use futures_lite::future::block_on;

use super::{BenchError, Subject};
use crate::client::{Client, ConnectOptions, Connection, WaitPolicy};
use crate::wire::MessageType;

/// A connection that sends a payload to the daemon and gets it back.
#[derive(Debug)]
pub(super) struct Echo(Connection);

impl Echo {
    pub(super) fn connect(options: &ConnectOptions, wait: WaitPolicy) -> Result<Self, BenchError> {
        let connection = Connection::connect(&options.clone().wait(wait));
        connection.map(Self).map_err(BenchError::subject)
    }
}

impl Subject for Echo {
    /// Without a deadline, which would read the clock twice: the daemon's life is bounded instead
    /// ([`DaemonProcess::start`](super::DaemonProcess::start)), and its end ends the wait.
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
        self.0.call(MessageType::ECHO, payload, answer).map_err(BenchError::subject)
    }
}

/// The same through a future that the current thread waits for. The client's own thread, which drives
/// it, is started by the first wait and stays on the core to which that was pinned.
pub(super) struct AsyncEcho(Client);

impl AsyncEcho {
    pub(super) fn connect(options: &ConnectOptions) -> Result<Self, BenchError> {
        Client::connect(options).map(Self).map_err(BenchError::subject)
    }
}

impl Subject for AsyncEcho {
    fn round_trip(&mut self, payload: &[u8], answer: &mut Vec<u8>) -> Result<(), BenchError> {
        let received = block_on(self.0.call_async(MessageType::ECHO, payload));
        *answer = received.map_err(BenchError::subject)?;
        Ok(())
    }
}
