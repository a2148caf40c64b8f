//! Whether a shard sits on its client's core or on its own: the policy, without a system call.
//!
//! A wake-up across cores costs ten times one on the same core. So a shard that parks goes where the
//! client that will wake it is, when there is just one such place, and is back on its own core as
//! soon as the two have something to do at the same time.
//!
//! The invariant to remember: what clients say about themselves is a hint from a stranger. It moves
//! the shard only when it parks, only to a core that two parks in a row named, never between clients
//! that disagree, and at most [`MOVES_AT_ONCE`] times plus once in [`MOVE_INTERVAL`].

use std::time::Duration;

use crate::connection::{Company, Timestamp};

/// Parks in a row that must name a core before the shard goes there.
const AGREED_MIN: u32 = 2;
/// How long clients on different cores keep the shard on its own.
const APART: Duration = Duration::from_secs(10);
/// How long after the last client has asked the shard stays beside it, if something else wakes it: the
/// replies of workers come faster where the kernel may choose the core.
const ALONE_MAX: Duration = Duration::from_secs(1);
/// What a move costs of the time for moves, and how many may come at once.
const MOVE_INTERVAL: Duration = Duration::from_millis(10);
const MOVES_AT_ONCE: u32 = 16;
/// Turns with work, each soon after the last, after which the client would be faster with a core
/// for itself.
const BUSY_TURNS_MAX: u32 = 32;
/// How soon, in nanoseconds.
const BUSY_GAP_NS: u64 = 100_000;

/// Where the shard is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Stay,
    /// To the core of its client.
    Beside(u32),
    /// To its own core.
    Home,
}

/// What the policy remembers.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// The core of the client, while the shard is there.
    beside: Option<u32>,
    /// Slot and core of the last park that named one, and how many did in a row.
    last: Option<(u32, u32)>,
    agreed: u32,
    /// The client polls before it parks, where it may.
    polls: bool,
    apart_until: Timestamp,
    /// When the shard last parked after a client had asked.
    asked_at: Timestamp,
    /// The moves so far are paid for by then.
    paid_at: Timestamp,
    busy_turns: u32,
    busy_at: Timestamp,
}

impl Follow {
    /// The core of the client, while the shard is there.
    pub(super) const fn beside(&self) -> Option<u32> {
        self.beside
    }

    /// The shard parks, after `company` has asked it something.
    pub(super) fn park(&mut self, company: Company, now: Timestamp) -> Move {
        let (slot, place) = match company {
            Company::Nobody if now < self.asked_at.after(ALONE_MAX) => return Move::Stay,
            Company::Nobody => return self.home(),
            Company::Together { slot, place } => (slot, place),
            Company::Unknown => {
                self.agreed = 0;
                return self.home();
            }
            Company::Scattered => {
                self.agreed = 0;
                self.apart_until = now.after(APART);
                return self.home();
            }
        };
        let core = place.core;
        match self.last.replace((slot, core)) {
            Some((_, last)) if last == core => self.agreed = self.agreed.saturating_add(1),
            // The same client elsewhere has moved; another one elsewhere pulls the other way.
            Some((last, _)) if last == slot => self.agreed = 1,
            Some(_) => {
                self.agreed = 1;
                self.apart_until = now.after(APART);
            }
            None => self.agreed = 1,
        }
        self.polls = place.polls;
        self.asked_at = now;
        if now < self.apart_until {
            return self.home();
        }
        if self.beside == Some(core) || self.agreed < AGREED_MIN || !self.pay(now) {
            return Move::Stay;
        }
        self.beside = Some(core);
        self.busy_turns = 0;
        Move::Beside(core)
    }

    /// A turn found work of clients while the shard was beside its own. `rang`: the client was parked, so
    /// it ran before the shard did and not at the same time. `asking`: connections that have asked.
    pub(super) fn busy(&mut self, rang: bool, asking: usize, now: Timestamp) -> Move {
        let soon = now.since(self.busy_at) < BUSY_GAP_NS;
        self.busy_at = now;
        if !soon {
            self.busy_turns = 0;
        }
        // A client that always parks is served best from here, however much it asks.
        if self.polls || !rang {
            self.busy_turns += 1;
        }
        if asking > 1 || self.busy_turns >= BUSY_TURNS_MAX { self.home() } else { Move::Stay }
    }

    /// The client of this slot has left: where it was says nothing about where the others are.
    pub(super) fn forget(&mut self, slot: u32) {
        if self.last.is_some_and(|(last, _)| last == slot) {
            self.last = None;
        }
    }

    /// The system did not let the shard go where it was to go.
    pub(super) fn refused(&mut self) {
        self.beside = None;
        self.agreed = 0;
    }

    fn home(&mut self) -> Move {
        if self.beside.take().is_some() { Move::Home } else { Move::Stay }
    }

    /// True when a move there and back may be made now: a leaky bucket (GCRA, ITU-T I.371).
    fn pay(&mut self, now: Timestamp) -> bool {
        let allowance = u64::try_from((MOVE_INTERVAL * MOVES_AT_ONCE).as_nanos());
        if self.paid_at.since(now) > allowance.unwrap_or(0) {
            return false;
        }
        self.paid_at = self.paid_at.max(now).after(MOVE_INTERVAL);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Whereabouts;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp(ms * MS)
    }

    fn on(slot: u32, core: u32, polls: bool) -> Company {
        Company::Together { slot, place: Whereabouts { core, polls } }
    }

