//! The cells of an experiment by what was varied: policy, pool of memory, other parameters, seed.

use crate::CellData;
use crate::figure::file_stem;
use crate::number;
use crate::stats::Estimate;
use crate::style::policy_rank;

/// Names under which an experiment may list what has a column of its own.
const OWN_COLUMNS: [&str; 7] = ["policy", "memcap", "memcap_mb", "pool", "nodes", "seed", "seeds"];

/// The memory of a cluster: so many nodes, each with a cap.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Cap of one node, MB.
    pub memcap_mb: f64,
    /// Number of nodes.
    pub nodes: u32,
    /// What it is called in figures and tables: `20 GB`, with nodes and cap where that alone is not clear.
    pub label: String,
}

impl Pool {
    /// Memory of the whole cluster, GB of 10^9 bytes; infinite without a cap.
    pub fn gb(&self) -> f64 {
        match self.memcap_mb {
            // To 0.1 MB: a pool divided among nodes loses some bytes to rounding.
            cap if cap.is_finite() && cap > 0.0 => (cap * f64::from(self.nodes) * 10.0).round() / 1e4,
            _ => f64::INFINITY,
        }
    }

    /// Its name as a part of a file name: `20gb`.
    pub fn stem(&self) -> String {
        file_stem(&self.label.replace([' ', number::NARROW], ""))
    }

    /// Whether `cell` was run in it.
    pub fn is_of(&self, cell: &CellData) -> bool {
        cell.summary.memcap_mb.to_bits() == self.memcap_mb.to_bits() && cell.summary.nodes == self.nodes
    }
}

/// A parameter that was given more than one value, beside policy, memory cap, nodes and seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As in the experiment.
    pub name: String,
    /// Its values as written, smallest first if they are numbers, else in the order of the cells.
    pub values: Vec<String>,
    /// The value that comes first in the cells: figures of one setting show it.
    pub first: String,
}

impl Parameter {
    /// The values as numbers, if all of them are.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        self.values.iter().map(|v| v.trim().parse::<f64>().ok().filter(|n| n.is_finite())).collect()
    }
}

/// The cells and the axes they span.
#[derive(Clone, Debug)]
pub struct Grid<'a> {
    /// All cells.
    pub cells: &'a [CellData],
    /// Names of the policies in the order of the house.
    pub policies: Vec<&'a str>,
    /// From the smallest pool to the largest.
    pub pools: Vec<Pool>,
    /// By name.
    pub parameters: Vec<Parameter>,
}

impl<'a> Grid<'a> {
    /// The axes of `cells`.
    pub fn new(cells: &'a [CellData]) -> Self {
        let mut policies: Vec<&str> = cells.iter().map(|c| c.summary.policy.as_str()).collect();
        policies.sort_by_key(|p| policy_rank(p));
        policies.dedup();
        Self { cells, policies, pools: pools(cells), parameters: parameters(cells) }
    }

    /// The runs of a policy in a pool where every swept parameter has its first value, by seed.
    pub fn runs(&self, policy: &str, pool: &Pool) -> Vec<&'a CellData> {
        self.runs_with(policy, pool, &[])
    }

    /// The runs of a policy in a pool with the given parameters and the first value of the others, by seed;
    /// one run a seed.
    pub fn runs_with(&self, policy: &str, pool: &Pool, with: &[(&str, &str)]) -> Vec<&'a CellData> {
        let wanted = |p: &Parameter| with.iter().find(|w| w.0 == p.name).map_or(p.first.clone(), |w| w.1.to_owned());
        let setting: Vec<(&str, String)> = self.parameters.iter().map(|p| (p.name.as_str(), wanted(p))).collect();
        // A cell that does not have a parameter does not depend on it.
        let fits = |cell: &CellData| {
            let given = &cell.summary.parameters;
            setting.iter().all(|(name, value)| given.get(*name).is_none_or(|v| v == value))
        };
        let of = |c: &&CellData| c.summary.policy == policy && pool.is_of(c) && fits(c);
        let mut runs: Vec<&CellData> = self.cells.iter().filter(of).collect();
        runs.sort_by_key(|c| c.summary.seed);
        runs.dedup_by_key(|c| c.summary.seed);
        runs
    }

    /// Every combination of values of the swept parameters; one empty combination if none is swept.
    pub fn settings(&self) -> Vec<Vec<(&str, &str)>> {
        self.parameters.iter().fold(vec![Vec::new()], |settings, p| {
            let with = |s: &Vec<(_, _)>, v| [&s[..], &[(p.name.as_str(), v)]].concat();
            settings.iter().flat_map(|s| p.values.iter().map(move |v| with(s, v.as_str()))).collect()
        })
    }

    /// How the swept parameters stand in a figure of one setting, for its caption; those in `shown` are
    /// on an axis. Empty if there is nothing to say.
    pub fn setting_text(&self, shown: &[&str]) -> String {
        let fixed = self.parameters.iter().filter(|p| !shown.contains(&p.name.as_str()));
        let fixed: Vec<String> = fixed.map(|p| format!("{} = {}", p.name, p.first)).collect();
        if fixed.is_empty() { String::new() } else { format!(" At {}.", fixed.join(", ")) }
    }
}

