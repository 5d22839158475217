//! What was found in the files and what was done about it.
//!
//! Recorded traces hold rows that cannot be true. Each kind has one rule, stated here, applied everywhere,
//! and counted, so that no row is bent or lost in silence. What is wrong with the *form* of a file (text
//! for a number, a line cut off) is an error instead: see [`crate::TraceError`].

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

/// A kind of odd row; [`Oddity::rule`] says what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oddity {
    /// Invocations: a second row of a function, the same cell by cell.
    RepeatedInvocations,
    /// Invocations: a second row of a function with other counts.
    SplitInvocations,
    /// Invocations: no invocation in the minutes asked for.
    NotInvoked,
    /// Invocations: a trigger whose name is not one of the seven published.
    UnknownTrigger,
    /// Durations: a second row of a function.
    RepeatedDurations,
    /// Durations: a function that the invocations do not have.
    DurationsWithoutInvocations,
    /// Durations: no row for an invoked function on that day, but on another.
    DurationsOfAnotherDay,
    /// Durations: no row for an invoked function on any day.
    NoDurations,
    /// Durations: `Count` is not the sum of the minutes.
    CountMismatch,
    /// Durations: `Count` is zero.
    CountZero,
    /// Durations: `Minimum`, `Maximum` or a percentile is negative.
    NegativeDuration,
    /// Durations: `Average` is negative.
    NegativeAverage,
    /// Durations: `Average` is zero.
    ZeroAverage,
    /// Durations: `Minimum` is zero.
    ZeroMinimum,
    /// Durations: `Minimum` is larger than `Maximum`.
    MinimumAboveMaximum,
    /// Durations: percentiles fall where they should rise.
    UnorderedPercentiles,
    /// Durations: a percentile is outside `Minimum` to `Maximum`.
    PercentileOutside,
    /// Durations: `Average` is outside `Minimum` to `Maximum`.
    AverageOutside,
    /// Durations: no distribution through the percentiles has the recorded `Average`.
    AverageAgainstPercentiles,
    /// Memory: a second row of an app.
    RepeatedMemory,
    /// Memory: an app that the invocations do not have.
    MemoryWithoutInvocations,
    /// Memory: no row for the app of an invoked function.
    NoMemory,
    /// Memory: zero or negative.
    MemoryNotPositive,
    /// Events: a duration of zero.
    ZeroDuration,
    /// Events: a negative duration.
    NegativeEventDuration,
    /// Events: an arrival (end less duration) before time zero.
    ArrivalBeforeZero,
    /// Events: outside the minutes asked for.
    OutsideWindow,
    /// Events: rows that are not in the order of arrival.
    OutOfOrder,
    /// Events: lines after the end mark.
    AfterEnd,
}

