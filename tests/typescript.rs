//! Holds the Rust types of the protocol against its TypeScript interfaces,
//! `tests/typescript/protocol.ts`.
//!
//! Values of every shape go from Rust through a type-checked TypeScript program and back and have
//! to be equal; requests written as TypeScript literals have to survive Rust. The program accepts
//! no key that the interfaces do not have, and its run-time checks do not compile unless they match
//! the interfaces, so neither side can change alone.
//!
//! Needs `node`, `npm` and a package registry, and without them passes with a line that starts with
//! `skipped:`. With `ANNULUS_REQUIRE_TYPESCRIPT=1` it fails instead. The sources are copied and
//! installed in a temporary directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use annulus::protocol::{
    AIRequest, Codec as _, CodecError, Completion, FinishReason, JsonCodec, JsonValue, Message,
    MessageRole, StreamEvent, Tool, ToolCall, Usage,
};
use serde_json::{Value, json};

/// How long each of npm, the compiler and the program may take.
const CHILD_TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn rust_and_typescript_speak_one_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    if let Err(reason) = install(directory) {
        assert!(
            std::env::var_os("ANNULUS_REQUIRE_TYPESCRIPT").is_none_or(|value| value != "1"),
            "ANNULUS_REQUIRE_TYPESCRIPT=1, but {reason}"
        );
        // Not `println!`, which the test harness keeps to itself when a test passes.
        writeln!(std::io::stderr(), "skipped: {reason}").unwrap();
        return;
    }
    let compiler = ["--no-install", "tsc", "--pretty", "false"];
    run(directory, "npx", &compiler)
        .unwrap_or_else(|failure| panic!("the TypeScript sources do not compile: {failure}"));

    write_lines(directory, "requests.jsonl", &requests(), |value, out| {
        JsonCodec.encode_request(value, out)
    });
    write_lines(directory, "completions.jsonl", &completions(), |value, out| {
        JsonCodec.encode_completion(value, out)
    });
    write_lines(directory, "events.jsonl", &stream_events(), |value, out| {
        JsonCodec.encode_stream_event(value, out)
    });
    let canaries = canaries().map(|canary| canary.to_string()).join("\n");
    fs::write(directory.join("canaries.jsonl"), canaries).unwrap();

    run(directory, "node", &["built/roundtrip.js", "."])
        .unwrap_or_else(|failure| panic!("a value does not fit its interface: {failure}"));

    assert_lines(directory, "requests.back.jsonl", &requests(), |line| {
        JsonCodec.decode_request(line)
    });
    assert_lines(directory, "completions.back.jsonl", &completions(), |line| {
        JsonCodec.decode_completion(line)
    });
    assert_lines(directory, "events.back.jsonl", &stream_events(), |line| {
        JsonCodec.decode_stream_event(line)
    });
    assert_literals_survive(&fs::read_to_string(directory.join("literals.jsonl")).unwrap());
}

#[test]
fn lock_file_names_no_registry_but_the_public_one() {
    let lock: Value = serde_json::from_str(include_str!("typescript/package-lock.json")).unwrap();
    for (name, package) in lock["packages"].as_object().unwrap() {
        if let Some(address) = package["resolved"].as_str() {
            assert!(address.starts_with("https://registry.npmjs.org/"), "{name}: {address}");
        }
    }
}

/// Copies the TypeScript sources into `directory` and installs their compiler there. The error says
/// what this machine lacks.
///
/// # Panics
///
/// When npm fails for any reason but an absent registry.
fn install(directory: &Path) -> Result<(), String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/typescript");
    for entry in fs::read_dir(sources).unwrap() {
        let source = entry.unwrap().path();
        if source.is_file() {
            fs::copy(&source, directory.join(source.file_name().unwrap())).unwrap();
        }
    }
    for program in ["node", "npm"] {
        if let Err(Failure::NotFound) = run(directory, program, &["--version"]) {
            return Err(format!("{program} is not on PATH"));
        }
    }
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"];
    match run(directory, "npm", &arguments) {
        Ok(()) => Ok(()),
        Err(Failure::TimedOut) => Err("npm ci did not end in time".to_owned()),
        Err(Failure::Failed { output, .. }) if lacks_registry(&output) => {
            Err("npm ci cannot reach a package registry".to_owned())
        }
        Err(failure) => panic!("npm ci: {failure}"),
    }
}

