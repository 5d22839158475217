//! The jobs that are measured: a generated day on a cluster.

use std::sync::Arc;

use medes_engine::config::Config;
use medes_engine::profile::{Latency, ProfileSet};
use medes_engine::units::{Bytes, Duration};
use medes_sim::{Arrival, Outcome, Setup, SimFunction, simulate};
use medes_traces::{Trace, TraceOptions, open};

/// Memory cap that nothing reaches, MB.
pub const ENOUGH: &str = "100000000";

/// A generated trace of one day, or of its first `minutes`.
pub fn day(functions: u32, invocations: u64, minutes: u32) -> Trace {
    let options = TraceOptions { functions, minutes, invocations: Some(invocations), ..TraceOptions::default() };
    match "azure-like".parse().and_then(|spec| open(&spec, &options)) {
        Ok(trace) => trace,
        Err(error) => panic!("{error}"),
    }
}

/// The profiles of `config/reference.toml`. With `constant`, every modelled time is its median; otherwise each is drawn.
fn profiles(constant: bool) -> ProfileSet {
    let mut profiles: ProfileSet = match toml::from_str(include_str!("../../../config/reference.toml")) {
        Ok(profiles) => profiles,
        Err(error) => panic!("{error}"),
    };
    if let Err(error) = profiles.check() {
        panic!("{error}");
    }
    if constant {
        for f in &mut profiles.function {
            for time in [&mut f.cold, &mut f.warm, &mut f.checkpoint, &mut f.restore, &mut f.resume] {
                *time = Latency::constant(time.median_ms);
            }
        }
    }
    profiles
}

/// A run over `trace` with these parameters.
pub fn setup(trace: &Trace, constant: bool, parameters: &[(&str, &str)]) -> Setup {
    let mut config = Config::default();
    for (name, value) in parameters {
        if let Err(error) = config.set(name, value) {
            panic!("{error}");
        }
    }
    let profiles = profiles(constant);
    let function = |(i, f): (usize, &medes_traces::Function)| SimFunction {
        name: f.label(),
        owner: 0,
        profile: i % profiles.function.len(),
        memory: f.memory.unwrap_or(Bytes::from_mb(143.0)),
        run: f.mean_run.unwrap_or(Duration::from_millis(950)),
    };
    Setup {
        config,
        functions: Arc::new(trace.functions.iter().enumerate().map(function).collect()),
        profiles: Arc::new(profiles),
        faults: Vec::new(),
        seed: 1,
        length: trace.length,
        interval: Duration::from_secs(60),
        check: false,
        host: None,
    }
}

/// Runs `setup` on the trace's arrivals, drawn as they are needed.
pub fn streamed(setup: &Setup, trace: &Trace) -> Outcome {
    let mut arrivals = trace.arrivals(setup.seed);
    run(setup, |out| arrivals.next_batch(out))
}

/// All arrivals of a trace.
pub fn collect(trace: &Trace, seed: u64) -> Vec<Arrival> {
    let (mut arrivals, mut all) = (trace.arrivals(seed), Vec::new());
    while arrivals.next_batch(&mut all) {}
    all
}

/// Runs `setup` on arrivals in memory.
pub fn stored(setup: &Setup, arrivals: &[Arrival]) -> Outcome {
    let mut batches = arrivals.chunks(4096);
    run(setup, |out| batches.next().map(|batch| out.extend_from_slice(batch)).is_some())
}

fn run(setup: &Setup, next_batch: impl FnMut(&mut Vec<Arrival>) -> bool) -> Outcome {
    match simulate(setup, next_batch, |_| ()) {
        Ok(outcome) => outcome,
        Err(error) => panic!("{error}"),
    }
}
