//! What a run amounts to: counts, percentiles, memory over time. Both worlds add up with it. Nothing here grows with the number of
//! requests.

use crate::config::Config;
use crate::engine::{Counters, Engine, Population};
use crate::hist::Histogram;
use crate::record::{FunctionSummary, Outcome as Ended, RequestRecord, StartKind, Summary, TimelineSample};
use crate::units::{Bytes, Duration, Instant};

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
}

#[derive(Clone, Debug, Default)]
struct PerFunction {
    requests: u64,
    cold: u64,
    warm: u64,
    dedup: u64,
    queued: u64,
    dropped: u64,
    latency: Histogram<7>,
}

/// A run being added up: a world tells it of each record, of memory as it changes, and of time.
pub struct Metrics {
    functions: Vec<PerFunction>,
    latency: Histogram<10>,
    start: Histogram<10>,
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
        Self {
            functions: vec![PerFunction::default(); functions],
            latency: Histogram::default(),
            start: Histogram::default(),
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

    /// Time passes up to `now`, with the memory as last told.
    #[inline]
    pub fn advance(&mut self, now: Instant, engine: &Engine) {
        // Memory x time is added up when the memory changes, not here.
        if now >= self.since + self.interval {
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
    #[inline]
    pub fn record(&mut self, r: &RequestRecord) {
        let f = &mut self.functions[r.function.index()];
        f.requests += 1;
        f.queued += u64::from(r.wait > Duration::ZERO);
        match (r.outcome, r.kind) {
            (Ended::Answered, Some(kind)) => {
                match kind {
                    StartKind::Warm => f.warm += 1,
                    StartKind::Dedup => f.dedup += 1,
                    _ => f.cold += 1,
                }
                let latency = r.end_to_end();
                f.latency.add(latency);
                self.latency.add(latency);
                self.start.add(r.wait + r.start);
            }
            _ => f.dropped += 1,
        }
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
            requests: sum(|f| f.requests),
            cold: sum(|f| f.cold),
            warm: sum(|f| f.warm),
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
            .filter(|(f, _)| f.requests > 0)
            .map(|(f, name)| FunctionSummary {
                function: name.to_owned(),
                requests: f.requests,
                cold: f.cold,
                warm: f.warm,
                dedup: f.dedup,
                queued: f.queued,
                dropped: f.dropped,
                mean_ms: f.latency.mean_ms(),
                p50_ms: f.latency.percentile_ms(0.5),
                p99_ms: f.latency.percentile_ms(0.99),
                p999_ms: f.latency.percentile_ms(0.999),
            })
            .collect();
        Outcome { summary, functions, timeline: self.timeline, counters }
    }
}
