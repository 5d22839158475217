//! Heuristic without deduplication (policy 3 of the reference): a sandbox idle for `idletime` is purged
//! if (W + B) / R_W, the requests per second that the function's warm sandboxes can take, is over the
//! peak arrival rate of the window; else it stays warm.

use super::heuristic::provisioned;
use super::medes::Reference;
use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "none-heuristic",
    about: "Purges what is provisioned beyond the peak arrival rate; deduplicates nothing.",
    source: "reference implementation, policy 3",
    reference_number: Some(3),
    eviction: "warm-rate",
    reduces: false,
    kind: Kind::Online(|config, functions| Box::new(NoneHeuristic { common: Reference::new(config, functions) })),
};

struct NoneHeuristic {
    common: Reference,
}

impl Policy for NoneHeuristic {
    fn needs_rates(&self) -> bool {
        true
    }

    fn on_idle(&mut self, _: Instant, _: FunctionId, _: bool) -> Idle {
        Idle::ask_in(self.common.config.idletime)
    }

    fn decide(&mut self, _: Instant, _: &SandboxView, f: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        if provisioned(&self.common, f, false) > f.peak_rate {
            Verdict::Purge
        } else {
            Verdict::Stay(self.common.config.idletime)
        }
    }

    fn after_transition(&self, _: FunctionId, _: Form) -> Duration {
        self.common.config.idletime
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::config::Config;

    #[test]
    fn purges_above_the_peak_rate() {
        let s = spec();
        let mut p = make(&ENTRY, &Config::default(), &s);
        // 10 / 0.51 s = 19.6 requests/s.
        let mut at = |peak_rate| {
            let f = FunctionView { peak_rate, ..view(&s) };
            p.decide(Instant::ZERO, &idle(Form::Warm, 60), &f, &cluster())
        };
        assert_eq!(at(19.5), Verdict::Purge);
        assert_eq!(at(19.7), Verdict::Stay(Duration::from_secs(60)));
    }
}
