//! `medes measure`: what functions cost in real sandboxes of this machine, as a profile set that the simulator loads.

mod control;
mod profile;
mod starts;

pub use profile::machine;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use medes_engine::config::Config;
use medes_engine::id::SandboxId;
use medes_real::load::{Load, shipped};
use medes_real::measure::{Rig, Samples};
use medes_real::node::NodeOptions;
use medes_real::ops::OpError;
use serde::Serialize;

use self::control::Control;
use self::starts::Starts;
use crate::output::{Output, figures};
use crate::profiles;
use crate::real::commands::RunDir;
use crate::run::INTERRUPTED;

/// Which functions are measured, and how often.
#[derive(clap::Args)]
pub struct FunctionArgs {
    /// Functions; default: the ten that are shipped.
    #[arg(value_name = "FUNCTION")]
    names: Vec<String>,
    /// A function of your own: an OpenWhisk-style Python action with `main`; repeatable.
    #[arg(long, value_name = "NAME=FILE")]
    function: Vec<String>,
    /// How often each is started, reduced and restored.
    #[arg(long, value_name = "N", default_value = "7")]
    rounds: std::num::NonZeroU16,
    /// Folder for the figure of a dedup start in its parts beside the cold start; default: none is drawn.
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// Start times as a table that `medes figures --dumps` reads as starts.csv in its folder.
    #[arg(long, value_name = "FILE")]
    starts: Option<PathBuf>,
}

/// Times, ms: what was seen, and the distribution that the simulator draws from.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    median: f64,
    p99: f64,
    min: f64,
    max: f64,
    n: usize,
}

impl Spread {
    /// The median, and the 99th percentile of the lognormal distribution with the samples' spread: a handful of samples has no
    /// percentile of its own.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
        let median = if n % 2 == 1 { at(n / 2) } else { (at(n / 2) + at((n / 2).wrapping_sub(1))) / 2.0 };
        let logs: Vec<f64> = sorted.iter().filter(|v| **v > 0.0).map(|v| v.ln()).collect();
        let mean = logs.iter().sum::<f64>() / (logs.len() as f64).max(1.0);
        let square = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (logs.len() as f64 - 1.0).max(1.0);
        let p99 = median * (2.326_347_874 * square.sqrt()).exp();
        Self { median, p99, min: at(0), max: at(n.saturating_sub(1)), n }
    }
}

/// A function, measured.
#[derive(Debug, Serialize)]
pub struct Measured {
    function: String,
    memory_mb: f64,
    stored_mb: f64,
    held_mb: f64,
    starts: Starts,
    times_ms: BTreeMap<&'static str, Spread>,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    host: String,
    kernel: String,
    criu: String,
    date: String,
    rounds: u16,
    agent_mb: f64,
    control_ms: Spread,
    functions: Vec<Measured>,
    written: PathBuf,
}

