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

/// In a file, a variable and a command; in no output.
const PLANTED_KEY: &str = "sk-planted-7f3a9c51";

/// A configuration with a key from each kind of source, and one provider whose key is exposed. Nobody
/// is asked: those with keys list no models, and where the other one should be nobody listens.
fn home_with_keys() -> (Home, String) {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    for (name, mode) in [("private", 0o600), ("exposed", 0o644)] {
        let path = home.write(name, PLANTED_KEY);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let at = home.path().display();
    let config = format!(
        "default_provider = \"good\"\n\
         [providers.good]\nkind = \"perplexity\"\nmodels = [\"m1\", \"m2\"]\n\
         keys = [\"env:PLANTED\", \"file:{at}/private\", \"command:echo {PLANTED_KEY}\"]\n\
         [providers.bad]\nkind = \"perplexity\"\n\
         keys = [\"file:{at}/exposed\", \"command:sh -c 'echo {PLANTED_KEY} >&2; exit 3'\"]\n\
         [providers.local]\nkind = \"ollama\"\nbase_urls = [\"http://127.0.0.1:1\"]\n[providers.loopback]\n"
    );
    let config = home.write("config.toml", &config);
    (home, config)
}

#[test]
fn providers_are_listed_and_checked_without_their_keys() {
    let (home, config) = home_with_keys();
    let run = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        let output =
            command.args(["--config", &config]).env("PLANTED", PLANTED_KEY).output().unwrap();
        for said in [stdout(&output), stderr(&output)] {
            assert!(!said.contains("planted"), "{arguments:?}: {said}");
        }
        output
    };

    let listed = run(&["providers", "list", "--json"]);
    assert_eq!(code(&listed), 0, "{}", stderr(&listed));
    let listed = json(&stdout(&listed));
    assert_eq!(listed["schema"], "annulus.providers_list/1");
    let good = &listed["providers"][1];
    assert_eq!((&good["name"], &good["is_default"]), (&"good".into(), &true.into()));
    let states: Vec<&str> =
        good["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["found", "found", "not_read"]);
    assert_eq!(listed["providers"][0]["keys"][0]["state"], "missing");
    assert_eq!(listed["providers"][2]["keys"][0]["state"], "unset");
    let said = stdout(&run(&["providers", "list"]));
    assert!(
        said.contains("good (default)\n") && said.contains("not set, and not needed\n"),
        "{said}"
    );

    let checked = run(&["providers", "check"]);
    assert_eq!(code(&checked), 1);
    let said = stdout(&checked);
    assert!(said.contains("ok: loopback: needs nothing\n"), "{said}");
    assert!(
        said.contains("failed: local: http://127.0.0.1:1: network error: cannot connect to "),
        "{said}"
    );
    assert!(said.contains("ok: good: perplexity, env:PLANTED, file:"), "{said}");
    assert!(said.contains("(mode 644): make it yours alone, `chmod 600 FILE`\n"), "{said}");
    assert!(said.contains("failed: bad: command:sh …: the program ended with code 3"), "{said}");

    assert_eq!(code(&run(&["providers", "check", "good"])), 0);
    let bad = run(&["providers", "check", "bad", "--json"]);
    assert_eq!(code(&bad), 1);
    let bad = json(&stdout(&bad));
    assert_eq!((&bad["schema"], &bad["ok"]), (&"annulus.providers_check/1".into(), &false.into()));
    assert_eq!(bad["providers"][0]["problems"].as_array().unwrap().len(), 2);

    assert_eq!(stdout(&run(&["providers", "models", "good"])), "m1\nm2\n");
    assert_eq!(code(&run(&["providers", "models", "bad"])), 1);
    for action in ["check", "models"] {
        let unknown = run(&["providers", action, "nobody"]);
        assert_eq!(code(&unknown), 2);
        assert!(stderr(&unknown).contains("there is no provider nobody: `annulus providers list`"));
    }
}

#[test]
fn every_kind_is_listed() {
    let home = Home::new();
    let kinds = json(&stdout(&home.annulus(&["providers", "list", "--all", "--json"])));
    assert_eq!(kinds["schema"], "annulus.providers_kinds/1");
    let kinds = kinds["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), annulus::dialect::ROWS.len() + 1);
    let said = stdout(&home.annulus(&["providers", "list", "--all"]));
    for kind in kinds {
        assert!(said.contains(kind["kind"].as_str().unwrap()), "{said}");
    }
}

#[test]
fn a_key_in_the_configuration_is_refused_and_not_repeated() {
    let home = Home::new();
    for (setting, explained) in [
        ("keys = [\"sk-planted\"]", "must be a list of the places where keys are"),
        ("keys = \"sk-planted\"", "never a key itself"),
        ("api_key = \"sk-planted\"", "did you mean providers.openai.keys?"),
        ("headers = [\"Authorization: Bearer sk-planted\"]", "none of which carries credentials"),
        ("base_urls = [\"https://sk-planted@host\"]", "URLs without credentials"),
        ("base_urls = [\"https://host/?key=sk-planted\"]", "URLs without credentials"),
    ] {
        let file = home.write("config.toml", &format!("[providers.openai]\n{setting}\n"));
        for arguments in
            [&["config", "check"] as &[&str], &["config", "check", "--json"], &["serve"]]
        {
            let output = home.command(arguments).args(["--config", &file]).output().unwrap();
            let said = stdout(&output) + &stderr(&output);
            assert_eq!(code(&output), 2, "{said}");
            assert!(!said.contains("planted"), "{said}");
            assert!(said.contains(":2") || said.contains("\"line\":2"), "{said}");
            assert!(said.contains(explained), "{said}");
        }
    }
    let mut command =
        home.command(&["config", "check", "--set", "providers.openai.keys=sk-planted"]);
    let output = command.env("ANNULUS_PROVIDERS_OPENAI_KEYS", "sk-planted").output().unwrap();
    let said = stderr(&output);
    assert_eq!((code(&output), said.lines().count()), (2, 2), "{said}");
    assert!(!said.contains("planted"), "{said}");
}

#[test]
fn names_of_models_with_dots_survive_config_show() {
    let home = Home::new();
    let text = "[models.\"gpt-4.1\"]\nroute = [\"loopback/x\"]\n[models.fast]\nroute = [\"loopback/y\"]\n[providers.loopback]\n";
    let file = home.write("config.toml", text);
    let shown = stdout(&home.annulus(&["config", "show", "--config", &file]));
    assert!(shown.contains("[models.\"gpt-4.1\"]\n"), "{shown}");
    let again = home.write("shown.toml", &shown);
    let output = home.annulus(&["config", "show", "--json", "--config", &again]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("\"models.gpt-4.1.route\""));
}
