//! The response cache in the pool.

use super::super::*;
use super::world::*;
use crate::provider::CacheSettings;
use std::sync::Arc;

fn exact() -> AIRequest {
    AIRequest { temperature: Some(0.0), ..request("m") }
}

fn counts(running: &Running) -> (u64, u64) {
    let metrics = running.metrics("first");
    let usage = &metrics.usage;
    (usage.provider_cache_hits_total.value(), usage.provider_cache_misses_total.value())
}

#[test]
fn the_same_question_is_asked_once() {
    let mut world = World::new();
    world.settings.cache = Some(CacheSettings::default());
    let [first] = world.provider("first", [vec![Reply::whole("a"), Reply::whole("b")]]);
    world.route(&["first"]);
    let running = world.pool();
    assert_eq!(whole(running.ask_with(exact())), "a");
    assert_eq!(whole(running.ask_with(exact())), "a");
    assert_eq!((first.asked().len(), counts(&running)), (1, (1, 1)));
    // This one wants chance.
    assert_eq!(whole(running.ask()), "b");
    assert_eq!((first.asked().len(), counts(&running)), (2, (1, 1)));
    running.time.advance(3600 * SECOND);
    assert_eq!(whole(running.ask_with(exact())), "b");
    assert_eq!((first.asked().len(), counts(&running)), (3, (1, 2)));
}

#[test]
fn without_the_setting_nothing_is_kept() {
    let mut world = World::new();
    let [first] = world.provider("first", [vec![Reply::whole("a")]]);
    world.route(&["first"]);
    let running = world.pool();
    whole(running.ask_with(exact()));
    whole(running.ask_with(exact()));
    assert_eq!((first.asked().len(), counts(&running)), (2, (0, 0)));
}

#[test]
fn a_replaced_key_has_its_own_answers() {
    let mut world = World::new();
    world.settings.cache = Some(CacheSettings::default());
    let key = Arc::new(FakeKey::new("one"));
    let reader: Arc<dyn KeyReader> = Arc::clone(&key) as _;
    let [first] = world.provider_with("first", [vec![Reply::whole("a")]], |it| {
        it.keys = vec![reader];
    });
    world.route(&["first"]);
    let running = world.pool();
    assert_eq!(whole(running.ask_with(exact())), "a");
    key.set(Ok("two"));
    first.now_replies([Reply::refused(401), Reply::whole("b")]);
    // Any other request finds out that the key has changed.
    assert_eq!(whole(running.ask()), "b");
    assert_eq!(whole(running.ask_with(exact())), "b");
    assert_eq!(whole(running.ask_with(exact())), "b");
    assert_eq!(counts(&running), (1, 2));
}

#[test]
fn half_an_answer_is_not_kept() {
    let mut world = World::new();
    world.settings.cache = Some(CacheSettings::default());
    let half = Reply::acts([Act::Send("text a\n".into())]);
    world.provider("first", [vec![half, Reply::whole("b")]]);
    world.route(&["first"]);
    let running = world.pool();
    assert!(running.ask_with(exact()).1.is_err());
    assert_eq!(whole(running.ask_with(exact())), "b");
    assert_eq!(counts(&running), (0, 2));
}
