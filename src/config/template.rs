//! The file that `annulus config init` writes: every key, explained, commented out.

use super::Config;
use super::remote::ModelConfig;
use super::schema::{LoopbackConfig, ProviderConfig, ProviderKind};

const HEADER: &str = "\
# The configuration of Annulus, read once when the daemon starts.
#
# Every key stands here with its default: remove the # in front of one to change it. Flags and the
# environment go first: ipc.max_connections is also --set ipc.max_connections=5 and
# ANNULUS_IPC_MAX_CONNECTIONS=5. `annulus config check` finds mistakes, `annulus config show` tells
# where each value comes from.
";

const PROVIDER_HEADER: &str = "\
# A provider answers requests. There may be several, each under a name of its own in lower-case
# letters, digits and hyphens. When there is none, there is this one.
";

const REMOTE_HEADER: &str = "\
# A provider on the network. The other kinds have the same keys, with defaults of their own: see
# docs/providers.md and `annulus providers list --all`.
";

const MODEL_HEADER: &str = "\
# A name for a model, for requests to ask for. There may be several, each with a route; a name with
# a dot is written in quotes, [models.\"gpt-4.1\"].
";

/// The kind of provider that the template shows for all on the network, and a name for a model.
const REMOTE_KIND: &str = "openai";
const MODEL_NAME: &str = "fast";

/// How long a line may be, in characters.
const WIDTH: usize = 100;

/// Writes the template. A line of prose starts with `# `, a commented line of TOML with `#`
/// alone.
pub(super) fn template() -> String {
    let mut config = Config::defaults();
    let kind = ProviderKind::Loopback(LoopbackConfig::default());
    config.providers.insert(kind.name().to_owned(), ProviderConfig { kind });
    if let Some(kind) = ProviderKind::named(REMOTE_KIND) {
        config.providers.insert(REMOTE_KIND.to_owned(), ProviderConfig { kind });
    }
    let route = vec![format!("{REMOTE_KIND}/gpt-4.1")];
    config.models.insert(MODEL_NAME.to_owned(), ModelConfig { route });

    let mut template = HEADER.to_owned();
    let mut last_section = String::new();
    for entry in config.entries() {
        let (section, name) = entry.path.rsplit_once('.').unwrap_or(("", &entry.path));
        if section != last_section {
            template += &section_header(section);
            last_section = section.to_owned();
        }
        template.push('\n');
        for line in entry.key.help {
            template += &format!("#{line}\n");
        }
        let allowed = entry.key.rule.text(entry.field.is_optional());
        template += &comment(&format!("Allowed: {allowed}"));
        template += &format!("#{name} = {}\n", entry.field.text());
    }
    template
}

/// A sentence as lines of comment that fit a terminal.
fn comment(sentence: &str) -> String {
    let mut lines = String::from("#");
    let mut width = 1;
    for word in sentence.split(' ') {
        let size = word.chars().count() + 1;
        if width + size > WIDTH {
            lines += "\n#";
            width = 1;
        }
        lines += " ";
        lines += word;
        width += size;
    }
    lines + "\n"
}

/// The sections themselves are not comments, so that changing a key takes one edit; an empty section
/// changes nothing. A provider or a model would, so its table is a comment.
fn section_header(section: &str) -> String {
    match section.split_once('.') {
        Some(("providers", REMOTE_KIND)) => format!("\n{REMOTE_HEADER}#[{section}]\n"),
        Some(("providers", _)) => format!("\n{PROVIDER_HEADER}#[{section}]\n"),
        Some(("models", _)) => format!("\n{MODEL_HEADER}#[{section}]\n"),
        _ => format!("\n[{section}]\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::tests::{file, nothing};
    use crate::config::{Origin, Sources};

    fn uncommented() -> String {
        let is_toml =
            |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c != ' ');
        let bare = |line: &str| {
            if is_toml(line) { line[1..].to_owned() } else { line.to_owned() }
        };
        template().lines().map(bare).collect::<Vec<_>>().join("\n")
    }

    /// Loads a file beside two providers, of which one has to be the default.
    fn load(text: &str) -> Config {
        let overrides = vec![("default_provider".to_owned(), "loopback".to_owned())];
        Config::load(&Sources { file: file(text), overrides, ..nothing() }).unwrap()
    }

    #[test]
    fn template_changes_nothing_with_or_without_its_comments() {
        let values = |text: &str| -> Vec<_> {
            load(text).explain().into_iter().map(|row| (row.key, row.value)).collect()
        };
        assert_eq!(values(&template()), values(""));
        assert_eq!(Config::load(&Sources { file: file(&template()), ..nothing() }).err(), None);

        // What it shows beyond the defaults is one provider, with the defaults of its kind, and one
        // model.
        let (shown, bare) =
            (values(&uncommented()), values("[providers.loopback]\n[providers.openai]"));
        let is_model = |(key, _): &&(String, String)| key.starts_with("models.");
        assert_eq!(shown.iter().filter(is_model).count(), 1);
        let others: Vec<_> = shown.iter().filter(|row| !is_model(row)).cloned().collect();
        assert_eq!(others, bare);
    }

    #[test]
    fn template_names_every_key() {
        let config = load(&uncommented());
        for row in config.explain() {
            assert_ne!(config.origin(&row.key), Origin::Default, "{}", row.key);
        }
    }

    #[test]
    fn long_sentences_are_wrapped() {
        assert_eq!(comment("short one"), "# short one\n");
        let wrapped = comment(&"word ".repeat(50));
        assert!(wrapped.lines().count() > 2 && wrapped.ends_with('\n'));
        assert!(wrapped.lines().all(|line| line.starts_with('#') && line.len() <= WIDTH));
    }

    #[test]
    fn template_fits_a_terminal() {
        assert_eq!(template().lines().find(|line| line.chars().count() > WIDTH), None);
    }
}
