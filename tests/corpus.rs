//! Replays the committed corpora of the fuzz targets in `fuzz/`, through the very functions that
//! the targets call.
//!
//! The seeds come from [`seeds`]: `cargo test --test corpus -- --ignored` writes them anew. Inputs
//! that once failed are added beside them, under a name that says what they showed.
#![cfg(feature = "server")]

#[path = "../fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "a library's file, compiled here as a module; scripts are numbers cut to fit"
)]
mod entries;

use std::fs;
use std::path::{Path, PathBuf};

use annulus::protocol::{
    AIRequest, Codec, Completion, FinishReason, JsonCodec, Message, MessageRole, RkyvCodec,
    StreamEvent, Usage,
};
use annulus::wire::{
    Fault, Features, FrameHeader, Goodbye, Hello, MessageType, Position, Status, Welcome,
    encode_frame,
};
use zerocopy::IntoBytes;

type Entry = fn(&[u8]);

const TARGETS: &[(&str, Entry)] = &[
    ("frame", entries::frame),
    ("handshake", entries::handshake),
    ("ring", entries::ring),
    ("codec", entries::codec),
    ("config", entries::config),
    ("framing", entries::framing),
    ("decode_openai", entries::decode_openai),
    ("decode_anthropic", entries::decode_anthropic),
    ("decode_gemini", entries::decode_gemini),
    ("decode_ollama", entries::decode_ollama),
    #[cfg(feature = "bedrock")]
    ("decode_bedrock", entries::decode_bedrock),
    ("decode_cohere", entries::decode_cohere),
];

/// Bytes of the largest answer that is a seed: a fuzzer cuts what is longer.
const ANSWER_SEED_SIZE_MAX: usize = 4000;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn every_committed_input_passes() {
    for &(target, entry) in TARGETS {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(corpus(target)).unwrap().map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{target} has a corpus");
        for path in paths {
            // Said first, so that a failure is not without its input.
            println!("{}", path.display());
            entry(&fs::read(path).unwrap());
        }
    }
}

/// Each seed cut at every byte and with every byte changed: what a fuzzer tries first.
#[test]
fn damaged_seeds_pass() {
    for &(target, entry) in TARGETS {
        for (name, seed) in seeds(target) {
            println!("{target}/{name}");
            for at in 0..seed.len().min(600) {
                entry(&seed[..at]);
                for change in [0xFF, 0x01, 0x80] {
                    let mut damaged = seed.clone();
                    damaged[at] ^= change;
                    entry(&damaged);
                }
            }
        }
    }
}

#[test]
#[ignore = "writes the seeds into fuzz/corpus"]
fn write_the_seeds() {
    // Bedrock's too where the feature is off: it is the committed corpus that is written.
    let targets = TARGETS.iter().map(|(target, _)| *target).chain(["decode_bedrock"]);
    for target in targets {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, seed) in seeds(target) {
            fs::write(corpus(target).join(name), seed).unwrap();
        }
    }
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target.strip_prefix("decode_") {
        Some(dialect) => answers(dialect),
        None => {
            let named = |(name, seed): (&str, Vec<u8>)| (name.to_owned(), seed);
            written(target).into_iter().map(named).collect()
        }
    }
}

/// The bodies that the dialect's own tests decode, each in a few pieces, and some that no dialect
/// has.
fn answers(dialect: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![
        ("empty".to_owned(), in_pieces(b"")),
        (
            "lines".to_owned(),
            in_pieces(b"\xEF\xBB\xBF: x\r\n\revent: y\ndata\ndata: [\r\r{\"a\":\n"),
        ),
        ("noise".to_owned(), in_pieces(&[0, 0, 0, 16, 0, 0, 0, 0, 5, 194, 72, 235, 0, 0, 0, 0])),
    ];
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/providers").join(dialect);
    for file in fs::read_dir(fixtures).into_iter().flatten() {
        let path = file.unwrap().path();
        let body = fs::read(&path).unwrap();
        if body.len() <= ANSWER_SEED_SIZE_MAX {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            seeds.push((name, in_pieces(&body)));
        }
    }
    seeds.sort();
    seeds
}

