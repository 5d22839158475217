//! What of a trace is wanted, and the rules where the trace leaves a choice. One table, `[trace]`, of an
//! experiment file; every key has a default.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TraceError;

/// Minutes of a day, as the Azure files count them.
pub const MINUTES_PER_DAY: u32 = 1440;
/// The longest trace: ten years, in minutes. Longer ones are times counted from the wrong moment.
pub(crate) const LONGEST_MINUTES: u32 = 10 * 366 * MINUTES_PER_DAY;
/// Microseconds of a minute.
pub(crate) const MINUTE_MICROS: u64 = 60_000_000;

/// Minutes of a trace, both ends included, counted from 1 as the columns of the Azure files are; where
/// several days are read, minute 1441 is the first of the second day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// First minute, from 1.
    pub first: u32,
    /// Last minute, not before the first.
    pub last: u32,
}

impl Window {
    /// How many minutes it holds.
    pub const fn minutes(self) -> u32 {
        self.last - self.first + 1
    }
}

impl FromStr for Window {
    type Err = TraceError;

    /// `A..B`, both included.
    fn from_str(text: &str) -> Result<Self, TraceError> {
        let bad = |problem: String| {
            TraceError::option(
                "window",
                problem,
                "write `480..959` for the minutes 480 to 959, both included, counted from 1",
            )
        };
        let (a, b) = text.split_once("..").ok_or_else(|| bad(format!("`{text}` is not `A..B`")))?;
        let number = |part: &str| {
            let part = part.trim().trim_start_matches('=');
            part.parse::<u32>().map_err(|_| bad(format!("`{part}` in `{text}` is not a minute")))
        };
        let (first, last) = (number(a)?, number(b)?);
        if first == 0 || last < first {
            return Err(bad(format!("`{text}` holds no minute")));
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for Window {
    type Error = TraceError;
    fn try_from(text: String) -> Result<Self, TraceError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

/// Where in its minute a request arrives, the files saying only how many arrive in each minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// Each at a time of its own, all times of the minute alike. Counts are exact. What a Poisson process
    /// looks like once its count is known, hence the default.
    #[default]
    Uniform,
    /// As `uniform`, but the number too is drawn, the recorded count being its mean.
    Poisson,
    /// At equal distances, with a phase of the function's own. Counts are exact.
    Even,
}

/// How the memory of an app is given to its functions, the files recording apps only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppMemory {
    /// Each function's sandbox takes what the app took. The default: what an app commits is mostly its
    /// language runtime and libraries, which a sandbox of any one of its functions loads as well. An upper
    /// bound for apps of many functions.
    #[default]
    Whole,
    /// The app's memory divided by the number of its functions in the files read: what the FaasCache and
    /// invitro studies do. A lower bound.
    Divided,
}

/// Which figure of an app's memory row is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryFigure {
    /// `AverageAllocatedMb`. The default: averages add up to the average of the sum, and it is sums of
    /// memory that are studied.
    #[default]
    Average,
    /// `AverageAllocatedMb_pct50`.
    Median,
    /// `AverageAllocatedMb_pct95`: what has to be set aside to be nearly always enough.
    Pct95,
    /// `AverageAllocatedMb_pct100`.
    Maximum,
}

/// Choices for reading or generating a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceOptions {
    /// Minutes wanted, as `"A..B"`, both included, from 1; all of them where absent.
    pub window: Option<Window>,
    /// Days wanted of a folder of days, by the number in their file names; all of them where absent. The
    /// days are laid end to end in order, whatever lies between them.
    pub days: Option<Vec<u32>>,
    /// Where in its minute a request arrives.
    pub arrivals_in_minute: Spread,
    /// Requests triggered by a timer arrive at equal distances whatever `arrivals_in_minute` says: timers
    /// fire by the clock. Default true.
    pub even_timers: bool,
    /// How an app's memory is given to its functions.
    pub app_memory: AppMemory,
    /// Which figure of an app's memory row is taken.
    pub memory_figure: MemoryFigure,
    /// Milliseconds that a recorded zero stands for. Durations are recorded in whole milliseconds, so a
    /// zero is something under 1 ms. Default 0.5, the middle.
    pub zero_run_ms: f64,
    /// Milliseconds a request runs where nothing is recorded. Default 950: the median of the recorded
    /// averages (Azure 2019, day 1).
    pub default_run_ms: f64,
    /// MB (10^6 bytes) a function takes where its app has no usable row. Default 143: the median app
    /// (Azure 2019, day 1).
    pub default_memory_mb: f64,
    /// `azure-like`: number of functions.
    pub functions: u32,
    /// `azure-like`: length in minutes.
    pub minutes: u32,
    /// `azure-like`: number of invocations in all; where absent, 3,750 a function and day.
    pub invocations: Option<u64>,
    /// `azure-like`: the seed of the functions and their counts.
    pub generator_seed: u64,
    /// The seed of the times within the minutes and of the durations, whatever the run's own; where absent, it is the run's own. With it, runs
    /// with several seeds meet the same arrivals and differ in the draws of their start times alone.
    pub arrivals_seed: Option<u64>,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            window: None,
            days: None,
            arrivals_in_minute: Spread::Uniform,
            even_timers: true,
            app_memory: AppMemory::Whole,
            memory_figure: MemoryFigure::Average,
            zero_run_ms: 0.5,
            default_run_ms: 950.0,
            default_memory_mb: 143.0,
            functions: 200,
            minutes: 120,
            invocations: None,
            generator_seed: 1,
            arrivals_seed: None,
        }
    }
}