/// Whether npm's output names a network error, as opposed to a package or a checksum that is wrong.
fn lacks_registry(output: &str) -> bool {
    let codes = [
        "EAI_AGAIN",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "ENOTCACHED",
        "ENOTFOUND",
        "ERR_SOCKET_TIMEOUT",
        "ETIMEDOUT",
    ];
    codes.iter().any(|code| output.contains(code))
}

enum Failure {
    NotFound,
    TimedOut,
    Failed { status: ExitStatus, output: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("not on PATH"),
            Self::TimedOut => write!(f, "killed after {CHILD_TIME_MAX:?}"),
            Self::Failed { status, output } => write!(f, "{status}\n{output}"),
        }
    }
}

/// Runs a program in `directory` and waits for it; when the time is up, kills it and all that it
/// has started.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<(), Failure> {
    // A file rather than a pipe: nobody has to empty it while we wait.
    let log_path = directory.join("child.log");
    let log = File::create(&log_path).unwrap();
    let mut child = match Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("npm_config_update_notifier", "false")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
    {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::NotFound);
        }
        Err(error) => panic!("{program}: {error}"),
    };

    let deadline = Instant::now() + CHILD_TIME_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
            child.wait().unwrap();
            return Err(Failure::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(());
    }
    let output = fs::read_to_string(log_path).unwrap();
    Err(Failure::Failed { status, output })
}

fn write_lines<T>(
    directory: &Path,
    name: &str,
    values: &[T],
    encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), CodecError>,
) {
    let mut lines = Vec::new();
    for value in values {
        encode(value, &mut lines).unwrap();
        lines.push(b'\n');
    }
    fs::write(directory.join(name), lines).unwrap();
}

fn assert_lines<T: PartialEq + std::fmt::Debug>(
    directory: &Path,
    name: &str,
    values: &[T],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) {
    let text = fs::read_to_string(directory.join(name)).unwrap();
    let back: Vec<T> = text
        .lines()
        .map(|line| {
            decode(line.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}: {line}"))
        })
        .collect();
    assert_eq!(back.len(), values.len(), "{name}");
    for (back, value) in back.iter().zip(values) {
        assert_eq!(back, value, "{name}");
    }
}

/// Reads each request that TypeScript wrote and writes it again: the JSON has to be the same.
fn assert_literals_survive(text: &str) {
    assert!(text.lines().count() > 1);
    for line in text.lines() {
        let request = JsonCodec.decode_request(line.as_bytes()).unwrap();
        let mut again = Vec::new();
        JsonCodec.encode_request(&request, &mut again).unwrap();
        let again: Value = serde_json::from_slice(&again).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(same_json(&line, &again), "{line}\nbecame\n{again}");
    }
}

/// Equality as JavaScript sees it, where 1 and 1.0 are one number.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_json(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Requests that differ from the interface in one point each.
fn canaries() -> [Value; 7] {
    let message = json!({"role": "user", "content": ""});
    [
        json!({"model": "m"}),
        json!({"model": "m", "messages": [message], "max_tokens": 1}),
        json!({"model": "m", "messages": [message], "temperature": "1"}),
        json!({"model": "m", "messages": [message], "temperature": null}),
        json!({"model": "m", "messages": [{"role": "tool", "content": ""}]}),
        json!({"model": "m", "messages": [{"role": "user"}]}),
        json!({"model": "m", "messages": [message], "tools": [{"name": "n", "inputSchema": {}}]}),
    ]
}

/// Text that has gone wrong somewhere before.
const TEXTS: [&str; 6] = [
    "",
    "plain",
    "\u{1f980} \u{65e5}\u{672c}\u{8a9e} e\u{301}",
    "\0 \u{1} \u{7f} \u{2028} \u{2029} \u{feff} \u{ffff} \u{10ffff}",
    "\" \\ / \n \r \t </script>",
    "__proto__",
];

/// Arbitrary JSON. No whole number is written with a fraction and none exceeds 2^53, because
/// JavaScript has one kind of number and writes 1.0 as 1.
fn parameters() -> Vec<JsonValue> {
    let mut numbers = vec![
        json!(0.1 + 0.2),
        json!(5e-324),
        json!(f64::MAX),
        json!(-1e-7),
        json!(9_007_199_254_740_991_i64),
        json!(-9_007_199_254_740_991_i64),
    ];
    // Fractions with many digits, by a linear congruence (Knuth's MMIX): reading one wrong by the
    // last bit shows here.
    let mut state = 1_u64;
    numbers.extend((0..1000).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        json!((state >> 11) as f64 / 1e19)
    }));
    let deep =
        (0..100).fold(
            json!({}),
            |inner, depth| {
                if depth % 2 == 0 { json!([inner]) } else { json!({"k": inner}) }
            },
        );
    let values = [
        json!(null),
        json!(true),
        json!(""),
        json!([]),
        json!({}),
        json!(numbers),
        json!({"": null, "a b": {"\u{e9}": [TEXTS, [], {}, [[]]]}, "name": 1, "10": 2, "9": 3}),
        deep,
    ];
    values.map(JsonValue).to_vec()
}

