//! The real samples, where they lie beside the repository; each test says so and passes where they do not.

use std::io::Write as _;
use std::path::PathBuf;

use medes_traces::stats::Stats;
use medes_traces::{AppMemory, Oddity, Trace, TraceOptions, open, write};

fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "skipped: {} is not there", path.display());
    None
}

fn read(kind: &str, path: &std::path::Path, options: &TraceOptions) -> Trace {
    open(&format!("{kind}:{}", path.display()).parse().unwrap(), options).unwrap()
}

fn window(text: &str) -> TraceOptions {
    TraceOptions { window: Some(text.parse().unwrap()), ..TraceOptions::default() }
}

#[test]
fn the_sample_of_500_functions() {
    let Some(path) = data("azure2019_500fn_8h") else { return };
    let trace = read("azure2019", &path, &TraceOptions::default());
    println!("{}", trace.report);
    assert_eq!((trace.functions.len(), trace.requests()), (500, 3_037_902));
    assert_eq!(trace.length.as_secs_f64(), 86_400.0);
    assert_eq!(trace.report.count(Oddity::ZeroAverage), 13);
    assert_eq!(trace.report.count(Oddity::NoDurations), 0);
    assert!(trace.report.count(Oddity::AverageAgainstPercentiles) <= 3);
    let stats = Stats::of(&trace);
    println!("{stats}");
    assert_eq!(stats.apps, 476);
    assert_eq!(stats.owners, 428);

    // The invocations file itself, and the window of the sample.
    let file = path.join("invocations_per_function_md.anon.d01.csv");
    let part = read("azure2019", &file, &window("480..959"));
    assert_eq!((part.requests(), part.minutes()), (3_037_902, 480));
    assert_eq!(part.functions, trace.functions);
}

/// The rule of the memory: the app's average for each function, or divided by the app's functions.
#[test]
fn memory_is_whole_or_divided() {
    let Some(path) = data("azure2019_500fn_8h") else { return };
    let whole = read("azure2019", &path, &TraceOptions::default());
    let options = TraceOptions { app_memory: AppMemory::Divided, ..TraceOptions::default() };
    let divided = read("azure2019", &path, &options);
    let mut shared = 0;
    for (a, b) in whole.functions.iter().zip(&divided.functions) {
        let sharers = whole.functions.iter().filter(|f| (&f.owner, &f.app) == (&a.owner, &a.app)).count() as u64;
        let (a, b) = (a.memory.unwrap().get(), b.memory.unwrap().get());
        assert_eq!((a as f64 / sharers as f64).round() as u64, b);
        shared += u64::from(sharers > 1);
    }
    assert!(shared > 20);
}

/// Every row of the sample: the law's mean, and the mean of draws, within 2 % of the recorded average.
#[test]
fn the_mean_of_the_draws_is_the_recorded_average() {
    let Some(path) = data("azure2019_500fn_8h") else { return };
    let file = std::fs::read_to_string(path.join("function_durations_percentiles.anon.d01.csv")).unwrap();
    let mut checked = 0;
    for row in file.lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        let number = |i: usize| cells[i].parse::<f64>().unwrap();
        let recorded = medes_traces::RunRow {
            average: number(3),
            count: number(4) as u64,
            minimum: number(5),
            maximum: number(6),
            percentiles: std::array::from_fn(|i| number(7 + i)),
        };
        let mut report = medes_traces::ReadReport::default();
        let law = medes_traces::RunLaw::of_row(&recorded, 0.5, &mut report, &String::new);
        let n = 1u64 << 18;
        let sum: u64 = (0..n).map(|i| law.at(((i << 14) + (1 << 13)) as u32).as_micros()).sum();
        let mean = sum as f64 / n as f64 / 1e3;
        // An average recorded as zero is something under 1 ms.
        let average = if recorded.average == 0.0 { 0.5 } else { recorded.average };
        assert!((mean / average - 1.0).abs() < 0.02, "{mean} for {average}: {row}");
        checked += 1;
    }
    assert_eq!(checked, 500);
}

