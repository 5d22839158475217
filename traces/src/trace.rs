//! A trace in memory: its functions, and per minute how often each is called, or else every single event.
//!
//! Counts are what the Azure files hold, and they are kept as counts: a day of 910 million invocations is
//! about ten million non-zero cells of eight bytes. The arrivals themselves are drawn minute by minute while
//! they are consumed; see [`crate::Arrivals`].

use medes_engine::event::Arrival;
use medes_engine::id::FunctionId;
use medes_engine::units::{Bytes, Duration};
use serde::{Deserialize, Serialize};

use crate::arrivals::Arrivals;
use crate::law::{RunLaw, RunRow};
use crate::options::Spread;
use crate::report::ReadReport;

/// What calls a function; the seven kinds of the Azure files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A web request.
    Http,
    /// The clock.
    Timer,
    /// A message queue.
    Queue,
    /// Another function, through the platform's orchestration.
    Orchestration,
    /// An event hub or grid.
    Event,
    /// A change in storage.
    Storage,
    /// Anything else, or not recorded.
    #[default]
    Others,
}

impl Trigger {
    /// All, in the order of their share of functions.
    pub const ALL: [Self; 7] =
        [Self::Http, Self::Timer, Self::Queue, Self::Orchestration, Self::Event, Self::Storage, Self::Others];

    /// Its name in the files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Timer => "timer",
            Self::Queue => "queue",
            Self::Orchestration => "orchestration",
            Self::Event => "event",
            Self::Storage => "storage",
            Self::Others => "others",
        }
    }

    /// The trigger of that name, if it is one of the seven.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.name() == name)
    }
}

/// A row of `app_memory_percentiles`, in MB as recorded: memory committed by the whole app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MemoryRow {
    /// `SampleCount`.
    pub samples: u64,
    /// `AverageAllocatedMb`.
    pub average: f64,
    /// `AverageAllocatedMb_pct` 1, 5, 25, 50, 75, 95, 99, 100.
    pub percentiles: [f64; 8],
}

impl MemoryRow {
    /// Of something that always takes this much.
    pub fn constant(memory: Bytes) -> Self {
        Self { samples: 1, average: memory.as_mb(), percentiles: [memory.as_mb(); 8] }
    }
}

/// A function of the trace; its position in [`Trace::functions`] is its [`FunctionId`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Function {
    /// `HashFunction`, or whatever the source calls it. Unique only together with owner and app.
    pub name: String,
    /// `HashOwner`; empty where the source has none.
    pub owner: String,
    /// `HashApp`; empty where the source has none.
    pub app: String,
    /// What calls it.
    pub trigger: Trigger,
    /// Memory of one sandbox, by the rules of the options; `None` where the source does not record any.
    pub memory: Option<Bytes>,
    /// Mean of its own execution time over this trace; `None` where the source does not record any (its
    /// requests then run for `default_run_ms`).
    pub mean_run: Option<Duration>,
    /// Requests in this trace (the mean number where counts are drawn).
    pub requests: u64,
    /// The memory row as recorded: the app's, or in the invitro form the function's own.
    pub memory_row: Option<MemoryRow>,
}

impl Function {
    /// A name that is unique in the trace: owner, app and name, as far as there are any.
    pub fn label(&self) -> String {
        [&self.owner, &self.app, &self.name]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("/")
    }
}

/// The requests of a set of functions over a length of time. Parsed once, then shared: `Send + Sync`.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Where it comes from, as `kind:path`.
    pub source: String,
    /// The functions, by [`FunctionId`].
    pub functions: Vec<Function>,
    /// From time zero to the end of the last minute.
    pub length: Duration,
    /// What was read and mended.
    pub report: ReadReport,
    /// The seed of all arrivals, if it is not the one that they are asked for with.
    pub(crate) arrivals_seed: Option<u64>,
    pub(crate) body: Body,
}

/// The requests themselves.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// How many a minute.
    Counts(Counts),
    /// One by one, in order of time, function, and the order they were read in.
    Events(Vec<Arrival>),
}

/// Requests of one stream in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub stream: u32,
    pub count: u32,
}

/// A source of requests: one recorded function. Several may feed one function after a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Whom it calls. Streams are in the order of their functions.
    pub function: u32,
    /// Names the stream's random numbers; depends on owner, app and name only.
    pub key: u64,
    /// Spaced evenly whatever the spread.
    pub even: bool,
}

/// Counts by minute.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub spread: Spread,
    pub streams: Vec<Stream>,
    /// For each minute of the trace, which minute of the source it is: names its random numbers.
    pub minutes: Vec<u32>,
    /// Cells of minute m: `cells[starts[m]..starts[m + 1]]`, by stream.
    pub starts: Vec<usize>,
    pub cells: Vec<Cell>,
    /// For each minute of the trace, its day, counted from zero without gaps.
    pub day_of: Vec<u32>,
    /// Law of a stream on a day: `laws[law_of[day * streams + stream]]`.
    pub law_of: Vec<u32>,
    pub laws: Vec<RunLaw>,
    /// The rows the laws were made from, where they were recorded.
    pub rows: Vec<Option<RunRow>>,
}

