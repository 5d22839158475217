//! Parameters: one registry that drives the command line, experiment files, INI files, `explain`, the
//! documents and the tests.
//!
//! A [`Config`] is the checked form: it can only be made by setting parameters through the registry, so
//! each value in it is in range. Names and units are those of the reference's INI files where it has
//! the parameter (REFERENCE, parameters).

use crate::eviction;
use crate::id::FunctionId;
use crate::placement;
use crate::policy;
use crate::units::{Bytes, Duration};

mod choices;
mod near;

pub use choices::{Constraint, DedupScope};
pub use near::{edit_distance, nearest};

/// The checked parameters of one run.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each field is documented by its entry in PARAMETERS")]
pub struct Config {
    pub policy: &'static str,
    pub constraint: Constraint,
    pub provisioned: bool,
    pub gamma: f64,
    pub threshold: f64,
    pub dedupperbase: u32,
    pub memcap: Bytes,
    pub pool: Option<Bytes>,
    pub reuseperiod: Duration,
    pub window: u32,
    pub chunksperpage: u32,
    pub idletime: Duration,
    pub patchthreshold: u32,
    pub nopause: bool,
    pub adaptive: bool,
    pub basechoice: [f64; 3],
    pub nodes: u32,
    pub cores: u32,
    pub shared_cores: bool,
    pub placement: &'static str,
    pub eviction: Option<&'static str>,
    pub keepalive: Option<Duration>,
    pub keepdedup: Duration,
    pub queue_deadline: Duration,
    pub dedup_starts: u32,
    pub dedup_scope: DedupScope,
    pub dedup_share: f64,
    pub network_latency: Option<Duration>,
    pub network_bandwidth: Option<f64>,
    pub codec: String,
    pub latency_bound: f64,
    pub memory_share: f64,
    pub evict_after: Duration,
    pub oracle_whole: bool,
    pub hist_range: u32,
    pub hist_head: f64,
    pub hist_tail: f64,
    pub hist_margin: f64,
    pub hist_cv: f64,
    pub hist_samples: u32,
}

/// What values a parameter takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number in a range.
    Integer(u64, u64),
    /// A number in a range.
    Number(f64, f64),
    /// One of the names.
    Choice(fn() -> Vec<&'static str>),
    /// A name that the profile set resolves.
    Name,
    /// Three numbers not below zero, separated by spaces.
    Weights,
}

/// A parsed value, already in its parameter's range.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of `Integer` and `Number`.
    Number(f64),
    /// Of `Choice`.
    Choice(&'static str),
    /// Of `Name`.
    Name(String),
    /// Of `Weights`.
    Weights([f64; 3]),
}

/// An entry of the registry.
pub struct Parameter {
    /// Its name in every file and on the command line.
    pub name: &'static str,
    /// Unit of its number, or empty.
    pub unit: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Default, as it would be written.
    pub default: &'static str,
    /// Where the reference has it: file and section; empty for ours.
    pub reference: &'static str,
    /// One sentence.
    pub about: &'static str,
    set: fn(&mut Config, Value),
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parameter").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a parameter was not set.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// No such parameter.
    #[error("unknown parameter `{name}`{}; `medes explain` lists them all", hint(near))]
    Unknown {
        /// What was written.
        name: String,
        /// The nearest known name.
        near: Option<&'static str>,
    },
    /// A value of the wrong form or out of range.
    #[error("parameter `{name}`: `{value}` is not {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What was written.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// Two values that cannot both hold.
    #[error("{what}")]
    Contradiction {
        /// The two, and the mend.
        what: String,
    },
}

fn hint(near: &Option<&'static str>) -> String {
    near.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}

fn secs(v: f64) -> Duration {
    Duration::from_secs_f64(v)
}

macro_rules! number {
    ($c:ident, $v:ident, $to:expr) => {
        |$c, value| {
            if let Value::Number($v) = value {
                $to;
            }
        }
    };
}

