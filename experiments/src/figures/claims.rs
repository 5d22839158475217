//! What a figure's rows say of the paper's statements.

use medes_plots::CellData;
use medes_plots::findings;
use medes_plots::grid::{Grid, Pool};
use medes_plots::paper::{Claim, Verdict};
use medes_plots::stats::{Estimate, paired_ratio};

use super::evidence;
use super::sandboxes::Sandboxes;
use super::spec::{How, Statement};

/// A value of a run.
fn value_of(name: &str) -> Option<fn(&CellData) -> f64> {
    Some(match name {
        "cold" => |c| c.summary.cold as f64,
        "p99" => |c| c.summary.p99_ms,
        "p999" => |c| c.summary.p999_ms,
        "start-p99" => |c| c.summary.start_p99_ms,
        "start-p999" => |c| c.summary.start_p999_ms,
        "mean-latency" => |c| c.summary.mean_ms,
        "memory" => |c| c.summary.mean_memory_mb,
        "memory-of-pool" => |c| 100.0 * c.summary.mean_memory_mb / (c.summary.memcap_mb * f64::from(c.summary.nodes)),
        "sandboxes" => |c| {
            let of = |s: &medes_engine::record::TimelineSample| f64::from(s.busy + s.warm + s.base + s.dedup);
            c.timeline.iter().map(of).sum::<f64>() / c.timeline.len() as f64
        },
        _ => return None,
    })
}

/// A value with its interval, in the unit of `how`.
fn text(e: &Estimate, how: How) -> String {
    let sign = |v: f64| format!("{v:+.0}").replace('-', "\u{2212}");
    let (one, unit): (Box<dyn Fn(f64) -> String>, &str) = match how {
        How::Change => (Box::new(sign), "\u{a0}%"),
        How::FromBest => (Box::new(|v| format!("{v:+.1}").replace('-', "\u{2212}")), "\u{a0}%"),
        // Three places where two would show no difference.
        How::Factor if (e.mean - 1.0).abs() < 5e-3 => (Box::new(|v| format!("{v:.3}")), "\u{a0}times"),
        How::Factor => (Box::new(|v| format!("{v:.2}")), "\u{a0}times"),
        How::Level => (Box::new(|v| format!("{v:.1}")), ""),
    };
    match (e.mean.is_finite(), e.half) {
        (false, _) => "no value".to_owned(),
        (_, None) => format!("{}{unit}, one seed", one(e.mean)),
        (_, Some(_)) => format!("{}{unit} [{}, {}]", one(e.mean), one(e.low()), one(e.high())),
    }
}

/// The claims of runs: each statement at each pool.
pub fn of_runs(statements: &[Statement], cells: &[CellData]) -> Vec<Claim> {
    let grid = Grid::new(cells);
    let mut out = Vec::new();
    for s in statements {
        if s.how == How::FromBest {
            out.push(from_best(s, &grid));
            continue;
        }
        for pool in &grid.pools {
            let (of, against) = (grid.runs(&s.of, pool), grid.runs(&s.against, pool));
            if of.is_empty() || (against.is_empty() && s.how != How::Level) {
                continue;
            }
            let found = compared(s, &of, &against);
            let both = [(s.of.as_str(), &of[..]), (s.against.as_str(), &against[..])];
            let tail = if s.value.starts_with("p99") { evidence::of_tail(both) } else { Vec::new() };
            // One paragraph a kind of reason: the numbers behind them are in the figure's table.
            let rows = [tail, findings::bearing_on(&of, &s.against, &against)].map(|said| said.join(" "));
            let rows = rows.into_iter().filter(|r| !r.is_empty()).collect();
            let who = if s.against.is_empty() { s.of.clone() } else { format!("{} against {}", s.of, s.against) };
            out.push(claim(s, format!("{who}, {}", pool_words(pool)), found, rows));
        }
    }
    out
}

fn pool_words(pool: &Pool) -> String {
    if pool.gb().is_finite() { format!("pool of {}", pool.label) } else { "no memory cap".to_owned() }
}

