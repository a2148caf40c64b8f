//! The same answers over TLS, HTTP/2 and through a proxy, and the program itself.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{ask, connect, read_reply, request, said, start};
use fake_upstream::{Dialect, How, Key, Options, Phase, ProxyOptions, TlsOptions, Upstream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const SOON: Duration = Duration::from_secs(5);

fn trusting(upstream: &Upstream, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(upstream.ca_pem().unwrap().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn secure(http2: bool) -> Upstream {
    let tls = TlsOptions { http2, ..TlsOptions::default() };
    Upstream::start(Options { tls: Some(tls), ..Options::default() }).unwrap()
}

#[test]
fn tls_carries_the_same_answers_and_ends() {
    let upstream = secure(false);
    assert!(upstream.url().starts_with("https://127.0.0.1:"));
    let config = trusting(&upstream, b"http/1.1");
    let exchange = |name: &str, model: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(session, connect(upstream.address()));
        stream.write_all(request(Dialect::Anthropic, model).as_bytes()).map(|()| stream)
    };
    let reply = read_reply(&mut exchange("localhost", "fake-tools").unwrap());
    assert!(said(Dialect::Anthropic, &reply.body).proven);
    let reply = read_reply(&mut exchange("127.0.0.1", "fault-reset").unwrap());
    assert!(reply.reset && !reply.whole);
    assert!(exchange("api.example.com", "m").is_err(), "another name than the certificate's");
    // A client that leaves without a word of TLS.
    let stream = exchange("localhost", "fault-stall").unwrap();
    assert!(upstream.wait_for(SOON, |log| log.requests_open == 1));
    std::thread::sleep(Duration::from_millis(50));
    drop(stream);
    let left = How::LeftByClient(Phase::Output);
    assert!(upstream.wait_for(SOON, |log| {
        log.requests.back().and_then(|request| request.ended).is_some_and(|end| end.how == left)
    }));
}

#[test]
fn http2_carries_answers_at_once_and_notices_a_reset() {
    let upstream = secure(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = tokio_rustls::TlsConnector::from(trusting(&upstream, b"h2"));
        let stream = tokio::net::TcpStream::connect(upstream.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut ask = |model: &str| {
            let uri = format!("https://localhost{}", Dialect::OpenAi.path(model));
            let request = http::Request::post(uri).body(()).unwrap();
            let (response, mut body) = client.send_request(request, false).unwrap();
            let json = format!("{{\"model\":\"{model}\"}}");
            body.send_data(json.into(), true).unwrap();
            response
        };
        let stalled = ask("fault-stall");
        let mut body = ask("fake-tools").await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend_from_slice(&data);
        }
        let said = said(Dialect::OpenAi, &bytes);
        assert_eq!((said.proven, said.calls.len()), (true, 2));
        let cut = ask("fault-close").await.unwrap().into_body();
        let mut cut = cut;
        let mut last = cut.data().await;
        while let Some(Ok(_)) = last {
            last = cut.data().await;
        }
        assert!(last.is_some(), "a reset, and no clean end");
        let stalled = stalled.await.unwrap();
        drop(stalled);
        // The reset is sent by the connection's task.
        for _ in 0..3_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if upstream.log(|log| log.requests_open == 0) {
                break;
            }
        }
    });
    upstream.log(|log| {
        let how = log.requests.iter().map(|request| request.ended.unwrap().how);
        let left = How::LeftByClient(Phase::Output);
        assert_eq!(how.collect::<Vec<_>>(), [left, How::Whole, How::CutByScript]);
        assert_eq!(log.connections_count, 1);
    });
}

