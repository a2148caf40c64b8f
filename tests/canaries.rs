//! The list of canaries and the source name the same bugs, and every harness has one.
//!
//! `tools/canaries` plants them; that they are found is for it to show.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One row of `tools/canaries.d/list`.
struct Row {
    harness: String,
    check: String,
    canary: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn list() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tools/canaries.d/list")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        let [harness, check, canary] = [cells[0], cells[1], cells[2]].map(str::to_owned);
        Row { harness, check, canary }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|it| it.is_dir());
    let inside = directories.iter().flat_map(|directory| rust_files(directory));
    files
        .into_iter()
        .filter(|it| it.extension().is_some_and(|it| it == "rs"))
        .chain(inside)
        .collect()
}

/// The name in every `sound("…")` of the source.
fn hooks() -> Vec<String> {
    let mut hooks = Vec::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(file).unwrap();
        for hook in text.split("sound(\"").skip(1) {
            hooks.push(hook.split('"').next().unwrap().to_owned());
        }
    }
    hooks
}

#[test]
fn every_canary_of_the_source_is_in_the_list_and_none_else() {
    let hooks = hooks();
    let names: BTreeSet<&str> = hooks.iter().map(String::as_str).collect();
    assert_eq!(names.len(), hooks.len(), "one name for two bugs: {hooks:?}");
    let list = list();
    let listed: BTreeSet<&str> = list.iter().map(|row| row.canary.as_str()).collect();
    let unlisted: Vec<_> = names.difference(&listed).collect();
    assert!(unlisted.is_empty(), "no harness has to find {unlisted:?}: tools/canaries.d/list");
    let gone: Vec<_> = listed.difference(&names).collect();
    assert!(gone.is_empty(), "not in the source: {gone:?}");
}

/// What a harness consists of: nothing of it may be without a bug that it has to find.
#[test]
fn every_harness_has_a_canary_and_so_has_every_part_of_it() {
    let list = list();
    let checks = |harness: &str| -> BTreeSet<String> {
        let rows = list.iter().filter(|row| row.harness == harness);
        rows.map(|row| row.check.clone()).collect()
    };
    let stems = |directory: &str, prefix: &str| -> BTreeSet<String> {
        let files = rust_files(&root().join(directory)).into_iter();
        let stems = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned());
        stems.filter(|stem| stem.starts_with(prefix)).collect()
    };
    assert_eq!(checks("hostile"), stems("tests", "hostile_"));
    assert_eq!(checks("audit"), stems("tests", "alloc_"));
    assert_eq!(checks("fuzz"), stems("fuzz/fuzz_targets", ""));
    // A model is named by its file and the beginning of its name, and both must lead to one.
    for check in checks("models") {
        let (module, name) = check.split_once("::").expect(&check);
        let file = root().join("verification/src").join(module).with_extension("rs");
        let text = fs::read_to_string(&file).expect(&check);
        assert_eq!(text.matches(&format!("#[test]\nfn {name}")).count(), 1, "{check}");
    }
    let least = [("models", 8), ("simulation", 6), ("hostile", 8), ("sieges", 1), ("audit", 3)];
    for (harness, least) in least {
        let count = list.iter().filter(|row| row.harness == harness).count();
        assert!(count >= least, "{harness} has {count} canaries");
    }
    let harnesses: BTreeSet<&str> = list.iter().map(|row| row.harness.as_str()).collect();
    for harness in harnesses {
        assert!(root().join("tools/canaries.d").join(harness).is_file(), "{harness}");
    }
}
