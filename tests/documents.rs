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
