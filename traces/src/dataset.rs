//! The join of the three tables of the Azure 2019 schema, over one day or several, into a trace.
//!
//! Invocations are what a trace is made of: a function without any in the minutes asked for is left out, and
//! so are durations and memory of functions never invoked (all counted in the report). Missing durations
//! come from the nearest day that has the function, else from `default_run_ms`; missing memory from
//! `default_memory_mb`. Memory rows of several days are averaged by their number of samples.

use std::borrow::Cow;
use std::collections::HashMap;

use medes_engine::units::{Bytes, Duration};

use crate::TraceError;
use crate::invocations::{Invocations, joined, threads};
use crate::law::{RunLaw, RunRow};
use crate::options::{AppMemory, MINUTE_MICROS, MINUTES_PER_DAY, MemoryFigure, TraceOptions, Window};
use crate::report::{Oddity, ReadReport};
use crate::trace::{Body, Cell, Counts, Function, MemoryRow, Stream, Trace, Trigger, stream_key};

/// The three tables of one day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Day {
    /// The number in the file's name; names the random numbers of its minutes.
    pub number: u32,
    pub invocations: Invocations,
    pub runs: Vec<RunEntry>,
    pub memory: Vec<MemoryEntry>,
    /// Names for messages: of the invocations, durations and memory file.
    pub places: [String; 3],
}

/// A row of the durations with its key.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunEntry {
    pub owner: String,
    pub app: String,
    pub name: String,
    pub row: RunRow,
    pub line: u64,
}

/// A row of the memory with its key; `name` is empty where the row is of a whole app.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryEntry {
    pub owner: String,
    pub app: String,
    pub name: String,
    pub row: MemoryRow,
    pub line: u64,
}

/// Invocations of a minute, which is held in memory while its arrivals are drawn.
const MOST_A_MINUTE: u64 = 1_000_000_000;

/// A thread that puts cells in the order of minutes gets so many minutes or more.
const MINUTES_A_THREAD: u32 = 120;

type Key<'a> = (&'a str, &'a str, &'a str);

/// A function while the tables are joined.
struct Joined<'a> {
    key: Key<'a>,
    trigger: Trigger,
}

