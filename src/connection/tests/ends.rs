//! The ends of connections: idleness, a drain, a death; and what they leave behind.

use super::*;

#[test]
fn a_slot_is_free_again_when_shell_and_worker_have_let_go() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"payload").unwrap();
    shard.settle();
    shard.table.end(client.slot, Ending::ClientLeft);
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 1);
    shard.table.shell_released(client.slot);
    assert_eq!(shard.table.occupied_count(), 1, "the worker may still publish");
    // Late replies are dropped, the acknowledgement frees the slot.
    let header = FrameHeader::request(SLOW, 1);
    shard.worker.publish(client.slot, header.answer(Status::Ok), b"late").unwrap();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Closed));
    shard.worker.acknowledge_closed(client.slot).unwrap();
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 0);
    let mut next = shard.connect();
    next.send(MessageType::ECHO, 1, b"fresh").unwrap();
    shard.settle();
    assert_eq!(next.receive().unwrap().3, b"fresh");
}

#[test]
fn silence_closes_a_connection_but_waiting_for_us_is_not_silence() {
    let mut shard = Shard::new(2);
    let (silent, mut waiting) = (shard.connect(), shard.connect());
    waiting.send(SLOW, 1, b"").unwrap();
    shard.settle();
    shard.clock.0.set(1_000_000);
    // Who waits for us now may be silent from then on.
    let again = Some(Timestamp(2_000_000));
    assert_eq!(shard.table.close_idle(shard.clock.now()), again);
    shard.settle();
    assert_eq!(shard.closed(silent.slot), Some(Status::IdleTimeout));
    assert_eq!(shard.closed(waiting.slot), None);
}

#[test]
fn draining_finishes_what_is_in_flight_and_refuses_what_is_new() {
    let mut shard = Shard::new(2);
    let (idle, mut busy) = (shard.connect(), shard.connect());
    busy.send(SLOW, 1, b"").unwrap();
    shard.settle();
    shard.table.drain(shard.clock.now());
    busy.send(MessageType::ECHO, 2, b"new").unwrap();
    shard.settle();
    assert_eq!(shard.closed(idle.slot), Some(Status::ShuttingDown));
    assert_eq!(busy.receive().unwrap().1, Status::ShuttingDown);
    assert_eq!(shard.closed(busy.slot), None);
    let header = FrameHeader::request(SLOW, 1);
    shard.worker.publish(busy.slot, header.answer(Status::Ok), b"whole").unwrap();
    shard.settle();
    assert_eq!(busy.receive().unwrap(), (1, Status::Ok, true, b"whole".to_vec()));
    assert_eq!(shard.closed(busy.slot), Some(Status::ShuttingDown));
}

#[test]
fn a_client_whose_request_was_not_taken_up_is_not_silent() {
    let mut shard = Shard::new(2);
    let (mut late, mut stopped) = (shard.connect(), shard.connect());
    assert_eq!(shard.cool(), Turn::Parked);
    // One rings, and its ring is still under way; the other was stopped before it could.
    late.send(MessageType::ECHO, 1, b"late").unwrap();
    stopped.send(MessageType::ECHO, 1, b"stopped").unwrap();
    shard.clock.0.set(2_000_000);
    shard.table.close_idle(shard.clock.now());
    assert!(shard.table.has_news(), "a shard with a request to take does not sleep");
    shard.settle();
    assert_eq!((shard.closed(late.slot), shard.closed(stopped.slot)), (None, None));
    assert_eq!(late.receive().unwrap().3, b"late");
    assert_eq!(stopped.receive().unwrap().3, b"stopped");
}

#[test]
fn a_client_that_dies_without_reading_leaves_no_slot_and_no_buffer_behind() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    let chunk = FrameHeader::request(SLOW, 1).chunk();
    shard.worker.publish(client.slot, chunk, &[1; 5000]).unwrap();
    // Until the response ring is full and the reply ring behind it.
    for _ in 0..100 {
        while shard.worker.publish(client.slot, chunk, &[1; 4000]).is_ok() {}
        shard.settle();
    }
    assert_eq!(shard.cool(), Turn::Parked);
    shard.table.end(client.slot, Ending::ClientLeft);
    shard.table.shell_released(client.slot);
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Closed));
    shard.worker.acknowledge_closed(client.slot).unwrap();
    shard.settle();
    assert_eq!(shard.table.occupied_count(), 0);
    let pool = shard.worker.pool();
    for tier in TierIndex::ALL {
        assert_eq!(pool.free_count(tier), pool.count(tier));
    }
}
