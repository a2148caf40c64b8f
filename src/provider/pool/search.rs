//! Who is asked next: the order of failover, and the waits between two tries.
//!
//! Another key or endpoint of the same provider comes first, then the next of the model's route, then
//! the providers of the failover list. Nobody waits while there is somebody who was not asked yet.
//! Only then is one asked again that has failed: `retries_max` times in all, each after its wait.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::{self, Dice, HINT_MAX};
use super::lease::Lease;
use super::member::{Mark, Marks, Member, NoPair, whole_seconds};
use crate::dialect::{Class, Failure};
use crate::error::IpcError;
use crate::provider::Provider;

/// Attempts of one request: far more than are ever of use, and an end nevertheless.
const ATTEMPTS_MAX: u32 = 64;

/// One who may be asked.
pub(super) enum Goal {
    /// A provider over the network.
    Remote {
        /// Which.
        member: Arc<Member>,
        /// The model as it knows it.
        model: String,
    },
    /// One that answers by itself.
    Local(Arc<dyn Provider>),
}

/// What to do next.
pub(super) enum Step {
    /// Ask the goal at this place with this lease.
    Ask(usize, Lease),
    /// Let the goal at this place answer.
    Local(usize),
    /// Wait for so long, then look again.
    Wait(Duration),
    /// Tell the client.
    GiveUp(IpcError),
}

/// The search for somebody who answers one request.
pub(super) struct Search {
    /// One for each goal; none for a local one.
    marks: Vec<Option<Marks>>,
    tokens: u32,
    retries_left: u32,
    /// No new try of somebody who failed begins after it.
    retry_until: Duration,
    attempts: u32,
    /// The goal that failed last, and how.
    last: Option<(usize, Failure)>,
    /// Why a key could not be had.
    no_key: Option<String>,
    dice: Dice,
}

impl Search {
    pub(super) fn new(
        goals: &[Goal],
        tokens: u32,
        retries_max: u32,
        retry_until: Duration,
        dice: Dice,
    ) -> Self {
        let marks = |goal: &Goal| match goal {
            Goal::Remote { member, .. } => Some(member.marks()),
            Goal::Local(_) => None,
        };
        Self {
            marks: goals.iter().map(marks).collect(),
            tokens,
            retries_left: retries_max,
            retry_until,
            attempts: 0,
            last: None,
            no_key: None,
            dice,
        }
    }

    /// What to do next.
    pub(super) fn step(&mut self, goals: &[Goal], now: Duration) -> Step {
        if self.attempts >= ATTEMPTS_MAX {
            return Step::GiveUp(self.reason(goals, now, None));
        }
        let mut ready_at: Option<Duration> = None;
        for reuse in [false, true] {
            if reuse && (self.retries_left == 0 || now > self.retry_until) {
                break;
            }
            for (place, goal) in goals.iter().enumerate() {
                let (Goal::Remote { member, .. }, Some(marks)) = (goal, &self.marks[place]) else {
                    return Step::Local(place);
                };
                match member.choose(marks, reuse, self.tokens) {
                    Ok(lease) => {
                        self.count(goals, member, reuse);
                        return Step::Ask(place, lease);
                    }
                    Err(NoPair { ready_at: Some(at) }) => {
                        ready_at = Some(ready_at.map_or(at, |first| first.min(at)));
                    }
                    Err(NoPair { ready_at: None }) => {}
                }
            }
        }
        let wait = ready_at.map(|at| at.saturating_sub(now));
        match (ready_at, wait) {
            (Some(at), Some(wait)) if wait <= HINT_MAX && at <= self.retry_until => {
                // Something is ready at once when others took it a moment ago.
                Step::Wait(wait.max(Duration::from_millis(1)))
            }
            _ => Step::GiveUp(self.reason(goals, now, wait)),
        }
    }

