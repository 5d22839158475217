//! The distribution of the improvement of end-to-end latency: request by request, of runs with the same seed.
//!
//! The same seed gives the same requests with the same numbers, so a request's latency under one policy is held against
//! its own under another. All requests count, none is cut off; one that a policy dropped has no latency there and is left
//! out, and counted in the caption.

use std::collections::BTreeMap;

use medes_plots::figure::{Axis, BoxPoint, Figure, Scale, Series, Shape};
use medes_plots::stats::{weighted_mean, weighted_quantiles};

use crate::store::{CellResult, Latency};

/// Percentiles of the boxes: what the slowest requests gain or lose is what matters, the median request is warm anyway.
const LEVELS: [f64; 5] = [0.1, 1.0, 50.0, 99.0, 99.9];

/// One cell's requests.
pub struct Run<'a> {
    /// What they are of.
    pub cell: &'a CellResult,
    /// The requests, by number.
    pub requests: Vec<Latency>,
}

/// The figure for one pool: a box a function and rival of `medes`.
pub fn figure(runs: &[Run<'_>], rivals: &[&str], memcap_mb: f64, names: &[String]) -> Figure {
    let here = |policy: &str| -> Vec<&Run<'_>> {
        let of = |r: &&Run<'_>| r.cell.summary.policy == policy && r.cell.summary.memcap_mb == memcap_mb;
        runs.iter().filter(of).collect()
    };
    let mut left_out = 0u64;
    let mut series = Vec::new();
    for rival in rivals {
        let mut factors: Vec<BTreeMap<u64, f64>> = vec![BTreeMap::new(); names.len()];
        for medes in here("medes") {
            let Some(other) = here(rival).into_iter().find(|r| r.cell.summary.seed == medes.cell.summary.seed) else {
                continue;
            };
            let mut next = other.requests.iter().peekable();
            for request in &medes.requests {
                while next.next_if(|o| o.request < request.request).is_some() {}
                let Some(o) = next.next_if(|o| o.request == request.request) else { continue };
                let factor = o.latency_ms / request.latency_ms;
                match factors.get_mut(request.function) {
                    // Factors by a thousandth: equal ones are counted, not kept.
                    Some(of) if factor.is_finite() && factor > 0.0 => {
                        *of.entry((factor * 1e3).round().max(1.0) as u64).or_default() += 1.0;
                    }
                    _ => left_out += 1,
                }
            }
        }
        let boxes = factors.iter().enumerate().filter(|(_, f)| !f.is_empty()).map(|(i, f)| {
            let samples: Vec<(f64, f64)> = f.iter().map(|(k, n)| (*k as f64 / 1e3, *n)).collect();
            let five = weighted_quantiles(&samples, &LEVELS.map(|l| l / 100.0));
            let five = [five[0], five[1], five[2], five[3], five[4]];
            BoxPoint { x: i as f64, mean: weighted_mean(&samples), five, levels: LEVELS }
        });
        let boxes: Vec<BoxPoint> = boxes.collect();
        if !boxes.is_empty() {
            series.push(Series {
                label: format!("against {rival}"),
                look: (*rival).to_owned(),
                shape: Shape::Boxes(boxes),
            });
        }
    }
    series.push(Series { label: "as fast".into(), look: "cap".into(), shape: Shape::Rule(1.0) });
    let seeds: std::collections::BTreeSet<u64> = runs.iter().map(|r| r.cell.summary.seed).collect();
    Figure {
        name: String::new(),
        title: "Improvement of end-to-end latency by medes".into(),
        caption: format!(
            "Latency of each request under the other policy over its latency under medes; right of 1 medes is faster. Of all \
             requests of {} seeds together: stroke the median, diamond the mean, box the 1st to 99th percentile, whiskers the \
             0.1th to 99.9th. Dropped under either policy and left out: {left_out}. Rows: requests of each run.",
            seeds.len()
        ),
        x: Axis::new("latency under the other policy / under medes", "times", Scale::Log),
        y: Axis::names("function", names.iter().cloned()),
        series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_held_against_itself() {
        let cell = |policy: &str| {
            let mut summary = medes_engine::record::Summary { memcap_mb: 5.0, seed: 1, ..Default::default() };
            summary.policy = policy.into();
            CellResult {
                parameters: BTreeMap::new(),
                swept: BTreeMap::new(),
                summary,
                functions: Vec::new(),
                timeline: Vec::new(),
                seconds: 0.0,
                starts: Vec::new(),
                operations: Vec::new(),
                notes: Vec::new(),
            }
        };
        let latency = |request, ms| Latency { request, function: 0, latency_ms: ms };
        let (medes, fixed) = (cell("medes"), cell("fixed"));
        // Request 2 was dropped by medes, request 4 by fixed.
        let runs = [
            Run {
                cell: &medes,
                requests: vec![latency(1, 10.0), latency(2, f64::NAN), latency(3, 40.0), latency(4, 1.0)],
            },
            Run { cell: &fixed, requests: vec![latency(1, 20.0), latency(2, 7.0), latency(3, 20.0)] },
        ];
        let figure = figure(&runs, &["fixed"], 5.0, &["f".to_owned()]);
        let Shape::Boxes(boxes) = &figure.series[0].shape else { panic!("no boxes") };
        assert_eq!((boxes[0].five[0], boxes[0].five[4], boxes[0].mean), (0.5, 2.0, 1.25));
        assert!(figure.caption.contains("left out: 1."), "{}", figure.caption);
    }
}
