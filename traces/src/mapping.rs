//! A few benchmark functions driven by the arrivals of many recorded ones, as in the paper's evaluation: each
//! recorded function is given to one of the targets, whose run time and memory it then has.
//!
//! ```
//! use medes_engine::units::{Bytes, Duration};
//! use medes_traces::mapping::{Rule, Target, assign, merge};
//! use medes_traces::{TraceOptions, open};
//!
//! let trace = open(&"azure-like".parse()?, &TraceOptions::default())?;
//! let target = |name: &str, ms, mb| Target {
//!     name: name.into(), run: Duration::from_millis(ms), memory: Bytes::from_mb(mb),
//! };
//! let targets = [target("vanilla", 150, 17.0), target("linalg", 250, 32.0)];
//! let requests = trace.requests();
//! let merged = merge(trace.clone(), &assign(&trace, &targets, Rule::Rank), &targets);
//! assert_eq!((merged.functions.len(), merged.requests()), (2, requests));
//! # Ok::<(), medes_traces::TraceError>(())
//! ```

use medes_engine::id::FunctionId;
use medes_engine::units::{Bytes, Duration};
use serde::{Deserialize, Serialize};

use crate::law::RunLaw;
use crate::trace::{Body, Function, MemoryRow, Trace, mix, stream_key};

/// A function that recorded ones are mapped onto.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// How long each execution takes.
    pub run: Duration,
    /// Memory of one sandbox.
    pub memory: Bytes,
}

/// Which recorded function goes to which target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// In the order of their requests, most first, dealt out in turn: the busiest to the first target, the
    /// next to the second, and so on round. The default: every target gets busy and idle functions.
    #[default]
    Rank,
    /// By a hash of owner, app and name: the same function goes to the same target in every trace.
    Hash,
    /// In the order of their mean run time, cut into parts of equal number: the shortest part to the target
    /// with the shortest run time, and so on.
    Duration,
}

/// For each function of the trace, the position of its target. Empty if there is no target.
pub fn assign(trace: &Trace, targets: &[Target], rule: Rule) -> Vec<usize> {
    let (n, m) = (trace.functions.len(), targets.len());
    if m == 0 {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..n).collect();
    let mut chosen = vec![0; n];
    match rule {
        Rule::Rank => {
            order.sort_by_key(|&i| (std::cmp::Reverse(trace.functions[i].requests), i));
            for (place, i) in order.into_iter().enumerate() {
                chosen[i] = place % m;
            }
        }
        Rule::Hash => {
            for (chosen, f) in chosen.iter_mut().zip(&trace.functions) {
                let hash = mix(stream_key(&f.owner, &f.app, &f.name), 0);
                *chosen = (hash % m as u64) as usize;
            }
        }
        Rule::Duration => {
            let mut by_run: Vec<usize> = (0..m).collect();
            by_run.sort_by_key(|&target| (targets[target].run, target));
            order.sort_by_key(|&i| (trace.functions[i].mean_run, i));
            for (place, i) in order.into_iter().enumerate() {
                chosen[i] = by_run[place * m / n];
            }
        }
    }
    chosen
}

/// The trace in which each function's requests call its target: function i of the result is target i, with
/// its run time and memory. The times are those of the unmerged trace with the same seed. Functions without
/// a place in `assignment`, or with one beyond the targets, are left out.
pub fn merge(mut trace: Trace, assignment: &[usize], targets: &[Target]) -> Trace {
    let number: Vec<Option<u32>> = (0..trace.functions.len())
        .map(|i| assignment.get(i).copied().filter(|&target| target < targets.len()))
        .map(|target| target.map(|target| target as u32))
        .collect();
    trace.body = match trace.body {
        Body::Events(mut events) => {
            events.retain_mut(|event| {
                let target = number[event.function.index()];
                if let Some(target) = target {
                    event.function = FunctionId(target);
                    event.run = targets[target as usize].run;
                }
                target.is_some()
            });
            events.sort_by_key(|event| (event.at, event.function));
            Body::Events(events)
        }
        Body::Counts(counts) => {
            let mut counts = counts.renumbered(&number);
            let days = counts.law_of.len() / counts.streams.len().max(1);
            counts.laws = targets.iter().map(|target| RunLaw::constant(target.run)).collect();
            counts.rows = vec![None; targets.len()];
            counts.law_of = (0..days).flat_map(|_| counts.streams.iter().map(|stream| stream.function)).collect();
            Body::Counts(counts)
        }
    };
    trace.functions = targets
        .iter()
        .map(|target| Function {
            name: target.name.clone(),
            memory: Some(target.memory),
            memory_row: Some(MemoryRow::constant(target.memory)),
            ..Function::default()
        })
        .collect();
    trace.sum_up(|_| true);
    for (function, target) in trace.functions.iter_mut().zip(targets) {
        function.mean_run = Some(target.run);
    }
    trace
}
