//! Policies: what becomes of an idle sandbox.
//!
//! A policy is one file that implements [`Policy`] and describes itself in an [`Entry`], and one line in
//! [`REGISTRY`]; the registry drives the command line, `medes explain`, the documents and the tests.
//!
//! The engine tells a policy of every arrival ([`Policy::on_arrival`]) and of every sandbox that falls
//! idle ([`Policy::on_idle`]); the policy answers after which time it wants to be asked about that sandbox
//! if no request comes. Then the engine asks ([`Policy::decide`]) and carries the [`Verdict`] out. Policies
//! see the counts and rates of one function and of the cluster, never the table of sandboxes.

mod adaptive;
mod compress;
mod fixed;
mod greedy_dual;
mod heuristic;
mod heuristic_openwhisk;
mod lru;
mod medes;
mod no_keep_alive;
mod none_heuristic;
pub mod oracle;

use crate::config::Config;
use crate::id::FunctionId;
use crate::units::{Bytes, Duration, Instant};

/// Every policy; the order is that of tables and help.
pub static REGISTRY: &[Entry] = &[
    fixed::ENTRY,
    adaptive::ENTRY,
    medes::ENTRY,
    heuristic::ENTRY,
    heuristic_openwhisk::ENTRY,
    none_heuristic::ENTRY,
    greedy_dual::ENTRY,
    lru::ENTRY,
    compress::ENTRY,
    no_keep_alive::ENTRY,
    oracle::ENTRY,
];

/// A policy as the registry knows it.
#[derive(Debug)]
pub struct Entry {
    /// Name in files and on the command line.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Where it is described.
    pub source: &'static str,
    /// Number in the reference's `controller.ini`.
    pub reference_number: Option<u8>,
    /// Eviction strategy that its source prescribes.
    pub eviction: &'static str,
    /// Whether it ever has a sandbox reduced; of those that none reduces agents need not see what they touch.
    pub reduces: bool,
    /// How it comes to its results.
    pub kind: Kind,
}

/// How a policy comes to its results.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// It decides in the engine, knowing the past.
    Online(fn(&Config, &[FunctionSpec]) -> Box<dyn Policy>),
    /// A bound computed from the whole trace; nothing is simulated, and it cannot run for real.
    Bound,
}

/// Names of all policies.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|e| e.name).collect()
}

/// The policy called `name`.
pub fn entry(name: &str) -> Option<&'static Entry> {
    REGISTRY.iter().find(|e| e.name == name)
}

/// What the engine knows of a function beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSpec {
    /// Its name, for people.
    pub name: String,
    /// Owner, for `dedup_scope`.
    pub owner: u32,
    /// Memory of a warm sandbox.
    pub memory: Bytes,
    /// Keep-alive of the fixed policy.
    pub keep_alive: Duration,
    /// Expected run time.
    pub run: Duration,
    /// Expected cold start.
    pub cold_start: Duration,
    /// Expected warm start.
    pub warm_start: Duration,
    /// Fraction of memory that deduplication saves, as the operator believes it.
    pub advantage: f64,
    /// Expected memory of a base's dump.
    pub dump: Bytes,
    /// Memory that a dedup sandbox needs beside its patches (its paused process).
    pub paused: Bytes,
}

/// A function as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct FunctionView<'a> {
    /// Its number.
    pub function: FunctionId,
    /// What is known beforehand.
    pub spec: &'a FunctionSpec,
    /// W: sandboxes warm, running or starting, without bases.
    pub warm: u32,
    /// B: base sandboxes.
    pub base: u32,
    /// D: dedup sandboxes, with those on the way to it.
    pub dedup: u32,
    /// s_W: moving average of warm starts, ms.
    pub warm_start_ms: f64,
    /// s_D: moving average of dedup starts, ms; 300 while unknown.
    pub dedup_start_ms: f64,
    /// Largest per-minute arrival count in the window, per second.
    pub peak_rate: f64,
    /// Mean arrival rate over the window, per second.
    pub mean_rate: f64,
}

/// The cluster as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView {
    /// Memory caps of all nodes that are there.
    pub memory: Bytes,
    /// Sum of all functions' peak rates, per second.
    pub peak_rates: f64,
    /// Whether any base is registered whose pages the function may use.
    pub base_ready: bool,
}

/// What an idle sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Warm.
    Warm,
    /// Warm, with its dump registered.
    Base,
    /// Reduced.
    Dedup,
}

