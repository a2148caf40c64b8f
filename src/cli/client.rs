//! What the commands that talk to a daemon share: where it is, and how long to wait for it.

use std::time::Duration;

use annulus::client::ConnectOptions;
use annulus::config::Config;

/// How to reach the daemon of this configuration.
pub(super) fn connect_options(config: &Config) -> ConnectOptions {
    ConnectOptions::new().socket_path(&config.ipc.socket_path)
}

/// Reads a time in seconds, fractions allowed.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write it in seconds, like 2 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_fractions_and_must_be_positive() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "1e300", "soon", ""] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
