//! What is sent is what each dialect's documents say, and faults do what they say.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use common::{ask, connect, read_reply, request, said, start};
use fake_upstream::{Dialect, How, Key, Options, Phase, Rule, Step, Upstream, now_ns, stamp_of};
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_dialect_says_text_reasoning_calls_usage_and_its_end() {
    let upstream = start();
    for dialect in Dialect::ALL {
        let reply = ask(&upstream, dialect, "fake-chunks-5_tools_reasoning");
        assert_eq!(reply.status, 200);
        assert!(reply.whole);
        let said = said(dialect, &reply.body);
        assert_eq!(said.text, "plain naïve “quoted” 日本 🦀 ", "{dialect:?}");
        assert_eq!(said.reasoning, "First I think, then I speak.", "{dialect:?}");
        let call = |city: &str| ("get_weather".to_owned(), json!({"city": city, "days": 2}));
        assert_eq!(said.calls, [call("Paris"), call("Tōkyō")], "{dialect:?}");
        assert_eq!(said.usage, Some((11, 7)), "{dialect:?}");
        let finish = match dialect {
            Dialect::OpenAi => "tool_calls",
            Dialect::Anthropic | Dialect::Bedrock => "tool_use",
            Dialect::Gemini => "STOP",
            Dialect::Ollama => "stop",
            Dialect::Cohere => "TOOL_CALL",
        };
        assert_eq!((said.finish.as_str(), said.proven, said.errors), (finish, true, 0));
    }
}

#[test]
fn faults_that_change_nothing_of_what_is_said() {
    let upstream = start();
    for dialect in Dialect::ALL {
        let plain = said(dialect, &ask(&upstream, dialect, "fake-tools").body);
        for fault in ["split-1", "split-7", "bom", "crlf", "cr", "slow-headers-1", "stall-first-5"]
        {
            let is_lines = !matches!(dialect, Dialect::Bedrock | Dialect::Ollama);
            if is_lines || !["bom", "crlf", "cr"].contains(&fault) {
                let reply = ask(&upstream, dialect, &format!("fault-tools_{fault}"));
                assert_eq!(said(dialect, &reply.body), plain, "{dialect:?} {fault}");
            }
        }
        let reply = ask(&upstream, dialect, "fault-tools_unknown");
        assert_eq!(said(dialect, &reply.body).text, plain.text, "{dialect:?}");
        let split = ask(&upstream, dialect, "fault-tools_split-1");
        assert_eq!(split.chunks, split.body.len());
    }
}

