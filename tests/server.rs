//! What a program that embeds the server can rely on beside answers: its metrics file, its codecs,
//! which registration wins, and how a client that does not speak is turned away.
#![cfg(all(feature = "server", feature = "client"))]

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use annulus::client::{Client, ConnectOptions, Connection};
use annulus::config::{Config, Sources};
use annulus::limits::{ARRIVALS_MAX, IN_FLIGHT_PER_CONNECTION};
use annulus::paths::Places;
use annulus::protocol::{
    AIRequest, Codec, CodecError, CodecId, Completion, JsonCodec, Message, MessageRole, StreamEvent,
};
use annulus::wire::{WELCOME_SIZE, Welcome};
use annulus::{
    AsyncRequest, AsyncResponder, IpcServer, MessageType, Request, Responder, RunningServer,
};

const PATIENCE: Duration = Duration::from_secs(30);
const ASKED: MessageType = MessageType::user(0);

fn config(directory: &Path, settings: &str) -> Config {
    let socket = directory.join("annulus.sock");
    let text = format!("ipc.socket_path = {socket:?}\n{settings}\n");
    let sources = Sources {
        file: Some(("test.toml".into(), text)),
        environment: Vec::new(),
        overrides: Vec::new(),
        places: Places::of_process(),
    };
    Config::load(&sources).unwrap()
}

fn options(server: &RunningServer) -> ConnectOptions {
    ConnectOptions::new().socket_path(server.socket_path())
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_waits_for_newcomers_to_settle_hears_of_each_that_came() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, settled) = mpsc::channel();
    let builder = IpcServer::builder().config(config(directory.path(), ""));
    let tell = move || sender.send(()).expect("the test listens");
    let server = builder.when_settled(tell).start().unwrap();
    assert!(settled.try_recv().is_err(), "nobody has come");
    for _ in 0..2 {
        let _connection = Connection::connect(&options(&server)).unwrap();
        settled.recv_timeout(PATIENCE).expect("a newcomer has settled");
        assert!(settled.try_recv().is_err(), "once is enough");
    }
}

#[test]
fn the_metrics_file_follows_while_somebody_is_connected_and_to_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("annulus.prom");
    let settings = format!("metrics.export_path = {file:?}\nmetrics.export_interval_secs = 1");
    let server = IpcServer::builder().config(config(directory.path(), &settings)).start().unwrap();
    assert!(!file.exists(), "an idle server writes nothing");
    let echoes = |count: u32| {
        let row = format!("annulus_requests_total{{type=\"echo\"}} {count}\n");
        fs::read_to_string(&file).is_ok_and(|page| page.contains(&row))
    };

    let client = Client::connect(&options(&server)).unwrap();
    client.call(MessageType::ECHO, b"counted").unwrap();
    wait_for("the file", || echoes(1));
    client.call(MessageType::ECHO, b"counted too").unwrap();
    wait_for("the file to follow", || echoes(2));
    client.call(MessageType::ECHO, b"the last one").unwrap();
    server.shutdown_handle().shutdown();
    server.join().unwrap();
    assert!(echoes(3), "the last word is written when the server stops");
}

#[test]
fn what_is_answered_while_a_server_drains_is_in_its_metrics_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("annulus.prom");
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let server = IpcServer::builder()
        .config(config(directory.path(), &format!("metrics.export_path = {file:?}")))
        .register_handler(ASKED, move |_: &Request<'_>, responder: &mut Responder<'_>| {
            inside.wait();
            inside.wait();
            responder.reply(b"late")
        })
        .start()
        .unwrap();
    let client = Client::connect(&options(&server)).unwrap();
    let asking = thread::spawn(move || client.call(ASKED, b"hold it up"));
    gate.wait();
    server.shutdown_handle().shutdown();
    wait_for("the socket to go", || !server.socket_path().exists());
    thread::sleep(Duration::from_millis(50));
    gate.wait();
    assert_eq!(asking.join().unwrap().unwrap(), b"late");
    server.join().unwrap();
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.contains("annulus_responses_total{type=\"user\"} 1\n"), "{page}");
}

