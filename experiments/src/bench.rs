//! `medes bench`: how fast this build is on this machine, and against an earlier one on the same machine.
//!
//! Each job runs in a process of its own, so that none has the memory or the warm caches of another. Jobs are run in turn and the
//! best of the repeats counts: other work on a machine only ever adds time. Rates are by the processor time of the job, not by the clock.

mod baseline;
mod jobs;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::output::{Output, figures};
use baseline::{Machine, load_average};
use jobs::{GROWTH, JOBS, Job, Measured};

/// `medes bench`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  medes bench                                 all jobs, best of 5, about two minutes\n  \
    medes bench --save before                   keep the figures under a name\n  \
    medes bench --against before                ratios against them: above 1 is faster, or more memory\n  \
    medes bench medes \"100 nodes\" --repeat 10   jobs whose names have one of these words\n\n\
    The simulations are the generated day of 400 functions and 1,500,400 invocations with constant modelled times, on one core; those of\n\
    46,412 functions are 14 minutes of the full day. `enough` memory means that nothing is evicted. Growth is what one invocation costs in the\n\
    large job over what it costs in the small one. Baselines are kept in medes/baselines.json in the user's data folder (XDG_DATA_HOME or ~/.local/share)."
)]
pub struct BenchArgs {
    /// Only jobs whose names contain one of these.
    jobs: Vec<String>,
    /// How often each job is run; the best counts.
    #[arg(long, value_name = "N")]
    repeat: Option<std::num::NonZeroU32>,
    /// Keep the figures as this baseline.
    #[arg(long, value_name = "NAME")]
    save: Option<String>,
    /// Print ratios against this baseline.
    #[arg(long, value_name = "NAME")]
    against: Option<String>,
    /// The file with the baselines, instead of the one in the user's data folder.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Compare with a baseline of another machine all the same.
    #[arg(long, requires = "against")]
    other_machine: bool,
    /// Small jobs, once each: whether it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Run this job once here and print what was measured.
    #[arg(long, hide = true, value_name = "JOB")]
    only: Option<String>,
}

/// The figures of a run of `medes bench`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// When, UTC.
    pub date: String,
    /// Of which build: version and commit.
    pub version: String,
    /// On what.
    pub machine: Machine,
    /// Whether the small jobs were run.
    pub quick: bool,
    /// How often each.
    pub repeats: u32,
    /// Load average over a minute, before and after.
    pub load: [f64; 2],
    /// A row a job.
    pub jobs: Vec<Row>,
}

/// What one job took at best.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub job: String,
    /// What `rate` counts.
    pub unit: String,
    /// Work per second of processor time.
    pub rate: f64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// Time by the clock in the same repeat, seconds.
    pub wall_s: f64,
    /// Peak memory of the process, MB.
    pub peak_mb: f64,
    /// Processor time of the worst repeat over that of the best.
    pub worst: f64,
}

/// What is to be done, once nothing is wrong with it.
struct Plan<'a> {
    jobs: Vec<&'a Job>,
    machine: Machine,
    file: PathBuf,
    /// Figures to compare with.
    against: Option<Figures>,
}

/// Runs the jobs, compares, keeps, prints.
pub fn bench(args: &BenchArgs, out: &Output) -> Result<(), Failure> {
    if let Some(name) = &args.only {
        return one(name, args.quick, out).map_err(Failure::Run);
    }
    let plan = plan(args, out).map_err(Failure::Input)?;
    carry_out(args, plan, out).map_err(Failure::Run)
}

fn one(name: &str, quick: bool, out: &Output) -> anyhow::Result<()> {
    let job = JOBS.iter().find(|j| j.name == name).with_context(|| format!("no job `{name}`"))?;
    out.print(serde_json::to_string(&jobs::measure(job, quick)?)?);
    Ok(())
}

/// Checks the arguments and the baseline before anything is measured.
fn plan<'a>(args: &BenchArgs, out: &Output) -> anyhow::Result<Plan<'a>> {
    let wanted = |j: &&Job| args.jobs.is_empty() || args.jobs.iter().any(|w| j.name.contains(w.as_str()));
    let jobs: Vec<&Job> = JOBS.iter().filter(wanted).collect();
    if jobs.is_empty() {
        let names: Vec<&str> = JOBS.iter().map(|j| j.name).collect();
        bail!("no job's name contains `{}`; jobs: {}", args.jobs.join("` or `"), names.join("; "));
    }
    let machine = Machine::this();
    let file = baseline::file(args.baseline.as_deref())?;
    let against = args.against.as_ref().map(|name| baseline::find(&file, name, &machine, args, out)).transpose()?;
    Ok(Plan { jobs, machine, file, against })
}

fn carry_out(args: &BenchArgs, plan: Plan<'_>, out: &Output) -> anyhow::Result<()> {
    let repeats = args.repeat.map_or(if args.quick { 1 } else { 5 }, std::num::NonZero::get);
    let before = load_average();
    if !args.quick && before > 0.5 * plan.machine.cores as f64 {
        let cores = plan.machine.cores;
        out.say(format!(
            "note: the load average is {before:.1} on {cores} cores: the figures are those of a busy machine"
        ));
    }
    let jobs = measure_all(&plan.jobs, repeats, args.quick, out)?;
    let figures = Figures {
        date: baseline::now(),
        version: format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::VERSION),
        machine: plan.machine,
        quick: args.quick,
        repeats,
        load: [before, load_average()],
        jobs,
    };
    if let Some(name) = &args.save {
        let old = baseline::save(&plan.file, name, &figures)?;
        let instead = old.map(|f| format!(" in place of that of {}", f.date)).unwrap_or_default();
        out.say(format!("kept as `{name}` in {}{instead}", plan.file.display()));
    }
    print(&figures, plan.against.as_ref().zip(args.against.as_deref()), out)
}

