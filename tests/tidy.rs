//! House rules that no compiler knows: where `unsafe` and atomics may be, which module may name
//! which, and what must not be in the source at all.
//!
//! Every rule reads text, so it is a rule about how things are written. A rule that is in the way
//! is changed here, in the same commit, where a reviewer sees it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Files of `src` that may opt in to `unsafe`, each with a safe face.
const UNSAFE: [&str; 10] = [
    "bench/inherit.rs",
    "bench/mapping.rs",
    "checksum.rs",
    "copy.rs",
    "pool/lease.rs",
    "region/mapping.rs",
    "scheduling.rs",
    "shard/ringer.rs",
    "shard/uring.rs",
    "trim.rs",
];

/// Files of `src` that may name the standard library's atomics. Everyone else takes them from
/// `sync`, so that the model checks see them; the benchmark measures the machine, not our code.
const ATOMICS: [&str; 4] = ["bench/cache_line.rs", "bench/mapping.rs", "bench/slots.rs", "sync.rs"];

/// The modules, lowest row first. A row may name itself and the rows above it in this table.
const ROWS: [&[&str]; 7] = [
    // Vocabulary.
    &["sync", "limits", "checksum", "copy", "wire", "protocol", "error"],
    // Mechanism.
    &[
        "ring",
        "pool",
        "region",
        "wake",
        "executor",
        "stand_in",
        "descriptors",
        "footprint",
        "trim",
        "paths",
        "metrics",
        "scheduling",
    ],
    // Without a clock and without a system call.
    &["link", "connection", "dialect"],
    // Knows what there is to configure: the kinds of provider among it.
    &["config"],
    // Shells.
    &["client", "shard", "control", "worker", "http", "provider"],
    &["server", "bench"],
    &["cli", "main"],
];

/// What lies at the crate's root, and the module that it comes from.
const ROOT_NAMES: [(&str, &str); 2] = [("IpcError", "error"), ("MessageType", "wire")];

/// Modules that are pure: what they need of the world is an argument.
const PURE: [&str; 5] = ["connection", "dialect", "protocol", "ring", "wire"];
const IMPURE: [&str; 6] =
    ["Instant::now", "SystemTime::now", "rustix::", "std::fs", "std::net", "std::thread"];

/// One file of `src`, without its tests and comments; line numbers are kept.
struct Source {
    /// From `src`, with slashes.
    path: String,
    lines: Vec<String>,
}

impl Source {
    /// The top-level module.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Lines that contain `needle`, as `path:line: text`.
    fn hits(&self, needle: &str) -> Vec<String> {
        let hit = |(index, line): (usize, &String)| {
            line.contains(needle)
                .then(|| format!("src/{}:{}: {}", self.path, index + 1, line.trim()))
        };
        self.lines.iter().enumerate().filter_map(hit).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(ROOT).join("src");
    rust_files(&root)
        .into_iter()
        .filter_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let is_test =
                path.split('/').any(|part| ["tests", "tests.rs", "testing.rs"].contains(&part));
            let text = fs::read_to_string(&file).unwrap();
            (!is_test).then(|| Source { path, lines: without_comments(without_tests(&text)) })
        })
        .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Blanks every item that is there for tests only; rustfmt closes it at its own indentation.
fn without_tests(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    // The line that ends the item, and whether its first line has been seen.
    let mut item: Option<Option<String>> = None;
    for line in text.lines() {
        let code = line.trim_start();
        let indentation = &line[..line.len() - code.len()];
        match &item {
            None if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test") => {
                item = Some(None);
            }
            None => {
                lines.push(line.to_owned());
                continue;
            }
            Some(None) if code.starts_with("#[") => {}
            Some(None) if code.ends_with('{') => item = Some(Some(format!("{indentation}}}"))),
            Some(None) => item = None,
            Some(Some(end)) if line == end => item = None,
            Some(Some(_)) => {}
        }
        lines.push(String::new());
    }
    lines
}

