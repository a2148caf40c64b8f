//! Keeps keys and prompts out of core files: the memory of a daemon that asks providers on the
//! network is nobody's to read.
//!
//! Copies of a key are in many places (headers, buffers of HTTP and TLS, registers), so to leave out
//! the pages of some would promise more than it does. A process that is not dumpable leaves no core
//! whatever `core_pattern` and the limits say, and no other process of the user can read its memory
//! or trace it (prctl(2), `PR_SET_DUMPABLE`; core(5)). The price: its files under `/proc` are root's,
//! so a debugger or a profiler needs root, or `upstream.core_dumps`.

use annulus::config::{Config, ProviderConfig};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::failure::Failure;

/// Forbids them, unless the configuration allows them or there is nothing to hide. To be called before
/// the first key is read.
///
/// # Errors
///
/// The system refuses, which no Linux does.
pub(crate) fn forbid(config: &Config) -> Result<(), Failure> {
    let mut providers = config.providers.values();
    let has_secrets = providers.any(|provider| ProviderConfig::remote(provider).is_some());
    if !has_secrets || config.upstream.core_dumps {
        return Ok(());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Failure::io("keep in memory", "the keys (prctl PR_SET_DUMPABLE)"))
}
