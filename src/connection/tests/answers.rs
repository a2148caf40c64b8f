//! Answers on their way: in any order, through full rings, from workers and of several frames.

use super::*;

#[test]
fn a_full_response_ring_is_backpressure_and_nothing_is_lost() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    let (mut sent, mut received) = (0, 0);
    for round in 0..2000 {
        if client.send(MessageType::ECHO, sent, &[7; 1000]).is_ok() {
            sent += 1;
        } else {
            shard.settle();
        }
        // A client that reads rarely.
        if round % 40 == 39 {
            while let Some((id, ..)) = client.receive() {
                assert_eq!(id, received);
                received += 1;
            }
        }
    }
    for _ in 0..100 {
        shard.settle();
        while let Some((id, ..)) = client.receive() {
            assert_eq!(id, received);
            received += 1;
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn jobs_go_to_the_worker_and_their_answers_come_back_in_any_order() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    for id in [1, 2] {
        client.send(SLOW, id, &[7; 10]).unwrap();
    }
    shard.settle();
    let mut headers = Vec::new();
    while let Some(job) = shard.worker.take() {
        let JobKind::Request { header, payload, .. } = job.kind else { panic!("another kind") };
        assert_eq!(payload.unwrap()[0], 7);
        headers.push(header);
    }
    shard.worker.publish(client.slot, headers[1].chunk(), b"part").unwrap();
    shard.worker.publish(client.slot, headers[1].answer(Status::Ok), b"two").unwrap();
    shard.worker.publish(client.slot, headers[0].answer(Status::Ok), b"one").unwrap();
    shard.settle();
    assert_eq!(client.receive().unwrap(), (2, Status::Ok, false, b"part".to_vec()));
    assert_eq!(client.receive().unwrap(), (2, Status::Ok, true, b"two".to_vec()));
    assert_eq!(client.receive().unwrap(), (1, Status::Ok, true, b"one".to_vec()));
}

#[test]
fn cancel_reaches_the_worker_and_a_foreign_id_nobody() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(SLOW, 1, b"").unwrap();
    client.send(MessageType::CANCEL, 1, b"").unwrap();
    client.send(MessageType::CANCEL, 77, b"").unwrap();
    shard.settle();
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Request { .. }));
    assert!(matches!(shard.worker.take().unwrap().kind, JobKind::Cancel { request_id: 1 }));
    assert!(shard.worker.take().is_none());
    assert!(client.receive().is_none(), "a cancel has no answer of its own");
}

#[test]
fn an_answer_of_several_frames_finds_its_room_wherever_the_ring_stands() {
    for before in 0..40 {
        let mut shard = Shard::new(1);
        let mut client = shard.connect();
        for id in 0..before {
            client.send(MessageType::ECHO, id, b"x").unwrap();
            shard.settle();
            client.receive().unwrap();
        }
        client.send(LONG, 99, b"").unwrap();
        shard.settle();
        assert_eq!(client.receive().unwrap(), (99, Status::Ok, false, vec![1; 32]), "{before}");
        assert_eq!(client.receive().unwrap(), (99, Status::Ok, true, vec![2; 3900]), "{before}");
    }
}

#[test]
fn a_refused_request_is_counted_as_one_and_a_buffer_only_while_it_is_held() {
    let mut shard = Shard::new(1);
    let mut client = shard.connect();
    client.send(MessageType::user(99), 1, b"four").unwrap();
    client.send(SLOW, 2, b"").unwrap();
    shard.settle();
    let header = FrameHeader::request(SLOW, 2);
    shard.worker.publish(client.slot, header.answer(Status::Ok), &[1; 5000]).unwrap();
    shard.settle();
    assert_eq!(shard.cool(), Turn::Parked);
    let page = shard.metrics.export_prometheus();
    for line in [
        "annulus_requests_total{type=\"user\"} 2",
        "annulus_responses_total{type=\"user\"} 2",
        "annulus_errors_total{type=\"user\",status=\"unknown_type\"} 1",
        "annulus_leases_in_use{shard=\"0\",tier=\"64KiB\"} 0",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}
