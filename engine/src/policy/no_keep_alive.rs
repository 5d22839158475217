//! No keep-alive: a sandbox is purged as soon as its request ends. The bound from above: each request
//! that starts at once starts cold.

use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "no-keep-alive",
    about: "Purges each sandbox when its request ends: the most cold starts, the least memory.",
    source: "bound",
    reference_number: None,
    eviction: "lru",
    reduces: false,
    kind: Kind::Online(|_, _| Box::new(NoKeepAlive)),
};

struct NoKeepAlive;

impl Policy for NoKeepAlive {
    fn on_idle(&mut self, _: Instant, _: FunctionId, _: bool) -> Idle {
        Idle::ask_in(Duration::ZERO)
    }

    fn decide(&mut self, _: Instant, _: &SandboxView, _: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        Verdict::Purge
    }

    fn after_transition(&self, _: FunctionId, _: Form) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::config::Config;

    #[test]
    fn purges_at_once() {
        let mut p = make(&ENTRY, &Config::default(), &spec());
        assert_eq!(p.on_idle(Instant::ZERO, FunctionId(0), false), Idle::ask_in(Duration::ZERO));
    }
}
