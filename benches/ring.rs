//! What does it cost to publish a frame and to take it again, with both ends on one core?
//!
//! No line travels, so this counts instructions: the part of a round trip that code can make shorter.

use std::hint::black_box;

use annulus::ring::{Consumer, Home, Producer, RingView};
use annulus::sync::AtomicU64;
use annulus::wire::{FrameHeader, MessageType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Words of the ring: 16 KiB, which fits the first cache.
const WORD_COUNT: usize = 2048;

fn publish_and_take(criterion: &mut Criterion) {
    let words: Vec<AtomicU64> = (0..WORD_COUNT).map(|_| AtomicU64::new(0)).collect();
    let head = AtomicU64::new(0);
    let ring = RingView::new(&words, &head);
    let mut group = criterion.benchmark_group("ring");
    for size in [64, 1024, 4096] {
        group.throughput(Throughput::Bytes(size as u64));
        let payload = vec![0xA5; size];
        let mut taken = vec![0; size];
        for (name, checked) in [("publish_and_take", false), ("with_payload_check", true)] {
            head.store(0, annulus::sync::Ordering::Relaxed);
            for word in &words {
                word.store(0, annulus::sync::Ordering::Relaxed);
            }
            let mut producer = Producer::new(Home::NONE, checked);
            let mut consumer = Consumer::new(Home::NONE, checked);
            let mut id = 0;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    id += 1;
                    let header = FrameHeader::request(MessageType::ECHO, id);
                    producer.publish(ring, header, black_box(&payload)).expect("the ring is empty");
                    let header = consumer.poll(ring).expect("it is sound").expect("it is there");
                    consumer.copy_payload(ring, &header, &mut taken).expect("it is whole");
                    consumer.release(ring, &header);
                    black_box(&mut taken);
                });
            });
        }
    }
    group.bench_function("poll_nothing", |bencher| {
        let mut consumer = Consumer::new(Home::NONE, false);
        for word in &words {
            word.store(0, annulus::sync::Ordering::Relaxed);
        }
        bencher.iter(|| black_box(consumer.poll(ring).expect("it is sound").is_none()));
    });
    group.finish();
}

criterion_group!(benches, publish_and_take);
criterion_main!(benches);
