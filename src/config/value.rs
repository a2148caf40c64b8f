//! The types that values have, and what each key allows.

use std::fmt;
use std::path::{Path, PathBuf};

use super::raw::Raw;

/// Written for a value that Annulus works out by itself.
pub(super) const AUTO: &str = "auto";
/// Written for an optional value that is absent.
pub(super) const NONE: &str = "none";
/// Cores are numbered below this, as in glibc's `cpu_set_t`.
const CORES_MAX: u64 = 1024;
/// The longest name of a provider, in characters.
const PROVIDER_NAME_MAX: usize = 32;
/// What a key allows. The text is the same in errors and in the template.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// A whole number between two bounds, both included, in this unit.
    Range(u64, u64, &'static str),
    Switch,
    SocketPath,
    File,
    Cores,
    ProviderName,
    OneOf(&'static [&'static str]),
}

/// A key of a section, described once for parsing, errors, the template and `config show`.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) rule: Rule,
    /// The lines of its documentation, each with one leading space.
    pub(super) help: &'static [&'static str],
}

/// A type that a value of the configuration can have.
pub(super) trait Value: Sized {
    const OPTIONAL: bool = false;

    /// Returns the value, or `None` when the rule does not allow it.
    fn read(raw: &Raw, rule: &Rule) -> Option<Self>;

    /// Returns the value in TOML; [`Value::read`] of it gives the same value.
    fn text(&self) -> String;
}

/// A [`Value`] in its place, whatever its type.
pub(super) trait Field {
    /// Takes the value over and returns true, or keeps the old one and returns false.
    fn set(&mut self, raw: &Raw, rule: &Rule) -> bool;
    fn text(&self) -> String;
    fn is_optional(&self) -> bool;
}

impl<T: Value> Field for T {
    fn set(&mut self, raw: &Raw, rule: &Rule) -> bool {
        T::read(raw, rule).map(|value| *self = value).is_some()
    }

    fn text(&self) -> String {
        Value::text(self)
    }

    fn is_optional(&self) -> bool {
        T::OPTIONAL
    }
}

impl Rule {
    /// What would have been right in place of `raw`, after the words "must be".
    pub(super) fn allowed(&self, raw: &Raw, optional: bool) -> String {
        let mistyped = matches!(self, Self::Range(..)) && raw.number().is_none();
        let lead = if mistyped { "a whole number, " } else { "" };
        format!("{lead}{}", self.text(optional))
    }

    /// What is allowed, in words.
    pub(super) fn text(&self, optional: bool) -> String {
        if optional { format!("{self} or \"{NONE}\"") } else { self.to_string() }
    }

    fn admits(&self, number: u64) -> bool {
        matches!(self, Self::Range(min, max, _) if (*min..=*max).contains(&number))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(min, max, "") => write!(formatter, "{min} to {max}"),
            Self::Range(min, max, unit) => write!(formatter, "{min} to {max} {unit}"),
            Self::Switch => formatter.write_str("true or false"),
            Self::SocketPath => formatter.write_str("an absolute path or \"auto\""),
            Self::File => formatter.write_str("an absolute path"),
            Self::Cores => write!(
                formatter,
                "a list of different core numbers below {CORES_MAX}, like [0, 1],"
            ),
            Self::ProviderName => formatter.write_str("the name of a provider or \"auto\""),
            Self::OneOf([name]) => write!(formatter, "\"{name}\""),
            Self::OneOf(names) => write!(formatter, "one of \"{}\"", names.join("\", \"")),
        }
    }
}

impl Value for u32 {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        u64::read(raw, rule)?.try_into().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        raw.number().filter(|number| rule.admits(*number))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    fn read(raw: &Raw, _: &Rule) -> Option<Self> {
        raw.switch()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        let text = raw.text()?;
        let allowed = match rule {
            Rule::OneOf(names) => names.contains(&text),
            Rule::ProviderName => text == AUTO || is_provider_name(text),
            _ => false,
        };
        allowed.then(|| text.to_owned())
    }

    fn text(&self) -> String {
        toml::Value::from(self.as_str()).to_string()
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        let path = Path::new(raw.text()?);
        let auto = matches!(rule, Rule::SocketPath) && path == Path::new(AUTO);
        (auto || path.is_absolute()).then(|| path.to_owned())
    }

    fn text(&self) -> String {
        toml::Value::from(self.to_string_lossy().as_ref()).to_string()
    }
}

impl Value for Vec<u32> {
    fn read(raw: &Raw, _: &Rule) -> Option<Self> {
        let mut cores = Vec::new();
        for core in raw.numbers()? {
            let core = u32::try_from(core).ok().filter(|core| u64::from(*core) < CORES_MAX)?;
            if cores.contains(&core) {
                return None;
            }
            cores.push(core);
        }
        (!cores.is_empty()).then_some(cores)
    }