    /// A shard that has followed the client of slot 1 to core 3.
    fn beside(polls: bool) -> Follow {
        let mut follow = Follow::default();
        assert_eq!(follow.park(on(1, 3, polls), at(1)), Move::Stay);
        assert_eq!(follow.park(on(1, 3, polls), at(2)), Move::Beside(3));
        follow
    }

    #[test]
    fn the_second_park_that_names_a_core_moves_the_shard_and_then_it_stays() {
        let mut follow = beside(false);
        assert_eq!(follow.beside(), Some(3));
        for ms in 3..1000 {
            assert_eq!(follow.park(on(1, 3, false), at(ms)), Move::Stay);
        }
    }

    #[test]
    fn a_client_that_moves_is_followed_and_one_that_flickers_is_not() {
        let mut follow = beside(false);
        assert_eq!(follow.park(on(1, 4, false), at(3)), Move::Stay);
        assert_eq!(follow.park(on(1, 4, false), at(4)), Move::Beside(4));
        for ms in 5..1000 {
            let core = u32::try_from(ms % 2).unwrap();
            assert_eq!(follow.park(on(1, core, false), at(ms)), Move::Stay);
        }
    }

    #[test]
    fn clients_on_different_cores_send_the_shard_home_for_a_while() {
        let mut follow = beside(false);
        assert_eq!(follow.park(on(2, 5, false), at(3)), Move::Home);
        // Whoever is more eager does not win.
        for ms in 4..9_000 {
            assert_eq!(follow.park(on(2, 5, false), at(ms)), Move::Stay);
        }
        assert_eq!(follow.park(on(2, 5, false), at(10_004)), Move::Beside(5));
        assert_eq!(follow.park(Company::Scattered, at(10_005)), Move::Home);
        assert_eq!(follow.beside(), None);
    }

    #[test]
    fn a_client_that_says_nothing_is_met_on_the_shards_own_core() {
        let mut follow = beside(false);
        assert_eq!(follow.park(Company::Nobody, at(3)), Move::Stay);
        assert_eq!(follow.park(Company::Unknown, at(4)), Move::Home);
        assert_eq!(follow.park(on(1, 3, false), at(5)), Move::Stay);
        assert_eq!(follow.park(on(1, 3, false), at(6)), Move::Beside(3));
    }

    #[test]
    fn a_client_that_has_left_pulls_nowhere() {
        let mut follow = beside(false);
        follow.forget(1);
        assert_eq!(follow.park(on(2, 5, false), at(3)), Move::Stay);
        assert_eq!(follow.park(on(2, 5, false), at(4)), Move::Beside(5));
        // Who left long ago, and was not the last, changes nothing.
        follow.forget(1);
        assert_eq!(follow.park(on(3, 6, false), at(5)), Move::Home);
    }

    #[test]
    fn a_shard_that_wakes_for_others_leaves_a_client_that_asks_nothing_any_more() {
        let mut follow = beside(false);
        assert_eq!(follow.park(Company::Nobody, at(1_001)), Move::Stay);
        assert_eq!(follow.park(on(1, 3, false), at(1_001)), Move::Stay);
        assert_eq!(follow.park(Company::Nobody, at(2_000)), Move::Stay);
        assert_eq!(follow.park(Company::Nobody, at(2_001)), Move::Home);
        assert_eq!(follow.park(Company::Nobody, at(9_000)), Move::Stay);
    }

    /// Turns with work until the shard goes home, at most `max`, each `gap_ns` after the last.
    fn turns_to_home(follow: &mut Follow, rang: bool, gap_ns: u64, max: u64) -> Option<u64> {
        (1..=max)
            .find(|turn| follow.busy(rang, 1, Timestamp(at(10).0 + turn * gap_ns)) == Move::Home)
    }

    #[test]
    fn a_hot_client_that_polls_gets_its_core_for_itself() {
        let busy = u64::from(BUSY_TURNS_MAX);
        let turns = turns_to_home(&mut beside(true), true, BUSY_GAP_NS / 2, 1000);
        assert!((busy..=busy + 1).contains(&turns.unwrap()));
        // One keystroke after the other is not hot.
        assert_eq!(turns_to_home(&mut beside(true), true, BUSY_GAP_NS, 1000), None);
    }

    #[test]
    fn a_client_that_always_parks_is_served_beside_it_unless_it_works_meanwhile() {
        assert_eq!(turns_to_home(&mut beside(false), true, 1_000, 1000), None);
        assert!(turns_to_home(&mut beside(false), false, 1_000, 1000).is_some());
    }

    #[test]
    fn a_second_busy_client_sends_the_shard_home() {
        assert_eq!(beside(false).busy(true, 2, at(3)), Move::Home);
    }

    #[test]
    fn moves_are_bounded_whatever_clients_say() {
        let mut follow = Follow::default();
        let mut moves = 0;
        // Parks once every 100 µs for a second, always on two parks' worth of a new core.
        for park in 0..10_000_u32 {
            let now = Timestamp(u64::from(park) * MS / 10);
            moves += u32::from(follow.park(on(1, park / 2, false), now) != Move::Stay);
        }
        assert!((MOVES_AT_ONCE..=MOVES_AT_ONCE + 101).contains(&moves), "{moves}");
    }

    #[test]
    fn a_move_that_is_refused_is_not_believed_to_have_happened() {
        let mut follow = beside(false);
        follow.refused();
        assert_eq!(follow.beside(), None);
        assert_eq!(follow.park(on(1, 3, false), at(3)), Move::Stay);
    }
}
