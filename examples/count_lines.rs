//! A daemon with a handler of its own beside the built-in ones.

use annulus::{IpcError, IpcServer, MessageType, Request, Responder};

const COUNT_LINES: MessageType = MessageType::user(0);

fn main() -> Result<(), IpcError> {
    let server = IpcServer::builder()
        .register_handler(COUNT_LINES, |request: &Request<'_>, responder: &mut Responder<'_>| {
            let lines = request.payload().iter().filter(|byte| **byte == b'\n').count() as u64;
            responder.reply(&lines.to_le_bytes())
        })
        .register_provider_handlers()
        .start()?;
    println!("serving {}", server.socket_path().display());
    server.join()
}
