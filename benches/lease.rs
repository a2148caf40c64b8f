//! What does it cost to lease a buffer and to give it back, from an empty pool and from a nearly full
//! one?

use std::hint::black_box;

use annulus::limits::MESSAGE_SIZE_MAX_DEFAULT;
use annulus::pool::{BufferPool, PoolSizes};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// The default of `ipc.buffer_pool_size`.
const POOL_SIZE: u32 = 100;

fn lease(criterion: &mut Criterion) {
    let sizes = PoolSizes::for_config(POOL_SIZE, MESSAGE_SIZE_MAX_DEFAULT);
    let mut group = criterion.benchmark_group("lease");
    for (name, size) in [("small", 4096), ("medium", 64 << 10), ("large", 1 << 20)] {
        let pool = BufferPool::new(sizes).expect("address space can be had");
        group.bench_function(BenchmarkId::new("and_give_back", name), |bencher| {
            bencher.iter(|| black_box(pool.lease(black_box(size))));
        });
    }
    let pool = BufferPool::new(sizes).expect("address space can be had");
    let others: Vec<_> = (1..sizes.count[0]).map_while(|_| pool.lease(1)).collect();
    group.bench_function("last_of_its_tier", |bencher| {
        bencher.iter(|| black_box(pool.lease(black_box(1))));
    });
    drop(others);
    group.finish();
}

criterion_group!(benches, lease);
criterion_main!(benches);
