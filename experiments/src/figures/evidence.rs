//! Why a statement does not hold here: what the rows show of it, in numbers. Nothing is said that no row has.

use std::collections::BTreeMap;

use medes_engine::record::{FunctionSummary, Summary, TimelineSample};
use medes_plots::CellData;
use medes_plots::grid::Grid;
use medes_plots::number::{count, percent, short, trimmed};
use medes_plots::paper::TextTable;
use medes_plots::stats::Estimate;

use super::sandboxes::Sandbox;

/// One request in so many lies beyond the 99.9th percentile.
const BEYOND: f64 = 1e-3;
/// A percentile that differs by less has not moved.
const MOVED: f64 = 0.05;

fn mean(runs: &[&CellData], value: impl Fn(&CellData) -> f64) -> f64 {
    Estimate::of(runs.iter().map(|c| value(c))).mean
}

/// `a, b and c`.
pub fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Mean number of sandboxes in a state over time and seeds.
pub fn stood(runs: &[&CellData], state: fn(&TimelineSample) -> u32) -> f64 {
    mean(runs, |c| c.timeline.iter().map(|s| f64::from(state(s))).sum::<f64>() / c.timeline.len() as f64)
}

/// What decides a 99.9th percentile: whether cold starts are frequent enough to reach it; and where it moved.
pub fn of_tail(policies: [(&str, &[&CellData]); 2]) -> Vec<String> {
    let mut out = Vec::new();
    for (name, runs) in policies.iter().filter(|p| !p.1.is_empty()) {
        let share = |f: &FunctionSummary| f.cold as f64 / (f.requests as f64).max(1.0);
        let all = mean(runs, |c| c.summary.cold as f64 / (c.summary.requests as f64).max(1.0));
        let functions = mean(runs, |c| c.functions.len() as f64);
        let beyond = mean(runs, |c| c.functions.iter().filter(|f| share(f) > BEYOND).count() as f64);
        out.push(format!(
            "{name}: {} of all requests are cold; in {} of {} functions more than one in a thousand is.",
            percent(all),
            trimmed(beyond),
            trimmed(functions),
        ));
    }
    let [(of, mine), (against, theirs)] = policies;
    let percentiles = |runs: &[&CellData]| {
        let mut of: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for f in runs.iter().flat_map(|c| &c.functions) {
            of.entry(f.function.clone()).or_default().push(f.p999_ms);
        }
        of
    };
    let (a, b) = (percentiles(mine), percentiles(theirs));
    let (mut lower, mut higher, mut same) = (0, 0, 0);
    for (function, values) in &a {
        let Some(other) = b.get(function) else { continue };
        let ratio = Estimate::of(values.iter().copied()).mean / Estimate::of(other.iter().copied()).mean;
        match ratio {
            r if r < 1.0 - MOVED => lower += 1,
            r if r > 1.0 + MOVED => higher += 1,
            r if r.is_finite() => same += 1,
            _ => {}
        }
    }
    if lower + higher + same > 0 {
        out.push(format!(
            "The percentile is more than 5 % lower under {of} than under {against} in {lower} functions, more than 5 % higher in \
             {higher}, and between in {same}."
        ));
    }
    out
}

/// What the rows hold of each policy in each pool, as a table; nothing where a parameter beside these was swept.
pub fn table(cells: &[CellData]) -> Option<TextTable> {
    let grid = Grid::new(cells);
    if !grid.parameters.is_empty() && grid.settings().len() > 1 {
        return None;
    }
    let mut rows = Vec::new();
    for pool in &grid.pools {
        for policy in &grid.policies {
            let runs = grid.runs(policy, pool);
            if runs.is_empty() {
                continue;
            }
            let summed = |value: fn(&Summary) -> f64| mean(&runs, |c| value(&c.summary));
            let mut row = vec![format!("{}, {policy}", pool.label)];
            row.extend([
                count(summed(|s| s.cold as f64)),
                count(summed(|s| s.start_p99_ms)),
                count(summed(|s| s.p999_ms)),
                short(summed(|s| s.mean_memory_mb / 1e3)),
                short(summed(|s| s.max_memory_mb / 1e3)),
            ]);
            let gone: [fn(&Summary) -> f64; 2] = [|s| s.evictions as f64, |s| s.purged as f64];
            row.extend(gone.map(|v| count(summed(v))));
            let states: [fn(&TimelineSample) -> u32; 4] = [|s| s.busy, |s| s.warm, |s| s.base, |s| s.dedup];
            row.extend(states.map(|state| short(stood(&runs, state))));
            let last: [fn(&Summary) -> f64; 4] = [
                |s| s.dedup_ops as f64,
                |s| s.dedup as f64,
                |s| s.queued as f64,
                |s| s.dropped as f64 + s.failed as f64,
            ];
            row.extend(last.map(|v| count(summed(v))));
            rows.push(row);
        }
    }
    let head = [
        "pool, policy",
        "cold starts",
        "99th pct. start ms",
        "99.9th pct. latency ms",
        "mean GB",
        "peak GB",
        "evicted",
        "removed",
        "busy",
        "warm",
        "base",
        "reduced",
        "reductions",
        "starts from reduced",
        "waited",
        "dropped",
    ];
    (!rows.is_empty()).then(|| TextTable {
        caption: "What the rows hold, a run: means over seeds. Evicted: sandboxes that had to make room; removed: by their policy, \
                  without need of room. Busy, warm, base, reduced: sandboxes in each state, on average over time; reduced is \
                  deduplicated, or compressed under compress. Waited, dropped: requests."
            .into(),
        head: head.map(str::to_owned).to_vec(),
        rows,
    })
}

