//! `docs/protocol.md` against the code: every table that has numbers, every hex vector, every piece
//! of JSON. Whoever changes the wire and not the document finds out here, and the reverse.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use annulus::limits;
use annulus::protocol::{Codec, CodecId, JsonCodec};
use annulus::region::{REGION_MAGIC, RegionLayout, RegionView, Whereabouts};
use annulus::ring::{Consumer, Producer};
use annulus::sync::{AtomicU64, Ordering::Relaxed};
use annulus::wire::{
    FRAME_MARK, Fault, Features, FrameFlags, FrameHeader, Goodbye, HELLO_SIZE, Hello, MessageType,
    PROTOCOL_MAJOR, PROTOCOL_MINOR, Position, Status, WELCOME_SIZE, Welcome, decode_frame,
    encode_frame, header_check, payload_check,
};
use zerocopy::IntoBytes;

const DOCUMENT: &str = include_str!("../docs/protocol.md");
/// The layout of the document's worked examples.
const LAYOUT: RegionLayout = RegionLayout::new(1 << 24, 1 << 24);

/// The text under a heading, up to the next one.
fn section(heading: &str) -> &'static str {
    let start = DOCUMENT
        .lines()
        .position(|line| line.trim_start_matches('#').trim() == heading && line.starts_with('#'))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let from = DOCUMENT.lines().take(start + 1).map(|line| line.len() + 1).sum();
    let text = &DOCUMENT[from..];
    let end = text.match_indices("\n#").map(|(at, _)| at).next().unwrap_or(text.len());
    &text[..end]
}

/// The rows of the tables whose first column is called `first`, without their heads.
fn rows(text: &'static str, first: &str) -> Vec<Vec<&'static str>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(line) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            inside = false;
            continue;
        };
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells[0] == first {
            inside = true;
        } else if inside && !cells[0].starts_with("---") {
            rows.push(cells);
        }
    }
    assert!(!rows.is_empty(), "no table with a first column {first:?}");
    rows
}

/// The fenced blocks of a language: what stands behind it, and the content.
fn blocks(language: &str) -> Vec<(&'static str, &'static str)> {
    let fence = format!("```{language} ");
    DOCUMENT
        .match_indices(&fence)
        .map(|(at, _)| {
            let rest = &DOCUMENT[at + fence.len()..];
            let (title, rest) = rest.split_once('\n').unwrap();
            (title, rest.split_once("```").unwrap().0)
        })
        .collect()
}

fn bytes(content: &str) -> Vec<u8> {
    content.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The vector with this title, and the position behind its ` at `, if it has one.
fn vector(name: &str) -> (Vec<u8>, Option<Position>) {
    let (title, content) = blocks("hex")
        .into_iter()
        .find(|(title, _)| title.split(' ').next() == Some(name))
        .unwrap_or_else(|| panic!("no vector {name:?}"));
    let position = title.split_once(" at ").map(|(_, at)| Position(at.parse().unwrap()));
    (bytes(content), position)
}

fn number(cell: &str) -> u64 {
    match cell.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => cell.parse(),
    }
    .unwrap_or_else(|_| panic!("{cell:?} is not a number"))
}

/// The sum that the document writes with `R` and `S` for the capacities.
fn sum(cell: &str, layout: RegionLayout) -> u64 {
    let (mut total, mut sign) = (0_i64, 1);
    for part in cell.split_whitespace() {
        let value = match part {
            "+" => 1,
            "−" => -1,
            "R" => layout.request_capacity().cast_signed(),
            "S" => layout.response_capacity().cast_signed(),
            other => number(other).cast_signed(),
        };
        match part {
            "+" | "−" => sign = value,
            _ => total += sign * value,
        }
    }
    total.cast_unsigned()
}

