//! How a connection comes about: addresses, TLS, proxies.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use super::server::{Asked, Server, authority, read_request, response, serve, tls};
use super::{Options, ask, client, endpoint, get, options, run, until_connections};
use crate::dialect::Class;
use crate::http::connect::first_to_connect;
use crate::http::socket::Gauge;
use crate::http::{Client, ProxySource};

/// An address that lets nobody in and refuses nobody: its queue is full.
struct Silent {
    _listener: rustix::fd::OwnedFd,
    _queue: Vec<TcpStream>,
}

impl Silent {
    fn at(address: SocketAddr) -> Self {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 0).unwrap();
        let queue = std::iter::from_fn(|| {
            TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()
        });
        Self { _queue: queue.take(16).collect(), _listener: listener }
    }
}

fn at(last: u8, server: &Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], server.address.port()))
}

#[test]
fn dead_addresses_do_not_keep_a_living_one_from_being_found() {
    let server = Server::start_at("127.0.0.1:0", |mut stream, _| stream.read(&mut [0]).map(drop));
    let silent = Silent::at(at(2, &server));
    run(async move {
        let (living, silent_address, refusing): (IpAddr, IpAddr, IpAddr) =
            ([127, 0, 0, 1].into(), [127, 0, 0, 2].into(), [127, 0, 0, 3].into());
        let port = server.address.port();
        let gauge = Gauge::default();
        let try_all = async |addresses: &[IpAddr]| {
            let begun = Instant::now();
            let socket = first_to_connect(addresses, port, &gauge).await;
            assert_eq!(gauge.count(), u64::from(socket.is_ok()), "the others are dropped");
            (socket.map(drop), begun.elapsed())
        };
        // So many that half of their delays are far more than a busy machine's.
        let mut addresses = [refusing; 10];
        addresses[9] = living;
        let half = Duration::from_millis(250) * 8 / 2;
        let (socket, took) = try_all(&addresses[1..]).await;
        socket.unwrap();
        assert!(took < half, "refusals cost no delay: {took:?}");
        addresses[0] = silent_address;
        let (socket, took) = try_all(&addresses).await;
        socket.unwrap();
        let one_delay = Duration::from_millis(240)..half;
        assert!(one_delay.contains(&took), "one delay, and refusals: {took:?}");
        let (socket, _) = try_all(&[refusing, refusing]).await;
        assert_eq!(socket.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let (socket, _) = try_all(&[]).await;
        socket.unwrap_err();
        assert_eq!(gauge.count(), 0);
        drop(silent);
    });
}

#[test]
fn connecting_ends_with_its_time_and_says_where() {
    let server = Server::start(|_, _| Ok(()));
    let silent_address = at(2, &server);
    let silent = Silent::at(silent_address);
    run(async move {
        let limit = Duration::from_millis(100);
        let unreachable = endpoint(&format!("http://{silent_address}")).with_connect_timeout(limit);
        let client = client();
        let begun = Instant::now();
        let failure = ask(&client, &unreachable, get("/")).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert!(failure.detail.contains(&silent_address.to_string()), "{failure}");
        assert!(failure.detail.contains("100ms"), "{failure}");
        assert!((limit..limit * 50).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!(client.connections(), 0);

        let refusing = format!("http://{}", at(3, &server));
        let failure = ask(&client, &endpoint(&refusing), get("/")).await.unwrap_err();
        assert!(failure.detail.contains("efused"), "{failure}");
        let unknown = endpoint("http://nobody.invalid");
        let failure = ask(&client, &unknown, get("/")).await.unwrap_err();
        assert!(failure.detail.contains("cannot resolve nobody.invalid"), "{failure}");
        drop(silent);
    });
}

fn tls_server() -> Server {
    Server::start(|stream, _| serve(&mut tls(stream, b"http/1.1"), |_| response("200 OK", "tls")))
}

fn trusting() -> Options {
    Options { extra_ca: Some(authority()), ..options() }
}

#[test]
fn tls_needs_a_known_authority_and_the_right_name() {
    let server = tls_server();
    run(async move {
        let port = server.address.port();
        let client = Client::new(trusting()).unwrap();
        for host in ["localhost", "127.0.0.1"] {
            let endpoint = endpoint(&format!("https://{host}:{port}"));
            for _ in 0..2 {
                let answer = ask(&client, &endpoint, get("/")).await.unwrap();
                assert_eq!(answer, (200, b"tls".to_vec()), "{host}");
            }
        }
        assert_eq!((server.accepted(), client.connections()), (2, 2));

        let misnamed = endpoint(&format!("https://127.0.0.2:{port}"));
        let failure = ask(&client, &misnamed, get("/")).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);

        let misnamed = endpoint(&format!("https://a.localhost:{port}"));
        let failure = ask(&client, &misnamed, get("/")).await.unwrap_err();
        assert!(failure.detail.contains("TLS with a.localhost"), "{failure}");

        let stranger = Client::new(options()).unwrap();
        let known = endpoint(&format!("https://localhost:{port}"));
        let failure = ask(&stranger, &known, get("/")).await.unwrap_err();
        assert!(failure.detail.contains("TLS with localhost"), "{failure}");
        until_connections(&stranger, 0).await;
    });
}

/// A proxy that tunnels everything to `target`, wants `credentials`, and tells what it was asked.
fn proxy(target: SocketAddr, credentials: &'static str) -> (Server, mpsc::Receiver<Asked>) {
    let (asked, arrived) = mpsc::channel();
    let asked = Mutex::new(asked);
    let server = Server::start(move |mut stream, _| {
        let Some(request) = read_request(&mut stream)? else { return Ok(()) };
        let is_welcome = request.headers.iter().any(|line| line.contains(credentials));
        asked.lock().unwrap().send(request).unwrap();
        if !is_welcome {
            return stream.write_all(&response("407 Who are you", "<html>secret</html>"));
        }
        stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")?;
        let upstream = TcpStream::connect(target)?;
        upstream.set_nodelay(true)?;
        let (mut down, mut up) = (stream.try_clone()?, upstream.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut down, &mut up);
            up.shutdown(std::net::Shutdown::Write)
        });
        let _ = io::copy(&mut &upstream, &mut stream);
        stream.shutdown(std::net::Shutdown::Both)
    });
    (server, arrived)
}

