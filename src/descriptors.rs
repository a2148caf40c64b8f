//! How many files a process may open: raised to what is needed, or a clear error.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// The hard limit is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{needed} open files are needed but only {allowed} allowed: raise the hard limit \
     (`ulimit -Hn {needed}`, or LimitNOFILE in systemd), or lower ipc.max_connections"
)]
pub struct DescriptorLimit {
    /// What is needed.
    pub needed: u64,
    /// The hard limit.
    pub allowed: u64,
}

/// Raises this process's soft limit of open files (RLIMIT_NOFILE, setrlimit(2)) to `needed`, if it is
/// lower; and the hard limit with it where the process may (CAP_SYS_RESOURCE, up to `fs.nr_open`), as
/// root in a container can.
///
/// # Errors
///
/// [`DescriptorLimit`] when the hard limit is lower and stays so.
pub fn raise_limit(needed: u64) -> Result<(), DescriptorLimit> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let refused = DescriptorLimit { needed, allowed: maximum.unwrap_or(u64::MAX) };
    let maximum = maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).map_err(|_| refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_high_enough_stays() {
        let before = getrlimit(Resource::Nofile);
        raise_limit(1).unwrap();
        assert_eq!(getrlimit(Resource::Nofile), before);
    }

    #[test]
    fn more_than_the_hard_limit_is_a_clear_error() {
        let before = getrlimit(Resource::Nofile);
        if let Some(allowed) = before.maximum {
            // More than `fs.nr_open` can be, so that not even root may.
            let needed = u64::from(u32::MAX);
            let error = raise_limit(needed).unwrap_err();
            assert_eq!(error, DescriptorLimit { needed, allowed });
            assert!(error.to_string().contains("ipc.max_connections"));
            assert_eq!(getrlimit(Resource::Nofile), before, "nothing was changed");
        }
    }
}
