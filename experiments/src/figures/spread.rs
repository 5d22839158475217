//! What sweeping a parameter changes, in numbers of the rows: which of them an operator has to care about.

use medes_plots::CellData;
use medes_plots::grid::{Grid, Pool, estimate};
use medes_plots::number::{count, short};
use medes_plots::paper::TextTable;
use medes_plots::stats::paired_ratio;

/// The policy whose parameters are swept.
const SUBJECT: &str = "medes";

/// A swept parameter: its name, its first value, and the runs at each value.
type Swept<'a> = (String, String, Vec<(String, Vec<&'a CellData>)>);

/// The pool that most cells are of: that in which parameters are swept.
fn main_pool<'g>(grid: &'g Grid<'_>) -> Option<&'g Pool> {
    grid.pools.iter().max_by_key(|p| grid.cells.iter().filter(|c| p.is_of(c)).count())
}

/// Smallest and largest mean of a value over settings, as text with where they are: `523 (40) to 677 (1)`.
fn range(means: &[(String, f64)], text: fn(f64) -> String) -> String {
    let known = || means.iter().filter(|m| m.1.is_finite());
    let (Some(low), Some(high)) =
        (known().min_by(|a, b| a.1.total_cmp(&b.1)), known().max_by(|a, b| a.1.total_cmp(&b.1)))
    else {
        return "–".into();
    };
    let (a, b) = (text(low.1), text(high.1));
    if a == b { a } else { format!("{a} ({}) to {b} ({})", low.0, high.0) }
}

/// A row a swept parameter, number of nodes included; nothing where none was swept.
pub fn table(cells: &[CellData]) -> Option<TextTable> {
    let grid = Grid::new(cells);
    let pool = main_pool(&grid)?;
    let mut settings: Vec<Swept<'_>> = Vec::new();
    for p in &grid.parameters {
        let runs = p.values.iter().map(|v| (v.clone(), grid.runs_with(SUBJECT, pool, &[(&p.name, v)])));
        settings.push((p.name.clone(), p.first.clone(), runs.filter(|r| !r.1.is_empty()).collect()));
    }
    let same: Vec<&Pool> = grid.pools.iter().filter(|p| (p.gb() / pool.gb() - 1.0).abs() < 1e-3).collect();
    if same.len() > 1 {
        let runs = same.iter().map(|p| (p.nodes.to_string(), grid.runs(SUBJECT, p))).filter(|r| !r.1.is_empty());
        settings.push(("nodes".into(), pool.nodes.to_string(), runs.collect()));
    }
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|(name, first, runs)| {
            let means = |value: fn(&CellData) -> f64| -> Vec<(String, f64)> {
                runs.iter().map(|(v, runs)| (v.clone(), estimate(runs, value).mean)).collect()
            };
            let cold = means(|c| c.summary.cold as f64);
            let known = || cold.iter().map(|m| m.1).filter(|v| v.is_finite());
            let (least, most) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
            vec![
                name.clone(),
                first.clone(),
                range(&cold, count),
                if least > 0.0 { format!("{:.1} %", 100.0 * (most / least - 1.0)) } else { "–".into() },
                range(&means(|c| c.summary.mean_memory_mb / 1e3), short),
                range(&means(|c| c.summary.dedup_start_ms), short),
            ]
        })
        .collect();
    let head = ["parameter", "default", "cold starts", "most above least", "mean memory GB", "mean dedup start ms"]
        .map(str::to_owned);
    (!rows.is_empty()).then(|| TextTable {
        caption: format!(
            "Each parameter by itself, the others at their first value, in {}: smallest and largest mean over seeds, in brackets the \
             value of the parameter they are at.",
            if pool.gb().is_finite() { format!("a pool of {}", pool.label) } else { "a cluster without a cap".into() }
        ),
        head: head.to_vec(),
        rows,
    })
}

/// Where on the surface of two parameters cold starts are fewest, against their first values.
pub fn best_of_surface(cells: &[CellData]) -> Option<String> {
    let grid = Grid::new(cells);
    let pool = main_pool(&grid)?;
    let cold = |setting: &[(&str, &str)]| -> Vec<(u64, f64)> {
        grid.runs_with(SUBJECT, pool, setting).iter().map(|c| (c.summary.seed, c.summary.cold as f64)).collect()
    };
    let mean = |runs: &[(u64, f64)]| runs.iter().map(|r| r.1).sum::<f64>() / runs.len() as f64;
    let settings = grid.settings();
    let known = settings.iter().map(|s| (s, cold(s))).filter(|(_, runs)| !runs.is_empty());
    let (best, runs) = known.min_by(|a, b| mean(&a.1).total_cmp(&mean(&b.1)))?;
    let first: Vec<(&str, &str)> = grid.parameters.iter().map(|p| (p.name.as_str(), p.first.as_str())).collect();
    let text = |s: &[(&str, &str)]| s.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", ");
    let at_first = cold(&first);
    let ratio = paired_ratio(&at_first, &runs);
    let interval = ratio.half.map_or(String::new(), |_| {
        format!(" [{:+.0}, {:+.0}]", 100.0 * ratio.low(), 100.0 * ratio.high()).replace('-', "\u{2212}")
    });
    Some(format!(
        "Fewest cold starts: {} at {}. The first values of the lists, {}, have {}: {:+.0} %{interval} of pairs with the same seed.",
        count(mean(&runs)),
        text(best),
        text(&first),
        count(mean(&at_first)),
        100.0 * ratio.mean,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(a: &str, b: &str, seed: u64, cold: u64) -> CellData {
        let mut cell = CellData::default();
        cell.summary.policy = SUBJECT.into();
        (cell.summary.memcap_mb, cell.summary.nodes, cell.summary.seed) = (1000.0, 2, seed);
        cell.summary.cold = cold * seed;
        cell.summary.mean_memory_mb = 1500.0;
        cell.summary.parameters = [("a", a), ("b", b)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        cell
    }

    #[test]
    fn the_spread_and_the_best_are_those_of_the_rows() {
        let grid = [("5", "1", 120), ("1", "1", 150), ("5", "9", 110), ("1", "9", 100)];
        let cells: Vec<CellData> =
            [1, 2].iter().flat_map(|seed| grid.map(|(a, b, cold)| run(a, b, *seed, cold))).collect();
        let table = table(&cells).unwrap();
        assert_eq!(table.rows[0][..5], ["a", "5", "180 (5) to 225 (1)", "25.0 %", "1.50"].map(str::to_owned));
        assert_eq!(table.rows[1][..3], ["b", "1", "165 (9) to 180 (1)"].map(str::to_owned));
        let said = best_of_surface(&cells).unwrap();
        assert!(
            said.contains("150 at a = 1, b = 9") && said.contains("a = 5, b = 1, have 180: +20 % [+20, +20]"),
            "{said}"
        );
        assert!(super::table(&[]).is_none() && best_of_surface(&[]).is_none());
    }
}
