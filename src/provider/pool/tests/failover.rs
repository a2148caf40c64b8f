//! Who is asked when somebody fails before the first output.

use super::super::seams::Time;
use super::world::*;
use crate::error::IpcError;
use crate::metrics::{EndpointState, ProviderOutcome};

#[test]
fn every_failure_before_the_first_output_leads_to_the_next_provider() {
    let stream = |acts: &[Act]| Reply::acts(acts);
    let send = |text: &str| Act::Send(text.into());
    for (reply, outcome) in [
        (Reply::refused(429), ProviderOutcome::RateLimited),
        (Reply::refused_for(429, 30.0), ProviderOutcome::RateLimited),
        (Reply::refused(402), ProviderOutcome::Quota),
        (Reply::refused(401), ProviderOutcome::Auth),
        (Reply::refused(503), ProviderOutcome::Overloaded),
        (Reply::refused(529), ProviderOutcome::Overloaded),
        (Reply::refused(500), ProviderOutcome::Server),
        (Reply::unreachable(), ProviderOutcome::Network),
        (Reply::silent(), ProviderOutcome::Stalled),
        (
            stream(&[send("ping\n"), Act::Wait(70 * SECOND), send("text late\nend\n")]),
            ProviderOutcome::Stalled,
        ),
        (stream(&[]), ProviderOutcome::Incomplete),
        (stream(&[send("ping\n")]), ProviderOutcome::Incomplete),
        (stream(&[send("fail nonsense\n")]), ProviderOutcome::BadStream),
        // It breaks with the very bytes of its first output.
        (stream(&[send("text a\nfail nonsense\n")]), ProviderOutcome::BadStream),
        (stream(&[Act::Break]), ProviderOutcome::Network),
    ] {
        let mut world = World::new();
        let [first] = world.provider("first", [vec![reply.clone()]]);
        let [second] = world.provider("second", [vec![Reply::whole("good")]]);
        world.route(&["first", "second"]);
        let running = world.pool();
        let before = running.time.now();
        assert_eq!(whole(running.ask()), "good", "{reply:?}");
        let took = running.time.now() - before;
        let patience = if outcome == ProviderOutcome::Stalled { 60 * SECOND } else { SECOND / 50 };
        assert!(took <= patience, "{took:?} for {reply:?}");
        assert_eq!(running.count("first", outcome), 1, "{reply:?}");
        assert_eq!(running.count("second", ProviderOutcome::Success), 1);
        assert_eq!(running.metrics("first").usage.provider_failovers_total.value(), 1);
        assert_eq!((first.asked().len(), first.open_count()), (1, 0));
        assert_eq!(second.asked()[0].body, "model-of-second: hello");
        running.assert_idle();
    }
}

/// The status says most of it: nobody waits for ever, or reads for ever, what it is explained with.
#[test]
fn a_refusal_without_an_end_leads_to_the_next_provider_too() {
    let drip = [Act::Send("x".repeat(1 << 10)), Act::Wait(SECOND / 100)];
    for (acts, patience) in [
        (vec![Act::Send("no".into()), Act::Wait(1000 * SECOND)], 5 * SECOND),
        (drip.into_iter().cycle().take(2000).collect(), SECOND),
    ] {
        let mut world = World::new();
        let refusal = Reply { acts, ..Reply::refused(503) };
        let [first] = world.provider("first", [vec![refusal]]);
        world.provider("second", [vec![Reply::whole("good")]]);
        world.route(&["first", "second"]);
        let running = world.pool();
        let before = running.time.now();
        assert_eq!(whole(running.ask()), "good");
        let took = running.time.now() - before;
        assert!(took <= patience + SECOND / 50, "{took:?}");
        assert_eq!(running.count("first", ProviderOutcome::Overloaded), 1);
        assert_eq!((first.open_count(), first.read_count()), (0, 0));
        running.assert_idle();
    }
}

#[test]
fn keep_alives_do_not_hold_the_first_output_timer_back() {
    let mut world = World::new();
    let ping = [Act::Send("ping\n".into()), Act::Wait(SECOND)];
    let acts: Vec<Act> = ping.into_iter().cycle().take(1000).collect();
    world.provider("first", [vec![Reply::acts(acts)]]);
    world.provider("second", [vec![Reply::whole("good")]]);
    world.route(&["first", "second"]);
    let running = world.pool();
    let before = running.time.now();
    assert_eq!(whole(running.ask()), "good");
    assert_eq!(running.time.now() - before, 60 * SECOND);
}

#[test]
fn a_local_model_may_load_for_as_long_as_it_takes() {
    let mut world = World::new();
    let late = Reply { wait: 600 * SECOND, ..Reply::whole("good") };
    world.provider_with("first", [vec![late]], |it| it.first_output_timeout = None);
    world.route(&["first"]);
    assert_eq!(whole(world.pool().ask()), "good");
}

