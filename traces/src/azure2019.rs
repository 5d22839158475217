//! Azure Functions 2019 (Shahrad et al., "Serverless in the Wild", ATC 2020): the unmodified files, by day.
//! And the form the invitro loader samples them to: the same tables under short names, memory by function.
//!
//! A day is `invocations_per_function_md.anon.dNN.csv`, with beside it
//! `function_durations_percentiles.anon.dNN.csv` and `app_memory_percentiles.anon.dNN.csv`, either of which
//! may be missing. The published set has no memory for days 13 and 14: the nearest day's file is taken.

use std::path::{Path, PathBuf};

use crate::TraceError;
use crate::dataset::{Day, MemoryEntry, RunEntry, assemble, minutes_of_day};
use crate::invocations::{self, joined};
use crate::law::RunRow;
use crate::options::TraceOptions;
use crate::report::ReadReport;
use crate::table::Table;
use crate::trace::{MemoryRow, Trace};

/// The three kinds of files: what their names begin with, before `dNN.csv`.
pub(crate) const PREFIXES: [&str; 3] =
    ["invocations_per_function_md.anon.", "function_durations_percentiles.anon.", "app_memory_percentiles.anon."];
/// Columns of the durations, as in the published header.
pub(crate) const RUN_COLUMNS: [&str; 14] = [
    "HashOwner",
    "HashApp",
    "HashFunction",
    "Average",
    "Count",
    "Minimum",
    "Maximum",
    "percentile_Average_0",
    "percentile_Average_1",
    "percentile_Average_25",
    "percentile_Average_50",
    "percentile_Average_75",
    "percentile_Average_99",
    "percentile_Average_100",
];
/// Columns of the memory, as in the published header.
pub(crate) const MEMORY_COLUMNS: [&str; 12] = [
    "HashOwner",
    "HashApp",
    "SampleCount",
    "AverageAllocatedMb",
    "AverageAllocatedMb_pct1",
    "AverageAllocatedMb_pct5",
    "AverageAllocatedMb_pct25",
    "AverageAllocatedMb_pct50",
    "AverageAllocatedMb_pct75",
    "AverageAllocatedMb_pct95",
    "AverageAllocatedMb_pct99",
    "AverageAllocatedMb_pct100",
];
/// Column the invitro form adds to the memory.
pub(crate) const MEMORY_FUNCTION: &str = "HashFunction";

/// Name of a day's file of one kind.
pub(crate) fn file_name(kind: usize, day: u32) -> String {
    format!("{}d{day:02}.csv", PREFIXES[kind])
}

/// The day in a file's name, if it is one of this kind.
fn day_in_name(path: &Path, kind: usize) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(PREFIXES[kind])?.strip_prefix('d')?.strip_suffix(".csv")?;
    digits.parse().ok()
}

/// Files of a day.
struct Files {
    number: u32,
    invocations: PathBuf,
    runs: Option<PathBuf>,
    memory: Option<PathBuf>,
}

/// Opens a folder of days, or a single file of invocations with whatever lies beside it.
pub(crate) fn open(source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    let mut report = ReadReport::default();
    let meta = std::fs::metadata(path).map_err(TraceError::read(path))?;
    let (folder, mut numbers) = if meta.is_dir() {
        (path.to_path_buf(), days_in(path, 0)?)
    } else {
        let Some(day) = day_in_name(path, 0) else {
            report.note("the name holds no day: read as day 1, without durations and memory");
            let files = Files { number: 1, invocations: path.to_path_buf(), runs: None, memory: None };
            return load(source, &[files], options, report);
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")).to_path_buf(), vec![day])
    };
    if let Some(wanted) = &options.days {
        for day in wanted {
            if !numbers.contains(day) {
                return Err(TraceError::option(
                    "days",
                    format!("day {day} is not in {}", path.display()),
                    format!("it has {numbers:?}"),
                ));
            }
        }
        numbers.retain(|day| wanted.contains(day));
    }
    if numbers.is_empty() {
        return Err(TraceError::file(
            path,
            "no file named invocations_per_function_md.anon.dNN.csv in this folder",
            "unpack the published archive there, or name another folder",
        ));
    }
    let memory_days = days_in(&folder, 2)?;
    let mut days = Vec::new();
    for number in numbers {
        let invocations = if meta.is_dir() { folder.join(file_name(0, number)) } else { path.to_path_buf() };
        let runs = Some(folder.join(file_name(1, number))).filter(|file| file.exists());
        if runs.is_none() {
            report.note(format!("day {number}: no durations file"));
        }
        let nearest = memory_days.iter().min_by_key(|day| (day.abs_diff(number), **day)).copied();
        match nearest {
            Some(day) if day == number => {}
            Some(day) => report.note(format!("day {number}: no memory file, day {day}'s is taken")),
            None => report.note(format!("day {number}: no memory file")),
        }
        days.push(Files { number, invocations, runs, memory: nearest.map(|day| folder.join(file_name(2, day))) });
    }
    load(source, &days, options, report)
}

/// Opens a folder of the invitro form.
pub(crate) fn open_invitro(source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    let meta = std::fs::metadata(path).map_err(TraceError::read(path))?;
    let folder = if meta.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let there = |name: &str| Some(folder.join(name)).filter(|file| file.exists());
    let Some(invocations) = there("invocations.csv") else {
        return Err(TraceError::file(
            folder,
            "no file named invocations.csv in this folder",
            "the invitro form is invocations.csv, durations.csv and memory.csv",
        ));
    };
    let mut report = ReadReport::default();
    let (runs, memory) = (there("durations.csv"), there("memory.csv"));
    for (file, name) in [(&runs, "durations.csv"), (&memory, "memory.csv")] {
        if file.is_none() {
            report.note(format!("no {name}"));
        }
    }
    let files = Files { number: 1, invocations, runs, memory };
    load(source, &[files], options, report)
}

/// Days of which the folder has a file of this kind, in order.
fn days_in(folder: &Path, kind: usize) -> Result<Vec<u32>, TraceError> {
    let mut days = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TraceError::read(folder))? {
        let entry = entry.map_err(TraceError::read(folder))?;
        let path = entry.path();
        // Only names we would write ourselves, so that the name can be made from the day again.
        if let Some(day) = day_in_name(&path, kind)
            && path.file_name().is_some_and(|name| *name == *file_name(kind, day))
        {
            days.push(day);
        }
    }
    days.sort_unstable();
    Ok(days)
}

