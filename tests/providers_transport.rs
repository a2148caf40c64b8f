//! The ways to an upstream, from the client's ring on: TLS with an authority of one's own, HTTP/2,
//! and through proxies.
#![cfg(feature = "cli")]

mod common;
#[path = "common/providers.rs"]
mod providers;

use std::fs;
use std::net::SocketAddr;
use std::thread;

use common::Daemon;
use fake_upstream::{Key, Options, ProxyOptions, TlsOptions, Upstream};
use providers::{
    KINDS, ask, client, complete, daemon_with, provider, stream, text_of, upstream, upstream_with,
};

/// A name that no resolver knows: only a proxy gets there.
const ELSEWHERE: &str = "upstream.invalid";
const CREDENTIALS: &str = "someone:pass word";
/// The same in a URL.
const CREDENTIALS_IN_URL: &str = "someone:pass%20word";

fn tls(names: &[&str], http2: bool) -> Upstream {
    let mut tls = TlsOptions { http2, ..TlsOptions::default() };
    tls.names.extend(names.iter().map(|&name| name.to_owned()));
    upstream_with(|options| options.tls = Some(tls))
}

fn proxy_to(target: SocketAddr) -> Upstream {
    let credentials = Some(CREDENTIALS.to_owned());
    let proxy = Some(ProxyOptions { credentials, target: Some(target) });
    Upstream::start(Options { proxy, ..Options::default() }).unwrap()
}

/// All kinds at this URL, with the authority of `upstream` if it has one, and this environment.
fn all_kinds(upstream: &Upstream, url: &str, more: &str, environment: &[(&str, &str)]) -> Daemon {
    let config: String = KINDS.iter().map(|(kind, _)| provider(kind, kind, url, more)).collect();
    daemon_with(&config, |command, home| {
        if let Some(pem) = upstream.ca_pem() {
            let file = home.join("authority.pem");
            fs::write(&file, pem).unwrap();
            command.arg("--set").arg(format!("upstream.extra_ca={}", file.display()));
        }
        command.envs(environment.iter().copied());
    })
}

fn each_answers(daemon: &Daemon) {
    let client = client(daemon);
    for (kind, _) in KINDS {
        let request = ask(&format!("{kind}/fake-chunks-5_split-3"));
        stream(&client, &request).assert_whole(&text_of(5));
        complete(&client, &request).assert_whole(&text_of(5));
    }
}

#[test]
fn tls_believes_an_authority_of_ones_own_and_nobody_elses() {
    let upstream = tls(&[], false);
    each_answers(&all_kinds(&upstream, &upstream.url(), "", &[]));
    // The next request may come before the rest behind the last answer's end, which is waited for 10 ms
    // for the connection's sake: on a busy machine not every connection is kept.
    let (connections, requests) = upstream.log(|log| (log.connections_count, log.requests_count));
    assert!(2 * connections <= requests, "{connections} for {requests} that go to the same host");

    // The same without that authority: an error, and not a word of the request goes out.
    let config = "upstream.retries_max = 0\n".to_owned()
        + &provider("openai", "openai", &upstream.url(), "");
    let requests = upstream.log(|log| log.requests_count);
    let daemon = daemon_with(&config, |_, _| {});
    let text = stream(&client(&daemon), &ask("openai/m")).failure();
    assert!(text.contains("TLS") && text.contains("openai"), "{text}");
    assert_eq!(upstream.log(|log| log.requests_count), requests);
}

#[test]
fn http2_carries_many_streams_on_one_connection() {
    const AT_ONCE: usize = 16;
    let upstream = tls(&[], true);
    let daemon = all_kinds(&upstream, &upstream.url(), "", &[]);
    each_answers(&daemon);
    thread::scope(|scope| {
        for index in 0..AT_ONCE {
            let daemon = &daemon;
            scope.spawn(move || {
                let kind = KINDS[index % KINDS.len()].0;
                let request = ask(&format!("{kind}/fake-chunks-20_rate-100"));
                stream(&client(daemon), &request).assert_whole(&text_of(20));
            });
        }
    });
    assert_eq!(upstream.log(|log| log.connections_count), 1);

    // A stream that is dropped is reset; the others' connection stays.
    let client = client(&daemon);
    let mut events = client.stream_completion(&ask("openai/fake-chunks-50_rate-50")).unwrap();
    events.next().unwrap().unwrap();
    drop(events);
    providers::wait_at(&upstream, "the stream to be reset", |log| log.requests_open == 0);
    assert_eq!(upstream.log(|log| (log.connections_count, log.connections_open)), (1, 1));
    stream(&client, &ask("openai/fake-chunks-5")).assert_whole(&text_of(5));
}

#[test]
fn a_proxy_is_asked_to_connect_and_cannot_read_what_passes() {
    let upstream = tls(&[ELSEWHERE], false);
    let proxy = proxy_to(upstream.address());
    let variable = format!("http://{CREDENTIALS_IN_URL}@{}", proxy.address());
    let url = format!("https://{ELSEWHERE}");
    each_answers(&all_kinds(&upstream, &url, "", &[("HTTPS_PROXY", variable.as_str())]));
    proxy.log(|log| {
        for request in &log.requests {
            assert_eq!((request.method.as_str(), request.key), ("CONNECT", Key::Right));
            assert_eq!(request.target, format!("{ELSEWHERE}:443"));
            assert!(request.body.is_empty());
        }
        assert!(!log.requests.is_empty());
    });
    upstream.log(|log| {
        let is_clean = |name: &String| name != "proxy-authorization";
        assert!(log.requests.iter().all(|it| it.headers.iter().all(|(name, _)| is_clean(name))));
    });
}

#[test]
fn a_proxy_forwards_what_is_not_encrypted() {
    let upstream = upstream();
    let proxy = proxy_to(upstream.address());
    let variable = format!("http://{CREDENTIALS_IN_URL}@{}", proxy.address());
    let url = format!("http://{ELSEWHERE}");
    let environment = [("HTTP_PROXY", variable.as_str()), ("http_proxy", variable.as_str())];
    each_answers(&all_kinds(&upstream, &url, "allow_http = true\n", &environment));
    assert!(upstream.log(|log| log.requests.iter().all(|request| request.key == Key::Right)));
    assert!(proxy.log(|log| log.requests_count) > 0);
}
