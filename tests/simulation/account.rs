//! The final account: what the daemon counted is what happened.

use annulus::sync::Ordering::Relaxed;

use super::world::World;

/// Label `type` of the page.
const KINDS: [&str; 7] = ["echo", "heartbeat", "complete", "stream", "cancel", "builtin", "user"];

/// Compares the metrics page with what the simulation saw.
///
/// # Panics
///
/// When they differ.
pub(crate) fn check(world: &World) {
    let page = world.metrics.export_prometheus();
    let value = |name: &str| -> u64 {
        let line = page
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
            .unwrap_or_else(|| panic!("no {name} on the page"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let same = |name: &str, expected: u64| assert_eq!(value(name), expected, "{name}");
    let of_kind = |name: &str, kind: &str| value(&format!("{name}{{type=\"{kind}\"}}"));
    let errors = |kind: &str, status: &str| {
        value(&format!("annulus_errors_total{{type=\"{kind}\",status=\"{status}\"}}"))
    };
    // Requests that went to a handler. Of echo and the workers' types none is too large otherwise.
    let accepted = |kind: &str| {
        let refused: u64 =
            ["busy", "unavailable", "too_large"].map(|status| errors(kind, status)).iter().sum();
        let requests = of_kind("annulus_requests_total", kind);
        requests.checked_sub(refused).unwrap_or_else(|| panic!("{refused} of {requests} {kind}"))
    };

    let counts = world.shell.counts;
    assert_eq!(world.shell.occupied, 0, "slots that nobody has");
    same("annulus_connections_accepted_total{shard=\"0\"}", counts.adopted);
    same("annulus_connections_open{shard=\"0\"}", 0);
    for (reason, expected) in [
        ("client_left", counts.client_left),
        ("idle", counts.idle),
        ("fault", counts.fault),
        ("too_large", counts.too_large),
        ("shutdown", counts.shutdown),
    ] {
        same(&format!("annulus_connections_closed_total{{reason=\"{reason}\"}}"), expected);
    }
    same("annulus_doorbells_received_total{shard=\"0\"}", counts.doorbells);
    same("annulus_doorbells_sent_total{shard=\"0\"}", counts.rings);

    // A client that breaks its own response ring makes an answer fail after its handler ran.
    let handled = world.handled[0].load(Relaxed);
    let echoed = accepted("echo");
    assert!(
        (handled.saturating_sub(counts.fault)..=handled).contains(&echoed),
        "{echoed} echo requests, {handled} handled"
    );
    let handled = world.handled[1].load(Relaxed);
    let requests = of_kind("annulus_requests_total", "user");
    assert!(handled <= requests + counts.fault, "{requests} user requests, {handled} handled");

    let actors = world.actors.borrow();
    for (worker, kind) in actors.workers.iter().zip(["stream", "complete"]) {
        let taken = accepted(kind);
        assert_eq!(taken, worker.counts.requests, "{kind} requests that the worker took");
        // Each ends with a last frame or with its connection.
        let finished = of_kind("annulus_request_duration_seconds_count", kind);
        let dropped = taken.checked_sub(finished).expect("more ends than requests");
        let cancelled = errors(kind, "cancelled");
        assert!(dropped <= cancelled, "{kind}: {dropped} requests have no end");
        assert!(
            cancelled - dropped <= worker.counts.cancelled,
            "{kind}: {cancelled} cancelled, {dropped} dropped"
        );
    }
    let cancels = actors.workers.iter().map(|worker| worker.counts.cancels).sum();
    same("annulus_requests_total{type=\"cancel\"}", cancels);

    let total = |name: &str| KINDS.iter().map(|kind| of_kind(name, kind)).sum::<u64>();
    assert_eq!(total("annulus_responses_total"), counts.responses, "frames that were published");
}