#[test]
fn a_metrics_file_that_cannot_be_written_does_not_stop_anything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("no such directory").join("annulus.prom");
    let settings = format!("metrics.export_path = {file:?}\nmetrics.export_interval_secs = 1");
    let server = IpcServer::builder().config(config(directory.path(), &settings)).start().unwrap();
    let client = Client::connect(&options(&server)).unwrap();
    client.call(MessageType::ECHO, b"before").unwrap();
    thread::sleep(Duration::from_millis(1_100));
    client.call(MessageType::ECHO, b"after").unwrap();
    server.shutdown_handle().shutdown();
    server.join().unwrap();
    assert!(!file.exists());
}

#[test]
fn a_completion_is_its_stream_put_together() {
    let directory = tempfile::tempdir().unwrap();
    let builder = IpcServer::builder().config(config(directory.path(), ""));
    let server = builder.register_provider_handlers().start().unwrap();
    let client = Client::connect(&options(&server)).unwrap();
    let request =
        AIRequest::new("loopback", vec![Message::new(MessageRole::User, "What is a ring?")]);
    let whole = client.complete(&request).unwrap();
    let (mut text, mut end) = (String::new(), None);
    for event in client.stream_completion(&request).unwrap() {
        match event.unwrap() {
            StreamEvent::Text { text: piece } => text.push_str(&piece),
            StreamEvent::End { finish_reason, usage, model } => {
                end = Some((finish_reason, usage, model));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(text, whole.content);
    assert_eq!(end, Some((whole.finish_reason, whole.usage, whole.model)));
    assert_eq!((whole.reasoning, whole.tool_calls), (None, None));
}

#[test]
fn a_shared_client_knows_what_was_granted_and_notices_the_servers_end() {
    let directory = tempfile::tempdir().unwrap();
    let settings = "ipc.max_message_size = 8192";
    let server = IpcServer::builder().config(config(directory.path(), settings)).start().unwrap();
    let (first, second) =
        (Client::connect(&options(&server)).unwrap(), Client::connect(&options(&server)).unwrap());
    assert_eq!(first.message_size_max(), 8192);
    assert_eq!(first.in_flight_max(), IN_FLIGHT_PER_CONNECTION);
    assert_eq!(first.daemon_instance(), second.daemon_instance());
    assert_ne!(first.connection_id(), second.connection_id());
    first.check_alive().unwrap();
    server.shutdown_handle().shutdown();
    server.join().unwrap();
    first.check_alive().unwrap_err();
    assert!(first.is_closed());
    assert!(format!("{first:?}").contains("is_closed: true"));
}

/// JSON under an id of our own.
struct OurCodec;

impl Codec for OurCodec {
    fn id(&self) -> CodecId {
        CodecId(200)
    }

    fn encode_request(&self, request: &AIRequest, out: &mut Vec<u8>) -> Result<(), CodecError> {
        JsonCodec.encode_request(request, out)
    }

    fn decode_request(&self, bytes: &[u8]) -> Result<AIRequest, CodecError> {
        JsonCodec.decode_request(bytes)
    }

    fn encode_completion(&self, value: &Completion, out: &mut Vec<u8>) -> Result<(), CodecError> {
        JsonCodec.encode_completion(value, out)
    }

    fn decode_completion(&self, bytes: &[u8]) -> Result<Completion, CodecError> {
        JsonCodec.decode_completion(bytes)
    }

    fn encode_stream_event(
        &self,
        value: &StreamEvent,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        JsonCodec.encode_stream_event(value, out)
    }

    fn decode_stream_event(&self, bytes: &[u8]) -> Result<StreamEvent, CodecError> {
        JsonCodec.decode_stream_event(bytes)
    }
}

#[test]
fn a_codec_of_ones_own_is_agreed_on_and_reaches_both_kinds_of_handler() {
    let directory = tempfile::tempdir().unwrap();
    let server = IpcServer::builder()
        .config(config(directory.path(), ""))
        .with_codec(Arc::new(OurCodec))
        .register_handler(ASKED, |request: &Request<'_>, to: &mut Responder<'_>| {
            assert!(request.request_id() > 0 && request.connection_id() > 0);
            assert_eq!(request.message_type(), ASKED);
            to.reply(&[request.codec().id().0])
        })
        .register_async_handler(
            MessageType::user(1),
            async |request: AsyncRequest, to: AsyncResponder| {
                assert_eq!(request.message_type(), MessageType::user(1));
                to.reply(&[request.codec().id().0]).await
            },
        )
        .start()
        .unwrap();
    let client = Client::connect(&options(&server).with_codec(Arc::new(OurCodec))).unwrap();
    for message_type in [ASKED, MessageType::user(1)] {
        assert_eq!(client.call(message_type, b"which?").unwrap(), [200]);
    }
}

#[test]
fn the_later_registration_of_a_type_wins() {
    let answer = |text: &'static [u8]| {
        (
            move |_: &Request<'_>, to: &mut Responder<'_>| to.reply(text),
            move |_: AsyncRequest, to: AsyncResponder| async move { to.reply(text).await },
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let server = IpcServer::builder()
        .config(config(directory.path(), ""))
        .register_handler(ASKED, answer(b"synchronous").0)
        .register_async_handler(ASKED, answer(b"asynchronous").1)
        .register_async_handler(MessageType::user(1), answer(b"asynchronous").1)
        .register_handler(MessageType::user(1), answer(b"synchronous").0)
        .start()
        .unwrap();
    let client = Client::connect(&options(&server)).unwrap();
    assert_eq!(client.call(ASKED, b"").unwrap(), b"asynchronous");
    assert_eq!(client.call(MessageType::user(1), b"").unwrap(), b"synchronous");
}

#[test]
#[should_panic(expected = "cannot have a handler")]
fn cancel_cannot_have_a_handler() {
    let nothing = |_: &Request<'_>, _: &mut Responder<'_>| Ok(());
    let _ = IpcServer::builder().register_handler(MessageType::CANCEL, nothing);
}

#[test]
fn a_client_that_says_nothing_is_turned_away_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let settings = "ipc.handshake_timeout_ms = 20";
    let server = IpcServer::builder().config(config(directory.path(), settings)).start().unwrap();
    let mut silent = UnixStream::connect(server.socket_path()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; WELCOME_SIZE];
    silent.read_exact(&mut bytes).unwrap();
    assert_eq!(Welcome::decode(&bytes).unwrap().fault_name(), Some("handshake_cut"));
    assert_eq!(silent.read(&mut bytes).unwrap(), 0, "and hung up on");
}

#[test]
fn who_connects_while_a_handler_holds_the_shard_up_gets_in_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let server = IpcServer::builder()
        .config(config(directory.path(), ""))
        .register_handler(ASKED, move |_: &Request<'_>, responder: &mut Responder<'_>| {
            inside.wait();
            inside.wait();
            responder.reply(&[])
        })
        .start()
        .unwrap();
    let asks = Client::connect(&options(&server)).unwrap();
    let asking = thread::spawn(move || asks.call(ASKED, b"hold it up").map(|_| ()));
    gate.wait();
    let connect = || Connection::connect(&options(&server)).unwrap();
    let mut newcomers: Vec<Connection> = (0..3 * ARRIVALS_MAX).map(|_| connect()).collect();
    gate.wait();
    for (index, newcomer) in newcomers.iter_mut().enumerate() {
        let asked = newcomer.call(MessageType::ECHO, b"in?", &mut Vec::new());
        assert!(asked.is_ok(), "newcomer {index}: {asked:?}");
    }
    asking.join().unwrap().unwrap();
}

#[test]
fn a_start_that_fails_half_way_ends_and_leaves_the_socket_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    // No machine has the second core.
    let settings = "shards.count = 2\nshards.cores = [0, 1023]";
    let builder = IpcServer::builder().config(config(directory.path(), settings));
    let (report, ended) = mpsc::channel();
    thread::spawn(move || report.send(builder.start().err()));
    let error = ended.recv_timeout(PATIENCE).expect("it ends").expect("it fails");
    assert!(error.to_string().contains("data shard 1"), "{error}");
    let server = IpcServer::builder().config(config(directory.path(), "")).start().unwrap();
    let client = Client::connect(&options(&server)).unwrap();
    assert_eq!(client.call(MessageType::ECHO, b"now").unwrap(), b"now");
}
