//! Cold starts against pool size, and against every other parameter that was swept.

use super::{Plan, of_pool, push, scale, seeds_text, series};
use crate::CellData;
use crate::figure::{Axis, Figure, Point, Scale, Series, Shape, file_stem};
use crate::grid::{Grid, Parameter, Pool, estimate};

/// Cold starts against the memory of the cluster: a line a policy, or bars where there is one pool. Where
/// both the cap and the number of nodes were swept, one figure a number of nodes.
pub fn cold_by_pool(grid: &Grid<'_>, plan: &mut Plan) {
    let capped: Vec<&Pool> = grid.pools.iter().filter(|p| p.gb().is_finite()).collect();
    if grid.pools.len() == 1 {
        return cold_by_policy(grid, &grid.pools[0], plan);
    }
    let mut nodes: Vec<u32> = capped.iter().map(|p| p.nodes).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let many = nodes.iter().any(|n| capped.iter().filter(|p| p.nodes == *n).count() > 1) && nodes.len() > 1;
    if !many {
        return cold_by_pools(grid, &capped, "", "", plan);
    }
    for n in nodes {
        let pools: Vec<&Pool> = capped.iter().copied().filter(|p| p.nodes == n).collect();
        cold_by_pools(grid, &pools, &format!("_{n}nodes"), &format!(", {n} nodes"), plan);
    }
}

fn cold_by_pools(grid: &Grid<'_>, pools: &[&Pool], stem: &str, title: &str, plan: &mut Plan) {
    let mut seeds = Vec::new();
    let mut means = Vec::new();
    let mut line = |policy: &&str| {
        let points = pools.iter().filter_map(|pool| {
            let runs = grid.runs(policy, pool);
            let cold = estimate(&runs, |c| c.summary.cold as f64);
            seeds.push(runs.len());
            means.push(cold.mean);
            (cold.n > 0).then(|| Point::of(pool.gb(), cold))
        });
        series(policy, points.collect(), Shape::Line)
    };
    let drawn: Vec<Series> = grid.policies.iter().filter_map(&mut line).collect();
    seeds.retain(|n| *n > 0);
    let y = scale(means, 12.0);
    let uncapped = match grid.pools.iter().all(|p| p.gb().is_finite()) {
        true => "",
        false => " Runs without a cap have no place on the axis.",
    };
    let figure = Figure {
        name: format!("cold_by_pool{stem}"),
        title: format!("Cold starts against pool size{title}"),
        caption: format!(
            "Requests answered by a cold start, over the memory of the whole cluster (memory cap of a node times number \
             of nodes). {}{uncapped} Rows: summary of each run.{}",
            seeds_text(&seeds, "whiskers"),
            grid.setting_text(&[])
        ),
        x: Axis::new("pool size", "GB", Scale::At { values: pools.iter().map(|p| p.gb()).collect(), log: false }),
        y: Axis::new("cold starts", "", y),
        series: drawn,
    };
    push(plan, figure, "every pool is without a cap");
}

/// A bar a policy, for the one pool there is.
fn cold_by_policy(grid: &Grid<'_>, pool: &Pool, plan: &mut Plan) {
    let bar = |(i, policy): (usize, &&str)| {
        let cold = estimate(&grid.runs(policy, pool), |c| c.summary.cold as f64);
        series(policy, vec![Point::of(i as f64, cold)], Shape::Bars)
    };
    let runs: Vec<usize> = grid.policies.iter().map(|p| grid.runs(p, pool).len()).filter(|n| *n > 0).collect();
    let figure = Figure {
        name: "cold_by_pool".into(),
        title: format!("Cold starts{}", of_pool(pool)),
        caption: format!(
            "Requests answered by a cold start; one pool size was run. {} Rows: summary of each run.{}",
            seeds_text(&runs, "whiskers"),
            grid.setting_text(&[])
        ),
        x: Axis::from_zero("cold starts", ""),
        y: Axis::names("", grid.policies.iter().copied()),
        series: grid.policies.iter().enumerate().filter_map(bar).collect(),
    };
    push(plan, figure, "no run");
}

