//! Errors on their way from where they happen to a client's caller: each is made to happen.
#![cfg(all(feature = "server", feature = "client"))]

use std::future::Ready;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use annulus::client::{Client, ConnectOptions, Connection, RequestOptions};
use annulus::config::{Config, Sources};
use annulus::limits::SYNC_REPLY_SIZE_MIN;
use annulus::paths::Places;
use annulus::protocol::CodecId;
use annulus::wire::{Fault, Status};
use annulus::{
    AsyncRequest, AsyncResponder, IpcError, IpcServer, IpcServerBuilder, MessageType, Request,
    Responder, RunningServer,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a handler may fail with, and the error that its caller gets.
type Case = (fn() -> IpcError, fn(&IpcError) -> bool);

const CASES: [Case; 9] = [
    (|| IpcError::Timeout, |error| matches!(error, IpcError::Timeout)),
    (|| IpcError::Cancelled, |error| matches!(error, IpcError::Cancelled)),
    (|| IpcError::HandlerPanic, |error| matches!(error, IpcError::HandlerPanic)),
    (|| IpcError::UnknownMessageType, |error| matches!(error, IpcError::UnknownMessageType)),
    (|| IpcError::ShuttingDown, |error| matches!(error, IpcError::ShuttingDown)),
    (
        || IpcError::Busy { retry_after: Duration::from_secs(9) },
        |error| matches!(error, IpcError::Busy { retry_after } if retry_after.as_secs() == 9),
    ),
    (
        || IpcError::InvalidRequest { detail: "not like this".into() },
        |error| matches!(error, IpcError::InvalidRequest { detail } if detail == "not like this"),
    ),
    (
        || IpcError::ProviderFailed { detail: "gone".into() },
        |error| matches!(error, IpcError::ProviderFailed { detail } if detail == "gone"),
    ),
    (
        || IpcError::NotRunning { socket_path: "/elsewhere".into() },
        |error| matches!(error, IpcError::Internal { detail } if detail.contains("/elsewhere")),
    ),
];

struct Server {
    running: RunningServer,
    directory: TempDir,
}

impl Server {
    fn start(register: impl FnOnce(IpcServerBuilder) -> IpcServerBuilder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let builder = IpcServer::builder().config(config(directory.path()));
        Self { running: register(builder).start().unwrap(), directory }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions::new().socket_path(self.running.socket_path())
    }

    fn call(&self, message_type: MessageType, payload: &[u8]) -> Result<Vec<u8>, IpcError> {
        Client::connect(&self.options()).unwrap().call(message_type, payload)
    }
}

fn config(directory: &Path) -> Config {
    let text = format!("ipc.socket_path = {:?}", directory.join("annulus.sock"));
    let sources = Sources {
        file: Some(("test.toml".into(), text)),
        environment: Vec::new(),
        overrides: Vec::new(),
        places: Places::of_process(),
    };
    Config::load(&sources).unwrap()
}

fn synchronous(index: usize) -> MessageType {
    MessageType::user(u16::try_from(index).unwrap())
}

fn asynchronous(index: usize) -> MessageType {
    MessageType::user(0x100 + u16::try_from(index).unwrap())
}

#[test]
fn a_handlers_error_reaches_its_caller_and_the_connection_goes_on() {
    let server = Server::start(|mut builder| {
        for (index, (error, _)) in CASES.into_iter().enumerate() {
            builder = builder
                .register_handler(
                    synchronous(index),
                    move |_: &Request<'_>, responder: &mut Responder<'_>| {
                        responder.chunk(b"what came before")?;
                        Err(error())
                    },
                )
                .register_async_handler(
                    asynchronous(index),
                    move |_: AsyncRequest, responder: AsyncResponder| async move {
                        responder.chunk(b"what came before").await?;
                        Err(error())
                    },
                );
        }
        builder
    });
    let client = Client::connect(&server.options()).unwrap();
    for (index, (error, is_expected)) in CASES.iter().enumerate() {
        for message_type in [synchronous(index), asynchronous(index)] {
            let got = client.call(message_type, b"").unwrap_err();
            assert!(is_expected(&got), "{} became {got}", error());
        }
    }
    assert_eq!(client.call(MessageType::ECHO, b"still here").unwrap(), b"still here");
}

/// Is ready, and panics when it is dropped.
struct PanicsAtLast;

impl Future for PanicsAtLast {
    type Output = Result<(), IpcError>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for PanicsAtLast {
    fn drop(&mut self) {
        panic!("on purpose")
    }
}

/// Panics before there is anything to wait for.
fn panics_at_first(_: AsyncRequest, _: AsyncResponder) -> Ready<Result<(), IpcError>> {
    panic!("on purpose")
}

#[test]
fn a_panic_is_its_requests_end_and_nobody_elses() {
    let server = Server::start(|builder| {
        builder
            .register_handler(synchronous(0), |_: &Request<'_>, _: &mut Responder<'_>| {
                panic!("on purpose")
            })
            .register_async_handler(asynchronous(0), async |_: AsyncRequest, _: AsyncResponder| {
                panic!("on purpose")
            })
            .register_async_handler(asynchronous(1), panics_at_first)
            .register_async_handler(asynchronous(2), |_: AsyncRequest, _: AsyncResponder| {
                PanicsAtLast
            })
    });
    let client = Client::connect(&server.options()).unwrap();
    let panics = [synchronous(0), asynchronous(0), asynchronous(1), asynchronous(2)];
    for message_type in panics.into_iter().chain(panics) {
        let ended = client.call_with(message_type, b"", RequestOptions::within(PATIENCE));
        assert!(matches!(ended, Err(IpcError::HandlerPanic)), "{message_type}: {ended:?}");
    }
    assert_eq!(client.call(MessageType::ECHO, b"still here").unwrap(), b"still here");
}

#[test]
fn a_second_answer_and_one_that_is_too_large_are_the_handlers_errors() {
    let server = Server::start(|builder| {
        builder
            .register_handler(synchronous(0), |_: &Request<'_>, to: &mut Responder<'_>| {
                to.reply(b"one")?;
                assert!(matches!(to.reply(b"two"), Err(IpcError::Internal { .. })));
                Ok(())
            })
            .register_handler(synchronous(1), |_: &Request<'_>, to: &mut Responder<'_>| {
                to.reply(&[0; 2 * SYNC_REPLY_SIZE_MIN as usize])
            })
            .register_async_handler(
                asynchronous(0),
                async |request: AsyncRequest, to: AsyncResponder| {
                    assert_eq!(request.codec().id(), CodecId::JSON);
                    assert!(request.request_id() > 0 && request.connection_id() > 0);
                    to.reply(b"one").await?;
                    assert!(matches!(to.reply(b"two").await, Err(IpcError::Internal { .. })));
                    Ok(())
                },
            )
            .register_async_handler(asynchronous(1), async |_: AsyncRequest, to: AsyncResponder| {
                to.reply(&vec![0; 64 << 20]).await
            })
    });
    for message_type in [synchronous(0), asynchronous(0)] {
        assert_eq!(server.call(message_type, b"").unwrap(), b"one");
    }
    for message_type in [synchronous(1), asynchronous(1)] {
        let refused = server.call(message_type, b"");
        assert!(matches!(refused, Err(IpcError::InvalidRequest { .. })), "{refused:?}");
    }
}

#[test]
fn a_fault_that_a_handler_reports_closes_the_connection() {
    let server = Server::start(|builder| {
        builder.register_handler(synchronous(0), |_: &Request<'_>, _: &mut Responder<'_>| {
            Err(IpcError::Fault(Fault::SocketBytes))
        })
    });
    let lost = server.call(synchronous(0), b"").unwrap_err();
    assert!(matches!(lost, IpcError::ConnectionLost { .. }), "{lost}");
    assert!(lost.to_string().contains("socket_bytes"), "{lost}");
}

#[test]
fn a_second_server_on_a_socket_is_told_who_has_it() {
    let server = Server::start(|builder| builder);
    let second = IpcServer::builder().config(config(server.directory.path())).start();
    let Err(IpcError::AlreadyRunning { socket_path }) = second else {
        panic!("it started, or failed otherwise")
    };
    assert_eq!(socket_path, server.running.socket_path());
    assert_eq!(server.call(MessageType::ECHO, b"served").unwrap(), b"served");

    let options = server.options();
    let Server { running, directory: _directory } = server;
    running.shutdown_handle().shutdown();
    running.join().unwrap();
    assert!(matches!(Connection::connect(&options), Err(IpcError::NotRunning { .. })));
}

#[test]
fn a_codec_that_the_server_does_not_have_is_refused_in_words() {
    let server = Server::start(|builder| builder);
    let refused = Connection::connect(&server.options().codec(CodecId(200))).unwrap_err();
    let IpcError::Refused { status: Status::CodecUnsupported, fault: None } = refused else {
        panic!("{refused}")
    };
    assert!(refused.to_string().contains("refused"), "{refused}");
}

#[test]
fn every_status_and_every_fault_has_words_of_its_own() {
    let mut words: Vec<String> = Status::ALL.iter().map(ToString::to_string).collect();
    words.sort();
    words.dedup();
    assert_eq!(words.len(), Status::ALL.len(), "{words:?}");
    assert!(words.iter().all(|word| !word.is_empty()));
}
