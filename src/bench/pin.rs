//! Which cores the two sides run on.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::BenchError;

/// The cores of the two processes of a benchmark, as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Where the answering side runs.
    pub server: usize,
    /// Where the measuring side runs.
    pub client: usize,
}

impl Cores {
    /// Chooses two different cores among those allowed to this thread; ask before pinning it.
    ///
    /// Core 0 comes last, because it serves most interrupts, and two hardware threads of one core
    /// are a pair only if nothing else is left. Low numbers come first: on hybrid processors they
    /// are the fast ones.
    ///
    /// # Errors
    ///
    /// [`BenchError::OneCore`] when only one is allowed; [`BenchError::System`] when the mask is
    /// unreadable.
    pub fn choose() -> Result<Self, BenchError> {
        Self::choose_from(&allowed_cores()?, share_a_core)
    }

    /// Both sides on the client's core: what a wake-up costs when no other core has to be woken.
    #[must_use]
    pub fn on_one_core(self) -> Self {
        Self { server: self.client, client: self.client }
    }

    fn choose_from(
        allowed: &[usize],
        are_siblings: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, BenchError> {
        let mut preferred = allowed.to_vec();
        preferred.sort_by_key(|&core| (core == 0, core));
        let (&server, others) =
            preferred.split_first().expect("a running thread is allowed somewhere");
        let apart = others.iter().find(|&&core| !are_siblings(server, core));
        match apart.or(others.first()) {
            Some(&client) => Ok(Self { server, client }),
            None => Err(BenchError::OneCore { core: server }),
        }
    }
}

/// Keeps the current thread on one core; the former mask comes back on drop.
///
/// It must be dropped by the thread that made it, so it is not `Send`.
#[derive(Debug)]
pub struct Pinned {
    former: CpuSet,
    /// Raw pointers are not `Send`.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Pinned {
    /// Moves the current thread to `core`. Threads and processes that it starts inherit the mask.
    ///
    /// # Errors
    ///
    /// [`BenchError::System`]: the core does not exist or is not allowed (`EINVAL`).
    pub fn to(core: usize) -> Result<Self, BenchError> {
        let former =
            sched_getaffinity(None).map_err(BenchError::system("read the affinity mask"))?;
        pin_for_good(core)?;
        Ok(Self { former, not_send: std::marker::PhantomData })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The mask was in force a moment ago; if it has been narrowed since, the thread stays put.
        let _ = sched_setaffinity(None, &self.former);
    }
}

/// Moves the current thread to `core` and leaves it there.
pub(super) fn pin_for_good(core: usize) -> Result<(), BenchError> {
    let mut mask = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        mask.set(core); // Else the mask stays empty, which is refused like a core that is absent.
    }
    sched_setaffinity(None, &mask).map_err(BenchError::system("pin the thread to its core"))
}

/// The cores that the current thread may run on, in ascending order.
fn allowed_cores() -> Result<Vec<usize>, BenchError> {
    let mask = sched_getaffinity(None).map_err(BenchError::system("read the affinity mask"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| mask.is_set(core)).collect())
}

/// Whether two logical cores are hardware threads of one physical core; no when sysfs does not say.
fn share_a_core(left: usize, right: usize) -> bool {
    let siblings = |core| {
        fs::read_to_string(format!(
            "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        ))
        .ok()
    };
    siblings(left).is_some_and(|list| siblings(right) == Some(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_core_is_an_error_that_names_it() {
        let refused = Cores::choose_from(&[3], |_, _| false).unwrap_err();
        assert!(matches!(refused, BenchError::OneCore { core: 3 }));
        assert!(refused.to_string().contains("only core 3"));
    }

    #[test]
    fn core_zero_is_taken_last() {
        let chosen = |allowed: &[usize]| Cores::choose_from(allowed, |_, _| false).unwrap();
        assert_eq!(chosen(&[0, 1]), Cores { server: 1, client: 0 });
        assert_eq!(chosen(&[0, 1, 2, 3]), Cores { server: 1, client: 2 });
    }

    #[test]
    fn siblings_are_a_pair_only_when_nothing_else_is_left() {
        let adjacent = |left: usize, right: usize| left / 2 == right / 2;
        assert_eq!(
            Cores::choose_from(&[2, 3, 4, 5], adjacent).unwrap(),
            Cores { server: 2, client: 4 }
        );
        assert_eq!(Cores::choose_from(&[2, 3], adjacent).unwrap(), Cores { server: 2, client: 3 });
    }

    #[test]
    fn pinning_narrows_the_mask_and_gives_it_back() {
        let before = allowed_cores().unwrap();
        let core = *before.last().unwrap();
        let pinned = Pinned::to(core).unwrap();
        assert_eq!(allowed_cores().unwrap(), [core]);
        drop(pinned);
        assert_eq!(allowed_cores().unwrap(), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        assert!(matches!(Pinned::to(usize::MAX), Err(BenchError::System { .. })));
    }
}