#[test]
fn cut_answers_are_without_proof_and_end_as_they_say() {
    let upstream = start();
    for dialect in Dialect::ALL {
        let full = said(dialect, &ask(&upstream, dialect, "fake-ok").body);
        for (fault, whole, reset) in [
            ("cut", true, false),
            ("cut-first", true, false),
            ("cut-last", true, false),
            ("close", false, false),
            ("close-first", false, false),
            ("reset", false, true),
            ("reset-first", false, true),
            ("no-marker", true, false),
        ] {
            let reply = ask(&upstream, dialect, &format!("fault-{fault}"));
            assert_eq!((reply.whole, reply.reset), (whole, reset), "{dialect:?} {fault}");
            let said = said(dialect, &reply.body);
            assert!(!said.proven && full.text.starts_with(&said.text), "{dialect:?} {fault}");
            assert_eq!(said.text.is_empty(), fault.ends_with("-first"), "{dialect:?} {fault}");
        }
        assert!(!ask(&upstream, dialect, "fault-length-long").whole);
        let mut stream = connect(upstream.address());
        stream.write_all(request(dialect, "fault-length-short").as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert!(reply.whole && reply.body.len() > 100);
    }
    let is_cut = |how: How| how == How::CutByScript;
    let cuts = upstream.log(|log| {
        log.requests.iter().filter(|request| request.ended.is_some_and(|e| is_cut(e.how))).count()
    });
    assert_eq!(cuts, Dialect::ALL.len() * 5);
}

#[test]
fn errors_amid_a_stream_are_errors_of_the_dialect() {
    let upstream = start();
    for dialect in Dialect::ALL {
        for fault in ["error", "error-first", "error-last"] {
            let reply = ask(&upstream, dialect, &format!("fault-{fault}"));
            assert_eq!(reply.status, 200);
            assert_eq!(said(dialect, &reply.body).errors, 1, "{dialect:?} {fault}");
        }
        for fault in ["malformed", "garbage", "utf8"] {
            let body = ask(&upstream, dialect, &format!("fault-{fault}")).body;
            let read = std::panic::catch_unwind(|| said(dialect, &body));
            assert!(read.is_err(), "{dialect:?} {fault}: a strict reader takes it");
        }
        let body = ask(&upstream, dialect, "fault-huge-2000000").body;
        assert!(said(dialect, &body).text.len() > 2_000_000, "{dialect:?}");
    }
}

#[test]
fn refusals_have_status_hints_and_order() {
    let upstream = start();
    for dialect in Dialect::ALL {
        let model = "fault-429-retry-after-ms-50-then-503-retry-after-1.5-then-529-then-ok";
        let model = format!("{model}_chunks-{}", dialect.path("").len());
        let replies: Vec<_> = (0..5).map(|_| ask(&upstream, dialect, &model)).collect();
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [429, 503, 529, 200, 200], "{dialect:?}");
        assert_eq!(replies[0].header("retry-after-ms"), Some("50"));
        assert_eq!(replies[1].header("retry-after"), Some("1.5"));
        for status in [400, 401, 402, 403, 404, 408, 500, 502] {
            assert_eq!(ask(&upstream, dialect, &format!("fault-{status}")).status, status);
        }
        let html = ask(&upstream, dialect, "fault-html");
        assert!(html.status == 502 && html.text().contains("<html>"));
        let away = ask(&upstream, dialect, "fault-redirect");
        assert_eq!((away.status, away.header("location").is_some()), (307, true));
        assert_eq!(ask(&upstream, dialect, "fault-tyop").status, 404);
    }
}

