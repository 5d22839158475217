//! `medes compare`: two result folders side by side.
//!
//! Rows of `summary.csv` are matched by policy, memory cap, nodes, seed and the swept parameters. What has one value in each folder need not be the
//! same in both (policy against policy, the simulated world against the real one, a trace's seed): it is said above the table and
//! not matched by. Of rows that match, means over the seeds are shown, and the change seed by seed; where one folder has a single seed and the
//! other several (one real run, and its prediction over many draws), the one is held against each.

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use medes_engine::record::Summary;
use medes_plots::stats::{Estimate, mean, paired_ratio};
use serde::Serialize;

use crate::Failure;
use crate::output::Output;

/// What is compared: a column of `summary.csv`, its name in tables, whether it is one of the four that a prediction is judged by.
const METRICS: [(&str, &str, bool); 11] = [
    ("cold", "cold starts", true),
    ("dedup", "dedup starts", false),
    ("warm", "warm starts", false),
    ("dropped", "dropped", false),
    ("failed", "failed", false),
    ("start_p50_ms", "start p50 (ms)", true),
    ("start_p99_ms", "start p99 (ms)", true),
    ("p99_ms", "end to end p99 (ms)", false),
    ("mean_memory_mb", "mean memory (MB)", true),
    ("max_memory_mb", "max memory (MB)", false),
    ("evictions", "evictions", false),
];

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  medes compare results/before results/after\n  medes compare results/fidelity-simulated results/fidelity-real --within 15\n  \
        medes compare results/memcap:policy=fixed results/memcap:policy=medes      one run, policy against policy\n\n\
        Exit status: 0 compared, 1 --within does not hold, 2 bad usage or input (nothing that matches, too)."
)]
pub struct CompareArgs {
    /// A result folder; with `:KEY=VALUE[,KEY=VALUE...]` only rows of these policies, seeds or parameters.
    #[arg(value_name = "RUN")]
    first: String,
    /// The other one: changes are from the first to it.
    #[arg(value_name = "RUN")]
    second: String,
    /// Fail if cold starts, median or 99th percentile start, or mean memory change by more anywhere.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    within: Option<f64>,
    /// Folder for the figures; default: none are drawn.
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|p| p.is_finite() && *p >= 0.0);
    number.ok_or_else(|| format!("'{text}' is no percentage of 0 or more"))
}

/// A row of `summary.csv`, by column.
type Row = BTreeMap<String, String>;

/// The rows of a folder that are compared.
struct Run {
    /// As it was given.
    name: String,
    rows: Vec<Row>,
}

/// A metric in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    metric: &'static str,
    #[serde(skip)]
    label: &'static str,
    #[serde(skip)]
    judged: bool,
    first: f64,
    second: f64,
    /// Mean over seeds of second / first - 1; null where the first is zero and the second is not.
    change: Option<f64>,
    /// 95 % interval of the change over seeds.
    low: Option<f64>,
    high: Option<f64>,
}

/// What both runs have at one setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Matched {
    /// What they were matched by, but the seed.
    setting: BTreeMap<String, String>,
    seeds: usize,
    changes: Vec<Change>,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Comparison {
    first: String,
    second: String,
    /// What has one value in each, and not the same: not matched by.
    differs: BTreeMap<String, [String; 2]>,
    rows: Vec<Matched>,
    /// Settings (with seeds) that only one has.
    unmatched: [usize; 2],
}

/// Columns of `summary.csv` that are measured; all others tell rows apart.
fn measured() -> BTreeSet<String> {
    let keys = ["policy", "memcap_mb", "nodes", "seed"];
    let value = serde_json::to_value(Summary::default()).unwrap_or_default();
    let all = value.as_object().into_iter().flat_map(|o| o.keys().cloned());
    all.filter(|k| !keys.contains(&k.as_str())).collect()
}