    /// The attempt at the goal at `place`, with this endpoint and this key, failed.
    ///
    /// # Errors
    ///
    /// What to tell the client, when nobody else can do better.
    pub(super) fn failed(
        &mut self,
        goals: &[Goal],
        place: usize,
        pair: (usize, usize),
        failure: Failure,
        now: Duration,
    ) -> Result<(), IpcError> {
        if !failure.class.may_fail_over() && !failure.may_retry() {
            return Err(error(&goals[place], &failure));
        }
        let (endpoint, key) = pair;
        let tries = self.attempts;
        if let Some(marks) = &mut self.marks[place] {
            let again = if failure.may_retry() {
                let wait = failure
                    .hints
                    .wait
                    .filter(|wait| !wait.is_zero())
                    .unwrap_or_else(|| backoff::wait(tries, &mut self.dice));
                Mark::Tried { again_at: now.saturating_add(wait) }
            } else {
                Mark::NEVER
            };
            match failure.class {
                // The key's own rest says when it is of use again.
                Class::RateLimited if failure.may_retry() => {
                    marks.keys[key] = Mark::Tried { again_at: Duration::ZERO };
                }
                // A key that is refused is read again, once; the same one is not sent twice.
                Class::Auth
                    if marks.keys[key] == Mark::Fresh
                        && can_be_read_again(&goals[place], &failure) =>
                {
                    marks.keys[key] = Mark::Refused;
                }
                Class::RateLimited | Class::Auth | Class::Quota => marks.keys[key] = Mark::NEVER,
                _ => marks.endpoints[endpoint] = again,
            }
        }
        self.last = Some((place, failure));
        Ok(())
    }

    /// The key of the goal at `place` could not be had, and nothing was sent.
    pub(super) fn without_key(&mut self, goals: &[Goal], place: usize, key: usize, why: &str) {
        if let (Goal::Remote { member, .. }, Some(marks)) = (&goals[place], &mut self.marks[place])
        {
            marks.keys[key] = Mark::NEVER;
            self.no_key = Some(format!("{}: {why}", member.name));
        }
    }

    fn count(&mut self, goals: &[Goal], member: &Member, reuse: bool) {
        self.attempts += 1;
        match &self.last {
            _ if reuse => {
                self.retries_left -= 1;
                member.metrics.usage.provider_retries_total.increment();
            }
            Some((place, _)) => {
                if let Goal::Remote { member, .. } = &goals[*place] {
                    member.metrics.usage.provider_failovers_total.increment();
                }
            }
            None => {}
        }
    }

    /// What to tell the client when nobody is left; `wait` is when somebody will be.
    fn reason(&self, goals: &[Goal], now: Duration, wait: Option<Duration>) -> IpcError {
        match (&self.last, wait) {
            (Some((place, failure)), wait) => match wait.or(failure.hints.wait) {
                Some(retry_after) if failure.class == Class::RateLimited => {
                    IpcError::Busy { retry_after }
                }
                _ => error(&goals[*place], failure),
            },
            (None, Some(retry_after)) => IpcError::Busy { retry_after },
            (None, None) if self.no_key.is_some() => {
                IpcError::ProviderFailed { detail: self.no_key.clone().unwrap_or_default() }
            }
            (None, None) => {
                let reasons: Vec<String> = goals
                    .iter()
                    .filter_map(|goal| match goal {
                        Goal::Remote { member, .. } => {
                            Some(format!("{}: {}", member.name, member.why_not(now)))
                        }
                        Goal::Local(_) => None,
                    })
                    .collect();
                IpcError::ProviderFailed { detail: reasons.join("; ") }
            }
        }
    }
}

/// Whether another key may be there in place of one that was refused. A 403 may be about the model.
fn can_be_read_again(goal: &Goal, failure: &Failure) -> bool {
    match goal {
        Goal::Remote { member, .. } => {
            !member.settings.keys.is_empty() && failure.status != Some(403)
        }
        Goal::Local(_) => false,
    }
}

/// A failure for the client, with the provider's name.
pub(super) fn error(goal: &Goal, failure: &Failure) -> IpcError {
    let name = match goal {
        Goal::Remote { member, .. } => member.name.as_str(),
        Goal::Local(_) => "local",
    };
    let mut detail = format!("{name}: {failure}");
    if let Some(wait) = failure.hints.wait {
        detail.push_str(&format!(" (it asks to wait for {} s)", whole_seconds(wait)));
    }
    match failure.class {
        Class::BadRequest => IpcError::InvalidRequest { detail },
        Class::Cancelled => IpcError::Cancelled,
        _ => IpcError::ProviderFailed { detail },
    }
}
