//! A client that goes away: in every phase the upstream is dropped at once, everything is given back,
//! and nobody has failed.

use std::pin::pin;

use futures_lite::StreamExt;

use super::super::*;
use super::world::*;
use crate::metrics::ProviderOutcome;
use crate::provider::BreakerState;

/// Runs a request for a while and drops it; gives whether an attempt was under way.
fn cancelled_after(running: &Running, duration: std::time::Duration) -> bool {
    let mut events = running.pool.start(request("m"));
    let under_way = {
        let mut all = pin!(async {
            while let Some(event) = events.next().await {
                event.unwrap();
            }
        });
        running.time.run_for(duration, all.as_mut()).is_none()
    };
    drop(events);
    under_way
}

#[test]
fn in_every_phase_the_upstream_is_dropped_at_once() {
    let mut world = World::new();
    let reply = Reply {
        wait: 2 * SECOND,
        ..Reply::acts([
            Act::Wait(2 * SECOND),
            Act::Send("ping\n".into()),
            Act::Wait(2 * SECOND),
            Act::Send("text a\n".into()),
            Act::Wait(2 * SECOND),
            Act::Send("end\n".into()),
        ])
    };
    let [first] = world.provider("first", [vec![reply]]);
    world.route(&["first"]);
    let running = world.pool();
    for phase in 0..4 {
        assert!(cancelled_after(&running, phase * 2 * SECOND + SECOND));
        assert_eq!(first.open_count(), 0, "phase {phase}");
        assert_eq!(running.count("first", ProviderOutcome::Cancelled), u64::from(phase) + 1);
        running.assert_idle();
    }
    assert!(!cancelled_after(&running, 9 * SECOND));
    assert_eq!(running.count("first", ProviderOutcome::Cancelled), 4);
    assert_eq!(running.count("first", ProviderOutcome::Success), 1);
}

#[test]
fn a_wait_between_two_tries_can_be_cancelled() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::refused_for(503, 20.0)]]);
    world.route(&["first"]);
    let running = world.pool();
    assert!(cancelled_after(&running, 10 * SECOND));
    assert_eq!(first.asked().len(), 1);
    assert_eq!(running.count("first", ProviderOutcome::Cancelled), 0, "nothing was under way");
    running.assert_idle();
}

#[test]
fn ten_thousand_cancels_leave_nothing_and_open_no_breaker() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::silent()]]);
    world.route(&["first"]);
    let running = world.pool();
    for _ in 0..10_000 {
        assert!(cancelled_after(&running, SECOND / 1000));
    }
    assert_eq!(first.open_count(), 0);
    running.assert_idle();
    for member in running.pool.remotes() {
        assert_eq!(member.lock().endpoints[0].breaker.state(), BreakerState::Closed);
    }
}

#[test]
fn a_cancelled_probe_lets_the_next_one_through() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::refused(500)]]);
    world.route(&["first"]);
    world.settings.upstream.retries_max = 0;
    let running = world.pool();
    for _ in 0..5 {
        assert!(running.ask().1.is_err());
    }
    running.time.advance(60 * SECOND);
    first.now_replies([Reply::silent()]);
    for _ in 0..10 {
        assert!(cancelled_after(&running, SECOND));
    }
    assert_eq!(first.asked().len(), 15);
    first.now_replies([Reply::whole("back")]);
    assert_eq!(whole(running.ask()), "back");
}

#[test]
fn while_a_probe_is_under_way_nobody_else_is_let_through() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::refused(500)]]);
    let [second] = world.provider("second", [vec![Reply::whole("good")]]);
    world.route(&["first", "second"]);
    let running = world.pool();
    for _ in 0..5 {
        assert_eq!(whole(running.ask()), "good");
    }
    running.time.advance(60 * SECOND);
    first.now_replies([Reply { wait: 5 * SECOND, ..Reply::whole("back") }]);
    let both = futures_lite::future::zip(
        collect(running.pool.start(request("m"))),
        collect(running.pool.start(request("m"))),
    );
    let (probe, other) = running.time.run(both);
    assert_eq!((whole(probe), whole(other)), ("back".into(), "good".into()));
    assert_eq!((first.asked().len(), second.asked().len()), (6, 6));
}