/// The whole stream: the number of arrivals of each function, and the mean of the durations of the busy ones.
#[test]
fn the_stream_of_the_sample() {
    let Some(path) = data("azure2019_500fn_8h") else { return };
    let trace = read("azure2019", &path, &window("480..959"));
    let (mut arrivals, mut batch) = (trace.arrivals(1), Vec::new());
    let mut seen = vec![(0u64, 0u64); trace.functions.len()];
    let (mut before, mut minutes) = (None, std::collections::BTreeSet::new());
    while arrivals.next_batch(&mut batch) {
        assert!(!batch.is_empty() && batch.len() < 50_000);
        let minute = batch[0].at.minute();
        assert!(batch.iter().all(|arrival| arrival.at.minute() == minute));
        minutes.insert(minute);
        for arrival in batch.drain(..) {
            let now = Some((arrival.at, arrival.function));
            assert!(now >= before && arrival.at.minute() < 480);
            before = now;
            let slot = &mut seen[arrival.function.index()];
            slot.0 += 1;
            slot.1 += arrival.run.as_micros();
        }
    }
    assert_eq!(minutes.len(), 480);
    let mut busy = 0;
    for (function, (requests, micros)) in trace.functions.iter().zip(seen) {
        assert_eq!(function.requests, requests);
        if requests > 100_000 {
            let (mean, law) = (micros as f64 / requests as f64, function.mean_run.unwrap().as_micros() as f64);
            assert!((mean / law - 1.0).abs() < 0.02, "{mean} for {law}");
            busy += 1;
        }
    }
    assert!(busy >= 3);
}

#[test]
fn the_invitro_form_of_the_sample_has_the_same_requests() {
    let (Some(path), Some(original)) = (data("azure2019_500fn_8h_invitro"), data("azure2019_500fn_8h")) else { return };
    let trace = read("invitro", &path, &TraceOptions::default());
    println!("{}", trace.report);
    assert_eq!((trace.functions.len(), trace.requests(), trace.minutes()), (500, 3_037_902, 480));
    let original = read("azure2019", &original, &window("480..959"));
    let all = |trace: &Trace| {
        let (mut out, mut arrivals) = (Vec::new(), trace.arrivals(5));
        while arrivals.next_batch(&mut out) {}
        out
    };
    assert_eq!(all(&trace), all(&original));
    assert_eq!(trace.functions[1].name, original.functions[1].name);
    assert!(trace.functions.iter().any(|f| f.memory_row.unwrap().average.fract() != 0.0));
}

#[test]
fn what_is_written_is_what_was_read() {
    let (Some(path), Some(invitro)) = (data("azure2019_500fn_8h"), data("azure2019_500fn_8h_invitro")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let same = |from: &std::path::Path, name: &str| {
        // Durations and memory are in an order of their own in the original.
        let lines = |folder: &std::path::Path| {
            let mut lines: Vec<String> =
                std::fs::read_to_string(folder.join(name)).unwrap().lines().map(String::from).collect();
            lines.sort_unstable();
            lines
        };
        for (a, b) in lines(from).iter().zip(&lines(folder.path())) {
            assert!(a == b, "{name}: {a}\n{b}");
        }
    };
    write::azure2019(&read("azure2019", &path, &TraceOptions::default()), folder.path()).unwrap();
    for kind in ["invocations_per_function_md", "function_durations_percentiles", "app_memory_percentiles"] {
        same(&path, &format!("{kind}.anon.d01.csv"));
    }
    write::invitro(&read("invitro", &invitro, &TraceOptions::default()), folder.path()).unwrap();
    for name in ["invocations.csv", "durations.csv"] {
        same(&invitro, name);
    }
}

#[test]
fn the_test_workload_of_one_owner() {
    let Some(path) = data("samples/azure2019_test_workload.csv") else { return };
    let trace = read("azure2019", &path, &TraceOptions::default());
    println!("{}", trace.report);
    assert_eq!((trace.functions.len(), trace.minutes()), (9, 1440));
    assert!(trace.functions.iter().all(|f| f.mean_run.is_none()));
    assert_eq!(trace.report.count(Oddity::NoDurations), 9);
}

#[test]
fn the_first_rows_of_2021() {
    let Some(path) = data("samples/azure2021_first199.csv") else { return };
    let trace = read("azure2021", &path, &TraceOptions::default());
    println!("{}", trace.report);
    assert_eq!(trace.requests(), 199);
    let mut out = Vec::new();
    let mut arrivals = trace.arrivals(1);
    while arrivals.next_batch(&mut out) {}
    assert!(out.is_sorted_by_key(|arrival| (arrival.at, arrival.function)));
    // First row: ended 0.07949... s after the start and took 0.078 s.
    assert_eq!((out[0].at.as_micros(), out[0].run.as_micros()), (1_491, 78_000));
}
