//! What the controller and an agent add: a short run of the smallest function through both, one request at a time.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use medes_engine::record::{RequestRecord, StartKind, StartParts};
use medes_engine::units::Duration;
use medes_sim::Setup;

use crate::experiment::{Experiment, Overrides};
use crate::output::Output;
use crate::profiles;
use crate::real::{Machines, run_cell};
use crate::run::INTERRUPTED;
use crate::workload::Workload;

/// One sandbox that stays warm.
const EXPERIMENT: &str = "title = 'control'\nquestion = 'What do controller and agent add?'\nprofile = 'measured'\n\
    functions = 'rank'\n[trace]\nsource = 'azure-like'\n[parameters]\npolicy = 'fixed'\nnodes = 1\nmemcap = 4000\n[real.deadlines]\ncold_s = 60\n";
/// Seconds until the first request: an agent alone says meanwhile what it weighs.
const ALONE_S: u64 = 2;
/// Requests, and what is between them.
const REQUESTS: u64 = 40;
const APART_MS: u64 = 150;

/// What was found.
pub struct Control {
    /// From the choice of a warm sandbox until its function is woken, ms: between controller and agent.
    pub warm_ms: Vec<f64>,
    /// Resident memory of an agent without sandboxes, MB.
    pub agent_mb: f64,
}

/// Runs it.
///
/// # Errors
/// No agent, or a function that does not run.
pub fn measure(out: &Output) -> anyhow::Result<Control> {
    out.say("controller and agent: some seconds");
    let mut trace = tempfile::Builder::new().suffix(".csv").tempfile().context("a temporary file")?;
    writeln!(trace, "time,function")?;
    for n in 0..REQUESTS {
        writeln!(trace, "{},only", (ALONE_S * 1000 + n * APART_MS) as f64 / 1e3)?;
    }
    let spec = format!("csv:{}", trace.path().display()).parse()?;
    let experiment =
        Experiment::parse("control", EXPERIMENT, &Overrides { trace: Some(spec), ..Overrides::default() })?;
    let (profiles, _) = profiles::load(&experiment.profile)?;
    let opened = medes_traces::open(&experiment.trace, &experiment.options)?;
    let workload = Workload::new(opened, experiment.functions, &profiles);
    let cell = experiment.cells()?.into_iter().next().context("no cell")?;
    let setup = Setup {
        config: cell.config,
        profiles: Arc::new(profiles),
        functions: workload.functions.clone(),
        faults: Vec::new(),
        seed: 1,
        length: Duration::from_millis(ALONE_S * 1000 + REQUESTS * APART_MS),
        interval: Duration::from_millis(500),
        check: false,
    };
    let machines = Machines::local(1, PathBuf::new())?;
    let mut warm_ms = Vec::new();
    let sink = |r: &RequestRecord, parts: &StartParts| {
        if r.kind == Some(StartKind::Warm) {
            warm_ms.push(parts.control.as_millis_f64());
        }
    };
    let tick = |_| !INTERRUPTED.load(Ordering::Relaxed);
    let done = run_cell(&machines, &experiment, &workload, &setup, workload.arrivals(1), sink, tick)?;
    anyhow::ensure!(
        warm_ms.len() as u64 >= REQUESTS / 4,
        "only {} of {REQUESTS} requests, {APART_MS} ms apart, were answered by a warm sandbox: is the machine at work? {}",
        warm_ms.len(),
        done.notes.join("; ")
    );
    // Of the intervals before the first request, the last: by then the agent has said what it weighs.
    let alone = done.outcome.timeline.iter().rfind(|t| t.at.as_micros() < ALONE_S * 1_000_000);
    Ok(Control { warm_ms, agent_mb: alone.map_or(0.0, |t| t.max_used.as_mb()) })
}
