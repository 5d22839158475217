//! The distribution of the improvement of end-to-end latency: request by request, of runs with the same seed.
//!
//! The same seed gives the same requests with the same numbers, so a request's latency under one policy is held against
//! its own under another. All requests count; one that a policy dropped has no latency there and is left out, and counted in
//! the caption. Nearly all requests are warm under both policies and end at the same time: boxes of all of them would be
//! strokes at 1. So one picture says how many end sooner and how many later, and the other how much, of those that do.

use std::collections::BTreeMap;

use medes_plots::figure::{Axis, BoxPoint, Figure, Point, QUARTILES, Scale, Series, Shape};
use medes_plots::stats::{Estimate, weighted_mean, weighted_quantiles};

use crate::store::{CellResult, Latency};

/// Factors closer to 1 than this are no improvement and no harm: warm starts scatter by more.
const SAME: f64 = 0.05;

/// One cell's requests.
pub struct Run<'a> {
    /// What they are of.
    pub cell: &'a CellResult,
    /// The requests, by number.
    pub requests: Vec<Latency>,
}

/// Requests of one function under `medes` and one rival, with one seed.
#[derive(Clone, Default)]
struct Held {
    /// Factors by a thousandth: equal ones are counted, not kept.
    changed: BTreeMap<u64, f64>,
    sooner: u64,
    later: u64,
    all: u64,
}

/// Holds the requests of one run against those of another, by function; also how many had no latency under either.
fn held(medes: &Run<'_>, other: &Run<'_>, functions: usize) -> (Vec<Held>, u64) {
    let mut out = vec![Held::default(); functions];
    let mut left_out = 0;
    let mut next = other.requests.iter().peekable();
    for request in &medes.requests {
        while next.next_if(|o| o.request < request.request).is_some() {}
        let Some(o) = next.next_if(|o| o.request == request.request) else { continue };
        let factor = o.latency_ms / request.latency_ms;
        let of = match out.get_mut(request.function) {
            Some(of) if factor.is_finite() && factor > 0.0 => of,
            _ => {
                left_out += 1;
                continue;
            }
        };
        of.all += 1;
        if (factor - 1.0).abs() <= SAME {
            continue;
        }
        *(if factor > 1.0 { &mut of.sooner } else { &mut of.later }) += 1;
        *of.changed.entry((factor * 1e3).round().max(1.0) as u64).or_default() += 1.0;
    }
    (out, left_out)
}

