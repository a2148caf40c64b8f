//! Results for people: aligned columns, colour only where it is welcome.

use std::env;
use std::io::{self, IsTerminal as _, Write};

use super::CaseResult;

/// Spaces between two columns.
const GAP: &str = "  ";

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// Whether the output may carry colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With ANSI sequences for the head.
    Coloured,
}

impl Style {
    /// Coloured if standard output is a terminal and `NO_COLOR` is unset or empty
    /// (<https://no-color.org>).
    #[must_use]
    pub fn detect() -> Self {
        Self::judge(
            io::stdout().is_terminal(),
            env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        )
    }

    fn judge(is_terminal: bool, is_refused: bool) -> Self {
        if is_terminal && !is_refused { Self::Coloured } else { Self::Plain }
    }
}

/// Rows of text under a head. Columns are as wide as their widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Alignment)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(columns: &[(&str, Alignment)]) -> Self {
        Self {
            columns: columns.iter().map(|&(name, side)| (name.to_owned(), side)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    ///
    /// If it has not exactly one cell a column.
    pub fn push<const COLUMN_COUNT: usize>(&mut self, row: [String; COLUMN_COUNT]) {
        assert_eq!(COLUMN_COUNT, self.columns.len(), "one cell a column");
        self.rows.push(row.into());
    }

    /// Writes the head and the rows, one line each, without trailing spaces.
    ///
    /// # Errors
    ///
    /// Those of `output`.
    pub fn write(&self, output: &mut impl Write, style: Style) -> io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let head = self.line(&names);
        match style {
            Style::Plain => writeln!(output, "{head}")?,
            Style::Coloured => writeln!(output, "\x1b[1m{head}\x1b[0m")?,
        }
        for row in &self.rows {
            writeln!(output, "{}", self.line(row))?;
        }
        Ok(())
    }

    fn line(&self, cells: &[String]) -> String {
        let aligned = cells.iter().enumerate().map(|(index, cell)| {
            let width = self.width(index);
            match self.columns[index].1 {
                Alignment::Left => format!("{cell:<width$}"),
                Alignment::Right => format!("{cell:>width$}"),
            }
        });
        aligned.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }

    /// Characters of the widest cell of a column, its name included.
    fn width(&self, index: usize) -> usize {
        let cells = self.rows.iter().map(|row| &row[index]);
        cells.chain([&self.columns[index].0]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

/// The results of a run, one row a case.
#[must_use]
pub fn result_table(results: &[CaseResult]) -> Table {
    use Alignment::{Left, Right};
    let mut table = Table::new(&[
        ("case", Left),
        ("size", Right),
        ("conns", Right),
        ("p50", Right),
        ("p99", Right),
        ("p99.9", Right),
        ("msgs/s", Right),
        ("limit p50", Right),
        ("ratio", Right),
        ("rounds", Right),
    ]);
    for result in results {
        table.push([
            result.case.clone(),
            result.size.to_string(),
            result.connections.to_string(),
            duration_text(result.p50_ns),
            duration_text(result.p99_ns),
            duration_text(result.p999_ns),
            rate_text(result.msgs_per_s),
            result.limit_p50_ns.map_or_else(|| "–".to_owned(), duration_text),
            result.ratio_p50.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×")),
            match result.rejected_rounds {
                0 => result.rounds.to_string(),
                rejected => format!("{} (−{rejected})", result.rounds),
            },
        ]);
    }
    table
}

/// Nanoseconds for a reader: three digits and the unit that suits them.
#[must_use]
pub fn duration_text(nanoseconds: u64) -> String {
    scaled(nanoseconds as f64, &[" ns", " µs", " ms", " s"])
}

/// A rate for a reader, in plain, thousands, millions or billions.
fn rate_text(per_second: u64) -> String {
    scaled(per_second as f64, &["", " k", " M", " G"])
}

/// `value` with three significant digits, in the first unit in which it stays below a thousand (or
/// the last one).
fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit_index = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit_index + 1 < units.len() {
        value /= 1000.0;
        unit_index += 1;
    }
    let decimals = match value {
        _ if unit_index == 0 => 0, // Whole by nature.
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit_index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(table: &Table, style: Style) -> String {
        let mut output = Vec::new();
        table.write(&mut output, style).unwrap();
        String::from_utf8(output).unwrap()
    }

    fn small_table() -> Table {
        let mut table = Table::new(&[("case", Alignment::Left), ("p50", Alignment::Right)]);
        table.push(["a/long-name".into(), "1.23 µs".into()]);
        table.push(["b".into(), "95 ns".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_by_characters_and_not_by_bytes() {
        let expected = "case             p50\na/long-name  1.23 µs\nb              95 ns\n";
        assert_eq!(written(&small_table(), Style::Plain), expected);
    }

    #[test]
    fn colour_touches_the_head_alone() {
        let text = written(&small_table(), Style::Coloured);
        assert!(text.starts_with("\x1b[1mcase             p50\x1b[0m\n"));
        assert_eq!(text.matches('\x1b').count(), 2);
    }

    #[test]
    fn colour_needs_a_terminal_and_no_objection() {
        assert_eq!(Style::judge(true, false), Style::Coloured);
        for (is_terminal, is_refused) in [(true, true), (false, false), (false, true)] {
            assert_eq!(Style::judge(is_terminal, is_refused), Style::Plain);
        }
    }

    #[test]
    fn durations_keep_three_digits() {
        let shown = [
            0,
            7,
            120,
            999,
            1_000,
            9_994,
            9_996,
            72_140,
            999_400,
            999_600,
            4_000_000,
            75_000_000_000,
        ];
        let expected = [
            "0 ns", "7 ns", "120 ns", "999 ns", "1.00 µs", "9.99 µs", "10.0 µs", "72.1 µs",
            "999 µs", "1.00 ms", "4.00 ms", "75.0 s",
        ];
        assert_eq!(shown.map(duration_text), expected);
    }

    #[test]
    fn a_result_without_limit_shows_dashes() {
        let result = CaseResult {
            schema: super::super::SCHEMA.into(),
            case: "throughput".into(),
            size: 1024,
            connections: 16,
            p50_ns: 900,
            p99_ns: 1_200,
            p999_ns: 80_000,
            msgs_per_s: 4_900_000,
            limit_p50_ns: None,
            limit_p99_ns: None,
            ratio_p50: None,
            canary_p50_ns: 130,
            rounds: 5,
            rejected_rounds: 2,
        };
        let text = written(&result_table(&[result]), Style::Plain);
        let row: Vec<&str> =
            text.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
        let row: Vec<&str> = row.into_iter().map(str::trim).collect();
        assert_eq!(
            row,
            [
                "throughput",
                "1024",
                "16",
                "900 ns",
                "1.20 µs",
                "80.0 µs",
                "4.90 M",
                "–",
                "–",
                "5 (−2)"
            ]
        );
    }
}
