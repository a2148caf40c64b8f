//! What is answered: an answer, and what goes wrong with it.
//!
//! A [`Step`] is one answer and has a short text form, so that the same words work as a model's name,
//! in a script file and in code. Parts are joined by `_`:
//!
//! ```text
//! 429_retry-after-ms-50            a status, and what it says about trying again
//! chunks-100_rate-50_stamp         a hundred chunks, fifty a second, each with its send time
//! tools_split-1                    tool calls, every byte in a write of its own
//! cut-first                        a clean end before the first output
//! ```
//!
//! Where a fault strikes is its last word: `first` (before any output), `middle` (after half of it, the
//! default) or `last` (after all of it, before the end). Steps are joined by `-then-`; the last one
//! repeats.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::hint::Hint;

/// Output pieces of one answer, more than which a text form cannot ask for.
const CHUNKS_MAX: u64 = 1_000_000;
/// Bytes of one piece, or of one huge event.
const SIZE_MAX: u64 = 64 << 20;

/// What comes out of the model, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// A piece of the answer's text.
    Text(String),
    /// A piece of reasoning.
    Reasoning(String),
    /// A whole tool call; dialects that send calls in fragments cut its arguments.
    Tool {
        /// The call's id, for dialects that send one.
        id: String,
        /// The tool.
        name: String,
        /// JSON text of an object.
        arguments: String,
    },
}

/// Tokens, as the provider counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Of the request.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Finish {
    /// It was done.
    #[default]
    Stop,
    /// It reached the longest answer.
    Length,
}

/// Where a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum At {
    /// After the preamble, before any output.
    First,
    /// After half of the output.
    #[default]
    Middle,
    /// After all output, before the end.
    Last,
}

/// What goes wrong. Durations are milliseconds, `None` without end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing at all is sent for so long, not even a status.
    StallHeaders(Option<u64>),
    /// A pause before each byte of the head.
    SlowHeaders(u64),
    /// Silence amid the stream.
    Stall(At, Option<u64>),
    /// Keep-alives instead of output, one every so many milliseconds, without end.
    Comments(At, u64),
    /// A clean end of the body without the dialect's marker.
    Cut(At),
    /// The connection is closed amid the body.
    Close(At),
    /// The connection is reset amid the body.
    Reset(At),
    /// `content-length` says more than is sent; the connection is closed.
    LengthLong,
    /// `content-length` says half of what is sent: the rest is garbage behind the answer.
    LengthShort,
    /// The dialect's error inside a 200, and nothing after it.
    Error(At),
    /// An event that is not JSON.
    Malformed(At),
    /// Bytes that are not even an event (Bedrock: a frame whose checksum is wrong).
    Garbage(At),
    /// An event with bytes that are not UTF-8.
    Utf8(At),
    /// One event of so many bytes of text.
    Huge(At, u64),
    /// Events that no document names, one before each output.
    Unknown,
    /// The answer again, behind its end.
    AfterDone,
    /// Everything but the dialect's last marker (`[DONE]`, `message_stop`, …).
    NoMarker,
    /// Writes of so many bytes, each a chunk of its own.
    Split(u64),
    /// A byte order mark before the stream.
    Bom,
    /// Lines end with CR LF.
    Crlf,
    /// Lines end with CR.
    Cr,
    /// A page of HTML instead of the answer, with this status.
    Html(u16),
    /// A redirect to there.
    Redirect(String),
    /// The connection is reset at once and no other accepted for so many milliseconds.
    Refuse(u64),
}

/// The status and words of an answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// This status, with the dialect's usual words for it.
    Status(u16),
    /// The account has nothing left, in the dialect's form.
    Quota,
    /// The key is wrong, in the dialect's form.
    BadKey,
}

/// One answer and its faults.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// What the model says; `None` for `chunks` words.
    pub pieces: Option<Vec<Piece>>,
    /// Text pieces without `pieces`.
    pub chunks: u32,
    /// Bytes of each of those, at least.
    pub size: u32,
    /// Reasoning before the text, without `pieces`.
    pub reasoning: bool,
    /// Two tool calls after the text, without `pieces`.
    pub tools: bool,
    /// Pieces a second; 0 is as fast as it goes.
    pub rate: u32,
    /// Each text piece of `chunks` begins with the moment it was sent ([`crate::stamp_of`]).
    pub stamp: bool,
    /// What the provider counted; `None` for a provider that counts nothing.
    pub usage: Option<Usage>,
    /// Why the model stopped.
    pub finish: Finish,
    /// Instead of an answer.
    pub refusal: Option<Refusal>,
    /// What is said about trying again.
    pub hints: Vec<Hint>,
    /// What goes wrong, besides.
    pub faults: Vec<Fault>,
}