/// The value of a statement, and what else is to be said of it.
fn compared(s: &Statement, of: &[&CellData], against: &[&CellData]) -> (Estimate, String) {
    if let Some(per_function) = s.value.strip_suffix("-per-function") {
        return per_function_factor(per_function, of, against);
    }
    let Some(value) = value_of(&s.value) else { return (Estimate::of([]), String::new()) };
    let pairs = |runs: &[&CellData]| runs.iter().map(|c| (c.summary.seed, value(c))).collect::<Vec<_>>();
    let scaled =
        |e: Estimate, by: f64, plus: f64| Estimate { mean: e.mean * by + plus, half: e.half.map(|h| h * by), n: e.n };
    let estimate = match s.how {
        How::Level => Estimate::of(of.iter().map(|c| value(c))),
        How::Factor => scaled(paired_ratio(&pairs(against), &pairs(of)), 1.0, 1.0),
        How::Change | How::FromBest => scaled(paired_ratio(&pairs(of), &pairs(against)), 100.0, 0.0),
    };
    let means = |runs: &[&CellData]| Estimate::of(runs.iter().map(|c| value(c))).mean;
    let unit = match s.value.as_str() {
        "cold" => " cold starts",
        "sandboxes" => " sandboxes",
        "memory" => " MB",
        "memory-of-pool" => "\u{a0}% of the pool",
        _ => " ms",
    };
    let more = match against.is_empty() {
        true => unit.to_owned(),
        false => format!("; {:.0} against {:.0}{unit}", means(of), means(against)),
    };
    (estimate, more)
}

/// How many times `against` is of `of`: the geometric mean over functions, seed by seed, and the range of the functions.
fn per_function_factor(value: &str, of: &[&CellData], against: &[&CellData]) -> (Estimate, String) {
    let pick = |f: &medes_engine::record::FunctionSummary| match value {
        "p99" => f.p99_ms,
        "mean" => f.mean_ms,
        _ => f.p999_ms,
    };
    let mut by_seed = Vec::new();
    let mut by_function: std::collections::BTreeMap<&str, Vec<f64>> = Default::default();
    for a in of {
        let Some(b) = against.iter().find(|b| b.summary.seed == a.summary.seed) else { continue };
        let mut logs = Vec::new();
        for f in &a.functions {
            let other = b.functions.iter().find(|g| g.function == f.function).map_or(f64::NAN, pick);
            let factor = other / pick(f);
            if factor.is_finite() && factor > 0.0 {
                logs.push(factor.ln());
                by_function.entry(&f.function).or_default().push(factor);
            }
        }
        by_seed.push((logs.iter().sum::<f64>() / logs.len() as f64).exp());
    }
    let mean = |(name, v): (&&str, &Vec<f64>)| (v.iter().sum::<f64>() / v.len() as f64, name.to_string());
    let mut functions: Vec<(f64, String)> = by_function.iter().map(mean).collect();
    functions.sort_by(|a, b| a.0.total_cmp(&b.0));
    let range = match (functions.first(), functions.last()) {
        (Some(low), Some(high)) => {
            format!(" over functions (geometric mean); from {:.2} ({}) to {:.2} ({})", low.0, low.1, high.0, high.1)
        }
        _ => String::new(),
    };
    (Estimate::of(by_seed), range)
}

