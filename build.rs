//! Gives the linker `serving.ld`, which puts the code that serves connections together, and lets
//! `tools/planted-test` make a build in which bugs can be planted.

use std::env;
use std::path::Path;

fn main() {
    // Asked when this runs, and watched as a whole path: a `target` that was moved or copied would keep
    // the old one otherwise.
    let folder = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&folder).join("serving.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    let target_env = env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" && target_env == "gnu" {
        println!("cargo::rustc-link-arg-bin=annulus=-Wl,-T,{}", script.display());
    }

    // In RUSTFLAGS the cfg would be every dependency's, and all of them be built once more for it.
    println!("cargo::rerun-if-env-changed=ANNULUS_CANARY_BUILD");
    if env::var_os("ANNULUS_CANARY_BUILD").is_some() {
        println!("cargo::rustc-cfg=annulus_canary");
    }
}
