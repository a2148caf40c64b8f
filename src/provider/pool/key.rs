//! One key of a provider: whether it may be used now, and what it is.
//!
//! The key itself is read when it is first needed, and again after it was refused: tokens of an hour
//! and files that somebody edits change while the daemon runs. Only a key that is refused twice
//! rests.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::backoff;
use super::limits::Limits;
use super::seams::KeyReader;
use crate::dialect::{Class, Failure};

/// How long a refused key is left alone.
const BAD_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a key whose account has nothing left is left alone, unless the upstream says.
const EXHAUSTED_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a key that cannot be read is left alone.
const UNREAD_FOR: Duration = Duration::from_secs(5);
/// No upstream can make us leave a key alone for longer.
const REST_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a key is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A limit of the rate, the provider's or our own: it will be fine.
    Cooling,
    /// The account has nothing left.
    Exhausted,
    /// The provider refused it.
    Bad,
    /// It cannot be read.
    Unread,
}

/// A key that is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) why: Why,
    pub(super) until: Duration,
}

/// What a request has to do before it has a key.
pub(super) enum Turn {
    /// Nothing: the key is known, or not needed.
    Known,
    /// Read it, then say so with [`KeyState::read_is_over`].
    Read(Arc<dyn KeyReader>),
    /// Wait for somebody else who reads it.
    Wait,
}

/// One key, or the place of the one that a provider does not need.
pub(super) struct KeyState {
    reader: Option<Arc<dyn KeyReader>>,
    secret: Option<SecretString>,
    /// Goes up when another key is read, so that late verdicts and cached answers of the former one
    /// are told apart.
    version: u32,
    refused: Option<SecretString>,
    /// Somebody reads it, and these wait for that. A keyring asks its user once, not for each request.
    waiting: Option<Vec<Waker>>,
    /// Why it could not be had when it was read last.
    problem: Option<Arc<str>>,
    /// Requests under way with it.
    pub(super) in_flight: u32,
    rest: Option<Rest>,
    /// Times in a row that the provider limited its rate.
    limited_count: u32,
    limits: Limits,
}

impl KeyState {
    /// With a reader, or without for a provider that needs no key.
    pub(super) const fn new(reader: Option<Arc<dyn KeyReader>>, limits: Limits) -> Self {
        Self {
            reader,
            secret: None,
            version: 0,
            refused: None,
            waiting: None,
            problem: None,
            in_flight: 0,
            rest: None,
            limited_count: 0,
            limits,
        }
    }

    /// Why it may not be used now, if so.
    pub(super) fn rest(&self, now: Duration) -> Option<Rest> {
        self.rest.filter(|rest| rest.until > now)
    }

    /// Takes its share of our own limits for a request of so many tokens.
    ///
    /// # Errors
    ///
    /// The time from which there is room; it rests until then.
    pub(super) fn take(&mut self, tokens: u32) -> Result<(), Duration> {
        self.limits.take(tokens).inspect_err(|until| {
            // Smaller requests wait, too: else the larger one would wait forever.
            self.rest = Some(Rest { why: Why::Cooling, until: *until });
        })
    }

    /// What a request does that needs it; one that has to wait is woken when that is over.
    pub(super) fn turn(&mut self, waker: &Waker) -> Turn {
        let Some(reader) = self.reader.as_ref().filter(|_| self.secret.is_none()) else {
            return Turn::Known;
        };
        match &mut self.waiting {
            None => {
                self.waiting = Some(Vec::new());
                Turn::Read(Arc::clone(reader))
            }
            Some(waiting) => {
                if !waiting.iter().any(|other| other.will_wake(waker)) {
                    waiting.push(waker.clone());
                }
                Turn::Wait
            }
        }
    }

    /// Whoever read it has done so, or went away. Returns who is to be woken.
    pub(super) fn read_is_over(&mut self) -> Vec<Waker> {
        self.waiting.take().unwrap_or_default()
    }

    /// Why it cannot be had now, if somebody has found that out.
    pub(super) fn problem(&self, now: Duration) -> Option<Arc<str>> {
        let rest = self.rest(now)?;
        self.problem.clone().filter(|_| matches!(rest.why, Why::Bad | Why::Unread))
    }

    /// Remembers what was read.
    ///
    /// # Errors
    ///
    /// It is still the key that was refused, which rests now.
    pub(super) fn remember(
        &mut self,
        secret: &SecretString,
        now: Duration,
    ) -> Result<(), Arc<str>> {
        let is = |other: &Option<SecretString>| {
            other.as_ref().is_some_and(|other| other.expose_secret() == secret.expose_secret())
        };
        if is(&self.refused) {
            self.refused = None;
            return Err(self.cannot_be_had(Why::Bad, now + BAD_FOR, "it refused the key".into()));
        }
        // Somebody else may have read it meanwhile.
        if !is(&self.secret) {
            self.version += 1;
            self.secret = Some(secret.clone());
        }
        Ok(())
    }

    /// It could not be read; gives that in words.
    pub(super) fn could_not_be_read(&mut self, reason: &str, now: Duration) -> Arc<str> {
        let problem = format!("its key cannot be read: {reason}").into();
        self.cannot_be_had(Why::Unread, now + UNREAD_FOR, problem)
    }

    fn cannot_be_had(&mut self, why: Why, until: Duration, problem: Arc<str>) -> Arc<str> {
        self.rest = Some(Rest { why, until });
        self.problem = Some(Arc::clone(&problem));
        problem
    }

