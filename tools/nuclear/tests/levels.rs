//! The levels at a tiny scale: that they run, lose nothing, and find what is planted.
//!
//! The `annulus` program has to be built: `cargo test --workspace` does it.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// One level at a time: the pages of the daemon's program count as its memory, divided by the number of
/// processes that map them just then.
static ALONE: Mutex<()> = Mutex::new(());

fn nuclear(arguments: &[&str]) -> Output {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = Path::new(env!("CARGO_BIN_EXE_nuclear"));
    let annulus = program.with_file_name("annulus");
    Command::new(program).args(arguments).arg("--annulus").arg(annulus).output().unwrap()
}

/// The lines of a level's report, by what they are about.
fn line(output: &Output, what: &str) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let lines = report["lines"].as_array().unwrap();
    let found = lines.iter().find(|line| line["what"].as_str().unwrap().starts_with(what));
    found.unwrap_or_else(|| panic!("no {what} in {report}")).clone()
}

#[test]
fn a_bomb_and_large_payloads_lose_nothing() {
    for level in ["1", "2"] {
        let output = nuclear(&["--level", level, "--scale", "100", "--json"]);
        assert_eq!(line(&output, "good answers")["met"], true, "level {level}");
    }
}

#[test]
fn probes_run_beside_saturated_connections() {
    let output = nuclear(&["--level", "3", "--scale", "100", "--json"]);
    assert!(line(&output, "probe: p99.9")["met"].is_boolean());
}

#[test]
fn a_leak_of_a_connection_in_each_cycle_is_found() {
    let honest = nuclear(&["--level", "4", "--scale", "100", "--json"]);
    assert_eq!(line(&honest, "own memory, last")["met"], true);
    let leaking = nuclear(&["--level", "4", "--scale", "100", "--json", "--plant-leak"]);
    assert_eq!(leaking.status.code(), Some(1));
    assert_eq!(line(&leaking, "connections")["met"], false);
}

#[test]
fn a_request_to_a_daemon_at_rest_is_found_with_the_thread_that_woke_up() {
    let quiet = nuclear(&["--rest", "--scale", "100", "--json"]);
    assert_eq!(line(&quiet, "at rest: wake-ups")["met"], true);
    assert!(line(&quiet, "1000 connections x 1 KiB: PSS")["met"].is_boolean());
    let planted = nuclear(&["--rest", "--scale", "100", "--json", "--plant-request"]);
    assert_eq!(planted.status.code(), Some(1));
    assert_eq!(line(&planted, "at rest: wake-ups")["met"], false);
    assert_eq!(line(&planted, "at rest: annulus-shard0")["met"], serde_json::Value::Null);
}

#[test]
fn chaos_says_that_it_is_not_built_yet() {
    let output = nuclear(&["--level", "5"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not built yet"));
}
