//! A data shard allocates nothing on the heap once it serves: a million echoes, of all sizes, with
//! parking in between, refused ones, and with both rings full.
#![cfg(all(feature = "server", feature = "client"))]

mod audit;

use std::thread;
use std::time::Duration;

use annulus::MessageType;
use annulus::client::{Connection, WaitPolicy};
use annulus::limits::RING_CAPACITY_MIN;

use audit::{Audit, echo, echo_in_flight, payload, repeat};

/// Longer than a shard's spin budget.
const QUIET: Duration = Duration::from_micros(300);
/// Tries until a shard has parked as often as it should; a busy machine delays it.
const TRIES_MAX: usize = 20_000;

#[test]
fn alloc_a_million_echoes_make_no_block_on_a_data_shard() {
    let directory = tempfile::tempdir().unwrap();
    let mut audit = Audit::start(directory.path(), "", |builder| builder);
    let mut client = audit.connect(WaitPolicy::default());

    let mut echoes = 0;
    for (size, count) in [(0, 300_000), (64, 450_000), (1024, 200_000), (4096, 30_000)] {
        let name = format!("echo, {size} B, 32 in flight");
        audit.measure(&name, |_| {
            echo_in_flight(&mut client, &payload(size), count, 32, &mut Vec::new())
        });
        echoes += count;
    }
    for (size, count) in [(0, 5_000), (64, 10_000), (1024, 3_000), (16 << 10, 2_000)] {
        audit.measure(&format!("echo, {size} B"), |_| echo(&mut client, size, count));
        echoes += count;
    }
    assert_eq!(echoes, 1_000_000);

    // Beyond 64 KiB a payload goes through a lease: of 1 MiB up to that size, else of the largest.
    for (size, count) in [(64 << 10, 500), (256 << 10, 100), (1 << 20, 20), (10 << 20, 10)] {
        audit.measure(&format!("echo, {} KiB", size >> 10), |_| echo(&mut client, size, count));
    }
    audit.measure("echo, 1000 B, payloads checked", |audit| {
        let options = audit.options().payload_check(true);
        echo(&mut Connection::connect(&options).unwrap(), 1000, 1_000)
    });
    audit.measure("a message type that nobody handles", |_| {
        repeat(1_000, || {
            client.call(MessageType::USER_LAST, &[], &mut Vec::new()).unwrap_err();
        })
    });
    audit.measure("a cancel of what is not in flight", |_| {
        repeat(1_000, || {
            client.cancel(u64::MAX).unwrap();
            client.call(MessageType::ECHO, &[], &mut Vec::new()).unwrap();
        })
    });
    audit.measure("echo, shard and client park each time", park_and_unpark);
    audit.measure("echo, both rings full and drained again", fill_both_rings);
    audit.finish();
}

/// Until the shard has been woken a thousand times by this client's doorbell.
fn park_and_unpark(audit: &Audit) -> usize {
    const WAKE_UPS: u64 = 1_000;
    let woken = || audit.with_shard(|shard| shard.activity.doorbells_received_total.value());
    let mut client = audit.connect(WaitPolicy::PARK);
    let before = woken();
    let mut tries = 0;
    while woken() - before < WAKE_UPS {
        tries += 1;
        assert!(tries <= TRIES_MAX, "the shard does not park");
        echo(&mut client, 64, 1);
        thread::sleep(QUIET);
    }
    tries
}

/// Sends until neither ring takes any more and the shard has parked for want of space, then reads
/// everything.
fn fill_both_rings(audit: &Audit) -> usize {
    const ROUNDS: u64 = 300;
    let blocked = || audit.with_shard(|shard| shard.activity.backpressure_total.value());
    let options = audit.options().wait(WaitPolicy::PARK);
    let options = options.request_capacity(RING_CAPACITY_MIN).response_capacity(RING_CAPACITY_MIN);
    let mut client = Connection::connect(&options).unwrap();
    let (before, mut echoes, mut tries) = (blocked(), 0, 0);
    let (payload, mut answer) = (payload(1000), Vec::new());
    while blocked() - before < ROUNDS {
        tries += 1;
        assert!(tries <= TRIES_MAX, "the shard is never blocked");
        let mut sent = 0;
        // Bounded: two rings hold fewer frames than there are credits.
        while client.try_send(MessageType::ECHO, &payload).unwrap().is_some() {
            sent += 1;
            client.notify();
        }
        thread::sleep(QUIET);
        while client.in_flight() > 0 {
            assert!(client.wait(None).unwrap());
            while client.try_receive(&mut answer).unwrap().is_some() {}
        }
        echoes += sent;
    }
    echoes
}