/// What is drawn against a parameter: stem and words, unit, value of a run.
type Measure = (&'static str, &'static str, &'static str, fn(&CellData) -> f64);

const COLD: Measure = ("cold", "cold starts", "", |c| c.summary.cold as f64);
const MEMORY: Measure = ("memory", "mean memory", "GB", |c| c.summary.mean_memory_mb / 1000.0);
const START: Measure = ("dedup_start", "mean dedup start", "ms", |c| c.summary.dedup_start_ms);

/// Cold starts, memory and the mean dedup start against each swept parameter by itself, in the pool that most cells are of; against
/// the number of nodes where it is swept, the pool staying the same.
pub fn one_at_a_time(grid: &Grid<'_>, plan: &mut Plan) {
    let of = |pool: &&Pool| grid.cells.iter().filter(|c| pool.is_of(c)).count();
    let Some(pool) = grid.pools.iter().max_by_key(of) else { return };
    for parameter in &grid.parameters {
        for measure in [&COLD, &MEMORY, &START] {
            one_parameter(grid, parameter, pool, measure, plan);
        }
    }
    let mut same: Vec<&Pool> = grid.pools.iter().filter(|p| (p.gb() / pool.gb() - 1.0).abs() < 1e-3).collect();
    same.sort_by_key(|p| p.nodes);
    if same.len() > 1 {
        for measure in [&COLD, &MEMORY, &START] {
            by_nodes(grid, &same, measure, plan);
        }
    }
    let of_these_nodes = |p: &&Pool| p.nodes == pool.nodes;
    let sizes: Vec<&Pool> = grid.pools.iter().filter(of_these_nodes).collect();
    if sizes.len() > 1 {
        cold_by_pools(grid, &sizes, "", "", plan);
    }
}

fn by_nodes(grid: &Grid<'_>, pools: &[&Pool], measure: &Measure, plan: &mut Plan) {
    let (stem, words, unit, value) = *measure;
    let mut seeds = Vec::new();
    let mut line = |policy: &&str| {
        let points = pools.iter().filter_map(|pool| {
            let runs = grid.runs(policy, pool);
            let value = estimate(&runs, value);
            seeds.push(runs.len());
            (value.n > 0).then(|| Point::of(f64::from(pool.nodes), value))
        });
        series(policy, points.collect(), Shape::Line)
    };
    let drawn: Vec<Series> = grid.policies.iter().filter_map(&mut line).collect();
    seeds.retain(|n| *n > 0);
    let nodes: Vec<f64> = pools.iter().map(|p| f64::from(p.nodes)).collect();
    let means = drawn.iter().flat_map(|s| match &s.shape {
        Shape::Line(points) => points.iter().map(|p| p.y).collect(),
        _ => Vec::new(),
    });
    let y = Axis::new(words, unit, scale(means.collect::<Vec<f64>>(), 12.0));
    let figure = Figure {
        name: format!("{stem}_by_nodes"),
        title: format!("{}{} against the number of nodes", words[..1].to_uppercase(), &words[1..]),
        caption: format!(
            "The memory of the cluster stays the same, {} in all, in fewer or more nodes. {} Rows: summary of each run.{}",
            crate::number::trimmed(pools[0].gb()) + "\u{a0}GB",
            seeds_text(&seeds, "whiskers"),
            grid.setting_text(&[])
        ),
        x: Axis::new("nodes", "", places(&nodes)),
        y,
        series: drawn,
    };
    push(plan, figure, "no run");
}

/// Cold starts and mean memory against each swept parameter, in each pool; and the surface that two of
/// them span, for `medes`.
pub fn by_parameter(grid: &Grid<'_>, plan: &mut Plan) {
    for parameter in &grid.parameters {
        for pool in &grid.pools {
            for measure in &[COLD, MEMORY] {
                one_parameter(grid, parameter, pool, measure, plan);
            }
        }
    }
    surfaces(grid, &[COLD], plan);
}

/// Cold starts and memory over each two of the swept parameters, for `medes`.
pub fn cold_and_memory_surfaces(grid: &Grid<'_>, plan: &mut Plan) {
    surfaces(grid, &[COLD, MEMORY], plan);
}

fn surfaces(grid: &Grid<'_>, measures: &[Measure], plan: &mut Plan) {
    for (i, second) in grid.parameters.iter().enumerate() {
        for first in &grid.parameters[..i] {
            for pool in grid.pools.iter().filter(|_| grid.policies.contains(&"medes")) {
                for measure in measures {
                    surface(grid, [first, second], pool, measure, plan);
                }
            }
        }
    }
}

fn one_parameter(grid: &Grid<'_>, parameter: &Parameter, pool: &Pool, measure: &Measure, plan: &mut Plan) {
    let (stem, words, unit, value) = *measure;
    let numbers = parameter.numbers();
    let place = |i: usize| numbers.as_ref().map_or(i as f64, |n| n[i]);
    let mut runs_of = Vec::new();
    let mut line = |policy: &&str| {
        let points = parameter.values.iter().enumerate().filter_map(|(i, v)| {
            let runs = grid.runs_with(policy, pool, &[(&parameter.name, v)]);
            runs_of.push(runs.len());
            let value = estimate(&runs, value);
            (value.n > 0).then(|| Point::of(place(i), value))
        });
        let shape = if numbers.is_some() { Shape::Line } else { Shape::Bars };
        series(policy, points.collect(), shape)
    };
    let drawn: Vec<Series> = grid.policies.iter().filter_map(&mut line).collect();
    runs_of.retain(|n| *n > 0);
    let x = match &numbers {
        Some(n) => Axis::new(&parameter.name, unit_of(&parameter.name), places(n)),
        None => Axis::names(&parameter.name, parameter.values.iter().cloned()),
    };
    let suffix = pool_suffix(grid, pool);
    let title = format!("{}{} against {}{}", words[..1].to_uppercase(), &words[1..], parameter.name, of_pool(pool));
    let figure = Figure {
        name: format!("{stem}_by_{}{suffix}", file_stem(&parameter.name)),
        title,
        caption: format!(
            "{} Rows: summary of each run.{}",
            seeds_text(&runs_of, "whiskers"),
            grid.setting_text(&[&parameter.name])
        ),
        x,
        y: Axis::from_zero(words, unit),
        series: drawn,
    };
    push(plan, figure, "no run");
}

/// A value of `medes` over two parameters.
fn surface(grid: &Grid<'_>, [p, q]: [&Parameter; 2], pool: &Pool, measure: &Measure, plan: &mut Plan) {
    let (stem, words, unit, value) = *measure;
    let mut cells = Vec::new();
    let mut seeds = Vec::new();
    for (i, a) in p.values.iter().enumerate() {
        for (j, b) in q.values.iter().enumerate() {
            let runs = grid.runs_with("medes", pool, &[(&p.name, a), (&q.name, b)]);
            if !runs.is_empty() {
                seeds.push(runs.len());
                cells.push((i, j, estimate(&runs, value).mean));
            }
        }
    }
    let label = if unit.is_empty() { words.to_owned() } else { format!("{words}, {unit}") };
    let shape = |cells| Shape::Heat { cells, label };
    let stem = if stem == "cold" { String::new() } else { format!("{stem}_") };
    let figure = Figure {
        name: format!("surface_{stem}{}_{}{}", file_stem(&p.name), file_stem(&q.name), pool_suffix(grid, pool)),
        title: format!("{}{} of medes{}", words[..1].to_uppercase(), &words[1..], of_pool(pool)),
        caption: format!(
            "Mean over {} seeds at each setting of {} and {}. Rows: summary of each run.{}",
            seeds.iter().min().copied().unwrap_or(0),
            p.name,
            q.name,
            grid.setting_text(&[&p.name, &q.name])
        ),
        x: named_axis(p),
        y: named_axis(q),
        series: series("medes", cells, shape).into_iter().collect(),
    };
    push(plan, figure, "no run of medes");
}

fn named_axis(p: &Parameter) -> Axis {
    Axis { unit: unit_of(&p.name).into(), ..Axis::names(&p.name, p.values.iter().cloned()) }
}

/// The pool as the end of a file name, where there are several.
pub fn pool_suffix(grid: &Grid<'_>, pool: &Pool) -> String {
    if grid.pools.len() > 1 { format!("_{}", pool.stem()) } else { String::new() }
}

/// Marks at the swept values; logarithmic where they span more than a decade.
fn places(values: &[f64]) -> Scale {
    let log = matches!(scale(values.iter().copied(), 10.0), Scale::Log);
    Scale::At { values: values.to_vec(), log }
}

/// Units of the parameters that have one.
fn unit_of(parameter: &str) -> &'static str {
    match parameter {
        "patchthreshold" => "B",
        "idletime" | "keepalive" | "keepdedup" => "s",
        "reuseperiod" => "ms",
        "window" => "min",
        "network_latency" => "µs",
        "network_bandwidth" => "Gbit/s",
        _ => "",
    }
}