#[test]
fn the_numbers_are_those_of_the_code() {
    let known = BTreeMap::from([
        ("WORD", limits::WORD_SIZE),
        ("LINE", limits::LINE_SIZE),
        ("PAGE", limits::PAGE_SIZE),
        ("FRAME_HEADER", limits::FRAME_HEADER_SIZE),
        ("REGION_HEADER", limits::REGION_HEADER_SIZE),
        ("HOME", limits::HOME_SIZE),
        ("CAPACITY_MIN", limits::RING_CAPACITY_MIN),
        ("CAPACITY_MAX", limits::RING_CAPACITY_MAX),
        ("CAPACITY_DEFAULT", limits::RING_CAPACITY_DEFAULT),
        ("HANDSHAKE", HELLO_SIZE as u64),
        ("DETAIL_MAX", limits::DETAIL_SIZE_MAX as u64),
        ("PADDING_RUN_MAX", limits::PADDING_RUN_MAX.into()),
        ("SYNC_REPLY_MIN", u64::from(limits::SYNC_REPLY_SIZE_MIN)),
    ]);
    let told: BTreeMap<&str, u64> =
        rows(section("Numbers"), "name").iter().map(|row| (row[0], number(row[1]))).collect();
    assert_eq!(told, known);
    assert_eq!(HELLO_SIZE, WELCOME_SIZE);
    assert_eq!(limits::FRAME_ALIGNMENT, limits::LINE_SIZE);
    assert!(DOCUMENT.contains(&format!("version {PROTOCOL_MAJOR}.{PROTOCOL_MINOR},")));
}

/// A field's name, and its offset where the code lets it be seen.
type Offsets = &'static [(&'static str, usize)];

const HELLO: Offsets = &[
    ("version_major", offset_of!(Hello, version_major)),
    ("version_minor", offset_of!(Hello, version_minor)),
    ("features", offset_of!(Hello, features)),
    ("request_capacity", offset_of!(Hello, request_capacity)),
    ("response_capacity", offset_of!(Hello, response_capacity)),
    ("codec", offset_of!(Hello, codec)),
];
const WELCOME: Offsets = &[
    ("version_major", offset_of!(Welcome, version_major)),
    ("version_minor", offset_of!(Welcome, version_minor)),
    ("features", offset_of!(Welcome, features)),
    ("status", offset_of!(Welcome, status)),
    ("retry_after_ms", offset_of!(Welcome, retry_after_ms)),
    ("message_size_max", offset_of!(Welcome, message_size_max)),
    ("in_flight_max", offset_of!(Welcome, in_flight_max)),
    ("connection_id", offset_of!(Welcome, connection_id)),
    ("daemon_instance", offset_of!(Welcome, daemon_instance)),
    ("idle_timeout_secs", offset_of!(Welcome, idle_timeout_secs)),
    ("core", offset_of!(Welcome, core)),
];
const GOODBYE: Offsets = &[
    ("status", offset_of!(Goodbye, status)),
    ("fault", offset_of!(Goodbye, fault)),
    ("retry_after_ms", offset_of!(Goodbye, retry_after_ms)),
];
const FRAME_HEADER: Offsets = &[
    ("payload_size", offset_of!(FrameHeader, payload_size)),
    ("message_type", offset_of!(FrameHeader, message_type)),
    ("flags", offset_of!(FrameHeader, flags)),
    ("mark", offset_of!(FrameHeader, mark)),
    ("request_id", offset_of!(FrameHeader, request_id)),
    ("status", offset_of!(FrameHeader, status)),
    ("reserved", offset_of!(FrameHeader, reserved)),
    ("deadline_ms", offset_of!(FrameHeader, deadline_ms)),
    ("payload_check", offset_of!(FrameHeader, payload_check)),
    ("header_check", offset_of!(FrameHeader, header_check)),
];

#[test]
fn every_struct_lies_as_its_table_says() {
    for (heading, offsets, size) in [
        ("Hello", HELLO, size_of::<Hello>()),
        ("Welcome", WELCOME, size_of::<Welcome>()),
        ("Goodbye", GOODBYE, size_of::<Goodbye>()),
        ("The frame header", FRAME_HEADER, size_of::<FrameHeader>()),
    ] {
        let rows = rows(section(heading), "offset");
        let mut end = 0;
        for row in &rows {
            assert_eq!(number(row[0]), end, "{heading}: {} follows what is before it", row[3]);
            end += number(row[1]);
            let bits = match row[2] {
                "u8" => 8,
                "u16" => 16,
                "u32" => 32,
                "u64" => 64,
                _ => number(row[1]) * 8,
            };
            assert_eq!(number(row[1]) * 8, bits, "{heading}: size of {}", row[3]);
        }
        assert_eq!(end, size as u64, "{heading} is told whole");
        for (field, offset) in offsets {
            let row = rows.iter().find(|row| row[3] == *field);
            let row = row.unwrap_or_else(|| panic!("{heading} lacks {field}"));
            assert_eq!(number(row[0]), *offset as u64, "{heading}: {field}");
        }
    }
}

