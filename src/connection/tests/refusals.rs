//! What is refused, as a status or as a fault, and to whom.

use super::*;

#[test]
fn each_kind_of_failure_has_its_answer_and_the_connection_goes_on() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    for (id, message_type) in [
        (1, PANICS),
        (2, FAILS),
        (3, MessageType::user(99)),
        (4, TOO_MUCH),
        (5, CHUNKS),
        (6, MessageType::ECHO),
    ] {
        client.send(message_type, id, b"ping").unwrap();
    }
    shard.settle();
    let mut next = || client.receive().unwrap();
    let (id, status, last, _) = next();
    assert_eq!((id, status, last), (1, Status::HandlerPanic, true));
    let (id, status, last, text) = next();
    assert_eq!((id, status, last), (2, Status::InvalidRequest, true));
    assert_eq!(text, b"never right");
    assert_eq!(next().1, Status::UnknownMessageType);
    assert_eq!(next().1, Status::MessageTooLarge);
    assert_eq!(next(), (5, Status::Ok, false, b"one".to_vec()));
    assert_eq!(next(), (5, Status::Ok, false, b"two".to_vec()));
    assert_eq!(next(), (5, Status::Ok, true, Vec::new()));
    assert_eq!(next(), (6, Status::Ok, true, b"ping".to_vec()));
    assert_eq!(shard.closed(client.slot), None);
}

#[test]
fn in_a_mixed_visit_each_request_is_counted_under_its_own_type() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    let unknown = MessageType::user(99);
    let types = [PANICS, MessageType::ECHO, FAILS, SLOW, MessageType::ECHO, CHUNKS, unknown];
    for (id, message_type) in (1..).zip(types) {
        let payload = if message_type == MessageType::ECHO { &b"four"[..] } else { b"!" };
        client.send(message_type, id, payload).unwrap();
    }
    shard.settle();
    let page = shard.metrics.export_prometheus();
    for line in [
        "annulus_requests_total{type=\"echo\"} 2",
        "annulus_request_bytes_total{type=\"echo\"} 8",
        "annulus_responses_total{type=\"echo\"} 2",
        "annulus_response_bytes_total{type=\"echo\"} 8",
        "annulus_requests_total{type=\"user\"} 5",
        "annulus_request_bytes_total{type=\"user\"} 5",
        "annulus_responses_total{type=\"user\"} 6",
        "annulus_errors_total{type=\"user\",status=\"handler_panic\"} 1",
        "annulus_errors_total{type=\"user\",status=\"invalid\"} 1",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
    let of_table = shard.table.statistics(client.slot).expect("it serves");
    assert_eq!((of_table.requests, of_table.request_bytes), (7, 13));
    assert_eq!(of_table.responses, 8);
}

#[test]
fn too_large_is_answered_and_closes() {
    let mut shard = Shard::new(2);
    let mut client = shard.connect();
    client.send(MessageType::ECHO, 9, &[0; 8193]).unwrap();
    shard.settle();
    assert_eq!(client.receive().unwrap().1, Status::MessageTooLarge);
    assert_eq!(shard.closed(client.slot), Some(Status::MessageTooLarge));
}

#[test]
fn a_fault_closes_its_connection_and_nobody_elses() {
    let mut shard = Shard::new(2);
    let (mut honest, hostile) = (shard.connect(), shard.connect());
    let home = LAYOUT.request_offset() + LAYOUT.request_home().offset;
    hostile.region.words[(home / 8) as usize].store(0xDEAD, crate::sync::Ordering::Relaxed);
    honest.send(MessageType::ECHO, 1, b"still here").unwrap();
    shard.settle();
    assert_eq!(shard.closed(hostile.slot), Some(Status::Fault));
    assert_eq!(honest.receive().unwrap().3, b"still here");
    let page = shard.metrics.export_prometheus();
    assert!(page.contains("frame_mark"), "{page}");
}

#[test]
fn a_message_type_of_the_daemons_own_is_a_fault() {
    for number in [MessageType::USER_LAST.to_wire() + 1, u16::MAX] {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        client.send(MessageType::from_wire(number), 1, b"").unwrap();
        shard.settle();
        let reserved = Fault::ReservedMessageType { message_type: number };
        assert_eq!(shard.fault(client.slot), Some(reserved.name()));
    }
}

#[test]
fn an_id_in_flight_twice_is_a_fault_and_one_too_many_is_busy() {
    let mut shard = Shard::new(2);
    let (mut greedy, mut wrong) = (shard.connect(), shard.connect());
    for id in 0..=u64::from(IN_FLIGHT_PER_CONNECTION) {
        greedy.send(SLOW, id, b"").unwrap();
    }
    wrong.send(SLOW, 5, b"").unwrap();
    wrong.send(SLOW, 5, b"").unwrap();
    shard.settle();
    let (id, status, last, _) = greedy.receive().unwrap();
    assert_eq!((id, status, last), (u64::from(IN_FLIGHT_PER_CONNECTION), Status::Busy, true));
    let in_use = Fault::RequestIdInUse { request_id: 5 };
    assert_eq!(shard.fault(wrong.slot), Some(in_use.name()));
    assert_eq!(shard.closed(greedy.slot), None);
}

#[test]
fn a_table_without_slots_gives_the_connection_back() {
    let mut shard = Shard::new(1);
    let _first = shard.connect();
    let new = NewConnection {
        memory: HeapRegion::new(LAYOUT),
        layout: LAYOUT,
        features: Features::empty(),
        codec: 0,
        connection_id: 2,
    };
    assert!(shard.table.adopt(new, Timestamp(0)).is_err());
}

#[test]
fn a_request_with_an_answers_bits_is_a_fault() {
    for (flags, status) in [(1, 0), (0x80, 0), (0, 7)] {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        let mut header = FrameHeader::request(MessageType::ECHO, 1);
        (header.flags, header.status) = (flags, status);
        client.requests.publish(client.region.view().request_ring(), header, b"").unwrap();
        shard.settle();
        assert_eq!(shard.closed(client.slot), Some(Status::Fault));
    }
}
