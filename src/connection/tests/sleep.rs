//! Who is polled, who parks, and what wakes them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::sync::ON_HINT;

#[test]
fn a_quiet_connection_parks_and_its_doorbell_wakes_it() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(shard.cool(), Turn::Parked);
    client.send(MessageType::ECHO, 1, b"x").unwrap();
    assert_eq!(shard.settle(), Turn::Parked);
    assert!(client.region.view().daemon_parked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
    assert!(!client.region.view().daemon_parked().take(), "a polled connection needs no ring");
}

/// Whatever a client does while its shard is about to park, and whether or not it finds the shard's flag
/// set: it gets an answer. `prepare` sets the scene, `act` says whether the client rings. Gives how often a
/// visit waited between two looks.
#[track_caller]
fn at_every_look(prepare: fn(&mut Shard, &mut Client), act: fn(&mut Client) -> bool) -> u32 {
    let waits = Rc::new(Cell::new(0));
    // Bounded: a connection that is quiet is looked at a few hundred times before it parks.
    for look in 0..2000 {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        prepare(&mut shard, &mut client);
        let (slot, region) = (client.slot, client.region.clone());
        let client = Rc::new(RefCell::new(client));
        let (rang, actor) = (Rc::new(Cell::new(None)), Rc::clone(&client));
        let told = Rc::clone(&rang);
        // A visit takes one view for the looks between which it waits.
        let (waited, counted) = (region.clone(), Rc::clone(&waits));
        ON_HINT.set(Some(Box::new(move || {
            counted.set(counted.get() + 1);
            let _ = waited.view();
        })));
        region.interrupt(look, move || told.set(Some(act(&mut actor.borrow_mut()))));
        shard.cool();
        let Some(rang) = rang.get() else {
            assert!(look > 30, "the shard looked at its client");
            return waits.get();
        };
        if rang {
            shard.table.doorbell(slot, shard.clock.now());
        }
        shard.settle();
        assert!(client.borrow_mut().receive().is_some(), "nobody woke the shard, look {look}");
    }
    panic!("the shard never parks");
}

#[test]
fn a_request_between_any_two_looks_of_its_shard_is_taken() {
    let waits = at_every_look(
        |shard, _| assert_eq!(shard.settle(), Turn::Polling),
        |client| {
            client.send(MessageType::ECHO, 1, b"x").unwrap();
            client.region.view().daemon_parked().take()
        },
    );
    assert!(waits > 0, "no visit looked twice");
}

#[test]
fn space_that_is_freed_between_any_two_looks_of_its_shard_is_used() {
    at_every_look(
        |shard, client| {
            // Bounded: both rings fill.
            for id in 0.. {
                if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                    shard.settle();
                    if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                        break;
                    }
                }
            }
        },
        |client| {
            while client.receive().is_some() {}
            client.region.view().daemon_blocked().take()
        },
    );
}

#[test]
fn a_parked_client_is_rung_once_for_many_answers() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.region.view().client_parked().arm();
    for id in 0..5 {
        client.send(MessageType::ECHO, id, b"x").unwrap();
    }
    shard.settle();
    let rings = shard.outputs.iter().filter(|output| matches!(output, Output::Ring { .. })).count();
    assert_eq!(rings, 1);
}

#[test]
fn a_parked_client_is_rung_for_what_a_worker_answers_and_not_for_what_a_worker_is_given() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.region.view().client_parked().arm();
    client.send(SLOW, 1, b"x").unwrap();
    shard.settle();
    let JobKind::Request { header, .. } = shard.worker.take().unwrap().kind else {
        panic!("a job")
    };
    assert!(shard.outputs.is_empty(), "it sleeps until there is an answer");
    shard.worker.publish(client.slot, header.answer(Status::Ok), b"done").unwrap();
    shard.settle();
    assert!(matches!(shard.outputs[..], [Output::Ring { .. }]));
}

#[test]
fn a_blocked_connection_parks_and_asks_for_a_ring_when_there_is_space() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    for id in 0.. {
        if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
            shard.settle();
            if client.send(MessageType::ECHO, id, &[7; 1000]).is_err() {
                break;
            }
        }
    }
    assert_eq!(shard.cool(), Turn::Parked);
    while client.receive().is_some() {}
    assert!(client.region.view().daemon_blocked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
}

#[test]
fn who_asked_a_moment_ago_is_polled_for_however_long_the_connection_is_there() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    assert_eq!(shard.settle(), Turn::Polling);
    shard.clock.0.set(SPIN_NS - 1);
    client.send(MessageType::ECHO, 1, b"x").unwrap();
    shard.settle();
    shard.clock.0.set(SPIN_NS + 1);
    assert_eq!((0..100).map(|_| shard.settle()).last(), Some(Turn::Polling));
    assert_eq!(shard.cool(), Turn::Parked);
}

#[test]
fn nobody_is_polled_for_between_the_chunks_of_a_stream_but_after_its_end() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    shard.settle();
    let header = FrameHeader::request(SLOW, 1);
    // The look before it parks takes more turns than these at a moment at which it still polls.
    let turns = |shard: &mut Shard| (0..100).map(|_| shard.settle()).last();
    assert_eq!(turns(&mut shard), Some(Turn::Polling), "who has asked may ask again");
    assert_eq!(shard.cool(), Turn::Parked);
    for _ in 0..3 {
        shard.worker.publish(client.slot, header.chunk(), b"part").unwrap();
        assert_eq!(turns(&mut shard), Some(Turn::Parked), "a worker tells of its next chunk");
        assert_eq!(client.receive().unwrap(), (1, Status::Ok, false, b"part".to_vec()));
    }
    shard.worker.publish(client.slot, header.answer(Status::Ok), b"end").unwrap();
    assert_eq!(turns(&mut shard), Some(Turn::Polling), "who has its answer may ask again");
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(client.receive().unwrap(), (1, Status::Ok, true, b"end".to_vec()));
}

