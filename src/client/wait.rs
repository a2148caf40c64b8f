//! When a waiting client polls, looks around, and parks. No waiting happens here: this is the pace.
//!
//! The invariant to remember: the clock is read once in [`POLLS_PER_LOOK`] polls, so an answer that
//! comes at once meets no clock at all.

use std::thread;
use std::time::{Duration, Instant};

use super::options::WaitPolicy;
use crate::sync::spin_hint;

/// Polls between two looks at the clock; a power of two.
const POLLS_PER_LOOK: u32 = 32;
/// How often a client that polls for long looks whether the daemon has hung up.
const SOCKET_LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Tries for space in a full ring before the first short park.
const SPACE_SPINS: u32 = 128;
/// First and longest of the short parks; nobody rings when space comes free.
const SPACE_PARK_MIN: Duration = Duration::from_micros(50);
const SPACE_PARK_MAX: Duration = Duration::from_millis(1);

const _: () = assert!(POLLS_PER_LOOK.is_power_of_two());

/// What to do after a poll that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Poll again.
    Poll,
    /// Look at the socket, then poll again.
    LookAtSocket,
    /// Arm the doorbell, look once more, and park.
    Park,
    /// The deadline has passed.
    Expired,
}

/// The pace of one wait for a frame.
#[derive(Debug)]
pub(super) struct Pace {
    policy: WaitPolicy,
    deadline: Option<Instant>,
    polls: u32,
    /// When the clock was first read, and when the socket was last looked at.
    spinning: Option<(Instant, Instant)>,
}

impl Pace {
    #[inline]
    pub(super) const fn new(policy: WaitPolicy, deadline: Option<Instant>) -> Self {
        // Without a spin budget the first step decides.
        let polls = if policy.park && policy.spin.is_zero() { POLLS_PER_LOOK - 1 } else { 0 };
        Self { policy, deadline, polls, spinning: None }
    }

    /// Something came: the spin budget begins anew.
    #[inline]
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.policy, self.deadline);
    }

    /// Goes on by `policy`, from the next look at the clock on: the daemon may have come or gone.
    #[inline]
    pub(super) const fn adopt(&mut self, policy: WaitPolicy) {
        self.policy = policy;
    }

    /// True between the looks at the clock and the polls that follow them, and at the beginning.
    #[inline]
    pub(super) const fn is_at_look(&self) -> bool {
        self.polls.is_multiple_of(POLLS_PER_LOOK)
    }

    #[inline]
    pub(super) fn step(&mut self) -> Step {
        self.polls = self.polls.wrapping_add(1);
        if !self.polls.is_multiple_of(POLLS_PER_LOOK) {
            // Also in the shortest wait: the hint keeps loads of the polled line from piling up, which
            // the processor throws away and starts anew when the line is taken by its writer.
            spin_hint();
            return Step::Poll;
        }
        self.look_at_clock(Instant::now())
    }

    #[cold]
    fn look_at_clock(&mut self, now: Instant) -> Step {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Step::Expired;
        }
        let (since, looked) = self.spinning.get_or_insert((now, now));
        if self.policy.park && now.duration_since(*since) >= self.policy.spin {
            return Step::Park;
        }
        if now.duration_since(*looked) >= SOCKET_LOOK_INTERVAL {
            *looked = now;
            return Step::LookAtSocket;
        }
        Step::Poll
    }
}

/// The pace of one wait for space in a full request ring.
#[derive(Debug)]
pub(super) struct SpacePace {
    tries: u32,
    park: Duration,
}

impl SpacePace {
    pub(super) const fn new() -> Self {
        Self { tries: 0, park: SPACE_PARK_MIN }
    }

    /// Waits for a moment before the next try. `Poll` and `LookAtSocket` both mean: try again.
    pub(super) fn step(&mut self, deadline: Option<Instant>) -> Step {
        self.tries = self.tries.saturating_add(1);
        if self.tries < SPACE_SPINS {
            spin_hint();
            return Step::Poll;
        }
        let now = Instant::now();
        let left = deadline.map_or(self.park, |deadline| deadline.saturating_duration_since(now));
        if left.is_zero() {
            return Step::Expired;
        }
        thread::sleep(self.next_park().min(left));
        Step::LookAtSocket
    }

    /// How long the next short park lasts: from 50 µs, doubling up to 1 ms.
    pub(super) fn next_park(&mut self) -> Duration {
        let park = self.park;
        self.park = (park * 2).min(SPACE_PARK_MAX);
        park
    }
}

/// The deadline of a park while something waits for space in the request ring.
pub(super) fn soon(deadline: Option<Instant>) -> Option<Instant> {
    let soon = Instant::now() + SPACE_PARK_MAX;
    Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
}

/// What is left of a deadline for the header: whole milliseconds rounded up, 0 for none.
#[inline]
pub(super) fn deadline_ms(deadline: Option<Instant>) -> u32 {
    deadline.map_or(0, ms_until)
}

fn ms_until(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first step that is not `Poll`, within a bound.
    fn first_step(pace: &mut Pace) -> Step {
        (0..100_000_000).map(|_| pace.step()).find(|step| *step != Step::Poll).unwrap()
    }

    #[test]
    fn without_a_spin_budget_the_first_step_parks() {
        assert_eq!(Pace::new(WaitPolicy::PARK, None).step(), Step::Park);
    }

    #[test]
    fn the_default_polls_first_and_then_parks() {
        let mut pace = Pace::new(WaitPolicy::default(), None);
        assert_eq!(pace.step(), Step::Poll);
        assert_eq!(first_step(&mut pace), Step::Park);
        pace.restart();
        assert_eq!(pace.step(), Step::Poll);
    }

    #[test]
    fn a_policy_that_changes_meanwhile_counts_from_the_next_look_on() {
        let mut pace = Pace::new(WaitPolicy::SPIN, None);
        assert_eq!(first_step(&mut pace), Step::LookAtSocket);
        pace.adopt(WaitPolicy::PARK);
        let polls = (0..100).take_while(|_| pace.step() == Step::Poll).count();
        assert_eq!(polls, POLLS_PER_LOOK as usize - 1);
        pace.adopt(WaitPolicy::SPIN);
        assert_eq!(first_step(&mut pace), Step::LookAtSocket);
    }

    #[test]
    fn polling_for_ever_looks_at_the_socket_and_at_the_deadline() {
        assert_eq!(first_step(&mut Pace::new(WaitPolicy::SPIN, None)), Step::LookAtSocket);
        let past = Instant::now();
        assert_eq!(first_step(&mut Pace::new(WaitPolicy::SPIN, Some(past))), Step::Expired);
    }

    #[test]
    fn waits_for_space_grow_up_to_a_millisecond() {
        let mut pace = SpacePace::new();
        let parks: Vec<_> = (0..8).map(|_| pace.next_park().as_micros()).collect();
        assert_eq!(parks, [50, 100, 200, 400, 800, 1000, 1000, 1000]);
        let past = Instant::now();
        let expired = (0..1000).map(|_| pace.step(Some(past))).any(|step| step == Step::Expired);
        assert!(expired);
    }

    #[test]
    fn a_deadline_is_told_in_milliseconds_rounded_up() {
        assert_eq!(deadline_ms(None), 0);
        assert_eq!(deadline_ms(Some(Instant::now())), 1);
        let soon = Instant::now() + Duration::from_secs(10);
        assert!((9_000..=10_000).contains(&deadline_ms(Some(soon))));
    }
}
