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
//!     name: name.into(), run: Duration::from_millis(ms), percentiles_ms: None, memory: Bytes::from_mb(mb),
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

use crate::law::{RunLaw, RunRow};
use crate::report::ReadReport;
use crate::trace::{Body, Function, MemoryRow, Trace, mix, stream_key};

/// A function that recorded ones are mapped onto.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// How long an execution takes on average.
    pub run: Duration,
    /// Percentiles 0, 1, 25, 50, 75, 99 and 100 of executions, ms; without them each takes the average.
    pub percentiles_ms: Option<[f64; 7]>,
    /// Memory of one sandbox.
    pub memory: Bytes,
}

impl Target {
    /// Its percentiles as a row of a trace has them.
    fn row(&self) -> Option<RunRow> {
        let percentiles = self.percentiles_ms?;
        let (minimum, maximum) = (percentiles[0], percentiles[6]);
        Some(RunRow { average: self.run.as_millis_f64(), count: 1, minimum, maximum, percentiles })
    }

    fn law(&self) -> RunLaw {
        // Of a few runs the mean may be none that their percentiles can have: they are moved then, and that is no fault of the trace.
        let law = |row: RunRow| RunLaw::of_row(&row, row.minimum, &mut ReadReport::default(), &String::new);
        self.row().map_or_else(|| RunLaw::constant(self.run), law)
    }
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

/// Names the random numbers of run times, in traces that list every arrival.
const RUNS: u64 = 0x52_75_6e_73;

/// The trace in which each function's requests call its target: function i of the result is target i, with
/// its run times and memory. The times are those of the unmerged trace with the same seed. Functions without
/// a place in `assignment`, or with one beyond the targets, are left out.
pub fn merge(mut trace: Trace, assignment: &[usize], targets: &[Target]) -> Trace {
    let number: Vec<Option<u32>> = (0..trace.functions.len())
        .map(|i| assignment.get(i).copied().filter(|&target| target < targets.len()))
        .map(|target| target.map(|target| target as u32))
        .collect();
    let laws: Vec<RunLaw> = targets.iter().map(Target::law).collect();
    trace.body = match trace.body {
        Body::Events(mut events) => {
            let mut count = 0;
            events.retain_mut(|event| {
                let target = number[event.function.index()];
                if let Some(target) = target {
                    event.function = FunctionId(target);
                    event.run = laws[target as usize].at((mix(RUNS, count) >> 32) as u32);
                    count += 1;
                }
                target.is_some()
            });
            events.sort_by_key(|event| (event.at, event.function));
            Body::Events(events)
        }
        Body::Counts(counts) => {
            let mut counts = counts.renumbered(&number);
            let days = counts.law_of.len() / counts.streams.len().max(1);
            (counts.laws, counts.rows) = (laws, targets.iter().map(Target::row).collect());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TraceOptions, open};

    #[test]
    fn runs_of_a_target_differ_where_their_percentiles_are_known() {
        let percentiles_ms = Some([2.0, 2.0, 4.0, 8.0, 12.0, 30.0, 40.0]);
        let run = Duration::from_millis_f64(9.0);
        let target = Target { name: "t".into(), run, percentiles_ms, memory: Bytes::from_mb(1.0) };
        let same = Target { percentiles_ms: None, ..target.clone() };
        let options = TraceOptions { functions: 10, minutes: 30, invocations: Some(20_000), ..TraceOptions::default() };
        let counts = open(&"azure-like".parse().unwrap(), &options).unwrap();
        let arrivals = |trace: &Trace| {
            let (mut out, mut arrivals) = (Vec::new(), trace.arrivals(1));
            while arrivals.next_batch(&mut out) {}
            out
        };
        // The same as a list of all arrivals.
        let events = Trace { body: Body::Events(arrivals(&counts)), ..counts.clone() };
        for trace in [counts, events] {
            let assignment = vec![0; trace.functions.len()];
            let merged = merge(trace.clone(), &assignment, std::slice::from_ref(&target));
            let mut runs: Vec<f64> = arrivals(&merged).iter().map(|a| a.run.as_millis_f64()).collect();
            let mean = runs.iter().sum::<f64>() / runs.len() as f64;
            runs.sort_by(f64::total_cmp);
            let at = |share: f64| runs[(share * (runs.len() - 1) as f64) as usize];
            assert!((mean - 9.0).abs() < 0.2 && (at(0.5) - 8.0).abs() < 0.3 && (at(0.75) - 12.0).abs() < 0.4, "{mean}");
            assert!(at(0.0) >= 2.0 && at(1.0) <= 40.0);
            let merged = merge(trace, &assignment, std::slice::from_ref(&same));
            assert!(arrivals(&merged).iter().all(|a| a.run == run));
        }
    }
}