/// What each key of `[trace]` is, for people: name, default, what it does.
pub const ABOUT: [(&str, &str, &str); 14] = [
    (
        "window",
        "all",
        "Minutes wanted, \"480..959\": both ends included, counted from 1 as the columns of the Azure files are.",
    ),
    (
        "days",
        "all",
        "Days wanted of a folder of days, [1, 2], by the number in their file names; they are laid end to end.",
    ),
    (
        "arrivals_in_minute",
        "uniform",
        "Where in its minute a request arrives: uniform, even, or poisson (the number is drawn as well).",
    ),
    (
        "even_timers",
        "true",
        "Requests triggered by a timer arrive at equal distances, whatever arrivals_in_minute says.",
    ),
    ("app_memory", "whole", "How an app's memory is given to its functions: whole (each takes it all) or divided."),
    ("memory_figure", "average", "Which figure of an app's memory row is taken: average, median, pct95 or maximum."),
    ("zero_run_ms", "0.5", "Milliseconds that a recorded duration of zero stands for."),
    ("default_run_ms", "950", "Milliseconds a request runs where nothing is recorded."),
    ("default_memory_mb", "143", "MB a function takes where its app has no usable row."),
    ("functions", "200", "azure-like: number of functions."),
    ("minutes", "120", "azure-like: length in minutes."),
    ("invocations", "by size", "azure-like: number of invocations in all; where absent, 3,750 a function and day."),
    ("generator_seed", "1", "azure-like: the seed of the functions and their counts."),
    (
        "arrivals_seed",
        "the run's",
        "The seed of times within minutes and of durations: with it all seeds of a run meet the same arrivals, and differ in the draws of start times.",
    ),
];

impl TraceOptions {
    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), TraceError> {
        let positive = [
            ("zero_run_ms", self.zero_run_ms),
            ("default_run_ms", self.default_run_ms),
            ("default_memory_mb", self.default_memory_mb),
        ];
        for (option, value) in positive {
            if !((0.0..=1e9).contains(&value)) {
                return Err(TraceError::option(
                    option,
                    format!("{value} is not a number from 0 to 10^9"),
                    "give one, or leave the option out for its default",
                ));
            }
        }
        if self.days.as_ref().is_some_and(Vec::is_empty) {
            return Err(TraceError::option(
                "days",
                "the list is empty",
                "name the days wanted, as `[1, 2]`, or leave the option out for all",
            ));
        }
        if let Some(window) = self.window
            && window.last > LONGEST_MINUTES
        {
            return Err(TraceError::option(
                "window",
                format!("minute {} is more than ten years from the start", window.last),
                "minutes count from the start of the trace",
            ));
        }
        if let Some(Window { first, last }) = self.window
            && (first == 0 || last < first)
        {
            return Err(TraceError::option(
                "window",
                format!("{first}..{last} holds no minute"),
                "minutes count from 1 and both ends are included",
            ));
        }
        Ok(())
    }
}
