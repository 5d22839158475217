//! `azure-like`: a trace made to be like the Azure Functions trace of 2019, from published statistics alone.
//!
//! What follows the published figures ([`published`]): functions by invocations, by trigger and by both;
//! the share of the busiest; functions an app; the variation of the times between an app's invocations, from
//! timers (none) to rare bursts; the volume by hour; average durations; memory of apps. Quantities are laid
//! out by their quantiles and not drawn, so that small traces too have the right shape. Where the wanted
//! number of invocations is less than the published rates would give, all rates are compressed alike; where
//! it is more, the busiest hundredth of the functions has the rest, as in the recorded trace. Every function
//! is invoked at least once, since the recorded days list no others.
//!
//! Left out: that the functions of an app resemble each other (beyond their bursts) and call each other; weekly rhythm;
//! growth; missing and wrong rows. Any length is possible: a day of 400 functions with 1.5 million
//! invocations, or one of 46,412 with 910 million.

mod pattern;
mod plan;
pub mod published;
mod rows;

use crate::TraceError;
use crate::dataset::{Day, MemoryEntry, RunEntry, assemble};
use crate::invocations::{InvocationRow, Invocations};
use crate::law::RunRow;
use crate::options::{MINUTES_PER_DAY, TraceOptions};
use crate::report::ReadReport;
use crate::trace::{MemoryRow, Trace, mix};
use pattern::Patterns;
use plan::Plan;

/// Invocations of a function in a day where the number is not given: 1.5 million of 400 functions.
const INVOCATIONS_PER_DAY: f64 = 3_750.0;

/// Makes the trace that the options describe.
pub(crate) fn generate(source: String, options: &TraceOptions) -> Result<Trace, TraceError> {
    let (days, note) = tables(options)?;
    let mut report = ReadReport::default();
    report.note(note);
    assemble(source, &days, options, report)
}

/// The tables of its days, and what they are in words.
fn tables(options: &TraceOptions) -> Result<(Vec<Day>, String), TraceError> {
    let (n, minutes, seed) = (options.functions as usize, options.minutes, options.generator_seed);
    if n == 0 || n > 10_000_000 {
        return Err(TraceError::option(
            "functions",
            format!("{n} functions cannot be generated"),
            "give a number from 1 to 10,000,000",
        ));
    }
    if minutes == 0 || minutes > 366 * MINUTES_PER_DAY {
        return Err(TraceError::option(
            "minutes",
            format!("{minutes} minutes cannot be generated"),
            "give a number from 1 to 527,040, a year; a day has 1440",
        ));
    }
    let default = INVOCATIONS_PER_DAY * n as f64 * f64::from(minutes) / f64::from(MINUTES_PER_DAY);
    let total = options.invocations.unwrap_or_else(|| (default.round() as u64).max(n as u64));
    if total < n as u64 || total / u64::from(minutes) > 100_000_000 {
        return Err(TraceError::option(
            "invocations",
            format!("{total} invocations of {n} functions in {minutes} minutes cannot be generated"),
            "give at least one a function and at most 100,000,000 a minute",
        ));
    }
    let plan = plan::plan(n, minutes, total, seed);
    let runs = rows::runs(&plan.functions, seed);
    let memory = rows::memory(plan.styles.len(), seed);
    let days = lay_out(&plan, &runs, &memory, minutes, seed);
    let made: u64 = plan.functions.iter().map(|function| function.invocations).sum();
    let wanted = if made == total { String::new() } else { format!(" (of {total} wanted)") };
    let note = format!("generated: {n} functions, {minutes} minutes, {made} invocations{wanted}, seed {seed}");
    Ok((days, note))
}

/// Fills in the tables, a function after the other, a day beside the other.
fn lay_out(plan: &Plan, runs: &[RunRow], memory: &[MemoryRow], minutes: u32, seed: u64) -> Vec<Day> {
    let mut days: Vec<Day> = (0..minutes.div_ceil(MINUTES_PER_DAY))
        .map(|day| Day {
            number: day + 1,
            invocations: Invocations {
                columns: (1, (minutes - day * MINUTES_PER_DAY).min(MINUTES_PER_DAY) as u16),
                ..Invocations::default()
            },
            places: std::array::from_fn(|_| "generated".to_owned()),
            ..Day::default()
        })
        .collect();
    let owners = owners(plan.styles.len(), seed);
    let apps: Vec<String> = (0..plan.styles.len()).map(|app| hex(seed, 11, app)).collect();
    let mut patterns = Patterns::new(minutes, &plan.functions, &plan.styles, seed);
    let mut counts = vec![0u32; minutes as usize];
    for (i, function) in plan.functions.iter().enumerate() {
        counts.fill(0);
        patterns.draw(i, function, plan.styles[function.app], &mut counts);
        let (owner, app) = (&owners[function.app], &apps[function.app]);
        let name = hex(seed, 12, i);
        for (day, counts) in days.iter_mut().zip(counts.chunks(MINUTES_PER_DAY as usize)) {
            let table = &mut day.invocations;
            let mut total = 0;
            for (&count, minute) in counts.iter().zip(1u16..) {
                if count > 0 {
                    table.cells.push((minute, count));
                    total += u64::from(count);
                }
            }
            if total == 0 {
                continue;
            }
            let line = table.rows.len() as u64 + 2;
            table.rows.push(InvocationRow {
                owner: owner.clone(),
                app: app.clone(),
                name: name.clone(),
                trigger: function.trigger.name().to_owned(),
                line,
                total,
                end: table.cells.len(),
            });
            day.runs.push(RunEntry {
                owner: owner.clone(),
                app: app.clone(),
                name: name.clone(),
                row: RunRow { count: total, ..runs[i] },
                line,
            });
        }
    }
    // Memory is recorded on the first day; on the others it is the same.
    let mut seen = vec![false; apps.len()];
    for function in &plan.functions {
        let app = function.app;
        if let Some(first) = days.first_mut()
            && !std::mem::replace(&mut seen[app], true)
        {
            first.memory.push(MemoryEntry {
                owner: owners[app].clone(),
                app: apps[app].clone(),
                name: String::new(),
                row: memory[app],
                line: first.memory.len() as u64 + 2,
            });
        }
    }
    days
}

/// An owner for each app; one in ten has the owner of the app before, as in a recorded sample.
fn owners(apps: usize, seed: u64) -> Vec<String> {
    let mut owner = 0;
    (0..apps)
        .map(|app| {
            if !mix(mix(seed, 13), app as u64).is_multiple_of(10) {
                owner = app;
            }
            hex(seed, 10, owner)
        })
        .collect()
}

/// A name of 64 hexadecimal digits, as the recorded ones are.
fn hex(seed: u64, kind: u64, number: usize) -> String {
    (0..4).map(|part| format!("{:016x}", mix(mix(seed, kind * 4 + part), number as u64))).collect()
}