/// Joins the days, which lie end to end in the trace.
pub(crate) fn assemble(
    source: String,
    days: &[Day],
    options: &TraceOptions,
    mut report: ReadReport,
) -> Result<Trace, TraceError> {
    let window = window_of(days, options)?;
    let report_ = &mut report;
    // The maps are looked up and never walked through: their order shows nowhere.
    let mut index: HashMap<Key<'_>, u32> = HashMap::new();
    let mut joined: Vec<Joined<'_>> = Vec::new();
    let tables: Vec<DayCells<'_>> =
        days.iter().map(|day| DayCells::new(day, &mut index, &mut joined, report_)).collect();

    let mut invoked = vec![false; joined.len()];
    for (function, cells, _) in tables.iter().flat_map(|table| &table.rows) {
        invoked[*function as usize] |= !cells.is_empty();
    }
    let mut ids = vec![None; joined.len()];
    let mut kept = Vec::new();
    for (i, invoked) in invoked.into_iter().enumerate() {
        if invoked {
            ids[i] = Some(kept.len() as u32);
            kept.push(i);
        } else {
            report_.add(Oddity::NotInvoked, || label(joined[i].key));
        }
    }
    if kept.is_empty() {
        return Err(TraceError::option(
            "window",
            format!("nothing is invoked in the minutes {window} of {source}"),
            "choose other minutes or days",
        ));
    }

    let mut functions: Vec<Function> = kept
        .iter()
        .map(|&i| Function {
            owner: joined[i].key.0.to_owned(),
            app: joined[i].key.1.to_owned(),
            name: joined[i].key.2.to_owned(),
            trigger: joined[i].trigger,
            ..Function::default()
        })
        .collect();
    let runs = Runs::new(days, &tables, &index, &ids, &functions, options, report_);
    give_memory(&mut functions, days, &index, &joined, options, report_);

    let minutes = window.first - 1..window.last;
    let (starts, cells) = by_minute(&tables, &ids, window);
    for (minute, pair) in starts.windows(2).enumerate() {
        let sum: u64 = cells[pair[0]..pair[1]].iter().map(|cell| u64::from(cell.count)).sum();
        if sum > MOST_A_MINUTE {
            return Err(TraceError::option(
                "window",
                format!("minute {} of {source} has {sum} invocations", window.first as usize + minute),
                "a minute of all functions may have at most 1,000,000,000: choose others, or a sample",
            ));
        }
    }
    let recorded = runs.recorded;
    let counts = Counts {
        spread: options.arrivals_in_minute,
        streams: functions
            .iter()
            .zip(0..)
            .map(|(f, function)| Stream {
                function,
                key: stream_key(&f.owner, &f.app, &f.name),
                even: options.even_timers && f.trigger == Trigger::Timer,
            })
            .collect(),
        minutes: minutes
            .clone()
            .map(|minute| {
                let day = days[(minute / MINUTES_PER_DAY) as usize].number;
                day.wrapping_mul(MINUTES_PER_DAY).wrapping_add(minute % MINUTES_PER_DAY)
            })
            .collect(),
        starts,
        cells,
        day_of: minutes.map(|minute| minute / MINUTES_PER_DAY).collect(),
        law_of: runs.law_of,
        laws: runs.laws,
        rows: runs.rows,
    };
    let mut trace = Trace {
        source,
        functions,
        length: Duration::from_micros(u64::from(window.minutes()) * MINUTE_MICROS),
        report,
        arrivals_seed: None,
        body: Body::Counts(counts),
    };
    trace.sum_up(|function| recorded[function]);
    Ok(trace)
}

/// The minutes asked for, or else those the files have columns for.
fn window_of(days: &[Day], options: &TraceOptions) -> Result<Window, TraceError> {
    let last_day = days.len().saturating_sub(1);
    let there = Window {
        first: days.first().map_or(1, |day| u32::from(day.invocations.columns.0)),
        last: last_day as u32 * MINUTES_PER_DAY + days.last().map_or(1, |day| u32::from(day.invocations.columns.1)),
    };
    let Some(window) = options.window else {
        return Ok(there);
    };
    if window.last > days.len() as u32 * MINUTES_PER_DAY {
        return Err(TraceError::option(
            "window",
            format!("minute {} is after the end of {} day(s)", window.last, days.len()),
            format!("minutes go from 1 to {}", days.len() as u32 * MINUTES_PER_DAY),
        ));
    }
    Ok(window)
}

/// Minutes of day number `index` of those read that a window asks for, as (first, last), from 1; none if
/// the first is above the last.
pub(crate) fn minutes_of_day(window: Option<Window>, index: usize) -> (u16, u16) {
    let Some(window) = window else {
        return (1, MINUTES_PER_DAY as u16);
    };
    let before = (index as u32).saturating_mul(MINUTES_PER_DAY);
    let clamp = |minute: u32| minute.saturating_sub(before).min(MINUTES_PER_DAY) as u16;
    let first = match window.first.saturating_sub(before) {
        minute if minute > MINUTES_PER_DAY => MINUTES_PER_DAY as u16 + 1,
        minute => minute.max(1) as u16,
    };
    (first, clamp(window.last))
}

/// Cells of a day by function: one row a function, in the order of functions.
struct DayCells<'a> {
    rows: Vec<DayRow<'a>>,
}

/// A function's cells in the window, and its invocations in the whole day.
type DayRow<'a> = (u32, Cow<'a, [(u16, u32)]>, u64);

