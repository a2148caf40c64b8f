//! Gives the linker `serving.ld`, which puts the code that serves connections together.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=serving.ld");
    let target_env = env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" && target_env == "gnu" {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("serving.ld");
        println!("cargo::rustc-link-arg-bin=annulus=-Wl,-T,{}", script.display());
    }
}