/// Takes every buffer of the shard's pool.
fn take_all_buffers(shard: &Shard) -> Vec<Lease> {
    std::iter::from_fn(|| shard.worker.pool().lease(1)).collect()
}

#[test]
fn a_connection_that_found_no_buffer_tries_again_although_nobody_tells_it() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    let held = take_all_buffers(&shard);
    client.send(SLOW, 1, b"x").unwrap();
    assert_eq!(shard.cool(), Turn::Parked);
    let page = shard.metrics.shard(0);
    assert!(page.tier(LeaseTier::ALL[0]).lease_misses_total.value() > 0);
    assert!(page.activity.parks_total.value() > 0);
    // A handler drops its request and answers later: no news.
    drop(held);
    assert!(!shard.table.has_news());
    let until = shard.table.starved_until().expect("somebody waits for a buffer");
    shard.clock.0.set(until.0);
    shard.settle();
    assert!(shard.worker.take().is_some());
    assert_eq!(shard.table.starved_until(), None);
}

#[test]
fn one_that_waits_for_a_buffer_and_for_space_hears_from_its_client() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    shard.settle();
    let header = FrameHeader::request(SLOW, 1);
    // More than a response ring holds.
    for _ in 0..20 {
        shard.worker.publish(client.slot, header.chunk(), &[1; 1000]).unwrap();
    }
    shard.settle();
    let _held = take_all_buffers(&shard);
    client.send(SLOW, 2, b"x").unwrap();
    assert_eq!(shard.cool(), Turn::Parked);
    while client.receive().is_some() {}
    assert!(client.region.view().daemon_blocked().take(), "the client must ring");
    shard.table.doorbell(client.slot, shard.clock.now());
    shard.settle();
    assert!(client.receive().is_some());
}

#[test]
fn beside_its_client_a_shard_polls_nobody_and_says_so() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    let said = |client: &Client| client.region.view().daemon_core().load().map(|place| place.core);
    client.send(MessageType::ECHO, 1, b"hot").unwrap();
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(shard.table.hot_count(), 1);

    shard.table.sit_beside(Some(3));
    assert_eq!(said(&client), Some(3));
    assert_eq!(shard.settle(), Turn::Parked);
    // Parked, answered and parked again at one moment of time: no spin budget passes.
    assert!(client.region.view().daemon_parked().take());
    client.send(MessageType::ECHO, 2, b"cold").unwrap();
    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.settle(), Turn::Parked);
    assert_eq!(client.receive().unwrap().0, 1);
    assert_eq!(client.receive().unwrap().0, 2);

    // Who was parked when the shard went home hears of it when it is polled again.
    shard.table.sit_beside(None);
    assert_eq!(said(&client), Some(3));
    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.settle(), Turn::Polling);
    assert_eq!(said(&client), None);

    // Whom the shard follows hears of it before it parks.
    assert_eq!(shard.cool(), Turn::Parked);
    shard.table.sit_beside(Some(4));
    assert_eq!(said(&client), None);
    shard.table.tell(client.slot);
    assert_eq!(said(&client), Some(4));
}

#[test]
fn a_client_that_went_quiet_is_company_once_with_what_it_says() {
    let mut shard = Shard::new(2);
    let (client, other) = (shard.connect(), shard.connect());
    let place = Whereabouts { core: 5, polls: true };
    client.region.view().client_core().store(Some(place));
    assert_eq!(shard.table.take_company(), Company::Nobody);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Unknown);

    shard.table.doorbell(client.slot, shard.clock.now());
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Together { slot: client.slot, place });
    assert_eq!(shard.table.take_company(), Company::Nobody);
    drop(other);
}

#[test]
fn who_only_gets_a_workers_replies_is_no_company() {
    let mut shard = Shard::new(2);
    let (mut reader, mut asker) = (shard.connect(), shard.connect());
    let place = Whereabouts { core: 5, polls: true };
    asker.region.view().client_core().store(Some(place));
    reader.send(SLOW, 1, b"stream").unwrap();
    shard.settle();
    assert_eq!(shard.cool(), Turn::Parked);
    // It has asked once, and has not said where it is.
    assert_eq!(shard.table.take_company(), Company::Unknown);
    let JobKind::Request { header, .. } = shard.worker.take().unwrap().kind else { panic!() };

    shard.worker.publish(reader.slot, header.chunk(), b"part").unwrap();
    shard.settle();
    assert_eq!((shard.table.hot_count(), shard.table.asking_count()), (1, 0));
    asker.send(MessageType::ECHO, 1, b"key").unwrap();
    shard.table.doorbell(asker.slot, shard.clock.now());
    shard.settle();
    assert_eq!(shard.table.asking_count(), 1);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Together { slot: asker.slot, place });
    assert_eq!((shard.table.hot_count(), shard.table.asking_count()), (0, 0));

    // Asking in the midst of a stream is asking.
    shard.worker.publish(reader.slot, header.chunk(), b"part").unwrap();
    reader.send(MessageType::ECHO, 2, b"").unwrap();
    shard.settle();
    assert_eq!(shard.table.asking_count(), 1);
    assert_eq!(shard.cool(), Turn::Parked);
    assert_eq!(shard.table.take_company(), Company::Unknown);

    // Who leaves while it asks is not counted for ever.
    shard.table.doorbell(reader.slot, shard.clock.now());
    assert_eq!(shard.table.asking_count(), 1);
    shard.table.end(reader.slot, Ending::ClientLeft);
    shard.cool();
    assert_eq!(shard.table.asking_count(), 0);
}