impl Run {
    fn load(given: &str) -> anyhow::Result<Self> {
        // A folder whose name has a colon is taken as it is.
        let (folder, wanted) = match given.rsplit_once(':') {
            Some((folder, wanted)) if !Path::new(given).exists() => (folder, wanted),
            _ => (given, ""),
        };
        let path = Path::new(folder).join("summary.csv");
        if !Path::new(folder).is_dir() {
            bail!("there is no result folder {folder}; `medes run` names the folder it writes");
        }
        let mut file = csv::Reader::from_path(&path).with_context(|| {
            format!("{folder} is no result folder of a finished run: cannot read {}", path.display())
        })?;
        let head: Vec<String> = file.headers()?.iter().map(str::to_owned).collect();
        let mut rows = Vec::new();
        for (i, row) in file.records().enumerate() {
            let row = row.with_context(|| format!("{}, row {}", path.display(), i + 1))?;
            rows.push(head.iter().cloned().zip(row.iter().map(str::to_owned)).collect::<Row>());
        }
        if let Some(world) = world(Path::new(folder)) {
            rows.iter_mut().for_each(|r| drop(r.insert("backend".to_owned(), world.clone())));
        }
        for pair in wanted.split(',').filter(|w| !w.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                bail!("'{pair}' in {given}: rows are chosen by KEY=VALUE, such as policy=medes");
            };
            if !head.iter().any(|h| h == key) {
                bail!("{} has no column {key}; it has {}", path.display(), head.join(", "));
            }
            let has: BTreeSet<String> = rows.iter().filter_map(|r| r.get(key).cloned()).collect();
            rows.retain(|r| r.get(key).is_some_and(|v| same(v, value)));
            if rows.is_empty() {
                bail!("{folder} has no row with {key} {value}; there are {}", list(&has));
            }
        }
        if rows.is_empty() {
            bail!("{} has no rows", path.display());
        }
        Ok(Self { name: given.to_owned(), rows })
    }

    /// The values of a column; one empty one where there is no such column.
    fn values(&self, key: &str) -> BTreeSet<String> {
        self.rows.iter().map(|r| r.get(key).cloned().unwrap_or_default()).collect()
    }
}

/// The world that a run was made in, as its README says.
fn world(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("- backend: `"))?;
    line.split('`').next().map(str::to_owned)
}

/// Whether two cells are the same, as numbers if they are any: 600 and 600.0.
fn same(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(x), Ok(y)) if x == y)
}

fn list(values: &BTreeSet<String>) -> String {
    values.iter().map(|v| if v.is_empty() { "none" } else { v }).collect::<Vec<_>>().join(", ")
}

/// A cell to match by: numbers in one form.
fn key_text(row: &Row, key: &str) -> String {
    let text = row.get(key).map_or("", String::as_str);
    text.parse::<f64>().map_or_else(|_| text.to_owned(), |n| n.to_string())
}

fn number(row: &Row, metric: &str) -> f64 {
    row.get(metric).and_then(|v| v.parse().ok()).unwrap_or(f64::NAN)
}

/// Holds the second run against the first.
fn compare(first: &Run, second: &Run) -> anyhow::Result<Comparison> {
    let measured = measured();
    let columns = |run: &Run| run.rows.iter().flat_map(|r| r.keys().cloned()).collect::<BTreeSet<_>>();
    let all: BTreeSet<String> = columns(first).union(&columns(second)).cloned().collect();
    let mut differs = BTreeMap::new();
    let mut keys = Vec::new();
    for key in all.into_iter().filter(|k| !measured.contains(k)) {
        let (a, b) = (first.values(&key), second.values(&key));
        if key == "seed" && (a.len() == 1) != (b.len() == 1) {
            differs.insert(key, [list(&a), list(&b)]);
            continue;
        }
        match (a.iter().next(), b.iter().next()) {
            (Some(x), Some(y)) if a.len() == 1 && b.len() == 1 => {
                if !same(x, y) {
                    differs.insert(key, [x.clone(), y.clone()]);
                } else if ["policy", "memcap_mb", "nodes", "seed"].contains(&key.as_str()) {
                    keys.push(key);
                }
            }
            _ => keys.push(key),
        }
    }
    let settings: Vec<&String> = keys.iter().filter(|k| *k != "seed").collect();
    let place = |row: &Row| settings.iter().map(|k| key_text(row, k)).collect::<Vec<String>>();
    // Seeds that differ as a whole are not matched by.
    let seed = |row: &Row| if differs.contains_key("seed") { String::new() } else { key_text(row, "seed") };
    let find =
        |run: &'_ Run, of: &Row| run.rows.iter().filter(|r| place(r) == place(of) && seed(r) == seed(of)).count();
    let alike = |a: &Row, b: &Row| place(a) == place(b) && key_text(a, "seed") == key_text(b, "seed");
    for run in [first, second] {
        if let Some(twice) = run.rows.iter().find(|r| run.rows.iter().filter(|other| alike(r, other)).count() > 1) {
            let at: Vec<String> = keys.iter().map(|k| format!("{k} {}", key_text(twice, k))).collect();
            bail!("{} has several rows with {}; choose some with RUN:KEY=VALUE", run.name, at.join(", "));
        }
    }
    let unmatched =
        [(first, second), (second, first)].map(|(run, other)| run.rows.iter().filter(|r| find(other, r) == 0).count());
    let mut rows: Vec<Matched> = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &first.rows {
        if !seen.insert(place(row)) {
            continue;
        }
        let matching = |a: &Row| {
            let (place_of, seed_of) = (place(a), seed(a));
            second.rows.iter().filter(move |b| place(b) == place_of && seed(b) == seed_of)
        };
        let here = first.rows.iter().filter(|r| place(r) == place(row));
        let pairs: Vec<(&Row, &Row)> = here.flat_map(|a| matching(a).map(move |b| (a, b))).collect();
        if !pairs.is_empty() {
            let setting = settings.iter().map(|k| ((*k).clone(), key_text(row, k))).collect();
            rows.push(Matched { setting, seeds: pairs.len(), changes: changes(&pairs) });
        }
    }
    if rows.is_empty() {
        let mut lines = Vec::new();
        for key in &keys {
            let (a, b) = (first.values(key), second.values(key));
            if a.is_disjoint(&b) {
                lines.push(format!("{key}: {} against {}", list(&a), list(&b)));
            }
        }
        let why = if lines.is_empty() { "no row has all values in common".to_owned() } else { lines.join("; ") };
        bail!(
            "no row of {} matches one of {}: {why}. Choose one value on each side with RUN:KEY=VALUE",
            first.name,
            second.name
        );
    }
    Ok(Comparison { first: first.name.clone(), second: second.name.clone(), differs, rows, unmatched })
}

