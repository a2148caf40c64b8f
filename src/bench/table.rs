//! Results for people: aligned columns, colour only where it is welcome.

use std::env;
use std::io::{self, IsTerminal as _, Write};

use super::{CaseResult, Figures, LimitResult};

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

    /// The names of the columns and where their cells stand.
    #[must_use]
    pub fn columns(&self) -> &[(String, Alignment)] {
        &self.columns
    }

    /// The rows, each with a cell for every column.
    #[must_use]
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
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

/// The results of a run: a table of round trips and one of pipelined loads, whichever has rows. Below
/// each case stand the limits that it was measured beside; a ratio is the case's figure over that of
/// the limit in its row.
#[must_use]
pub fn result_tables(results: &[CaseResult]) -> Vec<Table> {
    let (pipelined, single): (Vec<_>, Vec<_>) =
        results.iter().partition(|result| result.is_pipelined());
    let tables =
        [(single, round_trip_table as fn(&[&CaseResult]) -> Table), (pipelined, load_table)];
    let filled = tables.into_iter().filter(|(results, _)| !results.is_empty());
    filled.map(|(results, table)| table(&results)).collect()
}

fn round_trip_table(results: &[&CaseResult]) -> Table {
    use Alignment::{Left, Right};
    let mut table = Table::new(&[
        ("case", Left),
        ("size", Right),
        ("p50", Right),
        ("p90", Right),
        ("p99", Right),
        ("p99.9", Right),
        ("max", Right),
        ("p50 ×", Right),
        ("p99 ×", Right),
        ("rounds", Right),
    ]);
    for result in results {
        let [p50, p90, p99, p999, max] = latencies(&result.figures);
        let (none, size) = (String::new, result.size.to_string());
        let rounds = rounds_text(result);
        table.push([result.case.clone(), size, p50, p90, p99, p999, max, none(), none(), rounds]);
        for limit in &result.limits {
            let [p50, p90, p99, p999, max] = latencies(&limit.figures);
            let ratios = [limit.ratio_p50, limit.ratio_p99].map(ratio_text);
            let [ratio_p50, ratio_p99] = ratios;
            let name = beside(limit);
            table.push([name, none(), p50, p90, p99, p999, max, ratio_p50, ratio_p99, none()]);
        }
    }
    table
}

fn load_table(results: &[&CaseResult]) -> Table {
    use Alignment::{Left, Right};
    let mut table = Table::new(&[
        ("case", Left),
        ("size", Right),
        ("conns", Right),
        ("open", Right),
        ("window", Right),
        ("msgs/s", Right),
        ("p50", Right),
        ("p99", Right),
        ("p99.9", Right),
        ("max", Right),
        ("time ×", Right),
        ("rounds", Right),
    ]);
    for result in results {
        let [p50, _, p99, p999, max] = latencies(&result.figures);
        let rate = rate_text(result.figures.msgs_per_s);
        let [size, conns, open, window] = [
            result.size as u64,
            result.connections.into(),
            result.open.into(),
            result.window.into(),
        ]
        .map(|number: u64| number.to_string());
        let (case, rounds) = (result.case.clone(), rounds_text(result));
        let none = String::new;
        table.push([case, size, conns, open, window, rate, p50, p99, p999, max, none(), rounds]);
        for limit in &result.limits {
            let [p50, _, p99, p999, max] = latencies(&limit.figures);
            let rate = rate_text(limit.figures.msgs_per_s);
            let (name, ratio) = (beside(limit), ratio_text(limit.ratio_time));
            let [size, conns, open, window, rounds] = [(); 5].map(|()| none());
            table.push([name, size, conns, open, window, rate, p50, p99, p999, max, ratio, rounds]);
        }
    }
    table
}

/// p50, p90, p99, p99.9 and the maximum.
fn latencies(figures: &Figures) -> [String; 5] {
    [figures.p50_ns, figures.p90_ns, figures.p99_ns, figures.p999_ns, figures.max_ns]
        .map(duration_text)
}

fn beside(limit: &LimitResult) -> String {
    format!("  beside {}", limit.limit)
}

/// Rounds that were kept, and how many were not.
#[must_use]
pub fn rounds_text(result: &CaseResult) -> String {
    match result.rejected_rounds {
        0 => result.rounds.to_string(),
        rejected => format!("{} (−{rejected})", result.rounds),
    }
}

/// A ratio for a reader; a dash where there is none.
#[must_use]
pub fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×"))
}

/// Nanoseconds for a reader: three digits and the unit that suits them.
#[must_use]
pub fn duration_text(nanoseconds: u64) -> String {
    scaled(nanoseconds as f64, &[" ns", " µs", " ms", " s"])
}

/// A rate for a reader, in plain, thousands, millions or billions.
#[must_use]
pub fn rate_text(per_second: u64) -> String {
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
    use super::super::result::tests::example;
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

    fn rows(table: &Table) -> Vec<Vec<String>> {
        let text = written(table, Style::Plain);
        let cells = |line: &str| {
            let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            cells.map(str::to_owned).collect()
        };
        text.lines().skip(1).map(cells).collect()
    }

    #[test]
    fn limits_stand_below_their_round_trip_with_both_ratios() {
        let tables = result_tables(&[example()]);
        assert_eq!(tables.len(), 1);
        let rows = rows(&tables[0]);
        assert_eq!(
            rows[0],
            ["rtt_hot", "64", "240 ns", "260 ns", "371 ns", "900 ns", "80.0 µs", "5 (−2)"]
        );
        assert_eq!(rows[1][0], "beside cache line");
        assert_eq!(rows[1][6..], ["1.71×", "1.85×"]);
    }

    #[test]
    fn a_load_shows_its_window_and_what_is_open() {
        let mut result = CaseResult {
            case: "open".into(),
            connections: 16,
            open: 10_000,
            window: 8,
            ..example()
        };
        result.limits[0].ratio_time = None;
        let tables = result_tables(&[example(), result]);
        assert_eq!(tables.len(), 2);
        let rows = rows(&tables[1]);
        assert_eq!(rows[0][..6], ["open", "64", "16", "10000", "8", "4.10 M"]);
        assert_eq!(rows[1].last().unwrap(), "–");
    }
}
