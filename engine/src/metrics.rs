//! What a run amounts to: counts, percentiles, memory over time. Both worlds add up with it. Nothing here grows with the number of
//! requests.

use std::collections::BTreeMap;

use crate::ahead;
use crate::config::Config;
use crate::engine::{Counters, Engine, Population};
use crate::hist::Histogram;
use crate::id::FunctionId;
use crate::record::{
    FunctionSummary, Outcome as Ended, RequestRecord, StartKind, StartParts, StartSummary, Summary, TimelineSample,
};
use crate::units::{Bytes, Duration, Instant};

/// Base pages read by dedup starts, expected numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BasePages {
    /// From a base of the same node.
    pub local: f64,
    /// From another node's, over the network.
    pub remote: f64,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Over all functions.
    pub summary: Summary,
    /// Each function that had a request, in the order of functions.
    pub functions: Vec<FunctionSummary>,
    /// The cluster over time, up to the end of the trace.
    pub timeline: Vec<TimelineSample>,
    /// The engine's counts.
    pub counters: Counters,
    /// What dedup starts read.
    pub base_pages: BasePages,
}

/// Starts broken down, added up by function and kind.
#[derive(Clone, Debug, Default)]
pub struct StartSums(BTreeMap<(FunctionId, StartKind), StartSum>);

/// Sums of times, ms.
#[derive(Clone, Debug, Default)]
struct StartSum {
    count: u64,
    /// Control, read, patch, resume.
    parts: [f64; 4],
    start: f64,
    run: f64,
}

impl StartSums {
    /// A request ended; only answered ones count.
    pub fn add(&mut self, record: &RequestRecord, parts: &StartParts) {
        let (Ended::Answered, Some(kind)) = (record.outcome, record.kind) else { return };
        let sum = self.0.entry((record.function, kind)).or_default();
        sum.count += 1;
        for (sum, part) in sum.parts.iter_mut().zip([parts.control, parts.read, parts.patch, parts.resume]) {
            *sum += part.as_millis_f64();
        }
        sum.start += record.start.as_millis_f64();
        sum.run += record.run.as_millis_f64();
    }

    /// Means, a row a function and kind, in their order.
    pub fn rows(&self, name: impl Fn(FunctionId) -> String) -> Vec<StartSummary> {
        let row = |((function, kind), s): (&(FunctionId, StartKind), &StartSum)| {
            let mean = |sum: f64| sum / s.count as f64;
            StartSummary {
                function: name(*function),
                kind: kind.name().to_owned(),
                count: s.count,
                control_ms: mean(s.parts[0]),
                read_ms: mean(s.parts[1]),
                patch_ms: mean(s.parts[2]),
                resume_ms: mean(s.parts[3]),
                start_ms: mean(s.start),
                run_ms: mean(s.run),
            }
        };
        self.0.iter().map(row).collect()
    }
}

/// A warm start touches the histogram alone, whose length is the number of answers.
#[derive(Clone, Debug, Default)]
#[repr(C)]
struct PerFunction {
    latency: Histogram<7>,
    cold: u64,
    dedup: u64,
    queued: u64,
    dropped: u64,
}

impl PerFunction {
    fn requests(&self) -> u64 {
        self.latency.len() + self.dropped
    }

    fn warm(&self) -> u64 {
        self.latency.len() - self.cold - self.dedup
    }
}

/// An answer on its way to the histograms.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    function: u32,
    latency: Duration,
    start: Duration,
}

/// So many answers are put into the histograms at a time: a loop of its own, which the processor can work ahead in. What they
/// touch is asked for some answers ahead, the function's line first and then its bucket: where functions are many, neither is in the cache.
const AT_A_TIME: usize = 256;
const FUNCTION_AHEAD: usize = 12;
const BUCKET_AHEAD: usize = 6;