/// How far the first value of a parameter, its default, is from the best one.
fn from_best(s: &Statement, grid: &Grid<'_>) -> Claim {
    let value = value_of(&s.value).unwrap_or(|_| f64::NAN);
    let pool = grid.pools.iter().max_by_key(|p| grid.cells.iter().filter(|c| p.is_of(c)).count());
    let parameter = grid.parameters.iter().find(|p| p.name == s.parameter);
    let (Some(pool), Some(parameter)) = (pool, parameter) else {
        return claim(s, format!("{} was not swept", s.parameter), (Estimate::of([]), String::new()), Vec::new());
    };
    let at = |v: &str| {
        let runs = grid.runs_with(&s.of, pool, &[(&parameter.name, v)]);
        runs.iter().map(|c| (c.summary.seed, value(c))).collect::<Vec<_>>()
    };
    let mean = |v: &str| Estimate::of(at(v).into_iter().map(|p| p.1)).mean;
    let best = parameter.values.iter().min_by(|a, b| mean(a).total_cmp(&mean(b)));
    let Some(best) = best else {
        return claim(s, pool_words(pool), (Estimate::of([]), String::new()), Vec::new());
    };
    let ratio = paired_ratio(&at(&parameter.first), &at(best));
    let estimate = Estimate { mean: 100.0 * ratio.mean, half: ratio.half.map(|h| 100.0 * h), n: ratio.n };
    let setting = format!("{} = {} against the best, {best}; {}", parameter.name, parameter.first, pool_words(pool));
    let runs = |v: &str| grid.runs_with(&s.of, pool, &[(&parameter.name, v)]);
    let rows = evidence::of_values((&parameter.first, &runs(&parameter.first)), (best, &runs(best)));
    claim(s, setting, (estimate, String::new()), rows)
}

fn claim(s: &Statement, setting: String, (estimate, more): (Estimate, String), bearing: Vec<String>) -> Claim {
    let verdict = Verdict::of(estimate.low(), estimate.mean, estimate.high(), (s.range[0], s.range[1]), s.good);
    let mut why = Vec::new();
    if matches!(verdict, Verdict::Fails | Verdict::OnAverage) {
        why.extend((!s.differs.is_empty()).then(|| s.differs.clone()));
        why.extend(bearing);
    }
    Claim { paper: s.paper.clone(), setting, ours: text(&estimate, s.how) + &more, verdict, why }
}

/// The claim of the share that redundancy takes of keep-alive's memory, %.
pub fn saved(s: &Statement, share: Estimate) -> Claim {
    claim(s, "fixed keep-alive, no memory cap".into(), (share, "\u{a0}% of the memory".into()), Vec::new())
}

