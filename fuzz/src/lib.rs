//! What the fuzz targets call, one function for each. `tests/corpus.rs` of annulus compiles this
//! file too and replays the committed corpora, so an input that once failed stays tested without a
//! fuzzer.
//!
//! Every entry takes any bytes; a panic or a hang is a bug in annulus.

mod decode;
mod framing;
mod pieces;
mod ring;

pub use decode::*;
pub use framing::framing;
pub use ring::ring;

use annulus::config::{Config, Sources};
use annulus::paths::Places;
use annulus::protocol::{Codec, JsonCodec, RkyvCodec};
use annulus::wire::{Goodbye, Hello, Position, Welcome, decode_frame, encode_frame};
use zerocopy::IntoBytes;

/// A frame: 8 bytes of position, a byte that says whether payloads are checked, the frame.
pub fn frame(bytes: &[u8]) {
    let Some((position, [checked, frame @ ..])) = bytes.split_first_chunk::<8>() else { return };
    let (position, checked) = (Position(u64::from_le_bytes(*position)), checked & 1 != 0);
    if let Ok((header, payload)) = decode_frame(frame, position, checked) {
        let mut again = Vec::new();
        encode_frame(header, payload, position, checked, &mut again);
        // Without checks the field for one is the sender's to fill, and comes back as 0.
        if checked && !header.is_padding() {
            assert_eq!(frame[..again.len()], again, "a frame that decodes is what encodes to it");
        }
        assert_eq!(
            decode_frame(&again, position, checked).map(|(_, payload)| payload),
            Ok(payload)
        );
    }
}

/// Whatever may come on a socket: a hello, a welcome, a goodbye.
pub fn handshake(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(hello.as_bytes(), &bytes[..hello.as_bytes().len()]);
    }
    if let Ok(welcome) = Welcome::decode(bytes) {
        assert_eq!(welcome.as_bytes(), &bytes[..welcome.as_bytes().len()]);
    }
    if let Some(goodbye) = Goodbye::decode(bytes) {
        let _ = goodbye.fault_name();
    }
}

/// A payload for each decoder of each codec.
pub fn codec(bytes: &[u8]) {
    let codecs: [&dyn Codec; 2] = [&JsonCodec, &RkyvCodec];
    for codec in codecs {
        // What was read can be written, and reads as what it was.
        if let Ok(request) = codec.decode_request(bytes) {
            let _ = request.validate();
            let mut again = Vec::new();
            codec.encode_request(&request, &mut again).expect("what was read can be written");
            assert_same(&codec.decode_request(&again), &request);
        }
        if let Ok(completion) = codec.decode_completion(bytes) {
            let mut again = Vec::new();
            codec.encode_completion(&completion, &mut again).expect("what was read can be written");
            assert_same(&codec.decode_completion(&again), &completion);
        }
        if let Ok(event) = codec.decode_stream_event(bytes) {
            let mut again = Vec::new();
            codec.encode_stream_event(&event, &mut again).expect("what was read can be written");
            assert_same(&codec.decode_stream_event(&again), &event);
        }
    }
}

/// A configuration file's text; every complaint about it can be shown.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let places = Places {
        runtime_dir: Some("/run/user/7".into()),
        config_home: None,
        state_home: None,
        home: None,
        runtime_root: "/nowhere".into(),
        uid: 7,
    };
    let file = Some(("config.toml".into(), text.to_owned()));
    let sources = Sources { file, environment: Vec::new(), overrides: Vec::new(), places };
    match Config::load(&sources) {
        Ok(config) => assert!(!config.explain().is_empty()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// Compared as text: a NaN from an archive is the same NaN.
#[track_caller]
fn assert_same<T: std::fmt::Debug, E: std::fmt::Debug>(again: &Result<T, E>, first: &T) {
    match again {
        Ok(again) => assert_eq!(format!("{again:?}"), format!("{first:?}")),
        Err(error) => panic!("{first:?} was written but cannot be read: {error:?}"),
    }
}