/// The script of a body in five pieces.
fn in_pieces(body: &[u8]) -> Vec<u8> {
    let mut script = vec![4];
    for part in 1..=4 {
        let place = u16::try_from(body.len() * part / 5).unwrap();
        script.extend_from_slice(&place.to_le_bytes());
    }
    script.extend_from_slice(body);
    script
}

fn written(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "frame" => vec![
            ("empty", frame(b"", 0, false)),
            ("checked", frame(b"hello", 64, true)),
            ("unchecked", frame(&[7; 100], 1 << 40, false)),
            ("noise", (0..96_u8).map(|at| at.wrapping_mul(37)).collect()),
        ],
        "handshake" => vec![
            ("hello", Hello::new(1 << 20, 1 << 24, 1, Features::PAYLOAD_CHECK).as_bytes().to_vec()),
            ("welcome", Welcome::refusal(Status::Ok).as_bytes().to_vec()),
            ("goodbye", Goodbye::for_fault(Fault::SocketBytes).as_bytes().to_vec()),
        ],
        "ring" => vec![
            ("laps", laps()),
            ("large_frames", [&[5][..], &[0, 0x60, 0x3F, 2].repeat(6)].concat()),
            ("full", [&[0][..], &[0, 32, 0].repeat(5), &[2; 6]].concat()),
            ("promised_room", [&[3][..], &[4, 0x80, 1, 2].repeat(9)].concat()),
            ("hostile_head", hostile(&[6, 1, 0, 0, 0, 0, 0, 0, 0])),
            ("hostile_word", hostile(&[5, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0xA5])),
            ("forged_overrun", hostile(&[7, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0])),
            ("forged_padding", hostile(&[7, 0, 32, 0, 0, 0, 0, 0].repeat(3))),
        ],
        "codec" => codec_seeds(),
        "config" => vec![
            ("empty", Vec::new()),
            ("usual", CONFIG.into()),
            (
                "mistakes",
                b"[ipc]\nmax_conections = 5\nmax_connections = 0\n[shards]\ncores = 3\n".into(),
            ),
            ("huge_number", b"[ipc]\nmax_connections = 18446744073709551616\n".into()),
            ("no_toml", b"[providers.fast\n".into()),
            ("providers", PROVIDERS.into()),
            ("keys_in_the_file", b"[providers.openai]\nkeys = [\"sk-123\"]\nkey = 1\n".into()),
            ("deep", [&b"a = "[..], &b"[".repeat(200)].concat()),
        ],
        "framing" => framing_seeds(),
        other => panic!("no target {other}"),
    }
}

const CONFIG: &str = r#"
default_provider = "fast"
[ipc]
max_connections = 100
idle_timeout_secs = 5
max_message_size = 65536
[shards]
cores = [0, 1]
spin_us = 7
[metrics]
enable = true
[providers.fast]
kind = "loopback"
chunk_size = 3
"#;

const PROVIDERS: &str = r#"
default_provider = "a"
[providers.a]
kind = "openai"
base_urls = ["https://{resource}.host/{region}", "http://localhost:1"]
keys = ["env:A", "file:/k", "credential:c", "keyring:s/u", "command:p 'a b' \"c\""]
region = "r"
resource = "x"
headers = ["X-Title: t"]
models = ["m", "n/o"]
default_model = "m"
[models."gpt-4.1"]
route = ["a/m", "a/n/o"]
[upstream]
proxy = "http://p:1"
failover = ["a"]
[cache]
enable = true
"#;

fn frame(payload: &[u8], position: u64, checked: bool) -> Vec<u8> {
    let mut bytes = position.to_le_bytes().to_vec();
    bytes.push(u8::from(checked));
    let header = FrameHeader::request(MessageType::ECHO, 7);
    encode_frame(header, payload, Position(position), checked, &mut bytes);
    bytes
}