fn load(source: String, files: &[Files], options: &TraceOptions, mut report: ReadReport) -> Result<Trace, TraceError> {
    let mut days = Vec::with_capacity(files.len());
    for (i, files) in files.iter().enumerate() {
        let wanted = minutes_of_day(options.window, i);
        let (invocations, runs, memory) = std::thread::scope(|scope| {
            let runs = files.runs.as_deref().map(|path| scope.spawn(|| read_runs(path)));
            let memory = files.memory.as_deref().map(|path| scope.spawn(|| read_memory(path)));
            (invocations::read(&files.invocations, wanted), runs.map(joined), memory.map(joined))
        });
        let invocations = invocations?;
        report.file(&files.invocations, invocations.rows.len() as u64);
        let mut day = Day { number: files.number, invocations, ..Day::default() };
        day.places[0] = files.invocations.display().to_string();
        if let Some((path, runs)) = files.runs.as_ref().zip(runs) {
            day.runs = runs?;
            day.places[1] = path.display().to_string();
            report.file(path, day.runs.len() as u64);
        }
        if let Some((path, memory)) = files.memory.as_ref().zip(memory) {
            day.memory = memory?;
            day.places[2] = path.display().to_string();
            report.file(path, day.memory.len() as u64);
        }
        days.push(day);
    }
    if let [first, .., last] = files {
        report.note(format!("{} days, {} to {}, laid end to end", files.len(), first.number, last.number));
    }
    assemble(source, &days, options, report)
}

fn read_runs(path: &Path) -> Result<Vec<RunEntry>, TraceError> {
    let mut table = Table::open(path, &RUN_COLUMNS, &[])?;
    let mut rows = Vec::new();
    while table.next_row()? {
        let mut percentiles = [0.0; 7];
        for (i, value) in percentiles.iter_mut().enumerate() {
            *value = table.number(7 + i)?;
        }
        rows.push(RunEntry {
            owner: table.text(0)?.to_owned(),
            app: table.text(1)?.to_owned(),
            name: table.text(2)?.to_owned(),
            row: RunRow {
                average: table.number(3)?,
                count: table.whole(4)?,
                minimum: table.number(5)?,
                maximum: table.number(6)?,
                percentiles,
            },
            line: table.line(),
        });
    }
    filled(path, rows)
}

fn read_memory(path: &Path) -> Result<Vec<MemoryEntry>, TraceError> {
    let mut table = Table::open(path, &MEMORY_COLUMNS, &[MEMORY_FUNCTION])?;
    let function = MEMORY_COLUMNS.len();
    let mut rows = Vec::new();
    while table.next_row()? {
        let mut percentiles = [0.0; 8];
        for (i, value) in percentiles.iter_mut().enumerate() {
            *value = table.number(4 + i)?;
        }
        rows.push(MemoryEntry {
            owner: table.text(0)?.to_owned(),
            app: table.text(1)?.to_owned(),
            name: if table.has(function) { table.text(function)?.to_owned() } else { String::new() },
            row: MemoryRow { samples: table.whole(2)?, average: table.number(3)?, percentiles },
            line: table.line(),
        });
    }
    filled(path, rows)
}

fn filled<T>(path: &Path, rows: Vec<T>) -> Result<Vec<T>, TraceError> {
    if rows.is_empty() {
        return Err(TraceError::file(
            path,
            "there is a header and no row",
            "add rows, or remove the file: its values then have stated defaults",
        ));
    }
    Ok(rows)
}