/// Cuts comments off. A `//` inside a string goes too; no rule here looks behind one.
fn without_comments(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_none(hits: &[String], rule: &str) {
    assert!(hits.is_empty(), "{rule}:\n{}", hits.join("\n"));
}

/// Only the files of `allowed` may contain one of `needles`, and each of them does.
#[track_caller]
fn assert_only_in(allowed: &[&str], needles: &[&str], rule: &str) {
    let mut strays = Vec::new();
    let mut unused: BTreeSet<&str> = allowed.iter().copied().collect();
    for source in sources() {
        let hits: Vec<String> = needles.iter().flat_map(|needle| source.hits(needle)).collect();
        if !allowed.contains(&source.path.as_str()) {
            strays.extend(hits);
        } else if !hits.is_empty() {
            unused.remove(source.path.as_str());
        }
    }
    assert_none(&strays, rule);
    assert!(unused.is_empty(), "{rule}: no longer needed for {unused:?}");
}

#[test]
fn unsafe_is_where_the_list_says() {
    let needles =
        ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code", "expect(unsafe_code"];
    assert_only_in(&UNSAFE, &needles, "`unsafe` outside of the files that may have it");
}

#[test]
fn atomics_come_from_sync() {
    let needles = ["std::sync::atomic", "core::sync::atomic"];
    assert_only_in(&ATOMICS, &needles, "atomics that the model checks do not see");
}

#[test]
fn every_unsafe_says_why_it_is_safe() {
    let mut silent = Vec::new();
    for directory in ["src", "tests", "examples", "fuzz/src", "fuzz/fuzz_targets", "verification"] {
        for file in rust_files(&Path::new(ROOT).join(directory)) {
            let text = fs::read_to_string(&file).unwrap();
            let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
            for (index, line) in lines.iter().enumerate() {
                let code = line.split("//").next().unwrap();
                let is_unsafe = code.contains("unsafe {") || code.contains("unsafe impl");
                // A line of this very file quotes it.
                let is_quoted = code.contains("\"unsafe ");
                let above = lines[..index].iter().rev();
                let mut reasons =
                    above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
                if is_unsafe && !is_quoted && !reasons.any(|line| line.contains("SAFETY:")) {
                    silent.push(format!("{}:{}: {line}", file.display(), index + 1));
                }
            }
        }
    }
    assert_none(&silent, "`unsafe` without a SAFETY comment right above it");
}

#[test]
fn nothing_unfinished_is_left_and_nothing_unwraps() {
    let mut hits = Vec::new();
    for source in sources() {
        for needle in ["todo!", "unimplemented!", "dbg!", ".unwrap()", "unreachable_unchecked"] {
            hits.extend(source.hits(needle));
        }
    }
    assert_none(&hits, "not in the source; `expect` with the reason, or an error");
    let mut hits = Vec::new();
    for source in sources() {
        for needle in [".expect(\"\")", "unreachable!()", "panic!()", "assert!(false)"] {
            hits.extend(source.hits(needle));
        }
    }
    assert_none(&hits, "what cannot be is said in words");
}

/// Among them `missing_docs`: every public item is documented, or says why not.
#[test]
fn lints_are_on_and_nobody_opts_out_without_a_reason() {
    let root = Path::new(ROOT);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for lint in ["missing_docs", "unreachable_pub", "undocumented_unsafe_blocks"] {
        assert!(manifest.contains(&format!("\n{lint} = \"warn\"\n")), "{lint} is on");
    }
    let steps = fs::read_to_string(root.join(".ci/run")).unwrap();
    let lint = steps.split("\nlint() {").nth(1).unwrap().split("\n}").next().unwrap();
    let commands: Vec<&str> = lint.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(!commands.is_empty());
    assert!(commands.iter().all(|line| line.ends_with("-- -D warnings")), "{commands:?}");

    let mut silent = Vec::new();
    for source in sources() {
        for (index, line) in source.lines.iter().enumerate() {
            let code = line.trim_start();
            let opts_out = ["#[allow(", "#![allow(", "#[expect(", "#![expect("]
                .iter()
                .any(|attribute| code.starts_with(attribute));
            // The list of files with `unsafe` is the reason for those.
            if opts_out && !code.contains("(unsafe_code)]") {
                let rest = &source.lines[index..];
                let end = rest.iter().position(|line| line.contains(")]")).unwrap_or(0);
                if !rest[..=end].iter().any(|line| line.contains("reason = \"")) {
                    silent.push(format!("src/{}:{}: {code}", source.path, index + 1));
                }
            }
        }
    }
    assert_none(&silent, "a lint is off for no reason");
}

#[test]
fn no_row_names_a_higher_one() {
    let row = |module: &str| {
        let module =
            ROOT_NAMES.iter().find(|(name, _)| *name == module).map_or(module, |(_, from)| from);
        ROWS.iter()
            .position(|row| row.contains(&module))
            .unwrap_or_else(|| panic!("module {module} is in no row: put it where it belongs"))
    };
    let mut upward = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = row(source.module());
        if own == ROWS.len() - 1 {
            // The program is a crate of its own, above all of this.
            continue;
        }
        for (index, line) in source.lines.iter().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let named = &rest[..end.unwrap_or(rest.len())];
                assert!(!named.is_empty(), "src/{}: one module in a `use`, please", source.path);
                if row(named) > own {
                    upward.push(format!("src/{}:{}: {}", source.path, index + 1, line.trim()));
                }
            }
        }
    }
    assert_none(&upward, "a lower row names a higher one");
}

