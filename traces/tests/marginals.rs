//! The generator's marginals are the published ones. Tolerances, in points of per cent unless said: triggers
//! 2 of the functions (the published shares, which add up to 105.1, divided by their sum) and 2 of the
//! requests; functions by requests 1.5; the busiest function 2.5, the busiest 0.1 and 1 % 3; apps by
//! functions 1; apps by variation of the gaps 4; hours 0.04 of the mean; quantiles of run time and memory 5 %
//! of their value.

use medes_traces::stats::Stats;
use medes_traces::synth::published::{APP_SIZES, DAILY_SHARES, MEMORY_MB, RUN_S, TRIGGERS, VARIATION};
use medes_traces::{Trace, TraceOptions, open};

fn generate(functions: u32, minutes: u32, invocations: Option<u64>, generator_seed: u64) -> Trace {
    let options = TraceOptions { functions, minutes, invocations, generator_seed, ..TraceOptions::default() };
    open(&"azure-like".parse().unwrap(), &options).unwrap()
}

#[track_caller]
fn near(stats: &Stats, what: &str, published: f64, tolerance: f64) {
    let here = stats.get(what).unwrap_or_else(|| panic!("there is no figure `{what}`"));
    assert!((here - published).abs() <= tolerance, "{what}: {here} and not {published} +- {tolerance}");
}

fn follows(stats: &Stats) {
    let sum: f64 = TRIGGERS.iter().map(|trigger| trigger.1).sum();
    for (trigger, functions, requests) in TRIGGERS {
        near(stats, &format!("functions, {} %", trigger.name()), 100.0 * functions / sum, 2.0);
        near(stats, &format!("requests, {} %", trigger.name()), requests, 2.0);
    }
    for (most, share) in DAILY_SHARES {
        near(stats, &format!("at most {most} a day, %"), 100.0 * share, 1.5);
    }
    for (most, share) in APP_SIZES {
        near(stats, &format!("at most {most} functions, %"), 100.0 * share, 1.0);
    }
    for (most, share) in VARIATION {
        near(stats, &format!("variation at most {most}, %"), 100.0 * share, 4.0);
    }
    near(stats, "least hour / mean hour", 0.82, 0.04);
    near(stats, "most hour / mean hour", 1.25, 0.04);
    for q in [0.10, 0.25, 0.50, 0.75, 0.90, 0.99] {
        let (run, memory) = (RUN_S.at(q), MEMORY_MB.at(q));
        near(stats, &format!("mean run time {:.0} %, s", 100.0 * q), run, 0.05 * run);
        near(stats, &format!("memory of an app {:.0} %, MB", 100.0 * q), memory, 0.05 * memory);
    }
}

#[test]
fn a_whole_day_is_like_the_published_one() {
    let trace = generate(46_412, 1440, Some(909_783_379), 1);
    assert_eq!((trace.functions.len(), trace.requests()), (46_412, 909_783_379));
    let stats = Stats::of(&trace);
    println!("{stats}");
    follows(&stats);
    near(&stats, "the busiest function, %", 13.5, 2.5);
    near(&stats, "busiest 0.1 %, %", 70.0, 3.0);
    near(&stats, "busiest 1 %, %", 93.0, 3.0);
}

#[test]
fn so_is_a_smaller_one_with_any_seed() {
    for seed in 2..5 {
        let stats = Stats::of(&generate(5_000, 1440, Some(98_000_000), seed));
        println!("{stats}");
        follows(&stats);
    }
}

#[test]
fn every_size_is_made_with_the_exact_sum() {
    for (functions, minutes, invocations) in [
        (400, 1440, Some(1_500_000)),
        (200, 120, None),
        (1, 1, Some(5)),
        (3, 10, Some(3)),
        (50, 1440, Some(60)),
        (20, 3000, Some(100_000)),
        (100, 7, Some(1_000_000)),
    ] {
        let trace = generate(functions, minutes, invocations, 9);
        let wanted = invocations.unwrap_or(u64::from(functions) * 3750 * u64::from(minutes) / 1440);
        assert_eq!(trace.functions.len(), functions as usize);
        assert_eq!(trace.minutes(), minutes);
        assert_eq!(trace.requests(), wanted, "{functions} functions, {minutes} minutes");
    }
}

#[test]
fn the_same_seed_makes_the_same_trace_and_another_another() {
    let functions = |seed| generate(100, 60, None, seed).functions;
    assert_eq!(functions(1), functions(1));
    assert_ne!(functions(1), functions(2));
}

#[test]
fn arrivals_have_the_seed_of_the_run_or_one_of_their_own() {
    let first = |arrivals_seed, run_seed| {
        let options = TraceOptions { functions: 100, minutes: 10, arrivals_seed, ..TraceOptions::default() };
        let (trace, mut out) = (open(&"azure-like".parse().unwrap(), &options).unwrap(), Vec::new());
        assert!(trace.arrivals(run_seed).next_batch(&mut out));
        out
    };
    assert_ne!(first(None, 1), first(None, 2));
    assert_eq!(first(Some(1), 2), first(None, 1));
    assert_eq!(first(Some(1), 2), first(Some(1), 3));
}

#[test]
fn what_cannot_be_made_is_said() {
    for (functions, minutes, invocations, message) in [
        (0, 10, None, "trace option `functions`: 0 functions"),
        (10, 0, None, "trace option `minutes`: 0 minutes"),
        (10, 10, Some(9), "trace option `invocations`: 9 invocations of 10 functions"),
    ] {
        let options = TraceOptions { functions, minutes, invocations, ..TraceOptions::default() };
        let error = open(&"azure-like".parse().unwrap(), &options).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
