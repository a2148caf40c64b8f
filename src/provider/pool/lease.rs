//! A request's use of an endpoint and a key, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use crate::dialect::{Class, Failure};
use crate::metrics::ProviderOutcome;
use crate::protocol::Usage;
use crate::provider::breaker::{Permit, Verdict};

/// The use of one endpoint with one key by one request.
///
/// Dropped without a word, it was cancelled: that is nobody's failure, and what it holds is given
/// back.
pub(super) struct Lease {
    pub(super) member: Arc<Member>,
    pub(super) endpoint: usize,
    pub(super) key: usize,
    /// Which version of the key was used; 0 before it was read.
    pub(super) key_version: u32,
    permit: Option<Permit>,
    is_over: bool,
}

impl Lease {
    pub(super) const fn new(
        member: Arc<Member>,
        endpoint: usize,
        key: usize,
        permit: Option<Permit>,
    ) -> Self {
        Self { member, endpoint, key, key_version: 0, permit, is_over: false }
    }

    /// The first output has come, so long after the request was sent.
    pub(super) fn first_output(&self, took: Duration) {
        let now = self.member.time.now();
        self.member.lock().endpoints[self.endpoint].first_output(took, now);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.member.metrics.first_output.record(ns);
    }

    /// The answer is whole.
    pub(super) fn succeed(&mut self, usage: &Usage) {
        let metrics = &self.member.metrics;
        metrics.usage.provider_input_tokens_total.add(usage.input_tokens);
        metrics.usage.provider_output_tokens_total.add(usage.output_tokens);
        self.end(ProviderOutcome::Success, Some(Verdict::Success));
    }

    /// It failed.
    pub(super) fn fail(&mut self, failure: &Failure) {
        let verdict = match failure.class {
            Class::Cancelled => None,
            class if class.counts_for_breaker() => Some(Verdict::Failure),
            _ => Some(Verdict::Inconclusive),
        };
        // No word of the upstream's: it may repeat what it was sent.
        let (provider, class) = (&self.member.name, failure.class.name());
        if failure.class == Class::BadRequest {
            tracing::debug!(%provider, class, status = failure.status, "a request was refused");
        } else {
            tracing::warn!(%provider, class, status = failure.status, "a provider failed");
        }
        self.end(outcome(failure.class), verdict);
        let now = self.member.time.now();
        self.member.lock().keys[self.key].failed(self.key_version, failure, now);
    }

    /// It was not used after all: nothing was sent.
    pub(super) fn withdraw(mut self) {
        self.give_back(None);
    }

    fn end(&mut self, outcome: ProviderOutcome, verdict: Option<Verdict>) {
        if !self.is_over {
            self.member.metrics.outcome(outcome).increment();
            self.give_back(verdict);
        }
    }

    fn give_back(&mut self, verdict: Option<Verdict>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let now = self.member.time.now();
        let mut state = self.member.lock();
        let endpoint = &mut state.endpoints[self.endpoint];
        endpoint.in_flight -= 1;
        match (self.permit.take(), verdict) {
            (Some(permit), Some(verdict)) => endpoint.breaker.report(permit, verdict, now),
            (Some(permit), None) => endpoint.breaker.cancel(permit),
            (None, _) => {}
        }
        let key = &mut state.keys[self.key];
        key.in_flight -= 1;
        if verdict == Some(Verdict::Success) {
            key.succeeded(self.key_version);
        }
        state.show(&self.member.metrics);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(ProviderOutcome::Cancelled, None);
    }
}

/// The metrics' name for a class.
const fn outcome(class: Class) -> ProviderOutcome {
    match class {
        Class::BadRequest => ProviderOutcome::BadRequest,
        Class::Auth => ProviderOutcome::Auth,
        Class::Quota => ProviderOutcome::Quota,
        Class::RateLimited => ProviderOutcome::RateLimited,
        Class::Overloaded => ProviderOutcome::Overloaded,
        Class::Server => ProviderOutcome::Server,
        Class::Network => ProviderOutcome::Network,
        Class::Stalled => ProviderOutcome::Stalled,
        Class::Incomplete => ProviderOutcome::Incomplete,
        Class::BadStream => ProviderOutcome::BadStream,
        Class::Cancelled => ProviderOutcome::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_failures_have_the_same_names() {
        for class in Class::ALL {
            assert_eq!(outcome(class).label(), class.name());
        }
    }
}
