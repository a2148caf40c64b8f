//! Bars, what was seen against each, and the verdict.

use std::io::{self, IsTerminal as _, Write as _};

use annulus::bench::{Alignment, Style, Table};
use serde::Serialize;

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    bar: String,
    figure: String,
    /// None for what is only shown, like the machine's own noise.
    met: Option<bool>,
}

/// What a level has seen.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Holds a figure against a bar.
    pub(crate) fn hold(&mut self, what: &str, bar: &str, figure: String, met: bool) {
        let (what, bar) = (what.to_owned(), bar.to_owned());
        self.lines.push(Line { what, bar, figure, met: Some(met) });
    }

    /// Shows a figure that has no bar.
    pub(crate) fn show(&mut self, what: &str, figure: String) {
        self.lines.push(Line { what: what.to_owned(), bar: String::new(), figure, met: None });
    }

    /// Whether every bar was met.
    pub(crate) fn is_met(&self) -> bool {
        self.lines.iter().all(|line| line.met != Some(false))
    }

    /// Prints the table, or one JSON object.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if json {
            let verdict = self.is_met();
            let object = serde_json::json!({
                "schema": "annulus.nuclear/1", "met": verdict, "lines": self.lines,
            });
            return writeln!(stdout, "{object}");
        }
        let left = Alignment::Left;
        let mut table = Table::new(&[("what", left), ("bar", left), ("figure", left), ("", left)]);
        for line in &self.lines {
            let verdict = match line.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let Line { what, bar, figure, .. } = line;
            table.push([what.clone(), bar.clone(), figure.clone(), verdict.to_owned()]);
        }
        table.write(&mut stdout, Style::detect())
    }
}

/// A line on the terminal that is written over and over; nothing where there is no terminal.
#[derive(Debug)]
pub(crate) struct Progress(bool);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(io::stderr().is_terminal())
    }

    /// Shows how much of `total` is done.
    pub(crate) fn at(&self, what: &str, done: u64, total: u64) {
        const CELLS: u64 = 30;
        if self.0 {
            let full = (CELLS * done).checked_div(total).unwrap_or(0).min(CELLS);
            let bar: String = (0..CELLS).map(|cell| if cell < full { '#' } else { '.' }).collect();
            eprint!("\r{what} [{bar}] {done}/{total} ");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.0 {
            eprint!("\r\x1b[K");
        }
    }
}
