//! Who comes first: one answer at a time before a backlog.

use super::*;
use crate::limits::{BYTES_PER_SHORT_VISIT, BYTES_PER_VISIT};

#[test]
fn who_waits_for_one_answer_comes_before_those_with_a_backlog() {
    const BULK: usize = 20;
    let mut shard = Shard::new(BULK + 2);
    let mut bulk: Vec<Client> = (0..BULK).map(|_| shard.connect()).collect();
    let mut quiet = shard.connect();
    for client in &mut bulk {
        (0..40).for_each(|id| client.send(MessageType::ECHO, id, b"much").unwrap());
    }
    // Whatever its place in the round, each answer comes within a turn, while others have a backlog.
    for id in 0..10 {
        quiet.send(MessageType::ECHO, id, b"one").unwrap();
        shard.table.turn(shard.clock.now(), &shard.clock);
        assert!(shard.table.is_in_round());
        assert_eq!(quiet.receive(), Some((id, Status::Ok, true, b"one".to_vec())));
    }
    // So does the first answer of one that has just come.
    let mut fresh = shard.connect();
    fresh.send(MessageType::ECHO, 1, b"first").unwrap();
    shard.table.turn(shard.clock.now(), &shard.clock);
    assert!(fresh.receive().is_some());
}

#[test]
fn a_flood_that_comes_back_does_not_go_before_a_keystroke() {
    const BULK: usize = 40;
    const TYPISTS: usize = 20;
    let mut shard = Shard::new(BULK + TYPISTS);
    let mut bulk: Vec<Client> = (0..BULK).map(|_| shard.connect()).collect();
    // Each pauses until it is not polled any more, and floods again.
    for burst in 0..5 {
        for client in &mut bulk {
            (0..40).for_each(|id| client.send(MessageType::ECHO, id, b"much").unwrap());
            shard.table.doorbell(client.slot, shard.clock.now());
        }
        if burst == 4 {
            break;
        }
        // What is left of this round, then all others.
        shard.settle();
        shard.settle();
        shard.cool();
        assert_eq!(shard.table.hot_count(), 0);
        for client in &mut bulk {
            while client.receive().is_some() {}
        }
    }
    let mut typists: Vec<Client> = (0..TYPISTS).map(|_| shard.connect()).collect();
    for typist in &mut typists {
        typist.send(MessageType::ECHO, 1, b"key").unwrap();
    }
    shard.table.turn(shard.clock.now(), &shard.clock);
    assert!(shard.table.is_in_round());
    assert!(typists.iter_mut().all(|typist| typist.receive().is_some()));
}

#[test]
fn padding_behind_a_request_is_no_second_request() {
    let mut shard = Shard::new(2);
    let (mut bulk, mut typist) = (shard.connect(), shard.connect());
    // Longer than a half of home: every third one is followed by padding.
    for id in 0..20 {
        bulk.send(MessageType::ECHO, id, &[7; 7200]).unwrap();
        typist.send(MessageType::ECHO, id, &[7; 1024]).unwrap();
        shard.table.turn(shard.clock.now(), &shard.clock);
        // Served in between, and the turn is over before its own visit.
        assert!(shard.table.is_in_round() && typist.receive().is_some());
        assert!(shard.table.is_interactive(typist.slot), "request {id}");
        shard.settle();
        shard.settle();
        assert!(bulk.receive().is_some());
    }
}

#[test]
fn many_who_wait_for_one_answer_do_not_keep_a_backlog_from_being_worked_off() {
    let mut shard = Shard::new(40);
    let mut bulk = shard.connect();
    let mut others: Vec<Client> = (0..39).map(|_| shard.connect()).collect();
    (0..60).for_each(|id| bulk.send(MessageType::ECHO, id, b"much").unwrap());
    let mut answers = 0;
    // Bounded: two rounds take it, and a round has no more turns than connections.
    for id in 0..80 {
        for client in &mut others {
            let _ = client.send(MessageType::ECHO, id, b"one");
            while client.receive().is_some() {}
        }
        shard.table.turn(shard.clock.now(), &shard.clock);
        answers += std::iter::from_fn(|| bulk.receive()).count();
    }
    assert_eq!(answers, 60);
}

#[test]
fn a_visit_takes_more_and_looks_longer_where_nobody_else_is_polled() {
    let mut shard = Shard::new(2);
    let of = |shard: &Shard, client: &Client| {
        let budget = shard.table.budget(client.slot);
        (budget.bytes, budget.looks > 1)
    };
    let mut first = shard.connect_with(RegionLayout::new(1 << 16, 1 << 16));
    first.send(MessageType::ECHO, 1, b"one").unwrap();
    shard.settle();
    assert_eq!(of(&shard, &first), (2 * BYTES_PER_VISIT, true), "a quarter of its ring");
    // Beside its client a shard does not poll.
    shard.table.sit_beside(Some(3));
    assert_eq!(of(&shard, &first), (BYTES_PER_SHORT_VISIT, false));
    shard.table.sit_beside(None);
    let second = shard.connect();
    assert_eq!(of(&shard, &first), (BYTES_PER_SHORT_VISIT, false));
    shard.table.end(second.slot, Ending::Shutdown);
    shard.settle();
    assert_eq!(of(&shard, &first), (2 * BYTES_PER_VISIT, true));

    // Who only gets what a worker says is not waited for.
    first.send(SLOW, 2, b"x").unwrap();
    shard.settle();
    assert_eq!(shard.cool(), Turn::Parked);
    let JobKind::Request { header, .. } = shard.worker.take().unwrap().kind else {
        panic!("a job")
    };
    shard.worker.publish(first.slot, header.answer(Status::Ok), b"done").unwrap();
    shard.table.turn(shard.clock.now(), &shard.clock);
    assert_eq!(shard.table.hot_count(), 1);
    assert!(!of(&shard, &first).1);
}
