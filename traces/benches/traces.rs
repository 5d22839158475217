//! Arrivals a second, and megabytes a second of the large file. `cargo bench -p medes-traces`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use medes_traces::{Trace, TraceOptions, open, write};

fn day(functions: u32, invocations: u64) -> TraceOptions {
    TraceOptions { functions, minutes: 1440, invocations: Some(invocations), ..TraceOptions::default() }
}

fn generated(options: &TraceOptions) -> Trace {
    match "azure-like".parse().and_then(|spec| open(&spec, options)) {
        Ok(trace) => trace,
        Err(error) => panic!("{error}"),
    }
}

fn arrivals(c: &mut Criterion) {
    let mut group = c.benchmark_group("arrivals");
    group.sample_size(10);
    for (name, functions, invocations) in
        [("400 functions, 1.5 M", 400, 1_500_000), ("2,000 functions, 40 M", 2_000, 40_000_000)]
    {
        let trace = generated(&day(functions, invocations));
        let mut batch = Vec::new();
        group.throughput(Throughput::Elements(trace.requests()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let (mut arrivals, mut sum) = (trace.arrivals(1), 0u64);
                while arrivals.next_batch(&mut batch) {
                    sum = batch.iter().fold(sum, |sum, arrival| sum.wrapping_add(arrival.run.as_micros()));
                    batch.clear();
                }
                sum
            });
        });
    }
    group.finish();
}

fn files(c: &mut Criterion) {
    let trace = generated(&day(10_000, 196_000_000));
    let written = tempfile::tempdir().map(|folder| (write::azure2019(&trace, folder.path()), folder));
    let Ok((Ok(files), folder)) = written else { panic!("the temporary folder cannot be written to") };
    let bytes = files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|meta| meta.len()).sum();
    let mut group = c.benchmark_group("files");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    let spec = format!("azure2019:{}", folder.path().display());
    group.bench_function("open azure2019, 10,000 functions", |b| {
        b.iter(|| spec.parse().and_then(|spec| open(&spec, &TraceOptions::default())).map(|trace| trace.requests()));
    });
    group.finish();
}

fn generator(c: &mut Criterion) {
    let mut group = c.benchmark_group("generator");
    group.sample_size(10);
    group.bench_function("200 functions, 2 h", |b| b.iter(|| generated(&TraceOptions::default()).requests()));
    group.finish();
}

criterion_group!(benches, arrivals, files, generator);
criterion_main!(benches);
