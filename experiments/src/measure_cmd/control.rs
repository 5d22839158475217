//! What the controller and an agent add, and what warm starts take in a run: short ones through both, one request at a time.
//!
//! Several, spread over all that is measured: the machine is another from one part of an hour to the next, and what they add does not follow its speed alone.
//! Where three minutes of one machine and day had 0.59 to 0.82 ms, and a single minute before a real run 0.95, that run had 0.70 to 0.84 in its three parts.
//!
//! All functions take turns, so each has slept and others have run when its turn comes, as in a run of a trace: asked again and again, the same function
//! wakes in a tenth of the time, from caches that no run finds so warm.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Spread;
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

/// A sandbox of each function that stays warm.
const EXPERIMENT: &str = "title = 'control'\nquestion = 'What do controller and agent add?'\nprofile = 'measured'\n\
    functions = 'rank'\n[trace]\nsource = 'azure-like'\n[parameters]\npolicy = 'fixed'\nnodes = 1\nmemcap = 4000\n[real.deadlines]\ncold_s = 60\n";
/// Seconds until the first request: an agent alone says meanwhile what it weighs.
const ALONE_S: u64 = 2;
/// Functions, and turns of each; the first is its cold start, which may take long.
const FUNCTIONS: u64 = 10;
const TURNS: u64 = 13;
const REQUESTS: u64 = FUNCTIONS * TURNS;
/// Between two requests, and after the first turn.
const APART_MS: u64 = 150;
const PAUSE_MS: u64 = 5000;

/// Warm starts of one function, ms.
#[derive(Default)]
pub struct Warm {
    /// Between controller and agent, from the choice of the sandbox until its function is woken.
    pub control: Vec<f64>,
    /// Waking it.
    pub wake: Vec<f64>,
    /// Its run.
    pub run: Vec<f64>,
}

/// What was found.
pub struct Control {
    /// By function.
    pub warm: BTreeMap<String, Warm>,
    /// Resident memory of an agent without sandboxes, MB.
    pub agent_mb: f64,
    /// How fast the host was, µs a probe.
    probes_us: Vec<f64>,
}

impl Control {
    /// Adds another part.
    pub fn extend(&mut self, more: Self) {
        for (function, warm) in more.warm {
            let all = self.warm.entry(function).or_default();
            all.control.extend(warm.control);
            all.wake.extend(warm.wake);
            all.run.extend(warm.run);
        }
        self.probes_us.extend(more.probes_us);
    }

    /// Median of what a probe took, µs.
    pub fn probe_us(&self) -> f64 {
        Spread::of(&self.probes_us).median
    }

    /// What controller and agent add to a warm start, ms.
    pub fn added(&self) -> Vec<f64> {
        self.warm.values().flat_map(|w| w.control.iter().copied()).collect()
    }
}

/// Runs one part.
///
/// # Errors
/// No agent, or a function that does not run.
pub fn measure(out: &Output) -> anyhow::Result<Control> {
    out.say("controller and agent: half a minute");
    let mut trace = tempfile::Builder::new().suffix(".csv").tempfile().context("a temporary file")?;
    writeln!(trace, "time,function")?;
    for n in 0..REQUESTS {
        // After the first turn a pause, in which all cold starts end.
        let pause = if n < FUNCTIONS { 0 } else { PAUSE_MS };
        writeln!(trace, "{},f{}", (ALONE_S * 1000 + pause + n * APART_MS) as f64 / 1e3, n % FUNCTIONS)?;
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
        length: Duration::from_millis(ALONE_S * 1000 + PAUSE_MS + REQUESTS * APART_MS),
        interval: Duration::from_millis(500),
        check: false,
        host: None,
    };
    let machines = Machines::local(1, PathBuf::new())?;
    let mut warm: BTreeMap<String, Warm> = BTreeMap::new();
    let sink = |r: &RequestRecord, parts: &StartParts| {
        if r.kind == Some(StartKind::Warm)
            && let Some(function) = workload.functions.get(r.function.index())
        {
            let of = warm.entry(function.name.clone()).or_default();
            of.control.push(parts.control.as_millis_f64());
            of.wake.push(parts.resume.as_millis_f64());
            of.run.push(r.run.as_millis_f64());
        }
    };
    let tick = |_| !INTERRUPTED.load(Ordering::Relaxed);
    let done = run_cell(&machines, &experiment, &workload, &setup, workload.arrivals(1), sink, tick)?;
    let seen: usize = warm.values().map(|w| w.wake.len()).sum();
    anyhow::ensure!(
        seen as u64 >= REQUESTS / 2,
        "only {} of {REQUESTS} requests, {APART_MS} ms apart, were answered by a warm sandbox: is the machine at work? {}",
        seen,
        done.notes.join("; ")
    );
    // Of the intervals before the first request, the last: by then the agent has said what it weighs.
    let alone = done.outcome.timeline.iter().rfind(|t| t.at.as_micros() < ALONE_S * 1_000_000);
    let probes_us = done.host.iter().map(|s| s.probe_us).collect();
    Ok(Control { warm, probes_us, agent_mb: alone.map_or(0.0, |t| t.max_used.as_mb()) })
}
