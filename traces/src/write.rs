//! Traces as files, in each of the forms that can be read.

use std::collections::BTreeMap;
use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use medes_engine::units::Duration;

use crate::Arrival;
use crate::TraceError;
use crate::azure2019::{MEMORY_COLUMNS, MEMORY_FUNCTION, RUN_COLUMNS, file_name};
use crate::law::RunRow;
use crate::options::MINUTES_PER_DAY;
use crate::trace::{Body, Function, MemoryRow, Trace};

/// Writes the files of the Azure 2019 schema into a folder, three a day, every day with its 1440 columns.
/// Minutes stay where they are in the day they come from, others are 0; a trace of events is laid out from
/// day 1 on. Recorded durations and memory are written as they were recorded; functions without recorded
/// ones have no row. Returns the files.
///
/// # Errors
/// If the folder cannot be written to.
pub fn azure2019(trace: &Trace, folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    create_dir_all(folder).map_err(TraceError::write(folder))?;
    let calls = Calls::of(trace);
    let mut files = Vec::new();
    let all: Vec<u32> = (1..=MINUTES_PER_DAY).collect();
    for day in calls.days() {
        let paths: [PathBuf; 3] = std::array::from_fn(|kind| folder.join(file_name(kind, day)));
        invocations(trace, &calls, day, &all, &paths[0])?;
        runs(trace, &calls, day, &paths[1])?;
        app_memory(trace, &paths[2])?;
        files.extend(paths.into_iter().filter(|path| path.exists()));
    }
    Ok(files)
}

/// Writes the invitro form into a folder: `invocations.csv` with the trace's minutes only, `durations.csv`,
/// and `memory.csv` by function. Returns the files.
///
/// # Errors
/// If the folder cannot be written to, or the trace reaches over more than one day.
pub fn invitro(trace: &Trace, folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    create_dir_all(folder).map_err(TraceError::write(folder))?;
    let calls = Calls::of(trace);
    let days = calls.days();
    let &[day] = days.as_slice() else {
        return Err(TraceError::option(
            "window",
            format!("the invitro form holds one day, and this trace has {}", days.len()),
            "choose minutes of one day",
        ));
    };
    let minutes: Vec<u32> = calls.minutes.iter().map(|minute| minute % MINUTES_PER_DAY + 1).collect();
    let path = |name| folder.join(name);
    let files = [path("invocations.csv"), path("durations.csv"), path("memory.csv")];
    invocations(trace, &calls, day, &minutes, &files[0])?;
    runs(trace, &calls, day, &files[1])?;
    function_memory(trace, &files[2])?;
    Ok(files.into_iter().filter(|path| path.exists()).collect())
}

/// Writes every arrival as `time,function,duration,memory` (s, ms, MB), the arrivals being those of `seed`.
///
/// # Errors
/// If the file cannot be written.
pub fn csv(trace: &Trace, path: &Path, seed: u64) -> Result<(), TraceError> {
    let mut names: Vec<&str> = trace.functions.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    let unique = names.windows(2).all(|pair| pair[0] != pair[1]);
    let cells: Vec<(String, String)> = trace
        .functions
        .iter()
        .map(|f| {
            let name = if unique { f.name.clone() } else { f.label() };
            let memory = f.memory.map_or(String::new(), |memory| memory.as_mb().to_string());
            (quoted(&name), memory)
        })
        .collect();
    let recorded = trace.functions.iter().map(|f| f.mean_run.is_some()).collect::<Vec<_>>();
    let mut out = Out::create(path)?;
    out.line(format_args!("time,function,duration,memory"))?;
    each_arrival(trace, seed, |arrival| {
        let (name, memory) = &cells[arrival.function.index()];
        let (seconds, micros) = (arrival.at.as_micros() / 1_000_000, arrival.at.as_micros() % 1_000_000);
        if recorded[arrival.function.index()] {
            let run = arrival.run.as_micros();
            out.line(format_args!("{seconds}.{micros:06},{name},{}.{:03},{memory}", run / 1000, run % 1000))
        } else {
            out.line(format_args!("{seconds}.{micros:06},{name},,{memory}"))
        }
    })?;
    out.finish()
}

