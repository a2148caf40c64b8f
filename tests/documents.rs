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
            None => read("src/connection/tests.rs"),
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
