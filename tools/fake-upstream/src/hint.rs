//! What an answer says about trying again, in each form that providers use.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One such statement. Numbers stay text where their form matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hint {
    /// `retry-after`, in seconds, as written (`2`, `1.5`, `soon`).
    RetryAfter(String),
    /// `retry-after` as an HTTP date, so many seconds from now.
    RetryAfterDate(u64),
    /// `retry-after-ms`.
    RetryAfterMs(u64),
    /// `x-should-retry`.
    ShouldRetry(bool),
    /// Gemini's `RetryInfo`, in seconds, as written.
    RetryDelay(String),
    /// The words `try again in 7.66s`, as written.
    TryAgainIn(String),
    /// `x-ratelimit-remaining-requests: 0` and when it is reset, as written (`1s`, `6m0s`, `120ms`).
    Reset(String),
    /// Anthropic's reset of an exhausted limit, so many seconds from now, as RFC 3339.
    ResetDate(u64),
}

impl Hint {
    pub(crate) fn read(part: &str) -> Option<Self> {
        let text = |prefix: &str| part.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        let number = |prefix: &str| text(prefix)?.parse().ok();
        if part.starts_with("retry-after-ms-") {
            return number("retry-after-ms-").map(Self::RetryAfterMs);
        }
        if part.starts_with("retry-after-date-") {
            return number("retry-after-date-").map(Self::RetryAfterDate);
        }
        if part.starts_with("limit-reset-date-") {
            return number("limit-reset-date-").map(Self::ResetDate);
        }
        let words = text("retry-after-").map(|rest| Self::RetryAfter(rest.to_owned()));
        let words = words.or_else(|| Some(Self::RetryDelay(text("retry-delay-")?.to_owned())));
        let words = words.or_else(|| Some(Self::TryAgainIn(text("try-again-in-")?.to_owned())));
        let words = words.or_else(|| Some(Self::Reset(text("limit-reset-")?.to_owned())));
        let is_header = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        words.filter(|_| is_header(part)).or(match part {
            "should-retry-true" => Some(Self::ShouldRetry(true)),
            "should-retry-false" => Some(Self::ShouldRetry(false)),
            _ => None,
        })
    }

    /// The headers that say it; none for those that are said in the body.
    pub(crate) fn headers(&self, now: SystemTime) -> Vec<(&'static str, String)> {
        match self {
            Self::RetryAfter(text) => vec![("retry-after", text.clone())],
            Self::RetryAfterDate(seconds) => {
                let date = httpdate::fmt_http_date(now + Duration::from_secs(*seconds));
                vec![("retry-after", date)]
            }
            Self::RetryAfterMs(ms) => vec![("retry-after-ms", ms.to_string())],
            Self::ShouldRetry(yes) => vec![("x-should-retry", yes.to_string())],
            Self::Reset(text) => vec![
                ("x-ratelimit-limit-requests", "60".to_owned()),
                ("x-ratelimit-remaining-requests", "0".to_owned()),
                ("x-ratelimit-reset-requests", text.clone()),
            ],
            Self::ResetDate(seconds) => vec![
                ("anthropic-ratelimit-requests-limit", "50".to_owned()),
                ("anthropic-ratelimit-requests-remaining", "0".to_owned()),
                ("anthropic-ratelimit-requests-reset", rfc3339(now, *seconds)),
            ],
            Self::RetryDelay(_) | Self::TryAgainIn(_) => Vec::new(),
        }
    }

    /// Whether its text depends on when it is sent.
    pub(crate) fn is_dated(&self) -> bool {
        matches!(self, Self::RetryAfterDate(_) | Self::ResetDate(_))
    }
}

/// `2026-11-26T01:02:03Z`, so many seconds after `now`.
fn rfc3339(now: SystemTime, seconds: u64) -> String {
    let unix = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + seconds;
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days to a date of the Gregorian calendar: Howard Hinnant, "chrono-compatible low-level date
    // algorithms", civil_from_days, for days after 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_said() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_654_923);
        let said = |part: &str| {
            let hint = Hint::read(part).unwrap_or_else(|| panic!("{part}"));
            let headers = hint.headers(now);
            headers.last().map(|(name, value)| format!("{name}: {value}"))
        };
        assert_eq!(said("retry-after-1.5").unwrap(), "retry-after: 1.5");
        assert_eq!(said("retry-after-ms-50").unwrap(), "retry-after-ms: 50");
        let date = said("retry-after-date-2").unwrap();
        assert_eq!(date, "retry-after: Thu, 26 Nov 2026 01:02:05 GMT");
        assert_eq!(said("should-retry-false").unwrap(), "x-should-retry: false");
        assert_eq!(said("limit-reset-6m0s").unwrap(), "x-ratelimit-reset-requests: 6m0s");
        let date = said("limit-reset-date-2").unwrap();
        assert_eq!(date, "anthropic-ratelimit-requests-reset: 2026-11-26T01:02:05Z");
        assert_eq!(said("retry-delay-45.8379s"), None);
        assert_eq!(said("try-again-in-7.66s"), None);
        assert_eq!(Hint::read("retry-after-ms-x"), None);
        assert_eq!(Hint::read("retry-after-"), None);
    }
}