/// A value of the rows' summaries over seeds.
pub fn estimate(runs: &[&CellData], value: impl Fn(&CellData) -> f64) -> Estimate {
    Estimate::of(runs.iter().map(|c| value(c)))
}

fn pools(cells: &[CellData]) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for cell in cells {
        if !pools.iter().any(|p| p.is_of(cell)) {
            let (memcap_mb, nodes) = (cell.summary.memcap_mb, cell.summary.nodes);
            pools.push(Pool { memcap_mb, nodes, label: String::new() });
        }
    }
    pools.sort_by(|a, b| a.gb().total_cmp(&b.gb()).then(a.nodes.cmp(&b.nodes)));
    let plain = |p: &Pool| match p.gb() {
        gb if gb.is_infinite() => "no cap".to_owned(),
        gb if gb < 1.0 => format!("{} MB", number::trimmed(gb * 1000.0)),
        gb => format!("{} GB", number::trimmed(gb)),
    };
    let labels: Vec<String> = pools.iter().map(plain).collect();
    for (pool, label) in pools.iter_mut().zip(&labels) {
        pool.label = label.clone();
        if labels.iter().filter(|l| *l == label).count() > 1 {
            pool.label = match pool.gb().is_finite() {
                true => format!("{label} ({} × {} MB)", pool.nodes, number::fixed(pool.memcap_mb, 0)),
                false => format!("{label} ({} nodes)", pool.nodes),
            };
        }
    }
    pools
}

fn parameters(cells: &[CellData]) -> Vec<Parameter> {
    let mut found: Vec<Parameter> = Vec::new();
    for (name, value) in cells.iter().flat_map(|c| &c.summary.parameters) {
        if OWN_COLUMNS.contains(&name.as_str()) {
            continue;
        }
        match found.iter_mut().find(|p| p.name == *name) {
            Some(p) if p.values.contains(value) => {}
            Some(p) => p.values.push(value.clone()),
            None => {
                found.push(Parameter { name: name.clone(), values: vec![value.clone()], first: value.clone() });
            }
        }
    }
    found.retain(|p| p.values.len() > 1);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    for p in &mut found {
        if let Some(numbers) = p.numbers() {
            let mut order: Vec<(f64, String)> = numbers.into_iter().zip(std::mem::take(&mut p.values)).collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            p.values = order.into_iter().map(|o| o.1).collect();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(policy: &str, memcap_mb: f64, nodes: u32, seed: u64, parameters: &[(&str, &str)]) -> CellData {
        let mut cell = CellData::default();
        cell.summary.policy = policy.into();
        (cell.summary.memcap_mb, cell.summary.nodes, cell.summary.seed) = (memcap_mb, nodes, seed);
        cell.summary.parameters = parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        cell
    }

    #[test]
    fn pools_are_named_by_their_memory_and_by_more_where_that_is_not_clear() {
        let cells = [
            cell("a", 2000.0, 20, 1, &[]),
            cell("a", 1000.0, 20, 1, &[]),
            cell("a", 2000.0, 10, 1, &[]),
            cell("a", f64::INFINITY, 1, 1, &[]),
            cell("a", 500.0, 1, 1, &[]),
        ];
        let grid = Grid::new(&cells);
        let labels: Vec<_> = grid.pools.iter().map(|p| p.label.as_str()).collect();
        assert_eq!(labels, ["500 MB", "20 GB (10 × 2000 MB)", "20 GB (20 × 1000 MB)", "40 GB", "no cap"]);
        assert_eq!(grid.pools[3].stem(), "40gb");
        assert_eq!(grid.pools[1].stem(), "20gb_10_2000mb");
    }

    #[test]
    fn runs_are_of_the_first_setting_and_one_a_seed() {
        let cells = [
            cell("medes", 1.0, 1, 2, &[("chunksperpage", "10"), ("memcap", "1")]),
            cell("medes", 1.0, 1, 1, &[("chunksperpage", "10")]),
            cell("medes", 1.0, 1, 1, &[("chunksperpage", "10")]),
            cell("medes", 1.0, 1, 1, &[("chunksperpage", "5")]),
            cell("fixed", 1.0, 1, 1, &[]),
        ];
        let grid = Grid::new(&cells);
        assert_eq!(grid.parameters.len(), 1);
        assert_eq!(
            (&grid.parameters[0].values[..], grid.parameters[0].first.as_str()),
            (&["5".into(), "10".into()][..], "10")
        );
        let seeds = |runs: Vec<&CellData>| runs.iter().map(|c| c.summary.seed).collect::<Vec<_>>();
        assert_eq!(seeds(grid.runs("medes", &grid.pools[0])), [1, 2]);
        assert_eq!(seeds(grid.runs_with("medes", &grid.pools[0], &[("chunksperpage", "5")])), [1]);
        assert_eq!(seeds(grid.runs("fixed", &grid.pools[0])), [1]);
        assert_eq!(grid.setting_text(&[]), " At chunksperpage = 10.");
        assert_eq!(grid.settings(), [[("chunksperpage", "5")], [("chunksperpage", "10")]]);
    }
}
