//! Keys from every kind of source, and every way in which a source can fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use secrecy::ExposeSecret as _;

use super::*;
use crate::dialect::ROWS;

/// What no error may contain.
const PLANTED: &str = "sk-planted-7f3a9c";

fn source(text: &str) -> KeySource {
    KeySource::parse(text).unwrap()
}

fn surroundings() -> Surroundings {
    Surroundings {
        variable: |name| match name {
            "SET" => Some(format!(" {PLANTED}\n").into()),
            "BLANK" => Some("  ".into()),
            "TWO_WORDS" => Some(format!("Bearer {PLANTED}").into()),
            "HEADER" => Some(format!("{PLANTED}\r\nX-Other: 1").into()),
            "LATIN" => Some(OsString::from_vec([PLANTED.as_bytes(), &[0xe9]].concat())),
            "LONG" => Some(PLANTED.repeat(KEY_SIZE_MAX).into()),
            _ => None,
        },
        credentials: None,
        secret_tool: "/nowhere/secret-tool".into(),
        time_max: Duration::from_secs(10),
    }
}

use std::os::unix::ffi::OsStringExt as _;

/// The key of a source, or what its error says. No error repeats what was found.
fn read_in(text: &str, surroundings: &Surroundings) -> Result<String, KeyProblem> {
    match source(text).read_in(surroundings) {
        Ok(key) => {
            assert!(!format!("{key:?}").contains(PLANTED));
            Ok(key.expose_secret().to_owned())
        }
        Err(error) => {
            let told = format!("{error} {error:?}");
            assert!(!told.contains("planted"), "{told}");
            assert!(error.to_string().starts_with(&error.source_text), "{told}");
            Err(error.problem)
        }
    }
}

fn read(text: &str) -> Result<String, KeyProblem> {
    read_in(text, &surroundings())
}

/// A file with a key, of these permissions.
fn key_file(directory: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    format!("file:{}", path.display())
}

#[test]
fn a_variable_holds_one_clean_line() {
    assert_eq!(read("env:SET"), Ok(PLANTED.to_owned()));
    assert_eq!(read("env:UNSET"), Err(KeyProblem::NotSet));
    assert_eq!(read("env:BLANK"), Err(KeyProblem::Empty));
    assert_eq!(read("env:LONG"), Err(KeyProblem::TooLarge));
    for name in ["TWO_WORDS", "HEADER", "LATIN"] {
        assert_eq!(read(&format!("env:{name}")), Err(KeyProblem::Malformed), "{name}");
    }
}

#[test]
fn the_process_environment_is_read() {
    // Cargo sets it for every test.
    assert!(source("env:CARGO_PKG_NAME").read().is_ok());
    let error = source("env:ANNULUS_TEST_NO_SUCH_KEY").read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "env:ANNULUS_TEST_NO_SUCH_KEY: the variable is not set: set it where the daemon starts, \
         or take another source"
    );
}

#[test]
fn a_file_is_for_our_eyes_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| key_file(directory.path(), name, text, mode);
    let line = format!("{PLANTED}\n");
    for mode in [0o600, 0o400] {
        assert_eq!(read(&file("private", &line, mode)), Ok(PLANTED.to_owned()));
        fs::remove_file(directory.path().join("private")).unwrap();
    }
    for mode in [0o640, 0o604, 0o644, 0o620, 0o601] {
        assert_eq!(read(&file("shared", &line, mode)), Err(KeyProblem::Exposed { mode }));
    }
    assert_eq!(read(&file("empty", "\n", 0o600)), Err(KeyProblem::Empty));
    let two = format!("{PLANTED}\n{PLANTED}\n");
    assert_eq!(read(&file("two", &two, 0o600)), Err(KeyProblem::Malformed));
    let large = "x".repeat(KEY_SIZE_MAX + 1);
    assert_eq!(read(&file("large", &large, 0o600)), Err(KeyProblem::TooLarge));

    let error = source(&file("open", &line, 0o644)).read().unwrap_err();
    let said = error.to_string();
    assert!(said.ends_with("(mode 644): make it yours alone, `chmod 600 FILE`"), "{said}");
}

#[test]
fn a_link_is_judged_by_what_it_leads_to() {
    let directory = tempfile::tempdir().unwrap();
    key_file(directory.path(), "key", PLANTED, 0o644);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("key"), &link).unwrap();
    let text = format!("file:{}", link.display());
    assert_eq!(read(&text), Err(KeyProblem::Exposed { mode: 0o644 }));
    fs::set_permissions(&link, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&text), Ok(PLANTED.to_owned()));
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    for path in [fifo.as_path(), directory.path(), Path::new("/dev/zero")] {
        assert_eq!(read(&format!("file:{}", path.display())), Err(KeyProblem::NotAFile));
    }
    let missing = read("file:/nowhere/key").unwrap_err();
    assert!(
        matches!(missing, KeyProblem::Unreadable { reason } if reason.contains("No such file"))
    );
}

