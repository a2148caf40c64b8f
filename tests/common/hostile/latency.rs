//! How the honest client's latency beside an attack compares with that beside a twin.
//!
//! The invariant to remember: a window is as long as it takes to have enough samples. A client that
//! gets nothing done has no p99, which is a finding and no excuse.

use std::fmt;
use std::time::{Duration, Instant};

use super::Again;
use super::honest::HonestShared;

/// How much worse than beside a well-behaved client the honest client's p99 may be.
const RATIO_MAX: f64 = 3.0;
/// Windows of each side; the median of their p99 counts.
const WINDOWS: usize = 3;
/// An attack of which one run takes longer has one window of each side: it has samples enough.
const RUN_LONG: Duration = Duration::from_millis(250);
/// How long a window may go on for want of samples, beyond the run that it has begun.
const WINDOW_MAX: Duration = Duration::from_secs(3);
/// Comparisons before a row counts as lost: other work runs on the same cores.
const ATTEMPTS: usize = 6;

/// p99 of the honest client's echoes and heartbeats in one window, in nanoseconds.
pub(super) type Latency = [u64; 2];

/// The outcome of a comparison within the bar.
pub(super) struct Compared {
    /// The worse of the two ratios.
    pub(super) ratio: f64,
    /// Which attempt it was, from 1.
    pub(super) attempt: usize,
    /// How long all attempts took.
    time: Duration,
    text: String,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at attempt {}, in {} ms", self.text, self.attempt, self.time.as_millis())
    }
}

/// What a comparison needs to know of the stage.
pub(super) struct Clock<'a> {
    pub(super) honest: &'a HonestShared,
    /// Returns when the daemon has let go of everything that either side had.
    pub(super) settle: &'a dyn Fn(),
    pub(super) again: Again,
}

impl Clock<'_> {
    /// Compares the windows of `attack` with those of `twin`; each call is one run of that side, and
    /// one of them takes about `run`.
    ///
    /// # Errors
    ///
    /// What was measured at the last of [`ATTEMPTS`], each of which was above [`RATIO_MAX`].
    pub(super) fn compare(
        &self,
        run: Duration,
        mut attack: impl FnMut(),
        mut twin: impl FnMut(),
    ) -> Result<Compared, String> {
        let windows = if run > RUN_LONG { 1 } else { WINDOWS };
        let began = Instant::now();
        let mut compared = Err(String::new());
        // Bounded: the first attempt within the bar ends it.
        for attempt in 1..=ATTEMPTS {
            compared = self
                .windows(windows, &mut attack, &mut twin)
                .and_then(|[attack, twin]| judge(&attack, &twin))
                .map(|(ratio, text)| Compared { ratio, attempt, time: began.elapsed(), text });
            if compared.is_ok() || self.honest.is_over() {
                break;
            }
        }
        compared
    }

    /// So many windows of each side.
    fn windows(
        &self,
        count: usize,
        attack: &mut dyn FnMut(),
        twin: &mut dyn FnMut(),
    ) -> Result<[Vec<Latency>; 2], String> {
        let (mut beside_attack, mut beside_twin) = (Vec::new(), Vec::new());
        for window in 0..2 * count {
            // What the last window left behind is not this one's.
            (self.settle)();
            // Attack, twin, twin, attack, …: a drift of the machine meets both alike.
            let attacking = matches!(window % 4, 0 | 3);
            let latency = self.window(if attacking { &mut *attack } else { &mut *twin });
            let side = if attacking { "attack" } else { "twin" };
            let latency = latency.ok_or_else(|| {
                format!("the honest client got too little done beside the {side}")
            })?;
            if attacking { &mut beside_attack } else { &mut beside_twin }.push(latency);
        }
        Ok([beside_attack, beside_twin])
    }

    /// The honest client's latency while one side works, again and again until there are samples
    /// enough for a p99. `None` when there are too few.
    fn window(&self, work: &mut dyn FnMut()) -> Option<Latency> {
        let began = Instant::now();
        self.honest.forget();
        loop {
            self.honest.measure(true);
            work();
            if self.again == Again::WhenLetGo {
                // Idle time would hide what the work costs.
                self.honest.measure(false);
            }
            if self.honest.has_enough() || self.honest.is_over() || began.elapsed() >= WINDOW_MAX {
                return self.honest.latency();
            }
            if self.again == Again::WhenLetGo {
                (self.settle)();
            }
        }
    }
}

/// The worse ratio and the figures; as an error when it is above the bar.
fn judge(beside_attack: &[Latency], beside_twin: &[Latency]) -> Result<(f64, String), String> {
    let median = |windows: &[Latency], which: usize| {
        let mut values: Vec<u64> = windows.iter().map(|window| window[which]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let mut texts = Vec::new();
    let mut worst = 0.0_f64;
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
    if worst <= RATIO_MAX { Ok((worst, text)) } else { Err(text) }
}
