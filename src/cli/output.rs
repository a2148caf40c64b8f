//! What goes to the terminal: lines of text or of JSON, and colour where it is welcome.

use std::env;
use std::io::{self, IsTerminal, Write as _};

use annulus::bench::Style;
use clap::ColorChoice;
use serde::Serialize;

use super::failure::Failure;

/// A JSON object with its schema in front, `{"schema":"annulus.ping/1",…}`.
///
/// The number rises when a field changes its meaning or goes away; a new field changes nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Tagged<T> {
    schema: &'static str,
    #[serde(flatten)]
    body: T,
}

impl<T: Serialize> Tagged<T> {
    pub(crate) fn new(schema: &'static str, body: T) -> Self {
        Self { schema, body }
    }

    /// The object on one line, without the newline.
    pub(crate) fn to_line(&self) -> String {
        serde_json::to_string(self).expect("structs of strings and numbers always serialise")
    }
}

/// How the user wants things written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON object per line on standard output.
    pub(crate) json: bool,
    /// For standard output.
    pub(crate) paint: Paint,
    /// For standard error.
    pub(crate) paint_stderr: Paint,
}

impl Output {
    pub(crate) fn new(json: bool, colour: ColorChoice) -> Self {
        Self {
            json,
            paint: Paint::choose(colour, &io::stdout()),
            paint_stderr: Paint::choose(colour, &io::stderr()),
        }
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    ///
    /// The write failed; silent when the reader went away.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes bytes to standard output as they are, and flushes.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line).
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::of_stdout)
    }

    /// Writes an object of this schema to standard output.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line).
    pub(crate) fn object(&self, schema: &'static str, body: impl Serialize) -> Result<(), Failure> {
        self.line(&Tagged::new(schema, body).to_line())
    }

    /// Says something beside the result, on standard error. Progress and notes: nothing that a
    /// script would read.
    pub(crate) fn note(&self, text: &str) {
        // A note that nobody can read is not worth failing for.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Colour for one stream, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    fn choose(colour: ColorChoice, stream: &impl IsTerminal) -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let welcome = set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb");
        Self { on: judge(colour, stream.is_terminal(), welcome) }
    }

    /// Whether anything is painted at all.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// The same for the tables of the benchmark.
    pub(crate) fn style(self) -> Style {
        if self.on { Style::Coloured } else { Style::Plain }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The flag first, then what the environment and the stream suggest (<https://no-color.org>).
fn judge(colour: ColorChoice, is_terminal: bool, is_welcome: bool) -> bool {
    match colour {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && is_welcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_comes_first() {
        #[derive(Serialize)]
        struct Body {
            count: u32,
        }
        let line = Tagged::new("annulus.test/1", Body { count: 2 }).to_line();
        assert_eq!(line, r#"{"schema":"annulus.test/1","count":2}"#);
    }

    #[test]
    fn the_flag_decides_before_the_terminal_does() {
        assert!(judge(ColorChoice::Always, false, false));
        assert!(!judge(ColorChoice::Never, true, true));
        assert!(judge(ColorChoice::Auto, true, true));
        assert!(!judge(ColorChoice::Auto, true, false));
        assert!(!judge(ColorChoice::Auto, false, true));
    }

    #[test]
    fn paint_that_is_off_leaves_text_alone() {
        assert_eq!(Paint { on: false }.bold("x"), "x");
        assert_eq!(Paint { on: true }.bold("x"), "\x1b[1mx\x1b[0m");
    }
}
