//! What a trace is like, beside what is published about the Azure trace of 2019.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::options::MINUTES_PER_DAY;
use crate::synth::published::{APP_SIZES, DAILY_SHARES, HOURS, MEMORY_MB, Quantiles, RUN_S, TOP, TRIGGERS, VARIATION};
use crate::trace::{Function, Trace, Trigger};

/// Probabilities at which durations and memory are given.
pub const QUANTILES: [f64; 6] = [0.10, 0.25, 0.50, 0.75, 0.90, 0.99];

/// A figure of the trace, and the published one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What it is, with its unit.
    pub what: String,
    /// Of this trace; `None` where there is nothing to measure it by.
    pub here: Option<f64>,
    /// As published (Azure Functions, 2019).
    pub published: Option<f64>,
}

/// Statistics of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// As `kind:path`.
    pub source: String,
    /// Functions.
    pub functions: usize,
    /// Apps; functions of sources without apps are each their own.
    pub apps: usize,
    /// Owners.
    pub owners: usize,
    /// Length in minutes.
    pub minutes: u32,
    /// Requests (mean number where counts are drawn).
    pub requests: u64,
    /// Largest number of requests of a function in a minute.
    pub largest_minute: u64,
    /// Part of all (function, minute) without a request, per cent.
    pub idle_minutes_percent: f64,
    /// Mean number of requests running at a time: requests a second times their mean run time.
    pub mean_concurrency: f64,
    /// Tables, by title.
    pub tables: Vec<Table>,
}

/// Figures that belong together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// What they are about.
    pub title: String,
    /// The figures.
    pub lines: Vec<Line>,
}

impl Stats {
    /// Measures a trace.
    pub fn of(trace: &Trace) -> Self {
        let app_of = apps(&trace.functions);
        let number_of_apps = app_of.iter().max().map_or(0, |app| app + 1);
        let owners: std::collections::BTreeSet<&str> = trace.functions.iter().map(|f| f.owner.as_str()).collect();
        let seen = Seen::of(trace, &app_of, number_of_apps);
        let minutes = trace.minutes();
        let requests = trace.requests();
        let cells = trace.functions.len() as f64 * f64::from(minutes);
        let busy: f64 = trace
            .functions
            .iter()
            .filter_map(|f| Some(f.requests as f64 * f.mean_run?.as_secs_f64()))
            .fold(0.0, |sum, busy| sum + busy);
        Self {
            source: trace.source.clone(),
            functions: trace.functions.len(),
            apps: number_of_apps,
            owners: owners.len(),
            minutes,
            requests,
            largest_minute: seen.largest,
            idle_minutes_percent: 100.0 * (1.0 - seen.cells as f64 / cells.max(1.0)),
            mean_concurrency: busy / trace.length.as_secs_f64().max(1e-6),
            tables: vec![
                triggers(trace),
                popularity(trace),
                busiest(trace),
                app_sizes(&app_of, number_of_apps),
                seen.variation(),
                seen.hours(),
                durations(trace),
                memory(trace, &app_of, number_of_apps),
            ],
        }
    }

    /// The figure of this name, from any table.
    pub fn get(&self, what: &str) -> Option<f64> {
        let mut lines = self.tables.iter().flat_map(|table| &table.lines);
        lines.find(|line| line.what == what).and_then(|line| line.here)
    }
}

/// Number of each function's app.
fn apps(functions: &[Function]) -> Vec<usize> {
    let mut numbers: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    functions
        .iter()
        .map(|f| {
            let app = if f.app.is_empty() { &f.name } else { &f.app };
            let next = numbers.len();
            *numbers.entry((&f.owner, app)).or_insert(next)
        })
        .collect()
}

fn line(what: impl Into<String>, here: impl Into<Option<f64>>, published: f64) -> Line {
    Line { what: what.into(), here: here.into(), published: Some(published) }
}

fn percent(part: f64, whole: f64) -> f64 {
    100.0 * part / whole.max(1e-300)
}

