//! What the controller tells every agent at the start of a run.

use medes_engine::config::Config;
use serde::{Deserialize, Serialize};

/// Settings of a run, the same on all nodes. Travels as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Actions by the names that orders use.
    pub functions: Vec<Action>,
    /// How sandboxes are made.
    pub sandbox: SandboxKind,
    /// How base pages of other nodes are read; pages of the node itself are read in place.
    pub transport: TransportKind,
    /// The CRIU to use; empty: `MEDES_CRIU`, the one of scripts/setup-criu, or the system's.
    pub criu: String,
    /// Whether a restore pushes pages to the process while it already runs (userfaultfd).
    pub lazy: bool,
    /// Where the controller's service answers, `host:port`.
    pub controller: String,
    /// Chunks of a page's fingerprint.
    pub chunksperpage: u32,
    /// Largest patch that is used, bytes.
    pub patchthreshold: u32,
    /// Codec of patches.
    pub codec: String,
    /// A reduced sandbox holds no paused process.
    pub nopause: bool,
    /// Most memory of one sandbox, bytes, where cgroups can say so; 0: no cap of its own.
    pub sandbox_memory: u64,
    /// Weights of base choice.
    pub basechoice: [f64; 3],
    /// Number of the controller's run: base pages are of this run only.
    pub epoch: u64,
}

impl Settings {
    /// The engine's parameters that agents need.
    pub fn of(config: &Config) -> Self {
        Self {
            chunksperpage: config.chunksperpage,
            patchthreshold: config.patchthreshold,
            codec: config.codec.clone(),
            nopause: config.nopause,
            basechoice: config.basechoice,
            ..Self::default()
        }
    }
}

/// An OpenWhisk-style Python action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// As orders name it.
    pub name: String,
    /// Its source: agents need no files of their own.
    pub code: String,
    /// The function of the source to call.
    pub main: String,
}

/// How sandboxes are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxKind {
    /// A process tree of its own.
    #[default]
    Process,
    /// An OCI container by runc.
    Runc,
}

/// How base pages of other nodes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportKind {
    /// `verbs` if all agents have RDMA devices at the addresses of their pages, else `tcp`. The controller finds out before it tells agents.
    #[default]
    Auto,
    /// Over TCP: works everywhere.
    Tcp,
    /// One-sided, over RDMA devices.
    Verbs,
}

impl TransportKind {
    /// As experiment files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
            Self::Verbs => "verbs",
        }
    }
}