impl<'a> DayCells<'a> {
    fn new(
        day: &'a Day,
        index: &mut HashMap<Key<'a>, u32>,
        joined: &mut Vec<Joined<'a>>,
        report: &mut ReadReport,
    ) -> Self {
        let table = &day.invocations;
        let place = |row: usize| format!("{}, line {}", day.places[0], table.rows[row].line);
        let mut rows: Vec<DayRow<'a>> = Vec::new();
        let mut from: Vec<(u32, usize)> = Vec::with_capacity(table.rows.len());
        for (i, row) in table.rows.iter().enumerate() {
            let key = (row.owner.as_str(), row.app.as_str(), row.name.as_str());
            let function = *index.entry(key).or_insert_with(|| {
                let trigger = Trigger::of_name(&row.trigger).unwrap_or_else(|| {
                    report.add(Oddity::UnknownTrigger, || place(i));
                    Trigger::Others
                });
                joined.push(Joined { key, trigger });
                joined.len() as u32 - 1
            });
            from.push((function, i));
        }
        from.sort_unstable();
        for (function, row) in from {
            let (cells, total) = (table.cells_of(row), table.rows[row].total);
            match rows.last_mut() {
                Some((before, have, sum)) if *before == function => {
                    if **have == *cells && *sum == total {
                        report.add(Oddity::RepeatedInvocations, || place(row));
                    } else {
                        report.add(Oddity::SplitInvocations, || place(row));
                        *have.to_mut() = added(have, cells);
                        *sum += total;
                    }
                }
                _ => rows.push((function, cells.into(), total)),
            }
        }
        Self { rows }
    }
}

/// Two lists of cells, each by minute, as one.
fn added(a: &[(u16, u32)], b: &[(u16, u32)]) -> Vec<(u16, u32)> {
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = earlier.1.saturating_add(later.1);
        }
        same
    });
    all
}

/// From cells by function to cells by minute of the window. Threads share the minutes: what each writes lies together.
fn by_minute(tables: &[DayCells<'_>], ids: &[Option<u32>], window: Window) -> (Vec<usize>, Vec<Cell>) {
    let share = window.minutes().div_ceil(threads() as u32).max(MINUTES_A_THREAD);
    let windows = (window.first..=window.last).step_by(share as usize);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let part = |first: u32| Window { first, last: window.last.min(first + share - 1) };
        let start = |first: u32| scope.spawn(move || minutes_of(tables, ids, part(first)));
        let handles: Vec<_> = windows.map(start).collect();
        handles.into_iter().map(joined).collect()
    });
    let total: usize = parts.iter().map(|part| part.1.len()).sum();
    let (mut starts, mut cells) = (vec![0], Vec::new());
    for (part_starts, part) in parts {
        starts.extend(part_starts[1..].iter().map(|start| start + cells.len()));
        if cells.is_empty() {
            cells = part;
            cells.reserve_exact(total - cells.len());
        } else {
            cells.extend_from_slice(&part);
        }
    }
    (starts, cells)
}