#[test]
fn a_proxy_tunnels_and_forwards_to_whom_it_knows() {
    let upstream = start();
    let proxy = ProxyOptions {
        credentials: Some("user:word".to_owned()),
        target: Some(upstream.address()),
    };
    let proxy = Upstream::start(Options { proxy: Some(proxy), ..Options::default() }).unwrap();
    let tunnel = |credentials: &str| {
        let mut stream = connect(proxy.address());
        let head = format!("CONNECT api.example.com:443 HTTP/1.1\r\nhost: x\r\n{credentials}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 13];
        stream.read_exact(&mut status).unwrap();
        (stream, String::from_utf8_lossy(&status[9..12]).into_owned())
    };
    assert_eq!(tunnel("").1, "407");
    // The base64 of "user:word".
    let (mut stream, status) = tunnel("proxy-authorization: Basic dXNlcjp3b3Jk\r\n");
    assert_eq!(status, "200");
    let mut rest = [0; 26];
    stream.read_exact(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n\r\n"));
    stream.write_all(request(Dialect::Cohere, "fake-tools").as_bytes()).unwrap();
    assert!(said(Dialect::Cohere, &read_reply(&mut stream).body).proven);

    let mut stream = connect(proxy.address());
    let text =
        request(Dialect::Ollama, "m").replace("/api/chat", "http://api.example.com/api/chat");
    let credentials = "host: x\r\nproxy-authorization: Basic dXNlcjp3b3Jk\r\n";
    stream.write_all(text.replace("host: x\r\n", credentials).as_bytes()).unwrap();
    assert!(said(Dialect::Ollama, &read_reply(&mut stream).body).proven);
    proxy.log(|log| {
        let keys: Vec<Key> = log.requests.iter().map(|request| request.key).collect();
        assert_eq!(keys, [Key::Missing, Key::Right, Key::Right]);
    });
    upstream.log(|log| {
        assert!(log.requests.iter().all(|request| !request.target.contains("example")));
        let has_credentials = |(name, _): &(String, String)| name.starts_with("proxy-");
        assert!(!log.requests.iter().any(|r| r.headers.iter().any(has_credentials)));
    });
    // Without a target it goes nowhere but to the loopback.
    let proxy =
        Upstream::start(Options { proxy: Some(ProxyOptions::default()), ..Options::default() })
            .unwrap();
    let mut stream = connect(proxy.address());
    stream.write_all(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut stream).status, 502);
}

#[test]
fn a_server_that_stops_says_so_of_what_was_open() {
    let upstream = start();
    let mut stream = connect(upstream.address());
    stream.write_all(request(Dialect::OpenAi, "fault-stall").as_bytes()).unwrap();
    assert!(upstream.wait_for(SOON, |log| log.requests_open == 1));
    drop(upstream);
    assert!(!read_reply(&mut stream).whole);
}

#[test]
fn the_program_prints_its_url_and_stops_when_told() {
    let program = env!("CARGO_BIN_EXE_fake-upstream");
    let arguments = ["--chunks", "3", "--rate", "100", "--stamp", "--for-secs", "60"];
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = connect(address);
    stream.write_all(request(Dialect::Gemini, "m").as_bytes()).unwrap();
    let text = said(Dialect::Gemini, &read_reply(&mut stream).body).text;
    assert_eq!(text.matches('@').count(), 3);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());

    let help = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for option in ["--listen", "--tls", "--proxy", "--rate", "--chunks", "--key", "--script"] {
        assert!(help.contains(option), "{option}");
    }
    let wrong = Command::new(program).args(["--answer", "tyop"]).output().unwrap();
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("\"tyop\""));
}

#[test]
fn plain_and_secure_servers_live_side_by_side() {
    let (plain, secure) = (start(), secure(false));
    assert_eq!(ask(&plain, Dialect::OpenAi, "m").status, 200);
    let mut stream = connect(secure.address());
    stream.write_all(request(Dialect::OpenAi, "m").as_bytes()).unwrap();
    let mut buffer = Vec::new();
    // Not TLS, so it is refused, whatever the alert.
    let _ = stream.read_to_end(&mut buffer);
    assert!(secure.wait_for(SOON, |log| {
        log.connections.back().and_then(|c| c.ended).is_some_and(|end| end.how == How::Refused)
    }));
}
