//! What waits for somebody else: a request for a buffer, though nobody says when one comes free, and a
//! shard that stops for a worker that hangs.
#![cfg(all(feature = "client", feature = "server"))]

use std::fs;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{ConnectOptions, Connection, RequestOptions};
use annulus::config::{Config, Sources};
use annulus::paths::Places;
use annulus::{AsyncRequest, AsyncResponder, IpcServer, MessageType};

const LINGERS: MessageType = MessageType::user(0);
/// Only the largest tier has buffers of this size, and it has four.
const SIZE: usize = (1 << 20) + 1;
const BUFFER_COUNT: u64 = 4;

const PATIENCE: Duration = Duration::from_secs(30);
/// One test looks at the threads of this process.
static ALONE: Mutex<()> = Mutex::new(());

fn config(directory: &std::path::Path) -> Config {
    let text = format!(
        "[ipc]\nsocket_path = {:?}\nshutdown_timeout_secs = 1\n",
        directory.join("annulus.sock")
    );
    let file = Some(("test.toml".into(), text));
    let places = Places::of_process();
    let sources = Sources { file, environment: Vec::new(), overrides: Vec::new(), places };
    Config::load(&sources).unwrap()
}

#[test]
fn a_buffer_given_back_after_its_reply_serves_the_request_that_waits_for_it() {
    let _alone = ALONE.lock().unwrap();
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
    let patience = RequestOptions::within(PATIENCE);
    for _ in 0..=BUFFER_COUNT {
        connection.call_with(LINGERS, &payload, patience, &mut answer).unwrap();
        assert_eq!(answer, b"done");
    }
}

fn shards_run() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // One that has ended meanwhile has no name any more.
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.into_iter().any(|name| name.starts_with("annulus-shard"))
}

#[test]
fn a_shard_does_not_wait_for_ever_for_a_worker_that_hangs() {
    let _alone = ALONE.lock().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (began, has_begun) = mpsc::channel();
    let (began, released) = (Mutex::new(began), Mutex::new(released));
    let hangs = move |_: AsyncRequest, _: AsyncResponder| {
        began.lock().unwrap().send(()).unwrap();
        // Not a future: this keeps the worker's only thread.
        let _ = released.lock().unwrap().recv_timeout(PATIENCE);
        std::future::ready(Ok(()))
    };
    let server = IpcServer::builder()
        .config(config(directory.path()))
        .register_async_handler(LINGERS, hangs)
        .start()
        .unwrap();
    let options = ConnectOptions::new().socket_path(server.socket_path());
    let mut connection = Connection::connect(&options).unwrap();
    connection.try_send(LINGERS, b"").unwrap().expect("an empty ring");
    connection.notify();
    has_begun.recv_timeout(PATIENCE).unwrap();
    assert!(shards_run());
    server.shutdown_handle().shutdown();
    let deadline = Instant::now() + PATIENCE;
    while shards_run() {
        assert!(Instant::now() < deadline, "the shard waits for the worker");
        thread::sleep(Duration::from_millis(10));
    }
    release.send(()).unwrap();
    server.join().unwrap();
}