impl Default for Step {
    /// Ten words, as fast as it goes, no fault.
    fn default() -> Self {
        Self {
            pieces: None,
            chunks: 10,
            size: 1,
            reasoning: false,
            tools: false,
            rate: 0,
            stamp: false,
            usage: Some(Usage { input: 11, output: 7 }),
            finish: Finish::Stop,
            refusal: None,
            hints: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// Part of a step's text that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError(String);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such part of a script: {:?}", self.0)
    }
}

impl std::error::Error for ScriptError {}

impl Step {
    /// The steps of a text, read on top of this one.
    ///
    /// # Errors
    ///
    /// A part that means nothing, by its text.
    pub fn sequence(&self, text: &str) -> Result<Vec<Self>, ScriptError> {
        text.split("-then-").map(|step| self.with(step)).collect()
    }

    /// This step, changed by the parts of a text.
    ///
    /// # Errors
    ///
    /// A part that means nothing, by its text.
    pub fn with(&self, text: &str) -> Result<Self, ScriptError> {
        let mut step = self.clone();
        for part in text.split('_') {
            step.read(part).ok_or_else(|| ScriptError(part.to_owned()))?;
        }
        Ok(step)
    }

    fn read(&mut self, part: &str) -> Option<()> {
        if let Some(hint) = Hint::read(part) {
            self.hints.push(hint);
            return Some(());
        }
        let (name, rest) = match part.split_once('-') {
            Some((name, rest)) => (name, Some(rest)),
            None => (part, None),
        };
        if let Some(status) = status(name) {
            self.refusal = Some(Refusal::Status(status));
            // `429-retry-after-2` is `429_retry-after-2`.
            self.hints.extend(rest.map(|rest| Hint::read(rest).ok_or(())).transpose().ok()?);
            return Some(());
        }
        match part {
            "ok" => {}
            "quota" => self.refusal = Some(Refusal::Quota),
            "bad-key" => self.refusal = Some(Refusal::BadKey),
            "reasoning" => self.reasoning = true,
            "tools" => self.tools = true,
            "stamp" => self.stamp = true,
            "no-usage" => self.usage = None,
            "finish-length" => self.finish = Finish::Length,
            _ if name == "chunks" => {
                self.chunks = u32::try_from(number(rest?, CHUNKS_MAX)?).ok()?;
            }
            _ if name == "rate" => self.rate = u32::try_from(number(rest?, 100_000)?).ok()?,
            _ if name == "size" => self.size = u32::try_from(number(rest?, SIZE_MAX)?).ok()?,
            _ => self.faults.push(Fault::read(part)?),
        }
        Some(())
    }

    /// How long from one piece to the next.
    pub(crate) fn period(&self) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) / rate,
        }
    }

    /// What the model says.
    pub(crate) fn says(&self) -> Vec<Piece> {
        if let Some(pieces) = &self.pieces {
            return pieces.clone();
        }
        let mut pieces = Vec::new();
        if self.reasoning {
            pieces.push(Piece::Reasoning("First I think, ".to_owned()));
            pieces.push(Piece::Reasoning("then I speak.".to_owned()));
        }
        pieces.extend((0..self.chunks).map(|index| Piece::Text(self.word(index))));
        if self.tools {
            for (id, city) in [("call_fake0001", "Paris"), ("call_fake0002", "Tōkyō")] {
                pieces.push(Piece::Tool {
                    id: id.to_owned(),
                    name: "get_weather".to_owned(),
                    arguments: format!("{{\"city\":\"{city}\",\"days\":2}}"),
                });
            }
        }
        pieces
    }

    /// Words with characters of one to four bytes, so that a split shows.
    fn word(&self, index: u32) -> String {
        const WORDS: [&str; 5] = ["plain ", "naïve ", "“quoted” ", "日本 ", "🦀 "];
        let mut word = WORDS[index as usize % WORDS.len()].to_owned();
        if self.stamp {
            word = format!("{} {word}", crate::clock::BLANK_STAMP);
        }
        while word.len() < self.size as usize {
            word.push_str("more ");
        }
        word
    }
}

impl FromStr for Step {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        Self::default().with(text)
    }
}

