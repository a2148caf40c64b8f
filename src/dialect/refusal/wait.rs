//! Whether and when a provider wants to be asked again, in all the forms in which they say so.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::header;
use super::words::Words;
use crate::dialect::failure::Hints;

/// The longest wait that is believed: what is longer is as good as never.
const WAIT_MAX: Duration = Duration::from_secs(31 * 86_400);

/// What stands before a time to wait in a message.
const PHRASES: &[&str] = &["try again in ", "retry in ", "retry after ", "retry again in "];

/// What the headers and the words say. A wait of nothing is no hint.
pub(super) fn hints(headers: &HeaderMap, words: &Words, now: SystemTime) -> Hints {
    let retry = match header(headers, "x-should-retry") {
        Some("true") => Some(true),
        Some("false") => return Hints { retry: Some(false), wait: None },
        _ => None,
    };
    let wait = milliseconds(headers)
        .or_else(|| retry_after(headers, now))
        .or(words.wait)
        .or_else(|| in_text(&words.text))
        .or_else(|| reset(headers, now));
    Hints { retry, wait: wait.map(|wait| wait.min(WAIT_MAX)) }
}

fn milliseconds(headers: &HeaderMap) -> Option<Duration> {
    seconds(header(headers, "retry-after-ms")?.parse::<f64>().ok()? / 1000.0)
}

/// Seconds, whole or not, or a date (RFC 9110, §10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = header(headers, "retry-after")?;
    match value.parse::<f64>() {
        Ok(value) => seconds(value),
        Err(_) => until(httpdate::parse_http_date(value).ok()?, now),
    }
}

/// `Please try again in 7.66s.`
fn in_text(text: &str) -> Option<Duration> {
    let text = text.to_ascii_lowercase();
    let after =
        |phrase: &&str| text.find(phrase).and_then(|at| duration(&text[at + phrase.len()..]));
    PHRASES.iter().find_map(after)
}

/// When the last of the exhausted limits is filled again: `…ratelimit…remaining…: 0` has its
/// `…reset…` beside it, wherever the service puts the two words.
fn reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let exhausted = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str();
        let is_remaining = name.contains("ratelimit") && name.contains("remaining");
        let left = value.to_str().ok().filter(|_| is_remaining)?.trim().parse::<f64>().ok()?;
        (left <= 0.0).then(|| name.replace("remaining", "reset"))
    });
    exhausted.filter_map(|name| reset_value(header(headers, &name)?, now)).max()
}

/// A time to wait, or a time of day as RFC 3339 or in seconds or milliseconds since 1970.
fn reset_value(value: &str, now: SystemTime) -> Option<Duration> {
    /// Seconds of the year 2001, and of the year 5138 or milliseconds of 1973.
    const EPOCH: [f64; 2] = [1e9, 1e11];
    match value.parse::<f64>() {
        Ok(number) if number >= EPOCH[0] => {
            let number = if number >= EPOCH[1] { number / 1000.0 } else { number };
            let since = Duration::try_from_secs_f64(number).ok()?;
            until(SystemTime::UNIX_EPOCH.checked_add(since)?, now)
        }
        _ => duration(value).or_else(|| until(rfc3339(value)?, now)),
    }
}

/// Reads what stands at the beginning of the text: `120ms`, `7.66s`, `6m0s`, `1 minute 30 seconds`,
/// or a bare number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim_start();
    let mut total = None;
    // Bounded: each round takes a number from the text.
    loop {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let ends_sentence = number.ends_with('.');
        let Ok(number) = number.trim_end_matches('.').parse::<f64>() else { break };
        let (unit, after) = match ends_sentence {
            true => ("", ""),
            false => {
                let after = after.trim_start_matches(' ');
                after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()))
            }
        };
        let unit_secs = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            // A date goes on with more numbers.
            "" if total.is_none() && !after.starts_with(['-', ':', '/']) => 1.0,
            _ => break,
        };
        total = Some(total.unwrap_or(0.0) + number * unit_secs);
        rest = after.trim_start_matches(' ');
    }
    seconds(total?)
}

/// A wait that is one.
fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero())
}

fn until(time: SystemTime, now: SystemTime) -> Option<Duration> {
    time.duration_since(now).ok().filter(|wait| !wait.is_zero())
}

/// A time after 1970, with an offset or `Z`; fractions of a second are dropped.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let [year, month, day] = [number(0..4)?, number(5..7)?, number(8..10)?];
    let [hour, minute, second] = [number(11..13)?, number(14..16)?, number(17..19)?];
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] =
                [zone.get(1..3)?, zone.get(4..6)?].map(|part| part.parse::<i64>().ok());
            let minutes = hours? * 60 + minutes?;
            match zone.as_bytes().first()? {
                b'+' => minutes,
                b'-' => -minutes,
                _ => return None,
            }
        }
    };
    // Days since 1970 of the proleptic Gregorian calendar, whose year here begins in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_duration_is_read() {
        for (text, millis) in [
            ("120ms", 120),
            ("1s", 1000),
            ("7.66s. Visit the site", 7660),
            ("6m0s", 360_000),
            ("2m59.56s", 179_560),
            ("1h2m3s", 3_723_000),
            ("45.8379s", 45_837),
            ("20 seconds.", 20_000),
            ("1 minute 30 seconds", 90_000),
            ("20", 20_000),
            ("20. Then", 20_000),
            (" 3 s, or less", 3000),
        ] {
            assert_eq!(duration(text).map(|d| d.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "soon", "0s", "-1s", "3 attempts", "2026-01-01", "...", "1e999", "NaN"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn times_of_day_are_read_with_every_offset() {
        for (text, secs) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-26T01:02:03Z", 1_795_654_923),
            ("2026-11-26T01:02:03.456Z", 1_795_654_923),
            ("2026-11-26T02:32:03+01:30", 1_795_654_923),
            ("2026-11-25T20:02:03.5-05:00", 1_795_654_923),
        ] {
            let since = rfc3339(text)
                .map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
            assert_eq!(since, Some(secs), "{text}");
        }
        for text in
            ["", "2026-11-26", "2026-11-26T01:02:03", "1969-12-31T23:59:59Z", "éééééééééééé"]
        {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}
