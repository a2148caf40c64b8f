//! Where a shard's thread runs: on its own cores, or on the core of the client that it waits for.
//!
//! The invariant to remember: it goes beside a client only when it parks and only to a core that the
//! daemon was allowed to use when it started, and what it was given as its own is never forgotten.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::follow::{Follow, Move};
use crate::connection::{Company, Timestamp};

/// The place of one shard, on its own thread.
pub(super) struct Place {
    follow: Follow,
    /// Cores on which clients may be followed; none when following is switched off.
    allowed: CpuSet,
    /// The shard's own cores.
    home: CpuSet,
}

impl Place {
    /// The current thread's place is its own from now on. It may go to `allowed` beside clients.
    ///
    /// # Errors
    ///
    /// The system's, when it does not say where the thread may run.
    pub(super) fn new(allowed: CpuSet) -> std::io::Result<Self> {
        Ok(Self { follow: Follow::default(), allowed, home: sched_getaffinity(None)? })
    }

    /// The core of the client beside which the shard sits.
    #[inline]
    pub(super) const fn beside(&self) -> Option<u32> {
        self.follow.beside()
    }

    /// The shard is about to park, after it has served `company`. True when [`Place::beside`] has
    /// changed. At most three system calls, and in most parks none.
    pub(super) fn park(&mut self, company: Company, now: Timestamp) -> bool {
        let before = self.follow.beside();
        match self.follow.park(company, now) {
            Move::Stay => return false,
            Move::Beside(core) => {
                if !self.move_to(core) {
                    self.follow.refused();
                    if before.is_some() {
                        self.go_home(before);
                    }
                }
            }
            Move::Home => self.go_home(before),
        }
        self.follow.beside() != before
    }

    /// The client of this slot has left.
    pub(super) fn forget(&mut self, slot: u32) {
        self.follow.forget(slot);
    }

    /// A turn found work; see [`Follow::busy`]. True when the shard has gone home.
    #[cold]
    pub(super) fn busy(&mut self, rang: bool, hot: usize, now: Timestamp) -> bool {
        let before = self.follow.beside();
        // With nowhere else to go, taking turns is best.
        let elsewhere = before.is_some_and(|core| self.home_without(core).count() > 0);
        let goes = elsewhere && self.follow.busy(rang, hot, now) == Move::Home;
        if goes {
            self.go_home(before);
        }
        goes
    }

    fn move_to(&self, core: u32) -> bool {
        let core = core as usize;
        if core >= CpuSet::MAX_CPU || !self.allowed.is_set(core) {
            return false;
        }
        let mut there = CpuSet::new();
        there.set(core);
        there == self.home || sched_setaffinity(None, &there).is_ok()
    }

    /// Leaves the client's core at once, even if it is one of the shard's own.
    fn go_home(&self, from: Option<u32>) {
        let aside = from.map_or(self.home, |core| self.home_without(core));
        // Nothing to do about a refusal: the system has taken the cores away, and places the thread.
        if aside.count() > 0 {
            let _ = sched_setaffinity(None, &aside);
        }
        if aside != self.home {
            let _ = sched_setaffinity(None, &self.home);
        }
    }

    fn home_without(&self, core: u32) -> CpuSet {
        let mut aside = self.home;
        if (core as usize) < CpuSet::MAX_CPU {
            aside.unset(core as usize);
        }
        aside
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Whereabouts;
    use std::thread;

    fn allowed_cores() -> (CpuSet, Vec<u32>) {
        let mask = sched_getaffinity(None).unwrap();
        let cores = (0..1024).filter(|core| mask.is_set(*core as usize)).collect();
        (mask, cores)
    }

    /// Parks twice after a client of `core`, as it takes to be followed.
    fn follow(place: &mut Place, core: u32, ms: u64) -> bool {
        let client = Company::Together { slot: 1, place: Whereabouts { core, polls: true } };
        let at = |ms| Timestamp(ms * 1_000_000);
        place.park(client, at(ms)) | place.park(client, at(ms + 1))
    }

    fn where_it_may_run() -> Vec<u32> {
        allowed_cores().1
    }

    #[test]
    fn a_shard_follows_its_client_and_takes_its_own_cores_back() {
        thread::spawn(|| {
            let (mask, cores) = allowed_cores();
            let mut place = Place::new(mask).unwrap();
            for (index, &core) in cores.iter().enumerate() {
                let ms = 100 * index as u64;
                assert!(follow(&mut place, core, ms + 1));
                assert_eq!((place.beside(), where_it_may_run()), (Some(core), vec![core]));
                let soon = Timestamp((ms + 3) * 1_000_000);
                let went = (0..100).any(|turn| place.busy(false, 1, Timestamp(soon.0 + turn)));
                assert_eq!(went, cores.len() > 1);
                if went {
                    assert_eq!((place.beside(), where_it_may_run()), (None, cores.clone()));
                }
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_is_impossible_or_not_allowed_moves_nothing() {
        thread::spawn(|| {
            let (mask, cores) = allowed_cores();
            let mut place = Place::new(mask).unwrap();
            for core in [1023, 1024, u32::MAX - 1] {
                assert!(!follow(&mut place, core, 1));
            }
            let mut place = Place::new(CpuSet::new()).unwrap();
            assert!(!follow(&mut place, cores[0], 1));
            assert_eq!((place.beside(), where_it_may_run()), (None, cores));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_shard_that_moves_on_to_an_impossible_core_is_back_on_its_own() {
        thread::spawn(|| {
            let (mask, cores) = allowed_cores();
            let mut place = Place::new(mask).unwrap();
            assert!(follow(&mut place, cores[0], 1));
            assert!(follow(&mut place, 4096, 3));
            assert_eq!((place.beside(), where_it_may_run()), (None, cores));
        })
        .join()
        .unwrap();
    }
}