#[test]
fn another_endpoint_comes_before_another_provider() {
    let mut world = World::new();
    let [a, b] = world.provider("first", [vec![Reply::refused(500)], vec![Reply::whole("b")]]);
    let [second] = world.provider("second", [vec![Reply::whole("good")]]);
    world.route(&["first", "second"]);
    let running = world.pool();
    for _ in 0..100 {
        assert_eq!(whole(running.ask()), "b");
    }
    // Until its breaker opened.
    assert_eq!((a.asked().len(), b.asked().len(), second.asked().len()), (5, 100, 0));
}

#[test]
fn the_failover_list_is_asked_last_with_its_default_model() {
    let mut world = World::new();
    world.provider("first", [vec![Reply::refused(500)]]);
    let [last] = world.provider_with("last", [vec![Reply::whole("good")]], |it| {
        it.default_model = Some("best".into());
    });
    world.settings.upstream.failover = vec!["last".into()];
    let running = world.pool();
    assert_eq!(whole(running.ask_with(request("first/x"))), "good");
    assert_eq!(last.asked()[0].body, "best: hello");
}

#[test]
fn nobody_else_is_asked_for_a_bad_request() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::refused(400)]]);
    let [second] = world.provider("second", [vec![Reply::whole("good")]]);
    world.route(&["first", "second"]);
    let running = world.pool();
    let (_, outcome) = running.ask();
    assert!(matches!(outcome, Err(IpcError::InvalidRequest { detail }) if detail.contains("400")));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
    let mut wordless = request("m");
    wordless.messages[0].content = "no words for it".into();
    let (_, outcome) = running.ask_with(wordless);
    assert!(matches!(outcome, Err(IpcError::InvalidRequest { .. })));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
    running.assert_idle();
}

#[test]
fn a_model_of_nobody_is_refused_with_the_names_of_all() {
    let mut world = World::new();
    world.provider("first", [vec![Reply::whole("a")]]);
    let (_, outcome) = world.pool().ask_with(request("nobody/x"));
    assert!(
        matches!(outcome, Err(IpcError::InvalidRequest { detail }) if detail.contains("first"))
    );
}

#[test]
fn an_endpoint_that_fails_five_times_is_left_alone_for_a_minute_and_then_probed() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::refused(500)]]);
    world.provider("second", [vec![Reply::whole("good")]]);
    world.route(&["first", "second"]);
    let running = world.pool();
    for _ in 0..8 {
        assert_eq!(whole(running.ask()), "good");
    }
    assert_eq!(first.asked().len(), 5);
    let metrics = running.metrics("first");
    assert_eq!(metrics.endpoints(EndpointState::Open).value(), 1);
    assert_eq!(metrics.usage.provider_breaker_rejections_total.value(), 3);
    first.now_replies([Reply::whole("back")]);
    running.time.advance(59 * SECOND);
    assert_eq!(whole(running.ask()), "good");
    running.time.advance(SECOND);
    assert_eq!(whole(running.ask()), "back");
    assert_eq!(metrics.endpoints(EndpointState::HalfOpen).value(), 1);
    assert_eq!(whole(running.ask()), "back");
    assert_eq!(metrics.endpoints(EndpointState::Closed).value(), 1);
    for state in [EndpointState::Open, EndpointState::HalfOpen, EndpointState::Closed] {
        assert_eq!(metrics.transitions(state).value(), 1, "{state:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_counts_against_the_endpoint_and_a_200_alone_does_not_count_for_it() {
    let mut world = World::new();
    let half = Reply::acts([Act::Send("text half\n".into())]);
    let [first] = world.provider("first", [vec![half]]);
    world.route(&["first"]);
    let running = world.pool();
    for _ in 0..5 {
        let (text, outcome) = running.ask();
        assert!(text == "half" && outcome.is_err());
    }
    let (_, outcome) = running.ask();
    let Err(IpcError::ProviderFailed { detail }) = outcome else { panic!("{outcome:?}") };
    assert!(detail.contains("first: its endpoints failed lately"), "{detail}");
    assert_eq!(first.asked().len(), 5);
    assert!(!running.pool.is_ready());
}

#[test]
fn a_breaker_can_be_forced() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::whole("a")]]);
    world.route(&["first"]);
    let running = world.pool();
    assert!(running.pool.each_breaker("first", |breaker| breaker.force_open()));
    assert!(running.ask().1.is_err() && first.asked().is_empty());
    assert!(running.pool.each_breaker("first", |breaker| breaker.automatic()));
    assert_eq!(whole(running.ask()), "a");
    assert!(!running.pool.each_breaker("nobody", |_| {}));
}

#[test]
fn answers_are_counted_with_their_tokens_and_their_time_to_the_first_output() {
    let mut world = World::new();
    let late = Reply { wait: 2 * SECOND, ..Reply::whole("a") };
    let [first] = world.provider("first", [vec![late]]);
    world.route(&["first"]);
    let running = world.pool();
    assert_eq!(whole(running.ask()), "a");
    let metrics = running.metrics("first");
    assert_eq!(metrics.usage.provider_input_tokens_total.value(), 3);
    assert_eq!(metrics.usage.provider_output_tokens_total.value(), 5);
    let times = metrics.first_output.snapshot();
    assert_eq!((times.count(), times.sum_ns()), (1, 2_000_000_000));
    assert_eq!(first.read_count(), 1, "its connection can be used again");
}
