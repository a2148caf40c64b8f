//! The file that `annulus config init` writes: every key, explained, commented out.

use super::Config;
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

/// Writes the template. A line of prose starts with `# `, a commented line of TOML with `#`
/// alone.
pub(super) fn template() -> String {
    let mut config = Config::defaults();
    let kind = ProviderKind::Loopback(LoopbackConfig::default());
    config.providers.insert(kind.name().to_owned(), ProviderConfig { kind });

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
        template += &format!("# Allowed: {allowed}\n");
        template += &format!("#{name} = {}\n", entry.field.text());
    }
    template
}

/// The sections themselves are not comments, so that changing a key takes one edit; an empty section
/// changes nothing. A provider would, so its table is a comment.
fn section_header(section: &str) -> String {
    if section.starts_with("providers.") {
        format!("\n{PROVIDER_HEADER}#[{section}]\n")
    } else {
        format!("\n[{section}]\n")
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

    #[test]
    fn template_changes_nothing_with_or_without_its_comments() {
        let values = |text: &str| -> Vec<_> {
            let config = Config::load(&Sources { file: file(text), ..nothing() }).unwrap();
            config.explain().into_iter().map(|row| (row.key, row.value)).collect()
        };
        assert_eq!(values(&template()), values(""));
        assert_eq!(values(&uncommented()), values(""));
    }

    #[test]
    fn template_names_every_key() {
        let text = uncommented();
        let config = Config::load(&Sources { file: file(&text), ..nothing() }).unwrap();
        for row in config.explain() {
            assert_ne!(config.origin(&row.key), Origin::Default, "{}", row.key);
        }
    }

    #[test]
    fn template_fits_a_terminal() {
        assert_eq!(template().lines().find(|line| line.chars().count() > 100), None);
    }
}
