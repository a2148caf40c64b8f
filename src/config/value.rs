//! The types that values have, and what each key allows.

use std::fmt;
use std::path::{Path, PathBuf};

use super::key_source::KeySource;
use super::raw::Raw;
use super::schema::ProviderKind;
use super::text::{header, is_base_url, is_label, is_model, route};

/// Written for a value that Annulus works out by itself.
pub(super) const AUTO: &str = "auto";
/// Written for an optional value that is absent.
pub(super) const NONE: &str = "none";
/// Cores are numbered below this, as in glibc's `cpu_set_t`.
const CORES_MAX: u64 = 1024;
/// The longest name of a provider, in characters.
const PROVIDER_NAME_MAX: usize = 32;
/// The items of a list of URLs, keys, headers, routes or providers.
const ITEMS_MAX: usize = 32;
/// The items of a list of models; some providers offer hundreds.
const MODELS_MAX: usize = 1_024;

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
    /// The name of a kind of provider.
    Kind,
    /// A part of a host name, or a version.
    Label,
    Model,
    /// Where requests go on the way to all hosts; also "auto".
    Proxy,
    BaseUrls,
    KeySources,
    Headers,
    Models,
    Routes,
    ProviderNames,
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

    /// Whether an error keeps a refused value to itself, because it may be a key in the wrong place.
    pub(super) fn hides(&self, raw: &Raw) -> bool {
        match self {
            Self::KeySources | Self::Headers => true,
            Self::BaseUrls | Self::Proxy => raw.shown.contains(['@', '?', '#', '…']),
            _ => false,
        }
    }

    fn admits(&self, number: u64) -> bool {
        matches!(self, Self::Range(min, max, _) if (*min..=*max).contains(&number))
    }

    /// Whether a text may stand alone, or in a list where the rule is about one.
    fn admits_text(&self, text: &str) -> bool {
        match self {
            Self::Kind => ProviderKind::named(text).is_some(),
            Self::ProviderName => text == AUTO || is_provider_name(text),
            Self::ProviderNames => is_provider_name(text),
            Self::Label => is_label(text),
            Self::Model | Self::Models => is_model(text),
            Self::Proxy => text == AUTO || is_base_url(text) && !text.contains('{'),
            Self::BaseUrls => is_base_url(text),
            Self::KeySources => KeySource::parse(text).is_some(),
            Self::Headers => header(text).is_some(),
            Self::Routes => route(text).is_some(),
            Self::Range(..) | Self::Switch | Self::SocketPath | Self::File | Self::Cores => false,
        }
    }

    fn items_max(&self) -> usize {
        if matches!(self, Self::Models) { MODELS_MAX } else { ITEMS_MAX }
    }

    /// The different texts of a list, each of which the rule admits.
    fn texts(&self, raw: &Raw) -> Option<Vec<String>> {
        let texts = raw.texts()?;
        let is_new = |(index, text): (usize, &String)| !texts[..index].contains(text);
        let allowed = texts.len() <= self.items_max()
            && texts.iter().all(|text| self.admits_text(text))
            && texts.iter().enumerate().all(is_new);
        allowed.then_some(texts)
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
            Self::Kind => {
                write!(formatter, "one of \"{}\"", ProviderKind::documented_names().join("\", \""))
            }
            Self::Label => {
                formatter.write_str("letters, digits, hyphens, dots and underscores, at most 64")
            }
            Self::Model => formatter.write_str("the name of a model"),
            Self::Proxy => formatter
                .write_str("an http or https URL without credentials and query, or \"auto\""),
            Self::BaseUrls => formatter.write_str(
                "a list of different http or https URLs without credentials and query, \
                 like [\"https://host/v1\"]",
            ),
            Self::KeySources => write!(
                formatter,
                "a list of the places where keys are, each {}, and never a key itself",
                KeySource::FORMS
            ),
            Self::Headers => formatter.write_str(
                "a list of different headers, like [\"X-Title: my editor\"], none of which carries \
                 credentials, a host or a length",
            ),
            Self::Models => {
                formatter.write_str("a list of different names of models, like [\"gpt-4.1\"]")
            }
            Self::Routes => formatter.write_str(
                "a list of different routes, like [\"openai/gpt-4.1\", \"ollama/qwen3\"]",
            ),
            Self::ProviderNames => {
                formatter.write_str("a list of names of different providers, like [\"backup\"]")
            }
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
        raw.text().filter(|text| rule.admits_text(text)).map(str::to_owned)
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

impl Value for Vec<String> {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        rule.texts(raw)
    }

    fn text(&self) -> String {
        toml::Value::from(self.clone()).to_string()
    }
}