impl Counts {
    /// Cells of a minute of the trace.
    pub fn minute(&self, minute: usize) -> &[Cell] {
        &self.cells[self.starts[minute]..self.starts[minute + 1]]
    }

    /// Index into the laws for a stream in a minute.
    #[inline]
    pub fn law_index(&self, minute: usize, stream: u32) -> usize {
        let row = self.day_of[minute] as usize * self.streams.len();
        self.law_of[row + stream as usize] as usize
    }
}

impl Trace {
    /// How many requests; the mean number where counts are drawn ([`Spread::Poisson`]).
    pub fn requests(&self) -> u64 {
        match &self.body {
            Body::Counts(counts) => counts.cells.iter().map(|cell| u64::from(cell.count)).sum(),
            Body::Events(events) => events.len() as u64,
        }
    }

    /// The arrivals in order. The same seed gives the same arrivals, and a function's arrivals in a minute
    /// depend on its name, the minute and the seed only: a window or a sample of the trace has the same ones. The option `arrivals_seed` goes before `seed`.
    pub fn arrivals(&self, seed: u64) -> Arrivals<'_> {
        Arrivals::new(self, self.arrivals_seed.unwrap_or(seed))
    }

    /// Calls `each(minute, function, requests)` for every minute and function with any, by minute and then
    /// by function. Minutes count from zero.
    pub fn for_each_count(&self, mut each: impl FnMut(usize, FunctionId, u64)) {
        match &self.body {
            Body::Counts(counts) => {
                for minute in 0..counts.minutes.len() {
                    let cells = counts.minute(minute);
                    let function = |cell: &Cell| counts.streams[cell.stream as usize].function;
                    for group in cells.chunk_by(|a, b| function(a) == function(b)) {
                        let sum = group.iter().map(|cell| u64::from(cell.count)).sum();
                        each(minute, FunctionId(function(&group[0])), sum);
                    }
                }
            }
            Body::Events(events) => {
                let mut here: Vec<u32> = Vec::new();
                for group in events.chunk_by(|a, b| a.at.minute() == b.at.minute()) {
                    here.clear();
                    here.extend(group.iter().map(|event| event.function.0));
                    here.sort_unstable();
                    for same in here.chunk_by(|a, b| a == b) {
                        let minute = group[0].at.minute() as usize;
                        each(minute, FunctionId(same[0]), same.len() as u64);
                    }
                }
            }
        }
    }

    /// Length in whole minutes, rounded up.
    pub fn minutes(&self) -> u32 {
        let minutes = self.length.as_micros().div_ceil(crate::options::MINUTE_MICROS);
        u32::try_from(minutes).unwrap_or(u32::MAX)
    }

    /// Sets each function's number of requests and mean run from the body.
    pub(crate) fn sum_up(&mut self, runs_recorded: impl Fn(usize) -> bool) {
        let mut requests = vec![0u64; self.functions.len()];
        let mut micros = vec![0f64; self.functions.len()];
        match &self.body {
            Body::Counts(counts) => {
                // Of one day at a time, so that cells find them in the cache.
                let mut means = Vec::new();
                let mut day = None;
                for minute in 0..counts.minutes.len() {
                    if day != Some(counts.day_of[minute]) {
                        day = Some(counts.day_of[minute]);
                        let mean = |stream| counts.laws[counts.law_index(minute, stream)].mean().as_micros() as f64;
                        means = (0..counts.streams.len() as u32).map(mean).collect();
                    }
                    for cell in counts.minute(minute) {
                        let function = counts.streams[cell.stream as usize].function as usize;
                        requests[function] += u64::from(cell.count);
                        micros[function] += f64::from(cell.count) * means[cell.stream as usize];
                    }
                }
            }
            Body::Events(events) => {
                for event in events {
                    requests[event.function.index()] += 1;
                    micros[event.function.index()] += event.run.as_micros() as f64;
                }
            }
        }
        for (i, function) in self.functions.iter_mut().enumerate() {
            function.requests = requests[i];
            let mean = micros[i] / requests[i].max(1) as f64;
            function.mean_run = runs_recorded(i).then(|| Duration::from_micros(mean.round() as u64));
        }
    }
}

/// The number that names the random stream of a function: FNV-1a over owner, app and name.
pub(crate) fn stream_key(owner: &str, app: &str, name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in [owner, app, name] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}

/// Two numbers into one, well stirred (the finaliser of SplitMix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(32) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
