//! Rows for the oracle: what `medes_engine::policy::oracle` bounds, in the form of a run's outcome.
//!
//! Each request starts on its arrival; warm if the gap before it is among those held, else cold. A held sandbox weighs its
//! smallest form under the run's parameters: whole, compressed alone, or patched with as many bases as could help, and the memory of those bases is not counted
//! (each of these only lowers the bound). Cold starts are the bound; latencies and memory are those of the relaxed plan behind it, which no
//! schedule need reach. A request that must wait because the runs alone fill the cap is not made to.

use medes_engine::engine::Counters;
use medes_engine::event::{Arrival, Method};
use medes_engine::hist::Histogram;
use medes_engine::id::FunctionId;
use medes_engine::metrics::Outcome;
use medes_engine::policy::oracle::{Bins, Gap, Gaps, most_warm_starts};
use medes_engine::record::{FunctionSummary, Summary};
use medes_engine::units::{Bytes, Instant};

use crate::cost::{Purpose, draw};
use crate::memory::Memory;
use crate::setup::{Setup, SimError};

/// Time bins of the prices; more only tighten the bound.
const BINS: u64 = 4096;
/// Up to this many requests, prices change at every event and the bound is the linear program's own.
const EXACT_REQUESTS: usize = 4096;

/// One request, kept until the bound is known.
struct Served {
    at: Instant,
    function: FunctionId,
    run_us: u64,
    /// Its gap, or none if a sandbox must be created in any schedule.
    gap: Option<u32>,
}

/// The bound for `setup` on the arrivals that `next_batch` appends until it returns false.
///
/// Needs about 100 bytes a request.
///
/// # Errors
/// A setup that does not fit, or arrivals out of order.
pub fn bound(setup: &Setup, mut next_batch: impl FnMut(&mut Vec<Arrival>) -> bool) -> Result<Outcome, SimError> {
    setup.check()?;
    let memory = Memory::new(setup);
    let smallest: Vec<Bytes> = (0..setup.functions.len())
        .map(|i| {
            let function = FunctionId(i as u32);
            let whole = setup.functions[i].memory;
            let paused = if setup.config.nopause { 0.0 } else { setup.profile(function).paused_mb };
            let reduced = |method| memory.smallest(setup, function, method) + Bytes::from_mb(paused).min(whole);
            if setup.config.oracle_whole {
                return whole;
            }
            whole.min(reduced(Method::Patches)).min(reduced(Method::Compression))
        })
        .collect();
    let (mut served, mut gaps, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    let mut pairing: Vec<Gaps> = setup.functions.iter().map(|_| Gaps::default()).collect();
    let (mut last, mut end) = (Instant::ZERO, Instant::ZERO + setup.length);
    loop {
        batch.clear();
        let more = next_batch(&mut batch);
        for a in &batch {
            let known = a.function.index() < pairing.len();
            if a.at < last || !known {
                let what = if known { "earlier than the one before" } else { "no such function" };
                return Err(SimError::Arrival { number: served.len() as u64, at: a.at, function: a.function, what });
            }
            last = a.at;
            end = end.max(a.at + a.run);
            let gap = pairing[a.function.index()].arrive(a.at, a.at + a.run).map(|from| {
                gaps.push(Gap { from, to: a.at, size: smallest[a.function.index()] });
                (gaps.len() - 1) as u32
            });
            served.push(Served { at: a.at, function: a.function, run_us: a.run.as_micros(), gap });
        }
        if !more && batch.is_empty() {
            break;
        }
    }
    let runs = served.iter().map(|s| {
        let size = setup.functions[s.function.index()].memory;
        (s.at, s.at + medes_engine::units::Duration::from_micros(s.run_us), size)
    });
    let edges = if served.len() <= EXACT_REQUESTS {
        gaps.iter().flat_map(|g| [g.from, g.to]).chain(runs.clone().flat_map(|r| [r.0, r.1])).collect()
    } else {
        (0..=BINS)
            .map(|i| Instant::from_micros((u128::from(end.as_micros()) * u128::from(i) / u128::from(BINS)) as u64))
            .collect()
    };
    let cap = setup.config.memcap * u64::from(setup.config.nodes);
    let bins = Bins::new(edges, cap, runs.clone());
    let plan = most_warm_starts(&gaps, &bins);
    Ok(rows(setup, &served, &gaps, &plan.held, runs))
}

fn rows(
    setup: &Setup,
    served: &[Served],
    gaps: &[Gap],
    held: &[bool],
    runs: impl Iterator<Item = (Instant, Instant, Bytes)>,
) -> Outcome {
    let (mut latency, mut start_latency) = (Histogram::<10>::default(), Histogram::<10>::default());
    let mut functions: Vec<(FunctionSummary, Histogram<7>)> = setup
        .functions
        .iter()
        .map(|f| (FunctionSummary { function: f.name.clone(), ..Default::default() }, Histogram::default()))
        .collect();
    let mut counters = Counters { arrived: served.len() as u64, answered: served.len() as u64, ..Counters::default() };
    for (number, s) in served.iter().enumerate() {
        let warm = s.gap.is_some_and(|g| held[g as usize]);
        let profile = setup.profile(s.function);
        let start = if warm {
            draw(&profile.warm, setup.seed, Purpose::Warm, number as u64)
        } else {
            draw(&profile.cold, setup.seed, Purpose::Cold, number as u64)
        };
        let (f, histogram) = &mut functions[s.function.index()];
        f.requests += 1;
        if warm {
            f.warm += 1;
            counters.warm += 1;
        } else {
            f.cold += 1;
            counters.cold += 1;
        }
        let total = start + medes_engine::units::Duration::from_micros(s.run_us);
        histogram.add(total);
        latency.add(total);
        start_latency.add(start);
    }
    let area = |from: Instant, to: Instant, size: Bytes| size.get() as f64 * to.since(from).as_micros() as f64;
    let busy: f64 = runs.map(|(from, to, size)| area(from, to, size)).sum();
    let idle: f64 = gaps.iter().zip(held).filter(|(_, h)| **h).map(|(g, _)| area(g.from, g.to, g.size)).sum();
    let mean = (busy + idle) / setup.length.as_micros().max(1) as f64 / 1e6;
    let summary = Summary {
        policy: setup.config.policy.to_owned(),
        memcap_mb: setup.config.memcap.as_mb(),
        nodes: setup.config.nodes,
        seed: setup.seed,
        requests: counters.arrived,
        cold: counters.cold,
        warm: counters.warm,
        p50_ms: latency.percentile_ms(0.5),
        p99_ms: latency.percentile_ms(0.99),
        p999_ms: latency.percentile_ms(0.999),
        mean_ms: latency.mean_ms(),
        start_p50_ms: start_latency.percentile_ms(0.5),
        start_p99_ms: start_latency.percentile_ms(0.99),
        start_p999_ms: start_latency.percentile_ms(0.999),
        dedup_start_ms: f64::NAN,
        mean_memory_mb: mean,
        max_memory_mb: f64::NAN,
        ..Summary::default()
    };
    let functions = functions
        .into_iter()
        .filter(|(f, _)| f.requests > 0)
        .map(|(f, h)| FunctionSummary {
            mean_ms: h.mean_ms(),
            p50_ms: h.percentile_ms(0.5),
            p99_ms: h.percentile_ms(0.99),
            p999_ms: h.percentile_ms(0.999),
            ..f
        })
        .collect();
    let base_pages = medes_engine::metrics::BasePages::default();
    Outcome { summary, functions, timeline: Vec::new(), counters, base_pages }
}
