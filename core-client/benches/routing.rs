//! What finding the shard of a key costs: at most 200 ns, whatever the number of shards.
//!
//! `cargo bench -p hstreamdb --bench routing`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hstreamdb::ShardMap;
use hstreamdb_proto::partition::key_hash;
use std::hint::black_box;

/// Keys as applications have them: short names with a number, and identifiers of 36 letters.
fn keys() -> [(&'static str, Vec<String>); 2] {
    let names = (0..4096).map(|n| format!("sensor-{n}")).collect();
    let ids = (0..4096u64).map(|n| {
        let mixed =
            u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n.wrapping_mul(0xbf58_476d));
        let text = format!("{mixed:032x}");
        format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
    });
    [("names", names), ("uuids", ids.collect())]
}

fn even(shards: u64) -> ShardMap {
    let width = u128::MAX / u128::from(shards);
    let range = |index: u64| {
        let start = u128::from(index) * width;
        let end = if index + 1 == shards { u128::MAX } else { start + width - 1 };
        (index, start..=end)
    };
    ShardMap::new((0..shards).map(range)).expect("a map")
}

fn routing(criterion: &mut Criterion) {
    for (name, keys) in keys() {
        let mut group = criterion.benchmark_group(format!("shard of a key, {name}"));
        group.throughput(Throughput::Elements(keys.len() as u64));
        // What no router can be faster than, where there are several shards.
        group.bench_function("the hash alone", |bencher| {
            bencher.iter(|| {
                for key in &keys {
                    black_box(key_hash(black_box(key)));
                }
            });
        });
        for shards in [1, 16, 128, 1024] {
            let map = even(shards);
            group.bench_with_input(BenchmarkId::from_parameter(shards), &map, |bencher, map| {
                bencher.iter(|| {
                    for key in &keys {
                        black_box(map.shard_for_key(black_box(key)));
                    }
                });
            });
        }
    }
}

criterion_group!(benches, routing);
criterion_main!(benches);
