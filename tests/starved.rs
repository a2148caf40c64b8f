//! A request that waits for a buffer is served when one comes free, though nobody says so.
#![cfg(all(feature = "client", feature = "server"))]

use std::time::Duration;

use annulus::client::{ConnectOptions, Connection, RequestOptions};
use annulus::config::{Config, Sources};
use annulus::paths::Places;
use annulus::{AsyncRequest, AsyncResponder, IpcServer, MessageType};

const LINGERS: MessageType = MessageType::user(0);
/// Only the largest tier has buffers of this size, and it has four.
const SIZE: usize = (1 << 20) + 1;
const BUFFER_COUNT: u64 = 4;

fn config(directory: &std::path::Path) -> Config {
    let text = format!("[ipc]\nsocket_path = {:?}\n", directory.join("annulus.sock"));
    let file = Some(("test.toml".into(), text));
    let places = Places::of_process();
    let sources = Sources { file, environment: Vec::new(), overrides: Vec::new(), places };
    Config::load(&sources).unwrap()
}

#[test]
fn a_buffer_given_back_after_its_reply_serves_the_request_that_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = IpcServer::builder()
        .config(config(directory.path()))
        .register_async_handler(
            LINGERS,
            |request: AsyncRequest, responder: AsyncResponder| async move {
                responder.reply(b"done").await?;
                // The client has its answer, and nothing more will be said about this request.
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(request);
                Ok(())
            },
        )
        .start()
        .unwrap();
    let options = ConnectOptions::new().socket_path(server.socket_path());
    let mut connection = Connection::connect(&options).unwrap();
    let (payload, mut answer) = (vec![7; SIZE], Vec::new());
    let patience = RequestOptions::within(Duration::from_secs(20));
    for _ in 0..=BUFFER_COUNT {
        connection.call_with(LINGERS, &payload, patience, &mut answer).unwrap();
        assert_eq!(answer, b"done");
    }
}
