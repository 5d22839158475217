//! The memory of keep-alive over time, as it is and with redundancy removed.
//!
//! Each function is run by itself under fixed keep-alive without a cap: without a cap functions do not meet, so the sum is
//! the whole cluster's, and the number of sandboxes of each is known at each time. With redundancy removed the first
//! sandbox of a function is whole, every other one is what the first does not have of it (64-byte chunks, as measured). That
//! functions share memory with each other too is left out, so the saving is a lower bound.

use medes_engine::units::{Bytes, Duration};
use medes_plots::figure::{Axis, Figure, Point, Scale, Series, Shape};
use medes_plots::stats::Estimate;
use medes_sim::{Arrival, Setup, simulate};

use super::Prepared;
use super::sandboxes::Sandboxes;

/// Intervals over the trace.
const INTERVALS: u64 = 120;

/// What was found.
pub struct KeepAlive {
    /// The picture.
    pub figure: Figure,
    /// Share of the memory that redundancy is, by seed.
    pub saved: Estimate,
}

/// Runs the functions and adds them up.
///
/// # Errors
/// What the simulator refuses.
pub fn run(prepared: &Prepared, set: &Sandboxes) -> anyhow::Result<KeepAlive> {
    let (experiment, workload) = (&prepared.experiment, &prepared.workload);
    let cells = experiment.cells()?;
    let mut config = cells.first().map(|c| c.config.clone()).unwrap_or_default();
    config.set("policy", "fixed")?;
    config.memcap = Bytes::from_mb(1e9);
    let length = workload.trace.length;
    let interval = Duration::from_micros((length.as_micros() / INTERVALS).max(1));
    let count = INTERVALS as usize;
    let redundant = |profile: usize| {
        let name = &prepared.profiles.function[profile].name;
        let of = set.fixed.iter().find(|f| f.name == name.to_lowercase());
        of.and_then(|f| f.within.get("64")).copied().unwrap_or(0.0)
    };
    let mut whole: Vec<Vec<f64>> = Vec::new();
    let mut reduced: Vec<Vec<f64>> = Vec::new();
    for seed in &experiment.seeds {
        let mut sums = (vec![0.0; count], vec![0.0; count]);
        let mut all: Vec<Vec<Arrival>> = vec![Vec::new(); workload.functions.len()];
        let mut next = workload.arrivals(*seed);
        let (mut batch, mut more) = (Vec::new(), true);
        while more {
            batch.clear();
            more = next(&mut batch);
            batch.iter().for_each(|a| all[a.function.index()].push(*a));
        }
        for (number, arrivals) in all.into_iter().enumerate().filter(|(_, a)| !a.is_empty()) {
            let setup = Setup {
                config: config.clone(),
                profiles: prepared.profiles.clone(),
                functions: workload.functions.clone(),
                faults: Vec::new(),
                seed: *seed,
                length,
                interval,
                check: false,
                host: None,
            };
            let mut arrivals = Some(arrivals);
            let outcome = simulate(
                &setup,
                |out| {
                    out.extend(arrivals.take().unwrap_or_default());
                    false
                },
                |_| {},
            )?;
            let function = &workload.functions[number];
            let share = redundant(function.profile);
            for (i, sample) in outcome.timeline.iter().enumerate().take(count) {
                let used = sample.mean_used.as_mb() / 1e3;
                let first = (function.memory.as_mb() / 1e3).min(used);
                sums.0[i] += used;
                sums.1[i] += first + (used - first) * (1.0 - share);
            }
        }
        whole.push(sums.0);
        reduced.push(sums.1);
    }
    let minutes = length.as_secs_f64() / 60.0 / INTERVALS as f64;
    let band = |label: &str, look: &str, of: &[Vec<f64>]| {
        let at = |i: usize| Estimate::of(of.iter().map(|run| run[i]));
        let points = (0..count).map(|i| Point::of((i as f64 + 0.5) * minutes, at(i))).collect();
        Series { label: label.into(), look: look.into(), shape: Shape::Band(points) }
    };
    let total = |run: &Vec<f64>| run.iter().sum::<f64>();
    let saved = Estimate::of(whole.iter().zip(&reduced).map(|(w, r)| 100.0 * (1.0 - total(r) / total(w))));
    let figure = Figure {
        name: String::new(),
        title: "Memory of fixed keep-alive over time".into(),
        caption: format!(
            "Sum over the functions, without a memory cap; mean over each of {count} intervals. Redundancy removed: of each \
             function one sandbox whole, of every other one the bytes that are in no 64-byte chunk of the first, as measured on \
             dumps; what functions share with each other is not removed. Mean of {} seeds; band: 95 % confidence interval.",
            whole.len()
        ),
        x: Axis::new("time since the start of the trace", "min", Scale::Linear { zero: true }),
        y: Axis::from_zero("memory in use", "GB"),
        series: vec![band("as it is", "fixed", &whole), band("redundancy removed", "medes", &reduced)],
    };
    Ok(KeepAlive { figure, saved })
}
