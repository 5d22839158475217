//! Traces that list every request: the reference's request files and plain CSV. (Azure 2021 is one too, in
//! its own file.)

use std::collections::HashMap;
use std::path::Path;

use medes_engine::id::FunctionId;
use medes_engine::units::{Bytes, Duration, Instant};

use crate::Arrival;
use crate::TraceError;
use crate::error::quote;
use crate::options::{LONGEST_MINUTES, MINUTE_MICROS, TraceOptions};
use crate::report::{Oddity, ReadReport};
use crate::table::Table;
use crate::trace::{Body, Function, MemoryRow, Trace};

/// Collects the events of a file.
#[derive(Default)]
pub(crate) struct Events {
    /// Looked up only: its order shows nowhere.
    index: HashMap<(String, String), u32>,
    functions: Vec<Function>,
    /// Whether any of the function's durations were recorded.
    recorded: Vec<bool>,
    arrivals: Vec<Arrival>,
    pub report: ReadReport,
}

impl Events {
    /// The function of this app and name, new ones getting the next number.
    pub fn function(&mut self, app: &str, name: &str) -> FunctionId {
        let next = self.functions.len() as u32;
        let id = *self.index.entry((app.to_owned(), name.to_owned())).or_insert(next);
        if id == next {
            self.functions.push(Function { name: name.to_owned(), app: app.to_owned(), ..Function::default() });
            self.recorded.push(false);
        }
        FunctionId(id)
    }

    /// Adds a request at `at` seconds; `run` in seconds, where recorded.
    pub fn add(
        &mut self,
        at: f64,
        function: FunctionId,
        run: Option<f64>,
        options: &TraceOptions,
        place: &dyn Fn() -> String,
    ) {
        if at < 0.0 {
            self.report.add(Oddity::ArrivalBeforeZero, place);
        }
        let run = match run {
            None => Duration::from_millis_f64(options.default_run_ms),
            Some(run) if run > 0.0 => Duration::from_secs_f64(run),
            Some(run) => {
                let kind = if run < 0.0 { Oddity::NegativeEventDuration } else { Oddity::ZeroDuration };
                self.report.add(kind, place);
                Duration::from_millis_f64(options.zero_run_ms)
            }
        };
        let at = Instant::from_secs_f64(at);
        if self.arrivals.last().is_some_and(|before| before.at > at) {
            self.report.add(Oddity::OutOfOrder, place);
        }
        self.arrivals.push(Arrival { at, function, run });
    }

    /// Says that durations of this function are recorded.
    pub fn has_run(&mut self, function: FunctionId) {
        self.recorded[function.index()] = true;
    }

    /// Notes memory of a function; the largest counts.
    pub fn memory(&mut self, function: FunctionId, memory: Bytes) {
        let function = &mut self.functions[function.index()];
        if function.memory < Some(memory) {
            function.memory = Some(memory);
            function.memory_row = Some(MemoryRow::constant(memory));
        }
    }

    /// The trace: sorted, cut to the window.
    pub fn into_trace(mut self, source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
        if self.arrivals.is_empty() {
            return Err(TraceError::file(path, "there is no request in it", "add some, or name another file"));
        }
        // Stable: equal times of a function stay in the order of the file.
        self.arrivals.sort_by_key(|arrival| (arrival.at, arrival.function));
        let last = self.arrivals.last().map_or(0, |arrival| arrival.at.minute());
        if last > u64::from(LONGEST_MINUTES) {
            return Err(TraceError::file(
                path,
                format!("its last request is at minute {last}, more than ten years from the start"),
                "count the times from the start of the trace, not from 1970, and mind their unit",
            ));
        }
        let mut length = Duration::from_micros((last + 1).saturating_mul(MINUTE_MICROS));
        if let Some(window) = options.window {
            let start = Instant::from_micros(u64::from(window.first - 1) * MINUTE_MICROS);
            let end = Instant::from_micros(u64::from(window.last) * MINUTE_MICROS);
            length = end.since(start);
            let report = &mut self.report;
            self.arrivals.retain_mut(|arrival| {
                let inside = (start..end).contains(&arrival.at);
                if inside {
                    arrival.at = Instant::ZERO + arrival.at.since(start);
                } else {
                    report.add(Oddity::OutsideWindow, || arrival.at.to_string());
                }
                inside
            });
            if self.arrivals.is_empty() {
                return Err(TraceError::option(
                    "window",
                    format!("no request of {} is in the minutes {window}", path.display()),
                    format!("the file has the minutes 1 to {}", last + 1),
                ));
            }
        }
        let recorded = self.recorded;
        let mut trace = Trace {
            source,
            functions: self.functions,
            length,
            report: self.report,
            arrivals_seed: None,
            body: Body::Events(self.arrivals),
        };
        trace.sum_up(|function| recorded[function]);
        Ok(trace.without_idle())
    }
}

