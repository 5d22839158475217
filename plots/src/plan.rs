//! Which figures the rows can give, and their descriptions.
//!
//! Where several pool sizes are swept, figures of one pool come once for each, with the pool in the file
//! name (`cold_per_function_20gb`). Where other parameters are swept too, they are drawn at the first value
//! of each, which the caption says, and every parameter has figures of its own.

mod frontier;
mod functions;
mod memory;
pub mod paper;
pub mod starts;
mod sweep;

use crate::CellData;
use crate::figure::{Figure, Scale, Series};
use crate::grid::{Grid, Pool};

/// The figures to draw, and those left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order of the report.
    pub figures: Vec<Figure>,
    /// What was left out and why, one sentence each.
    pub skipped: Vec<String>,
}

/// The figures that `cells` have the rows for.
pub fn plan(cells: &[CellData]) -> Plan {
    let mut plan = Plan::default();
    if cells.is_empty() {
        plan.skipped.push("No figure was drawn: there are no cells.".into());
        return plan;
    }
    let grid = Grid::new(cells);
    sweep::cold_by_pool(&grid, &mut plan);
    functions::per_function(&grid, &mut plan);
    starts::broken_down(&grid, &mut plan);
    memory::over_time(&grid, &mut plan);
    memory::distribution(&grid, &mut plan);
    sweep::by_parameter(&grid, &mut plan);
    frontier::frontier(&grid, &mut plan);
    plan
}

/// A scale for values that have to be read: logarithmic if all are above zero and the largest is more
/// than `span` times the smallest, else in proportion from zero.
fn scale(values: impl IntoIterator<Item = f64>, span: f64) -> Scale {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for v in values.into_iter().filter(|v| v.is_finite()) {
        (low, high) = (low.min(v), high.max(v));
    }
    if low > 0.0 && high > span * low { Scale::Log } else { Scale::Linear { zero: true } }
}

/// ", pool of 20 GB" for a title, not to be broken between number and unit.
fn of_pool(pool: &Pool) -> String {
    match pool.gb() {
        gb if gb.is_finite() => format!(", pool of {}", pool.label.replace(' ', "\u{a0}")),
        _ => ", no memory cap".into(),
    }
}

/// Who was averaged over what, for a caption: seeds of the runs and the meaning of `what` ("whiskers").
fn seeds_text(runs: &[usize], what: &str) -> String {
    let (least, most) = (runs.iter().min().copied().unwrap_or(0), runs.iter().max().copied().unwrap_or(0));
    match (least, most) {
        (_, 0) => "No run.".into(),
        (_, 1) => "One seed, so no interval.".into(),
        (l, m) if l == m => format!("Mean of {m} seeds; {what}: 95 % confidence interval (Student's t)."),
        (l, m) => format!("Mean of {l} to {m} seeds; {what}: 95 % confidence interval (Student's t) where several."),
    }
}

/// The figure, unless it has no series.
fn push(plan: &mut Plan, figure: Figure, why_not: &str) {
    if figure.series.is_empty() {
        plan.skipped.push(format!("{}: left out, {why_not}.", figure.title));
    } else {
        plan.figures.push(figure);
    }
}

/// A series of a policy, if it has any points.
fn series<T>(policy: &str, points: Vec<T>, shape: impl FnOnce(Vec<T>) -> crate::figure::Shape) -> Option<Series> {
    (!points.is_empty()).then(|| Series::new(policy, shape(points)))
}