/// A run being added up: a world tells it of each record, of memory as it changes, and of time.
pub struct Metrics {
    functions: Vec<PerFunction>,
    latency: Histogram<10>,
    start: Histogram<10>,
    /// Sum of the starts of requests answered by a dedup start.
    dedup_start_us: u128,
    /// Answers that are not in the histograms yet.
    answers: Vec<Answer>,
    timeline: Vec<TimelineSample>,
    interval: Duration,
    end: Instant,
    /// Start of the present interval.
    since: Instant,
    /// Up to when memory has been added up.
    at: Instant,
    used: Bytes,
    /// Memory x time of the present interval, byte x µs.
    area: u128,
    max: Bytes,
    total_area: u128,
    total_max: Bytes,
    before: Counters,
}

impl Metrics {
    /// For `functions` functions over a run of `length`, with a sample of the timeline each `interval`.
    pub fn new(functions: usize, interval: Duration, length: Duration) -> Self {
        let functions = vec![PerFunction::default(); functions];
        ahead::in_large_pages(&functions);
        Self {
            functions,
            latency: Histogram::default(),
            start: Histogram::default(),
            dedup_start_us: 0,
            answers: Vec::with_capacity(AT_A_TIME),
            timeline: Vec::new(),
            interval: interval.max(Duration::from_millis(1)),
            end: Instant::ZERO + length,
            since: Instant::ZERO,
            at: Instant::ZERO,
            used: Bytes::ZERO,
            area: 0,
            max: Bytes::ZERO,
            total_area: 0,
            total_max: Bytes::ZERO,
            before: Counters::default(),
        }
    }

    /// Before this instant [`Self::advance`] does nothing.
    #[inline]
    pub fn next_sample(&self) -> Instant {
        self.since + self.interval
    }

    /// Time passes up to `now`, with the memory as last told.
    #[inline]
    pub fn advance(&mut self, now: Instant, engine: &Engine) {
        // Memory x time is added up when the memory changes, not here.
        if now >= self.next_sample() {
            self.close_intervals(now, || (engine.counters(), engine.population()));
        }
    }

    fn add_area(&mut self, now: Instant) {
        let now = now.min(self.end);
        self.area += u128::from(self.used.get()) * u128::from(now.since(self.at).as_micros());
        self.at = self.at.max(now);
    }

    fn close_intervals(&mut self, now: Instant, state: impl Fn() -> (Counters, Population)) {
        loop {
            let boundary = (self.since + self.interval).min(self.end);
            if now < boundary || self.since >= self.end {
                break;
            }
            self.add_area(boundary);
            let (counters, population) = state();
            self.sample(boundary, counters, population);
        }
        self.add_area(now);
    }

    fn sample(&mut self, boundary: Instant, c: Counters, p: Population) {
        let span = boundary.since(self.since).as_micros().max(1);
        self.timeline.push(TimelineSample {
            at: boundary,
            mean_used: Bytes::new((self.area / u128::from(span)) as u64),
            max_used: self.max,
            busy: p.busy,
            warm: p.warm,
            base: p.base,
            dedup: p.dedup,
            queued: p.queued,
            arrivals: c.arrived - self.before.arrived,
            cold: c.cold - self.before.cold,
            warm_starts: c.warm - self.before.warm,
            dedup_starts: c.dedup - self.before.dedup,
            evictions: c.evictions - self.before.evictions,
        });
        self.before = c;
        self.total_area += self.area;
        self.area = 0;
        self.max = self.used;
        self.since = boundary;
    }

    /// Memory in use is `used` from `now` on.
    #[inline]
    pub fn memory(&mut self, now: Instant, used: Bytes) {
        if used != self.used {
            self.memory_changes(now, used);
        }
    }

    fn memory_changes(&mut self, now: Instant, used: Bytes) {
        self.add_area(now);
        self.used = used;
        self.max = self.max.max(used);
        if now < self.end {
            self.total_max = self.total_max.max(used);
        }
    }

    /// A request ended.
    #[inline(always)]
    pub fn record(&mut self, r: &RequestRecord) {
        let answered = r.outcome == Ended::Answered;
        if !answered || r.kind != Some(StartKind::Warm) || r.wait > Duration::ZERO {
            self.count(r.function, answered, r.kind, r.wait, r.start);
        }
        if answered {
            self.answers.push(Answer { function: r.function.0, latency: r.end_to_end(), start: r.wait + r.start });
            if self.answers.len() == AT_A_TIME {
                self.add_answers();
            }
        }
    }

