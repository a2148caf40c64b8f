//! What the README and the documents say, where a machine can tell whether it is so.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

fn documents() -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for entry in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_str().is_some_and(|name| name.ends_with(".md")) {
            paths.push(Path::new("docs").join(name));
        }
    }
    paths
}

#[test]
fn the_examples_of_the_readme_are_those_that_compile() {
    let readme = read("README.md");
    let blocks: Vec<&str> =
        readme.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let examples = ["examples/ask.rs", "examples/count_lines.rs"];
    assert_eq!(blocks.len(), examples.len());
    for (block, path) in blocks.into_iter().zip(examples) {
        let code = read(path);
        // The file begins with a line of documentation that the page says in its own words.
        let (_, code) = code.split_once("\n\n").unwrap();
        assert_eq!(block, code, "{path}");
        assert!(readme.contains(path), "the page names {path}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in documents() {
        let text = read(document.to_str().unwrap());
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.starts_with("http") {
                continue;
            }
            let target = Path::new(ROOT).join(document.parent().unwrap()).join(path);
            assert!(target.exists(), "{}: {link}", document.display());
        }
    }
}

#[test]
fn tests_that_the_readme_names_exist() {
    let readme = read("README.md");
    for command in readme.split('`').filter(|text| text.starts_with("cargo test --")) {
        let words: Vec<&str> = command.split(' ').collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
            assert!(Path::new(ROOT).join("tests").join(pair[1]).with_extension("rs").exists());
        }
        // What follows the target is a part of a test's name.
        let filter = words.last().unwrap();
        let target = words.iter().rposition(|word| *word == "--test");
        let sources = match target {
            Some(at) if at + 2 < words.len() => read(&format!("tests/{}.rs", words[at + 1])),
            Some(_) => continue,
            None => {
                assert!(is_test(filter), "no test for {command:?}");
                continue;
            }
        };
        let named = sources.lines().any(|line| line.starts_with("fn ") && line.contains(filter));
        assert!(named, "no test for {command:?}");
    }
}

/// True for the name of a file or folder in tests/, or the beginning of one and a star.
fn is_test_target(pattern: &str) -> bool {
    let (start, any) = pattern.strip_suffix('*').map_or((pattern, false), |start| (start, true));
    std::fs::read_dir(Path::new(ROOT).join("tests")).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_target = path.extension().is_some() || path.join("main.rs").exists();
        is_target && if any { name.starts_with(start) } else { name == start }
    })
}

/// Every command that a document names, in a line of `sh` or between backticks.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    for document in documents() {
        let text = read(document.to_str().unwrap());
        for (index, part) in text.split("```").enumerate() {
            if index % 2 == 1 {
                let lines = part.strip_prefix("sh\n").unwrap_or_default().lines();
                commands.extend(lines.map(str::to_owned));
            } else {
                let code = part.split('`').skip(1).step_by(2);
                commands.extend(code.map(|code| code.replace('\n', " ")));
            }
        }
    }
    let first_words = ["annulus ", "cargo ", "tools/", ".ci/"];
    commands.retain(|command| first_words.iter().any(|first| command.starts_with(first)));
    assert!(commands.len() > 40, "commands are found: {commands:?}");
    commands
}

/// True when a test's name contains `filter`, as `cargo test` reads it.
fn is_test(filter: &str) -> bool {
    fn any(directory: &Path, named: &dyn Fn(&str) -> bool) -> bool {
        fs::read_dir(directory).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                return any(&path, named);
            }
            let is_rust = path.extension().is_some_and(|extension| extension == "rs");
            is_rust && fs::read_to_string(path).unwrap().lines().any(named)
        })
    }
    let named = |line: &str| {
        let name = line.trim_start().strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        name.is_some_and(|name| name.contains(filter))
    };
    ["src", "tests"].iter().any(|directory| any(&Path::new(ROOT).join(directory), &named))
}

