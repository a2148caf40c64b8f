//! What does a wake-up cost: the flag that says whether one is needed, and the eventfd that makes it?
//!
//! Ringing for a sleeper on another core is measured between two processes, by `annulus bench`.

use std::hint::black_box;

use annulus::region::Doorbell;
use annulus::ring::ParkFlag;
use annulus::sync::AtomicU64;
use criterion::{Criterion, criterion_group, criterion_main};

fn flag(criterion: &mut Criterion) {
    let word = AtomicU64::new(0);
    let flag = ParkFlag::new(&word);
    let mut group = criterion.benchmark_group("park_flag");
    // After every publish; nearly always finds the peer awake. The fence is the cost.
    group.bench_function("peer_is_awake", |bencher| bencher.iter(|| black_box(flag.take())));
    group.bench_function("arm_and_disarm", |bencher| {
        bencher.iter(|| {
            flag.arm();
            flag.disarm();
        });
    });
    group.finish();
}

fn eventfd(criterion: &mut Criterion) {
    let doorbell = Doorbell::new().expect("an eventfd can be had");
    let mut group = criterion.benchmark_group("doorbell");
    group.bench_function("ring_for_nobody", |bencher| bencher.iter(|| doorbell.ring()));
    group.bench_function("ring_and_take", |bencher| {
        bencher.iter(|| {
            doorbell.ring();
            black_box(doorbell.take())
        });
    });
    group.finish();
}

criterion_group!(benches, flag, eventfd);
criterion_main!(benches);