/// An idle sandbox as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct SandboxView {
    /// Its form.
    pub form: Form,
    /// Time since its last request ended.
    pub idle: Duration,
    /// How often the policy was asked about it before, since its last request.
    pub decisions: u32,
    /// Dedup sandboxes that depend on it (bases only).
    pub references: u32,
    /// A checkpoint or restore of it failed: it is not to be reduced.
    pub blacklisted: bool,
}

/// What happens when a sandbox falls idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Ask again after this time without a request; zero purges at once, `FOREVER` never asks.
    pub ask_in: Duration,
    /// Create a sandbox ahead of the next request.
    pub prewarm: Option<Prewarm>,
}

impl Idle {
    /// Ask after `time`.
    pub const fn ask_in(time: Duration) -> Self {
        Self { ask_in: time, prewarm: None }
    }
}

/// A sandbox to be created ahead of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prewarm {
    /// When, unless a request comes first.
    pub after: Duration,
    /// How long it is kept then.
    pub keep: Duration,
}

/// A decision about an idle sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it as it is and ask again after this time.
    Stay(Duration),
    /// Remove it.
    Purge,
    /// Reduce it to patches.
    Dedup,
    /// Reduce it to compressed pages.
    Compress,
    /// Make it a base.
    Base,
}

/// A policy at work on one run. All methods are called in the order of time.
pub trait Policy: Send {
    /// Whether it looks at arrival rates, which the engine keeps only then.
    fn needs_rates(&self) -> bool {
        false
    }

    /// Whether it is to be told of arrivals.
    fn needs_arrivals(&self) -> bool {
        false
    }

    /// A request for `function` arrived while `busy` of its sandboxes served or started. Called if it needs arrivals.
    fn on_arrival(&mut self, _now: Instant, _function: FunctionId, _busy: u32) {}

    /// A sandbox fell idle after a request.
    fn on_idle(&mut self, now: Instant, function: FunctionId, is_base: bool) -> Idle;

    /// The time set by `on_idle` or `Verdict::Stay` is over, or a reduction or checkpoint is done and its
    /// time to be asked has come.
    fn decide(
        &mut self,
        now: Instant,
        sandbox: &SandboxView,
        function: &FunctionView<'_>,
        cluster: &ClusterView,
    ) -> Verdict;

    /// After which time it wants to be asked about a sandbox that has just been reduced or made a base.
    fn after_transition(&self, function: FunctionId, form: Form) -> Duration;
}

pub(crate) use greedy_dual::priority as greedy_dual_priority;

/// Keep-alive times by function, from the configuration or each function's own.
fn keep_alives(config: &Config, functions: &[FunctionSpec]) -> Vec<Duration> {
    functions.iter().map(|f| config.keepalive_of(f.keep_alive)).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub fn spec() -> FunctionSpec {
        FunctionSpec {
            name: "f".into(),
            owner: 0,
            memory: Bytes::from_mb(100.0),
            keep_alive: Duration::from_secs(600),
            run: Duration::from_millis(500),
            cold_start: Duration::from_millis(1000),
            warm_start: Duration::from_millis(10),
            advantage: 0.5,
            dump: Bytes::from_mb(100.0),
            paused: Bytes::from_mb(1.0),
        }
    }

    pub fn view(spec: &FunctionSpec) -> FunctionView<'_> {
        FunctionView {
            function: FunctionId(0),
            spec,
            warm: 10,
            base: 0,
            dedup: 0,
            warm_start_ms: 10.0,
            dedup_start_ms: 300.0,
            peak_rate: 0.0,
            mean_rate: 0.0,
        }
    }

    pub fn cluster() -> ClusterView {
        ClusterView { memory: Bytes::from_mb(10_000.0), peak_rates: 1.0, base_ready: true }
    }

    pub fn idle(form: Form, secs: u64) -> SandboxView {
        SandboxView { form, idle: Duration::from_secs(secs), decisions: 0, references: 0, blacklisted: false }
    }

    pub fn make(entry: &Entry, config: &Config, spec: &FunctionSpec) -> Box<dyn Policy> {
        match entry.kind {
            Kind::Online(make) => make(config, std::slice::from_ref(spec)),
            Kind::Bound => unreachable!("only policies that decide are made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_consistent() {
        for (i, e) in REGISTRY.iter().enumerate() {
            assert!(REGISTRY[..i].iter().all(|o| o.name != e.name), "{} twice", e.name);
            assert!(crate::eviction::strategy(e.eviction).is_some(), "{}: eviction {}", e.name, e.eviction);
            assert!(e.about.ends_with('.') && !e.source.is_empty(), "{}", e.name);
            if let Some(n) = e.reference_number {
                assert!(REGISTRY[..i].iter().all(|o| o.reference_number != Some(n)));
            }
        }
    }
}