impl Value for Vec<KeySource> {
    fn read(raw: &Raw, rule: &Rule) -> Option<Self> {
        rule.texts(raw)?.iter().map(|text| KeySource::parse(text)).collect()
    }

    fn text(&self) -> String {
        Value::text(&self.iter().map(KeySource::text).collect::<Vec<_>>())
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
    fn kinds_are_those_of_the_table() {
        assert!(Rule::Kind.to_string().starts_with("one of \""));
        assert_eq!(String::read(&typed("\"openai\""), &Rule::Kind), Some("openai".to_owned()));
        assert_eq!(String::read(&typed("\"c\""), &Rule::Kind), None);
    }

    #[test]
    fn lists_of_texts_differ_and_end() {
        let read = |text: &str| Vec::<String>::read(&typed(text), &Rule::Models);
        assert_eq!(read("[\"a\", \"b/c\"]"), Some(vec!["a".to_owned(), "b/c".to_owned()]));
        assert_eq!(read("[]"), Some(Vec::new()));
        for wrong in ["[\"a\", \"a\"]", "\"a\"", "[1]", "[\"a b\"]", "[[\"a\"]]"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let many =
            |count: usize| Value::text(&(0..count).map(|n| format!("m{n}")).collect::<Vec<_>>());
        assert!(read(&many(MODELS_MAX)).is_some());
        assert_eq!(read(&many(MODELS_MAX + 1)), None);
    }

    #[test]
    fn lists_outside_toml_have_commas_or_are_toml() {
        let read = |text: &str| Vec::<KeySource>::read(&Raw::untyped(text), &Rule::KeySources);
        let sources = [KeySource::Environment("A".into()), KeySource::Environment("B".into())];
        assert_eq!(read("env:A, env:B"), Some(sources.to_vec()));
        assert_eq!(read("[\"env:A\",\"env:B\"]"), Some(sources.to_vec()));
        assert_eq!(read("[\"command:a b,c\"]").unwrap()[0].text(), "command:a b,c");
        assert_eq!(read(""), Some(Vec::new()));
        for wrong in ["sk-123", "env:A,", "[\"env:A\"", "[env:A]", "[\"env:A\"] x = 1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn proxy_is_a_url_or_a_word() {
        let read = |text: &str| Option::<String>::read(&Raw::untyped(text), &Rule::Proxy);
        assert_eq!(read("auto"), Some(Some(AUTO.to_owned())));
        assert_eq!(read("none"), Some(None));
        assert_eq!(read("http://proxy:3128"), Some(Some("http://proxy:3128".to_owned())));
        assert_eq!(read("http://ada:secret@proxy"), None);
        assert_eq!(read("http://{region}"), None);
    }

    #[test]
    fn values_that_may_be_keys_are_hidden() {
        assert!(Rule::KeySources.hides(&typed("[\"sk-123\"]")));
        assert!(Rule::Headers.hides(&typed("[\"Authorization: sk-123\"]")));
        assert!(Rule::BaseUrls.hides(&typed("[\"https://ada:secret@host\"]")));
        assert!(Rule::Proxy.hides(&typed("\"http://host?key=sk-123\"")));
        assert!(!Rule::BaseUrls.hides(&typed("[\"ftp://host\"]")));
        assert!(!Rule::Range(0, 1, "").hides(&typed("3")));
    }

    #[test]
    fn field_keeps_its_value_when_the_new_one_is_refused() {
        let mut field = 3_u32;
        assert!(!field.set(&Raw::untyped("9"), &Rule::Range(1, 5, "")));
        assert_eq!(field, 3);
    }
}