/// Else a module could name another one past the rule above.
#[test]
fn nobody_reaches_the_crates_root_by_super() {
    let mut hits = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let parts: Vec<&str> = source.path.split('/').collect();
        // How many modules this file's items are in: `a.rs` and `a/mod.rs` one, `a/b.rs` two.
        let depth = parts.len() - usize::from(parts.ends_with(&["mod.rs"]));
        let to_root = "super::".repeat(depth);
        // Items of an inline module are deeper, and indented.
        let hit = |line: &&String| !line.starts_with(' ') && line.contains(&to_root);
        hits.extend(source.lines.iter().filter(hit).map(|line| format!("{}: {line}", source.path)));
    }
    assert_none(&hits, "by `crate::` instead");
}

#[test]
fn the_pure_modules_have_no_clock_and_no_system_calls() {
    let mut hits = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.module())) {
        hits.extend(IMPURE.iter().flat_map(|needle| source.hits(needle)));
    }
    assert_none(&hits, "what these modules need of the world is an argument");
}

/// Their names are held against docs/protocol.md by `tests/protocol_document.rs`, and
/// `tests/alloc_connections.rs` has a client for each that a client can cause.
#[test]
fn every_fault_is_made_to_happen_by_a_test() {
    let variants = variants("wire/fault.rs", "Fault");
    assert_eq!(variants.len(), annulus::wire::Fault::NAMES.len(), "{variants:?}");
    assert_none(&untested("Fault", variants), "no test names these faults");
}

#[test]
fn every_error_is_made_to_happen_by_a_test() {
    let variants = variants("error.rs", "IpcError");
    assert!(variants.len() >= 17, "{variants:?}");
    assert_none(&untested("IpcError", variants), "no test names these errors");
}

/// The variants of an enum of `src/file`.
fn variants(file: &str, name: &str) -> Vec<String> {
    let declared = fs::read_to_string(Path::new(ROOT).join("src").join(file)).unwrap();
    let head = format!("pub enum {name} {{");
    let declared = declared.split(&head).nth(1).unwrap().split("\n}").next().unwrap();
    let is_variant = |line: &&str| {
        let name = line.trim_start();
        line.len() - name.len() == 4 && name.starts_with(|c: char| c.is_ascii_uppercase())
    };
    let name = |line: &str| line.trim().split(['(', '{', ',', ' ']).next().unwrap().to_owned();
    declared.lines().filter(is_variant).map(name).collect()
}

/// Those of `variants` that no line of a test names.
fn untested(name: &str, variants: Vec<String>) -> Vec<String> {
    let root = Path::new(ROOT);
    let mut tests = String::new();
    for directory in ["src", "tests"] {
        for file in rust_files(&root.join(directory)) {
            let text = fs::read_to_string(&file).unwrap();
            // What `without_tests` blanks is the tests; of test files all is.
            let is_whole = file.components().any(|part| {
                ["tests", "tests.rs", "testing.rs"].iter().any(|name| part.as_os_str() == *name)
            });
            let kept = without_tests(&text);
            for (line, kept) in text.lines().zip(kept) {
                if is_whole || kept.is_empty() {
                    tests.push_str(line);
                    tests.push('\n');
                }
            }
        }
    }
    let is_untested = |variant: &String| {
        let named = format!("{name}::{variant}");
        !tests
            .match_indices(&named)
            .any(|(at, _)| !tests[at + named.len()..].starts_with(|c: char| c.is_alphanumeric()))
    };
    variants.into_iter().filter(is_untested).collect()
}

#[test]
fn no_tracked_file_names_a_place_on_one_machine() {
    let listed = Command::new("git").arg("-C").arg(ROOT).args(["ls-files", "-z"]).output();
    let Some(listed) = listed.ok().filter(|output| output.status.success()) else {
        println!("skipped: this is not a git checkout");
        return;
    };
    // Put together here, so that this file does not name them.
    let places =
        [["/wo", "rk/"], ["/tmp/", "wt"], ["/ro", "ot/"], ["/ho", "me/u"]].map(|p| p.concat());
    let mut hits = Vec::new();
    for path in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
        // Files that are not text, or that the working tree has deleted, name nothing.
        let Ok(text) = fs::read_to_string(Path::new(ROOT).join(path)) else { continue };
        for (index, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place.as_str())) {
                hits.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert_none(&hits, "absolute paths of somebody's machine");
}

#[test]
fn the_readme_begins_with_its_two_commands() {
    let Ok(readme) = fs::read_to_string(Path::new(ROOT).join("README.md")) else {
        println!("skipped: there is no README yet");
        return;
    };
    assert!(readme.contains("```sh\ncargo run --release -- demo\ncargo test\n```"));
}

#[test]
fn the_rules_see_code_and_neither_tests_nor_comments() {
    let text = "code(); // a comment\n#[cfg(test)]\nmod tests {\n    x.unwrap();\n}\nmore();\n\
                #[cfg(all(test, unix))]\nmod tests;\nlast();";
    let lines = without_comments(without_tests(text));
    let kept: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|l| !l.is_empty()).collect();
    assert_eq!(kept, ["code();", "more();", "last();"]);
    assert_eq!(lines.len(), text.lines().count());
}