fn triggers(trace: &Trace) -> Table {
    let all: u64 = trace.functions.iter().map(|f| f.requests).sum();
    let of = |trigger: Trigger| trace.functions.iter().filter(move |f| f.trigger == trigger);
    let mut lines = Vec::new();
    for (trigger, functions, _) in TRIGGERS {
        let here = percent(of(trigger).count() as f64, trace.functions.len() as f64);
        lines.push(line(format!("functions, {} %", trigger.name()), here, functions));
    }
    for (trigger, _, requests) in TRIGGERS {
        let sum: u64 = of(trigger).map(|f| f.requests).sum();
        let here = percent(sum as f64, all as f64);
        lines.push(line(format!("requests, {} %", trigger.name()), here, requests));
    }
    Table { title: "Triggers".into(), lines }
}

fn popularity(trace: &Trace) -> Table {
    let days = f64::from(trace.minutes().max(1)) / f64::from(MINUTES_PER_DAY);
    let lines = DAILY_SHARES
        .into_iter()
        .map(|(most, share)| {
            let below = trace.functions.iter().filter(|f| f.requests as f64 <= most * days * 1.000_001);
            let here = percent(below.count() as f64, trace.functions.len() as f64);
            line(format!("at most {most} a day, %"), here, 100.0 * share)
        })
        .collect();
    Table { title: "Functions by requests".into(), lines }
}

fn busiest(trace: &Trace) -> Table {
    let mut requests: Vec<u64> = trace.functions.iter().map(|f| f.requests).collect();
    requests.sort_unstable_by(|a, b| b.cmp(a));
    let all: u64 = requests.iter().sum();
    let n = requests.len();
    let lines = TOP
        .into_iter()
        .zip(["the busiest function, %", "busiest 0.1 %, %", "busiest 1 %, %"])
        .zip([1, n.div_ceil(1000), n.div_ceil(100)])
        .map(|(((_, share), what), top)| {
            let sum: u64 = requests.iter().take(top).sum();
            line(what, percent(sum as f64, all as f64), 100.0 * share)
        })
        .collect();
    Table { title: "Share of all requests".into(), lines }
}

fn app_sizes(app_of: &[usize], apps: usize) -> Table {
    let mut sizes = vec![0u32; apps];
    for &app in app_of {
        sizes[app] += 1;
    }
    let lines = APP_SIZES
        .into_iter()
        .map(|(most, share)| {
            let below = sizes.iter().filter(|&&size| size <= most).count();
            line(format!("at most {most} functions, %"), percent(below as f64, apps as f64), 100.0 * share)
        })
        .collect();
    Table { title: "Apps by functions".into(), lines }
}

/// What goes by when the minutes are walked through.
struct Seen {
    cells: u64,
    largest: u64,
    hours: Vec<u64>,
    apps: Vec<Gaps>,
}

/// The times between the requests of an app, in minutes.
#[derive(Clone, Copy, Default)]
struct Gaps {
    last: Option<f64>,
    n: f64,
    sum: f64,
    squares: f64,
}

impl Gaps {
    fn gap(&mut self, minutes: f64, times: f64) {
        self.n += times;
        self.sum += minutes * times;
        self.squares += minutes * minutes * times;
    }

    /// Coefficient of variation, of at least two gaps.
    fn variation(&self) -> Option<f64> {
        let mean = self.sum / self.n;
        (self.n >= 2.0).then(|| (self.squares / self.n - mean * mean).max(0.0).sqrt() / mean)
    }
}

impl Seen {
    fn of(trace: &Trace, app_of: &[usize], apps: usize) -> Self {
        let mut seen = Self {
            cells: 0,
            largest: 0,
            hours: vec![0; trace.minutes().div_ceil(60) as usize],
            apps: vec![Gaps::default(); apps],
        };
        let mut now = 0;
        let mut due: BTreeMap<usize, u64> = BTreeMap::new();
        trace.for_each_count(|minute, function, count| {
            if minute != now {
                seen.minute(now, &mut due);
                now = minute;
            }
            seen.cells += 1;
            seen.largest = seen.largest.max(count);
            *due.entry(app_of[function.index()]).or_insert(0) += count;
        });
        seen.minute(now, &mut due);
        seen
    }

