//! Where a provider's key is. A key itself is never part of a configuration.

use std::fmt;
use std::path::{Path, PathBuf};

/// The longest source, in bytes.
const SOURCE_SIZE_MAX: usize = 1_024;

/// A place that holds a key, written as `SCHEME:PLACE`. [`KeySource::read`] looks there.
///
/// Displayed without the arguments of a command, which may be secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// `env:NAME`: a variable of the daemon's environment.
    Environment(String),
    /// `file:/path`: a file that only its owner can read.
    File(PathBuf),
    /// `credential:NAME`: a credential of the systemd unit (`systemd.exec(5)`, `LoadCredential=`).
    Credential(String),
    /// `keyring:SERVICE/USER`: an entry of the desktop's keyring, read with `secret-tool`.
    Keyring {
        /// Its attribute `service`.
        service: String,
        /// Its attribute `username`.
        user: String,
    },
    /// `command:PROGRAM ARGUMENTS`: the first line of what a program writes. There is no shell.
    Command(Vec<String>),
}

impl KeySource {
    /// What each form looks like, for errors and help.
    pub const FORMS: &'static str = "\"env:NAME\", \"file:/path\", \"credential:NAME\", \
        \"keyring:SERVICE/USER\" or \"command:PROGRAM ARGUMENTS\"";

    /// Reads a source as it is written in a configuration; `None` when it is none of the forms.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > SOURCE_SIZE_MAX || text.contains(char::is_control) {
            return None;
        }
        let (scheme, place) = text.split_once(':')?;
        match scheme {
            "env" => is_variable(place).then(|| Self::Environment(place.to_owned())),
            "file" => Path::new(place).is_absolute().then(|| Self::File(place.into())),
            "credential" => is_credential(place).then(|| Self::Credential(place.to_owned())),
            "keyring" => {
                let (service, user) = place.split_once('/')?;
                let (service, user) = (service.to_owned(), user.to_owned());
                // An argument that begins with a hyphen would be an option of secret-tool.
                let is_plain = |text: &str| !text.is_empty() && !text.starts_with('-');
                (is_plain(&service) && is_plain(&user)).then_some(Self::Keyring { service, user })
            }
            "command" => words(place).filter(|words| !words.is_empty()).map(Self::Command),
            _ => None,
        }
    }

    /// The source as it is written in a configuration; [`KeySource::parse`] of it gives the same.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Command(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                format!("command:{}", words.join(" "))
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(formatter, "env:{name}"),
            Self::File(path) => write!(formatter, "file:{}", path.display()),
            Self::Credential(name) => write!(formatter, "credential:{name}"),
            Self::Keyring { service, user } => write!(formatter, "keyring:{service}/{user}"),
            Self::Command(words) => match words.as_slice() {
                [program] => write!(formatter, "command:{program}"),
                [program, ..] => write!(formatter, "command:{program} …"),
                [] => formatter.write_str("command:"),
            },
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeySource({self})")
    }
}

/// A name that shells can set, so that a key that was pasted here by mistake is hardly one.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A single file name: what systemd allows, and no way out of its directory.
fn is_credential(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.chars().all(legal) && name != "." && name != ".."
}

/// Splits a command as a shell does, with its quotes and backslashes and nothing else of it; `None`
/// when a quote stays open.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().push(characters.next()?);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                // Also an empty pair of quotes is a word.
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A word for [`words`] to read back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "env:OPENAI_API_KEY",
            "file:/etc/annulus/key file",
            "credential:openai.key",
            "keyring:annulus/ada@example.org",
            "keyring:annulus/a/b",
            "command:pass show ai/openai",
            "command:op read 'op://vault/a key'",
            r"command:sh -c 'echo '\''it'\'''",
        ] {
            let source = KeySource::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(source.text(), text);
            assert_eq!(KeySource::parse(&source.text()), Some(source));
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for text in [
            "sk-123",
            "",
            "env:",
            "env:1A",
            "env:sk-proj-123",
            "ENV:X",
            "file:key",
            "file:~/key",
            "credential:../shadow",
            "credential:..",
            "credential:",
            "keyring:annulus",
            "keyring:/ada",
            "keyring:annulus/--help",
            "command:",
            "command:  ",
            "command:pass 'show",
            "command:pass \\",
            "env:A\nB",
            "https://host",
        ] {
            assert_eq!(KeySource::parse(text), None, "{text}");
        }
        assert_eq!(KeySource::parse(&format!("file:/{}", "x".repeat(SOURCE_SIZE_MAX))), None);
    }

    #[test]
    fn a_command_is_split_like_a_shell_does_without_being_one() {
        let split = |text: &str| words(text).unwrap();
        assert_eq!(split(r#"a  'b c' "d 'e'" f\ g"#), ["a", "b c", "d 'e'", "f g"]);
        assert_eq!(split(r#"a '' "b\"c" d'e'f"#), ["a", "", "b\"c", "def"]);
        assert_eq!(split("a $HOME ; b | c > d"), ["a", "$HOME", ";", "b", "|", "c", ">", "d"]);
        assert_eq!(split(r"'a\b'"), [r"a\b"]);
    }

    #[test]
    fn arguments_of_a_command_are_not_displayed() {
        let source = KeySource::parse("command:echo sk-planted").unwrap();
        assert_eq!(source.to_string(), "command:echo …");
        assert_eq!(format!("{source:?}"), "KeySource(command:echo …)");
    }
}