    /// Counts what is not a plain warm start.
    #[inline(never)]
    fn count(
        &mut self,
        function: FunctionId,
        answered: bool,
        kind: Option<StartKind>,
        wait: Duration,
        start: Duration,
    ) {
        let f = &mut self.functions[function.index()];
        f.queued += u64::from(wait > Duration::ZERO);
        match kind {
            _ if !answered => f.dropped += 1,
            Some(StartKind::Warm) => {}
            Some(StartKind::Dedup) => {
                f.dedup += 1;
                self.dedup_start_us += u128::from(start.as_micros());
            }
            _ => f.cold += 1,
        }
    }

    #[inline(never)]
    fn add_answers(&mut self) {
        let many = self.functions.len() >= ahead::MANY;
        for (i, a) in self.answers.iter().enumerate() {
            if many {
                if let Some(coming) = self.answers.get(i + FUNCTION_AHEAD) {
                    ahead::fetch_head(&self.functions, coming.function as usize);
                }
                if let Some(coming) = self.answers.get(i + BUCKET_AHEAD) {
                    self.functions[coming.function as usize].latency.ask_for(coming.latency);
                }
            }
            self.functions[a.function as usize].latency.add(a.latency);
        }
        self.answers.iter().for_each(|a| self.latency.add_unsummed(a.latency));
        self.answers.iter().for_each(|a| self.start.add(a.start));
        self.answers.clear();
    }

    /// The rows of the run: of `names` in the order of functions, under `config`, with the engine's last counts.
    pub fn finish<'a>(
        mut self,
        config: &Config,
        seed: u64,
        names: impl Iterator<Item = &'a str>,
        counters: Counters,
        population: Population,
    ) -> Outcome {
        self.add_answers();
        self.latency.sum_up(self.functions.iter().map(|f| &f.latency));
        // The last interval, if the run ended within it.
        let end = self.end;
        self.close_intervals(end, || (counters, population));
        let sum = |pick: fn(&PerFunction) -> u64| self.functions.iter().map(pick).sum::<u64>();
        let length = self.end.since(Instant::ZERO).as_micros().max(1);
        let summary = Summary {
            policy: config.policy.to_owned(),
            memcap_mb: config.memcap.as_mb(),
            nodes: config.nodes,
            seed,
            requests: sum(PerFunction::requests),
            cold: sum(|f| f.cold),
            warm: sum(PerFunction::warm),
            dedup: sum(|f| f.dedup),
            queued: counters.queued,
            dropped: counters.dropped,
            failed: counters.failed,
            evictions: counters.evictions,
            p50_ms: self.latency.percentile_ms(0.5),
            p99_ms: self.latency.percentile_ms(0.99),
            p999_ms: self.latency.percentile_ms(0.999),
            mean_ms: self.latency.mean_ms(),
            start_p50_ms: self.start.percentile_ms(0.5),
            start_p99_ms: self.start.percentile_ms(0.99),
            start_p999_ms: self.start.percentile_ms(0.999),
            dedup_start_ms: self.dedup_start_us as f64 / 1e3 / sum(|f| f.dedup) as f64,
            mean_memory_mb: self.total_area as f64 / length as f64 / 1e6,
            max_memory_mb: self.total_max.as_mb(),
            prewarmed: counters.prewarmed,
            dedup_ops: counters.reductions,
            bases: counters.bases,
            purged: counters.purged,
            ..Summary::default()
        };
        let functions = self
            .functions
            .iter()
            .zip(names)
            .filter(|(f, _)| f.requests() > 0)
            .map(|(f, name)| FunctionSummary {
                function: name.to_owned(),
                requests: f.requests(),
                cold: f.cold,
                warm: f.warm(),
                dedup: f.dedup,
                queued: f.queued,
                dropped: f.dropped,
                mean_ms: f.latency.mean_ms(),
                p50_ms: f.latency.percentile_ms(0.5),
                p99_ms: f.latency.percentile_ms(0.99),
                p999_ms: f.latency.percentile_ms(0.999),
            })
            .collect();
        Outcome { summary, functions, timeline: self.timeline, counters, base_pages: BasePages::default() }
    }
}