macro_rules! choice {
    ($c:ident, $v:ident, $to:expr) => {
        |$c, value| {
            if let Value::Choice($v) = value {
                $to;
            }
        }
    };
}

const FLAG: Kind = Kind::Integer(0, 1);

/// Every parameter of a run.
pub static PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "policy",
        unit: "",
        kind: Kind::Choice(policy::names),
        default: "medes",
        reference: "controller.ini [policy], by number",
        about: "What becomes of an idle sandbox: kept, purged, deduplicated, made a base.",
        set: choice!(c, v, c.policy = v),
    },
    Parameter {
        name: "constraint",
        unit: "",
        kind: Kind::Choice(|| vec!["latency", "memory"]),
        default: "latency",
        reference: "controller.ini [policy], 1 latency, 2 memory",
        about: "Which constraint the medes policy keeps: least memory with bounded start latency, or least latency within the memory cap.",
        set: choice!(c, v, c.constraint = if v == "memory" { Constraint::Memory } else { Constraint::Latency }),
    },
    Parameter {
        name: "provisioned",
        unit: "",
        kind: FLAG,
        default: "0",
        reference: "controller.ini [policy]",
        about: "What the heuristic policies count as provisioned: 0 warm sandboxes only, 1 warm and dedup ones.",
        set: number!(c, v, c.provisioned = v > 0.0),
    },
    Parameter {
        name: "gamma",
        unit: "",
        kind: Kind::Number(0.0, 1e6),
        default: "1.5",
        reference: "controller.ini [policy]",
        about: "Heuristic policies purge when provisioned capacity is over gamma times the peak arrival rate (heuristic-openwhisk: after gamma x threshold decisions).",
        set: number!(c, v, c.gamma = v),
    },
    Parameter {
        name: "alpha",
        unit: "",
        kind: Kind::Number(0.0, 1e6),
        default: "2",
        reference: "controller.ini [policy]",
        about: "Without effect: the reference reads it and uses it nowhere; accepted so that its files are read as they are.",
        set: |_, _| {},
    },
    Parameter {
        name: "beta",
        unit: "",
        kind: Kind::Number(0.0, 1e6),
        default: "10",
        reference: "controller.ini [policy]",
        about: "Without effect: the reference reads it and uses it nowhere; accepted so that its files are read as they are.",
        set: |_, _| {},
    },
    Parameter {
        name: "dedupperbase",
        unit: "sandboxes",
        kind: Kind::Integer(1, 1_000_000),
        default: "40",
        reference: "controller.ini [policy]",
        about: "Dedup sandboxes of a function for each of its base sandboxes; one more demarcates another base.",
        set: number!(c, v, c.dedupperbase = v as u32),
    },
    Parameter {
        name: "threshold",
        unit: "decisions",
        kind: Kind::Number(0.0, 1e9),
        default: "20",
        reference: "controller.ini [policy]",
        about: "heuristic-openwhisk purges a sandbox after gamma x threshold decisions without a request.",
        set: number!(c, v, c.threshold = v),
    },
    Parameter {
        name: "memcap",
        unit: "MB",
        kind: Kind::Number(1.0, 1e9),
        default: "2500",
        reference: "controller.ini [params]",
        about: "Memory cap of a node for sandboxes, dumps and patches (1 MB = 10^6 B).",
        set: number!(c, v, c.memcap = Bytes::from_mb(v)),
    },
    Parameter {
        name: "pool",
        unit: "GB",
        kind: Kind::Number(0.0, 1e9),
        default: "0",
        reference: "",
        about: "Memory of the whole cluster, in equal parts to its nodes, in place of memcap; 0 takes memcap (1 GB = 10^9 B).",
        set: number!(c, v, c.pool = (v > 0.0).then(|| Bytes::from_mb(v * 1e3))),
    },
    Parameter {
        name: "reuseperiod",
        unit: "ms",
        kind: Kind::Number(0.0, 1e9),
        default: "0",
        reference: "controller.ini [params], there 500",
        about: "A sandbox is not reused sooner after a state change; the reference needs it against races, this engine does not.",
        set: number!(c, v, c.reuseperiod = Duration::from_millis_f64(v)),
    },
    Parameter {
        name: "window",
        unit: "min",
        kind: Kind::Integer(1, 240),
        default: "10",
        reference: "controller.ini [params]",
        about: "Window over which arrival rates are taken.",
        set: number!(c, v, c.window = v as u32),
    },
    Parameter {
        name: "basechoice",
        unit: "",
        kind: Kind::Weights,
        default: "1 2 10",
        reference: "controller.ini [heuristics]",
        about: "Weights of duplicates, reference count and locality in the choice of a base page; the first is without effect in the reference and here.",
        set: |c, value| {
            if let Value::Weights(w) = value {
                c.basechoice = w;
            }
        },
    },
    Parameter {
        name: "chunksperpage",
        unit: "chunks",
        kind: Kind::Integer(1, 64),
        default: "5",
        reference: "agent.ini [parameters]",
        about: "Cardinality of a page's fingerprint: more chunks find more base pages and cost more to hash and look up.",
        set: number!(c, v, c.chunksperpage = v as u32),
    },
    Parameter {
        name: "idletime",
        unit: "s",
        kind: Kind::Number(0.001, 1e7),
        default: "60",
        reference: "agent.ini [parameters]",
        about: "Time in one state before the policy is asked what becomes of a sandbox.",
        set: number!(c, v, c.idletime = secs(v)),
    },
    Parameter {
        name: "patchthreshold",
        unit: "B",
        kind: Kind::Integer(0, 4096),
        default: "4096",
        reference: "agent.ini [parameters]",
        about: "A larger patch is not used; its page is kept whole.",
        set: number!(c, v, c.patchthreshold = v as u32),
    },
    Parameter {
        name: "nopause",
        unit: "",
        kind: FLAG,
        default: "0",
        reference: "agent.ini [parameters]",
        about: "1: a dedup sandbox does not hold a pre-restored, paused process; it weighs less and starts later.",
        set: number!(c, v, c.nopause = v > 0.0),
    },
    Parameter {
        name: "adaptive",
        unit: "",
        kind: FLAG,
        default: "0",
        reference: "agent.ini [parameters]",
        about: "1: keep-alive times are adaptive; the same as policy adaptive in place of fixed, and contradicts every other policy.",
        set: number!(c, v, c.adaptive = v > 0.0),
    },
    Parameter {
        name: "nodes",
        unit: "nodes",
        kind: Kind::Integer(1, 100_000),
        default: "19",
        reference: "cluster.json, its list",
        about: "Nodes of the cluster, all alike.",
        set: number!(c, v, c.nodes = v as u32),
    },
    Parameter {
        name: "cores",
        unit: "cores",
        kind: Kind::Integer(0, 100_000),
        default: "0",
        reference: "",
        about: "Cores of a node, shared by all that is at work there at each instant. 0: never a bottleneck.",
        set: number!(c, v, c.cores = v as u32),
    },
    Parameter {
        name: "shared_cores",
        unit: "",
        kind: FLAG,
        default: "0",
        reference: "",
        about: "1: all nodes are on one machine and share their cores; work is slowed only when all of them are at work.",
        set: number!(c, v, c.shared_cores = v > 0.0),
    },
    Parameter {
        name: "placement",
        unit: "",
        kind: Kind::Choice(placement::names),
        default: "round-robin",
        reference: "",
        about: "Where a new sandbox goes among the nodes with enough free memory.",
        set: choice!(c, v, c.placement = v),
    },
    Parameter {
        name: "eviction",
        unit: "",
        kind: Kind::Choice(|| {
            let mut names = vec!["policy"];
            names.extend(eviction::names());
            names
        }),
        default: "policy",
        reference: "",
        about: "Which idle sandbox goes first when memory is full; `policy` takes the one that the policy's source prescribes.",
        set: choice!(c, v, c.eviction = (v != "policy").then_some(v)),
    },
    Parameter {
        name: "evict_after",
        unit: "s",
        kind: Kind::Number(0.0, 1e7),
        default: "2",
        reference: "",
        about: "Eviction by warm-rate spares sandboxes that are in their state for less.",
        set: number!(c, v, c.evict_after = secs(v)),
    },
    Parameter {
        name: "keepalive",
        unit: "s",
        kind: Kind::Number(0.0, 1e7),
        default: "0",
        reference: "agent.ini [configuration], per function",
        about: "Keep-alive after the last request, renewed on use; 0 takes each function's own from the profile.",
        set: number!(c, v, c.keepalive = (v > 0.0).then(|| secs(v))),
    },
    Parameter {
        name: "keepdedup",
        unit: "s",
        kind: Kind::Number(0.0, 1e7),
        default: "900",
        reference: "",
        about: "A dedup or compressed sandbox is purged this long after its last request.",
        set: number!(c, v, c.keepdedup = secs(v)),
    },
    Parameter {
        name: "queue_deadline",
        unit: "s",
        kind: Kind::Number(0.0, 1e6),
        default: "60",
        reference: "",
        about: "A request that waited this long for memory is dropped.",
        set: number!(c, v, c.queue_deadline = secs(v)),
    },
    Parameter {
        name: "dedup_starts",
        unit: "starts",
        kind: Kind::Integer(1, 1_000_000),
        default: "10",
        reference: "",
        about: "Dedup starts under way at once on a node, at most.",
        set: number!(c, v, c.dedup_starts = v as u32),
    },
    Parameter {
        name: "dedup_scope",
        unit: "",
        kind: Kind::Choice(|| vec!["function", "owner", "cluster"]),
        default: "cluster",
        reference: "",
        about: "Whose base pages a sandbox may be patched against.",
        set: choice!(
            c,
            v,
            c.dedup_scope = match v {
                "function" => DedupScope::Function,
                "owner" => DedupScope::Owner,
                _ => DedupScope::Cluster,
            }
        ),
    },
    Parameter {
        name: "dedup_share",
        unit: "",
        kind: Kind::Number(0.0, 1.0),
        default: "1",
        reference: "",
        about: "Share of the functions, spread evenly over them, that share base pages with others as dedup_scope says; the rest use bases of their own only.",
        set: number!(c, v, c.dedup_share = v),
    },
    Parameter {
        name: "network_latency",
        unit: "us",
        kind: Kind::Number(0.0, 1e7),
        default: "0",
        reference: "",
        about: "Simulated world: latency of one read of base pages from another node; 0 takes the profile set's.",
        set: number!(c, v, c.network_latency = (v > 0.0).then(|| Duration::from_millis_f64(v / 1e3))),
    },
    Parameter {
        name: "network_bandwidth",
        unit: "Gbit/s",
        kind: Kind::Number(0.0, 1e5),
        default: "0",
        reference: "",
        about: "Simulated world: bandwidth of a node's link for reads of base pages; 0 takes the profile set's.",
        set: number!(c, v, c.network_bandwidth = (v > 0.0).then_some(v)),
    },
    Parameter {
        name: "codec",
        unit: "",
        kind: Kind::Name,
        default: "xdelta3",
        reference: "",
        about: "Codec of patches (compress policy: the codec alone, of the same name if it compresses alone, else lz4); the profile set names them.",
        set: |c, value| {
            if let Value::Name(name) = value {
                c.codec = name;
            }
        },
    },
    Parameter {
        name: "latency_bound",
        unit: "",
        kind: Kind::Number(1.0, 1e6),
        default: "2.5",
        reference: "",
        about: "Latency constraint of the medes policy: mean start latency at most this many times the warm one.",
        set: number!(c, v, c.latency_bound = v),
    },
    Parameter {
        name: "memory_share",
        unit: "",
        kind: Kind::Number(0.01, 1.0),
        default: "0.95",
        reference: "",
        about: "Memory constraint of the medes policy: share of the cluster's memory that is divided among functions.",
        set: number!(c, v, c.memory_share = v),
    },
    Parameter {
        name: "oracle_holds",
        unit: "",
        kind: Kind::Choice(|| vec!["smallest", "whole"]),
        default: "smallest",
        reference: "",
        about: "What an idle sandbox weighs for the oracle: its smallest form, which bounds every policy, or whole, which bounds those that neither deduplicate nor compress.",
        set: choice!(c, v, c.oracle_whole = v == "whole"),
    },
    Parameter {
        name: "hist_range",
        unit: "min",
        kind: Kind::Integer(2, 10_080),
        default: "240",
        reference: "",
        about: "adaptive: range of the idle-time histogram, in bins of one minute (Shahrad et al., section 4.2).",
        set: number!(c, v, c.hist_range = v as u32),
    },
    Parameter {
        name: "hist_head",
        unit: "%",
        kind: Kind::Number(0.0, 100.0),
        default: "5",
        reference: "",
        about: "adaptive: percentile of idle times before which a sandbox is not needed.",
        set: number!(c, v, c.hist_head = v),
    },
    Parameter {
        name: "hist_tail",
        unit: "%",
        kind: Kind::Number(0.0, 100.0),
        default: "99",
        reference: "",
        about: "adaptive: percentile of idle times up to which a sandbox is kept.",
        set: number!(c, v, c.hist_tail = v),
    },
    Parameter {
        name: "hist_margin",
        unit: "%",
        kind: Kind::Number(0.0, 100.0),
        default: "10",
        reference: "",
        about: "adaptive: margin by which the head is taken earlier and the tail later.",
        set: number!(c, v, c.hist_margin = v),
    },
    Parameter {
        name: "hist_cv",
        unit: "",
        kind: Kind::Number(0.0, 1e3),
        default: "2",
        reference: "",
        about: "adaptive: the histogram represents once the coefficient of variation of its bin counts is at least this.",
        set: number!(c, v, c.hist_cv = v),
    },
    Parameter {
        name: "hist_samples",
        unit: "samples",
        kind: Kind::Integer(1, 1_000_000),
        default: "10",
        reference: "",
        about: "adaptive: idle times seen before the histogram is trusted; until then a sandbox is kept for hist_range.",
        set: number!(c, v, c.hist_samples = v as u32),
    },
];

