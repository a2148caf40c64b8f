//! What went wrong with a provider, and what may be done about it.

use std::fmt;
use std::time::Duration;

/// Bytes of an upstream's own words that we keep.
pub const DETAIL_SIZE_MAX: usize = 4 << 10;

/// What kind of failure it was. One table for all providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The request cannot be answered as it is, by anybody.
    BadRequest,
    /// The key is wrong, or may not do this.
    Auth,
    /// The account has nothing left, until somebody pays or the day is over.
    Quota,
    /// Too many requests or tokens for now.
    RateLimited,
    /// The provider has too much to do.
    Overloaded,
    /// The provider failed.
    Server,
    /// No connection, or it broke before any output.
    Network,
    /// Nothing came for too long.
    Stalled,
    /// The body ended without the proof that the answer is whole.
    Incomplete,
    /// The body is not what the dialect says.
    BadStream,
    /// Our client went away or asked to stop.
    Cancelled,
}

impl Class {
    /// All of them, for tables and metrics.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Auth,
        Self::Quota,
        Self::RateLimited,
        Self::Overloaded,
        Self::Server,
        Self::Network,
        Self::Stalled,
        Self::Incomplete,
        Self::BadStream,
        Self::Cancelled,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Network => "network",
            Self::Stalled => "stalled",
            Self::Incomplete => "incomplete",
            Self::BadStream => "bad_stream",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the same endpoint and key may be asked again, before the first output.
    #[must_use]
    pub const fn may_retry(self) -> bool {
        !matches!(self, Self::BadRequest | Self::Auth | Self::Quota | Self::Cancelled)
    }

    /// Whether another key, endpoint or provider may be asked, before the first output.
    #[must_use]
    pub const fn may_fail_over(self) -> bool {
        !matches!(self, Self::BadRequest | Self::Cancelled)
    }

    /// Whether the endpoint's circuit breaker counts it as a failure.
    #[must_use]
    pub const fn counts_for_breaker(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::Server
                | Self::Network
                | Self::Stalled
                | Self::Incomplete
                | Self::BadStream
        )
    }
}

/// What happened, to be read after the provider's name: `openai: overloaded`.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "refused the request",
            Self::Auth => "refused the key",
            Self::Quota => "the account's quota is used up",
            Self::RateLimited => "limits the rate",
            Self::Overloaded => "overloaded",
            Self::Server => "server error",
            Self::Network => "network error",
            Self::Stalled => "fell silent",
            Self::Incomplete => "the answer was cut short",
            Self::BadStream => "the answer cannot be read",
            Self::Cancelled => "cancelled",
        })
    }
}

/// What an upstream said about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// Its own verdict (`x-should-retry`), which overrides the class.
    pub retry: Option<bool>,
    /// How long to wait.
    pub wait: Option<Duration>,
}

/// One failure. Its text is for the client whose request it was; logs and metrics get the class and
/// the status, because an upstream may repeat what it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}{}{}", status_suffix(*.status), detail_suffix(.detail))]
pub struct Failure {
    /// What kind.
    pub class: Class,
    /// The upstream's or our own words, [`DETAIL_SIZE_MAX`] bytes at most. May be empty.
    pub detail: String,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// What was said about trying again.
    pub hints: Hints,
}

impl Failure {
    /// A failure with these words, cut to [`DETAIL_SIZE_MAX`].
    #[must_use]
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_SIZE_MAX));
        Self { class, detail, status: None, hints: Hints::default() }
    }

    /// The body is not what the dialect says.
    #[must_use]
    pub fn bad_stream(detail: impl Into<String>) -> Self {
        Self::new(Class::BadStream, detail)
    }

    /// Whether the same endpoint and key may be asked again.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.class != Class::Cancelled && self.hints.retry.unwrap_or(self.class.may_retry())
    }
}

fn status_suffix(status: Option<u16>) -> String {
    status.map(|status| format!(" (HTTP {status})")).unwrap_or_default()
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_cut_at_a_character() {
        let failure = Failure::bad_stream("é".repeat(DETAIL_SIZE_MAX));
        assert_eq!(failure.detail.len(), DETAIL_SIZE_MAX);
        assert!(failure.detail.chars().all(|character| character == 'é'));
    }

    #[test]
    fn a_failure_says_what_the_status_was_and_what_the_upstream_said() {
        let mut failure = Failure::new(Class::Overloaded, "come back later");
        failure.status = Some(529);
        assert_eq!(failure.to_string(), "overloaded (HTTP 529): come back later");
    }

    #[test]
    fn the_upstreams_verdict_overrides_the_class_but_not_a_cancel() {
        let mut failure = Failure::new(Class::Server, "");
        assert!(failure.may_retry());
        failure.hints.retry = Some(false);
        assert!(!failure.may_retry());
        let mut cancelled = Failure::new(Class::Cancelled, "");
        cancelled.hints.retry = Some(true);
        assert!(!cancelled.may_retry());
    }

    #[test]
    fn names_are_unique() {
        let mut names = Class::ALL.map(Class::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