/// [`by_minute`] of some minutes: where each begins, and the cells.
fn minutes_of(tables: &[DayCells<'_>], ids: &[Option<u32>], window: Window) -> (Vec<usize>, Vec<Cell>) {
    let mut starts = vec![0; window.minutes() as usize + 1];
    for_each_cell(tables, ids, window, |minute, _| starts[minute + 1] += 1);
    for minute in 1..starts.len() {
        starts[minute] += starts[minute - 1];
    }
    let mut free = starts.clone();
    let mut cells = vec![Cell { stream: 0, count: 0 }; starts[starts.len() - 1]];
    for_each_cell(tables, ids, window, |minute, cell| {
        cells[free[minute]] = cell;
        free[minute] += 1;
    });
    (starts, cells)
}

/// Calls `visit(minute, cell)` for each cell in the window, minutes counted from its first, by day and then by function.
fn for_each_cell(tables: &[DayCells<'_>], ids: &[Option<u32>], window: Window, mut visit: impl FnMut(usize, Cell)) {
    for (day, table) in (0u32..).zip(tables) {
        let minute = |cell: &(u16, u32)| day * MINUTES_PER_DAY + u32::from(cell.0);
        for (function, cells, _) in &table.rows {
            let Some(stream) = ids[*function as usize] else {
                continue;
            };
            let from = cells.partition_point(|cell| minute(cell) < window.first);
            for cell in cells[from..].iter().take_while(|cell| minute(cell) <= window.last) {
                visit((minute(cell) - window.first) as usize, Cell { stream, count: cell.1 });
            }
        }
    }
}

/// The laws of all functions on all days.
struct Runs {
    law_of: Vec<u32>,
    laws: Vec<RunLaw>,
    rows: Vec<Option<RunRow>>,
    /// Whether a function has a row on any day.
    recorded: Vec<bool>,
}

impl Runs {
    fn new(
        days: &[Day],
        tables: &[DayCells<'_>],
        index: &HashMap<Key<'_>, u32>,
        ids: &[Option<u32>],
        functions: &[Function],
        options: &TraceOptions,
        report: &mut ReadReport,
    ) -> Self {
        let n = functions.len();
        let default = Duration::from_millis_f64(options.default_run_ms);
        let mut runs = Self {
            law_of: vec![0; days.len() * n],
            laws: vec![RunLaw::constant(default)],
            rows: vec![None],
            recorded: vec![false; n],
        };
        // Law of each (day, function) that has a row of its own; 0 is the default.
        let mut own = vec![0u32; days.len() * n];
        for (d, day) in days.iter().enumerate() {
            let mut best: Vec<Option<usize>> = vec![None; n];
            for (i, entry) in day.runs.iter().enumerate() {
                let place = || format!("{}, line {}", day.places[1], entry.line);
                let key = (entry.owner.as_str(), entry.app.as_str(), entry.name.as_str());
                let Some(&function) = index.get(&key) else {
                    report.add(Oddity::DurationsWithoutInvocations, place);
                    continue;
                };
                let Some(function) = ids[function as usize] else {
                    continue;
                };
                let slot = &mut best[function as usize];
                if let Some(before) = *slot {
                    report.add(Oddity::RepeatedDurations, place);
                    if day.runs[before].row.count >= entry.row.count {
                        continue;
                    }
                }
                *slot = Some(i);
            }
            for (function, best) in best.iter().enumerate() {
                let Some(i) = *best else { continue };
                let entry = &day.runs[i];
                let place = || format!("{}, line {}", day.places[1], entry.line);
                let law = RunLaw::of_row(&entry.row, options.zero_run_ms, report, &place);
                own[d * n + function] = runs.laws.len() as u32;
                runs.laws.push(law);
                runs.rows.push(Some(entry.row));
                runs.recorded[function] = true;
            }
        }
        for (function, recorded) in runs.recorded.iter().enumerate() {
            if !recorded {
                report.add(Oddity::NoDurations, || functions[function].label());
            }
        }
        for (d, table) in tables.iter().enumerate() {
            for (function, cells, total) in &table.rows {
                let Some(function) = ids[*function as usize] else {
                    continue;
                };
                let function = function as usize;
                let law = own[d * n + function];
                let row = &runs.rows[law as usize];
                let law = if let Some(row) = row {
                    if row.count != *total {
                        report.add(Oddity::CountMismatch, || functions[function].label());
                    }
                    law
                } else if runs.recorded[function] && !cells.is_empty() {
                    report.add(Oddity::DurationsOfAnotherDay, || functions[function].label());
                    nearest(days, d, |other| own[other * n + function])
                } else {
                    0
                };
                runs.law_of[d * n + function] = law;
            }
        }
        runs
    }
}

/// The law of the day nearest to day `d` that has one; of two as near, the earlier.
fn nearest(days: &[Day], d: usize, law: impl Fn(usize) -> u32) -> u32 {
    (0..days.len())
        .filter(|&other| law(other) != 0)
        .min_by_key(|&other| (days[d].number.abs_diff(days[other].number), days[other].number))
        .map_or(0, law)
}

/// Sets the memory of every function by the rules of the options.
fn give_memory(
    functions: &mut [Function],
    days: &[Day],
    index: &HashMap<Key<'_>, u32>,
    joined: &[Joined<'_>],
    options: &TraceOptions,
    report: &mut ReadReport,
) {
    let mut functions_of_app: HashMap<(&str, &str), u64> = HashMap::new();
    for function in joined {
        *functions_of_app.entry((function.key.0, function.key.1)).or_insert(0) += 1;
    }
    // Keyed by (owner, app, name), the name being empty where the row is of a whole app.
    let mut rows: HashMap<Key<'_>, MemoryRow> = HashMap::new();
    for day in days {
        let mut today: HashMap<Key<'_>, usize> = HashMap::new();
        for (i, entry) in day.memory.iter().enumerate() {
            let place = || format!("{}, line {}", day.places[2], entry.line);
            let key = (entry.owner.as_str(), entry.app.as_str(), entry.name.as_str());
            let known = match entry.name.as_str() {
                "" => functions_of_app.contains_key(&(key.0, key.1)),
                _ => index.contains_key(&key),
            };
            if !known {
                report.add(Oddity::MemoryWithoutInvocations, place);
                continue;
            }
            let best = today.entry(key).or_insert(i);
            if *best != i {
                report.add(Oddity::RepeatedMemory, place);
                if day.memory[*best].row.samples < entry.row.samples {
                    *best = i;
                }
            }
        }
        for (i, entry) in day.memory.iter().enumerate() {
            let key = (entry.owner.as_str(), entry.app.as_str(), entry.name.as_str());
            if today.get(&key) == Some(&i) {
                rows.entry(key).and_modify(|row| *row = averaged(row, &entry.row)).or_insert(entry.row);
            }
        }
    }
    let default = Bytes::from_mb(options.default_memory_mb);
    for function in functions {
        let (owner, app) = (function.owner.as_str(), function.app.as_str());
        let of_function = rows.get(&(owner, app, function.name.as_str()));
        let of_app = rows.get(&(owner, app, ""));
        function.memory_row = of_function.or(of_app).copied();
        let Some(row) = function.memory_row else {
            report.add(Oddity::NoMemory, || function.label());
            function.memory = Some(default);
            continue;
        };
        let mb = match options.memory_figure {
            MemoryFigure::Average => row.average,
            MemoryFigure::Median => row.percentiles[3],
            MemoryFigure::Pct95 => row.percentiles[5],
            MemoryFigure::Maximum => row.percentiles[7],
        };
        let sharers = match options.app_memory {
            AppMemory::Divided if of_function.is_none() => functions_of_app.get(&(owner, app)).copied().unwrap_or(1),
            _ => 1,
        };
        function.memory = Some(if mb > 0.0 {
            Bytes::from_mb(mb / sharers as f64)
        } else {
            report.add(Oddity::MemoryNotPositive, || function.label());
            default
        });
    }
}

/// Two days' rows of an app as one, weighted by their samples.
fn averaged(a: &MemoryRow, b: &MemoryRow) -> MemoryRow {
    let (wa, wb) = (a.samples.max(1) as f64, b.samples.max(1) as f64);
    let mean = |x: f64, y: f64| (x * wa + y * wb) / (wa + wb);
    MemoryRow {
        samples: a.samples.saturating_add(b.samples),
        average: mean(a.average, b.average),
        percentiles: std::array::from_fn(|i| mean(a.percentiles[i], b.percentiles[i])),
    }
}

fn label(key: Key<'_>) -> String {
    format!("{}/{}/{}", key.0, key.1, key.2)
}