/// The reference's request file: `<timestamp ms> <application> <environment>` a line, in order of time; a
/// timestamp of -1 ends it. The application becomes the function's app and the environment its name.
pub(crate) fn open_requests(source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    const FORM: &str = "each line is `<timestamp ms> <application> <environment>`, as `1500 0 3`";
    let bytes = std::fs::read(path).map_err(TraceError::read(path))?;
    let mut events = Events::default();
    let (mut ended, mut before) = (false, 0);
    let mut rows = 0;
    for (line, number) in bytes.split(|&byte| byte == b'\n').zip(1u64..) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if ended {
            events.report.add(Oddity::AfterEnd, || format!("{}, line {number}", path.display()));
            continue;
        }
        let text = std::str::from_utf8(line)
            .map_err(|_| TraceError::line(path, number, format!("{} is not UTF-8 text", quote(line)), FORM))?;
        let mut words = text.split_ascii_whitespace();
        let time = words.next().unwrap_or_default();
        if time == "-1" {
            ended = true;
            continue;
        }
        let cell = |problem: String| TraceError::cell(path, number, "timestamp", problem, FORM);
        let millis: u64 = match time.parse::<i64>() {
            Ok(millis) if millis < 0 => {
                return Err(cell(format!("`{millis}` is negative, and not the end mark -1")));
            }
            Ok(millis) => millis.unsigned_abs(),
            Err(_) => return Err(cell(format!("{} is not a whole number", quote(time.as_bytes())))),
        };
        let (Some(app), Some(environment), None) = (words.next(), words.next(), words.next()) else {
            let have = text.split_ascii_whitespace().count();
            let problem = format!("{have} columns where there should be 3");
            return Err(TraceError::line(path, number, problem, FORM));
        };
        if millis < before {
            return Err(TraceError::line(
                path,
                number,
                format!("the timestamp {millis} comes after {before}"),
                "sort the lines by their timestamp: the reference would send it late",
            ));
        }
        before = millis;
        rows += 1;
        let function = events.function(app, environment);
        events.add(millis as f64 / 1e3, function, None, options, &String::new);
    }
    if bytes.trim_ascii().is_empty() {
        return Err(TraceError::file(path, "the file is empty", FORM));
    }
    if !ended {
        events.report.note("no line with the timestamp -1 ends the file");
    }
    events.report.file(path, rows);
    events.into_trace(source, path, options)
}

/// Plain CSV with a header: `time` in seconds, `function`, and optionally `duration` in milliseconds and
/// `memory` in MB (10^6 bytes). An empty duration or memory is one not recorded.
pub(crate) fn open_csv(source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    let mut table = Table::open(path, &["time", "function"], &["duration", "memory"])?;
    let mut events = Events::default();
    while table.next_row()? {
        let name = table.text(1)?;
        if name.is_empty() {
            return Err(table.error(1, "the cell is empty", "name the function"));
        }
        let function = events.function("", name);
        let run = if table.is_empty(2) { None } else { Some(table.number(2)? / 1e3) };
        if run.is_some() {
            events.has_run(function);
        }
        let line = table.line();
        let place = || format!("{}, line {line}", path.display());
        if !table.is_empty(3) {
            let mb = table.number(3)?;
            if mb > 0.0 {
                events.memory(function, Bytes::from_mb(mb));
            } else {
                events.report.add(Oddity::MemoryNotPositive, place);
            }
        }
        events.add(table.number(0)?, function, run, options, &place);
    }
    events.report.file(path, table.rows());
    events.into_trace(source, path, options)
}
