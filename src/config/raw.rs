//! Values as somebody wrote them, before their key has judged them.
//!
//! TOML says what type a value has, the environment and the command line do not. The difference
//! ends here: whoever asks a [`Raw`] for a number gets one, or learns that it is none.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Origin;
use crate::sync::sound;

/// How much of a value an error repeats, in characters.
const SHOWN_MAX: usize = 60;

/// One value that somebody wrote for one key.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// The key in its dotted form.
    pub(super) key: String,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    /// The text in the file or in the environment, shortened, for the eyes of the user only.
    pub(super) shown: String,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// From the environment or a flag, where everything is text and the key says what it means.
    Untyped(String),
    /// A whole number of TOML; `None` when it is negative or too large for any key.
    Number(Option<u64>),
    Switch(bool),
    Text(String),
    List(Vec<Raw>),
    Table,
    /// A float or a date: no key takes one.
    Other,
}

impl Raw {
    /// A value from the environment or a flag.
    pub(super) fn untyped(text: &str) -> Self {
        let shown = if text.is_empty() { "\"\"".to_owned() } else { shortened(text) };
        Self { shown, form: Form::Untyped(text.trim().to_owned()) }
    }

    /// A value of the TOML document `source`.
    pub(super) fn from_toml(value: &Spanned<DeValue<'_>>, source: &str) -> Self {
        let form = match value.get_ref() {
            DeValue::String(text) => Form::Text(text.to_string()),
            DeValue::Integer(number) => {
                let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
                assert!(number.is_some() || sound("a number may be too large"), "a canary");
                Form::Number(number)
            }
            DeValue::Boolean(on) => Form::Switch(*on),
            DeValue::Array(items) => {
                Form::List(items.iter().map(|item| Self::from_toml(item, source)).collect())
            }
            DeValue::Table(_) => Form::Table,
            DeValue::Float(_) | DeValue::Datetime(_) => Form::Other,
        };
        let shown = match form {
            Form::Table => "{…}".to_owned(), // Its text may hold keys of any name, secret ones too.
            _ => shortened(source.get(value.span()).unwrap_or_default()),
        };
        Self { shown, form }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.form, Form::Table)
    }

    /// A whole number that is not negative.
    pub(super) fn number(&self) -> Option<u64> {
        match &self.form {
            Form::Untyped(text) => text.parse().ok(),
            Form::Number(number) => *number,
            _ => None,
        }
    }

    /// A truth value; outside TOML 1 and 0 will do.
    pub(super) fn switch(&self) -> Option<bool> {
        match &self.form {
            Form::Switch(on) => Some(*on),
            Form::Untyped(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.form {
            Form::Untyped(text) | Form::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list of texts: `["a", "b"]` in TOML, that or `a, b` elsewhere.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match &self.form {
            Form::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            Form::Untyped(text) if text.is_empty() => Some(Vec::new()),
            Form::Untyped(text) if text.starts_with('[') => {
                let source = format!("x = {text}");
                let document = DeTable::parse(&source).ok()?;
                let table = document.get_ref();
                let value = table.get("x").filter(|_| table.len() == 1)?;
                Self::from_toml(value, &source).texts()
            }
            Form::Untyped(text) => {
                Some(text.split(',').map(|item| item.trim().to_owned()).collect())
            }
            _ => None,
        }
    }

    /// Whether somebody wrote text where a table or a number should be, or a list of it.
    pub(super) fn is_text(&self) -> bool {
        match &self.form {
            Form::Untyped(text) => text.parse::<u64>().is_err(),
            Form::Text(_) => true,
            Form::List(items) => items.iter().any(Self::is_text),
            _ => false,
        }
    }

    /// A list of numbers: `[0, 1]` in TOML, `0,1` or `[0, 1]` elsewhere.
    pub(super) fn numbers(&self) -> Option<Vec<u64>> {
        match &self.form {
            Form::List(items) => items.iter().map(Raw::number).collect(),
            Form::Untyped(text) => {
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let items = inner.unwrap_or(text).split(',');
                items.map(|item| item.trim().parse().ok()).collect()
            }
            _ => None,
        }
    }
}

/// One line of at most [`SHOWN_MAX`] characters, without control characters.
fn shortened(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ").replace(char::is_control, "");
    match line.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use toml::de::DeTable;

    use super::*;

    /// The value of `x` in a TOML document.
    pub(in crate::config) fn typed(text: &str) -> Raw {
        let source = format!("x = {text}");
        let document = DeTable::parse(&source).unwrap();
        Raw::from_toml(&document.get_ref()["x"], &source)
    }

    #[test]
    fn shown_value_is_one_short_line() {
        assert_eq!(typed("[\n  1,\n  2\n]").shown, "[ 1, 2 ]");
        assert_eq!(Raw::untyped("").shown, "\"\"");
        assert_eq!(Raw::untyped("\u{1b}[2J").shown, "[2J");
        let long = Raw::untyped(&"x".repeat(100)).shown;
        assert_eq!(long.chars().count(), SHOWN_MAX + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn table_does_not_show_what_is_in_it() {
        assert_eq!(typed("{ api_key = \"sk-123\" }").shown, "{…}");
    }
}
