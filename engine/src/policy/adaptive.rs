//! The hybrid histogram policy (Shahrad et al., Serverless in the Wild, ATC 2020, section 4.2), for each
//! function by itself.
//!
//! Idle times (from the end of a function's last run to its next arrival, while none of its sandboxes is
//! busy) are counted in bins of one minute over `hist_range` (4 h); longer ones are out of bounds. Once
//! the histogram represents the function,
//!
//! > pre-warming window = head percentile, rounded down to a bin, less the margin;
//! > keep-alive window = tail percentile, rounded up, plus the margin, less the pre-warming window:
//!
//! the sandbox is purged when it falls idle, created again after the pre-warming window and kept for the
//! keep-alive window. With the head in the first bin there is no pre-warming: the sandbox stays for the
//! tail. The histogram represents when it has `hist_samples` idle times, at most half of all are out of
//! bounds, and the coefficient of variation of its bin counts is at least `hist_cv`; otherwise the sandbox
//! is kept for the whole range, without pre-warming, as the source does.
//!
//! Left out: the source's forecast (ARIMA) for functions most of whose idle times are out of bounds; they
//! get the fallback. The source keeps a histogram an application; here a sandbox holds one function.

use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, Prewarm, SandboxView, Verdict};
use crate::config::Config;
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "adaptive",
    about: "Learns each function's idle times in a histogram; unloads, pre-warms and keeps alive by its head and tail.",
    source: "Shahrad et al., Serverless in the Wild, ATC 2020, section 4.2",
    reference_number: Some(6),
    eviction: "lru",
    reduces: false,
    kind: Kind::Online(|config, functions| Box::new(Adaptive::new(config, functions.len()))),
};

struct Adaptive {
    rules: Rules,
    functions: Vec<Histogram>,
}

struct Rules {
    range: u32,
    head: f64,
    tail: f64,
    margin: f64,
    cv: f64,
    samples: u32,
}

/// Idle times of one function. Bins are made when the first idle time comes.
#[derive(Default)]
struct Histogram {
    bins: Vec<u32>,
    counted: u32,
    out_of_bounds: u32,
    sum_of_squares: u64,
    last_end: Option<Instant>,
    /// The windows that follow from the counts; taken anew when a count changed.
    windows: Option<Idle>,
}

impl Adaptive {
    fn new(config: &Config, functions: usize) -> Self {
        let rules = Rules {
            range: config.hist_range,
            head: config.hist_head / 100.0,
            tail: config.hist_tail / 100.0,
            margin: config.hist_margin / 100.0,
            cv: config.hist_cv,
            samples: config.hist_samples,
        };
        Self { rules, functions: std::iter::repeat_with(Histogram::default).take(functions).collect() }
    }
}

impl Histogram {
    fn count(&mut self, idle: Duration, rules: &Rules) {
        let bin = (idle.as_micros() / 60_000_000) as usize;
        if bin >= rules.range as usize {
            self.out_of_bounds += 1;
        } else {
            if self.bins.is_empty() {
                self.bins = vec![0; rules.range as usize];
            }
            self.sum_of_squares += 2 * u64::from(self.bins[bin]) + 1;
            self.bins[bin] += 1;
            self.counted += 1;
        }
        self.windows = None;
    }

    fn represents(&self, rules: &Rules) -> bool {
        if self.counted + self.out_of_bounds < rules.samples || self.counted < self.out_of_bounds || self.counted == 0 {
            return false;
        }
        let n = f64::from(rules.range);
        let mean = f64::from(self.counted) / n;
        let variance = self.sum_of_squares as f64 / n - mean * mean;
        variance.max(0.0).sqrt() / mean >= rules.cv
    }

    /// The bin that holds the given share of the counted idle times.
    fn percentile(&self, share: f64) -> usize {
        let rank = (share * f64::from(self.counted)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return bin;
            }
        }
        self.bins.len().saturating_sub(1)
    }

    fn windows(&mut self, rules: &Rules) -> Idle {
        if let Some(windows) = self.windows {
            return windows;
        }
        let minutes = |m: f64| Duration::from_secs_f64(m * 60.0);
        let windows = if self.represents(rules) {
            let head = self.percentile(rules.head) as f64 * (1.0 - rules.margin);
            let tail = (self.percentile(rules.tail) + 1) as f64 * (1.0 + rules.margin);
            if head > 0.0 {
                Idle {
                    ask_in: Duration::ZERO,
                    prewarm: Some(Prewarm { after: minutes(head), keep: minutes(tail - head) }),
                }
            } else {
                Idle::ask_in(minutes(tail))
            }
        } else {
            Idle::ask_in(minutes(f64::from(rules.range)))
        };
        self.windows = Some(windows);
        windows
    }
}

