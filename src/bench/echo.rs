//! The daemon as a subject: one request at a time, in each way that a client can wait.

use futures_lite::future::block_on;

use super::{BenchError, Subject};
use crate::client::{Client, ConnectOptions, Connection, WaitPolicy};
use crate::wire::MessageType;

/// A connection that sends a payload to the daemon and gets it back.
#[derive(Debug)]
pub(super) struct Echo {
    connection: Connection,
    received: Vec<u8>,
}

impl Echo {
    pub(super) fn connect(options: &ConnectOptions, wait: WaitPolicy) -> Result<Self, BenchError> {
        let connection = Connection::connect(&options.clone().wait(wait));
        Ok(Self { connection: connection.map_err(BenchError::subject)?, received: Vec::new() })
    }
}

impl Subject for Echo {
    /// Without a deadline, which would read the clock twice: the daemon's life is bounded instead
    /// ([`DaemonProcess::start`](super::DaemonProcess::start)), and its end ends the wait.
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<(), BenchError> {
        self.connection
            .call(MessageType::ECHO, payload, &mut self.received)
            .map_err(BenchError::subject)?;
        copy_answer(&self.received, answer)
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
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<(), BenchError> {
        let received = block_on(self.0.call_async(MessageType::ECHO, payload));
        copy_answer(&received.map_err(BenchError::subject)?, answer)
    }
}

#[inline]
fn copy_answer(received: &[u8], answer: &mut [u8]) -> Result<(), BenchError> {
    if received.len() != answer.len() {
        return Err(BenchError::AnswerSize { size: received.len(), expected: answer.len() });
    }
    answer.copy_from_slice(received);
    Ok(())
}
