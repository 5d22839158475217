//! Fixed keep-alive: a sandbox is purged `keepalive` after its last request (OpenWhisk's policy; policy 1
//! of the reference). Each request renews the time.

use super::{
    ClusterView, Entry, Form, FunctionSpec, FunctionView, Idle, Kind, Policy, SandboxView, Verdict, keep_alives,
};
use crate::config::Config;
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "fixed",
    about: "Keeps each sandbox for a fixed time after its last request.",
    source: "OpenWhisk; Medes (baseline)",
    reference_number: Some(1),
    eviction: "lru",
    reduces: false,
    kind: Kind::Online(|config, functions| Box::new(Fixed::new(config, functions))),
};

struct Fixed {
    keep_alive: Vec<Duration>,
}

impl Fixed {
    fn new(config: &Config, functions: &[FunctionSpec]) -> Self {
        Self { keep_alive: keep_alives(config, functions) }
    }
}

impl Policy for Fixed {
    fn on_idle(&mut self, _: Instant, function: FunctionId, _: bool) -> Idle {
        Idle::ask_in(self.keep_alive[function.index()])
    }

    fn decide(&mut self, _: Instant, _: &SandboxView, _: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        Verdict::Purge
    }

    fn after_transition(&self, function: FunctionId, _: Form) -> Duration {
        self.keep_alive[function.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn purges_after_the_keep_alive_of_the_function_or_of_the_run() {
        let s = spec();
        let mut own = make(&ENTRY, &Config::default(), &s);
        assert_eq!(own.on_idle(Instant::ZERO, FunctionId(0), false), Idle::ask_in(Duration::from_secs(600)));
        let mut config = Config::default();
        config.set("keepalive", "120").unwrap();
        let mut set = make(&ENTRY, &config, &s);
        assert_eq!(set.on_idle(Instant::ZERO, FunctionId(0), false), Idle::ask_in(Duration::from_secs(120)));
        assert_eq!(set.decide(Instant::ZERO, &idle(Form::Warm, 120), &view(&s), &cluster()), Verdict::Purge);
    }
}
