//! `annulus providers check` and `models` against upstreams that are there, and that are not.
#![cfg(feature = "cli")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fake_upstream::{Options, TlsOptions, Upstream};
use serde_json::Value;
use tempfile::TempDir;

const KEY: &str = "sk-planted-7f3a9c51";
const WRONG_KEY: &str = "sk-another-0b17e2d4";

/// What the fake upstream lists.
const MODELS: &str = "fake-ok\nfake-tools\nfault-503\n";

/// A home with one provider, `p`, whose key is in the variable `K`.
struct Home(TempDir);

impl Home {
    fn new(kind: &str, url: &str, more: &str) -> Self {
        Self::with(kind, &[url], "keys = [\"env:K\"]", more)
    }

    /// With several endpoints, and other sources of keys.
    fn with(kind: &str, urls: &[&str], keys: &str, more: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "default_provider = \"p\"\n{more}\n\
             [providers.p]\nkind = \"{kind}\"\nbase_urls = {urls:?}\n{keys}\n"
        );
        fs::create_dir(home.path().join("annulus")).unwrap();
        fs::write(home.path().join("annulus/config.toml"), config).unwrap();
        Self(home)
    }

    /// Runs the program with this key, which it does not show.
    fn run(&self, key: &str, arguments: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_annulus"))
            .env_clear()
            .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)))
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.0.path())
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("K", key)
            .env("WRONG", WRONG_KEY)
            .stdin(Stdio::null())
            .arg("providers")
            .args(arguments)
            .output()
            .unwrap();
        for said in [&output.stdout, &output.stderr] {
            let said = String::from_utf8_lossy(said);
            assert!(!said.contains(key) && !said.contains(WRONG_KEY), "{said}");
        }
        output
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ended by itself")
}

/// An upstream that wants [`KEY`].
fn upstream(tls: Option<TlsOptions>) -> Upstream {
    Upstream::start(Options { tls, key: Some(KEY.into()), ..Options::default() }).unwrap()
}

/// A server that answers each request with what `answer` makes of its head, and closes.
fn server(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        // Ends with the test's process.
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            // A client that has seen enough goes away.
            let _ = stream.write_all(answer(&String::from_utf8(head).unwrap()).as_bytes());
        }
    });
    url
}

