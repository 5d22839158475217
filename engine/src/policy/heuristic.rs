//! Heuristic with deduplication (policy 4 of the reference). Requests per second that the function's
//! sandboxes can take,
//!
//! > provisioned = (W + B) / R_W, and with `provisioned` = 1 also + D / R_D,
//!
//! are held against its arrival rates: over `gamma` x peak rate -> purge; over the mean rate of the window,
//! once any base is there -> dedup; else warm. Then rule 5 of the medes policy. A sandbox idle for
//! `keepdedup` is purged (the reference keeps it).

use super::medes::Reference;
use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "heuristic",
    about: "Deduplicates what is provisioned beyond the mean arrival rate, purges what is beyond gamma times the peak.",
    source: "reference implementation, policy 4",
    reference_number: Some(4),
    eviction: "warm-rate",
    reduces: true,
    kind: Kind::Online(|config, functions| Box::new(Heuristic { common: Reference::new(config, functions) })),
};

struct Heuristic {
    common: Reference,
}

/// Requests per second that the sandboxes of a function can take.
pub(super) fn provisioned(common: &Reference, f: &FunctionView<'_>, with_dedup: bool) -> f64 {
    let warm = (f64::from(f.warm) + f64::from(f.base)) / common.reuse_s(f, f.warm_start_ms).max(1e-6);
    if with_dedup { warm + f64::from(f.dedup) / common.reuse_s(f, f.dedup_start_ms).max(1e-6) } else { warm }
}

impl Policy for Heuristic {
    fn needs_rates(&self) -> bool {
        true
    }

    fn on_idle(&mut self, _: Instant, function: FunctionId, is_base: bool) -> Idle {
        Idle::ask_in(self.common.ask_in(function, if is_base { Form::Base } else { Form::Warm }))
    }

    fn decide(&mut self, _: Instant, s: &SandboxView, f: &FunctionView<'_>, cluster: &ClusterView) -> Verdict {
        let config = &self.common.config;
        let provisioned = provisioned(&self.common, f, config.provisioned);
        let expired = s.form == Form::Dedup && s.idle >= config.keepdedup;
        let tentative = if expired || provisioned > config.gamma * f.peak_rate {
            Verdict::Purge
        } else if provisioned > f.mean_rate && cluster.base_ready {
            Verdict::Dedup
        } else {
            Verdict::Stay(config.idletime)
        };
        self.common.settle(tentative, s, f)
    }

    fn after_transition(&self, function: FunctionId, form: Form) -> Duration {
        self.common.ask_in(function, form)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::config::Config;

    #[test]
    fn thresholds_by_hand() {
        let s = spec();
        let mut config = Config::default();
        let run = |config: &Config, peak, mean, dedup| {
            let f = FunctionView {
                base: 1,
                warm: 9,
                dedup,
                dedup_start_ms: 500.0,
                peak_rate: peak,
                mean_rate: mean,
                ..view(&s)
            };
            make(&ENTRY, config, &s).decide(Instant::ZERO, &idle(Form::Warm, 60), &f, &cluster())
        };
        // (9 + 1) / 0.51 s = 19.6 requests/s; gamma = 1.5.
        assert_eq!(run(&config, 13.0, 1.0, 0), Verdict::Purge); // 19.6 > 19.5
        assert_eq!(run(&config, 14.0, 19.0, 0), Verdict::Dedup);
        assert_eq!(run(&config, 30.0, 20.0, 0), Verdict::Stay(Duration::from_secs(60)));
        // With provisioned = 1, five dedup sandboxes add 5 / 1.0 s: 24.6 requests/s.
        config.set("provisioned", "1").unwrap();
        assert_eq!(run(&config, 30.0, 20.0, 5), Verdict::Dedup);
    }

    #[test]
    fn nothing_is_deduplicated_before_a_base_is_there() {
        let s = spec();
        let f = FunctionView { base: 1, peak_rate: 30.0, mean_rate: 1.0, ..view(&s) };
        let none = ClusterView { base_ready: false, ..cluster() };
        let verdict = make(&ENTRY, &Config::default(), &s).decide(Instant::ZERO, &idle(Form::Warm, 60), &f, &none);
        assert_eq!(verdict, Verdict::Stay(Duration::from_secs(60)));
    }
}
