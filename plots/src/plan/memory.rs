//! The memory of the cluster over time, and its distribution.

use super::{Plan, of_pool, push, seeds_text, series, sweep::pool_suffix};
use crate::CellData;
use crate::figure::{Axis, BoxPoint, Figure, Point, QUARTILES, Scale, Series, Shape};
use crate::grid::{Grid, Pool};
use crate::stats::{Estimate, weighted_mean, weighted_quantiles};

/// Most points of a line over time: more than the picture has room for would only blur it.
const POINTS: usize = 240;

/// The part of a run between two samples: middle and length, s, and mean memory, GB.
struct Stretch {
    middle: f64,
    length: f64,
    gb: f64,
}

fn stretches(run: &CellData) -> Vec<Stretch> {
    let mut from = 0.0;
    let stretch = |s: &medes_engine::record::TimelineSample| {
        let to = s.at.as_secs_f64();
        let stretch = Stretch { middle: (from + to) / 2.0, length: to - from, gb: s.mean_used.as_mb() / 1000.0 };
        from = to.max(from);
        stretch
    };
    run.timeline.iter().map(stretch).filter(|s| s.length > 0.0).collect()
}

/// The cap as a line, where it is not so high above the curves that they would lie flat under it.
fn cap(pool: &Pool, highest: f64) -> (Option<Series>, String) {
    let gb = pool.gb();
    if gb.is_infinite() {
        return (None, " There is no memory cap.".into());
    }
    if gb > 2.5 * highest {
        return (None, format!(" The memory cap, {}, lies far above the picture.", pool.label));
    }
    (Some(Series { label: "memory cap".into(), look: "cap".into(), shape: Shape::Rule(gb) }), String::new())
}

/// Memory over time, a figure a pool.
pub fn over_time(grid: &Grid<'_>, plan: &mut Plan) {
    for pool in &grid.pools {
        let runs: Vec<(&str, Vec<Vec<Stretch>>)> = runs_of(grid, pool);
        let all = || runs.iter().flat_map(|r| r.1.iter().flatten());
        let end = all().map(|s| s.middle + s.length / 2.0).fold(0.0, f64::max);
        let highest = all().map(|s| s.gb).fold(0.0, f64::max);
        let longest = runs.iter().flat_map(|r| r.1.iter().map(Vec::len)).max().unwrap_or(0);
        let (unit, seconds) = match end {
            e if e > 5.0 * 3600.0 => ("h", 3600.0),
            e if e > 600.0 => ("min", 60.0),
            _ => ("s", 1.0),
        };
        let buckets = longest.clamp(1, POINTS);
        let line = |(policy, runs): &(&str, Vec<Vec<Stretch>>)| {
            let by_run: Vec<Vec<f64>> = runs.iter().map(|r| bucketed(r, end, buckets)).collect();
            let points = (0..buckets).filter_map(|i| {
                let e = Estimate::of(by_run.iter().map(|r| r[i]));
                let middle = (i as f64 + 0.5) * end / buckets as f64 / seconds;
                (e.n > 0).then(|| Point::of(middle, e))
            });
            series(policy, points.collect(), Shape::Band)
        };
        let mut drawn: Vec<Series> = runs.iter().filter_map(line).collect();
        let (rule, cap_text) = cap(pool, highest);
        drawn.extend(rule.filter(|_| !drawn.is_empty()));
        let seeds: Vec<usize> = runs.iter().map(|r| r.1.len()).filter(|n| *n > 0).collect();
        let figure = Figure {
            name: format!("memory_over_time{}", pool_suffix(grid, pool)),
            title: format!("Cluster memory over time{}", of_pool(pool)),
            caption: format!(
                "Memory in use in the whole cluster, mean over each of {buckets} intervals.{cap_text} {} Rows: timeline of \
                 each run.{}",
                seeds_text(&seeds, "band"),
                grid.setting_text(&[])
            ),
            x: Axis::new("time since the start of the run", unit, Scale::Linear { zero: true }),
            y: Axis::from_zero("memory in use", "GB"),
            series: drawn,
        };
        push(plan, figure, "the cells have no timeline");
    }
}

