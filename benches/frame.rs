//! What does a frame's header cost: to seal it with its check, and to judge one that a peer wrote?

use std::hint::black_box;

use annulus::wire::{FrameHeader, MessageType, Position, payload_check};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PLACE: Position = Position(4096);

fn header(criterion: &mut Criterion) {
    let header = FrameHeader { payload_size: 64, ..FrameHeader::request(MessageType::ECHO, 7) };
    let sealed = header.sealed(PLACE);
    let mut group = criterion.benchmark_group("header");
    group.bench_function("seal", |bencher| {
        bencher.iter(|| black_box(black_box(header).sealed(black_box(PLACE))));
    });
    group.bench_function("judge", |bencher| {
        bencher.iter(|| FrameHeader::judge(black_box(sealed), black_box(PLACE)));
    });
    group.bench_function("refuse", |bencher| {
        // The same header an earlier lap left behind.
        let elsewhere = Position(PLACE.0 + 4096);
        bencher.iter(|| FrameHeader::judge(black_box(sealed), black_box(elsewhere)));
    });
    group.finish();
}

fn payload(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload_check");
    for size in [64, 1024, 4096] {
        let payload = vec![0xA5; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| payload_check(black_box(&payload)));
        });
    }
    group.finish();
}

criterion_group!(benches, header, payload);
criterion_main!(benches);
