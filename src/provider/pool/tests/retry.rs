//! Asking the same endpoint again: how often, after which wait, and when not.

use std::time::Duration;

use super::super::seams::Time;
use super::world::*;
use crate::error::IpcError;

/// Asks once a pool with one provider of this script; gives the outcome and the times between the
/// requests that it got.
fn ask(script: Vec<Reply>, change: impl FnOnce(&mut World)) -> (Outcome, Vec<Duration>) {
    let mut world = World::new();
    let [first] = world.provider("first", [script]);
    world.route(&["first"]);
    change(&mut world);
    let running = world.pool();
    let outcome = running.ask();
    running.assert_idle();
    let times: Vec<Duration> = first.asked().iter().map(|asked| asked.at).collect();
    let retries = running.metrics("first").usage.provider_retries_total.value();
    assert_eq!(retries, times.len() as u64 - 1);
    (outcome, times.windows(2).map(|pair| pair[1] - pair[0]).collect())
}

#[test]
fn an_endpoint_is_asked_again_twice_after_growing_waits() {
    for reply in [
        Reply::refused(500),
        Reply::refused(503),
        Reply::unreachable(),
        Reply::acts([]),
        Reply::refused(429),
    ] {
        let script = vec![reply.clone(), reply.clone(), Reply::whole("good")];
        let (outcome, waits) = ask(script, |_| {});
        assert_eq!(whole(outcome), "good", "{reply:?}");
        assert!(waits.len() == 2 && waits[0] <= SECOND / 2 && waits[1] <= SECOND, "{waits:?}");

        let (outcome, waits) = ask(vec![reply.clone()], |_| {});
        assert!(outcome.1.is_err() && waits.len() == 2, "{reply:?}: {waits:?}");
    }
}

#[test]
fn the_upstreams_wait_is_kept_to_the_moment() {
    for status in [429, 503] {
        let script = vec![Reply::refused_for(status, 7.25), Reply::whole("good")];
        let (outcome, waits) = ask(script, |_| {});
        assert_eq!(whole(outcome), "good");
        assert_eq!(waits, [Duration::from_millis(7250)], "{status}");
    }
}

#[test]
fn a_wait_beyond_a_minute_or_the_budget_is_told_to_the_client_at_once() {
    for (wait, budget) in [(61.0, 600), (20.0, 10)] {
        let change = |world: &mut World| {
            world.settings.upstream.retry_budget = Duration::from_secs(budget);
        };
        let ((_, result), waits) = ask(vec![Reply::refused_for(429, wait)], change);
        let Err(IpcError::Busy { retry_after }) = result else { panic!("{result:?}") };
        assert_eq!((retry_after, waits.len()), (Duration::from_secs_f64(wait), 0));

        let ((_, result), waits) = ask(vec![Reply::refused_for(503, wait)], change);
        let Err(IpcError::ProviderFailed { detail }) = result else { panic!("{result:?}") };
        assert!(detail.contains(&format!("wait for {wait} s")) && waits.is_empty(), "{detail}");
    }
}

#[test]
fn nobody_is_asked_twice_what_they_refuse() {
    for status in [400, 401, 402, 403, 404] {
        let ((_, result), waits) = ask(vec![Reply::refused(status)], |_| {});
        assert!(result.is_err() && waits.is_empty(), "{status}");
    }
}

#[test]
fn no_retries_are_none() {
    let (outcome, waits) =
        ask(vec![Reply::refused(500)], |world| world.settings.upstream.retries_max = 0);
    assert!(outcome.1.is_err() && waits.is_empty());
}

#[test]
fn a_stall_uses_the_budget_up() {
    let (outcome, waits) = ask(vec![Reply::silent()], |_| {});
    assert!(outcome.1.is_err() && waits.is_empty());
    let budget = |world: &mut World| world.settings.upstream.retry_budget = 600 * SECOND;
    let (outcome, waits) = ask(vec![Reply::silent(), Reply::whole("good")], budget);
    assert_eq!(whole(outcome), "good");
    assert!(waits[0] > 60 * SECOND);
}

#[test]
fn a_call_that_comes_in_pieces_for_minutes_is_no_stall() {
    let part = || [Act::Send("part\n".into()), Act::Wait(50 * SECOND)];
    let slow = part().into_iter().chain(part());
    let acts: Vec<Act> = slow.chain([Act::Send("call c\nend\n".into())]).collect();
    let (outcome, _) = ask(vec![Reply::acts(acts)], |_| {});
    assert!(outcome.1.is_ok(), "{outcome:?}");
    // Proof of life is no output, however often it comes.
    let alive = || [Act::Send("alive\n".into()), Act::Wait(50 * SECOND)];
    let acts: Vec<Act> = alive().into_iter().chain(alive()).collect();
    let (outcome, _) = ask(vec![Reply::acts(acts)], |_| {});
    assert!(outcome.1.is_err(), "{outcome:?}");
}

#[test]
fn whoever_meets_a_cooled_key_waits_for_it_without_asking() {
    let mut world = World::new();
    let [first] =
        world.provider("first", [vec![Reply::refused_for(429, 30.0), Reply::whole("good")]]);
    world.route(&["first"]);
    let running = world.pool();
    let both = futures_lite::future::zip(
        collect(super::super::Provider::start(&running.pool, request("m"))),
        async {
            running.time.sleep(SECOND).await;
            collect(super::super::Provider::start(&running.pool, request("m"))).await
        },
    );
    let (one, other) = running.time.run(both);
    assert_eq!((whole(one), whole(other)), ("good".into(), "good".into()));
    let asked = first.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[1].at - asked[0].at == 30 * SECOND && asked[2].at >= asked[1].at);
}

#[test]
fn our_own_limits_hold_requests_back_before_the_upstream_has_to() {
    let mut world = World::new();
    let [first] = world.provider_with("first", [vec![Reply::whole("good")]], |it| {
        it.requests_per_minute = Some(2);
    });
    world.route(&["first"]);
    let running = world.pool();
    let before = running.time.now();
    for _ in 0..4 {
        assert_eq!(whole(running.ask()), "good");
    }
    assert_eq!(first.asked()[3].at - before, 60 * SECOND);
    assert_eq!(running.metrics("first").usage.provider_retries_total.value(), 0);
}

#[test]
fn a_limit_that_is_far_from_room_is_told_to_the_client() {
    let mut world = World::new();
    world.provider_with("first", [vec![Reply::whole("good")]], |it| {
        it.tokens_per_minute = Some(1000);
    });
    world.route(&["first"]);
    world.settings.upstream.retry_budget = 10 * SECOND;
    let running = world.pool();
    assert_eq!(whole(running.ask()), "good");
    let (_, result) = running.ask();
    let Err(IpcError::Busy { retry_after }) = result else { panic!("{result:?}") };
    assert!(retry_after > 10 * SECOND && retry_after <= 60 * SECOND, "{retry_after:?}");
}