impl Policy for Adaptive {
    fn needs_arrivals(&self) -> bool {
        true
    }

    fn on_arrival(&mut self, now: Instant, function: FunctionId, busy: u32) {
        let histogram = &mut self.functions[function.index()];
        if busy == 0
            && let Some(end) = histogram.last_end
        {
            histogram.count(now.since(end), &self.rules);
        }
    }

    fn on_idle(&mut self, now: Instant, function: FunctionId, _: bool) -> Idle {
        let histogram = &mut self.functions[function.index()];
        histogram.last_end = Some(now);
        histogram.windows(&self.rules)
    }

    fn decide(&mut self, _: Instant, _: &SandboxView, _: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        Verdict::Purge
    }

    fn after_transition(&self, _: FunctionId, _: Form) -> Duration {
        Duration::FOREVER
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn minutes(m: f64) -> Duration {
        Duration::from_secs_f64(m * 60.0)
    }

    /// Runs that end and start again after each of `gaps` minutes; the windows after the last.
    fn after(gaps: &[f64]) -> Idle {
        let mut p = make(&ENTRY, &Config::default(), &spec());
        let mut now = Instant::ZERO;
        let mut idle = p.on_idle(now, FunctionId(0), false);
        for gap in gaps {
            now = now + minutes(*gap);
            p.on_arrival(now, FunctionId(0), 0);
            idle = p.on_idle(now, FunctionId(0), false);
        }
        idle
    }

    #[test]
    fn until_it_represents_the_sandbox_is_kept_for_the_range() {
        assert_eq!(after(&[]), Idle::ask_in(minutes(240.0)));
        assert_eq!(after(&[30.0; 9]), Idle::ask_in(minutes(240.0)));
    }

    #[test]
    fn a_timer_every_half_hour_is_unloaded_and_prewarmed() {
        // Ten idle times of 30.5 min: head = tail = bin 30. Pre-warm after 30 * 0.9 = 27 min; keep until
        // 31 * 1.1 = 34.1 min, that is for 7.1 min. CV of bins: one bin of 240 holds all: sqrt(239) > 2.
        let windows = after(&[30.5; 10]);
        assert_eq!(windows.ask_in, Duration::ZERO);
        assert_eq!(windows.prewarm, Some(Prewarm { after: minutes(27.0), keep: minutes(34.1 - 27.0) }));
    }

    #[test]
    fn short_idle_times_are_kept_warm_for_the_tail() {
        // Nineteen under a minute, one of 7.5 min: head bin 0, 99th percentile bin 7: keep 8 * 1.1 = 8.8 min.
        let mut gaps = vec![0.5; 19];
        gaps.push(7.5);
        assert_eq!(after(&gaps), Idle::ask_in(minutes(8.8)));
    }

    #[test]
    fn mostly_out_of_bounds_or_flat_falls_back() {
        let mut gaps = vec![300.0; 6];
        gaps.extend([10.0; 5]);
        assert_eq!(after(&gaps), Idle::ask_in(minutes(240.0)));
        let flat: Vec<f64> = (0..240).map(|m| f64::from(m) + 0.5).collect();
        assert_eq!(after(&flat), Idle::ask_in(minutes(240.0)));
    }

    #[test]
    fn arrivals_while_busy_are_no_idle_times() {
        let mut p = make(&ENTRY, &Config::default(), &spec());
        p.on_idle(Instant::ZERO, FunctionId(0), false);
        for _ in 0..50 {
            p.on_arrival(Instant::ZERO + minutes(30.5), FunctionId(0), 1);
        }
        assert_eq!(p.on_idle(Instant::ZERO, FunctionId(0), false), Idle::ask_in(minutes(240.0)));
    }
}