/// All jobs in turn, that many times; the best of each.
fn measure_all(jobs: &[&Job], repeats: u32, quick: bool, out: &Output) -> anyhow::Result<Vec<Row>> {
    let program = std::env::current_exe().context("cannot find this program to run a job apart")?;
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); jobs.len()];
    for round in 1..=repeats {
        if repeats > 1 {
            out.say(format!("round {round} of {repeats}"));
        }
        for (job, runs) in jobs.iter().zip(&mut runs) {
            let mut command = Command::new(&program);
            command.args(["bench", "--only", job.name]).args(quick.then_some("--quick"));
            let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
            let done = done.with_context(|| format!("cannot start {} for job `{}`", program.display(), job.name))?;
            if !done.status.success() {
                bail!("job `{}` ended with {}", job.name, done.status);
            }
            runs.push(serde_json::from_slice(&done.stdout).with_context(|| format!("job `{}`", job.name))?);
        }
    }
    let row = |(job, runs): (&&Job, &Vec<Measured>)| {
        let best = runs.iter().min_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s))?;
        let worst = runs.iter().map(|r| r.cpu_s).fold(0.0, f64::max);
        Some(Row {
            job: job.name.to_owned(),
            unit: job.unit().to_owned(),
            rate: best.work / best.cpu_s,
            cpu_s: best.cpu_s,
            wall_s: best.wall_s,
            peak_mb: runs.iter().map(|r| r.peak_mb).fold(0.0, f64::max),
            worst: worst / best.cpu_s,
        })
    };
    Ok(jobs.iter().zip(&runs).filter_map(row).collect())
}

/// How much more one request costs in each large job than in the small one beside it, of those jobs that were run.
fn growth(rows: &[Row]) -> Vec<(&'static str, f64)> {
    let rate = |job: &str| rows.iter().find(|r| r.job == job).map(|r| r.rate);
    GROWTH.iter().filter_map(|(name, large, small)| Some((*name, rate(small)? / rate(large)?))).collect()
}

fn print(figures_: &Figures, against: Option<(&Figures, &str)>, out: &Output) -> anyhow::Result<()> {
    let earlier = |job: &str| against.and_then(|(f, _)| f.jobs.iter().find(|r| r.job == job));
    if out.json {
        let mut value = serde_json::to_value(figures_)?;
        let grows = |(name, cost): (&str, f64)| serde_json::json!({"growth": name, "cost": cost});
        value["growth"] = growth(&figures_.jobs).into_iter().map(grows).collect();
        if let Some((old, name)) = against {
            let ratio = |r: &Row| {
                let old = earlier(&r.job)?;
                Some(serde_json::json!({"job": r.job, "rate": r.rate / old.rate, "peak_mb": r.peak_mb / old.peak_mb}))
            };
            let ratios: Vec<_> = figures_.jobs.iter().filter_map(ratio).collect();
            value["against"] =
                serde_json::json!({"name": name, "date": old.date, "version": old.version, "ratios": ratios});
        }
        out.print(serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let mut head = ["of", "job", "per CPU second", "CPU s", "wall s", "peak MB", "worst"].map(str::to_owned).to_vec();
    if against.is_some() {
        head.extend(["ratio", "memory"].map(str::to_owned));
    }
    let mut rows: Vec<Vec<String>> = figures_
        .jobs
        .iter()
        .map(|r| {
            let scaled =
                if r.rate >= 1e6 { format!("{:.2} M", r.rate / 1e6) } else { format!("{:.1} k", r.rate / 1e3) };
            let part = JOBS.iter().find(|j| j.name == r.job).map_or("", Job::part);
            let mut row = vec![
                part.to_owned(),
                r.job.clone(),
                format!("{scaled} {}", r.unit),
                format!("{:.3}", r.cpu_s),
                format!("{:.3}", r.wall_s),
                format!("{:.1}", r.peak_mb),
                format!("+{:.0} %", (r.worst - 1.0) * 100.0),
            ];
            if against.is_some() {
                let ratio = |new: f64, old: Option<f64>| old.map_or("-".to_owned(), |old| format!("{:.2}", new / old));
                row.push(ratio(r.rate, earlier(&r.job).map(|o| o.rate)));
                row.push(ratio(r.peak_mb, earlier(&r.job).map(|o| o.peak_mb)));
            }
            row
        })
        .collect();
    let old_growth = against.map(|(f, _)| growth(&f.jobs)).unwrap_or_default();
    for (name, cost) in growth(&figures_.jobs) {
        let mut row = vec![String::new(); head.len()];
        row[0] = "growth".to_owned();
        row[1] = name.to_owned();
        row[2] = format!("{cost:.2} times the cost");
        if against.is_some() {
            let old = old_growth.iter().find(|(old, _)| *old == name);
            row[7] = old.map_or("-".to_owned(), |(_, old)| format!("{:.2}", old / cost));
        }
        rows.push(row);
    }
    out.print(figures(&head, &rows, &["wall s", "worst"]));
    let f = figures_;
    out.print(format!(
        "\nmedes {}, {}, best of {}\n{}, load average {:.1} before and {:.1} after",
        f.version, f.date, f.repeats, f.machine, f.load[0], f.load[1]
    ));
    if let Some((old, name)) = against {
        out.print(format!(
            "ratios against `{name}`: medes {}, {}, load average {:.1}\nabove 1 is faster, or more memory; \
             a difference within `worst` (of the repeats, against the best) says little",
            old.version, old.date, old.load[0]
        ));
    }
    Ok(())
}