fn page(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[test]
fn the_models_of_every_dialect_are_listed() {
    let upstream = upstream(None);
    for (kind, path) in [
        ("openai", "/v1"),
        ("openai-compatible", "/v1"),
        ("anthropic", "/v1"),
        ("gemini", "/v1beta"),
        ("ollama", ""),
        ("cohere", ""),
    ] {
        let url = upstream.url() + path;
        let home = Home::new(kind, &url, "");
        let listed = home.run(KEY, &["models", "p"]);
        assert_eq!(stdout(&listed), MODELS, "{kind}: {}", stderr(&listed));
        let checked = home.run(KEY, &["check"]);
        let expected =
            format!("ok: p: {kind}, env:K\n    {url}: connected, env:K not refused, 3 models\n");
        assert_eq!((code(&checked), stdout(&checked)), (0, expected), "{kind}");
    }
}

#[test]
fn a_wrong_key_is_told_from_an_endpoint_that_is_not_there() {
    let upstream = upstream(None);
    let home = Home::new("openai", &(upstream.url() + "/v1"), "");
    let check = |key| {
        let output = home.run(key, &["check", "p", "--json"]);
        let value: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (code(&output), value["providers"][0].clone())
    };

    let (code, wrong) = check("sk-wrong-7f3a9c51");
    let endpoint = &wrong["endpoints"][0];
    assert_eq!((code, &wrong["ok"], &wrong["asked"]), (1, &false.into(), &true.into()));
    assert_eq!((&endpoint["connected"], &endpoint["key_refused"]), (&true.into(), &true.into()));
    let problem = wrong["problems"][0].as_str().unwrap();
    assert!(problem.contains("with env:K: refused the key (HTTP 401): wrong key"), "{problem}");

    upstream.refuse();
    // Its listener is another thread's to close.
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(upstream.address()).is_ok() {
        assert!(Instant::now() < end, "it still accepts");
        thread::sleep(Duration::from_millis(1));
    }
    let (code, absent) = check(KEY);
    let endpoint = &absent["endpoints"][0];
    assert_eq!((code, &absent["ok"]), (1, &false.into()));
    assert_eq!((&endpoint["connected"], &endpoint["key_refused"]), (&false.into(), &false.into()));
    let problem = absent["problems"][0].as_str().unwrap();
    assert!(problem.contains("network error: cannot connect to 127.0.0.1:"), "{problem}");
    let models = home.run(KEY, &["models", "p"]);
    assert_eq!(self::code(&models), 1);
    assert!(stderr(&models).contains("network error: cannot connect to"), "{}", stderr(&models));
}

#[test]
fn a_certificate_is_verified() {
    let upstream = upstream(Some(TlsOptions::default()));
    let url = upstream.url() + "/v1";
    let home = Home::new("openai", &url, "");
    let unknown = home.run(KEY, &["check"]);
    assert_eq!(code(&unknown), 1);
    let said = stdout(&unknown);
    assert!(said.contains("network error: TLS with 127.0.0.1:"), "{said}");
    let value: Value = serde_json::from_str(&stdout(&home.run(KEY, &["check", "--json"]))).unwrap();
    let endpoint = &value["providers"][0]["endpoints"][0];
    assert_eq!((&endpoint["connected"], &endpoint["encrypted"]), (&false.into(), &false.into()));

    let authority = home.0.path().join("authority.pem");
    fs::write(&authority, upstream.ca_pem().unwrap()).unwrap();
    let more = format!("[upstream]\nextra_ca = {authority:?}");
    let checked = Home::new("openai", &url, &more).run(KEY, &["check"]);
    let said = stdout(&checked);
    assert_eq!(code(&checked), 0, "{said}");
    assert!(said.contains(": connected, TLS verified, env:K not refused, 3 models\n"), "{said}");
}

#[test]
fn what_is_no_list_of_models_fails_within_bounds() {
    let huge = "x".repeat(9 << 20);
    for (body, expected) in [
        (
            "<html>welcome</html>",
            "the answer cannot be read (HTTP 200): its list of models is no JSON",
        ),
        (
            r#"{"object":"list"}"#,
            "the answer cannot be read (HTTP 200): its list of models has no list",
        ),
        (&huge, "its list of models is larger than 8388608 bytes"),
    ] {
        let answer = page("200 OK", body);
        let home = Home::new("openai", &server(move |_| answer.clone()), "");
        let checked = home.run(KEY, &["check"]);
        assert_eq!(code(&checked), 1);
        let said = stdout(&checked);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_list_in_pages_is_read_to_its_end_and_an_endless_one_is_not() {
    let url = server(|head| {
        let line = head.lines().next().unwrap();
        let body = match line {
            "GET /models?limit=1000 HTTP/1.1" => {
                r#"{"data":[{"id":"a"}],"has_more":true,"last_id":"a"}"#
            }
            "GET /models?limit=1000&after_id=a HTTP/1.1" => {
                r#"{"data":[{"id":"b"}],"has_more":false}"#
            }
            _ => "what is that?",
        };
        page("200 OK", body)
    });
    assert_eq!(stdout(&Home::new("anthropic", &url, "").run(KEY, &["models", "p"])), "a\nb\n");

    let url = server(|_| page("200 OK", r#"{"data":[{"id":"a"}],"has_more":true,"last_id":"a"}"#));
    let listed = Home::new("anthropic", &url, "").run(KEY, &["models", "p"]);
    assert_eq!(stdout(&listed).lines().count(), 20);
}

#[test]
fn what_an_upstream_repeats_and_what_a_terminal_would_obey_is_taken_out() {
    let url = server(|_| {
        let body = format!(r#"{{"error":{{"message":"no \u001b[2Jkey {KEY}, \n no entry"}}}}"#);
        page("401 Unauthorized", &body)
    });
    let said = stdout(&Home::new("openai", &url, "").run(KEY, &["check"]));
    assert!(said.contains("refused the key (HTTP 401): "), "{said:?}");
    assert!(said.contains("[redacted]") && !said.contains('\u{1b}'), "{said:?}");
    assert_eq!(said.lines().count(), 1, "{said:?}");

    let url = server(|_| page("200 OK", r#"{"data":[{"id":"a\u001b]0;b\nc"}]}"#));
    let said = stdout(&Home::new("openai", &url, "").run(KEY, &["models", "p"]));
    assert_eq!(said, "a ]0;b c\n");
}

#[test]
fn each_endpoint_is_asked_with_each_key_but_not_again_where_nobody_is() {
    let upstream = upstream(None);
    let good = upstream.url() + "/v1";
    // A port that nobody is given who asks for any.
    let absent = "http://127.0.0.1:1/v1";
    let keys = "keys = [\"env:WRONG\", \"env:K\"]";
    let home = Home::with("openai", &[absent, &good], keys, "");
    let checked = home.run(KEY, &["check", "--json"]);
    assert_eq!(code(&checked), 1);
    let value: Value = serde_json::from_str(&stdout(&checked)).unwrap();
    let endpoints = value["providers"][0]["endpoints"].as_array().unwrap();
    let said: Vec<_> = endpoints
        .iter()
        .map(|it| {
            let models = it["models"].as_u64();
            (it["url"] == good, it["key"].as_str().unwrap(), &it["connected"], models)
        })
        .collect();
    assert_eq!(
        said,
        [
            (false, "env:WRONG", &false.into(), None),
            (true, "env:WRONG", &true.into(), None),
            (true, "env:K", &true.into(), Some(3)),
        ]
    );
    assert_eq!(value["providers"][0]["problems"].as_array().unwrap().len(), 2);
    // One that gives its models is enough to list them.
    assert_eq!(stdout(&home.run(KEY, &["models", "p"])), MODELS);
}

#[test]
fn a_kind_that_needs_no_key_is_asked_without_one() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let home = Home::with("ollama", &[&upstream.url()], "", "");
    let checked = home.run(KEY, &["check"]);
    let expected = format!("ok: p: ollama, no key\n    {}: connected, 3 models\n", upstream.url());
    assert_eq!((code(&checked), stdout(&checked)), (0, expected));
}

#[test]
fn a_key_that_is_missing_is_wrong_even_beside_one_that_works() {
    let upstream = upstream(None);
    let keys = "keys = [\"env:K\", \"env:ABSENT\"]";
    let home = Home::with("openai", &[&(upstream.url() + "/v1")], keys, "");
    let checked = home.run(KEY, &["check"]);
    let said = stdout(&checked);
    assert_eq!(code(&checked), 1, "{said}");
    assert!(said.contains("env:K not refused, 3 models\n"), "{said}");
    assert!(said.contains("failed: p: env:ABSENT"), "{said}");
}

#[test]
fn silence_and_a_refusal_without_an_end_are_told_in_bounded_time() {
    // Read up to a bound only: else it would be silence in the end, too.
    let endless = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 503 Later\r\n\r\n");
            // Ends when the client goes away.
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        url
    };
    let said = stdout(&Home::new("openai", &endless(), "").run(KEY, &["check"]));
    assert!(said.contains("overloaded (HTTP 503)"), "{said:.500}");

    // Its queue takes the connection, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let checked = Home::new("openai", &url, "").run(KEY, &["check"]);
    let said = stdout(&checked);
    assert_eq!(code(&checked), 1);
    assert!(said.contains("fell silent: no whole answer within 10 s"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
