//! Invocations a second, of the whole simulation and of the engine alone. `cargo bench -p medes-sim`.
//!
//! The job is the generated 400-function day of 1,500,400 invocations; with `--test` (as `cargo test --benches` calls it) a few
//! minutes of it, once. `day/` draws the arrivals while it runs and `arrivals stored/` has them in memory; in both every
//! modelled time is its median, except in `drawn`.

mod engine;
mod job;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use job::{ENOUGH, setup};
use medes_traces::Trace;

/// Name, and what differs from one node with enough memory.
const RUNS: &[(&str, &[(&str, &str)])] = &[
    ("fixed", &[("policy", "fixed")]),
    ("medes", &[("policy", "medes")]),
    ("adaptive", &[("policy", "adaptive")]),
    ("greedy-dual, 16 GB", &[("policy", "greedy-dual"), ("memcap", "16000")]),
    ("fixed, 32 GB", &[("policy", "fixed"), ("memcap", "32000")]),
    ("fixed, 16 GB", &[("policy", "fixed"), ("memcap", "16000")]),
    ("medes, 32 GB", &[("policy", "medes"), ("memcap", "32000")]),
    ("fixed, 20 nodes of 2 GB", &[("policy", "fixed"), ("nodes", "20"), ("memcap", "2000")]),
    ("fixed, 100 nodes of 400 MB", &[("policy", "fixed"), ("nodes", "100"), ("memcap", "400")]),
    ("fixed, 1000 nodes", &[("policy", "fixed"), ("nodes", "1000")]),
];

fn parameters(run: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [("nodes", "1"), ("memcap", ENOUGH)].iter().chain(run).copied().collect()
}

fn trace() -> Trace {
    // Criterion, asked for a test, runs each benchmark once.
    if std::env::args().any(|a| a == "--test") { job::day(40, 2_000, 5) } else { job::day(400, 1_500_400, 1440) }
}

fn simulation(c: &mut Criterion) {
    let trace = trace();
    let mut group = c.benchmark_group("day");
    group.sample_size(10).throughput(Throughput::Elements(trace.requests()));
    for (name, run) in RUNS {
        let setup = setup(&trace, true, &parameters(run));
        group.bench_function(*name, |b| b.iter(|| job::streamed(&setup, &trace)));
    }
    let drawn = setup(&trace, false, &parameters(RUNS[0].1));
    group.bench_function("fixed, drawn", |b| b.iter(|| job::streamed(&drawn, &trace)));
    group.finish();
}

fn without_arrivals(c: &mut Criterion) {
    let trace = trace();
    let arrivals = job::collect(&trace, 1);
    for (group, engine_alone) in [("arrivals stored", false), ("engine alone", true)] {
        let mut group = c.benchmark_group(group);
        group.sample_size(10).throughput(Throughput::Elements(arrivals.len() as u64));
        for (name, run) in &RUNS[..2] {
            let setup = setup(&trace, true, &parameters(run));
            group.bench_function(*name, |b| {
                b.iter(|| {
                    if engine_alone {
                        engine::alone(&setup, &arrivals)
                    } else {
                        job::stored(&setup, &arrivals).counters
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, simulation, without_arrivals);
criterion_main!(benches);
