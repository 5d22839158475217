//! Running the cells of an experiment: in parallel, each by itself, written as it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration as Wall, Instant as Clock};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use medes_engine::metrics::StartSums;
use medes_engine::policy::{self, Kind};
use medes_engine::profile::ProfileSet;
use medes_engine::record::{RequestRecord, StartParts, StartSummary};
use medes_engine::units::{Duration, Instant};
use medes_sim::{Arrival, HostSpeed, Outcome, Setup, simulate, simulate_in_parts};
use xxhash_rust::xxh3::xxh3_64;

use crate::experiment::{Cell, Experiment, RequestRows};
use crate::host::Hosts;
use crate::output::{Output, thousands};
use crate::pipeline;
use crate::real::{self, Machines};
use crate::store::{CellResult, Labels, Store};
use crate::workload::Workload;

/// Set by the first Ctrl-C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Intervals of the timeline over a trace.
const INTERVALS: u64 = 480;

/// What a run needs beside the experiment.
pub struct Inputs<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// Profile set, with its text for the cells' keys.
    pub profiles: Arc<ProfileSet>,
    /// Text that determines the profile set.
    pub profile_text: String,
    /// Trace and functions.
    pub workload: &'a Workload,
    /// Threads.
    pub jobs: usize,
    /// Whether the outside checker watches.
    pub check: bool,
    /// Keys of the only cells to run, where others run the rest.
    pub only: Option<BTreeSet<String>>,
    /// Machines to run on; none: the cells are simulated.
    pub machines: Option<&'a Machines>,
    /// What the hosts were like on which the cells ran for real; none: as when the profiles were measured.
    pub hosts: Option<&'a Hosts>,
}

impl Inputs<'_> {
    /// An instant of the trace in the time of the run.
    fn scaled(&self, micros: u64) -> u64 {
        let scale = self.experiment.real.time_scale;
        if scale == 1.0 { micros } else { (micros as f64 / scale).round() as u64 }
    }

    /// What determines the rows beside parameters and trace.
    fn world(&self) -> String {
        let real = &self.experiment.real;
        let mut world = match self.machines {
            Some(machines) => format!(" real on {} {real:?}", machines.nodes()),
            None if real.time_scale == 1.0 => String::new(),
            None => format!(" x {}", real.time_scale),
        };
        if let Some(hosts) = self.hosts {
            world += &format!(" on hosts {:x}", hosts.digest);
        }
        world
    }
}

/// One cell with one seed.
pub struct Job {
    cell: Cell,
    seed: u64,
    /// Hash of all that determines its rows.
    pub key: String,
    swept: BTreeMap<String, String>,
}

/// Cells with their keys, in the experiment's order, and how many were there before.
pub struct Finished {
    /// Results, in the order of cells and seeds.
    pub cells: Vec<CellResult>,
    /// Their keys.
    pub keys: Vec<String>,
    /// How many were found finished.
    pub found: usize,
    /// Whether they ran on machines.
    pub real: bool,
}

