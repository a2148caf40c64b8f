//! What a request takes beyond the time that its upstream takes.

use std::time::Duration;

use annulus::bench::Samples;

use super::paced::{Exchange, Paced, index_of};
use super::upstream::{Asked, Upstream};
use super::{Scene, micros, quantiles};
use crate::Failure;
use crate::levels::{as_float, hold_nothing_lost};
use crate::report::Report;

/// A few hundred bytes of text in some events, as fast as they go.
const MODEL: &str = "fake-chunks-3_size-120";
/// Requests a second, and how many are counted.
const RATE: u32 = 1_000;
const COUNT: u32 = 10_000;
/// Before them, uncounted: connections are opened, pages touched.
const WARM_UP: usize = 500;
/// Requests of another proxy.
const COUNT_BESIDE: u32 = 500;
const WARM_UP_BESIDE: usize = 20;

/// Bars, in microseconds, and the ratio to another proxy.
const P50_MAX: f64 = 150.0;
const P99_MAX: f64 = 1_000.0;
const RATIO_MIN: f64 = 20.0;

pub(super) fn measure(
    scene: &Scene<'_>,
    upstream: Upstream,
    report: &mut Report,
) -> Result<(), Failure> {
    let count = WARM_UP + scene.stage.connections(COUNT) as usize;
    let paced = Paced { model: MODEL, count, period: Duration::from_secs(1) / RATE };
    // The bare ones first and last: the machine's state changes.
    let bare = |who| upstream.plain_address().map(|address| paced.directly(who, address));
    let before = bare("before").transpose()?;
    let daemon = scene.start_daemon(&upstream)?;
    let through = paced.through_daemon("daemon", &daemon.socket())?;
    daemon.stop()?;
    let after = bare("after").transpose()?;
    let beside = scene.options.beside.map(|(address, rate)| {
        let count = WARM_UP_BESIDE + scene.stage.connections(COUNT_BESIDE) as usize;
        let period = Duration::from_secs(1) / rate;
        Paced { count, period, ..paced }.directly("beside", address)
    });
    let beside = beside.transpose()?;
    let log = upstream.stop()?;

    let ours = Added::new(&log, "daemon", &through, WARM_UP);
    hold_nothing_lost(report, (count - WARM_UP) as u64, ours.added.count())?;
    for (who, exchanges) in [("before", &before), ("after", &after)] {
        if let Some(exchanges) = exchanges {
            let bare = Added::new(&log, who, exchanges, WARM_UP);
            report.show(&format!("bare client ({who}): in all"), quantiles(&bare.total));
        }
    }
    report.show("daemon: sent after it was due", quantiles(&ours.late));
    report.show("daemon: waiting on the upstream", quantiles(&ours.waiting));
    report.show("daemon: added, at least", quantiles(&ours.added));
    report.show("daemon: in all", quantiles(&ours.total));
    // The upstream notes an answer's end only after the client could read it, so what is added is
    // between the difference and all of it. The bars are held against all.
    let summary = ours.total.summary();
    let tls = if scene.options.tls { ", TLS" } else { "" };
    hold(report, &format!("added at {RATE}/s{tls}, at most: p50"), P50_MAX, summary.p50_ns);
    hold(report, &format!("added at {RATE}/s{tls}, at most: p99"), P99_MAX, summary.p99_ns);
    if let (Some(exchanges), Some((_, rate))) = (&beside, scene.options.beside) {
        let theirs = Added::new(&log, "beside", exchanges, WARM_UP_BESIDE);
        report.show(&format!("other proxy at {rate}/s: sent late"), quantiles(&theirs.late));
        report.show(&format!("other proxy at {rate}/s: added, at least"), quantiles(&theirs.added));
        let ratio = as_float(theirs.added.summary().p50_ns) / as_float(summary.p50_ns.max(1));
        let met = ratio >= RATIO_MIN;
        report.hold("other proxy's p50 to ours", ">= 20", format!("{ratio:.1}"), met);
    }
    Ok(())
}

fn hold(report: &mut Report, what: &str, most: f64, nanoseconds: u64) {
    let seen = micros(nanoseconds);
    report.hold(what, &format!("< {most} us"), format!("{seen:.1} us"), seen < most);
}

/// Where the time of requests went.
struct Added {
    late: Samples,
    total: Samples,
    /// From when the upstream had read the request until it had written the answer's last byte.
    waiting: Samples,
    /// The rest: at least this was added.
    added: Samples,
}

impl Added {
    /// Takes the requests of `who` apart, but for the first few.
    fn new(log: &[Asked], who: &str, exchanges: &[Exchange], warm_up: usize) -> Self {
        let empty = Samples::new;
        let mut parts = Self { late: empty(), total: empty(), waiting: empty(), added: empty() };
        for asked in log {
            let Some(index) = index_of(&asked.body, who).filter(|index| *index >= warm_up) else {
                continue;
            };
            let (Some(exchange), Some(ended)) = (exchanges.get(index), &asked.ended) else {
                continue;
            };
            let total = exchange.answered_ns.saturating_sub(exchange.sent_ns);
            let waiting = ended.at_ns.saturating_sub(asked.at_ns);
            parts.late.record(Duration::from_nanos(exchange.late_ns));
            parts.total.record(Duration::from_nanos(total));
            parts.waiting.record(Duration::from_nanos(waiting));
            parts.added.record(Duration::from_nanos(total.saturating_sub(waiting)));
        }
        parts
    }
}