/// The claims of measured sandboxes: a value for each function, its mean and range.
pub fn of_sandboxes(statements: &[Statement], set: &Sandboxes) -> Vec<Claim> {
    // Dumps of one mode only: then that one is held against the statements.
    let (functions, mode) = match set.fixed.is_empty() {
        false => (&set.fixed, "off"),
        true => (&set.random, "on"),
    };
    let at = |m: &std::collections::BTreeMap<String, f64>, size: &str| 100.0 * m.get(size).copied().unwrap_or(f64::NAN);
    statements
        .iter()
        .map(|s| {
            let each = |f: &super::sandboxes::Sandbox| match s.value.as_str() {
                "redundancy-64" => at(&f.within, "64"),
                "redundancy-fall" => at(&f.within, "64") - at(&f.within, "1024"),
                "own-over-other" => {
                    let others = f.found_in.iter().filter(|(name, _)| **name != f.name).map(|(_, v)| 100.0 * v);
                    at(&f.found_in, &f.name) - others.fold(0.0, f64::max)
                }
                "saved" => 100.0 * f.dedup.saved,
                "cold-over-dedup" => match (&f.starts, f.dedup_start()) {
                    (Some(t), Some(parts)) => t.cold_ms / parts.iter().sum::<f64>(),
                    _ => f64::NAN,
                },
                _ => f64::NAN,
            };
            let values: Vec<(f64, &str)> =
                functions.iter().map(|f| (each(f), f.name.as_str())).filter(|v| v.0.is_finite()).collect();
            let least = values.iter().min_by(|a, b| a.0.total_cmp(&b.0));
            let most = values.iter().max_by(|a, b| a.0.total_cmp(&b.0));
            let mean = values.iter().map(|v| v.0).sum::<f64>() / values.len() as f64;
            let (Some(least), Some(most)) = (least, most) else {
                return claim(s, "no sandboxes were measured".into(), (Estimate::of([]), String::new()), Vec::new());
            };
            let unit = match (s.how, s.value.as_str()) {
                (How::Factor, _) => " times",
                (_, "redundancy-fall" | "own-over-other") => " points",
                _ => " %",
            };
            let verdict = Verdict::of(least.0, mean, most.0, (s.range[0], s.range[1]), s.good);
            let mut why = Vec::new();
            if matches!(verdict, Verdict::Fails | Verdict::OnAverage) {
                why.extend((!s.differs.is_empty()).then(|| s.differs.clone()));
                let beyond =
                    functions.iter().filter(|f| each(f).is_finite() && !(s.range[0]..=s.range[1]).contains(&each(f)));
                why.extend(beyond.map(|f| evidence::of_sandbox(&s.value, f)));
            }
            Claim {
                paper: s.paper.clone(),
                setting: format!("{} functions, address randomisation {mode}", values.len()),
                ours: format!(
                    "{mean:.1}{unit} on average, from {:.1} ({}) to {:.1} ({})",
                    least.0, least.1, most.0, most.1
                ),
                verdict,
                why,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: &str, seed: u64, cold: u64, p999: f64) -> CellData {
        let mut cell = CellData::default();
        cell.summary.policy = policy.into();
        (cell.summary.memcap_mb, cell.summary.nodes, cell.summary.seed) = (1000.0, 20, seed);
        cell.summary.cold = cold;
        let function = medes_engine::record::FunctionSummary {
            function: "f".into(),
            p999_ms: p999,
            ..medes_engine::record::FunctionSummary::default()
        };
        cell.functions = vec![function];
        cell
    }

    fn statement(value: &str, how: &str, range: [f64; 2]) -> Statement {
        // Fewer cold starts are good, and a larger factor of improvement.
        let good = if how == "factor" { 1 } else { -1 };
        toml::from_str(&format!(
            "paper = 'p'\nvalue = '{value}'\nagainst = 'fixed'\nhow = '{how}'\nrange = {range:?}\ngood = {good}\ndiffers = 'because'"
        ))
        .unwrap()
    }

    #[test]
    fn runs_are_compared_seed_by_seed() {
        let cells = [
            run("medes", 1, 69, 100.0),
            run("medes", 2, 138, 100.0),
            run("fixed", 1, 100, 150.0),
            run("fixed", 2, 200, 150.0),
        ];
        let claims = of_runs(&[statement("cold", "change", [-50.0, -10.0])], &cells);
        assert_eq!((claims.len(), claims[0].verdict), (1, Verdict::Holds));
        assert!(claims[0].ours.starts_with("\u{2212}31\u{a0}% [\u{2212}31, \u{2212}31]"), "{}", claims[0].ours);
        assert_eq!(claims[0].setting, "medes against fixed, pool of 20 GB");
        assert!(claims[0].ours.ends_with("; 104 against 150 cold starts"), "{}", claims[0].ours);
        let claims = of_runs(&[statement("p999-per-function", "factor", [2.0, 3.0])], &cells);
        assert_eq!(claims[0].verdict, Verdict::Fails);
        assert!(claims[0].ours.starts_with("1.50\u{a0}times [1.50, 1.50]"), "{}", claims[0].ours);
        assert_eq!(claims[0].why[0], "because");
    }

    #[test]
    fn measured_sandboxes_beyond_the_range_are_named() {
        let mut set = Sandboxes::shipped().unwrap();
        set.fixed.truncate(2);
        (set.fixed[0].dedup.saved, set.fixed[1].dedup.saved) = (0.95, 0.5);
        let said = &of_sandboxes(&[statement("saved", "level", [42.0, 90.0])], &set)[0];
        assert_eq!((said.verdict, said.why.len()), (Verdict::OnAverage, 2));
        assert!(
            said.why[1].starts_with("vanilla: 95.0 % saved") && said.ours.contains("from 50.0 (linalg)"),
            "{said:?}"
        );
        (set.random, set.fixed) = (std::mem::take(&mut set.fixed), Vec::new());
        let said = &of_sandboxes(&[statement("saved", "level", [42.0, 90.0])], &set)[0];
        assert!(said.setting.contains("2 functions, address randomisation on"), "{}", said.setting);
    }
}