/// The parameter called `name`.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|p| p.name == name)
}

impl Parameter {
    /// What it takes, in words.
    pub fn expected(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" ({})", self.unit) };
        match self.kind {
            Kind::Integer(0, 1) => "0 or 1".into(),
            Kind::Integer(lo, hi) => format!("a whole number from {lo} to {hi}{unit}"),
            Kind::Number(lo, hi) => format!("a number from {lo} to {hi}{unit}"),
            Kind::Choice(names) => format!("one of {}", names().join(", ")),
            Kind::Name => "a name".into(),
            Kind::Weights => "three numbers not below 0, separated by spaces".into(),
        }
    }

    /// Parses and checks `text`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with what the parameter takes.
    pub fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        let text = text.trim();
        let number = |lo: f64, hi: f64| text.parse::<f64>().ok().filter(|v| (lo..=hi).contains(v));
        let value = match self.kind {
            Kind::Integer(lo, hi) => number(lo as f64, hi as f64).filter(|v| v.fract() == 0.0).map(Value::Number),
            Kind::Number(lo, hi) => number(lo, hi).map(Value::Number),
            Kind::Choice(names) => names().into_iter().find(|n| *n == text).map(Value::Choice),
            Kind::Name => (!text.is_empty()).then(|| Value::Name(text.to_owned())),
            Kind::Weights => {
                let parsed: Vec<f64> = text
                    .split_whitespace()
                    .filter_map(|w| w.parse().ok())
                    .filter(|w: &f64| w.is_finite() && *w >= 0.0)
                    .collect();
                (text.split_whitespace().count() == 3)
                    .then_some(parsed)
                    .and_then(|w| w.try_into().ok())
                    .map(Value::Weights)
            }
        };
        value.ok_or_else(|| ConfigError::Value { name: self.name, value: text.into(), expected: self.expected() })
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            policy: policy::REGISTRY[0].name,
            constraint: Constraint::Latency,
            provisioned: false,
            gamma: 0.0,
            threshold: 0.0,
            dedupperbase: 1,
            memcap: Bytes::ZERO,
            pool: None,
            reuseperiod: Duration::ZERO,
            window: 1,
            chunksperpage: 1,
            idletime: Duration::ZERO,
            patchthreshold: 0,
            nopause: false,
            adaptive: false,
            basechoice: [0.0; 3],
            nodes: 1,
            cores: 0,
            shared_cores: false,
            placement: placement::names()[0],
            eviction: None,
            keepalive: None,
            keepdedup: Duration::ZERO,
            queue_deadline: Duration::ZERO,
            dedup_starts: 1,
            dedup_scope: DedupScope::Cluster,
            dedup_share: 1.0,
            network_latency: None,
            network_bandwidth: None,
            codec: String::new(),
            latency_bound: 1.0,
            memory_share: 1.0,
            evict_after: Duration::ZERO,
            oracle_whole: false,
            hist_range: 1,
            hist_head: 0.0,
            hist_tail: 0.0,
            hist_margin: 0.0,
            hist_cv: 0.0,
            hist_samples: 1,
        };
        for p in PARAMETERS {
            // A default that its own entry refuses is a fault of the table; a test proves there is none.
            if let Ok(value) = p.parse(p.default) {
                (p.set)(&mut config, value);
            }
        }
        config
    }
}

