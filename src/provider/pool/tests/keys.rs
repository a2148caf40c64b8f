//! Keys: which is used, which rests, and that none is seen.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures_lite::StreamExt;
use secrecy::SecretString;

use super::super::seams::{Local, Time};
use super::super::*;
use super::virtual_time::VirtualTime;
use super::world::*;
use crate::error::IpcError;
use crate::protocol::{JsonValue, Message, MessageRole, ToolCall};

fn keyed(world: &mut World, script: Vec<Reply>, keys: &[&Arc<FakeKey>]) -> Arc<FakeEndpoint> {
    let [first] = world.provider_with("first", [script], |it| {
        it.keys = keys.iter().map(|&key| Arc::clone(key) as Arc<dyn KeyReader>).collect();
    });
    world.route(&["first"]);
    first
}

fn key(value: &str) -> Arc<FakeKey> {
    Arc::new(FakeKey::new(value))
}

fn keys_of(endpoint: &FakeEndpoint) -> Vec<String> {
    endpoint.asked().into_iter().map(|asked| asked.key).collect()
}

#[test]
fn requests_under_way_are_spread_over_keys() {
    let mut world = World::new();
    let late = Reply { wait: SECOND, ..Reply::whole("good") };
    let first = keyed(&mut world, vec![late], &[&key("a"), &key("b")]);
    let running = world.pool();
    let both = futures_lite::future::zip(
        collect(running.pool.start(request("m"))),
        collect(running.pool.start(request("m"))),
    );
    let (one, other) = running.time.run(both);
    assert_eq!((whole(one), whole(other)), ("good".into(), "good".into()));
    let mut keys = keys_of(&first);
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
}

#[test]
fn a_limited_or_empty_or_wrong_key_leads_to_another_and_is_not_used_meanwhile() {
    for status in [429, 402, 401] {
        let mut world = World::new();
        let script = vec![Reply::refused(status), Reply::whole("good")];
        let (a, b) = (key("a"), key("b"));
        let first = keyed(&mut world, script, &[&a, &b]);
        let running = world.pool();
        for _ in 0..3 {
            assert_eq!(whole(running.ask()), "good");
        }
        let keys = keys_of(&first);
        assert!(keys[1] != keys[0] && keys[2] == keys[1] && keys[3] == keys[1], "{keys:?}");
    }
}

#[test]
fn an_expired_token_costs_no_request() {
    let mut world = World::new();
    let only = key("hour one");
    let first = keyed(&mut world, vec![Reply::whole("good")], &[&only]);
    let running = world.pool();
    assert_eq!(whole(running.ask()), "good");
    only.set(Ok("hour two"));
    first.now_replies([Reply::refused(401), Reply::whole("good")]);
    assert_eq!(whole(running.ask()), "good");
    assert_eq!(keys_of(&first), ["hour one", "hour one", "hour two"]);
    assert_eq!(only.read_count(), 2);
}

/// A key that takes a second to read, and is another one each time.
struct Minted {
    time: VirtualTime,
    reads: Mutex<u32>,
    fails: bool,
}

impl Minted {
    fn new(world: &World, fails: bool) -> Arc<Self> {
        Arc::new(Self { time: world.time.clone(), reads: Mutex::default(), fails })
    }

    fn read_count(&self) -> u32 {
        *self.reads.lock().unwrap()
    }
}

impl KeyReader for Minted {
    fn read(&self) -> Local<'_, Result<SecretString, String>> {
        Box::pin(async {
            self.time.sleep(SECOND).await;
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            if self.fails { Err("locked".into()) } else { Ok(format!("key {reads}").into()) }
        })
    }
}

fn minted(world: &mut World, reply: Reply, key: &Arc<Minted>) -> Arc<FakeEndpoint> {
    let [first] = world.provider_with("first", [vec![reply]], |it| {
        it.keys = vec![Arc::clone(key) as Arc<dyn KeyReader>];
    });
    world.route(&["first"]);
    first
}

#[test]
fn a_key_is_read_once_for_all_who_need_it() {
    for fails in [false, true] {
        let mut world = World::new();
        let key = Minted::new(&world, fails);
        let first = minted(&mut world, Reply::whole("good"), &key);
        let running = world.pool();
        // The one that began to read goes away, and somebody else does it.
        let mut gone = running.pool.start(request("m"));
        assert!(running.time.run_for(SECOND / 2, pin!(gone.next())).is_none());
        let ask = || collect(running.pool.start(request("m")));
        let (mut one, mut two, mut three) = (pin!(ask()), pin!(ask()), pin!(ask()));
        for waits in [one.as_mut(), two.as_mut(), three.as_mut()] {
            assert!(running.time.run_for(SECOND / 10, waits).is_none());
        }
        drop(gone);
        for asked in [one, two, three] {
            let (text, result) = running.time.run(asked);
            match result {
                Ok(()) => assert_eq!(text, "good"),
                Err(error) => assert!(error.to_string().contains("cannot be read: locked")),
            }
        }
        assert_eq!((key.read_count(), first.asked().len()), (1, if fails { 0 } else { 3 }));
        running.assert_idle();
    }
}

#[test]
fn a_source_that_gives_another_key_each_time_is_not_read_without_an_end() {
    let mut world = World::new();
    let key = Minted::new(&world, false);
    let first = minted(&mut world, Reply::refused(401), &key);
    let running = world.pool();
    let Err(IpcError::ProviderFailed { detail }) = running.ask().1 else { panic!("it is refused") };
    assert!(detail.contains("first: refused the key"), "{detail}");
    assert_eq!(keys_of(&first), ["key 1", "key 2"]);
}