impl Oddity {
    /// What was found, in a few words.
    pub const fn what(self) -> &'static str {
        match self {
            Self::RepeatedInvocations => "invocation rows repeated",
            Self::SplitInvocations => "second invocation rows",
            Self::NotInvoked => "functions without invocation",
            Self::UnknownTrigger => "unknown triggers",
            Self::RepeatedDurations => "duration rows repeated",
            Self::DurationsWithoutInvocations => "durations, never invoked",
            Self::DurationsOfAnotherDay => "durations of another day",
            Self::NoDurations => "functions without durations",
            Self::CountMismatch => "Count not sum of minutes",
            Self::CountZero => "Count zero",
            Self::NegativeDuration => "negative durations",
            Self::NegativeAverage => "negative Average",
            Self::ZeroAverage => "Average zero",
            Self::ZeroMinimum => "Minimum zero",
            Self::MinimumAboveMaximum => "Minimum above Maximum",
            Self::UnorderedPercentiles => "percentiles out of order",
            Self::PercentileOutside => "percentile out of range",
            Self::AverageOutside => "Average out of range",
            Self::AverageAgainstPercentiles => "Average unreachable",
            Self::RepeatedMemory => "memory rows repeated",
            Self::MemoryWithoutInvocations => "memory, never invoked",
            Self::NoMemory => "functions without memory",
            Self::MemoryNotPositive => "memory not positive",
            Self::ZeroDuration => "durations of zero",
            Self::NegativeEventDuration => "negative durations",
            Self::ArrivalBeforeZero => "arrivals before zero",
            Self::OutsideWindow => "outside the window",
            Self::OutOfOrder => "out of order",
            Self::AfterEnd => "after the end mark",
        }
    }

    /// What is done with such a row.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::RepeatedInvocations => "dropped",
            Self::SplitInvocations => "counts added, first trigger kept",
            Self::NotInvoked => "left out: no minute has any",
            Self::UnknownTrigger => "taken as `others`",
            Self::RepeatedDurations => "the row with the larger Count",
            Self::DurationsWithoutInvocations => "left out",
            Self::DurationsOfAnotherDay => "nearest day's row taken",
            Self::NoDurations => "default_run_ms",
            Self::CountMismatch => "kept; the minutes count",
            Self::CountZero => "kept as any other",
            Self::NegativeDuration => "taken as zero",
            Self::NegativeAverage => "mean of the percentiles instead",
            Self::ZeroAverage => "under 1 ms: zero_run_ms",
            Self::ZeroMinimum => "under 1 ms: zero_run_ms",
            Self::MinimumAboveMaximum => "exchanged",
            Self::UnorderedPercentiles => "sorted",
            Self::PercentileOutside => "moved to the nearer end",
            Self::AverageOutside => "moved to the nearer end",
            Self::AverageAgainstPercentiles => "percentiles moved, Average kept",
            Self::RepeatedMemory => "the row with more samples",
            Self::MemoryWithoutInvocations => "left out",
            Self::NoMemory => "default_memory_mb",
            Self::MemoryNotPositive => "default_memory_mb",
            Self::ZeroDuration => "under 1 ms: zero_run_ms",
            Self::NegativeEventDuration => "under 1 ms: zero_run_ms",
            Self::ArrivalBeforeZero => "moved to zero",
            Self::OutsideWindow => "left out",
            Self::OutOfOrder => "sorted",
            Self::AfterEnd => "not read",
        }
    }
}

/// How often, and the first place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Number of rows (or events) of this kind.
    pub count: u64,
    /// Where the first one is: file and line, or the function's name.
    pub first: String,
}

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileRead {
    /// Path as given or found.
    pub path: String,
    /// Data rows, the header not counted.
    pub rows: u64,
}

/// What was read, what was odd about it, and what was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadReport {
    /// The files, in the order they were read.
    pub files: Vec<FileRead>,
    /// Things said once: a file that is missing, a day's memory taken from another day.
    pub notes: Vec<String>,
    /// Odd rows by kind.
    #[serde(serialize_with = "as_list")]
    pub oddities: BTreeMap<Oddity, Tally>,
}

impl ReadReport {
    /// How many rows of this kind were met.
    pub fn count(&self, oddity: Oddity) -> u64 {
        self.oddities.get(&oddity).map_or(0, |tally| tally.count)
    }

    pub(crate) fn add(&mut self, oddity: Oddity, place: impl FnOnce() -> String) {
        self.oddities
            .entry(oddity)
            .and_modify(|tally| tally.count += 1)
            .or_insert_with(|| Tally { count: 1, first: place() });
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn file(&mut self, path: &std::path::Path, rows: u64) {
        self.files.push(FileRead { path: path.display().to_string(), rows });
    }
}

/// A row of the report as it is serialised.
#[derive(Serialize)]
struct Entry<'a> {
    oddity: Oddity,
    what: &'static str,
    rule: &'static str,
    #[serde(flatten)]
    tally: &'a Tally,
}

fn as_list<S: Serializer>(map: &BTreeMap<Oddity, Tally>, to: S) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(map.len()))?;
    for (&oddity, tally) in map {
        list.serialize_element(&Entry { oddity, what: oddity.what(), rule: oddity.rule(), tally })?;
    }
    list.end()
}

impl fmt::Display for ReadReport {
    /// A table at most 80 columns wide, save for long paths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{:>10} rows  {}", file.rows, file.path)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if self.oddities.is_empty() {
            return writeln!(f, "no odd rows");
        }
        writeln!(f, "{:>10}  {:<29} {:<38}", "count", "found", "done")?;
        for (oddity, tally) in &self.oddities {
            writeln!(f, "{:>10}  {:<29} {:<38}", tally.count, oddity.what(), oddity.rule())?;
        }
        Ok(())
    }
}