#[test]
fn keep_alives_without_output_and_stalls_end_with_the_client() {
    let upstream = start();
    for (number, (dialect, (fault, phase))) in Dialect::ALL
        .into_iter()
        .flat_map(|dialect| {
            let faults = [
                ("stall-headers", Phase::Headers),
                ("comments-1", Phase::Preamble),
                ("stall-first", Phase::Preamble),
                ("stall", Phase::Output),
                ("rate-1_chunks-100", Phase::Output),
            ];
            faults.map(|fault| (dialect, fault))
        })
        .enumerate()
    {
        let mut stream = connect(upstream.address());
        stream.write_all(request(dialect, &format!("fault-{fault}")).as_bytes()).unwrap();
        if phase == Phase::Output || fault == "comments-1" {
            // Until it has come that far.
            let mut buffer = [0; 4096];
            let mut seen = 0;
            while seen < 2_000 && (seen == 0 || fault == "comments-1") {
                match stream.read(&mut buffer) {
                    Ok(size) => seen += size,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        let left_ns = now_ns();
        drop(stream);
        let ended = |log: &fake_upstream::Log| log.requests.get(number).and_then(|r| r.ended);
        assert!(upstream.wait_for(SOON, |log| ended(log).is_some()));
        let ended = upstream.log(ended).unwrap();
        assert_eq!(ended.how, How::LeftByClient(phase), "{dialect:?} {fault}");
        // Generous, for a busy machine; it is tens of microseconds.
        assert!(ended.at_ns >= left_ns && ended.at_ns < left_ns + 2_000_000_000);
    }
    assert!(upstream.wait_for(SOON, |log| log.connections_open == 0 && log.requests_open == 0));
}

#[test]
fn stamps_say_when_and_the_rate_is_kept() {
    let upstream = start();
    for dialect in Dialect::ALL {
        let (before, began) = (now_ns(), Instant::now());
        let reply = ask(&upstream, dialect, "fake-chunks-11_rate-100_stamp");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(95) && took < SOON, "{took:?}");
        let text = said(dialect, &reply.body).text;
        let stamps: Vec<u64> =
            text.match_indices('@').map(|(at, _)| stamp_of(&text[at..]).unwrap()).collect();
        assert_eq!(stamps.len(), 11);
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
        assert!(stamps[0] >= before && stamps[10] <= now_ns(), "{dialect:?}");
    }
}

#[test]
fn keys_are_judged_and_never_kept() {
    let options = Options { key: Some("secret-1".to_owned()), ..Options::default() };
    let upstream = Upstream::start(options).unwrap();
    assert_eq!(ask(&upstream, Dialect::OpenAi, "m").status, 200);
    let mut stream = connect(upstream.address());
    let wrong = request(Dialect::Gemini, "m")
        .replace("authorization: Bearer secret-1", "x-goog-api-key: secret-2");
    stream.write_all(wrong.as_bytes()).unwrap();
    let reply = read_reply(&mut stream);
    assert!(reply.status == 400 && reply.text().contains("API_KEY_INVALID"));
    // On the same connection, which is kept alive.
    let none = request(Dialect::Anthropic, "m").replace("authorization: Bearer secret-1\r\n", "");
    stream.write_all(none.as_bytes()).unwrap();
    assert_eq!(read_reply(&mut stream).status, 401);
    drop(stream);
    assert!(upstream.wait_for(SOON, |log| log.connections_open == 0));
    upstream.log(|log| {
        let keys: Vec<Key> = log.requests.iter().map(|request| request.key).collect();
        assert_eq!(keys, [Key::Right, Key::Wrong, Key::Missing]);
        assert_eq!(log.connections[1].requests_count, 2);
        assert!(log.requests[0].body.contains("\"stream\":true"));
        assert!(!serde_json::to_string(log).unwrap().contains("secret-"));
    });
}

#[test]
fn a_closed_listener_refuses_and_opens_again_on_its_port() {
    let upstream = start();
    assert_eq!(ask(&upstream, Dialect::OpenAi, "m").status, 200);
    upstream.refuse();
    let refused = || std::net::TcpStream::connect(upstream.address()).is_err();
    let until = |holds: &dyn Fn() -> bool| {
        let end = Instant::now() + SOON;
        while !holds() {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until(&refused);
    upstream.accept();
    until(&|| !refused());
    let reply = ask(&upstream, Dialect::OpenAi, "fault-refuse-1000");
    assert!(reply.reset || reply.status == 0);
    // The listener is closed right after.
    until(&refused);
    until(&|| !refused());
    assert_eq!(ask(&upstream, Dialect::OpenAi, "m").status, 200);
}

#[test]
fn rules_answer_by_path_and_lists_name_models() {
    let upstream = start();
    let step: Step = "503".parse().unwrap();
    upstream.set_rules(vec![Rule {
        path: Some("/v2/".to_owned()),
        model: None,
        steps: vec![step, Step::default()],
    }]);
    assert_eq!(ask(&upstream, Dialect::Cohere, "m").status, 503);
    assert_eq!(ask(&upstream, Dialect::Cohere, "m").status, 200);
    assert_eq!(ask(&upstream, Dialect::Ollama, "m").status, 200);
    for (path, header, needle) in [
        ("/v1/models", "x: y", "\"data\":[{\"id\""),
        ("/v1/models", "anthropic-version: 2023-06-01", "\"has_more\":false"),
        ("/v1beta/models", "x: y", "models/fake-ok"),
        ("/api/tags", "x: y", "\"models\":[{\"model\""),
        ("/foundation-models", "x: y", "modelSummaries"),
        ("/_fake/counts", "x: y", "\"requests\":"),
        ("/_fake/log", "x: y", "\"method\":\"POST\""),
    ] {
        let mut stream = connect(upstream.address());
        let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert!(reply.status == 200 && reply.text().contains(needle), "{path}: {}", reply.text());
    }
}
