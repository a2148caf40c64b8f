//! `docs/configuration.md` shows the template that `annulus config init` writes, word for word.
//!
//! `UPDATE_DOCUMENTS=1 cargo test --test configuration_document` writes it anew.
#![cfg(feature = "server")]

use std::fs;

use annulus::config::Config;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
const START: &str = "```toml\n";
const END: &str = "```\n";

#[test]
fn the_documented_template_is_current() {
    let document = fs::read_to_string(PATH).unwrap();
    let (before, rest) = document.split_once(START).expect("a block of TOML");
    let (shown, after) = rest.split_once(END).expect("the end of the block");
    let template = Config::template();
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(PATH, format!("{before}{START}{template}{END}{after}")).unwrap();
        return;
    }
    assert!(
        shown == template,
        "docs/configuration.md is out of date: run \
         `UPDATE_DOCUMENTS=1 cargo test --test configuration_document`"
    );
}
