//! `medes`: the command line.
//!
//! Exit status: 0 done, 1 the run failed, 2 bad usage or input. Results go to standard output, everything else to standard error.

mod bench;
mod cluster_cmd;
mod compare;
mod dedup_cmd;
mod doctor;
mod experiment;
mod explain;
mod figures;
mod host;
mod measure_cmd;
mod output;
mod pipeline;
mod profiles;
mod rdma_cmd;
mod real;
mod reference;
mod report;
mod run;
mod slurm;
mod store;
mod table;
mod trace_cmd;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use medes_traces::{TraceKind, TraceOptions, TraceSpec, Window};

use crate::experiment::{Experiment, Overrides, SHIPPED};
use crate::host::Hosts;
use crate::output::Output;
use crate::run::{INTERRUPTED, Inputs};
use crate::store::Store;
use crate::workload::Workload;

/// The commit that the binary was built from.
pub const VERSION: &str = env!("MEDES_COMMIT");

/// Memory-efficient serverless: simulate function traces under a memory cap, compare policies, deduplicate memory.
#[derive(Parser)]
#[command(
    name = "medes",
    version,
    after_help = "Start here:\n  medes run quickstart            a generated trace, six policies, three memory caps\n  \
        medes run memcap --trace azure2019:FOLDER\n  medes explain                   every parameter, policy and strategy\n\n\
        Exit status: 0 done, 1 the run failed, 2 bad usage or input."
)]
struct Cli {
    /// Results as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notes on standard error.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an experiment: a grid of parameters and seeds, in parallel, resumable.
    #[command(
        after_help = "Examples:\n  medes run quickstart\n  medes run experiments/memcap.toml --trace azure2019:azurefunctions-dataset2019 --set trace.days=[1]\n  \
            medes run quickstart --set chunksperpage=1,5,20 --set policy=medes --seed 1 --seed 2\n  \
            medes run my.toml --config path/to/medes/config      (controller.ini, agent.ini, cluster.json)\n\n\
            A broken-off run (Ctrl-C, kill) continues where it stopped when the same command is given again.\n\n\
            On a Slurm cluster, from a folder that all nodes see:\n  medes run my.toml --on slurm --partition short --tasks 100\n\
            submits the cells as a job array, follows it and gathers the results. Ctrl-C leaves the jobs alone; the same command\n\
            follows them again, and runs the cells of failed and lost tasks again. --jobs is the cores of a task (default 1).\n\
            Accounts and limits by way of the environment: SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_QOS, SBATCH_MEM_PER_CPU."
    )]
    Run(RunArgs),
    /// Regenerate the figures of the paper's evaluation, with a report that holds its statements against the rows.
    #[command(after_help = "\
