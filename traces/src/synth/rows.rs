//! How long they run and how much memory they take, as rows of the files.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::plan::Planned;
use super::published::{MEMORY_MB, RUN_S};
use crate::law::RunRow;
use crate::trace::{MemoryRow, mix};

/// Rank correlation of a function's invocations with its average duration (Spearman's, in a sample of 500
/// recorded functions): the busy ones are short.
const CORRELATION: f64 = -0.33;
/// The busiest share of functions, which are shorter still: in that sample their averages have a median of
/// about the 25th percentile of all, and none is above the 60th. In standard normal terms:
const BUSY: (f64, f64, f64, f64) = (0.95, -0.67, 0.6, 0.25);
/// Standard normal quantiles of the recorded percentiles 1, 25, 50, 75, 99.
const NORMAL: [f64; 5] = [-2.326, -0.6745, 0.0, 0.6745, 2.326];

/// A row of durations for each function; `Count` is left zero.
pub(crate) fn runs(functions: &[Planned], seed: u64) -> Vec<RunRow> {
    let n = functions.len();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(seed, 2));
    let mut order: Vec<(f64, usize)> = functions
        .iter()
        .enumerate()
        .map(|(i, function)| {
            let noise: f64 = StandardNormal.sample(&mut rng);
            let z = if function.rank > BUSY.0 {
                (BUSY.1 + BUSY.2 * noise).min(BUSY.3)
            } else {
                // A normal score from the rank by the logistic approximation, good to 0.02.
                let score = (function.rank / (1.0 - function.rank)).ln() / 1.702;
                CORRELATION * score + (1.0 - CORRELATION * CORRELATION).sqrt() * noise
            };
            (z, i)
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut rows = vec![RunRow::default(); n];
    for (place, (_, i)) in order.into_iter().enumerate() {
        let average = 1e3 * RUN_S.at((place as f64 + 0.5) / n as f64);
        rows[i] = run_row(average, rng.random_range(0.1..1.0));
    }
    rows
}

/// A row of a function with lognormal durations of this average (ms) and shape, rounded as recorded ones are.
fn run_row(average: f64, sigma: f64) -> RunRow {
    let median = average * (-sigma * sigma / 2.0f64).exp();
    let at = |z: f64| (median * (sigma * z).exp()).round();
    let (minimum, maximum) = (at(-3.2), at(3.5));
    let [p1, p25, p50, p75, p99] = NORMAL.map(at);
    RunRow {
        average: average.round(),
        count: 0,
        minimum,
        maximum,
        percentiles: [minimum, p1, p25, p50, p75, p99, maximum],
    }
}

/// A row of memory for each app.
pub(crate) fn memory(apps: usize, seed: u64) -> Vec<MemoryRow> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(seed, 3));
    let mut places: Vec<usize> = (0..apps).collect();
    places.shuffle(&mut rng);
    places
        .into_iter()
        .map(|place| {
            let average = MEMORY_MB.at((place as f64 + 0.5) / apps as f64);
            // Within an app memory varies little: shares of the average at the recorded percentiles.
            let spread = rng.random_range(0.2..1.0);
            let shares = [-0.15, -0.10, -0.04, 0.0, 0.04, 0.10, 0.14, 0.30];
            MemoryRow {
                samples: rng.random_range(100..20_000),
                average: average.round(),
                percentiles: shares.map(|share| (average * (1.0 + share * spread)).round()),
            }
        })
        .collect()
}
