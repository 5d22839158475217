//! Dedup starts in their parts beside cold starts, function by function: the figure of the paper, from the rows of a run.

use std::collections::BTreeMap;

use medes_engine::record::StartSummary;

use super::{Plan, of_pool, push, sweep::pool_suffix};
use crate::figure::{Axis, Figure, Piece, Point, Series, Shape};
use crate::grid::Grid;

/// Parts of a dedup start, in the order of the bars, with their looks.
pub const PARTS: [(&str, &str); 4] = [
    ("controller and agent", "#8"),
    ("base page reading", "#5"),
    ("original page computing", "#4"),
    ("sandbox restoration", "#1"),
];

/// The parts of a mean dedup start as they follow each other, ms. Work of several threads is counted for each of them, so that
/// reading and computing share, as they do there, what the other parts leave of the start.
pub fn parts(s: &StartSummary) -> [f64; 4] {
    let pages = (s.start_ms - s.control_ms - s.resume_ms).max(0.0);
    let work = s.read_ms + s.patch_ms;
    let share = |part: f64| if work > 0.0 { pages * part / work } else { 0.0 };
    let rest = if work > 0.0 { 0.0 } else { pages };
    [s.control_ms, share(s.read_ms), share(s.patch_ms), s.resume_ms + rest]
}

/// A function's starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub function: String,
    /// A dedup start by [`PARTS`], ms.
    pub parts: [f64; 4],
    /// Its cold start, ms, if there was one.
    pub cold: Option<f64>,
}

/// The figure of some rows: stacked parts, and the cold start beside them. A part that no row has is left out.
pub fn figure(name: &str, title: String, caption: String, rows: &[Row]) -> Figure {
    let mut pieces: [Vec<Piece>; 4] = Default::default();
    let mut cold = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let x = i as f64;
        let mut at = 0.0;
        for (pieces, ms) in pieces.iter_mut().zip(row.parts) {
            pieces.push(Piece { x, from: at, to: at + ms });
            at += ms;
        }
        cold.extend(row.cold.map(|ms| Point::bare(x, ms)));
    }
    let stack = |(pieces, (label, look)): (Vec<Piece>, (&str, &str))| Series {
        label: label.into(),
        look: look.into(),
        shape: Shape::Stack(pieces),
    };
    let some = |(pieces, _): &(Vec<Piece>, _)| pieces.iter().any(|p| p.to > p.from);
    let mut series: Vec<Series> = pieces.into_iter().zip(PARTS).filter(some).map(stack).collect();
    series.push(Series { label: "cold start".into(), look: "fixed".into(), shape: Shape::Bars(cold) });
    Figure {
        name: name.into(),
        title,
        caption,
        x: Axis::from_zero("time", "ms"),
        y: Axis::names("function", rows.iter().map(|r| r.function.clone())),
        series,
    }
}

/// A figure a pool, of the policy with the most dedup starts; none where there is no dedup start.
pub fn broken_down(grid: &Grid<'_>, plan: &mut Plan) {
    for pool in &grid.pools {
        let count = |policy: &str| -> u64 {
            let runs = grid.runs(policy, pool);
            runs.iter().flat_map(|r| &r.starts).filter(|s| s.kind == "dedup").map(|s| s.count).sum()
        };
        let most = grid.policies.iter().map(|p| (count(p), *p)).max_by_key(|(starts, _)| *starts);
        let Some((_, policy)) = most.filter(|(starts, _)| *starts > 0) else { continue };
        let mut sums: BTreeMap<(&str, &str), (f64, StartSummary)> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        for s in grid.runs(policy, pool).into_iter().flat_map(|run| &run.starts) {
            if s.kind == "dedup" && !order.contains(&s.function.as_str()) {
                order.push(&s.function);
            }
            let (n, sum) = sums.entry((&s.function, &s.kind)).or_default();
            let weight = s.count as f64;
            *n += weight;
            sum.count += s.count;
            for (to, of) in [
                (&mut sum.control_ms, s.control_ms),
                (&mut sum.read_ms, s.read_ms),
                (&mut sum.patch_ms, s.patch_ms),
                (&mut sum.resume_ms, s.resume_ms),
                (&mut sum.start_ms, s.start_ms),
            ] {
                *to += weight * of;
            }
        }
        for (n, sum) in sums.values_mut() {
            for value in
                [&mut sum.control_ms, &mut sum.read_ms, &mut sum.patch_ms, &mut sum.resume_ms, &mut sum.start_ms]
            {
                *value /= *n;
            }
        }
        let rows: Vec<Row> = order
            .iter()
            .map(|function| Row {
                function: (*function).to_owned(),
                parts: sums.get(&(*function, "dedup")).map_or([0.0; 4], |(_, s)| parts(s)),
                cold: sums.get(&(*function, "cold")).map(|(_, s)| s.start_ms),
            })
            .collect();
        let starts: u64 = sums.iter().filter(|((_, kind), _)| *kind == "dedup").map(|(_, (_, s))| s.count).sum();
        let caption = format!(
            "Means of the {starts} dedup starts of {policy} and of its cold starts, without waiting; functions that had a dedup start. Reading \
             and computing go on in several threads and share the time that both took. Rows: starts of each run.{}",
            grid.setting_text(&[])
        );
        let title = format!("A dedup start in its parts, and the cold start{}", of_pool(pool));
        let figure = figure(&format!("start_parts{}", pool_suffix(grid, pool)), title, caption, &rows);
        push(plan, figure, "no dedup start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_start_however_many_threads_worked() {
        let s = StartSummary {
            control_ms: 1.0,
            read_ms: 6.0,
            patch_ms: 2.0,
            resume_ms: 3.0,
            start_ms: 8.0,
            ..StartSummary::default()
        };
        assert_eq!(parts(&s), [1.0, 3.0, 1.0, 3.0]);
        let alone = StartSummary { read_ms: 0.0, patch_ms: 0.0, ..s };
        assert_eq!(parts(&alone), [1.0, 0.0, 0.0, 7.0]);
    }
}
