//! What every dialect's decoder promises, shown on every body under `tests/fixtures/providers`.
//!
//! A folder there is named after a dialect or a kind of provider, a file in it is one body as the
//! network gives it. A new body is tested by being there.
//!
//! - Wherever the bytes are split, the same events come out, the same keepsakes, and the same end.
//! - A body that is cut gives a beginning of what the whole gives, and no
//!   [`StreamEvent::End`] as long as the dialect's proof of the end is not in it.
#![cfg(feature = "server")]

use std::fs;
use std::path::Path;

use annulus::dialect::{Class, Decoder, Dialect, Keepsake, Row};
use annulus::protocol::{AIRequest, Message, MessageRole, StreamEvent};

/// Random ways to split each body.
const ROUNDS: u64 = 1_000;
/// Below this many bytes most random pieces are, so that small bodies have many.
const PIECE_SIZE: usize = 64;

struct Fixture {
    /// Folder and file.
    name: String,
    row: Row,
    body: Vec<u8>,
}

/// What a body gives.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<StreamEvent>,
    keepsakes: Vec<(String, Keepsake)>,
    /// Class and text of the failure.
    end: Result<(), (Class, String)>,
}

/// All bodies; those of dialects that this build does not know are named and left out.
fn fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/providers");
    let mut fixtures = Vec::new();
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let kind = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if kind == "bedrock" && !cfg!(feature = "bedrock") {
            println!("skipped: the fixtures of bedrock, which this build has no dialect for");
            continue;
        }
        let row = row(&kind);
        for file in fs::read_dir(&folder).unwrap() {
            let file = file.unwrap();
            let name = format!("{kind}/{}", file.file_name().to_str().unwrap());
            fixtures.push(Fixture { name, row, body: fs::read(file.path()).unwrap() });
        }
    }
    fixtures.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(!fixtures.is_empty());
    fixtures
}

fn row(folder: &str) -> Row {
    let openai = *Row::of("openai").unwrap();
    let dialect = match folder {
        "anthropic" => Dialect::Anthropic,
        #[cfg(feature = "bedrock")]
        "bedrock" => Dialect::Bedrock,
        "cohere" => Dialect::Cohere,
        "gemini" => Dialect::Gemini,
        "ollama" => Dialect::Ollama,
        kind => {
            let row = Row::of(kind);
            return *row.unwrap_or_else(|| panic!("{kind} is no dialect and no kind of provider"));
        }
    };
    Row { dialect, ..openai }
}

/// What has to be in a body before it may have an end, blanks left out.
fn proofs(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::OpenAi => &["\"finish_reason\":\""],
        Dialect::Anthropic => &["message_stop"],
        Dialect::Gemini => &["\"finishReason\":", "\"blockReason\":"],
        Dialect::Ollama => &["\"done\":true"],
        #[cfg(feature = "bedrock")]
        Dialect::Bedrock => &["messageStop"],
        Dialect::Cohere => &["message-end"],
    }
}

impl Fixture {
    /// Where the first proof of the end is whole; the size of the body if it has none.
    fn proved_at(&self) -> usize {
        let kept: Vec<(usize, u8)> = (0..)
            .zip(self.body.iter().copied())
            .filter(|(_, byte)| !byte.is_ascii_whitespace())
            .collect();
        let ends = proofs(self.row.dialect).iter().filter_map(|proof| {
            let is_proof =
                |window: &&[(usize, u8)]| window.iter().map(|(_, byte)| *byte).eq(proof.bytes());
            let found = kept.windows(proof.len()).find(is_proof)?;
            found.last().map(|(at, _)| at + 1)
        });
        ends.min().unwrap_or(self.body.len())
    }

    fn run<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let request = AIRequest::new("model", vec![Message::new(MessageRole::User, "question")]);
        let mut decoder = Decoder::new(&self.row, &request);
        let mut end = Ok(());
        let mut events = Vec::new();
        for piece in pieces {
            end = decoder.feed(piece);
            events.extend(std::iter::from_fn(|| decoder.next_event()));
            if end.is_err() {
                break;
            }
        }
        if end.is_ok() {
            end = decoder.finish();
            events.extend(std::iter::from_fn(|| decoder.next_event()));
        }
        for event in &mut events {
            if let StreamEvent::ToolCall { tool_call } = event {
                forget_made_id(&mut tool_call.id);
            }
        }
        let mut keepsakes = decoder.take_keepsakes();
        keepsakes.iter_mut().for_each(|(id, _)| forget_made_id(id));
        Outcome { events, keepsakes, end: end.map_err(|failure| (failure.class, failure.detail)) }
    }

    fn run_random(&self, seed: u64) -> Outcome {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut pieces, mut rest) = (Vec::new(), self.body.as_slice());
        while !rest.is_empty() {
            let most = if random.u8(..) < 240 { PIECE_SIZE } else { rest.len() };
            let (piece, after) = rest.split_at(random.usize(1..=most.min(rest.len())));
            pieces.push(piece);
            rest = after;
        }
        self.run(pieces)
    }
}

/// Ids that we make for calls without one differ from run to run.
fn forget_made_id(id: &mut String) {
    let number = id.strip_prefix("call_").unwrap_or_default();
    if number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        id.truncate("call_".len());
    }
}

fn has_end(events: &[StreamEvent]) -> bool {
    events.iter().any(|event| matches!(event, StreamEvent::End { .. }))
}

#[test]
fn the_same_events_come_wherever_the_bytes_are_split_in_two() {
    for fixture in fixtures() {
        let whole = fixture.run([fixture.body.as_slice()]);
        for at in 0..=fixture.body.len() {
            let (head, tail) = fixture.body.split_at(at);
            assert_eq!(fixture.run([head, tail]), whole, "{} at {at}", fixture.name);
        }
        assert_eq!(fixture.run(fixture.body.chunks(1)), whole, "{} in bytes", fixture.name);
    }
}

#[test]
fn the_same_events_come_wherever_the_bytes_are_split_at_random() {
    for fixture in fixtures() {
        let whole = fixture.run([fixture.body.as_slice()]);
        for seed in 0..ROUNDS {
            assert_eq!(fixture.run_random(seed), whole, "{}, seed {seed}", fixture.name);
        }
    }
}

#[test]
fn a_whole_answer_ends_once_and_last() {
    for fixture in fixtures() {
        let Outcome { events, end, .. } = fixture.run([fixture.body.as_slice()]);
        let ends = events.iter().filter(|event| matches!(event, StreamEvent::End { .. })).count();
        assert_eq!(ends, usize::from(end.is_ok()), "{}: {end:?}", fixture.name);
        let is_last = matches!(events.last(), Some(StreamEvent::End { .. }));
        assert_eq!(is_last, end.is_ok(), "{}: {end:?}", fixture.name);
    }
}

#[test]
fn a_cut_body_gives_a_beginning_and_no_end_without_its_proof() {
    for fixture in fixtures() {
        let whole = fixture.run([fixture.body.as_slice()]).events;
        let proved_at = fixture.proved_at();
        for at in 0..fixture.body.len() {
            let Outcome { mut events, end, .. } = fixture.run([&fixture.body[..at]]);
            assert_eq!(has_end(&events), end.is_ok(), "{} cut at {at}: {end:?}", fixture.name);
            if at < proved_at {
                assert!(end.is_err(), "{} cut at {at}: an end without proof", fixture.name);
            }
            // The end may lack the usage that comes after the proof.
            events.retain(|event| !matches!(event, StreamEvent::End { .. }));
            assert!(whole.starts_with(&events), "{} cut at {at}: {events:?}", fixture.name);
        }
    }
}
