//! Why a statement does not hold here: what the rows show of it, in numbers. Nothing is said that no row has.

use medes_engine::record::{FunctionSummary, TimelineSample};
use medes_plots::CellData;
use medes_plots::number::{count, percent, short, trimmed};
use medes_plots::stats::Estimate;

/// One request in so many lies beyond the 99.9th percentile.
const BEYOND: f64 = 1e-3;

fn mean(runs: &[&CellData], value: impl Fn(&CellData) -> f64) -> f64 {
    Estimate::of(runs.iter().map(|c| value(c))).mean
}

/// What decides a 99.9th percentile: whether cold starts are frequent enough to reach it.
pub fn of_tail(policies: &[(&str, &[&CellData])]) -> Vec<String> {
    let mut out = Vec::new();
    for (name, runs) in policies.iter().filter(|p| !p.1.is_empty()) {
        let share = |f: &FunctionSummary| f.cold as f64 / (f.requests as f64).max(1.0);
        let all = mean(runs, |c| c.summary.cold as f64 / (c.summary.requests as f64).max(1.0));
        let shares = || runs.iter().flat_map(|c| &c.functions).map(share);
        let functions = mean(runs, |c| c.functions.len() as f64);
        let beyond = mean(runs, |c| c.functions.iter().filter(|f| share(f) > BEYOND).count() as f64);
        out.push(format!(
            "{name}: {} of all requests are cold, by function {} to {}; in {} of {} functions more than one in a thousand, so that \
             the 99.9th percentile is a cold start's. In the others it is the longest runs' or dedup starts'.",
            percent(all),
            percent(shares().fold(f64::INFINITY, f64::min)),
            percent(shares().fold(0.0, f64::max)),
            trimmed(beyond),
            trimmed(functions),
        ));
    }
    out
}

/// What memory went to: peak, evictions, and how many sandboxes stood in which state.
pub fn of_memory(policies: &[(&str, &[&CellData])]) -> Vec<String> {
    let mut out = Vec::new();
    for (name, runs) in policies.iter().filter(|p| !p.1.is_empty()) {
        let stood = |state: fn(&TimelineSample) -> u32| {
            short(mean(runs, |c| {
                c.timeline.iter().map(|s| f64::from(state(s))).sum::<f64>() / (c.timeline.len() as f64).max(1.0)
            }))
        };
        out.push(format!(
            "{name}: mean memory {} GB, peak {} GB, {} evictions a run; on average stood {} busy, {} warm, {} base and {} dedup \
             sandboxes.",
            short(mean(runs, |c| c.summary.mean_memory_mb / 1e3)),
            short(mean(runs, |c| c.summary.max_memory_mb / 1e3)),
            count(mean(runs, |c| c.summary.evictions as f64)),
            stood(|s| s.busy),
            stood(|s| s.warm),
            stood(|s| s.base),
            stood(|s| s.dedup),
        ));
    }
    out
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
        let function = |name: &str, cold| FunctionSummary {
            function: name.into(),
            requests: 1000,
            cold,
            ..FunctionSummary::default()
        };
        cell.functions = vec![function("f", 4), function("g", 0)];
        let runs = [&cell];
        let tail = of_tail(&[("medes", &runs), ("fixed", &[])]);
        assert_eq!(tail.len(), 1);
        for part in ["0.20\u{202f}% of all", "0.00\u{202f}% to 0.40\u{202f}%", "in 1 of 2 functions"] {
            assert!(tail[0].contains(part), "{}", tail[0]);
        }
        let memory = of_memory(&[("medes", &runs)]);
        assert!(memory[0].contains("mean memory 1.50 GB, peak 2.00 GB, 7 evictions"), "{}", memory[0]);
        let values = of_values(("5", &runs), ("64", &runs));
        assert!(values[1].starts_with("At 64: 4 cold starts"), "{}", values[1]);
    }
}