/// Writes every arrival as `<timestamp ms> <application> <environment>`, the reference's request file, ended
/// by a timestamp of -1. Application and environment are both the function's number; those of a trace that
/// was itself read from such a file stay as they were.
///
/// # Errors
/// If the file cannot be written.
pub fn requests(trace: &Trace, path: &Path, seed: u64) -> Result<(), TraceError> {
    let numeric = |text: &str| text.parse::<u32>().is_ok();
    let own = trace.functions.iter().all(|f| numeric(&f.app) && numeric(&f.name));
    let mut out = Out::create(path)?;
    each_arrival(trace, seed, |arrival| {
        let millis = arrival.at.as_micros() / 1000;
        let id = arrival.function.index();
        if own {
            let function = &trace.functions[id];
            out.line(format_args!("{millis} {} {}", function.app, function.name))
        } else {
            out.line(format_args!("{millis} {id} {id}"))
        }
    })?;
    out.line(format_args!("-1 0 0"))?;
    out.finish()
}

fn each_arrival(
    trace: &Trace,
    seed: u64,
    mut each: impl FnMut(&Arrival) -> Result<(), TraceError>,
) -> Result<(), TraceError> {
    let (mut arrivals, mut batch) = (trace.arrivals(seed), Vec::new());
    while arrivals.next_batch(&mut batch) {
        batch.iter().try_for_each(&mut each)?;
        batch.clear();
    }
    Ok(())
}

/// A file being written, with its name for errors.
struct Out {
    path: PathBuf,
    to: BufWriter<File>,
}

impl Out {
    fn create(path: &Path) -> Result<Self, TraceError> {
        let file = File::create(path).map_err(TraceError::write(path))?;
        Ok(Self { path: path.to_path_buf(), to: BufWriter::with_capacity(1 << 20, file) })
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> Result<(), TraceError> {
        self.to.write_fmt(text).and_then(|()| self.to.write_all(b"\n")).map_err(TraceError::write(&self.path))
    }

    fn finish(mut self) -> Result<(), TraceError> {
        self.to.flush().map_err(TraceError::write(&self.path))
    }
}

/// Counts by function, and which minute of which day each minute is.
struct Calls {
    /// For each minute of the trace: day * 1440 + minute of the day from 0.
    minutes: Vec<u32>,
    starts: Vec<usize>,
    /// Minute of the trace and count, function after function.
    cells: Vec<(u32, u64)>,
}

impl Calls {
    fn of(trace: &Trace) -> Self {
        let minutes = match &trace.body {
            Body::Counts(counts) => counts.minutes.clone(),
            Body::Events(_) => (0..trace.minutes()).map(|minute| minute + MINUTES_PER_DAY).collect(),
        };
        let mut starts = vec![0; trace.functions.len() + 1];
        trace.for_each_count(|_, function, _| starts[function.index() + 1] += 1);
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut free = starts.clone();
        let mut cells = vec![(0, 0); starts[starts.len() - 1]];
        trace.for_each_count(|minute, function, count| {
            let slot = &mut free[function.index()];
            cells[*slot] = (minute as u32, count);
            *slot += 1;
        });
        Self { minutes, starts, cells }
    }

    fn days(&self) -> Vec<u32> {
        let mut days: Vec<u32> = self.minutes.iter().map(|minute| minute / MINUTES_PER_DAY).collect();
        days.dedup();
        days
    }

