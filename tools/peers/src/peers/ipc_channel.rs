//! ipc-channel: a pair of its byte channels, which carry bytes as they are.

use ::ipc_channel::TryRecvError;
use ::ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};
use anyhow::{Result, ensure};

use super::Peer;
use crate::meter::{Link, Patience, Take};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

pub(crate) struct IpcChannel;

/// What the responder introduces itself with: where to send requests, and where answers come from.
type Ends = (IpcBytesSender, IpcBytesReceiver);

impl Peer for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        Ok(if load == Load::Cold { Wait::Sleeps } else { Wait::Polls })
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let introduction = IpcSender::connect(std::fs::read_to_string(scene.path("name"))?)?;
        let (client_requests, requests) = bytes_channel()?;
        let (responses, client_responses) = bytes_channel()?;
        let ends: Ends = (client_requests, client_responses);
        introduction.send(ends)?;
        say_ready()?;
        // Until the client goes.
        loop {
            responses.send(&receive(&requests, scene.wait)?)?;
        }
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let (server, name) = IpcOneShotServer::<Ends>::new()?;
        std::fs::write(scene.path("name"), name)?;
        let responder = scene.start_responder(&[])?;
        let (_, (requests, responses)) = server.accept()?;
        Ok((Box::new(Client { requests, responses, wait: scene.wait }), responder))
    }
}

fn receive(receiver: &IpcBytesReceiver, wait: Wait) -> Result<Vec<u8>> {
    if wait == Wait::Sleeps {
        return Ok(receiver.recv()?);
    }
    let mut patience = Patience::new();
    loop {
        match receiver.try_recv() {
            Ok(bytes) => return Ok(bytes),
            Err(TryRecvError::Empty) => patience.spin()?,
            Err(TryRecvError::IpcError(error)) => return Err(error.into()),
        }
    }
}

struct Client {
    requests: IpcBytesSender,
    responses: IpcBytesReceiver,
    wait: Wait,
}

impl Link for Client {
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.requests.send(payload)?;
        let received = receive(&self.responses, self.wait)?;
        ensure!(received.len() == answer.len(), "an answer has another size");
        answer.copy_from_slice(&received);
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.requests.send(payload)?;
        Ok(true)
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        take(&receive(&self.responses, self.wait)?)
    }
}
