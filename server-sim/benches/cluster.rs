//! How fast a test cluster is there and gone again: `cargo bench -p hstream-server --bench cluster`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hstream_server::test_cluster::TestCluster;
use std::time::{Duration, Instant};

fn cluster(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = criterion.benchmark_group("cluster");
    group.sample_size(20).measurement_time(Duration::from_secs(15));
    let start = |nodes| runtime.block_on(TestCluster::start(nodes)).expect("a cluster starts");
    for nodes in [1, 3, 5] {
        // From nothing to: every node serves and sees all others do so.
        group.bench_function(BenchmarkId::new("start", nodes), |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    let cluster = start(nodes);
                    total += begun.elapsed();
                    drop(cluster);
                }
                total
            });
        });
    }
    // Until every thread has ended and the folder is gone.
    group.bench_function(BenchmarkId::new("drop", 3), |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let cluster = start(3);
                let begun = Instant::now();
                drop(cluster);
                total += begun.elapsed();
            }
            total
        });
    });
    group.finish();
}

criterion_group!(benches, cluster);
criterion_main!(benches);