Each figure is an experiment file (experiments/paper/) with the paper's statements on it. In --out are afterwards report.html, figures/ (SVG, PNG,\n\
CSV and origin of each picture) and rows/. Finished runs are kept: after Ctrl-C, or for other figures of the same runs, the same folder goes on.\n\n\
Examples:\n  medes figures                     all of them, at full size\n  medes figures --list              what each shows, needs and takes\n  \
            medes figures 5 8 12              some, by number or name\n  medes figures --small --out try   small versions, of seconds: does it work here?\n  \
            medes figures --trace azure2019:azurefunctions-dataset2019 --set trace.days=[1] --set trace.window=600..659\n  \
            medes figures 14 --set policy=medes,lru --seed 1 --seed 2\n  \
            medes figures 1 2 10 11 --dumps dumps      from dumps that scripts/make-dumps made\n  \
            sudo medes figures 4 --backend real        on real sandboxes of this machine, in minutes")]
    Figures(figures::FiguresArgs),
    /// Hold two runs side by side: simulated against real, policy against policy, before against after.
    Compare(compare::CompareArgs),
    /// List the shipped experiments.
    List,
    /// Explain a parameter, policy, strategy or profile set; all of them without a name.
    Explain {
        /// What to explain.
        name: Option<String>,
    },
    /// Run a requests file on the agents of a cluster, with the reference's configuration.
    Controller(ControllerArgs),
    /// Be the agent of a node: carry out a controller's orders on sandboxes of this machine.
    Agent(real::commands::AgentArgs),
    /// Remove what controllers and agents that are gone have left on this machine.
    Clean(real::commands::CleanArgs),
    /// Say what this machine can do, and how to get what is missing.
    Doctor,
    /// Look at traces, sample, make and convert them.
    #[command(subcommand)]
    Trace(trace_cmd::TraceCmd),
    /// Agents on other hosts, over ssh: check, up, status, logs, down.
    #[command(subcommand)]
    Cluster(cluster_cmd::ClusterCmd),
    /// Deduplicate real memory: analyse dumps, sweep settings, pack, unpack, verify, model.
    #[command(subcommand)]
    Dedup(dedup_cmd::DedupCmd),
    /// Measure how fast this build is on this machine, and against an earlier one.
    Bench(bench::BenchArgs),
    /// How fast base pages can be read from other nodes.
    #[command(subcommand)]
    Rdma(rdma_cmd::RdmaCmd),
    /// Measure real sandboxes, or the network, of this hardware for the simulator.
    Measure(rdma_cmd::MeasureArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// An experiment file, or the name of a shipped experiment (`medes list`).
    #[arg(value_name = "FILE")]
    experiment: String,
    /// Set a parameter; several values make a grid. Also: seeds, profile, functions, request_rows, trace.KEY.
    #[arg(long, value_name = "KEY=VALUE[,VALUE...]")]
    set: Vec<String>,
    /// The trace: azure-like, or azure2019:, azure2021:, invitro:, requests:, csv: and a path.
    #[arg(long, value_name = "KIND:PATH")]
    trace: Option<String>,
    /// Seed, repeatable; replaces the experiment's list.
    #[arg(long, value_name = "N")]
    seed: Vec<u64>,
    /// Cells run at once; default: one a core.
    #[arg(long, short, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,
    /// Result folder; default: a folder under results/ that the same command finds again.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder with the reference's controller.ini, agent.ini, cluster.json; --set goes before them.
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Let the outside checker prove that memory, references and requests add up (slow).
    #[arg(long)]
    check: bool,
    /// Where the cells run: on this machine, or as a job array of a Slurm cluster.
    #[arg(long, value_name = "WHERE", default_value = "here")]
    on: Where,
    /// Slurm: the partition; default: the cluster's.
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// Slurm: array tasks at most, each with its share of the cells; default: one a cell, 200 at most.
    #[arg(long, value_name = "N")]
    tasks: Option<std::num::NonZeroUsize>,
    /// The world: `sim` in virtual time, `real` on sandboxes of this machine, or of a cluster with --cluster.
    #[arg(long, value_name = "WORLD", default_value = "sim")]
    backend: Backend,
    /// Simulate on the host of a real run: cores as fast as DIR/host.csv, of the same experiment with --backend real, says.
    #[arg(long, value_name = "DIR", conflicts_with = "cluster")]
    host: Option<PathBuf>,
    /// Real: a cluster file (the reference's cluster.json); the agents run there already.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// This is a task of a job array: run its cells of the plan, nothing else.
    #[arg(long, value_name = "PLAN", hide = true)]
    slurm_task: Option<PathBuf>,
    /// Threads of the controller, real; that of `medes controller`.
    #[arg(skip)]
    threads: Option<u16>,
}

/// Which world carries the engine's actions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// In virtual time, with modelled memory.
    Sim,
    /// On machines, with measured memory.
    Real,
}