/// Runs what is not yet in the store.
pub fn run(inputs: &Inputs<'_>, store: &Store, out: &Output) -> anyhow::Result<Finished> {
    let mut jobs = jobs(inputs)?;
    jobs.retain(|j| inputs.only.as_ref().is_none_or(|only| only.contains(&j.key)));
    let results: Vec<Mutex<Option<CellResult>>> = jobs.iter().map(|j| Mutex::new(store.find(&j.key))).collect();
    let mut todo: Vec<usize> = (0..jobs.len()).filter(|i| lock(&results[*i]).is_none()).collect();
    // The longest first: the last ones to run are short, and no thread waits long for another at the end.
    todo.sort_by(|a, b| cost(&jobs[*b]).total_cmp(&cost(&jobs[*a])));
    let found = jobs.len() - todo.len();
    if found > 0 {
        out.say(format!("{found} of {} cells are there from an earlier run", jobs.len()));
    }
    let progress = Progress::new(inputs.workload.trace.requests() * todo.len() as u64, todo.len(), out);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let threads = inputs.jobs.clamp(1, todo.len().max(1));
    let turns = Turns { draws_ahead: inputs.jobs >= 2 * threads, bound: Mutex::new(()) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(i) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stopped(&failure) {
                        return;
                    }
                    let job = &jobs[*i];
                    match run_job(inputs, store, job, &turns, &progress, &|| stopped(&failure)) {
                        Ok(result) => {
                            progress.cell_done(job, &result);
                            *lock(&results[*i]) = Some(result);
                        }
                        Err(e) => {
                            let mut failure = lock(&failure);
                            if failure.is_none() && !INTERRUPTED.load(Ordering::Relaxed) {
                                *failure = Some(e.context(format!("cell {}", label(job))));
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    progress.finish();
    if let Some(e) = lock(&failure).take() {
        return Err(e);
    }
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("stopped; finished cells are kept: the same command continues");
    }
    let cells: Option<Vec<CellResult>> = results.iter().map(|r| lock(r).clone()).collect();
    let Some(cells) = cells else { bail!("a cell ended without a result") };
    Ok(Finished { cells, keys: jobs.into_iter().map(|j| j.key).collect(), found, real: inputs.machines.is_some() })
}

/// Checks that the hosts of all cells are known, where they are asked for.
///
/// # Errors
/// A cell that did not run for real, or that has cores enough always.
pub fn hosts(inputs: &Inputs<'_>) -> anyhow::Result<()> {
    if inputs.hosts.is_some() {
        jobs(inputs)?.iter().try_for_each(|job| host(inputs, job).map(drop))?;
    }
    Ok(())
}

fn host(inputs: &Inputs<'_>, job: &Job) -> anyhow::Result<Option<HostSpeed>> {
    let Some(hosts) = inputs.hosts else { return Ok(None) };
    let config = &job.cell.config;
    anyhow::ensure!(config.cores > 0, "--host slows cores, and cell {} has no limit of cores: set `cores`", label(job));
    let own = [
        ("policy", config.policy.to_owned()),
        ("memcap_mb", config.memcap.as_mb().to_string()),
        ("nodes", config.nodes.to_string()),
        ("seed", job.seed.to_string()),
    ];
    let labels = own.map(|(k, v)| (k.to_owned(), v)).into_iter().chain(job.swept.clone()).collect();
    hosts.of(&labels, &inputs.profiles).map(Some)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn stopped<E>(failure: &Mutex<Option<E>>) -> bool {
    INTERRUPTED.load(Ordering::Relaxed) || lock(failure).is_some()
}

/// What a person calls a cell: its parameters and its seed.
pub fn label(job: &Job) -> String {
    let values: Vec<String> = job.cell.values.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{} seed={}", values.join(" "), job.seed)
}

/// How long a cell takes beside others of its experiment, in no unit: they share a trace, so it is the policy and the nodes.
pub fn cost(job: &Job) -> f64 {
    let config = &job.cell.config;
    let policy = match policy::entry(config.policy).map(|e| e.kind) {
        Some(Kind::Bound) => 0.5,
        _ if config.policy.starts_with("fixed") => 1.0,
        _ => 1.5,
    };
    policy * (1.0 + f64::from(config.nodes).log2() / 20.0)
}

/// All cells of an experiment with all seeds, in its order.
pub fn jobs(inputs: &Inputs<'_>) -> anyhow::Result<Vec<Job>> {
    let e = inputs.experiment;
    let swept_names = e.swept();
    let trace = trace_identity(e)?;
    let mut jobs = Vec::new();
    for cell in e.cells()? {
        for seed in &e.seeds {
            let mut swept: BTreeMap<String, String> = cell
                .values
                .iter()
                .filter(|(k, _)| swept_names.contains(k))
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect();
            swept.extend(cell.variant.iter().map(|v| ("variant".to_owned(), v.clone())));
            // All that determines the rows. `Debug` of the configuration lists every parameter with its value.
            let identity = format!(
                "{} {} {:?} {:?} {seed} {:?} {:?} {} {trace} {}{}",
                env!("CARGO_PKG_VERSION"),
                crate::VERSION,
                cell.config,
                swept,
                e.functions,
                e.faults,
                e.request_rows,
                inputs.profile_text,
                inputs.world(),
            );
            let key = format!("{:016x}", xxh3_64(identity.as_bytes()));
            jobs.push(Job { cell: cell.clone(), seed: *seed, key, swept });
        }
    }
    Ok(jobs)
}

/// Names, sizes and times of the files behind a trace, and the choices for reading it.
pub fn trace_identity(e: &Experiment) -> anyhow::Result<String> {
    let mut files = Vec::new();
    let path = &e.trace.path;
    let mut add = |path: &Path| -> anyhow::Result<()> {
        let meta = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(format!("{} {} {:?}", path.display(), meta.len(), meta.modified().ok()));
        Ok(())
    };
    if path.is_dir() {
        let folder = std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
        let mut paths: Vec<_> = folder.flatten().map(|f| f.path()).filter(|p| p.is_file()).collect();
        paths.sort();
        paths.iter().try_for_each(|p| add(p))?;
    } else if !path.as_os_str().is_empty() {
        add(path)?;
    }
    Ok(format!("{} {} {}", e.trace, serde_json::to_string(&e.options)?, files.join("\n")))
}

fn run_job(
    inputs: &Inputs<'_>,
    store: &Store,
    job: &Job,
    turns: &Turns,
    progress: &Progress,
    stop: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<CellResult> {
    let bound = policy::entry(job.cell.config.policy).is_some_and(|e| matches!(e.kind, Kind::Bound));
    let _turn = bound.then(|| lock(&turns.bound));
    let length = Duration::from_micros(inputs.scaled(inputs.workload.trace.length.as_micros()));
    let setup = Setup {
        config: job.cell.config.clone(),
        profiles: inputs.profiles.clone(),
        functions: inputs.workload.functions.clone(),
        faults: inputs.experiment.faults.clone(),
        seed: job.seed,
        length,
        interval: Duration::from_secs((length.as_micros() / 1_000_000).div_ceil(INTERVALS).max(1)),
        check: inputs.check,
        host: host(inputs, job)?,
    };
    let began = Clock::now();
    let mut arrivals = inputs.workload.arrivals(job.seed);
    let next_batch = |batch: &mut Vec<Arrival>| {
        let before = batch.len();
        let more = arrivals(batch) && !stop();
        for a in &mut batch[before..] {
            a.at = Instant::from_micros(inputs.scaled(a.at.as_micros()));
        }
        if inputs.machines.is_none() {
            progress.add((batch.len() - before) as u64);
        }
        more
    };
    if let Some(machines) = inputs.machines {
        return run_real(inputs, machines, store, job, &setup, next_batch, progress, stop);
    }
    let (outcome, starts) = if turns.draws_ahead {
        pipeline::ahead(next_batch, |next_batch| simulate_cell(inputs, store, job, &setup, next_batch, stop))
    } else {
        simulate_cell(inputs, store, job, &setup, next_batch, stop)
    }?;
    if stop() {
        bail!("stopped");
    }
    let result = CellResult {
        parameters: job.cell.values.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        swept: job.swept.clone(),
        summary: outcome.summary,
        functions: outcome.functions,
        timeline: outcome.timeline,
        seconds: began.elapsed().as_secs_f64(),
        starts,
        operations: Vec::new(),
        host: Vec::new(),
        notes: Vec::new(),
    };
    store.put(&job.key, &result)?;
    Ok(result)
}

/// A cell on machines.
#[allow(clippy::too_many_arguments, reason = "all of a cell")]
fn run_real(
    inputs: &Inputs<'_>,
    machines: &Machines,
    store: &Store,
    job: &Job,
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool + Send,
    progress: &Progress,
    stop: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<CellResult> {
    let began = Clock::now();
    let names: Vec<String> = inputs.workload.functions.iter().map(|f| f.name.clone()).collect();
    let (one_in, mut rows) = match inputs.experiment.request_rows {
        RequestRows::None => (1, None),
        RequestRows::OneIn(n) => {
            let labels = Labels::new(&setup.config, job.seed, job.swept.clone());
            (n, Some(store.requests(&job.key, labels, &names)?))
        }
    };
    let mut told = 0;
    let tick = |arrived: u64| {
        progress.add(arrived - told);
        told = arrived;
        !stop()
    };
    let sink = |r: &RequestRecord, parts: &StartParts| {
        if let Some(rows) = &mut rows
            && r.request.0.is_multiple_of(one_in)
        {
            rows.add(r, parts);
        }
    };
    let done = real::run_cell(machines, inputs.experiment, inputs.workload, setup, next_batch, sink, tick)?;
    if let Some(rows) = rows {
        rows.finish()?;
    }
    let result = CellResult {
        parameters: job.cell.values.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        swept: job.swept.clone(),
        summary: done.outcome.summary,
        functions: done.outcome.functions,
        timeline: done.outcome.timeline,
        seconds: began.elapsed().as_secs_f64(),
        starts: done.starts,
        operations: done.operations,
        host: done.host,
        notes: done.notes,
    };
    store.put(&job.key, &result)?;
    Ok(result)
}

/// Requests a second, for people.
fn rate(requests: u64, seconds: f64) -> String {
    let rate = requests as f64 / seconds;
    if rate < 1e5 { format!("{rate:.1} requests/s") } else { format!("{:.1} M requests/s", rate / 1e6) }
}

/// The simulation, or the bound, of a cell; its starts broken down where rows of requests are written.
fn simulate_cell(
    inputs: &Inputs<'_>,
    store: &Store,
    job: &Job,
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<(Outcome, Vec<StartSummary>)> {
    if policy::entry(setup.config.policy).is_some_and(|e| matches!(e.kind, Kind::Bound)) {
        return Ok((medes_sim::oracle::bound(setup, next_batch)?, Vec::new()));
    }
    let RequestRows::OneIn(n) = inputs.experiment.request_rows else {
        return Ok((simulate(setup, next_batch, |_| {})?, Vec::new()));
    };
    let names: Vec<String> = inputs.workload.functions.iter().map(|f| f.name.clone()).collect();
    let labels = Labels::new(&setup.config, job.seed, job.swept.clone());
    let mut rows = store.requests(&job.key, labels, &names)?;
    let mut starts = StartSums::default();
    let outcome = simulate_in_parts(setup, next_batch, |r, parts| {
        starts.add(r, parts);
        if r.request.0.is_multiple_of(n) {
            rows.add(r, parts);
        }
    })?;
    if !stop() {
        rows.finish()?;
    }
    Ok((outcome, starts.rows(|f| names.get(f.index()).cloned().unwrap_or_default())))
}

/// How cells share the machine.
struct Turns {
    /// There are two threads for each cell: one of them draws the arrivals ahead.
    draws_ahead: bool,
    /// Held by a bound while it is computed. It alone keeps something for every request, so one at a time bounds the memory.
    bound: Mutex<()>,
}

/// A bar where a person looks on, plain lines otherwise, nothing when quiet.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    total_cells: usize,
    cells: AtomicUsize,
    requests: AtomicU64,
    total: u64,
    began: Clock,
    spoke: Mutex<Clock>,
}

impl Progress {
    fn new(total: u64, cells: usize, out: &Output) -> Self {
        let person = std::io::stderr().is_terminal() && !out.quiet;
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if person {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let template = "{bar:30} {percent:>3} %  {human_pos} of {human_len} requests  {per_sec}  {eta} left  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Clock::now();
        Self {
            bar,
            plain: !person && !out.quiet,
            total_cells: cells,
            cells: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            total,
            began: now,
            spoke: Mutex::new(now),
        }
    }

    fn add(&self, requests: u64) {
        self.bar.inc(requests);
        let done = self.requests.fetch_add(requests, Ordering::Relaxed) + requests;
        if self.plain {
            let mut spoke = lock(&self.spoke);
            if spoke.elapsed() >= Wall::from_secs(10) {
                *spoke = Clock::now();
                let seconds = self.began.elapsed().as_secs_f64();
                let left = seconds * (self.total.saturating_sub(done)) as f64 / done.max(1) as f64;
                eprintln!(
                    "{} of {} requests, {} of {} cells, {}, about {left:.0} s left",
                    thousands(done),
                    thousands(self.total),
                    self.cells.load(Ordering::Relaxed),
                    self.total_cells,
                    rate(done, seconds)
                );
            }
        }
    }

    fn cell_done(&self, job: &Job, _: &CellResult) {
        let done = self.cells.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(format!("cell {done} of {}: {}", self.total_cells, label(job)));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        let done = self.requests.load(Ordering::Relaxed);
        if self.plain && done > 0 {
            let seconds = self.began.elapsed().as_secs_f64();
            eprintln!(
                "{} requests in {} cells, {seconds:.1} s, {}",
                thousands(done),
                self.cells.load(Ordering::Relaxed),
                rate(done, seconds)
            );
        }
    }
}
