//! Least recently used: nothing is purged until memory is needed, then the sandbox whose last request
//! ended first (the caching view of keep-alive: Fuerst and Sharma, ASPLOS 2021).

use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "lru",
    about: "Keeps every sandbox until memory is needed; then the least recently used goes.",
    source: "Fuerst and Sharma, FaasCache, ASPLOS 2021",
    reference_number: None,
    eviction: "lru",
    reduces: false,
    kind: Kind::Online(|_, _| Box::new(UntilEvicted)),
};

/// Keeps sandboxes until they are evicted; what goes first is the eviction strategy's affair.
pub(super) struct UntilEvicted;

impl Policy for UntilEvicted {
    fn on_idle(&mut self, _: Instant, _: FunctionId, _: bool) -> Idle {
        Idle::ask_in(Duration::FOREVER)
    }

    fn decide(&mut self, _: Instant, _: &SandboxView, _: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        Verdict::Stay(Duration::FOREVER)
    }

    fn after_transition(&self, _: FunctionId, _: Form) -> Duration {
        Duration::FOREVER
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::config::Config;

    #[test]
    fn never_asks() {
        let mut p = make(&ENTRY, &Config::default(), &spec());
        assert_eq!(p.on_idle(Instant::ZERO, FunctionId(0), false).ask_in, Duration::FOREVER);
    }
}