/// As the reference's `controller`.
#[derive(clap::Args)]
struct ControllerArgs {
    /// Threads that carry orders to agents and their answers back.
    #[arg(value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Requests: `<timestamp ms> <application> <environment>` a line; -1 ends the run.
    requests: PathBuf,
    /// Folder with controller.ini, agent.ini, cluster.json; without a cluster.json the agents are started here.
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Result folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Set a parameter, before the files.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ControllerArgs {
    fn into_run(self) -> RunArgs {
        let cluster = self.config.join("cluster.json");
        RunArgs {
            experiment: "controller".to_owned(),
            set: self.set,
            trace: Some(format!("requests:{}", self.requests.display())),
            seed: Vec::new(),
            jobs: None,
            out: self.out,
            config: Some(self.config),
            check: false,
            on: Where::Here,
            partition: None,
            tasks: None,
            backend: Backend::Real,
            host: None,
            cluster: cluster.is_file().then_some(cluster),
            slurm_task: None,
            threads: Some(self.threads),
        }
    }
}

/// Where cells run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    /// On this machine.
    Here,
    /// As a job array of a Slurm cluster, over a shared folder.
    Slurm,
}

fn main() -> ExitCode {
    // A reader that closes the pipe (`| head`) ends the program quietly, as for other tools: writes go through `Output::print`.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let out = Output { json: cli.json, quiet: cli.quiet };
    let done = match cli.command {
        Command::Run(args) => run_experiment(args, &out),
        Command::Figures(args) => catch_interrupt(&out).and_then(|()| figures::run(&args, &out)).map_err(|e| {
            let refused = matches!(e.downcast_ref::<medes_sim::SimError>(), Some(medes_sim::SimError::Check { .. }));
            let ours = refused || INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed);
            if ours { Failure::Run(e) } else { Failure::Input(e) }
        }),
        Command::Compare(args) => compare::run(&args, &out),
        Command::List => list(&out).map_err(Failure::Run),
        Command::Explain { name } => explain::explain(name.as_deref(), &out).map_err(Failure::Input),
        Command::Controller(args) => run_experiment(args.into_run(), &out),
        Command::Agent(args) => real::commands::agent(&args, &out).map_err(Failure::Run),
        Command::Clean(args) => real::commands::clean(&args, &out).map_err(Failure::Run),
        Command::Doctor => doctor::doctor(&out).map_err(Failure::Run),
        Command::Bench(args) => bench::bench(&args, &out),
        Command::Trace(cmd) => trace_cmd::run(&cmd, &out).map_err(|e| match e.downcast_ref() {
            Some(medes_traces::TraceError::Write { .. }) => Failure::Run(e),
            _ => Failure::Input(e),
        }),
        Command::Cluster(cmd) => match cluster_cmd::run(&cmd, &out) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(1),
            Err(e) if e.downcast_ref::<medes_real::cluster::ClusterError>().is_some() => Err(Failure::Input(e)),
            Err(e) => Err(Failure::Run(e)),
        },
        Command::Dedup(cmd) => dedup_cmd::run(&cmd, &out).map_err(Failure::Input),
        Command::Rdma(cmd) => rdma_cmd::run(&cmd, &out).map_err(Failure::Input),
        Command::Measure(args) => catch_interrupt(&out).and_then(|()| rdma_cmd::measure(&args, &out)).map_err(|e| {
            match e.downcast_ref::<medes_real::ops::OpError>() {
                Some(_) => Failure::Run(e),
                None => Failure::Input(e),
            }
        }),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "medes", &mut text);
            out.print(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Run(e)) => {
            eprintln!("error: {}", told(&e));
            ExitCode::from(1)
        }
        Err(Failure::Input(e)) => {
            eprintln!("error: {}", told(&e));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes in one line. Many errors name their cause themselves: it is not said twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

/// Which of the exit statuses an error means.
enum Failure {
    Run(anyhow::Error),
    Input(anyhow::Error),
}

fn run_experiment(args: RunArgs, out: &Output) -> Result<(), Failure> {
    let bad = Failure::Input;
    if args.on == Where::Here && (args.partition.is_some() || args.tasks.is_some()) {
        return Err(bad(anyhow::anyhow!("--partition and --tasks are for a cluster: give --on slurm with them")));
    }
    let real = args.backend == Backend::Real;
    if args.cluster.is_some() && !real {
        return Err(bad(anyhow::anyhow!("--cluster is for the real world: give --backend real with it")));
    }
    if real && (args.on != Where::Here || args.check) {
        return Err(bad(anyhow::anyhow!("--backend real goes with neither --on slurm nor --check")));
    }
    if real && args.host.is_some() {
        return Err(bad(anyhow::anyhow!("--host is for the simulated world: leave --backend real out")));
    }
    let hosts = args.host.as_deref().map(Hosts::load).transpose().map_err(bad)?;
    let only = args.slurm_task.as_deref().map(slurm::task_cells).transpose().map_err(|e| bad(e.into()))?;
    let trace: Option<TraceSpec> =
        args.trace.as_deref().map(str::parse).transpose().map_err(|e: medes_traces::TraceError| bad(e.into()))?;
    let reference = args.config.as_deref().map(reference::read).transpose().map_err(bad)?.unwrap_or_default();
    let overrides = Overrides { set: args.set, trace, seeds: args.seed, reference: reference.values.clone() };
    let experiment = Experiment::load(&args.experiment, &overrides).map_err(bad)?;
    let (mut profiles, mut profile_text) = profiles::of(&experiment).map_err(bad)?;
    reference.apply(&mut profiles);
    profile_text.push_str(&format!("{:?}", reference.applications));
    for note in &reference.notes {
        out.warn(note);
    }
    let opened = medes_traces::open(&experiment.trace, &experiment.options).map_err(|e| bad(e.into()))?;
    let (opened, trimmed) = trim(opened, &experiment).map_err(bad)?;
    let workload = Workload::new(opened, experiment.functions, &profiles);
    if workload.functions.is_empty() || workload.trace.requests() == 0 {
        return Err(bad(anyhow::anyhow!("the trace {} has no request to serve; check its window", experiment.trace)));
    }
    let identity = run::trace_identity(&experiment).map_err(bad)?;
    let folder = args.out.unwrap_or_else(|| {
        report::default_folder(
            &experiment,
            &format!(
                "{experiment:?} {identity} {profile_text}{}{}",
                if real { " real" } else { "" },
                hosts.as_ref().map_or(String::new(), |h| format!(" {:x}", h.digest))
            ),
        )
    });
    let store = Store::open(&folder).map_err(Failure::Run)?;
    catch_interrupt(out).map_err(Failure::Run)?;
    if real {
        let length_s = workload.trace.length.as_secs_f64() / experiment.real.time_scale;
        let cells = experiment.cells().map_err(bad)?.len() * experiment.seeds.len();
        out.say(real::takes(cells, length_s));
    }
    let machines = match real {
        true => {
            let mut there =
                machines(&args.experiment, args.cluster.as_deref(), &experiment, out).map_err(Failure::Run)?;
            there.threads = args.threads.map_or(there.threads, usize::from);
            Some(there)
        }
        false => None,
    };
    let cores = if args.on == Where::Slurm { None } else { std::thread::available_parallelism().ok() };
    // Cells of the real world would measure each other.
    let jobs = if real { 1 } else { args.jobs.or(cores).map_or(1, std::num::NonZero::get) };
    let inputs = Inputs {
        experiment: &experiment,
        profiles: Arc::new(profiles),
        profile_text,
        workload: &workload,
        jobs,
        check: args.check,
        only,
        machines: machines.as_ref(),
        hosts: hosts.as_ref(),
    };
    run::hosts(&inputs).map_err(bad)?;
    let here = || {
        run::run(&inputs, &store, out).map_err(|e| match e.downcast_ref::<medes_sim::SimError>() {
            Some(medes_sim::SimError::Check { .. }) | None => Failure::Run(e),
            Some(_) => Failure::Input(e),
        })
    };
    let finished = match args.slurm_task {
        Some(plan) => {
            return slurm::check_task(&inputs, &plan).map_err(|e| bad(e.into())).and_then(|()| here()).map(drop);
        }
        None if args.on == Where::Slurm => {
            let arguments = std::env::args_os().skip(1).collect();
            let wish = slurm::Wish { partition: args.partition, tasks: args.tasks, cores: jobs, arguments };
            slurm::run(&inputs, &store, &wish, out).map_err(|e| match e.is_input() {
                true => Failure::Input(e.into()),
                false => Failure::Run(e.into()),
            })?
        }
        None => here()?,
    };
    let notes = reference.notes.into_iter().chain(trimmed).collect();
    report::publish(&experiment, &workload, &finished, &store, notes, out).map_err(Failure::Run)
}

/// From now on the first Ctrl-C stops after what is under way, the second one at once.
fn catch_interrupt(out: &Output) -> anyhow::Result<()> {
    let handler = || {
        if INTERRUPTED.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    if ctrlc::set_handler(handler).is_err() {
        out.warn("Ctrl-C cannot be caught here: it ends the program at once; finished cells are kept all the same");
    }
    Ok(())
}

/// Leaves out minutes before the first and after the last request of a trace in counts a minute, unless a window is asked for: a
/// sample of some hours comes in files of a whole day, and memory would be averaged over hours in which nothing is recorded.
fn trim(trace: medes_traces::Trace, experiment: &Experiment) -> anyhow::Result<(medes_traces::Trace, Option<String>)> {
    let counted = experiment.trace.kind == TraceKind::Azure2019;
    if !counted || experiment.options.window.is_some() {
        return Ok((trace, None));
    }
    let (mut first, mut last) = (usize::MAX, 0);
    trace.for_each_count(|minute, _, count| {
        if count > 0 {
            first = first.min(minute);
            last = last.max(minute);
        }
    });
    let minutes = trace.minutes();
    if first > last || (first == 0 && last + 1 == minutes as usize) {
        return Ok((trace, None));
    }
    let window = Window { first: first as u32 + 1, last: last as u32 + 1 };
    let options = TraceOptions { window: Some(window), ..experiment.options.clone() };
    let note = format!(
        "only minutes {window} of {minutes} have requests, and only they are run; --set trace.window=\"1..{minutes}\" runs all"
    );
    Ok((medes_traces::open(&experiment.trace, &options)?, Some(note)))
}

/// The agents: those of the cluster, or as many as the cells need of this machine's.
fn machines(
    file: &str,
    cluster: Option<&std::path::Path>,
    experiment: &Experiment,
    out: &Output,
) -> anyhow::Result<real::Machines> {
    let folder = std::path::Path::new(file).parent().map(std::path::Path::to_owned).unwrap_or_default();
    if let Some(cluster) = cluster {
        return real::Machines::of_cluster(cluster, folder);
    }
    let nodes = experiment.cells()?.iter().map(|c| c.config.nodes).max().unwrap_or(1);
    out.say(format!("starting {nodes} agents on this machine"));
    real::Machines::local(nodes, folder)
}

fn list(out: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (name, _) in SHIPPED {
        let e = Experiment::load(name, &Overrides::default())?;
        let cells = e.cells()?.len() * e.seeds.len();
        rows.push((name, e.title, e.question, cells));
    }
    if out.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| serde_json::json!({"name": r.0, "title": r.1, "question": r.2, "cells": r.3}))
            .collect();
        out.print(serde_json::to_string_pretty(&rows)?);
    } else {
        let head = ["experiment", "title", "question", "cells x seeds"].map(str::to_owned);
        out.print(output::table(head, rows.into_iter().map(|r| vec![(*r.0).to_owned(), r.1, r.2, r.3.to_string()])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