fn changes(pairs: &[(&Row, &Row)]) -> Vec<Change> {
    let of = |(metric, label, judged): &(&'static str, &'static str, bool)| {
        let values = |pick: fn(&(&Row, &Row)) -> usize| -> Vec<(u64, f64)> {
            // Numbered by pair: seeds need not be the same.
            let side = |p: &(&Row, &Row)| if pick(p) == 0 { number(p.0, metric) } else { number(p.1, metric) };
            (0..).zip(pairs.iter().map(side)).collect()
        };
        let (a, b) = (values(|_| 0), values(|_| 1));
        let mean_of = |v: &[(u64, f64)]| mean(&v.iter().map(|(_, n)| *n).filter(|n| n.is_finite()).collect::<Vec<_>>());
        let (first, second) = (mean_of(&a), mean_of(&b));
        let ratio: Estimate = paired_ratio(&b, &a);
        let change = if first == 0.0 && second == 0.0 { Some(0.0) } else { Some(ratio.mean).filter(|c| c.is_finite()) };
        let ends = ratio.half.filter(|_| change.is_some()).map(|_| (ratio.low(), ratio.high()));
        Change {
            metric,
            label,
            judged: *judged,
            first,
            second,
            change,
            low: ends.map(|e| e.0),
            high: ends.map(|e| e.1),
        }
    };
    METRICS.iter().map(of).collect()
}

/// Carries out `medes compare`.
pub fn run(args: &CompareArgs, out: &Output) -> Result<(), Failure> {
    let compared =
        Run::load(&args.first).and_then(|first| compare(&first, &Run::load(&args.second)?)).map_err(Failure::Input)?;
    for (side, n) in [&args.first, &args.second].into_iter().zip(compared.unmatched) {
        if n > 0 {
            out.say(format!("note: {n} rows of {side} have none like them in the other run and are left out"));
        }
    }
    out.result(&view::table(&compared), &compared).map_err(Failure::Run)?;
    if let Some(folder) = &args.figures {
        let within = args.within.map(|percent| view::within(&compared, percent / 100.0));
        for figure in within.into_iter().chain(view::figures(&compared)) {
            let drawn = medes_plots::draw(&figure, folder).map_err(|e| Failure::Run(e.into()))?;
            out.say(format!("figure: {}", drawn.svg_path.display()));
        }
    }
    let Some(within) = args.within else { return Ok(()) };
    let beyond = compared.beyond(within / 100.0);
    if beyond.is_empty() {
        out.say(format!("all within {within} %"));
        return Ok(());
    }
    Err(Failure::Run(anyhow::anyhow!("not within {within} %: {}", beyond.join("; "))))
}