#[test]
fn the_handshake_vectors_are_those_of_the_code() {
    let (hello, _) = vector("hello");
    let expected = Hello::new(1 << 24, 1 << 24, CodecId::JSON.0, Features::empty());
    assert_eq!(hello, expected.as_bytes());

    let mut expected = Welcome::refusal(Status::Ok);
    expected.message_size_max = limits::MESSAGE_SIZE_MAX_DEFAULT;
    expected.in_flight_max = limits::IN_FLIGHT_PER_CONNECTION;
    expected.connection_id = 7;
    expected.daemon_instance = 0x1122_3344_5566_7788;
    expected.idle_timeout_secs = 300;
    assert_eq!(vector("welcome").0, expected.as_bytes());

    let mut expected = Welcome::refusal(Status::Busy);
    expected.retry_after_ms = limits::BUSY_RETRY_AFTER_MS;
    assert_eq!(vector("welcome-busy").0, expected.as_bytes());

    let expected = Goodbye::for_fault(Fault::HeaderCheck { found: 0, computed: 1 });
    assert_eq!(vector("goodbye").0, expected.as_bytes());
}

#[test]
fn feature_and_flag_bits_are_those_of_the_code() {
    let features = rows(section("Hello"), "feature bit");
    assert_eq!(features.len(), Features::all().bits().count_ones() as usize);
    for (row, feature) in features.iter().zip(Features::all()) {
        assert_eq!(number(row[0]), u64::from(feature.bits()));
        assert_eq!(Features::from_name(row[1]), Some(feature));
    }
    let flags: Vec<u64> =
        rows(section("The frame header"), "flag bit").iter().map(|row| number(row[0])).collect();
    let known: Vec<u64> = FrameFlags::all().iter().map(|flag| flag.bits().into()).collect();
    assert_eq!(flags, known);
}

#[test]
fn the_layout_example_is_that_of_the_code() {
    let response = LAYOUT.response_offset();
    let known = BTreeMap::from([
        ("request ring", LAYOUT.request_offset()),
        ("home page", LAYOUT.request_capacity()),
        ("first request frame", LAYOUT.request_offset() + LAYOUT.request_home().start().0),
        ("shared header", LAYOUT.header_offset()),
        ("response ring", response),
        ("first response frame", response + LAYOUT.response_home().start().0),
        ("end of the response ring", response + LAYOUT.response_capacity()),
        ("end of the region", LAYOUT.size()),
    ]);
    let told: BTreeMap<&str, u64> = rows(section("Where everything lies"), "what")
        .iter()
        .map(|row| (row[0], number(row[1])))
        .collect();
    assert_eq!(told, known);

    // The sums of the drawing and of the text, for other capacities as well.
    let layout = RegionLayout::new(1 << 15, 1 << 16);
    for (text, offset) in [
        ("R + 1856", layout.header_offset()),
        ("R + 2240", layout.response_offset()),
        ("R + S + 4096", layout.size()),
        ("R − 1856", layout.request_home().start().0),
    ] {
        assert_eq!(sum(text, layout), offset, "{text}");
        assert!(DOCUMENT.contains(text));
    }
    assert_eq!(layout.response_home().start(), Position(0));
}

/// A region in plain memory, and how to find out which of its words something changes.
struct Memory {
    words: Vec<AtomicU64>,
    layout: RegionLayout,
}

impl Memory {
    fn new(layout: RegionLayout) -> Self {
        Self { words: (0..layout.size() / 8).map(|_| AtomicU64::new(0)).collect(), layout }
    }

    fn view(&self) -> RegionView<'_> {
        RegionView::new(&self.words, self.layout)
    }

    fn values(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Relaxed)).collect()
    }

    /// File offsets of the words that `act` changes.
    fn changed(&self, act: impl FnOnce(RegionView<'_>)) -> Vec<u64> {
        let before = self.values();
        act(self.view());
        let after = self.values();
        (0..)
            .zip(before.iter().zip(&after))
            .filter(|(_, (b, a))| b != a)
            .map(|(i, _)| i * 8)
            .collect()
    }
}

