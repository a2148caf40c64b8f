//! `annulus call`: one request of any type, bytes in and bytes out.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annulus::IpcError;
use annulus::client::{Connection, RequestOptions};
use annulus::limits::BUSY_RETRY_AFTER_MS;
use annulus::wire::MessageType;
use serde::Serialize;

use super::client::{connect_options, parse_seconds};
use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

const SCHEMA: &str = "annulus.call/1";

/// Stands for standard input where a file is named.
const STDIN: &str = "-";

/// Send one request of any type and print its answer as it comes
///
/// AI requests (complete, stream) and their answers are JSON here. With --json each part of the
/// answer is an object: its "payload" is text when it is UTF-8 and hexadecimal digits when it is
/// not, and its "encoding" says which.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("payload").required(false))]
pub(crate) struct Arguments {
    /// echo, heartbeat, complete, stream, metrics, or a number like 0x1000
    #[arg(value_name = "TYPE", value_parser = parse_type)]
    message_type: MessageType,

    /// The payload is in this file; - is standard input. Without any, the payload is empty
    #[arg(group = "payload")]
    file: Option<PathBuf>,

    /// The payload itself
    #[arg(short, long, value_name = "TEXT", group = "payload")]
    data: Option<String>,

    /// How long the whole answer may take; without it, as long as it likes
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
}

/// One part of an answer.
#[derive(Serialize)]
struct Part<'p> {
    #[serde(rename = "type")]
    message_type: String,
    /// Counts the parts from 0.
    index: u64,
    last: bool,
    encoding: &'static str,
    payload: std::borrow::Cow<'p, str>,
}

pub(crate) fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = session.client_config()?;
    let payload = arguments.payload()?;
    let mut connection = Connection::connect(&connect_options(&config))?;

    let options = arguments.timeout.map_or(RequestOptions::NONE, RequestOptions::within);
    let deadline = arguments.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let sent = connection.try_send_with(arguments.message_type, &payload, options)?;
    let Some(id) = sent else {
        let size = payload.len() as u64;
        return Err(IpcError::MessageTooLarge { size, max: connection.message_size_max() }.into());
    };
    connection.notify();
    print_answer(session, &mut connection, id, deadline)
}

/// Prints the parts of the answer to `id` as they come.
fn print_answer(
    session: &Session,
    connection: &mut Connection,
    id: u64,
    deadline: Option<Instant>,
) -> Result<Exit, Failure> {
    let mut payload = Vec::new();
    let mut index = 0;
    // Bounded by the answer's length, or by its deadline.
    loop {
        if !connection.wait(deadline)? {
            connection.cancel(id)?;
            return Err(IpcError::Timeout.into());
        }
        let Some(received) = connection.try_receive(&mut payload)? else {
            continue;
        };
        let retry_after = Duration::from_millis(u64::from(BUSY_RETRY_AFTER_MS));
        if let Some(error) = IpcError::from_answer(received.status, &payload, retry_after) {
            return Err(error.into());
        }
        if session.output.json {
            let (encoding, text) = lossless(&payload);
            let message_type = received.message_type.to_string();
            let last = received.last;
            let part = Part { message_type, index, last, encoding, payload: text };
            session.output.object(SCHEMA, part)?;
        } else {
            session.output.raw(&payload)?;
        }
        if received.last {
            return Ok(Exit::Ok);
        }
        index += 1;
    }
}

impl Arguments {
    fn payload(&self) -> Result<Vec<u8>, Failure> {
        match (&self.data, &self.file) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(path)) if path == Path::new(STDIN) => {
                let mut payload = Vec::new();
                let read = io::stdin().lock().read_to_end(&mut payload);
                read.map_err(Failure::io("read", "standard input"))?;
                Ok(payload)
            }
            (None, Some(path)) => fs::read(path).map_err(Failure::io("read", path.display())),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// Bytes as JSON can carry them, and how.
fn lossless(bytes: &[u8]) -> (&'static str, std::borrow::Cow<'_, str>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("utf8", text.into()),
        Err(_) => ("hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn parse_type(text: &str) -> Result<MessageType, String> {
    match MessageType::parse(text) {
        Some(MessageType::CANCEL) => Err("a cancel ends another request and has no answer".into()),
        Some(message_type) => Ok(message_type),
        None => {
            let names = MessageType::NAMED.map(|(_, name)| name);
            let names: Vec<_> = names.into_iter().filter(|name| *name != "cancel").collect();
            Err(format!("write {}, or a number from 1 to 65535", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_json_as_text_or_as_hexadecimal_digits() {
        assert_eq!(lossless("größer\n\0".as_bytes()), ("utf8", "größer\n\0".into()));
        assert_eq!(lossless(&[0, 0xff]), ("hex", "00ff".into()));
    }

    #[test]
    fn a_type_has_a_name_or_a_number_and_an_answer() {
        assert_eq!(parse_type("echo"), Ok(MessageType::ECHO));
        assert_eq!(parse_type("0x1000"), Ok(MessageType::user(0)));
        assert!(parse_type("cancel").unwrap_err().contains("no answer"));
        assert!(parse_type("echos").unwrap_err().contains("echo, heartbeat"));
    }
}