/// The memory of a run in each of `n` equal parts of the time until `end`; NaN where it has no sample.
fn bucketed(run: &[Stretch], end: f64, n: usize) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); n];
    for s in run {
        let bucket = &mut sums[((s.middle / end * n as f64) as usize).min(n - 1)];
        bucket.0 += s.gb * s.length;
        bucket.1 += s.length;
    }
    sums.into_iter().map(|(sum, length)| sum / length).collect()
}

fn runs_of<'a>(grid: &Grid<'a>, pool: &Pool) -> Vec<(&'a str, Vec<Vec<Stretch>>)> {
    let of = |policy: &&'a str| {
        let runs = grid.runs(policy, pool).into_iter().map(stretches).filter(|r: &Vec<_>| !r.is_empty());
        (*policy, runs.collect())
    };
    grid.policies.iter().map(of).filter(|r: &(_, Vec<_>)| !r.1.is_empty()).collect()
}

/// The distribution of memory over time, a figure a pool: a box a policy.
pub fn distribution(grid: &Grid<'_>, plan: &mut Plan) {
    for pool in &grid.pools {
        let runs = runs_of(grid, pool);
        let names: Vec<&str> = runs.iter().map(|r| r.0).collect();
        let mut highest = 0.0_f64;
        let mut boxes: Vec<Series> = Vec::new();
        for (i, (policy, runs)) in runs.iter().enumerate() {
            let samples: Vec<(f64, f64)> = runs.iter().flatten().map(|s| (s.gb, s.length)).collect();
            let five = weighted_quantiles(&samples, &[0.05, 0.25, 0.5, 0.75, 0.95]);
            let five = [five[0], five[1], five[2], five[3], five[4]];
            highest = highest.max(five[4]);
            let one = BoxPoint { x: i as f64, mean: weighted_mean(&samples), five, levels: QUARTILES };
            boxes.push(Series::new(policy, Shape::Boxes(vec![one])));
        }
        let (rule, cap_text) = cap(pool, highest);
        boxes.extend(rule.filter(|_| !boxes.is_empty()));
        let seeds = runs.iter().map(|r| r.1.len()).max().unwrap_or(0);
        let figure = Figure {
            name: format!("memory_distribution{}", pool_suffix(grid, pool)),
            title: format!("Cluster memory{}", of_pool(pool)),
            caption: format!(
                "Spread over the time of a run, weighted by time: stroke the median, diamond the mean, box the middle half, \
                 whiskers the 5th to 95th percentile; {}.{cap_text} Rows: timeline of each run, mean of each sample's \
                 interval.{}",
                if seeds == 1 { "one seed".to_owned() } else { format!("the samples of {seeds} seeds together") },
                grid.setting_text(&[])
            ),
            x: Axis::new("memory in use", "GB", Scale::Linear { zero: false }),
            y: Axis::names("", names),
            series: boxes,
        };
        push(plan, figure, "the cells have no timeline");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medes_engine::record::TimelineSample;
    use medes_engine::units::{Bytes, Instant};

    #[test]
    fn samples_weigh_by_the_time_since_the_one_before() {
        let sample = |s: f64, gb: f64| TimelineSample {
            at: Instant::from_secs_f64(s),
            mean_used: Bytes::from_mb(gb * 1000.0),
            ..TimelineSample::default()
        };
        let run = CellData {
            timeline: vec![sample(10.0, 1.0), sample(10.0, 99.0), sample(40.0, 3.0)],
            ..CellData::default()
        };
        let s = stretches(&run);
        assert_eq!(s.iter().map(|s| (s.length, s.gb)).collect::<Vec<_>>(), [(10.0, 1.0), (30.0, 3.0)]);
        assert_eq!(bucketed(&s, 40.0, 1), [2.5]);
        assert!(bucketed(&s, 40.0, 4)[1].is_nan());
    }
}
