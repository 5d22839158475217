//! Heuristic on OpenWhisk's keep-alive (policy 2 of the reference): a sandbox is purged after more than
//! `gamma` x `threshold` decisions without a request; until then it is deduplicated while what is
//! provisioned (see `heuristic`) is over the window's mean rate, once any base is there. Then rule 5 of the
//! medes policy. (In the reference's released source the two tests stand in comments, and the verdict
//! is undefined; this is what they say.)

use super::heuristic::provisioned;
use super::medes::Reference;
use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "heuristic-openwhisk",
    about: "Deduplicates what is provisioned beyond the mean arrival rate; purges after gamma x threshold decisions without a request.",
    source: "reference implementation, policy 2",
    reference_number: Some(2),
    eviction: "warm-rate",
    reduces: true,
    kind: Kind::Online(|config, functions| Box::new(HeuristicOpenwhisk { common: Reference::new(config, functions) })),
};

struct HeuristicOpenwhisk {
    common: Reference,
}

impl Policy for HeuristicOpenwhisk {
    fn needs_rates(&self) -> bool {
        true
    }

    fn on_idle(&mut self, _: Instant, function: FunctionId, is_base: bool) -> Idle {
        Idle::ask_in(self.common.ask_in(function, if is_base { Form::Base } else { Form::Warm }))
    }

    fn decide(&mut self, _: Instant, s: &SandboxView, f: &FunctionView<'_>, cluster: &ClusterView) -> Verdict {
        let config = &self.common.config;
        let tentative = if f64::from(s.decisions) > config.gamma * config.threshold {
            Verdict::Purge
        } else if provisioned(&self.common, f, config.provisioned) > f.mean_rate && cluster.base_ready {
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
    fn decisions_count_until_the_purge() {
        let s = spec();
        let f = FunctionView { base: 1, mean_rate: 100.0, ..view(&s) };
        let mut p = make(&ENTRY, &Config::default(), &s);
        let mut after = |decisions| {
            let sandbox = SandboxView { decisions, ..idle(Form::Warm, 60) };
            p.decide(Instant::ZERO, &sandbox, &f, &cluster())
        };
        assert_eq!(after(30), Verdict::Stay(Duration::from_secs(60))); // 1.5 * 20
        assert_eq!(after(31), Verdict::Purge);
    }
}