/// Why a value of measured sandboxes is not what was stated: the functions beyond the range, with what was measured of them.
pub fn of_sandbox(value: &str, f: &Sandbox) -> String {
    let part = |v: f64| format!("{:.1} %", 100.0 * v);
    let d = &f.dedup;
    match value {
        "redundancy-64" | "redundancy-fall" => {
            let sizes = ["64", "256", "1024"].map(|s| (s, f.within.get(s).copied().unwrap_or(f64::NAN)));
            let each = sizes.map(|(size, v)| format!("{} at {size} B", part(v)));
            format!("{}: {}.", f.name, each.join(", "))
        }
        "own-over-other" => {
            let others = f.found_in.iter().filter(|(name, _)| **name != f.name);
            let best = others.max_by(|a, b| a.1.total_cmp(b.1));
            let own = f.found_in.get(&f.name).copied().unwrap_or(f64::NAN);
            let best = best.map_or(String::new(), |(name, v)| format!(", {} in {name}'s", part(*v)));
            format!(
                "{} ({} MB): {} of its bytes are in its own other sandbox{best}.",
                f.name,
                short(f.dump_mb),
                part(own)
            )
        }
        "saved" => format!(
            "{}: {} saved. Of its pages {} were patched against a base page of the function's own, {} against another's, {} are zeros, {} \
             were kept whole; a patch takes {} B on average.",
            f.name,
            part(d.saved),
            part(d.own),
            part(d.other),
            part(d.zero),
            part(d.whole),
            count(d.patch_bytes)
        ),
        _ => {
            let cold = f.starts.as_ref().map_or(f64::NAN, |s| s.cold_ms);
            let parts = f.dedup_start().unwrap_or([f64::NAN; 3]);
            format!(
                "{}: cold start {} ms; dedup start {} ms, of which reading base pages takes {}, patching {} and resuming {}.",
                f.name,
                short(cold),
                short(parts.iter().sum()),
                short(parts[0]),
                short(parts[1]),
                short(parts[2])
            )
        }
    }
}

/// What a parameter's best value gives and takes beside its default.
pub fn of_values(default: (&str, &[&CellData]), best: (&str, &[&CellData])) -> Vec<String> {
    let line = |(value, runs): (&str, &[&CellData])| {
        format!(
            "At {value}: {} cold starts, mean memory {} GB, mean dedup start {} ms, {} evictions a run.",
            count(mean(runs, |c| c.summary.cold as f64)),
            short(mean(runs, |c| c.summary.mean_memory_mb / 1e3)),
            short(mean(runs, |c| c.summary.dedup_start_ms)),
            count(mean(runs, |c| c.summary.evictions as f64)),
        )
    };
    vec![line(default), line(best)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbers_of_the_rows() {
        let mut cell = CellData::default();
        (cell.summary.requests, cell.summary.cold, cell.summary.evictions) = (2000, 4, 7);
        (cell.summary.mean_memory_mb, cell.summary.max_memory_mb) = (1500.0, 2000.0);
        (cell.summary.start_p99_ms, cell.summary.p999_ms) = (f64::NAN, f64::NAN);
        let function = |name: &str, cold| FunctionSummary {
            function: name.into(),
            requests: 1000,
            cold,
            p999_ms: 100.0,
            ..FunctionSummary::default()
        };
        cell.functions = vec![function("f", 4), function("g", 0)];
        let mut slower = cell.clone();
        for (f, ms) in slower.functions.iter_mut().zip([150.0, 101.0]) {
            f.p999_ms = ms;
        }
        let (runs, others) = ([&cell], [&slower]);
        let tail = of_tail([("medes", &runs), ("fixed", &others)]);
        assert_eq!(tail.len(), 3);
        for part in ["0.20\u{202f}% of all", "in 1 of 2 functions"] {
            assert!(tail[0].contains(part), "{}", tail[0]);
        }
        assert!(tail[2].contains("in 1 functions, more than 5 % higher in 0, and between in 1"), "{}", tail[2]);
        let table = table(std::slice::from_ref(&cell)).unwrap();
        assert_eq!(table.head.len(), table.rows[0].len());
        assert_eq!(table.rows[0][1..8], ["4", "–", "–", "1.50", "2.00", "7", "0"].map(str::to_owned));
        let values = of_values(("5", &runs), ("64", &runs));
        assert!(values[1].starts_with("At 64: 4 cold starts"), "{}", values[1]);
    }

    #[test]
    fn a_sandbox_beyond_the_range_is_explained_by_what_was_measured_of_it() {
        let set = super::super::sandboxes::Sandboxes::shipped().unwrap();
        let f = &set.fixed[0];
        for (value, part) in [
            ("redundancy-64", "87.3 % at 64 B"),
            ("own-over-other", "83.9 % of its bytes are in its own other sandbox, 81.2 % in authenc's"),
            ("saved", "89.7 % saved. Of its pages 92.3 % were patched"),
            (
                "cold-over-dedup",
                "cold start 78.8 ms; dedup start 12.5 ms, of which reading base pages takes 6.82, patching 5.63 and resuming 0.03",
            ),
        ] {
            let said = of_sandbox(value, f);
            assert!(said.starts_with("vanilla") && said.contains(part), "{said}");
        }
    }
}