impl Config {
    /// Sets the parameter `name` to `value`, both as written.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one, or a value that the parameter does not take.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let p = parameter(name).ok_or_else(|| ConfigError::Unknown { name: name.into(), near: nearest(name) })?;
        (p.set)(self, p.parse(value)?);
        Ok(())
    }

    /// Checks what no single parameter can, lets `adaptive` choose the policy that it means and `pool` set `memcap`.
    ///
    /// # Errors
    /// [`ConfigError::Contradiction`] naming both and the mend.
    pub fn check(&mut self) -> Result<(), ConfigError> {
        if self.adaptive {
            if !["fixed", "adaptive"].contains(&self.policy) {
                let what = format!("adaptive = 1 contradicts policy {}: leave one of them out", self.policy);
                return Err(ConfigError::Contradiction { what });
            }
            self.policy = "adaptive";
        }
        if let Some(pool) = self.pool {
            self.memcap = Bytes::new(pool.get() / u64::from(self.nodes.max(1)));
        }
        if self.hist_head > self.hist_tail {
            let what = format!(
                "hist_head ({}) is above hist_tail ({}): the head percentile must not exceed the tail",
                self.hist_head, self.hist_tail
            );
            return Err(ConfigError::Contradiction { what });
        }
        Ok(())
    }

    /// Whether `function` is among the `dedup_share` of functions that share base pages with others. The functions
    /// that do at a share also do at every larger one.
    pub fn shares_bases(&self, function: FunctionId) -> bool {
        // Multiples of the golden ratio, less their whole part, lie evenly between 0 and 1 (Weyl's sequence).
        let place = (f64::from(function.0) * 0.618_033_988_749_894_9).fract();
        place < self.dedup_share
    }

    /// Keep-alive of a function whose own is `own`.
    pub fn keepalive_of(&self, own: Duration) -> Duration {
        self.keepalive.unwrap_or(own)
    }
}

#[cfg(test)]
mod tests;
