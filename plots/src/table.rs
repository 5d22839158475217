//! The table of an experiment: a row for each pool, policy and setting, means over seeds. The report shows
//! it and so does the tool on a terminal.

use crate::CellData;
use crate::grid::{Grid, Pool, estimate};
use crate::number::{count, percent, short};
use crate::stats::Estimate;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the policy.
    pub policy: String,
    /// The memory of the cluster.
    pub pool: Pool,
    /// Values of the swept parameters, in the order of [`Table::parameters`].
    pub setting: Vec<String>,
    /// Number of seeds.
    pub seeds: usize,
    /// Requests that arrived, a run.
    pub requests: Estimate,
    /// Cold starts, a run.
    pub cold: Estimate,
    /// Part of the requests answered by a cold start, 0 to 1.
    pub cold_part: Estimate,
    /// Dedup starts, a run.
    pub dedup: Estimate,
    /// Warm starts, a run.
    pub warm: Estimate,
    /// Requests that waited for memory, a run.
    pub queued: Estimate,
    /// Requests dropped or failed, a run.
    pub dropped: Estimate,
    /// Sandboxes evicted, a run.
    pub evictions: Estimate,
    /// Median end-to-end latency, ms.
    pub p50_ms: Estimate,
    /// 99th percentile end-to-end latency, ms.
    pub p99_ms: Estimate,
    /// 99.9th percentile end-to-end latency, ms.
    pub p999_ms: Estimate,
    /// Memory of the cluster, mean over time, GB.
    pub mean_memory_gb: Estimate,
    /// Memory of the cluster, largest at any instant, GB.
    pub max_memory_gb: Estimate,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Names of the swept parameters.
    pub parameters: Vec<String>,
    /// By pool, then setting, then policy.
    pub rows: Vec<Row>,
}

impl Table {
    /// The table of `cells`.
    pub fn new(cells: &[CellData]) -> Self {
        let grid = Grid::new(cells);
        let settings = grid.settings();
        let mut rows = Vec::new();
        for pool in &grid.pools {
            for setting in &settings {
                for policy in &grid.policies {
                    let runs = grid.runs_with(policy, pool, setting);
                    let values = setting.iter().map(|s| s.1.to_owned()).collect();
                    rows.extend((!runs.is_empty()).then(|| Row::new(policy, pool, values, &runs)));
                }
            }
        }
        Self { parameters: grid.parameters.iter().map(|p| p.name.clone()).collect(), rows }
    }

    /// The heads of the columns, with units.
    pub fn head(&self) -> Vec<String> {
        let fixed = [
            "seeds",
            "requests",
            "cold starts",
            "cold share",
            "dedup starts",
            "warm starts",
            "waited",
            "dropped",
            "evictions",
            "p50 (ms)",
            "p99 (ms)",
            "p99.9 (ms)",
            "mean memory (GB)",
            "max memory (GB)",
        ];
        let first = ["pool", "policy"].map(String::from).into_iter();
        first.chain(self.parameters.iter().cloned()).chain(fixed.map(String::from)).collect()
    }

    /// The rows as text, as wide as [`Self::head`].
    pub fn text(&self) -> Vec<Vec<String>> {
        self.rows.iter().map(Row::text).collect()
    }
}

impl Row {
    fn new(policy: &str, pool: &Pool, setting: Vec<String>, runs: &[&CellData]) -> Self {
        let of = |value: fn(&CellData) -> f64| estimate(runs, value);
        // No answer takes no time and no run no memory: a zero there is a row without them, as of a bound.
        let known = |value: fn(&CellData) -> f64| estimate(runs, |c| if value(c) > 0.0 { value(c) } else { f64::NAN });
        Self {
            policy: policy.to_owned(),
            pool: pool.clone(),
            setting,
            seeds: runs.len(),
            requests: of(|c| c.summary.requests as f64),
            cold: of(|c| c.summary.cold as f64),
            cold_part: of(|c| c.summary.cold as f64 / c.summary.requests as f64),
            dedup: of(|c| c.summary.dedup as f64),
            warm: of(|c| c.summary.warm as f64),
            queued: of(|c| c.summary.queued as f64),
            dropped: of(|c| c.summary.dropped as f64 + c.summary.failed as f64),
            evictions: of(|c| c.summary.evictions as f64),
            p50_ms: known(|c| c.summary.p50_ms),
            p99_ms: known(|c| c.summary.p99_ms),
            p999_ms: known(|c| c.summary.p999_ms),
            mean_memory_gb: known(|c| c.summary.mean_memory_mb / 1000.0),
            max_memory_gb: known(|c| c.summary.max_memory_mb / 1000.0),
        }
    }

    fn text(&self) -> Vec<String> {
        let mut cells = vec![self.pool.label.clone(), self.policy.clone()];
        cells.extend(self.setting.iter().cloned());
        cells.extend([
            self.seeds.to_string(),
            count(self.requests.mean),
            with_interval(&self.cold),
            percent(self.cold_part.mean),
            count(self.dedup.mean),
            count(self.warm.mean),
            count(self.queued.mean),
            count(self.dropped.mean),
            count(self.evictions.mean),
            short(self.p50_ms.mean),
            short(self.p99_ms.mean),
            short(self.p999_ms.mean),
            short(self.mean_memory_gb.mean),
            short(self.max_memory_gb.mean),
        ]);
        cells
    }
}

/// A mean count with its 95 % interval: `1180 [1104, 1256]`; the lower end is not drawn below zero.
pub fn with_interval(e: &Estimate) -> String {
    match e.half {
        Some(_) => format!("{} [{}, {}]", count(e.mean), count(e.low().max(0.0)), count(e.high())),
        None => count(e.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_wide_as_the_head_and_show_the_interval() {
        let cell = |seed, cold| {
            let mut c = CellData::default();
            c.summary.policy = "fixed".into();
            (c.summary.memcap_mb, c.summary.nodes, c.summary.seed) = (1000.0, 20, seed);
            (c.summary.requests, c.summary.cold, c.summary.p999_ms) = (20_000, cold, f64::NAN);
            c
        };
        let table = Table::new(&[cell(1, 90), cell(2, 110)]);
        let text = &table.text()[0];
        assert_eq!(text.len(), table.head().len());
        assert_eq!(text[..6], ["20 GB", "fixed", "2", "20\u{202f}000", "100 [0, 227]", "0.50\u{202f}%"]);
        assert_eq!((text[13].as_str(), text[11].as_str()), ("–", "–"), "NaN and a latency of zero are not known");
        assert!(Table::new(&[]).rows.is_empty());
    }
}
