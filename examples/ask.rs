//! Asks the daemon and prints the answer as it comes.

use std::io::Write;

use annulus::IpcError;
use annulus::client::{Client, ConnectOptions};
use annulus::protocol::{AIRequest, Message, MessageRole, StreamEvent};

fn main() -> Result<(), IpcError> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "What is an annulus?".to_owned());
    let request = AIRequest::new("loopback", vec![Message::new(MessageRole::User, prompt)]);

    let client = Client::connect(&ConnectOptions::new())?;
    for event in client.stream_completion(&request)? {
        if let StreamEvent::Text { text } = event? {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
    }
    Ok(())
}
