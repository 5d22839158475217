//! A part of a trace's functions, with all that belongs to them.

use medes_engine::id::FunctionId;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use crate::TraceError;
use crate::report::Oddity;
use crate::trace::{Body, Cell, Counts, Stream, Trace};

/// How functions are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The functions in the order of their requests are cut into as many equal strata as are wanted, and one
    /// is drawn from each: every degree of popularity has its part. The default.
    #[default]
    Stratified,
    /// Each function is as likely as any other.
    Uniform,
}

/// Chooses `n` functions of the trace, in the order of their ids. The same seed chooses the same.
///
/// # Errors
/// If `n` is zero or more than there are.
pub fn choose(trace: &Trace, n: usize, choice: Choice, seed: u64) -> Result<Vec<FunctionId>, TraceError> {
    let all = trace.functions.len();
    if n == 0 || n > all {
        return Err(TraceError::option(
            "functions",
            format!("{n} functions cannot be taken from {all}"),
            format!("give a number from 1 to {all}"),
        ));
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut ids: Vec<u32> = (0..all as u32).collect();
    match choice {
        Choice::Uniform => {
            ids.shuffle(&mut rng);
            ids.truncate(n);
        }
        Choice::Stratified => {
            ids.sort_by_key(|&id| (trace.functions[id as usize].requests, id));
            ids = (0..n).map(|i| ids[rng.random_range(all * i / n..all * (i + 1) / n)]).collect();
        }
    }
    ids.sort_unstable();
    Ok(ids.into_iter().map(FunctionId).collect())
}

impl Trace {
    /// The trace of these functions only, renumbered in the order given. Each of them has the arrivals it
    /// has in the whole trace.
    pub fn only(&self, functions: &[FunctionId]) -> Self {
        let mut number: Vec<Option<u32>> = vec![None; self.functions.len()];
        for (id, new) in functions.iter().zip(0..) {
            if let Some(slot) = number.get_mut(id.index()) {
                *slot = Some(new);
            }
        }
        let body = match &self.body {
            Body::Events(events) => {
                let mut events: Vec<_> = events
                    .iter()
                    .filter_map(|event| {
                        let function = FunctionId(number[event.function.index()]?);
                        Some(crate::Arrival { function, ..*event })
                    })
                    .collect();
                events.sort_by_key(|event| (event.at, event.function));
                Body::Events(events)
            }
            Body::Counts(counts) => Body::Counts(counts.renumbered(&number)),
        };
        Self {
            arrivals_seed: self.arrivals_seed,
            source: self.source.clone(),
            functions: functions.iter().filter_map(|id| self.functions.get(id.index()).cloned()).collect(),
            length: self.length,
            report: self.report.clone(),
            body,
        }
    }

    /// Without the functions that have no request.
    pub(crate) fn without_idle(mut self) -> Self {
        let idle = |requests: u64| requests == 0;
        if !self.functions.iter().any(|function| idle(function.requests)) {
            return self;
        }
        let mut kept = Vec::new();
        for (function, id) in self.functions.iter().zip(0..) {
            if idle(function.requests) {
                self.report.add(Oddity::NotInvoked, || function.label());
            } else {
                kept.push(FunctionId(id));
            }
        }
        self.only(&kept)
    }
}

impl Counts {
    /// Function i becomes `number[i]`, or is left out.
    pub(crate) fn renumbered(&self, number: &[Option<u32>]) -> Self {
        let mut kept: Vec<(u32, usize)> = self
            .streams
            .iter()
            .enumerate()
            .filter_map(|(i, stream)| Some((number[stream.function as usize]?, i)))
            .collect();
        kept.sort_unstable();
        let mut new_stream: Vec<Option<u32>> = vec![None; self.streams.len()];
        for (&(_, old), new) in kept.iter().zip(0..) {
            new_stream[old] = Some(new);
        }
        let mut cells = Vec::new();
        let mut starts = vec![0];
        for minute in 0..self.minutes.len() {
            let from = cells.len();
            cells.extend(
                self.minute(minute)
                    .iter()
                    .filter_map(|cell| Some(Cell { stream: new_stream[cell.stream as usize]?, count: cell.count })),
            );
            cells[from..].sort_unstable_by_key(|cell| cell.stream);
            starts.push(cells.len());
        }
        let days = self.law_of.len() / self.streams.len().max(1);
        let law_of = (0..days)
            .flat_map(|day| kept.iter().map(move |&(_, old)| (day, old)))
            .map(|(day, old)| self.law_of[day * self.streams.len() + old])
            .collect();
        Self {
            spread: self.spread,
            streams: kept.iter().map(|&(function, old)| Stream { function, ..self.streams[old].clone() }).collect(),
            minutes: self.minutes.clone(),
            starts,
            cells,
            day_of: self.day_of.clone(),
            law_of,
            laws: self.laws.clone(),
            rows: self.rows.clone(),
        }
    }
}