impl Comparison {
    /// What is judged and changes by more than a part.
    fn beyond(&self, part: f64) -> Vec<String> {
        let of = |m: &Matched| {
            let far = m.changes.iter().filter(|c| c.judged && c.change.is_none_or(|change| change.abs() > part));
            let at = view::setting(m);
            far.map(|c| format!("{at}: {} {}", c.label, view::change(c))).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, rows: &[&[(&str, &str)]]) -> Run {
        let row = |r: &&[(&str, &str)]| r.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Run { name: name.into(), rows: rows.iter().map(row).collect() }
    }

    fn of<'a>(compared: &'a Comparison, at: usize, metric: &str) -> &'a Change {
        compared.rows[at].changes.iter().find(|c| c.metric == metric).unwrap()
    }

    #[test]
    fn rows_match_by_what_was_varied_and_changes_are_seed_by_seed() {
        let a = run(
            "a",
            &[
                &[("policy", "fixed"), ("memcap_mb", "600.0"), ("seed", "1"), ("alpha", "2"), ("cold", "10")],
                &[("policy", "fixed"), ("memcap_mb", "600.0"), ("seed", "2"), ("alpha", "2"), ("cold", "100")],
                &[("policy", "medes"), ("memcap_mb", "600.0"), ("seed", "1"), ("alpha", "2"), ("cold", "0")],
            ],
        );
        let b = run(
            "b",
            &[
                &[("policy", "medes"), ("memcap_mb", "600"), ("seed", "1"), ("alpha", "3"), ("cold", "5")],
                &[("policy", "fixed"), ("memcap_mb", "600"), ("seed", "2"), ("alpha", "3"), ("cold", "150")],
                &[("policy", "fixed"), ("memcap_mb", "600"), ("seed", "1"), ("alpha", "3"), ("cold", "15")],
                &[("policy", "lru"), ("memcap_mb", "600"), ("seed", "1"), ("alpha", "3"), ("cold", "15")],
            ],
        );
        let c = compare(&a, &b).unwrap();
        assert_eq!(c.differs, [("alpha".to_owned(), ["2".to_owned(), "3".to_owned()])].into());
        assert_eq!((c.rows.len(), c.unmatched), (2, [0, 1]));
        let cold = of(&c, 0, "cold");
        assert_eq!((cold.first, cold.second, cold.change), (55.0, 82.5, Some(0.5)));
        assert_eq!((cold.low, cold.high), (Some(0.5), Some(0.5)));
        assert_eq!(of(&c, 1, "cold").change, None, "from none to some is no ratio");
        assert_eq!(c.beyond(0.2).iter().filter(|l| l.contains("cold")).count(), 2);
    }

    #[test]
    fn policy_is_held_against_policy_where_each_run_has_one() {
        let a = run("a", &[&[("policy", "fixed"), ("seed", "1"), ("cold", "8")]]);
        let b = run("b", &[&[("policy", "medes"), ("seed", "7"), ("cold", "6")]]);
        let c = compare(&a, &b).unwrap();
        assert_eq!(c.differs.keys().collect::<Vec<_>>(), ["policy", "seed"]);
        assert_eq!(of(&c, 0, "cold").change, Some(-0.25));
    }

    #[test]
    fn one_seed_is_held_against_each_of_several() {
        let a = run("a", &[&[("policy", "fixed"), ("seed", "1"), ("cold", "10")]]);
        let rows = [["1", "8"], ["2", "12"], ["3", "13"]]
            .map(|[seed, cold]| [("policy", "fixed"), ("seed", seed), ("cold", cold)]);
        let b = run("b", &rows.each_ref().map(|r| &r[..]));
        let c = compare(&a, &b).unwrap();
        assert_eq!(c.differs["seed"], ["1".to_owned(), "1, 2, 3".to_owned()]);
        let cold = of(&c, 0, "cold");
        assert_eq!((c.rows[0].seeds, c.unmatched, cold.first, cold.second), (3, [0, 0], 10.0, 11.0));
        assert!((cold.change.unwrap() - 0.1).abs() < 1e-9 && cold.low < cold.high, "{cold:?}");
        let back = compare(&b, &a).unwrap();
        assert_eq!((back.rows[0].seeds, of(&back, 0, "cold").second), (3, 10.0));
    }

    #[test]
    fn what_does_not_match_or_is_not_clear_is_said() {
        let a = run("a", &[&[("policy", "fixed"), ("seed", "1")], &[("policy", "lru"), ("seed", "1")]]);
        let b = run("b", &[&[("policy", "medes"), ("seed", "1")], &[("policy", "none"), ("seed", "1")]]);
        let said = compare(&a, &b).unwrap_err().to_string();
        assert!(said.contains("policy: fixed, lru against medes, none"), "{said}");
        let twice = run("a", &[&[("policy", "fixed"), ("seed", "1")], &[("policy", "fixed"), ("seed", "1")]]);
        assert!(compare(&twice, &b).unwrap_err().to_string().contains("several rows"));
    }
}
