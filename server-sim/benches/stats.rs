//! What counting costs on the append path, and what a stream's counters take in memory:
//! `cargo bench -p hstream-server --bench stats`.

use hstream_server::stats::{Histogram, Series, StreamStats};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CALLS: u32 = 2_000_000;

/// Nanoseconds per call, the best of five rounds.
fn measure(threads: u32, work: impl Fn() + Sync) -> f64 {
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..CALLS / threads).for_each(|_| work()));
            }
        });
        started.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..5).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let stream = StreamStats::default();
    let calls = Series::<1>::new();
    let histogram = Histogram::default();
    let rows: [(&str, &(dyn Fn() + Sync)); 4] = [
        ("tokio::time::Instant::now", &|| {
            black_box(tokio::time::Instant::now());
        }),
        ("StreamStats::append", &|| stream.append(black_box(Some((1024, 10))))),
        ("Histogram::record", &|| histogram.record(black_box(Duration::from_micros(250)))),
        ("all that one append counts", &|| {
            let arrived = tokio::time::Instant::now();
            calls.add([1]);
            let asked = tokio::time::Instant::now();
            histogram.record(asked.elapsed());
            stream.append(black_box(Some((1024, 10))));
            histogram.record(arrived.elapsed());
        }),
    ];
    println!("{:<32}{:>12}{:>24}", "", "1 thread", "2 threads, one stream");
    for (name, work) in rows {
        println!("{name:<32}{:>9.1} ns{:>21.1} ns", measure(1, work), measure(2, work));
    }
    let bytes = memory();
    println!(
        "\nmemory of a stream's counters: {} bytes idle, {} bytes with ten minutes of traffic",
        bytes.0, bytes.1
    );
}

/// Bytes of the counters of a stream, before and after ten minutes in which every tick counted.
fn memory() -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let stream = Arc::new(StreamStats::default());
        let idle = stream.bytes();
        for _ in 0..6_000 {
            stream.append(Some((1024, 10)));
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        (idle, stream.bytes())
    })
}