#[test]
fn the_shared_header_is_that_of_the_code() {
    let layout = RegionLayout::new(1 << 15, 1 << 16);
    let memory = Memory::new(layout);
    memory.view().initialize();
    let initial = memory.values();

    let mut offsets = BTreeMap::new();
    for row in rows(section("The shared header"), "line") {
        let offset = number(row[1]);
        assert_eq!(offset / limits::LINE_SIZE, number(row[0]), "{}", row[2]);
        let value = sum(row[4], layout);
        let at = layout.header_offset() + offset;
        assert_eq!(initial[(at / 8) as usize], value, "initial value of {}", row[2]);
        offsets.insert(row[2], at);
    }
    assert_eq!(offsets.len(), 10);
    assert_eq!(initial[(layout.header_offset() / 8) as usize], REGION_MAGIC);
    // Nothing but the header has initial values.
    let header = layout.header_offset() / 8..layout.response_offset() / 8;
    let elsewhere = (0..).zip(&initial).filter(|(index, _)| !header.contains(index));
    assert!(elsewhere.clone().all(|(_, value)| *value == 0));

    assert_eq!(memory.changed(|view| view.client_parked().arm()), [offsets["client parked"]]);
    assert_eq!(memory.changed(|view| view.daemon_parked().disarm()), [offsets["daemon parked"]]);
    assert_eq!(memory.changed(|view| view.daemon_blocked().arm()), [offsets["daemon blocked"]]);

    let place = Some(Whereabouts { core: 6, polls: true });
    let said = |view: RegionView<'_>| view.client_core().store(place);
    assert_eq!(memory.changed(said), [offsets["client core"]]);
    assert_eq!(memory.values()[(offsets["client core"] / 8) as usize], (1 << 32) + 7);
    let said = |view: RegionView<'_>| view.daemon_core().store(place);
    assert_eq!(memory.changed(said), [offsets["daemon core"]]);

    let mut producer = Producer::new(layout.request_home(), false);
    let mut consumer = Consumer::new(layout.request_home(), false);
    let header = FrameHeader::request(MessageType::ECHO, 1);
    producer.publish(memory.view().request_ring(), header, b"").unwrap();
    let changed = memory.changed(|view| {
        let header = consumer.poll(view.request_ring()).unwrap().unwrap();
        consumer.release(view.request_ring(), &header);
    });
    assert_eq!(changed, [offsets["request head"]]);

    let mut producer = Producer::new(layout.response_home(), false);
    let mut consumer = Consumer::new(layout.response_home(), false);
    producer.publish(memory.view().response_ring(), header, b"").unwrap();
    let changed = memory.changed(|view| {
        let header = consumer.poll(view.response_ring()).unwrap().unwrap();
        consumer.release(view.response_ring(), &header);
    });
    assert_eq!(changed, [offsets["response head"]]);
}

/// Frames that the document shows whole, as the code makes them.
fn frames() -> Vec<(&'static str, FrameHeader, &'static [u8], bool)> {
    let request = FrameHeader::request(MessageType::ECHO, 1);
    let mut stream = FrameHeader::request(MessageType::STREAM, 2);
    let failed = stream.answer(Status::UnknownMessageType);
    stream.deadline_ms = 30_000;
    let cancel = FrameHeader::request(MessageType::CANCEL, 1);
    vec![
        ("request", request, b"hello", false),
        ("answer", request.answer(Status::Ok), b"hello", false),
        ("answer-checked", request.answer(Status::Ok), b"hello", true),
        ("stream-request", stream, b"{}", false),
        ("cancel", cancel, b"", false),
        ("failed", failed, b"no handler", false),
    ]
}

#[test]
fn the_frame_vectors_are_those_of_the_code() {
    for (name, header, payload, checked) in frames() {
        let (told, position) = vector(name);
        let position = position.unwrap();
        let mut made = Vec::new();
        encode_frame(header, payload, position, checked, &mut made);
        assert_eq!(told, made, "{name}");
        let (decoded, decoded_payload) = decode_frame(&told, position, checked).unwrap();
        assert_eq!(decoded.request_id, header.request_id);
        assert_eq!(decoded_payload, payload);
    }
    let (told, position) = vector("padding");
    let padding = FrameHeader::padding(192);
    assert_eq!(told, padding.sealed(position.unwrap()).as_bytes());
    // It fills the ring up to its end.
    assert_eq!((position.unwrap().0 + padding.span()) % LAYOUT.request_capacity(), 0);
    assert_eq!(told[7], FRAME_MARK);
}

#[test]
fn the_request_vector_is_what_a_producer_stores() {
    let memory = Memory::new(LAYOUT);
    memory.view().initialize();
    let mut producer = Producer::new(LAYOUT.request_home(), false);
    let header = FrameHeader::request(MessageType::ECHO, 1);
    producer.publish(memory.view().request_ring(), header, b"hello").unwrap();
    let (told, position) = vector("request");
    assert_eq!(position.unwrap(), LAYOUT.request_home().start());
    let at = 16_777_216 / 8;
    let stored: Vec<u8> =
        memory.values()[at..at + 5].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(stored[..told.len()], told);
}

