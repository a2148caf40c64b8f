//! The grammar of the Prometheus text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::fmt::{self, Display, Write};

use super::series::SeriesKind;

/// Names and values, in the order of the page.
pub(super) type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// A page under way. Its caller keeps the samples of a family together.
pub(super) struct Page<'o, W> {
    out: &'o mut W,
}

impl<'o, W: Write> Page<'o, W> {
    /// Starts a page.
    pub(super) fn new(out: &'o mut W) -> Self {
        Self { out }
    }

    /// Opens a family. All its samples follow before the next one opens.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: SeriesKind) -> fmt::Result {
        let kind = match kind {
            SeriesKind::Counter => "counter",
            SeriesKind::Gauge => "gauge",
            SeriesKind::Histogram => "histogram",
        };
        write!(self.out, "# HELP {name} ")?;
        Escaped { out: self.out, quotes: false }.write_str(help)?;
        writeln!(self.out, "\n# TYPE {name} {kind}")
    }

    /// Writes one sample of the open family.
    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: Labels,
        value: impl Display,
    ) -> fmt::Result {
        self.out.write_str(name)?;
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.write_char(if index == 0 { '{' } else { ',' })?;
            write!(self.out, "{label}=\"")?;
            write!(Escaped { out: self.out, quotes: true }, "{text}")?;
            self.out.write_char('"')?;
        }
        writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" })
    }
}

/// Escapes what passes through: backslash and line feed, and in label values also the quote.
struct Escaped<'o, W> {
    out: &'o mut W,
    quotes: bool,
}

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '\\' => self.out.write_str("\\\\"),
            '\n' => self.out.write_str("\\n"),
            '"' if self.quotes => self.out.write_str("\\\""),
            other => self.out.write_char(other),
        })
    }
}

/// Nanoseconds, shown in seconds with all nine decimals: exact, where a float would round.
pub(super) struct Seconds(pub(super) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NS_PER_SECOND: u64 = 1_000_000_000;
        write!(f, "{}.{:09}", self.0 / NS_PER_SECOND, self.0 % NS_PER_SECOND)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    /// The format's rules and Prometheus's naming rules, over a page. Returns series and values.
    pub(in super::super) fn check(page: &str) -> Result<HashMap<String, f64>, String> {
        let mut samples = HashMap::new();
        let mut families = HashSet::new();
        let (mut family, mut kind) = ("", "");
        let mut lines = page.strip_suffix('\n').ok_or("no line feed at the end")?.split('\n');
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split_once(' ').ok_or(format!("no help: {line}"))?.0;
                let types = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
                kind = types
                    .and_then(|types| types.strip_prefix(family)?.strip_prefix(' '))
                    .filter(|kind| ["counter", "gauge", "histogram"].contains(kind))
                    .ok_or(format!("no TYPE after HELP: {family}"))?;
                if !families.insert(family) {
                    return Err(format!("opened twice: {family}"));
                }
                if (kind == "counter") != family.ends_with("_total") {
                    return Err(format!("only counters end in _total: {family}"));
                }
                if !family.starts_with("annulus_") && family != "process_start_time_seconds" {
                    return Err(format!("foreign name: {family}"));
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
            let (name, labels) = match series.split_once('{') {
                Some((name, rest)) => (name, rest.strip_suffix('}').ok_or("unclosed labels")?),
                None => (series, ""),
            };
            let suffix = name.strip_prefix(family).ok_or(format!("outside its family: {line}"))?;
            let allowed: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !allowed.contains(&suffix) {
                return Err(format!("suffix: {line}"));
            }
            check_labels(labels).ok_or(format!("labels: {line}"))?;
            let value = value.parse().map_err(|_| format!("value: {line}"))?;
            if samples.insert(series.to_owned(), value).is_some() {
                return Err(format!("twice: {series}"));
            }
        }
        Ok(samples)
    }

    /// `name="value",…`: names in snake_case, values with no bare quote and only known escapes.
    fn check_labels(mut labels: &str) -> Option<()> {
        while !labels.is_empty() {
            let (name, rest) = labels.split_once("=\"")?;
            if !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                return None;
            }
            let mut characters = rest.char_indices();
            let end = loop {
                match characters.next()? {
                    (end, '"') => break end,
                    (_, '\\') if !matches!(characters.next()?.1, '\\' | '"' | 'n') => return None,
                    _ => {}
                }
            };
            labels = &rest[end + 1..];
            if !labels.is_empty() {
                labels = labels.strip_prefix(',')?;
            }
        }
        Some(())
    }

    /// The canary: the check above must find what it is there to find.
    #[test]
    fn check_finds_planted_mistakes() {
        let head = "# HELP annulus_a_total Help.\n# TYPE annulus_a_total counter\n";
        assert!(check(&format!("{head}annulus_a_total{{b=\"c\"}} 1\n")).is_ok());
        for (body, complaint) in [
            ("annulus_a_total 1", "no line feed"),
            ("annulus_b_total 1\n", "outside its family"),
            ("annulus_a_total_sum 1\n", "suffix"),
            ("annulus_a_total one\n", "value"),
            ("annulus_a_total 1\nannulus_a_total 1\n", "twice"),
            ("annulus_a_total{b=\"c} 1\n", "labels"),
            ("annulus_a_total{b=\"c\"d\"} 1\n", "labels"),
            ("annulus_a_total{b=\"\\c\"} 1\n", "labels"),
            ("# HELP annulus_b Help.\nannulus_b 1\n", "no TYPE"),
            ("# HELP annulus_b Help.\n# TYPE annulus_b counter\n", "_total"),
            ("# HELP b_total Help.\n# TYPE b_total counter\n", "foreign"),
            (head, "opened twice"),
        ] {
            let error = check(&format!("{head}{body}")).expect_err(body);
            assert!(error.contains(complaint), "{body:?}: {error}");
        }
    }

    #[test]
    fn help_is_escaped_but_keeps_its_quotes() {
        let mut text = String::new();
        let mut page = Page { out: &mut text };
        page.family("a", "one \\ two\n\"three\"", SeriesKind::Gauge).unwrap();
        assert_eq!(text, "# HELP a one \\\\ two\\n\"three\"\n# TYPE a gauge\n");
    }

    #[test]
    fn seconds_are_exact() {
        let shown = [1, 128, 1_000_000_000, u64::MAX].map(|ns| Seconds(ns).to_string());
        assert_eq!(shown, ["0.000000001", "0.000000128", "1.000000000", "18446744073.709551615"]);
    }
}