    /// The key, if it is known, and its version. Without a reader there is none, of version 0.
    pub(super) const fn secret(&self) -> (Option<&SecretString>, u32) {
        (self.secret.as_ref(), self.version)
    }

    /// The version of a key that could be used now as it is.
    pub(super) const fn known_version(&self) -> Option<u32> {
        if self.reader.is_none() || self.secret.is_some() { Some(self.version) } else { None }
    }

    /// A request with it, of this version, was answered.
    pub(super) fn succeeded(&mut self, version: u32) {
        if version == self.version {
            self.limited_count = 0;
            self.refused = None;
        }
    }

    /// A request with it, of this version, failed.
    pub(super) fn failed(&mut self, version: u32, failure: &Failure, now: Duration) {
        if version != self.version {
            return;
        }
        let rest =
            |why, wait: Duration| Some(Rest { why, until: now.saturating_add(wait.min(REST_MAX)) });
        // None at all is no wait to go by.
        let told = failure.hints.wait.filter(|wait| !wait.is_zero());
        match failure.class {
            // Without a key there is none to be refused. A 403 may be about the model.
            Class::Auth if self.reader.is_some() && failure.status != Some(403) => {
                // Of several requests with it, the first one to be refused has taken it away.
                self.refused = self.secret.take().or_else(|| self.refused.take());
            }
            Class::Quota => {
                self.rest = rest(Why::Exhausted, told.unwrap_or(EXHAUSTED_FOR));
            }
            Class::RateLimited => {
                self.limited_count += 1;
                let wait = told.unwrap_or_else(|| backoff::ceiling(self.limited_count));
                self.rest = rest(Why::Cooling, wait);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seams::Time;
    use super::super::tests::virtual_time::VirtualTime;
    use super::super::tests::world::FakeKey;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> KeyState {
        let time: Arc<dyn Time> = Arc::new(VirtualTime::default());
        KeyState::new(Some(Arc::new(FakeKey::new("a"))), Limits::new(None, None, &time))
    }

    fn is_to_be_read(key: &mut KeyState) -> bool {
        let is_to_be_read = matches!(key.turn(Waker::noop()), Turn::Read(_));
        assert!(key.read_is_over().is_empty());
        is_to_be_read
    }

    fn failure(class: Class, status: u16, wait: Option<Duration>) -> Failure {
        let mut failure = Failure::new(class, "");
        failure.status = Some(status);
        failure.hints.wait = wait;
        failure
    }

    #[test]
    fn a_key_that_is_refused_twice_rests_and_another_one_does_not() {
        let mut key = key();
        assert!(is_to_be_read(&mut key));
        key.remember(&"a".into(), SECOND).unwrap();
        let (_, version) = key.secret();
        key.failed(version, &failure(Class::Auth, 401, None), SECOND);
        assert!(key.rest(SECOND).is_none() && is_to_be_read(&mut key));
        // It was replaced.
        key.remember(&"b".into(), SECOND).unwrap();
        let (_, version) = key.secret();
        key.failed(version, &failure(Class::Auth, 401, None), SECOND);
        // It was not.
        // Another request with it was, too, a moment later.
        key.failed(version, &failure(Class::Auth, 401, None), SECOND);
        key.remember(&"b".into(), SECOND).unwrap_err();
        assert_eq!(key.rest(SECOND).map(|rest| rest.why), Some(Why::Bad));
        assert!(key.rest(SECOND + BAD_FOR).is_none());
        key.remember(&"b".into(), SECOND + BAD_FOR).expect("it has another chance");
    }

    #[test]
    fn late_verdicts_of_a_former_key_change_nothing() {
        let mut key = key();
        key.remember(&"a".into(), SECOND).unwrap();
        let (_, former) = key.secret();
        key.failed(former, &failure(Class::Auth, 401, None), SECOND);
        key.remember(&"b".into(), SECOND).unwrap();
        for class in [Class::Auth, Class::Quota, Class::RateLimited] {
            key.failed(former, &failure(class, 400, None), SECOND);
        }
        assert!(key.rest(SECOND).is_none() && !is_to_be_read(&mut key));
    }

    #[test]
    fn a_forbidden_model_is_not_a_bad_key() {
        let mut key = key();
        key.remember(&"a".into(), SECOND).unwrap();
        key.failed(1, &failure(Class::Auth, 403, None), SECOND);
        assert!(key.rest(SECOND).is_none() && !is_to_be_read(&mut key));
    }

    #[test]
    fn limits_cool_the_key_as_long_as_the_upstream_says_else_longer_each_time() {
        let mut key = key();
        key.failed(0, &failure(Class::RateLimited, 429, Some(7 * SECOND)), SECOND);
        assert_eq!(key.rest(SECOND), Some(Rest { why: Why::Cooling, until: 8 * SECOND }));
        key.failed(0, &failure(Class::RateLimited, 429, Some(Duration::ZERO)), SECOND);
        assert_eq!(key.rest(SECOND).map(|rest| rest.until), Some(2 * SECOND));
        key.succeeded(0);
        key.failed(0, &failure(Class::RateLimited, 429, None), SECOND);
        assert_eq!(key.rest(SECOND).map(|rest| rest.until), Some(SECOND + SECOND / 2));
        key.failed(0, &failure(Class::Quota, 402, None), SECOND);
        assert_eq!(key.rest(SECOND).map(|rest| rest.until), Some(SECOND + EXHAUSTED_FOR));
        key.failed(0, &failure(Class::Quota, 402, Some(Duration::MAX)), SECOND);
        assert_eq!(key.rest(SECOND).map(|rest| rest.until), Some(SECOND + REST_MAX));
    }
}