#[test]
fn the_worked_check_holds() {
    let (input, _) = vector("check-input");
    let (request, position) = vector("request");
    let position = position.unwrap();
    assert_eq!(input[..8], position.0.to_le_bytes());
    assert_eq!(input[8..], request[..28]);
    let check = annulus::checksum::crc32c(&input);
    let (header, _) = decode_frame(&request, position, false).unwrap();
    assert_eq!((check, header_check(&header, position)), (header.header_check, check));
    for told in [
        format!("check {check:#010x}"),
        format!("position {} = {:#x}", position.0, position.0),
        format!("`hello` is {:#010x}", payload_check(b"hello")),
        format!("`123456789` it is {:#010x}", annulus::checksum::crc32c(b"123456789")),
    ] {
        assert!(DOCUMENT.contains(&told), "the document does not say {told:?}");
    }
}

#[test]
fn every_vector_is_checked() {
    let mut checked: Vec<&str> =
        vec!["hello", "welcome", "welcome-busy", "goodbye", "check-input", "padding"];
    checked.extend(frames().iter().map(|(name, ..)| *name));
    checked.sort_unstable();
    let mut told: Vec<&str> =
        blocks("hex").iter().map(|(title, _)| title.split(' ').next().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, checked);
}

#[test]
fn message_types_and_their_ranges_are_those_of_the_code() {
    let told: Vec<(u64, &str)> = rows(section("Message types"), "number")
        .iter()
        .map(|row| (number(row[0]), row[1]))
        .collect();
    let mut known = vec![(0, "padding")];
    known.extend(MessageType::NAMED.map(|(kind, name)| (u64::from(kind.to_wire()), name)));
    assert_eq!(told, known);

    let ranges: Vec<(u64, u64)> = rows(section("Message types"), "range")
        .iter()
        .map(|row| row[0].split_once(" to ").unwrap())
        .map(|(first, last)| (number(first), number(last)))
        .collect();
    let last_named = MessageType::NAMED.iter().map(|(kind, _)| kind.to_wire()).max().unwrap();
    let (first, last) = (MessageType::USER_FIRST.to_wire(), MessageType::USER_LAST.to_wire());
    let known = [(last_named + 1, first - 1), (first, last), (last + 1, u16::MAX)];
    assert_eq!(ranges, known.map(|(first, last)| (first.into(), last.into())));
}

#[test]
fn statuses_and_faults_are_those_of_the_code() {
    let told: Vec<(u64, &str)> =
        rows(section("Statuses"), "number").iter().map(|row| (number(row[0]), row[1])).collect();
    let known: Vec<(u64, &str)> =
        Status::ALL.iter().map(|status| (u64::from(status.to_wire()), status.name())).collect();
    assert_eq!(told, known);

    let told: Vec<(u64, &str)> =
        rows(section("Faults"), "number").iter().map(|row| (number(row[0]), row[1])).collect();
    let known: Vec<(u64, &str)> = (1..).zip(Fault::NAMES).collect();
    assert_eq!(told, known);

    for row in rows(section("Refusals"), "what") {
        let status = row[1].split('`').nth(1).unwrap();
        assert!(Status::ALL.iter().any(|known| known.name() == status), "{status}");
    }
}

#[test]
fn the_json_is_what_the_codec_writes() {
    let codec = JsonCodec;
    let mut count = 0;
    for (title, content) in blocks("json") {
        let (content, mut written) = (content.trim(), Vec::new());
        match title {
            "request" => {
                let read = codec.decode_request(content.as_bytes()).unwrap();
                read.validate().unwrap();
                codec.encode_request(&read, &mut written).unwrap();
            }
            "completion" => {
                let read = codec.decode_completion(content.as_bytes()).unwrap();
                codec.encode_completion(&read, &mut written).unwrap();
            }
            "event" => {
                let read = codec.decode_stream_event(content.as_bytes()).unwrap();
                codec.encode_stream_event(&read, &mut written).unwrap();
            }
            other => panic!("nobody checks {other:?}"),
        }
        assert_eq!(String::from_utf8(written).unwrap(), content);
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn links_inside_the_document_lead_somewhere() {
    let anchors: Vec<String> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.replace(',', "").replace(' ', "-"))
        .collect();
    for link in DOCUMENT.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(anchors.iter().any(|anchor| anchor == link), "#{link} leads nowhere");
    }
}
