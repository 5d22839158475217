//! The controller: drives the engine in real time and has agents carry out what it decides.
//!
//! One task owns the engine. Arrivals come at their times whether earlier ones are answered or not; a [`link`] a node sends orders and hands
//! back what agents say; deadlines of the engine and of orders are timers. Whatever an agent does or does not, each request ends once:
//! answered, or reported dropped or failed by its deadline.

mod agents;
mod books;
pub mod link;
pub mod local;
mod run;
mod settle;
mod transport;

use std::net::SocketAddr;
use std::time::Duration;

use medes_engine::config::Config;
use medes_engine::engine::EngineError;
use medes_engine::id::{FunctionId, NodeId, SandboxId};
use medes_engine::policy::FunctionSpec;
use medes_engine::record::{HostSample, OperationSummary, StartSummary};
use medes_engine::units::{Duration as EngineDuration, Instant as EngineInstant};
use tokio::sync::watch;

use crate::bases::service::IndexService;
use crate::load::Load;
use crate::settings::Settings;
use crate::transport::Secret;
use crate::wire::controller_server;

pub use run::run;

/// Base pages of the cluster, as the controller knows them: answers agents' calls, and follows what the engine decides.
pub trait Directory: controller_server::Controller {
    /// A base is given up or purged: nobody is sent to its pages any more.
    fn forget(&self, base: SandboxId);
    /// A node is lost with all its bases.
    fn node_lost(&self, node: NodeId);
    /// So many more, or fewer, reduced sandboxes are patched against a base.
    fn refer(&self, base: SandboxId, change: i32);
}

impl Directory for IndexService {
    fn forget(&self, base: SandboxId) {
        self.0.withdraw(base);
    }

    fn node_lost(&self, node: NodeId) {
        self.0.node_lost(node);
    }

    fn refer(&self, base: SandboxId, change: i32) {
        self.0.refer(base, change);
    }
}

/// A request of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, from the start of the run.
    pub at: EngineInstant,
    /// For which function.
    pub function: FunctionId,
}

/// How long things may take. A sandbox or base that takes longer has failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadlines {
    /// A cold start (REFERENCE: 3.5 s).
    pub cold: Duration,
    /// A dedup start (REFERENCE: 5 s).
    pub dedup: Duration,
    /// Waking a warm sandbox (REFERENCE: 2 s).
    pub warm: Duration,
    /// The function's own run, after any start.
    pub run: Duration,
    /// A checkpoint or a reduction: nobody waits for it.
    pub operation: Duration,
    /// A request, over all its attempts.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            cold: Duration::from_millis(3500),
            dedup: Duration::from_secs(5),
            warm: Duration::from_secs(2),
            run: Duration::from_secs(30),
            operation: Duration::from_secs(30),
            request: Duration::from_secs(90),
        }
    }
}

/// A run.
pub struct Plan<'a> {
    /// The engine's parameters.
    pub config: &'a Config,
    /// What the engine is told of each function.
    pub specs: Vec<FunctionSpec>,
    /// What is asked of each function, in the same order.
    pub loads: Vec<Load>,
    /// What agents are told; address and epoch are filled in.
    pub settings: Settings,
    /// Limits.
    pub deadlines: Deadlines,
    /// Seed of the requests' arguments.
    pub seed: u64,
    /// Length of the trace.
    pub length: EngineDuration,
    /// Length of an interval of the timeline.
    pub interval: EngineDuration,
    /// Where the agents are, `host:port`; may change while the run is on.
    pub nodes: Vec<watch::Receiver<String>>,
    /// Where the controller's service listens; port 0 takes any.
    pub listen: SocketAddr,
    /// The host by which agents reach it.
    pub host: String,
    /// What the cluster shares.
    pub secret: Option<Secret>,
    /// So long the run waits for all agents before it starts without those that are missing.
    pub start_timeout: Duration,
    /// So long, at most, it waits then for this machine to come to rest.
    pub rest: Duration,
    /// Threads that carry messages to and from agents, at least one.
    pub threads: usize,
}

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// As of a simulation.
    pub outcome: medes_engine::metrics::Outcome,
    /// Starts by function and kind, broken down.
    pub starts: Vec<StartSummary>,
    /// Base and dedup operations by function, broken down.
    pub operations: Vec<OperationSummary>,
    /// How fast the hosts were.
    pub host: Vec<HostSample>,
    /// What a reader of the results should know.
    pub notes: Vec<String>,
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No thread or timer.
    #[error("starting the controller: {0}")]
    Runtime(std::io::Error),
    /// Its address cannot be used.
    #[error("the controller cannot listen on {address}: {source}; choose another port in cluster.json, or 0 for any")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No agent answered in time.
    #[error("no agent answered within {} s ({nodes}); start them with `medes agent --node N`, or look at their output", after.as_secs())]
    NoAgent {
        /// Where they should be.
        nodes: String,
        /// How long was waited.
        after: Duration,
    },
    /// An agent cannot be used, now or later.
    #[error("agent {node} at {address}: {reason}")]
    Refused {
        /// Which.
        node: NodeId,
        /// Where.
        address: String,
        /// What it said, with the mend.
        reason: String,
    },
    /// Broken off from outside.
    #[error("stopped")]
    Stopped,
}
