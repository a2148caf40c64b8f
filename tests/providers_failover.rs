//! What happens when a provider fails: before the first output somebody else answers and the client
//! sees nothing of it; after it, there is one error and nobody else is asked.
#![cfg(feature = "cli")]

mod common;
#[path = "common/providers.rs"]
mod providers;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use annulus::IpcError;
use fake_upstream::{Key, Rule, Upstream};

use common::wait_for;
use providers::{
    KEY_VARIABLE, KINDS, ask, client, complete, daemon, daemon_with, metric, provider, step,
    stream, text_of, upstream,
};

fn requests(upstream: &Upstream) -> u64 {
    upstream.log(|log| log.requests_count)
}

/// Failures before any output, as scripts.
const BEFORE_OUTPUT: [&str; 18] = [
    "429",
    "429-retry-after-100",
    "503",
    "529",
    "500",
    "bad-key",
    "403",
    "quota",
    "html-502",
    "redirect",
    "error-first",
    "malformed-first",
    "cut-first",
    "close-first",
    "reset-first",
    "stall-headers",
    "stall-first",
    "comments-20",
];

#[test]
fn before_the_first_output_the_next_provider_answers_and_the_client_sees_nothing() {
    let (first, second) = (upstream(), upstream());
    // A provider for each failure, because they have consequences: a limited key rests.
    let mut config = "upstream.breaker_failures = 1000\n".to_owned();
    let mut cases = Vec::new();
    for (kind, _) in KINDS {
        for (index, script) in BEFORE_OUTPUT.iter().enumerate() {
            for way in ["s", "c"] {
                let name = format!("{kind}-{index}{way}");
                let hurry = "first_output_timeout_secs = 1\n";
                config += &provider(&name, kind, &first.url(), hurry);
                config += &format!(
                    "[models.{name}]\nroute = [\"{name}/fake-{script}\", \"other/fake-chunks-7\"]\n"
                );
                cases.push((name, *script, way));
            }
        }
    }
    config += &provider("other", "openai", &second.url(), "");
    let daemon = daemon(&config);
    // Side by side, because some of them are about time.
    thread::scope(|scope| {
        for cases in cases.chunks(cases.len().div_ceil(16)) {
            let daemon = &daemon;
            scope.spawn(move || {
                let client = client(daemon);
                for (name, script, way) in cases {
                    let request = ask(name);
                    let answer = if *way == "s" {
                        stream(&client, &request)
                    } else {
                        complete(&client, &request)
                    };
                    assert!(answer.error.is_none(), "{name} {script}: {:?}", answer.error);
                    answer.assert_whole(&text_of(7));
                    assert_eq!(answer.end.unwrap().2, "fake-chunks-7", "{name} {script}");
                }
            });
        }
    });
    assert_eq!(requests(&second), cases.len() as u64, "the second answers each of them once");
    // Nobody is asked again as long as there is somebody who was not asked.
    assert_eq!(requests(&first), cases.len() as u64);
}

#[test]
fn a_provider_that_does_not_listen_or_speak_is_passed_over() {
    let second = upstream();
    // A port that nobody is given, and one that accepts and says nothing.
    let closed = "127.0.0.1:1";
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = provider("closed", "openai", &format!("http://{closed}"), "");
    let url = format!("https://{}", silent.local_addr().unwrap());
    config += &provider("silent", "openai", &url, "connect_timeout_ms = 200\n");
    config += &provider("other", "anthropic", &second.url(), "");
    config += "[models.m]\nroute = [\"closed/m\", \"silent/m\", \"other/fake-chunks-2\"]\n";
    let daemon = daemon(&config);
    let client = client(&daemon);
    stream(&client, &ask("m")).assert_whole(&text_of(2));
    complete(&client, &ask("m")).assert_whole(&text_of(2));
    for name in ["closed", "silent"] {
        let row =
            format!("annulus_provider_requests_total{{provider=\"{name}\",outcome=\"network\"}}");
        assert_eq!(metric(&client, &row), 2, "{name}");
    }
}

/// Failures amid the output, as scripts.
const AFTER_OUTPUT: [&str; 7] =
    ["cut", "close", "reset", "error", "malformed", "stall", "cut-last"];