#[test]
fn a_bad_key_of_several_requests_at_once_is_found_to_be_bad() {
    let mut world = World::new();
    let late = Reply { wait: SECOND, ..Reply::refused(401) };
    let bad = key("bad");
    let first = keyed(&mut world, vec![late], &[&bad]);
    let running = world.pool();
    let both = futures_lite::future::zip(
        collect(running.pool.start(request("m"))),
        collect(running.pool.start(request("m"))),
    );
    let (one, other) = running.time.run(both);
    assert!(one.1.is_err() && other.1.is_err());
    assert_eq!((first.asked().len(), bad.read_count()), (2, 2));
    running.assert_idle();
}

#[test]
fn a_bad_key_is_left_alone_for_five_minutes() {
    let mut world = World::new();
    let first = keyed(&mut world, vec![Reply::refused(401)], &[&key("bad")]);
    let running = world.pool();
    for _ in 0..3 {
        assert!(matches!(running.ask().1, Err(IpcError::ProviderFailed { .. })));
    }
    let Err(IpcError::ProviderFailed { detail }) = running.ask().1 else { panic!() };
    assert!(detail.contains("first: it refused the key"), "{detail}");
    assert_eq!(first.asked().len(), 1);
    running.time.advance(300 * SECOND);
    first.now_replies([Reply::whole("good")]);
    assert_eq!(whole(running.ask()), "good");
}

#[test]
fn a_used_up_account_rests_as_long_as_it_is_told_else_for_an_hour() {
    for (reply, rest) in [(Reply::refused(402), 3600), (Reply::refused_for(402, 100.0), 100)] {
        let mut world = World::new();
        let first = keyed(&mut world, vec![reply, Reply::whole("good")], &[&key("a")]);
        let running = world.pool();
        assert!(running.ask().1.is_err());
        running.time.advance((rest - 1) * SECOND);
        assert!(running.ask().1.is_err());
        assert_eq!(first.asked().len(), 1);
        running.time.advance(SECOND);
        assert_eq!(whole(running.ask()), "good");
    }
}

#[test]
fn a_key_that_cannot_be_read_says_why_and_another_one_is_used() {
    let mut world = World::new();
    let (a, b) = (key(""), key("b"));
    a.set(Err("LINES_API_KEY is not set"));
    b.set(Err("no such file"));
    let first = keyed(&mut world, vec![Reply::whole("good")], &[&a, &b]);
    let running = world.pool();
    let Err(IpcError::ProviderFailed { detail }) = running.ask().1 else { panic!() };
    assert!(detail.contains("first: its key cannot be read: "), "{detail}");
    assert!(first.asked().is_empty());
    running.assert_idle();
    b.set(Ok("b"));
    running.time.advance(5 * SECOND);
    assert_eq!(whole(running.ask()), "good");
    assert_eq!(keys_of(&first), ["b"]);
}

#[test]
fn a_provider_without_the_key_that_it_needs_says_how_to_set_it() {
    static NEEDS_KEY: crate::dialect::Row = crate::dialect::Row { needs_key: true, ..ROW };
    let mut world = World::new();
    world.provider_with("first", [vec![Reply::whole("good")]], |it| it.row = &NEEDS_KEY);
    world.route(&["first"]);
    let Err(IpcError::ProviderFailed { detail }) = world.pool().ask().1 else { panic!() };
    assert!(detail.contains("LINES_API_KEY or providers.first.keys"), "{detail}");
}

#[test]
fn an_upstream_that_repeats_the_key_is_not_repeated() {
    let said = |text: &str| vec![Act::Send(text.into())];
    for reply in [
        Reply { acts: said("what is sk-very-secret?"), ..Reply::refused(400) },
        Reply { acts: said("what is sk-very-secret?"), ..Reply::refused(401) },
        Reply::acts([Act::Send("text a\n".into()), Act::Send("fail sk-very-secret\n".into())]),
    ] {
        let mut world = World::new();
        keyed(&mut world, vec![reply], &[&key("sk-very-secret")]);
        let running = world.pool();
        let error = running.ask().1.unwrap_err().to_string();
        assert!(error.contains("[redacted]") && !error.contains("very-secret"), "{error}");
        let metrics = crate::metrics::Metrics::new(crate::metrics::MetricsOptions {
            shard_count: 0,
            fault_names: &[],
            started: std::time::SystemTime::UNIX_EPOCH,
            build: crate::metrics::BuildInfo { version: "", revision: "" },
        });
        metrics.show_providers(running.pool.metrics());
        let page = metrics.export_prometheus();
        assert!(page.contains("provider=\"first\"") && !page.contains("secret"));
        assert!(!page.contains("model-of-first"));
    }
}

#[test]
fn keepsakes_come_back_with_their_calls() {
    let mut world = World::new();
    let calls = Reply::acts([Act::Send("call one\nend\n".into())]);
    let [first] = world.provider("first", [vec![calls]]);
    world.route(&["first"]);
    let running = world.pool();
    assert_eq!(whole(running.ask()), "[one]");
    let mut next = request("m");
    let call = ToolCall { name: "t".into(), parameters: JsonValue::default(), id: "one".into() };
    let mut said = Message::new(MessageRole::Assistant, "");
    said.tool_calls = Some(vec![call]);
    next.messages.insert(0, said);
    whole(running.ask_with(next));
    assert_eq!(first.asked()[1].body, "model-of-first: hello<one>");
}