    /// Takes in a minute: the requests of an app are taken to be evenly spread in it.
    fn minute(&mut self, minute: usize, due: &mut BTreeMap<usize, u64>) {
        for (app, count) in std::mem::take(due) {
            if let Some(hour) = self.hours.get_mut(minute / 60) {
                *hour += count;
            }
            let step = 1.0 / count as f64;
            let gaps = &mut self.apps[app];
            let first = minute as f64 + step / 2.0;
            if let Some(last) = gaps.last {
                gaps.gap(first - last, 1.0);
            }
            gaps.gap(step, (count - 1) as f64);
            gaps.last = Some((minute + 1) as f64 - step / 2.0);
        }
    }

    fn variation(&self) -> Table {
        let all: Vec<f64> = self.apps.iter().filter_map(Gaps::variation).collect();
        let lines = VARIATION
            .into_iter()
            .map(|(most, share)| {
                let below = all.iter().filter(|&&value| value <= most).count();
                let here = (!all.is_empty()).then(|| percent(below as f64, all.len() as f64));
                line(format!("variation at most {most}, %"), here, 100.0 * share)
            })
            .collect();
        Table { title: "Apps by coefficient of variation of the times between requests (3 or more)".into(), lines }
    }

    fn hours(&self) -> Table {
        let mean = self.hours.iter().sum::<u64>() as f64 / self.hours.len().max(1) as f64;
        let over_mean = |hour: Option<&u64>| hour.map(|&volume| volume as f64 / mean.max(1e-300));
        let low = HOURS.into_iter().fold(f64::MAX, f64::min);
        let high = HOURS.into_iter().fold(0.0, f64::max);
        Table {
            title: "Requests by hour".into(),
            lines: vec![
                line("least hour / mean hour", over_mean(self.hours.iter().min()), low),
                line("most hour / mean hour", over_mean(self.hours.iter().max()), high),
            ],
        }
    }
}

/// The quantiles of values beside published ones.
fn quantiles(title: &str, unit: &str, mut values: Vec<f64>, published: Quantiles) -> Table {
    values.sort_by(f64::total_cmp);
    let lines = QUANTILES
        .into_iter()
        .map(|q| {
            let place = (q * values.len() as f64) as usize;
            let what = format!("{} {:.0} %, {unit}", title.to_lowercase(), 100.0 * q);
            line(what, values.get(place).copied(), published.at(q))
        })
        .collect();
    Table { title: title.into(), lines }
}

fn durations(trace: &Trace) -> Table {
    let means = trace.functions.iter().filter_map(|f| Some(f.mean_run?.as_secs_f64()));
    quantiles("Mean run time", "s", means.collect(), RUN_S)
}

fn memory(trace: &Trace, app_of: &[usize], apps: usize) -> Table {
    let mut rows = vec![None; apps];
    for (function, &app) in trace.functions.iter().zip(app_of) {
        rows[app] = rows[app].or(function.memory_row.map(|row| row.average));
    }
    quantiles("Memory of an app", "MB", rows.into_iter().flatten().collect(), MEMORY_MB)
}

/// A number in at most eight characters.
fn short(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value != 0.0 && value.abs() < 0.1 => format!("{value:.4}"),
        Some(value) if value.abs() < 10.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.1}"),
    }
}

impl fmt::Display for Stats {
    /// A table at most 80 columns wide, save for a long source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.source)?;
        writeln!(
            f,
            "{} functions, {} apps, {} owners, {} minutes, {} requests",
            self.functions, self.apps, self.owners, self.minutes, self.requests
        )?;
        writeln!(
            f,
            "largest minute of a function {}, idle minutes {:.1} %, mean concurrency {:.1}",
            self.largest_minute, self.idle_minutes_percent, self.mean_concurrency
        )?;
        writeln!(f, "{:<44} {:>12} {:>12}", "", "here", "Azure 2019")?;
        for table in &self.tables {
            writeln!(f, "{}", table.title)?;
            for line in &table.lines {
                let (here, published) = (short(line.here), short(line.published));
                writeln!(f, "  {:<42} {here:>12} {published:>12}", line.what)?;
            }
        }
        Ok(())
    }
}