#[test]
fn after_the_commit_point_there_is_one_error_and_nobody_else_is_asked() {
    let (first, second) = (upstream(), upstream());
    let mut config = "upstream.breaker_failures = 1000\n".to_owned();
    for (kind, _) in KINDS {
        config += &provider(kind, kind, &first.url(), "idle_timeout_secs = 1\n");
    }
    config += &provider("other", "openai", &second.url(), "default_model = \"fake-ok\"\n");
    let config = format!("upstream.failover = [\"other\"]\n{config}");
    let daemon = daemon(&config);
    thread::scope(|scope| {
        for (kind, _) in KINDS {
            let daemon = &daemon;
            scope.spawn(move || {
                let client = client(daemon);
                for script in AFTER_OUTPUT {
                    // Slow enough that the first piece is out before it breaks: what comes in one read
                    // with the break was seen by nobody, and the next provider is asked.
                    let request = ask(&format!("{kind}/fake-chunks-4_rate-5_{script}"));
                    let answer = stream(&client, &request);
                    let text = answer.failure();
                    assert!(answer.pieces >= 1, "{kind} {script}: {answer:?}");
                    assert!(text_of(4).starts_with(&answer.text), "{kind} {script}: {answer:?}");
                    let error = answer.error.unwrap();
                    assert!(matches!(error, IpcError::ProviderFailed { .. }), "{kind}: {error:?}");
                    let sent = format!("broke off after {} bytes of text", answer.text.len());
                    assert!(text.contains(&sent) && text.contains(kind), "{kind} {script}: {text}");
                    complete(&client, &request).failure();
                }
            });
        }
    });
    assert_eq!(requests(&second), 0);
    let asked = KINDS.len() * AFTER_OUTPUT.len() * 2;
    assert_eq!(requests(&first), asked as u64, "each was asked once");
}

#[test]
fn a_body_without_its_proof_is_an_error_in_every_dialect() {
    let upstream = upstream();
    let mut config = "upstream.retries_max = 0\nupstream.breaker_failures = 1000\n".to_owned();
    for (kind, _) in KINDS {
        config += &provider(kind, kind, &upstream.url(), "");
    }
    let daemon = daemon(&config);
    let client = client(&daemon);
    for (kind, _) in KINDS {
        for fault in ["cut", "close", "reset"] {
            for at in ["first", "middle", "last"] {
                let request = ask(&format!("{kind}/fake-{fault}-{at}"));
                stream(&client, &request).failure();
                complete(&client, &request).failure();
            }
        }
        for fault in ["length-long", "length-short", "no-marker"] {
            let request = ask(&format!("{kind}/fake-{fault}"));
            let (streamed, whole) = (stream(&client, &request), complete(&client, &request));
            // OpenAI's proof is the finish reason: many that speak this dialect leave [DONE] out. Where
            // the proof is the last word, the connection may break its own; Gemini's is not.
            let is_proved = match fault {
                "length-long" => *kind != "gemini",
                "no-marker" => *kind == "openai",
                _ => false,
            };
            if is_proved {
                streamed.assert_whole(&text_of(10));
                whole.assert_whole(&text_of(10));
            } else {
                streamed.failure();
                whole.failure();
            }
        }
    }
}

#[test]
fn a_try_again_comes_when_the_upstream_said_and_not_before() {
    let upstream = upstream();
    let mut config = String::new();
    for (kind, _) in KINDS {
        config += &provider(kind, kind, &upstream.url(), "");
    }
    let daemon = daemon(&config);
    let client = client(&daemon);
    for (kind, _) in KINDS {
        let mut hints = vec![("retry-after-ms-300", 300), ("retry-after-0.2", 200)];
        if *kind == "gemini" {
            hints.push(("retry-delay-0.25s", 250));
        }
        for (hint, ms) in hints {
            // Every sequence begins again.
            upstream.set_rules(Vec::new());
            let before = requests(&upstream);
            let model = format!("{kind}/fake-429_{hint}-then-503-then-chunks-3");
            stream(&client, &ask(&model)).assert_whole(&text_of(3));
            let times: Vec<u64> = upstream.log(|log| {
                let new = log.requests.iter().skip(usize::try_from(before).unwrap());
                new.map(|request| request.at_ns).collect()
            });
            assert_eq!(times.len(), 3, "{model}");
            let waited = Duration::from_nanos(times[1] - times[0]);
            assert!(waited >= Duration::from_millis(ms), "{model}: after {waited:?}");
        }
    }
    // A wait that is longer than anybody waits is the client's to decide.
    let before = requests(&upstream);
    let answer = stream(&client, &ask("openai/fake-429-retry-after-3000"));
    let Some(IpcError::Busy { retry_after }) = answer.error else { panic!("{answer:?}") };
    assert!(retry_after > Duration::from_secs(60), "{retry_after:?}");
    assert_eq!(requests(&upstream), before + 1);
}

