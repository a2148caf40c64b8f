//! How the honest client's latency beside an attack compares with that beside a twin.

use std::time::Duration;

/// How much worse than beside a well-behaved client the honest client's p99 may be.
const RATIO_MAX: f64 = 3.0;
pub(super) const WINDOW: Duration = Duration::from_millis(130);

/// p99 of the honest client's echoes and heartbeats in one window, in nanoseconds.
pub(super) type Latency = [u64; 2];

pub(super) fn compare(
    beside_attack: &[Latency],
    beside_twin: &[Latency],
) -> Result<String, String> {
    let median = |windows: &[Latency], which: usize| {
        let mut values: Vec<u64> = windows.iter().map(|window| window[which]).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(u64::MAX)
    };
    let mut texts = Vec::new();
    let mut worst = 0.0_f64;
    let long = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
    if (0..2).any(|which| median(beside_twin, which) >= long) {
        // Beside such a twin nothing could fail.
        return Err("the honest client got nothing done beside the twin".into());
    }
    for (which, name) in ["echo", "heartbeat"].into_iter().enumerate() {
        let (attack, twin) = (median(beside_attack, which), median(beside_twin, which));
        let micros = |nanos: u64| nanos / 1000;
        texts.push(format!(
            "{name} p99 {} µs, beside the twin {} µs",
            micros(attack),
            micros(twin)
        ));
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test")]
        let ratio = attack as f64 / twin.max(1) as f64;
        worst = worst.max(ratio);
    }
    let text = format!("{} ({worst:.2} ×)", texts.join("; "));
    if worst <= RATIO_MAX { Ok(text) } else { Err(text) }
}