impl Fault {
    fn read(part: &str) -> Option<Self> {
        if part == "redirect" {
            return Some(Self::Redirect("https://elsewhere.invalid/v1".to_owned()));
        }
        if let Some(text) = part.strip_prefix("redirect-to-") {
            return Some(Self::Redirect(text.to_owned()));
        }
        let whole = match part {
            "length-long" => Some(Self::LengthLong),
            "length-short" => Some(Self::LengthShort),
            "unknown" => Some(Self::Unknown),
            "after-done" => Some(Self::AfterDone),
            "no-marker" => Some(Self::NoMarker),
            "bom" => Some(Self::Bom),
            "crlf" => Some(Self::Crlf),
            "cr" => Some(Self::Cr),
            "html" => Some(Self::Html(502)),
            _ => None,
        };
        if whole.is_some() {
            return whole;
        }
        // What is left has a number, a place, or both: `stall-first-500`.
        let (mut words, mut value, mut at) = (Vec::new(), None, None);
        for word in part.split('-') {
            match word {
                "first" => at = Some(At::First),
                "middle" => at = Some(At::Middle),
                "last" => at = Some(At::Last),
                _ => match number(word, SIZE_MAX) {
                    Some(read) => value = Some(read),
                    None => words.push(word),
                },
            }
        }
        let place = at.unwrap_or_default();
        let fault = match (words.join("-").as_str(), value) {
            ("stall", ms) => Self::Stall(place, ms),
            ("comments", Some(ms)) => Self::Comments(at.unwrap_or(At::First), ms.max(1)),
            ("huge", Some(size)) => Self::Huge(place, size),
            ("cut", None) => Self::Cut(place),
            ("close", None) => Self::Close(place),
            ("reset", None) => Self::Reset(place),
            ("error", None) => Self::Error(place),
            ("malformed", None) => Self::Malformed(place),
            ("garbage", None) => Self::Garbage(place),
            ("utf8", None) => Self::Utf8(place),
            ("stall-headers", ms) if at.is_none() => Self::StallHeaders(ms),
            ("slow-headers", Some(ms)) if at.is_none() => Self::SlowHeaders(ms),
            ("split", Some(size)) if at.is_none() && size > 0 => Self::Split(size),
            ("refuse", Some(ms)) if at.is_none() => Self::Refuse(ms),
            ("html", Some(code)) if at.is_none() => {
                Self::Html(u16::try_from(code).ok().filter(|code| (200..600).contains(code))?)
            }
            _ => return None,
        };
        Some(fault)
    }
}

fn status(name: &str) -> Option<u16> {
    let code = name.parse().ok().filter(|code| (400..600).contains(code))?;
    (name.len() == 3).then_some(code)
}

fn number(text: &str, max: u64) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_statuses_hints_shape_and_faults() {
        let step: Step = "429-retry-after-ms-50_should-retry-false".parse().unwrap();
        assert_eq!(step.refusal, Some(Refusal::Status(429)));
        assert_eq!(step.hints, [Hint::RetryAfterMs(50), Hint::ShouldRetry(false)]);
        let step: Step = "chunks-100_rate-50_stamp_stall-first-20_split-1".parse().unwrap();
        assert_eq!((step.chunks, step.rate, step.stamp), (100, 50, true));
        assert_eq!(step.faults, [Fault::Stall(At::First, Some(20)), Fault::Split(1)]);
        let step: Step = "comments-5_cut-last".parse().unwrap();
        assert_eq!(step.faults, [Fault::Comments(At::First, 5), Fault::Cut(At::Last)]);
    }

    #[test]
    fn a_sequence_has_its_steps_in_order() {
        let steps = Step::default().sequence("429-then-503-then-ok").unwrap();
        let refusals: Vec<_> = steps.iter().map(|step| step.refusal).collect();
        let status = |code| Some(Refusal::Status(code));
        assert_eq!(refusals, [status(429), status(503), None]);
    }

    #[test]
    fn a_part_that_means_nothing_is_named() {
        for text in ["", "cutt", "429-retry-after", "chunks", "chunks-x", "cut-5", "split-0", "99"]
        {
            assert!(text.parse::<Step>().is_err(), "{text:?}");
        }
        let error = "ok_cutt".parse::<Step>().unwrap_err();
        assert_eq!(error.to_string(), "no such part of a script: \"cutt\"");
    }

    #[test]
    fn words_have_the_size_that_was_asked_for() {
        let step: Step = "chunks-3_size-100_stamp".parse().unwrap();
        for piece in step.says() {
            let Piece::Text(text) = piece else { panic!("{piece:?}") };
            assert!((100..110).contains(&text.len()) && text.starts_with('@'), "{text}");
        }
    }
}
