//! What each policy reaches: memory against latency and against cold starts.

use super::{Plan, push, scale, seeds_text, series};
use crate::CellData;
use crate::figure::{Axis, Figure, Point, Scale, Shape};
use crate::grid::{Grid, estimate};

/// Mean memory against the 99th percentile of the start and against cold starts, a point a cell.
pub fn frontier(grid: &Grid<'_>, plan: &mut Plan) {
    let latency = |c: &CellData| c.summary.start_p99_ms;
    let cold = |c: &CellData| c.summary.cold as f64;
    one(
        grid,
        "frontier_latency",
        "Start latency against memory",
        ("99th percentile start latency", "ms"),
        latency,
        plan,
    );
    one(grid, "frontier_cold", "Cold starts against memory", ("cold starts", ""), cold, plan);
}

fn one(
    grid: &Grid<'_>,
    name: &str,
    title: &str,
    (label, unit): (&str, &str),
    value: fn(&CellData) -> f64,
    plan: &mut Plan,
) {
    let settings = grid.settings();
    // Pools of one setting make a line; points of many settings would make a tangle.
    let joined = settings.len() == 1 && grid.pools.len() > 1;
    let (mut seeds, mut values) = (Vec::new(), Vec::new());
    let mut at_pool = false;
    let mut drawn = Vec::new();
    for policy in &grid.policies {
        let mut points: Vec<Point> = Vec::new();
        for (pool, setting) in grid.pools.iter().flat_map(|p| settings.iter().map(move |s| (p, s))) {
            let runs = grid.runs_with(policy, pool, setting);
            let memory = estimate(&runs, |c| c.summary.mean_memory_mb / 1000.0).mean;
            // A bound without a plan holds no memory of its own: it stands at what it may fill.
            let x = match memory > 0.0 {
                true => memory,
                false if *policy == "oracle" && name == "frontier_cold" => {
                    at_pool = true;
                    pool.gb()
                }
                false => f64::NAN,
            };
            let y = estimate(&runs, value);
            let point = Point::of(x, y);
            // A policy without the parameter is found again at every value of it.
            if x.is_finite() && y.n > 0 && !points.contains(&point) {
                seeds.push(runs.len());
                values.push(y.mean);
                points.push(point);
            }
        }
        drawn.extend(series(policy, points, if joined { Shape::Line } else { Shape::Scatter }));
    }
    let bound = match (grid.policies.contains(&"oracle"), at_pool) {
        (false, _) => "",
        (true, true) => " 'oracle' is a computed bound on cold starts and stands at the size of the pool.",
        (true, false) => {
            " 'oracle' is a computed bound on cold starts; its memory and its latency are those of the plan behind the bound, which no \
             schedule need reach. Where memory does not limit it, its points are one."
        }
    };
    let what = match unit {
        "ms" => " Start latency is waiting and starting, without the run.",
        _ => "",
    };
    let figure = Figure {
        name: name.into(),
        title: title.into(),
        caption: format!(
            "A point for each pool{}; nearer to the lower left is better. {}{bound}{what} Rows: summary of each run.",
            if settings.len() > 1 {
                " and setting"
            } else if joined {
                ", the smallest first along each line"
            } else {
                ""
            },
            seeds_text(&seeds, "whiskers"),
        ),
        x: Axis::new("mean memory in use", "GB", Scale::Linear { zero: false }),
        y: Axis::new(label, unit, scale(values, 20.0)),
        series: drawn,
    };
    push(plan, figure, "no run has both values");
}
