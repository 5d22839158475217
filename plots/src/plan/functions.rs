//! Cold starts and the slowest answers, function by function.

use std::collections::{BTreeMap, BTreeSet};

use medes_engine::record::FunctionSummary;

use super::{Plan, of_pool, push, scale, seeds_text, series, sweep::pool_suffix};
use crate::figure::{Axis, Category, Figure, Point, Scale, Series, Shape};
use crate::grid::{Grid, Pool};
use crate::number;
use crate::stats::{Estimate, weighted_quantiles};

/// Functions that still have a place each; with more, [`TOP`] of them do.
const ALL_UP_TO: usize = 12;
/// How many of the most requested functions are drawn where there are too many.
const TOP: usize = 10;

/// Which functions are drawn: the same in every figure of an experiment.
struct Chosen {
    /// Full names, in the order of the axis.
    names: Vec<String>,
    /// How many are drawn together as the rest.
    rest: usize,
    /// Whether some of them had too few requests for a 99.9th percentile.
    few: bool,
}

/// Cold starts and 99.9th percentile latency of each function: two figures a pool.
pub fn per_function(grid: &Grid<'_>, plan: &mut Plan) {
    cold_per_function(grid, plan);
    tail_per_function(grid, plan);
}

/// Cold starts of each function, a figure a pool.
pub fn cold_per_function(grid: &Grid<'_>, plan: &mut Plan) {
    each_pool(grid, plan, cold);
}

/// 99.9th percentile latency of each function, a figure a pool.
pub fn tail_per_function(grid: &Grid<'_>, plan: &mut Plan) {
    each_pool(grid, plan, latency);
}

fn each_pool(grid: &Grid<'_>, plan: &mut Plan, draw: fn(&Grid<'_>, &Chosen, &Pool, &mut Plan)) {
    let chosen = choose(grid);
    if chosen.names.is_empty() {
        let why = "Figures per function: left out, the cells have no rows of functions.";
        if !plan.skipped.iter().any(|s| s == why) {
            plan.skipped.push(why.into());
        }
        return;
    }
    for pool in &grid.pools {
        draw(grid, &chosen, pool, plan);
    }
}

fn choose(grid: &Grid<'_>) -> Chosen {
    // Requests and the order of first appearance, which is that of the experiment.
    let mut found: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    let mut few: BTreeSet<&str> = BTreeSet::new();
    for f in grid.cells.iter().flat_map(|c| &c.functions) {
        let next = found.len();
        let entry = found.entry(&f.function).or_insert((0, next));
        entry.0 = entry.0.saturating_add(f.requests);
        if f.requests < 1000 {
            few.insert(&f.function);
        }
    }
    let mut names: Vec<(&str, u64, usize)> = found.iter().map(|(n, (requests, at))| (*n, *requests, *at)).collect();
    if names.len() > ALL_UP_TO {
        names.sort_by(|a, b| b.1.cmp(&a.1).then(a.2.cmp(&b.2)));
        names.truncate(TOP);
    } else {
        names.sort_by_key(|n| n.2);
    }
    Chosen {
        rest: found.len() - names.len(),
        few: names.iter().any(|n| few.contains(n.0)),
        names: names.into_iter().map(|n| n.0.to_owned()).collect(),
    }
}

impl Chosen {
    fn axis(&self) -> Axis {
        let mut categories: Vec<Category> = Vec::new();
        for name in &self.names {
            let mut label = shortened(name);
            if categories.iter().any(|c| c.label == label) {
                label = format!("{label} #{}", categories.len() + 1);
            }
            categories.push(Category { label, name: name.clone() });
        }
        if self.rest > 0 {
            let label = format!("rest ({})", number::count(self.rest as f64));
            categories.push(Category { name: label.clone(), label });
        }
        Axis::new("function", "", Scale::Category(categories))
    }

    fn selection_text(&self, rest: &str) -> String {
        match self.rest {
            0 => String::new(),
            n => format!(
                " The {TOP} functions with the most requests; 'rest' is {rest} of the other {}.",
                number::count(n as f64)
            ),
        }
    }
}

/// A name that fits beside an axis: its first and last letters.
fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= 19 {
        return name.to_owned();
    }
    let part = |range: &[char]| range.iter().collect::<String>();
    format!("{}…{}", part(&letters[..6]), part(&letters[letters.len() - 6..]))
}