/// Measures, prints, writes.
///
/// # Errors
/// Something is missing here, a name is wrong, or a step failed ([`OpError`]).
pub fn run(args: &FunctionArgs, base: &str, to: &Path, out: &Output) -> anyhow::Result<()> {
    let (times, _) = profiles::load(base)?;
    let (loads, own) = functions(args)?;
    possible()?;
    let folder = RunDir::new()?;
    let mut control = control::measure(out)?;
    let run_dir = folder.path().join("m");
    let mut rig = Rig::new(&run_dir, |options| options.functions.clone_from(&own), &Config::default())?;
    let criu = rig.criu_version()?.to_owned();
    let mut samples = sample(&mut rig, &loads, args.rounds.get(), &mut control, out)?;
    // Now one of each function is there, as on a node that serves them all, and one more on another node of this machine.
    for load in &loads {
        rig.beside(load).with_context(|| format!("{}, one more", load.action))?;
    }
    for (_, id, s) in &mut samples {
        (s.memory, s.parts) = (rig.resident(*id), rig.parts(*id));
    }
    drop(rig);
    control.extend(control::measure(out)?);
    let facts = profile::Facts::new(criu, args.rounds.get());
    let (set, rows) = profile::assemble(to, &samples, &times, &control, &facts, |name| {
        out.say(format!("{name}: classes of pages"));
    })?;
    if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let origin = facts.text();
    if let Some(path) = &args.starts {
        std::fs::write(path, starts::csv(&rows, &origin)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(folder) = &args.figures {
        let drawn = medes_plots::draw(&starts::figure(&rows, &origin), folder)?;
        out.say(format!("figure: {}", drawn.svg_path.display()));
    }
    std::fs::write(to, profile::text(&set, &rows)?).with_context(|| format!("cannot write {}", to.display()))?;
    let report = Report {
        host: facts.host,
        kernel: facts.kernel,
        criu: facts.criu,
        date: facts.date,
        rounds: args.rounds.get(),
        agent_mb: control.agent_mb,
        control_ms: Spread::of(&control.added()),
        functions: rows,
        written: to.to_path_buf(),
    };
    let text = format!("{}\n{}", starts::table(&report.functions), table(&report.functions));
    out.result(&text, &report)?;
    out.say(format!("written to {0}; 'medes run quickstart --set profile={0}' uses it", to.display()));
    Ok(())
}

/// What is asked of each function, and the files of the user's own.
fn functions(args: &FunctionArgs) -> anyhow::Result<(Vec<Load>, BTreeMap<String, PathBuf>)> {
    let mut own = BTreeMap::new();
    let mut loads = Vec::new();
    for given in &args.function {
        let Some((name, file)) = given.split_once('=').filter(|(n, f)| !n.is_empty() && !f.is_empty()) else {
            bail!("--function {given}: give it as NAME=FILE");
        };
        std::fs::metadata(file).with_context(|| format!("--function {name}: cannot read {file}"))?;
        own.insert(name.to_owned(), PathBuf::from(file));
        loads.push(Load { action: name.to_owned(), arguments: None, checked: false });
    }
    for name in &args.names {
        let Some(known) = shipped().find(|s| s.eq_ignore_ascii_case(name)) else {
            let all: Vec<&str> = shipped().collect();
            bail!(
                "there is no function {name}: shipped are {}; name your own with --function NAME=FILE",
                all.join(", ")
            );
        };
        loads.push(Load::shipped(known));
    }
    if loads.is_empty() {
        loads.extend(shipped().map(Load::shipped));
    }
    for (i, load) in loads.iter().enumerate() {
        if loads[..i].iter().any(|other| other.action == load.action) {
            bail!("{} is named twice", load.action);
        }
    }
    Ok((loads, own))
}

/// Whether sandboxes can be made and checkpointed here.
fn possible() -> Result<(), OpError> {
    let options = NodeOptions::new(medes_engine::id::NodeId(0), Path::new("/"));
    let missing = [
        (!nix::unistd::geteuid().is_root()).then_some("root (sudo medes measure)"),
        (!options.criu.exists()).then_some("CRIU (scripts/setup-criu installs one, MEDES_CRIU names another)"),
        (!options.python.exists()).then_some("the functions' libraries (scripts/make-dumps installs them)"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let reason = format!("missing: {}; `medes doctor` looks at all of it", missing.join("; "));
    Err(OpError::Sandbox { what: "measuring real sandboxes".into(), reason, gone: false })
}

/// All functions by turns: others have run between two starts of one, as in a run of a trace, and noise of some minutes meets all alike.
fn sample(
    rig: &mut Rig,
    loads: &[Load],
    rounds: u16,
    control: &mut Control,
    out: &Output,
) -> anyhow::Result<Vec<(String, SandboxId, Samples)>> {
    let mut all = Vec::new();
    let mut compared = Vec::new();
    for load in loads {
        let failed = |what: &'static str| move || format!("{}, {what}", load.action);
        let mut samples = Samples::default();
        let id = rig.base(load, &mut samples).with_context(failed("as a base"))?;
        let plain = rig.plain(load).with_context(failed("a plain restore"))?;
        // Once without counting: libraries come from disk.
        rig.round(load, 0, &mut Samples::default()).with_context(failed("first round"))?;
        rig.others_round(&plain, load, 0, &mut samples).with_context(failed("first round"))?;
        out.say(format!("{}: runs", load.action));
        all.push((load.action.clone(), id, samples));
        compared.push(plain);
    }
    for round in 1..=rounds {
        for ((load, (_, _, samples)), plain) in loads.iter().zip(&mut all).zip(&compared) {
            if INTERRUPTED.load(Ordering::Relaxed) {
                bail!(OpError::Late { what: "measuring: stopped, it".into() });
            }
            let failed = || format!("{}, round {round}", load.action);
            rig.round(load, round.into(), samples).with_context(failed)?;
            rig.others_round(plain, load, round.into(), samples).with_context(failed)?;
        }
        out.say(format!("round {round} of {rounds}"));
        if round == rounds.div_ceil(2) {
            control.extend(control::measure(out)?);
        }
    }
    for (load, (_, _, samples)) in loads.iter().zip(&mut all) {
        rig.growth(load, samples).with_context(|| format!("{}, as it grows", load.action))?;
    }
    Ok(all)
}

fn table(rows: &[Measured]) -> String {
    let columns: Vec<&'static str> = rows.first().map(|r| r.times_ms.keys().copied().collect()).unwrap_or_default();
    let head = ["function".to_owned(), "ms".to_owned(), "median".into(), "p99".into(), "min".into(), "max".into()];
    let line = |r: &Measured, what: &str, s: &Spread| {
        let number = |v: f64| if v < 100.0 { format!("{v:.2}") } else { format!("{v:.0}") };
        vec![r.function.clone(), what.to_owned(), number(s.median), number(s.p99), number(s.min), number(s.max)]
    };
    let of = |r: &Measured| columns.iter().filter_map(|c| Some(line(r, c, r.times_ms.get(c)?))).collect::<Vec<_>>();
    let mut text = figures(&head, &rows.iter().flat_map(of).collect::<Vec<_>>(), &[]);
    text.push_str("\n\n");
    for r in rows {
        text.push_str(&format!(
            "{}: {:.1} MB warm, {:.2} MB reduced and {:.1} MB held\n",
            r.function, r.memory_mb, r.stored_mb, r.held_mb
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_and_a_percentile_beyond_it() {
        let s = Spread::of(&[4.0, 1.0, 2.0]);
        assert_eq!((s.median, s.min, s.max, s.n), (2.0, 1.0, 4.0, 3));
        // Logarithms 0, ln 2, 2 ln 2: their deviation is ln 2.
        assert!((s.p99 - 2.0 * 2f64.powf(2.326_347_874)).abs() < 1e-9, "{s:?}");
        let same = Spread::of(&[3.0; 4]);
        assert_eq!((same.median, same.p99), (3.0, 3.0));
    }

    #[test]
    fn functions_are_named_or_all_and_wrong_ones_are_told() {
        let args = |names: &[&str], function: &[&str]| FunctionArgs {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            function: function.iter().map(|n| (*n).to_owned()).collect(),
            rounds: std::num::NonZeroU16::MIN,
            figures: None,
            starts: None,
        };
        assert_eq!(functions(&args(&[], &[])).unwrap().0.len(), 10);
        assert_eq!(functions(&args(&["RNNModel"], &[])).unwrap().0[0].action, "rnnmodel");
        let said = |a: &FunctionArgs| format!("{:#}", functions(a).unwrap_err());
        assert!(said(&args(&["jpeg"], &[])).contains("shipped are vanilla"));
        assert!(said(&args(&["linalg", "linalg"], &[])).contains("twice"));
        assert!(said(&args(&[], &["mine"])).contains("NAME=FILE"));
        assert!(said(&args(&[], &["mine=/nonexistent/x.py"])).contains("/nonexistent/x.py"));
    }
}