/// The figures for one pool: how many requests end at another time under `medes`, and by which factor.
pub fn figures(runs: &[Run<'_>], rivals: &[&str], memcap_mb: f64, names: &[String]) -> [Figure; 2] {
    let here = |policy: &str| -> Vec<&Run<'_>> {
        let of = |r: &&Run<'_>| r.cell.summary.policy == policy && r.cell.summary.memcap_mb == memcap_mb;
        runs.iter().filter(of).collect()
    };
    let mut left_out = 0u64;
    let (mut factors, mut shares) = (Vec::new(), Vec::new());
    for rival in rivals {
        let mut by_seed: Vec<Vec<Held>> = Vec::new();
        for medes in here("medes") {
            let Some(other) = here(rival).into_iter().find(|r| r.cell.summary.seed == medes.cell.summary.seed) else {
                continue;
            };
            let (found, without) = held(medes, other, names.len());
            by_seed.push(found);
            left_out += without;
        }
        let series = |label: String, look: String, shape| Series { label, look, shape };
        for (words, look, which) in [
            ("sooner than", (*rival).to_owned(), (|h: &Held| h.sooner) as fn(&Held) -> u64),
            ("later than", format!("later than {rival}"), |h| h.later),
        ] {
            let point = |i: usize| {
                let part = |h: &Held| 1e3 * which(h) as f64 / h.all as f64;
                let e = Estimate::of(by_seed.iter().filter_map(|f| f.get(i)).filter(|h| h.all > 0).map(part));
                let interval = e.half.map(|_| (e.low().max(0.0), e.high()));
                (e.n > 0).then_some(Point { x: i as f64, y: e.mean, interval })
            };
            let points: Vec<Point> = (0..names.len()).filter_map(point).collect();
            if !points.is_empty() {
                shares.push(series(format!("{words} {rival}"), look, Shape::Bars(points)));
            }
        }
        let boxes = (0..names.len()).filter_map(|i| {
            let mut all: BTreeMap<u64, f64> = BTreeMap::new();
            for (factor, n) in by_seed.iter().filter_map(|f| f.get(i)).flat_map(|h| &h.changed) {
                *all.entry(*factor).or_default() += n;
            }
            let samples: Vec<(f64, f64)> = all.iter().map(|(k, n)| (*k as f64 / 1e3, *n)).collect();
            let five = weighted_quantiles(&samples, &QUARTILES.map(|l| l / 100.0));
            let five = five.try_into().ok().filter(|_| !samples.is_empty())?;
            Some(BoxPoint { x: i as f64, mean: weighted_mean(&samples), five, levels: QUARTILES })
        });
        let boxes: Vec<BoxPoint> = boxes.collect();
        if !boxes.is_empty() {
            factors.push(series(format!("against {rival}"), (*rival).to_owned(), Shape::Boxes(boxes)));
        }
    }
    factors.push(Series { label: "as fast".into(), look: "cap".into(), shape: Shape::Rule(1.0) });
    let seeds: std::collections::BTreeSet<u64> = runs.iter().map(|r| r.cell.summary.seed).collect();
    let n = seeds.len();
    let of = "Latency of each request under the other policy over its own under medes";
    let rest = format!("Dropped under either policy and left out: {left_out}. Rows: requests of each run.");
    [
        Figure {
            name: "improvement".into(),
            title: "End-to-end improvement factor by medes, of requests that change".into(),
            caption: format!(
                "{of}, where the two differ by more than 5 %; right of 1 medes is faster. Of such requests of {n} seeds together: \
                 stroke the median, diamond the mean, box the middle half, whiskers the 5th to 95th percentile. How many they are is \
                 in the other picture: the rest is as fast under either. {rest}"
            ),
            x: Axis::new("latency under the other policy / under medes", "times", Scale::Log),
            y: Axis::names("function", names.iter().cloned()),
            series: factors,
        },
        Figure {
            name: "changed".into(),
            title: "Requests that end sooner or later under medes".into(),
            caption: format!(
                "{of}: above 1.05 the request ends sooner under medes, under 0.95 later. Per thousand of all requests of the \
                 function; mean of {n} seeds, whiskers: 95 % confidence interval (Student's t). {rest}"
            ),
            x: Axis::from_zero("requests", "per thousand"),
            y: Axis::names("function", names.iter().cloned()),
            series: shares,
        },
    ]
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
                host: Vec::new(),
                notes: Vec::new(),
            }
        };
        let latency = |request, ms| Latency { request, function: 0, latency_ms: ms };
        let (medes, fixed) = (cell("medes"), cell("fixed"));
        // Request 2 was dropped by medes, request 4 by fixed.
        let runs = [
            Run {
                cell: &medes,
                requests: vec![
                    latency(1, 10.0),
                    latency(2, f64::NAN),
                    latency(3, 40.0),
                    latency(4, 1.0),
                    latency(5, 10.0),
                ],
            },
            Run { cell: &fixed, requests: vec![latency(1, 20.0), latency(2, 7.0), latency(3, 20.0), latency(5, 10.2)] },
        ];
        let [by, how_many] = figures(&runs, &["fixed"], 5.0, &["f".to_owned()]);
        let Shape::Boxes(boxes) = &by.series[0].shape else { panic!("no boxes") };
        assert_eq!((boxes[0].five[0], boxes[0].five[4], boxes[0].mean), (0.5, 2.0, 1.25));
        assert!(by.caption.contains("left out: 1."), "{}", by.caption);
        // Of three requests that have a latency under both one is as fast, one sooner, one later.
        let share = |i: usize| {
            let Shape::Bars(points) = &how_many.series[i].shape else { panic!("no bars") };
            (how_many.series[i].label.as_str(), points[0].y.round())
        };
        assert_eq!((share(0), share(1)), (("sooner than fixed", 333.0), ("later than fixed", 333.0)));
    }
}
