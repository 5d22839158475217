//! The figures of the paper's evaluation that are drawn from rows of runs, one kind each, so that an experiment can
//! ask for the one it is made for.

use super::{Plan, frontier, functions, memory, sweep};
use crate::CellData;
use crate::grid::Grid;

/// What is drawn of an experiment's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cold starts of each function, a figure a pool.
    ColdPerFunction,
    /// 99.9th percentile end-to-end latency of each function, a figure a pool.
    TailPerFunction,
    /// Both of these.
    PerFunction,
    /// Memory of the cluster: its distribution over time, a figure a pool.
    Memory,
    /// Cold starts against the memory of the cluster.
    ColdByPool,
    /// Cold starts, memory and the mean dedup start against each swept parameter by itself.
    Parameters,
    /// Cold starts and memory over two swept parameters.
    Surface,
    /// Memory against the 99th percentile of the start and against cold starts, a line a policy.
    Frontier,
}

/// The figures of this kind that `cells` have the rows for.
pub fn of_kind(kind: Kind, cells: &[CellData]) -> Plan {
    let mut plan = Plan::default();
    if cells.is_empty() {
        plan.skipped.push("No figure was drawn: there are no cells.".into());
        return plan;
    }
    let grid = Grid::new(cells);
    match kind {
        Kind::ColdPerFunction => functions::cold_per_function(&grid, &mut plan),
        Kind::TailPerFunction => functions::tail_per_function(&grid, &mut plan),
        Kind::PerFunction => functions::per_function(&grid, &mut plan),
        Kind::Memory => memory::distribution(&grid, &mut plan),
        Kind::ColdByPool => sweep::cold_by_pool(&grid, &mut plan),
        Kind::Parameters => sweep::one_at_a_time(&grid, &mut plan),
        Kind::Surface => sweep::cold_and_memory_surfaces(&grid, &mut plan),
        Kind::Frontier => frontier::frontier(&grid, &mut plan),
    }
    plan
}