fn tool_calls() -> Vec<ToolCall> {
    let call = |(index, parameters): (usize, JsonValue)| ToolCall {
        name: TEXTS[index % TEXTS.len()].into(),
        parameters,
        id: format!("call-{index}"),
    };
    parameters().into_iter().enumerate().map(call).collect()
}

fn tools() -> Vec<Tool> {
    let schemas = [None, Some(JsonValue(json!({"type": "object", "properties": {}})))];
    let mut tools = Vec::new();
    for description in [None, Some(""), Some("Reads a file.")] {
        for parameters in &schemas {
            tools.push(Tool {
                name: "read_file".into(),
                description: description.map(str::to_owned),
                parameters: parameters.clone(),
            });
        }
    }
    tools
}

/// Every role with every text, without tool calls, with none, and with all.
fn messages() -> Vec<Message> {
    let mut messages = Vec::new();
    for role in [MessageRole::System, MessageRole::User, MessageRole::Assistant] {
        for text in TEXTS {
            for tool_calls in [None, Some(vec![]), Some(tool_calls())] {
                let content = text.into();
                messages.push(Message { role, content, tool_calls });
            }
        }
    }
    messages
}

/// Every combination of the optional fields, and every message in a request of its own.
fn requests() -> Vec<AIRequest> {
    let mut requests: Vec<AIRequest> =
        messages().into_iter().map(|message| AIRequest::new("loopback", vec![message])).collect();
    requests.push(AIRequest::new("", vec![]));
    for mask in 0..1_u32 << 5 {
        let has = |bit: u32| mask & (1 << bit) != 0;
        requests.push(AIRequest {
            messages: messages().into_iter().step_by(4).collect(),
            model: "loopback".into(),
            temperature: has(0).then_some(f64::from(mask) / 20.0),
            max_tokens: has(1).then_some(u32::MAX - mask),
            tools: has(2).then(tools),
            system_prompt: has(3).then(|| TEXTS[mask as usize % TEXTS.len()].into()),
            stream: has(4).then_some(mask % 3 == 0),
        });
    }
    requests
}

/// Every combination of the optional fields.
fn usages() -> Vec<Usage> {
    let usage = |mask: u64| Usage {
        input_tokens: mask,
        output_tokens: 1 << 40,
        total_tokens: (1 << 40) + mask,
        cached_input_tokens: (mask & 1 != 0).then_some(0),
        reasoning_tokens: (mask & 2 != 0).then_some(u64::from(u32::MAX)),
        estimated: (mask & 4 != 0).then_some(true),
    };
    (0..8).map(usage).chain([Usage::estimate(10, 7)]).collect()
}

const FINISH_REASONS: [FinishReason; 6] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::ToolCalls,
    FinishReason::ContentFilter,
    FinishReason::Error,
    FinishReason::Cancelled,
];

fn completions() -> Vec<Completion> {
    let mut completions = Vec::new();
    for finish_reason in FINISH_REASONS {
        for (index, usage) in usages().into_iter().enumerate() {
            for mask in 0..4 {
                completions.push(Completion {
                    content: TEXTS[index % TEXTS.len()].into(),
                    reasoning: (mask & 1 != 0).then(|| TEXTS[index % 5].into()),
                    tool_calls: (mask & 2 != 0).then(|| tool_calls().split_off(index % 8)),
                    finish_reason,
                    usage,
                    model: "loopback".into(),
                });
            }
        }
    }
    completions
}

fn stream_events() -> Vec<StreamEvent> {
    let text = |text: &str| StreamEvent::Text { text: text.into() };
    let reasoning = |text: &str| StreamEvent::Reasoning { text: text.into() };
    let mut events: Vec<StreamEvent> = TEXTS.into_iter().map(text).collect();
    events.extend(TEXTS.into_iter().map(reasoning));
    events.extend(tool_calls().into_iter().map(|tool_call| StreamEvent::ToolCall { tool_call }));
    for finish_reason in FINISH_REASONS {
        events.extend(usages().into_iter().map(|usage| StreamEvent::End {
            finish_reason,
            usage,
            model: "loopback".into(),
        }));
    }
    events
}
