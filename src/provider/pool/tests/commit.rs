//! After the commit point: one error, and never a second provider.

use futures_lite::StreamExt;

use super::super::seams::Time;
use super::super::*;
use super::world::*;
use crate::error::IpcError;
use crate::metrics::ProviderOutcome;
use crate::protocol::StreamEvent;

fn send(text: &str) -> Act {
    Act::Send(text.into())
}

#[test]
fn whatever_fails_after_the_first_output_is_one_error_and_nobody_else_is_asked() {
    for (rest, outcome) in [
        (vec![Act::Break], ProviderOutcome::Network),
        (vec![send("fail nonsense\n"), send("text more\nend\n")], ProviderOutcome::BadStream),
        (vec![], ProviderOutcome::Incomplete),
        (vec![Act::Wait(91 * SECOND), send("end\n")], ProviderOutcome::Stalled),
    ] {
        let mut world = World::new();
        let mut acts = vec![send("text hello\n")];
        acts.extend(rest);
        let [first] = world.provider("first", [vec![Reply::acts(acts)]]);
        let [second] = world.provider("second", [vec![Reply::whole("good")]]);
        world.route(&["first", "second"]);
        let running = world.pool();
        let (text, result) = running.ask();
        assert_eq!(text, "hello");
        let Err(IpcError::ProviderFailed { detail }) = result else { panic!("{result:?}") };
        assert!(
            detail.contains("first: ") && detail.contains("broke off after 5 bytes of text"),
            "{detail}"
        );
        assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
        assert_eq!(running.count("first", outcome), 1, "{outcome:?}");
        assert_eq!(first.open_count(), 0);
        running.assert_idle();
    }
}

#[test]
fn events_from_before_a_failure_reach_the_client() {
    let mut world = World::new();
    let acts = [send("text a\n"), send("text b\ntext c\nfail nonsense\n")];
    world.provider("first", [vec![Reply::acts(acts)]]);
    world.route(&["first"]);
    let (text, result) = world.pool().ask();
    assert_eq!(text, "abc");
    assert!(matches!(result, Err(IpcError::ProviderFailed { .. })));
}

#[test]
fn bytes_of_any_kind_keep_a_stream_alive() {
    let mut world = World::new();
    let mut acts = vec![send("text a\n")];
    for _ in 0..10 {
        acts.extend([Act::Wait(89 * SECOND), send("ping\n")]);
    }
    acts.push(send("end\n"));
    world.provider("first", [vec![Reply::acts(acts)]]);
    world.route(&["first"]);
    assert_eq!(whole(world.pool().ask()), "a");
}

#[test]
fn a_request_may_have_a_time_for_all_of_it() {
    for wait_first in [true, false] {
        let mut world = World::new();
        let mut acts = vec![send("text a\n")];
        acts.extend([Act::Wait(SECOND), send("ping\n")].into_iter().cycle().take(1000));
        let mut reply = Reply::acts(acts);
        if wait_first {
            reply.wait = 40 * SECOND;
        }
        let [first] = world.provider_with("first", [vec![reply]], |it| {
            it.total_timeout = Some(30 * SECOND);
        });
        let [second] = world.provider("second", [vec![Reply::whole("good")]]);
        world.route(&["first", "second"]);
        let running = world.pool();
        let before = running.time.now();
        let (text, result) = running.ask();
        assert_eq!(text, if wait_first { "" } else { "a" });
        assert!(matches!(result, Err(IpcError::Timeout)));
        assert_eq!(running.time.now() - before, 30 * SECOND);
        assert_eq!((first.open_count(), second.asked().len()), (0, 0));
        running.assert_idle();
    }
}

#[test]
fn an_end_is_the_end_even_if_the_connection_lingers() {
    // It waits, or sends more than anybody reads for a connection.
    for rest in [vec![Act::Wait(1000 * SECOND)], vec![send(&"x".repeat(1 << 10)); 100]] {
        let mut world = World::new();
        let acts = [vec![send("text a\nend\n")], rest].concat();
        let [first] = world.provider("first", [vec![Reply::acts(acts)]]);
        world.route(&["first"]);
        let running = world.pool();
        let before = running.time.now();
        assert_eq!(whole(running.ask()), "a");
        assert!(running.time.now() - before < SECOND / 50);
        assert_eq!((first.open_count(), first.read_count()), (0, 0));
        assert_eq!(running.count("first", ProviderOutcome::Success), 1);
    }
}

#[test]
fn the_end_comes_before_the_rest_of_the_body_which_still_frees_the_connection() {
    let rest = SECOND / 200;
    let mut world = World::new();
    let acts = [send("text a\nend\n"), Act::Wait(rest), send("bye\n")];
    let [first] = world.provider("first", [vec![Reply::acts(acts)]]);
    world.route(&["first"]);
    let running = world.pool();
    let before = running.time.now();
    let mut events = running.pool.start(request("m"));
    let mut next = || running.time.run(events.next());
    assert!(matches!(next(), Some(Ok(StreamEvent::Text { .. }))));
    assert!(matches!(next(), Some(Ok(StreamEvent::End { .. }))));
    assert_eq!(running.time.now(), before, "the client waited for what is no part of its answer");
    assert_eq!(running.count("first", ProviderOutcome::Success), 1);
    assert_eq!((first.open_count(), first.read_count()), (1, 0));
    assert!(next().is_none());
    assert_eq!(running.time.now(), before + rest);
    assert_eq!((first.open_count(), first.read_count()), (0, 1), "read to its end");
    running.assert_idle();
}