#[test]
fn the_breaker_opens_lets_one_probe_through_and_closes() {
    let upstream = upstream();
    let mut config = "upstream.retries_max = 0\nupstream.breaker_failures = 2\n\
        upstream.breaker_successes = 1\nupstream.breaker_open_secs = 1\n"
        .to_owned();
    config += &provider("p", "openai", &upstream.url(), "");
    let daemon = daemon(&config);
    let client = client(&daemon);
    let state = |state: &str| {
        metric(&client, &format!("annulus_provider_endpoints{{provider=\"p\",state=\"{state}\"}}"))
    };
    let moves = |state: &str| {
        let row = format!(
            "annulus_provider_breaker_transitions_total{{provider=\"p\",state=\"{state}\"}}"
        );
        metric(&client, &row)
    };
    let rule = |script: &str| Rule { path: None, model: None, steps: vec![step(script)] };
    upstream.set_rules(vec![rule("503")]);
    for _ in 0..2 {
        stream(&client, &ask("p/m")).failure();
    }
    assert_eq!((state("open"), state("closed"), requests(&upstream)), (1, 0, 2));
    // Left alone: the client is told at once, and what for.
    let text = complete(&client, &ask("p/m")).failure();
    assert!(text.contains("left alone") || text.contains("busy"), "{text}");
    assert_eq!(requests(&upstream), 2, "nothing was sent");

    // The probe fails, and the breaker opens again.
    wait_for("the probe", || {
        complete(&client, &ask("p/m")).failure();
        requests(&upstream) == 3
    });
    assert_eq!((state("open"), moves("open"), moves("half_open")), (1, 2, 1));

    // The next one succeeds, and the breaker closes. A cut stream would be no success.
    upstream.set_rules(vec![rule("chunks-2")]);
    wait_for("the breaker to close", || complete(&client, &ask("p/m")).error.is_none());
    assert_eq!((state("closed"), moves("closed"), requests(&upstream)), (1, 1, 4));
    stream(&client, &ask("p/m")).assert_whole(&text_of(2));
    let rejected = metric(&client, "annulus_provider_breaker_rejections_total{provider=\"p\"}");
    assert!(rejected >= 1);
}

#[test]
fn a_refused_key_is_left_alone_and_the_other_one_serves() {
    let upstream = upstream();
    let mut config = String::new();
    for (kind, _) in KINDS {
        let keys = format!("keys = [\"env:WRONG_KEY\", \"env:{KEY_VARIABLE}\"]\n");
        config += &provider(kind, kind, &upstream.url(), &keys);
    }
    let daemon = daemon_with(&config, |command, _| {
        command.env("WRONG_KEY", "sk-wrong-9876543210");
    });
    let client = client(&daemon);
    for (kind, _) in KINDS {
        let before = requests(&upstream);
        for _ in 0..8 {
            stream(&client, &ask(&format!("{kind}/fake-chunks-2"))).assert_whole(&text_of(2));
        }
        let wrong = upstream.log(|log| {
            let new = log.requests.iter().skip(usize::try_from(before).unwrap());
            new.filter(|request| request.key == Key::Wrong).count()
        });
        // Bedrock says 403 to a key that it does not know and to a model that the key may not have:
        // only this request goes on with another key.
        let wrong_max = if *kind == "bedrock" { 8 } else { 2 };
        assert!(wrong <= wrong_max, "{kind}: the wrong key was sent {wrong} times");
    }
}
