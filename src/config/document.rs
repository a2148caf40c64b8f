//! The configuration file as a list of keys and values, each with its line.

use std::path::Path;

use toml::de::DeTable;

use super::error::{ConfigError, Origin, Problem};
use super::raw::{Given, Raw};

/// Reads the file into the order of its lines. A file that is not TOML gives errors and no values:
/// what the parser makes of the rest of it is guesswork, and would only add errors that are not
/// there.
pub(super) fn file_givens(
    path: &Path,
    text: &str,
    keys: &[String],
    errors: &mut Vec<ConfigError>,
) -> Vec<Given> {
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let (line, column) = position(text, fault.span().map_or(0, |span| span.start));
        let origin = Origin::File { path: path.to_owned(), line };
        // The error's own `Display` repeats the line, which may hold a secret.
        let message = fault.message().to_owned();
        errors.push(ConfigError::at(origin, "", Problem::Syntax { column, message }));
    }
    if !faults.is_empty() {
        return Vec::new();
    }

    let mut walk = FileWalk { path, text, keys, givens: Vec::new() };
    walk.flatten(document.get_ref(), "");
    walk.givens.sort_by(|a, b| a.origin.cmp(&b.origin));
    walk.givens
}

/// What tables with names of the user's own begin with.
const NAMED_TABLES: [&str; 2] = ["providers.", "models."];

/// A walk through the tables of a file.
struct FileWalk<'a> {
    path: &'a Path,
    text: &'a str,
    keys: &'a [String],
    givens: Vec<Given>,
}

impl FileWalk<'_> {
    /// Collects the values of a table. A table that no key lies in is a value like any other, and
    /// left to be refused as one; so the depth of the walk is that of the keys.
    fn flatten(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let inside = format!("{key}.");
            let is_named = NAMED_TABLES.contains(&prefix);
            let is_section = NAMED_TABLES.contains(&inside.as_str())
                || prefix.is_empty() && self.keys.iter().any(|key| key.starts_with(&inside));

            let inner = value.get_ref().as_table().filter(|_| is_section || is_named);
            // A provider's table counts even when it is empty: it declares the provider.
            if inner.is_none() || is_named {
                let (line, _) = position(self.text, name.span().start);
                let origin = Origin::File { path: self.path.to_owned(), line };
                let raw = Raw::from_toml(value, self.text);
                self.givens.push(Given { key, raw, origin });
            }
            if let Some(inner) = inner {
                self.flatten(inner, &inside);
            }
        }
    }
}

/// The line and column of a byte, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::tests::{file, nothing};
    use crate::config::{Config, Sources};

    /// What a file of this text is told, or an empty text.
    fn errors_in_file(text: &str) -> String {
        let sources = Sources { file: file(text), ..nothing() };
        Config::load(&sources).map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    #[test]
    fn every_syntax_error_has_its_line_and_column() {
        let errors = errors_in_file("[ipc]\nmax_connections 5\n[shards\ncount = 1\n");
        let lines: Vec<&str> = errors.lines().collect();
        assert!(lines[0].starts_with("config.toml:2: column 17: "), "{errors}");
        assert!(lines.iter().any(|line| line.starts_with("config.toml:3: column ")), "{errors}");
    }

    #[test]
    fn syntax_error_does_not_repeat_the_line() {
        let errors = errors_in_file("api_key = sk-123\n");
        assert!(!errors.is_empty() && !errors.contains("sk-123"), "{errors}");
    }

    #[test]
    fn key_given_twice_is_a_syntax_error() {
        let errors = errors_in_file("[shards]\ncount = 1\ncount = 2\n");
        assert!(errors.starts_with("config.toml:3: column 1: duplicate key"), "{errors}");
    }

    #[test]
    fn dotted_and_inline_keys_are_the_same_keys() {
        let text = "shards.count = 2\nipc = { max_connections = 3 }\n";
        let config = Config::load(&Sources { file: file(text), ..nothing() }).unwrap();
        assert_eq!((config.shards.count, config.ipc.max_connections), (2, 3));
    }

    #[test]
    fn unknown_table_is_told_once() {
        assert_eq!(
            errors_in_file("[ipcc]\nmax_connections = 3\nother = 4\n"),
            "config.toml:1: ipcc: unknown setting, did you mean ipc?"
        );
    }

    #[test]
    fn section_that_is_no_table_is_refused() {
        assert_eq!(
            errors_in_file("ipc = 3\nproviders = []\n"),
            "config.toml:1: ipc = 3: must be a table, [ipc]\n\
             config.toml:2: providers = []: must be a table, [providers]"
        );
    }

    #[test]
    fn position_counts_characters() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("a\né = 1", 4), (2, 2));
    }
}