#[test]
fn a_file_of_another_user_is_refused() {
    // Everybody has one of root's that is private; root has none of somebody else's at hand.
    let file = Path::new("/etc/shadow");
    if rustix::process::geteuid().is_root() {
        let directory = tempfile::tempdir().unwrap();
        let text = key_file(directory.path(), "key", PLANTED, 0o600);
        std::os::unix::fs::chown(directory.path().join("key"), Some(65_534), None).unwrap();
        assert_eq!(read(&text), Err(KeyProblem::NotOurs));
    } else if file.exists() {
        assert!(read("file:/etc/shadow").is_err());
    }
}

#[test]
fn a_credential_is_in_the_directory_of_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    key_file(directory.path(), "openai", PLANTED, 0o440);
    assert_eq!(read("credential:openai"), Err(KeyProblem::NoCredentials));
    let credentials = Some(directory.path().to_owned());
    let surroundings = Surroundings { credentials, ..surroundings() };
    assert_eq!(read_in("credential:openai", &surroundings), Ok(PLANTED.to_owned()));
    let other = read_in("credential:other", &surroundings);
    assert!(matches!(other, Err(KeyProblem::Unreadable { .. })));
}

/// A program of these lines. A shell writes it, because what this process has open for writing is also
/// open in whatever another test forks just then, and nobody may run it meanwhile (`ETXTBSY`).
fn program(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("program");
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$2" && chmod 700 "$2""#;
    let shell = Command::new("sh").args(["-c", write, "sh", script]).arg(&path).status();
    assert!(shell.unwrap().success());
    path
}

#[test]
fn a_command_gives_its_first_line() {
    assert_eq!(read(&format!("command:echo {PLANTED}")), Ok(PLANTED.to_owned()));
    let two = format!("command:sh -c 'echo {PLANTED}; echo login: ada'");
    assert_eq!(read(&two), Ok(PLANTED.to_owned()));
    assert_eq!(read("command:true"), Err(KeyProblem::Empty));
    assert_eq!(read("command:/nowhere/program"), Err(KeyProblem::NoProgram));
    let failed = read(&format!("command:sh -c 'echo {PLANTED}; echo {PLANTED} >&2; exit 7'"));
    assert_eq!(failed, Err(KeyProblem::ProgramFailed { outcome: "code 7".to_owned() }));
    let endless = format!("command:head -c {} /dev/zero", KEY_SIZE_MAX + 1);
    assert_eq!(read(&endless), Err(KeyProblem::TooLarge));
    let impatient = Surroundings { time_max: Duration::from_millis(100), ..surroundings() };
    assert_eq!(read_in("command:sleep 60", &impatient), Err(KeyProblem::ProgramTooSlow));
    // No shell: a variable stays what it is, which is a key for all that we know.
    assert_eq!(read("command:echo $HOME"), Ok("$HOME".to_owned()));
}

#[test]
fn the_keyring_is_asked_by_attributes() {
    assert_eq!(read("keyring:annulus/ada"), Err(KeyProblem::NoSecretTool));
    let said = KeyProblem::NoSecretTool.to_string();
    assert!(said.contains("libsecret-tools") && said.contains("another source"), "{said}");

    let directory = tempfile::tempdir().unwrap();
    let script = format!("[ \"$*\" = 'lookup service annulus username ada' ] && printf {PLANTED}");
    let secret_tool = program(directory.path(), &script);
    let surroundings = Surroundings { secret_tool, ..surroundings() };
    assert_eq!(read_in("keyring:annulus/ada", &surroundings), Ok(PLANTED.to_owned()));
    assert_eq!(read_in("keyring:annulus/bob", &surroundings), Err(KeyProblem::NotInKeyring));
}

#[test]
fn of_customary_variables_one_is_enough() {
    let row = Row { key_variables: &["UNSET", "SET", "TWO_WORDS"], ..ROWS[0] };
    let config = RemoteConfig::of(&row);
    let keys = Keys::read_in(&row, &config, &surroundings());
    assert_eq!((keys.found.len(), keys.missing.len()), (1, 0));
    assert_eq!(keys.found[0].0, source("env:SET"));

    let row = Row { key_variables: &["UNSET", "BLANK"], ..ROWS[0] };
    let keys = Keys::read_in(&row, &RemoteConfig::of(&row), &surroundings());
    assert_eq!((keys.found.len(), keys.missing.len()), (0, 2));

    // Local servers do without, but not with one that is wrong.
    let row = Row { needs_key: false, ..row };
    let keys = Keys::read_in(&row, &RemoteConfig::of(&row), &surroundings());
    assert_eq!(keys.missing.len(), 1);
    assert_eq!(keys.missing[0].problem, KeyProblem::Empty);
}

#[test]
fn every_configured_source_has_to_give_a_key() {
    let row = Row { needs_key: false, ..ROWS[0] };
    let keys = vec![source("env:SET"), source("env:UNSET")];
    let config = RemoteConfig { keys, ..RemoteConfig::of(&row) };
    let keys = Keys::read_in(&row, &config, &surroundings());
    assert_eq!((keys.found.len(), keys.missing.len()), (1, 1));
    assert!(!format!("{keys:?}").contains("planted"));
}