/// Publishes and consumes sizes that go round a small ring several times.
fn laps() -> Vec<u8> {
    let sizes = [0_u16, 1, 31, 32, 33, 100, 160];
    let steps = sizes.iter().cycle().take(40);
    let script = steps.flat_map(|size| [0, size.to_le_bytes()[0], size.to_le_bytes()[1], 2]);
    [4].into_iter().chain(script).collect()
}

/// Two honest frames with `write` between them.
fn hostile(write: &[u8]) -> Vec<u8> {
    [&[0, 0, 8, 0][..], write, &[2, 0, 40, 0, 2, 2]].concat()
}

fn framing_seeds() -> Vec<(&'static str, Vec<u8>)> {
    // The number is the kind, as the target has it.
    let of = |kind: u8, length: u64, input: &[u8]| {
        [&[kind][..], &length.to_le_bytes(), &in_pieces(input)].concat()
    };
    let chunked = |input: &[u8]| of(2, 0, input);
    vec![
        ("empty", chunked(b"")),
        ("length", of(0, 11, b"hello worldHTTP/1.1 200 OK\r\n")),
        ("length_of_nothing", of(0, 0, b"HTTP/1.1 204 No\r\n")),
        ("length_beyond", of(0, u64::MAX, b"hello")),
        ("until_close", of(1, 5, b"hello world")),
        ("chunks", chunked(b"5\r\nhello\r\n0B\r\n beautiful \r\n6\r\nworld!\r\n0\r\n\r\nHTTP")),
        ("extensions", chunked(b"5 \t;a=\"b;\"\r\nhello\r\n1;\r\n!\r\n000 ;z\r\n\r\n")),
        ("trailers", chunked(b"1\r\nx\r\n0\r\nX-Trailer: t\r\n: \r\n folded\r\n\r\n0\r\n\r\n")),
        ("huge_chunk", chunked(b"ffffFFFFffffFFFF\r\nhello")),
        ("too_many_digits", chunked(b"00000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("no_number", chunked(b"0x5\r\nhello")),
        ("lone_line_feeds", chunked(b"5;a\nhello\n0\n\n")),
        ("longer_than_it_says", chunked(b"5\r\nhello!\r\n0\r\n\r\n")),
        // 65,534 bytes of an extension, two before them and one behind.
        ("additions_at_the_bound", chunked(b"1 ;\xFE\xFE\xFFx\r\na\r\n0\r\n\r\nHTTP")),
        ("additions_beyond", chunked(b"1;\xFE\xFE\xFFx\r\na\r\n0\r\nX:\r\n\r\n")),
        ("many_chunks", chunked(&b"1\r\nx\r\n".repeat(100))),
    ]
}

fn codec_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut request =
        AIRequest::new("loopback", vec![Message::new(MessageRole::User, "Wie heißt du? 🎈")]);
    request.temperature = Some(0.25);
    request.max_tokens = Some(9);
    request.stream = Some(true);
    let usage = Usage::estimate(12, 34);
    let event =
        StreamEvent::End { finish_reason: FinishReason::Stop, usage, model: "loopback".to_owned() };
    let completion = Completion {
        content: "answer".to_owned(),
        reasoning: None,
        tool_calls: None,
        finish_reason: FinishReason::Length,
        usage,
        model: "loopback".to_owned(),
    };
    let codecs: [(&dyn Codec, [&'static str; 3]); 2] = [
        (&JsonCodec, ["json_request", "json_event", "json_completion"]),
        (&RkyvCodec, ["rkyv_request", "rkyv_event", "rkyv_completion"]),
    ];
    let mut seeds = Vec::new();
    for (codec, names) in codecs {
        let mut payloads = [Vec::new(), Vec::new(), Vec::new()];
        codec.encode_request(&request, &mut payloads[0]).unwrap();
        codec.encode_stream_event(&event, &mut payloads[1]).unwrap();
        codec.encode_completion(&completion, &mut payloads[2]).unwrap();
        seeds.extend(names.into_iter().zip(payloads));
    }
    seeds.push(("json_deep", [&b"{\"tools\":"[..], &b"[".repeat(300)].concat()));
    seeds
}