#[test]
fn files_tests_and_steps_that_the_documents_name_exist() {
    let exists = |path: String| Path::new(ROOT).join(path).exists();
    let steps = std::process::Command::new(Path::new(ROOT).join(".ci/run")).arg("--list").output();
    let steps = String::from_utf8(steps.unwrap().stdout).unwrap();
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let is_there = match *words.as_slice() {
            ["cargo", "run", "--example", example, ..] => exists(format!("examples/{example}.rs")),
            ["cargo", "test", "--test", test, ..] => is_test_target(test.trim_matches('\'')),
            ["cargo", "test", "--lib", filter] => is_test(filter),
            ["cargo", "test", filter] if !filter.starts_with('-') => is_test(filter),
            [".ci/run", step] if !step.starts_with('-') => steps.lines().any(|line| line == step),
            // Capitals stand for what the reader puts in.
            ["tools/fuzz", _, target] if target != "TARGET" => {
                exists(format!("fuzz/fuzz_targets/{target}.rs"))
            }
            [script, ..] if script.starts_with("tools/") => exists(script.to_owned()),
            _ => true,
        };
        assert!(is_there, "{command}");
    }
}

#[test]
fn options_of_our_scripts_that_the_documents_name_exist() {
    for command in commands() {
        let mut words = command.split_whitespace();
        let script = words.next().unwrap();
        if script.starts_with("tools/") || script.starts_with(".ci/") {
            let text = read(script);
            for option in words.filter(|word| word.starts_with("--")) {
                assert!(text.contains(option), "{command}");
            }
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn subcommands_and_flags_that_the_documents_name_exist() {
    let mut seen = 0;
    for command in commands() {
        let Some(arguments) = command
            .strip_prefix("annulus ")
            .or_else(|| command.strip_prefix("cargo run --release -- "))
        else {
            continue;
        };
        // A subcommand's own help lists its flags; what is quoted or capital is a value.
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
        let depth = if ["config", "providers"].contains(&words[0]) { 2 } else { 1 };
        let names: Vec<&str> = words.iter().take(depth).filter(is_name).copied().collect();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_annulus"))
            .args(&names)
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success() && !names.is_empty(), "{command}");
        let help = String::from_utf8(output.stdout).unwrap();
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{command}: no flag {flag}");
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen} commands");
}

#[cfg(feature = "cli")]
#[test]
fn the_readme_lists_every_command_and_no_other() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_annulus")).arg("--help").output();
    let help = String::from_utf8(output.unwrap().stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let real: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let readme = read("README.md");
    let (_, section) = readme.split_once("## Commands\n").unwrap();
    let listed: Vec<&str> = section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `annulus ")?.split('`').next())
        .collect();
    assert_eq!(listed, real);
}

/// The tables of docs/providers.md that show [`annulus::dialect::ROWS`].
#[cfg(feature = "server")]
mod kinds {
    use super::*;
    use annulus::dialect::{Auth, Dialect, ROWS, Row, ToolIds, UrlForm};

    const PATH: &str = "docs/providers.md";
    /// In the document whatever this program was built with.
    const OPTIONAL: &str = "bedrock";

    fn kind(row: &Row) -> String {
        let name = |name: &str| format!("`{name}`");
        let base_url =
            if row.base_url.is_empty() { "`base_urls`".into() } else { name(row.base_url) };
        let auth = match row.auth {
            Auth::Bearer => "`Authorization: Bearer`".to_owned(),
            Auth::Header(header) => name(header),
            #[cfg(feature = "bedrock")]
            Auth::Aws => "AWS signature, or `Authorization: Bearer`".to_owned(),
        };
        let key = if row.needs_key { auth } else { format!("{auth}, if any") };
        let variables: Vec<String> = row.key_variables.iter().map(|text| name(text)).collect();
        let variables = if variables.is_empty() { "none".into() } else { variables.join(", ") };
        let timeout =
            row.first_output_secs.map_or("as long as it takes".into(), |s| format!("{s} s"));
        let (kind, dialect) = (row.kind, row.dialect.name());
        format!("| `{kind}` | {dialect} | {base_url} | {key} | {variables} | {timeout} |")
    }

    fn oddities(row: &Row) -> String {
        let quirks = row.quirks;
        let mut wants = Vec::new();
        if row.dialect == Dialect::OpenAi {
            wants.push(format!("`{}`", quirks.max_tokens_key));
            if !quirks.stream_usage {
                wants.push("no `stream_options`".into());
            }
        }
        match quirks.tool_ids {
            ToolIds::Any => {}
            ToolIds::Alnum9 => wants.push("tool call ids of nine letters and digits".into()),
            ToolIds::Max(max) => wants.push(format!("tool call ids of at most {max} characters")),
        }
        if !quirks.drop_params.is_empty() {
            wants.push(format!("no `{}`", quirks.drop_params.join("`, `")));
        }
        let texts = [
            (quirks.bridge_tool_user, "an assistant message between a tool's result and the user"),
            (quirks.send_back_reasoning, "the reasoning back with its tool call"),
            (quirks.merge_same_role, "no role twice in a row"),
            (
                quirks.url_form == UrlForm::AzureDeployment,
                "with `api_version` the model in the path",
            ),
            (quirks.pads_events, "to be asked not to pad its events"),
            (quirks.think_tags, "`<think>` tags to be read as reasoning"),
            (quirks.may_lack_finish, "its answers to be whole without a reason for their end"),
            (quirks.marks_prefix, "a last assistant message to be marked as a prefix"),
        ];
        wants.extend(texts.iter().filter(|(on, _)| *on).map(|(_, text)| (*text).to_owned()));
        if quirks.temperature_max < 2.0 {
            wants.push(format!("a temperature of at most {}", quirks.temperature_max));
        }
        let headers =
            row.headers.iter().map(|(name, value)| format!("the header `{name}: {value}`"));
        wants.extend(headers);
        let wants =
            if wants.is_empty() { "nothing in particular".into() } else { wants.join(", ") };
        format!("| `{}` | {wants} |", row.kind)
    }

    /// The document with the table behind `mark` written anew.
    fn with_table(document: &str, mark: &str, line: fn(&Row) -> String) -> String {
        let (before, rest) = document.split_once(&format!("<!-- {mark} -->\n")).unwrap();
        let (table, after) = rest.split_once("<!-- end -->").unwrap();
        let is_optional = |line: &&str| line.starts_with(&format!("| `{OPTIONAL}` |"));
        let shown: Vec<&str> = table.lines().collect();
        let mut lines: Vec<String> = shown[..2].iter().map(|line| (*line).to_owned()).collect();
        lines.extend(ROWS.iter().map(line));
        if ROWS.iter().all(|row| row.kind != OPTIONAL) {
            // Kept as it is where it is: this program does not know better.
            if let Some(at) = shown.iter().position(is_optional) {
                lines.insert(at.min(lines.len()), shown[at].to_owned());
            }
        }
        format!("{before}<!-- {mark} -->\n{}\n<!-- end -->{after}", lines.join("\n"))
    }

    #[test]
    fn the_tables_of_providers_are_current() {
        let document = read(PATH);
        let current = with_table(&document, "kinds", kind);
        let current = with_table(&current, "oddities", oddities);
        if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
            fs::write(Path::new(ROOT).join(PATH), current).unwrap();
            return;
        }
        assert!(
            current == document,
            "{PATH} is out of date: run `UPDATE_DOCUMENTS=1 cargo test --test documents`, with and \
             without `--features bedrock`"
        );
    }

    #[test]
    fn every_example_of_the_providers_document_is_a_configuration() {
        use annulus::config::{Config, Sources};
        use annulus::paths::Places;

        let document = read(PATH);
        let examples = document.split("```toml\n").skip(1);
        let mut seen = 0;
        for example in examples.map(|rest| rest.split("```").next().unwrap()) {
            // Some name providers of other examples, and none has to say who is the default.
            let routed = "[providers.groq]\n[providers.openai]\n[providers.ollama]\n";
            let text = if example.contains("route =") {
                format!("{example}{routed}")
            } else {
                example.into()
            };
            let overrides = vec![("ipc.socket_path".to_owned(), "/s".to_owned())];
            let sources = Sources {
                file: Some((PATH.into(), text)),
                environment: Vec::new(),
                overrides,
                places: Places::of_process(),
            };
            let errors = Config::load(&sources).err().map_or_else(Vec::new, |errors| errors.0);
            let is_real = |error: &&annulus::config::ConfigError| {
                let is_optional = cfg!(not(feature = "bedrock")) && error.key.contains(OPTIONAL);
                error.key != "default_provider" && !is_optional
            };
            assert_eq!(errors.iter().find(is_real), None, "{example}");
            seen += 1;
        }
        assert!(seen >= 5, "{seen} examples");
    }
}