/// A value of each function and of the rest, a series of bars a policy. `of_rest` sums the rest's rows up.
fn bars(
    grid: &Grid<'_>,
    chosen: &Chosen,
    pool: &Pool,
    value: fn(&FunctionSummary) -> f64,
    of_rest: fn(Vec<f64>) -> f64,
) -> (Vec<Series>, Vec<usize>) {
    let mut seeds = Vec::new();
    let places: BTreeMap<&str, usize> = chosen.names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let slots = chosen.names.len() + usize::from(chosen.rest > 0);
    let mut bars_of = |policy: &&str| {
        let runs = grid.runs(policy, pool);
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); slots];
        for run in &runs {
            let mut rest = Vec::new();
            for f in &run.functions {
                match places.get(f.function.as_str()) {
                    Some(i) => values[*i].push(value(f)),
                    None => rest.push(value(f)),
                }
            }
            if chosen.rest > 0 {
                values[slots - 1].push(of_rest(rest));
            }
        }
        let points: Vec<Point> = values
            .into_iter()
            .enumerate()
            .map(|(i, v)| (i, Estimate::of(v)))
            .filter(|(_, e)| e.n > 0)
            .map(|(i, e)| Point::of(i as f64, e))
            .collect();
        if !points.is_empty() {
            seeds.push(runs.len());
        }
        series(policy, points, Shape::Bars)
    };
    let drawn = grid.policies.iter().filter_map(&mut bars_of).collect();
    (drawn, seeds)
}

fn means(series: &[Series]) -> Vec<f64> {
    let of = |s: &Series| match &s.shape {
        Shape::Bars(points) => points.iter().map(|p| p.y).collect(),
        _ => Vec::new(),
    };
    series.iter().flat_map(of).collect()
}

fn cold(grid: &Grid<'_>, chosen: &Chosen, pool: &Pool, plan: &mut Plan) {
    let sum = |values: Vec<f64>| values.iter().sum();
    let (series, seeds) = bars(grid, chosen, pool, |f| f.cold as f64, sum);
    // Counts of none have no bar on either scale, so they do not forbid the logarithmic one.
    let scale = scale(means(&series).into_iter().filter(|v| *v > 0.0), 50.0);
    let none = if scale == Scale::Log { " No bar: no cold start." } else { "" };
    let figure = Figure {
        name: format!("cold_per_function{}", pool_suffix(grid, pool)),
        title: format!("Cold starts per function{}", of_pool(pool)),
        caption: format!(
            "Requests answered by a cold start. {}{}{none} Rows: functions of each run.{}",
            seeds_text(&seeds, "whiskers"),
            chosen.selection_text("the sum"),
            grid.setting_text(&[])
        ),
        x: Axis::new("cold starts", "", scale),
        y: chosen.axis(),
        series,
    };
    push(plan, figure, "no run with rows of functions");
}

fn latency(grid: &Grid<'_>, chosen: &Chosen, pool: &Pool, plan: &mut Plan) {
    let median = |values: Vec<f64>| {
        let weighted: Vec<(f64, f64)> = values.into_iter().map(|v| (v, 1.0)).collect();
        weighted_quantiles(&weighted, &[0.5])[0]
    };
    let (series, seeds) = bars(grid, chosen, pool, |f| f.p999_ms, median);
    let scale = scale(means(&series), 20.0);
    let few = match chosen.few {
        true => " With fewer than 1000 answers the percentile is close to or at the slowest one.",
        false => "",
    };
    let figure = Figure {
        name: format!("p999_per_function{}", pool_suffix(grid, pool)),
        title: format!("99.9th percentile latency per function{}", of_pool(pool)),
        caption: format!(
            "End-to-end latency (wait, start and run) of all answered requests; dropped requests have none. {}{}{few} \
             Rows: functions of each run.{}",
            seeds_text(&seeds, "whiskers"),
            chosen.selection_text("the median of the percentiles"),
            grid.setting_text(&[])
        ),
        x: Axis::new("99.9th percentile end-to-end latency", "ms", scale),
        y: chosen.axis(),
        series,
    };
    push(plan, figure, "no request was answered");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shortened("FeatureGen"), "FeatureGen");
        assert_eq!(shortened("0123456789abcdef0123456789abcdef"), "012345…abcdef");
        assert_eq!(shortened(&"ü".repeat(40)), "üüüüüü…üüüüüü");
    }
}
