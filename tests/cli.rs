//! The command line as a script sees it: the real program, its exit codes and what it prints.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home of its own, so that the user's configuration and daemon stay out of the test.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn annulus(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
        command
            .env_clear()
            // So that tools/coverage counts the program too.
            .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)))
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ended by itself")
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Names of all subcommands that `--help` lists.
fn subcommands(home: &Home) -> Vec<String> {
    let help = stdout(&home.annulus(&["--help"]));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_subcommand_has_help_with_the_exit_codes() {
    let home = Home::new();
    let names = subcommands(&home);
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        let output = home.annulus(&[name, "--help"]);
        assert_eq!(code(&output), 0, "{name}");
        let help = stdout(&output);
        assert!(help.contains("  3  no daemon listens on the socket"), "{name}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{name}: {help}");
    }
}

#[test]
fn hidden_subcommands_stay_hidden() {
    let names = subcommands(&Home::new());
    assert!(!names.iter().any(|name| name.contains("responder")), "{names:?}");
}

#[test]
fn usage_mistakes_end_with_2() {
    let home = Home::new();
    for arguments in [
        &["no-such-subcommand"] as &[&str],
        &["version", "--no-such-flag"],
        &["config", "show", "--set", "no-equals-sign"],
        &["config", "show", "--set", "ipc.max_connections=0"],
        &["config", "show", "--config", "/nowhere/config.toml"],
        &[],
    ] {
        assert_eq!(code(&home.annulus(arguments)), 2, "{arguments:?}");
    }
}

#[test]
fn mistakes_are_told_in_json_when_asked() {
    let home = Home::new();
    for arguments in [
        &["--json", "no-such-subcommand"] as &[&str],
        &["config", "show", "--json", "--set", "ipc.max_connections=0"],
    ] {
        let output = home.annulus(arguments);
        assert_eq!((code(&output), stdout(&output)), (2, String::new()));
        let value = json(&stderr(&output));
        assert_eq!(value["schema"], "annulus.error/1");
        assert_eq!((&value["kind"], &value["exit_code"]), (&"usage".into(), &2.into()));
        assert!(!value["errors"][0]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn config_init_writes_a_private_file_that_checks() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    let path = home.path().join(".config/annulus/config.toml");
    let output = home.annulus(&["config", "init"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("wrote {}\n", path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let output = home.annulus(&["config", "check"]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("ok: {}\n", path.display())));

    let again = home.annulus(&["config", "init"]);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    assert_eq!(code(&home.annulus(&["config", "init", "--force"])), 0);
}

#[test]
fn config_init_to_stdout_touches_nothing() {
    let home = Home::new();
    let output = home.annulus(&["config", "init", "--stdout"]);
    assert!(stdout(&output).contains("[ipc]"));
    assert!(!home.path().join(".config").exists());
}

#[test]
fn unknown_key_is_told_with_file_line_and_key() {
    let home = Home::new();
    let file = home.write("config.toml", "[ipc]\n\nmax_conections = 5\n");
    let output = home.annulus(&["config", "check", "--config", &file]);
    assert_eq!(code(&output), 2);
    let expected = format!(
        "annulus: {file}:3: ipc.max_conections: unknown setting, did you mean ipc.max_connections?\n"
    );
    assert_eq!(stderr(&output), expected);

    let output = home.annulus(&["config", "check", "--json", "--config", &file]);
    assert_eq!(code(&output), 2);
    let value = json(&stdout(&output));
    assert_eq!((&value["schema"], &value["ok"]), (&"annulus.config_check/1".into(), &false.into()));
    let mistake = &value["errors"][0];
    assert_eq!(
        (&mistake["file"], &mistake["line"], &mistake["key"]),
        (&file.into(), &3.into(), &"ipc.max_conections".into())
    );
}

#[test]
fn config_show_tells_values_and_their_origins_and_can_be_read_back() {
    let home = Home::new();
    let file = home.write("config.toml", "[shards]\nspin_us = 7\n");
    let mut command =
        home.command(&["config", "show", "--config", &file, "--set", "metrics.enable=false"]);
    let output = command.env("ANNULUS_IPC_MAX_CONNECTIONS", "9").output().unwrap();
    let shown = stdout(&output);
    let has = |words: [&str; 2]| {
        shown.lines().any(|line| line.starts_with(words[0]) && line.ends_with(words[1]))
    };
    assert!(has(["spin_us = 7", &format!("# {file}:2")]), "{shown}");
    assert!(has(["max_connections = 9", "# ANNULUS_IPC_MAX_CONNECTIONS"]), "{shown}");
    assert!(has(["enable = false", "# command line"]), "{shown}");
    assert!(has(["count = 1", "# default"]), "{shown}");

    let shown_file = home.write("shown.toml", &shown);
    let again = home.annulus(&["config", "show", "--json", "--config", &shown_file]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let settings = json(&stdout(&again))["settings"].clone();
    let settings = settings.as_array().unwrap();
    let setting = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(setting("ipc.max_connections")["value"], 9);
    assert_eq!(setting("metrics.enable")["value"], false);
    assert_eq!(setting("shards.spin_us")["origin"]["source"], "file");
}

#[test]
fn completions_are_made_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = home.annulus(&["completions", shell]);
        assert_eq!(code(&output), 0, "{shell}");
        assert!(stdout(&output).contains("annulus"), "{shell}");
    }
    assert_eq!(code(&home.annulus(&["completions", "tcsh"])), 2);
}

#[test]
fn manual_pages_are_made_for_every_subcommand() {
    let home = Home::new();
    let directory = home.path().join("man");
    let output = home.annulus(&["man", &directory.display().to_string()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for name in subcommands(&home) {
        let page = fs::read_to_string(directory.join(format!("annulus-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{name}");
    }
    let page = fs::read_to_string(directory.join("annulus.1")).unwrap();
    assert!(page.contains("no daemon listens on the socket"));
    assert_eq!(stdout(&home.annulus(&["man"])).lines().next(), page.lines().next());
}

#[test]
fn version_names_the_protocol() {
    let home = Home::new();
    let version = env!("CARGO_PKG_VERSION");
    let line = stdout(&home.annulus(&["version"]));
    assert!(line.starts_with(&format!("annulus {version} (protocol ")), "{line}");
    let value = json(&stdout(&home.annulus(&["version", "--json"])));
    assert_eq!(
        (&value["schema"], &value["version"]),
        (&"annulus.version/1".into(), &version.into())
    );
}

#[test]
fn reader_that_goes_away_ends_it_quietly() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = home.command(&["config", "init", "--stdout"]).stdout(writer).output().unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}

#[test]
fn colour_is_for_terminals_or_on_demand() {
    let home = Home::new();
    assert!(!stdout(&home.annulus(&["config", "show"])).contains('\x1b'));
    assert!(stdout(&home.annulus(&["config", "show", "--color=always"])).contains('\x1b'));
}

#[test]
fn without_a_daemon_clients_end_with_3_and_say_how_to_start_one() {
    let home = Home::new();
    for arguments in [&["ping"] as &[&str], &["call", "echo"], &["chat", "hello"]] {
        let output = home.annulus(arguments);
        assert_eq!(code(&output), 3, "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains("annulus/annulus.sock"), "{said}");
        assert!(said.ends_with("start one with `annulus serve`\n"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let output = home.annulus(&["ping", "--json", "--socket", "here.sock"]);
    let value = json(&stderr(&output));
    assert_eq!(
        (&value["schema"], &value["kind"]),
        (&"annulus.error/1".into(), &"no_daemon".into())
    );
}