    fn text(&self) -> String {
        format!("{self:?}")
    }
}

impl<T: Value> Value for Option<T> {
    const OPTIONAL: bool = true;

    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        if raw.text() == Some(NONE) { Some(None) } else { T::read(raw, rule).map(Some) }
    }

    fn text(&self) -> String {
        self.as_ref().map_or_else(|| format!("\"{NONE}\""), Value::text)
    }
}

/// Whether a provider may be called this: lower-case letters, digits and hyphens after a letter.
///
/// There is no underscore, so that `ANNULUS_PROVIDERS_MY_NAME_…` can only mean `my-name`.
pub(super) fn is_provider_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(legal)
        && name.len() <= PROVIDER_NAME_MAX
        && name != AUTO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::tests::typed;

    #[test]
    fn number_is_held_to_both_bounds() {
        let rule = Rule::Range(2, 5, "");
        let read =
            |text: &str| (u32::read(&typed(text), &rule), u32::read(&Raw::untyped(text), &rule));
        assert_eq!(read("1"), (None, None));
        assert_eq!(read("2"), (Some(2), Some(2)));
        assert_eq!(read("5"), (Some(5), Some(5)));
        assert_eq!(read("6"), (None, None));
        assert_eq!(read("-2"), (None, None));
        assert_eq!(read("2.0"), (None, None));
        assert_eq!(read("99999999999999999999"), (None, None));
    }

    #[test]
    fn number_of_toml_may_be_hexadecimal() {
        assert_eq!(u64::read(&typed("0x1_0"), &Rule::Range(0, 99, "")), Some(16));
    }

    #[test]
    fn quoted_number_is_told_apart() {
        let rule = Rule::Range(1, 5, "bytes");
        let raw = typed("\"3\"");
        assert_eq!(u32::read(&raw, &rule), None);
        assert_eq!(raw.shown, "\"3\"");
        assert_eq!(rule.allowed(&raw, false), "a whole number, 1 to 5 bytes");
        assert_eq!(rule.allowed(&typed("6"), true), "1 to 5 bytes or \"none\"");
    }

    #[test]
    fn switch_is_a_word_or_a_digit_outside_toml() {
        let read = |raw: Raw| bool::read(&raw, &Rule::Switch);
        assert_eq!(read(typed("true")), Some(true));
        assert_eq!(read(typed("1")), None);
        assert_eq!(read(Raw::untyped("1")), Some(true));
        assert_eq!(read(Raw::untyped("false")), Some(false));
        assert_eq!(read(Raw::untyped("yes")), None);
    }

    #[test]
    fn path_is_absolute_or_auto_where_that_means_something() {
        let read = |text: &str, rule: Rule| PathBuf::read(&Raw::untyped(text), &rule);
        assert_eq!(read("/s", Rule::SocketPath), Some("/s".into()));
        assert_eq!(read("auto", Rule::SocketPath), Some(AUTO.into()));
        assert_eq!(read("auto", Rule::File), None);
        assert_eq!(read("~/s", Rule::SocketPath), None);
        assert_eq!(read("", Rule::File), None);
    }

    #[test]
    fn cores_differ_and_exist() {
        let read = |raw: Raw| Vec::<u32>::read(&raw, &Rule::Cores);
        assert_eq!(read(typed("[3, 0]")), Some(vec![3, 0]));
        assert_eq!(read(Raw::untyped("3, 0")), Some(vec![3, 0]));
        assert_eq!(read(Raw::untyped("[3,0]")), Some(vec![3, 0]));
        for wrong in ["[]", "[1, 1]", "[1024]", "[-1]", "[\"1\"]", "1"] {
            assert_eq!(read(typed(wrong)), None, "{wrong}");
        }
        assert_eq!(read(Raw::untyped("")), None);
        assert_eq!(read(Raw::untyped("1,")), None);
    }

    #[test]
    fn one_of_several_names_is_listed() {
        let rule = Rule::OneOf(&["a", "b"]);
        assert_eq!(rule.to_string(), "one of \"a\", \"b\"");
        assert_eq!(String::read(&typed("\"b\""), &rule), Some("b".to_owned()));
        assert_eq!(String::read(&typed("\"c\""), &rule), None);
    }

    #[test]
    fn field_keeps_its_value_when_the_new_one_is_refused() {
        let mut field = 3_u32;
        assert!(!field.set(&Raw::untyped("9"), &Rule::Range(1, 5, "")));
        assert_eq!(field, 3);
    }
}