#[test]
fn https_goes_through_a_proxys_tunnel_with_its_credentials() {
    let server = tls_server();
    // base64 of `user:pass word`
    let (proxy, arrived) = proxy(server.address, "Basic dXNlcjpwYXNzIHdvcmQ=");
    run(async move {
        let by = |credentials: &str| {
            let url = format!("http://{credentials}{}", proxy.address);
            let options = Options { proxy: ProxySource::Url(url), ..trusting() };
            Client::new(options).unwrap()
        };
        let endpoint = endpoint("https://provider.test/v1");
        let client = by("user:pass%20word@");
        for _ in 0..3 {
            let answer = ask(&client, &endpoint, get("/")).await.unwrap();
            assert_eq!(answer, (200, b"tls".to_vec()));
        }
        let asked = arrived.recv().unwrap();
        assert_eq!(asked.line, "CONNECT provider.test:443 HTTP/1.1");
        assert_eq!(asked.header("host"), "provider.test:443");
        assert_eq!((proxy.accepted(), server.accepted()), (1, 1), "the tunnel was kept");

        for credentials in ["", "user:wrong@"] {
            let client = by(credentials);
            let failure = ask(&client, &endpoint, get("/")).await.unwrap_err();
            assert_eq!(failure.class, Class::Network);
            for part in ["407", "credentials", "provider.test:443", "127.0.0.1"] {
                assert!(failure.detail.contains(part), "{failure}");
            }
            for part in ["secret", "wrong", "user", "Basic"] {
                assert!(!failure.detail.contains(part), "{failure}");
            }
            until_connections(&client, 0).await;
        }
    });
}

#[test]
fn plain_http_names_everything_to_a_proxy_and_this_machine_has_none() {
    let (asked, arrived) = mpsc::channel();
    let asked = Mutex::new(asked);
    let proxy = Server::start(move |mut stream, _| {
        while let Some(request) = read_request(&mut stream)? {
            asked.lock().unwrap().send(request).unwrap();
            stream.write_all(&response("200 OK", "by proxy"))?;
        }
        Ok(())
    });
    let direct = Server::start(|mut stream, _| serve(&mut stream, |_| response("200 OK", "own")));
    run(async move {
        let url = format!("http://user:password@{}", proxy.address);
        let options = Options { proxy: ProxySource::Url(url), ..options() };
        let client = Arc::new(Client::new(options).unwrap());
        let answer = ask(&client, &endpoint("http://provider.test:81/v1"), get("/x?y")).await;
        assert_eq!(answer.unwrap(), (200, b"by proxy".to_vec()));
        let request = arrived.recv().unwrap();
        assert_eq!(request.line, "GET http://provider.test:81/v1/x?y HTTP/1.1");
        assert_eq!(request.header("host"), "provider.test:81");
        // base64 of `user:password`
        assert_eq!(request.header("proxy-authorization"), "Basic dXNlcjpwYXNzd29yZA==");

        let answer = ask(&client, &endpoint(&direct.url()), get("/")).await.unwrap();
        assert_eq!(answer, (200, b"own".to_vec()));
        assert_eq!((proxy.accepted(), direct.accepted()), (1, 1));
    });
}

#[test]
fn a_proxy_that_is_gone_or_is_none_is_named_without_its_credentials() {
    let none = Server::start(|mut stream, _| stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n"));
    run(async move {
        let gone = at(3, &none);
        for (address, reason) in [(none.address, "not HTTP"), (gone, "efused")] {
            let url = format!("http://user:secret@{address}");
            let options = Options { proxy: ProxySource::Url(url), ..options() };
            let client = Client::new(options).unwrap();
            let failure = ask(&client, &endpoint("https://provider.test"), get("/")).await;
            let failure = failure.unwrap_err();
            assert!(failure.detail.contains(&format!("proxy {address}")), "{failure}");
            assert!(failure.detail.contains(reason), "{failure}");
            assert!(!failure.detail.contains("secret"), "{failure}");
            until_connections(&client, 0).await;
        }
    });
}