    /// Minute of the day from 0, and count, of a function on a day.
    fn on(&self, function: usize, day: u32) -> impl Iterator<Item = (u32, u64)> {
        self.cells[self.starts[function]..self.starts[function + 1]]
            .iter()
            .map(|&(minute, count)| (self.minutes[minute as usize], count))
            .filter(move |(minute, _)| minute / MINUTES_PER_DAY == day)
            .map(|(minute, count)| (minute % MINUTES_PER_DAY, count))
    }
}

/// Owner, app and name as cells; sources without apps make each function its own app.
fn key(function: &Function) -> String {
    let app = if function.app.is_empty() { &function.name } else { &function.app };
    format!("{},{},{}", quoted(&function.owner), quoted(app), quoted(&function.name))
}

/// A cell, without what would break the line it stands in.
fn quoted(text: &str) -> String {
    text.replace([',', '"', '\n', '\r'], "_")
}

fn invocations(trace: &Trace, calls: &Calls, day: u32, minutes: &[u32], path: &Path) -> Result<(), TraceError> {
    let mut out = Out::create(path)?;
    let header: Vec<String> = minutes.iter().map(u32::to_string).collect();
    out.line(format_args!("HashOwner,HashApp,HashFunction,Trigger,{}", header.join(",")))?;
    let mut counts = vec![0u64; MINUTES_PER_DAY as usize];
    let mut row = String::new();
    for (i, function) in trace.functions.iter().enumerate() {
        counts.fill(0);
        let mut any = false;
        for (minute, count) in calls.on(i, day) {
            counts[minute as usize] = count;
            any = true;
        }
        if !any {
            continue;
        }
        row.clear();
        for minute in minutes {
            row.push(',');
            match counts[*minute as usize - 1] {
                0 => row.push('0'),
                count => row.push_str(&count.to_string()),
            }
        }
        out.line(format_args!("{},{}{row}", key(function), function.trigger.name()))?;
    }
    out.finish()
}

fn runs(trace: &Trace, calls: &Calls, day: u32, path: &Path) -> Result<(), TraceError> {
    let rows = run_rows(trace, calls, day);
    if rows.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut out = Out::create(path)?;
    out.line(format_args!("{}", RUN_COLUMNS.join(",")))?;
    for (function, row) in trace.functions.iter().zip(rows) {
        let Some(row) = row else { continue };
        let percentiles = row.percentiles.map(|value| value.to_string()).join(",");
        out.line(format_args!(
            "{},{},{},{:?},{:?},{percentiles}",
            key(function),
            row.average,
            row.count,
            row.minimum,
            row.maximum
        ))?;
    }
    out.finish()
}

/// A row for each function invoked on the day whose durations are recorded.
fn run_rows(trace: &Trace, calls: &Calls, day: u32) -> Vec<Option<RunRow>> {
    let mut rows: Vec<Option<RunRow>> = vec![None; trace.functions.len()];
    match &trace.body {
        Body::Counts(counts) => {
            let Some(minute) = calls.minutes.iter().position(|m| m / MINUTES_PER_DAY == day) else {
                return rows;
            };
            for (stream, number) in counts.streams.iter().zip(0..) {
                let i = stream.function as usize;
                let invoked: u64 = calls.on(i, day).map(|(_, count)| count).sum();
                if trace.functions[i].mean_run.is_none() || invoked == 0 {
                    continue;
                }
                let law = counts.law_index(minute, number);
                rows[i] = counts.rows[law].or_else(|| {
                    let run = counts.laws[law].mean();
                    Some(RunRow::of_runs(&mut [run], invoked))
                });
            }
        }
        Body::Events(events) => {
            let mut runs: Vec<Vec<Duration>> = vec![Vec::new(); trace.functions.len()];
            for event in events {
                let minute = calls.minutes.get(event.at.minute() as usize);
                if minute.is_some_and(|minute| minute / MINUTES_PER_DAY == day) {
                    runs[event.function.index()].push(event.run);
                }
            }
            for (i, runs) in runs.iter_mut().enumerate() {
                if !runs.is_empty() && trace.functions[i].mean_run.is_some() {
                    let count = runs.len() as u64;
                    rows[i] = Some(RunRow::of_runs(runs, count));
                }
            }
        }
    }
    rows
}

fn memory_cells(row: &MemoryRow) -> String {
    let percentiles = row.percentiles.map(|value| value.to_string()).join(",");
    format!("{},{},{percentiles}", row.samples, row.average)
}

fn app_memory(trace: &Trace, path: &Path) -> Result<(), TraceError> {
    // An app's row is that of its functions where they have one row, and the sum of theirs where each has
    // its own.
    let mut apps: BTreeMap<String, Vec<MemoryRow>> = BTreeMap::new();
    let mut order = Vec::new();
    for function in &trace.functions {
        let Some(row) = function.memory_row else { continue };
        let key = key(function);
        let app = key.rsplit_once(',').map_or(key.as_str(), |(app, _)| app);
        let rows = apps.entry(app.to_owned()).or_insert_with(|| {
            order.push(app.to_owned());
            Vec::new()
        });
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    if order.is_empty() {
        return Ok(());
    }
    let mut out = Out::create(path)?;
    out.line(format_args!("{}", MEMORY_COLUMNS.join(",")))?;
    for app in order {
        let rows = apps.get(&app).map_or(&[][..], Vec::as_slice);
        let sum = MemoryRow {
            samples: rows.iter().map(|row| row.samples).max().unwrap_or(0),
            average: rows.iter().map(|row| row.average).sum(),
            percentiles: std::array::from_fn(|i| rows.iter().map(|row| row.percentiles[i]).sum()),
        };
        out.line(format_args!("{app},{}", memory_cells(&sum)))?;
    }
    out.finish()
}

fn function_memory(trace: &Trace, path: &Path) -> Result<(), TraceError> {
    if trace.functions.iter().all(|function| function.memory_row.is_none()) {
        return Ok(());
    }
    let mut out = Out::create(path)?;
    let mut columns = MEMORY_COLUMNS.to_vec();
    columns.insert(2, MEMORY_FUNCTION);
    out.line(format_args!("{}", columns.join(",")))?;
    for function in &trace.functions {
        if let Some(row) = &function.memory_row {
            out.line(format_args!("{},{}", key(function), memory_cells(row)))?;
        }
    }
    out.finish()
}
