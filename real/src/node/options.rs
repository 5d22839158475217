//! What one node's sandboxes are to be like.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use medes_engine::id::NodeId;
use medes_engine::units::Bytes;

/// When a held process goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Push {
    /// When all its pages are there.
    First,
    /// When those are there that the function is known to touch; the others come in the background, and whoever touches one that is not there yet waits
    /// for it.
    #[default]
    Behind,
}

/// Options of [`super::LocalSandboxes`].
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node.
    pub node: NodeId,
    /// Folder of everything that is made; on a tmpfs (dumps are written there), for this agent alone, and no longer than 60 bytes (sockets).
    pub run_dir: PathBuf,
    /// Python with the functions' libraries.
    pub python: PathBuf,
    /// Functions beside the ten that are built in: name and OpenWhisk action (a Python file).
    pub functions: BTreeMap<String, PathBuf>,
    /// CRIU.
    pub criu: PathBuf,
    /// Reduced sandboxes hold no process; a restore starts CRIU.
    pub nopause: bool,
    /// When a held process goes on.
    pub push: Push,
    /// A sandbox that is reduced again is checkpointed anew, so that it keeps what it did since. Else it goes back to its first checkpoint.
    pub fresh: bool,
    /// Most memory of one sandbox, where cgroups can say so.
    pub sandbox_memory: Option<Bytes>,
    /// Address-space randomisation of sandboxes. Without, more of their pages are alike.
    pub randomize: bool,
}

impl NodeOptions {
    /// The defaults: programs where `scripts/setup-criu` and `scripts/make-dumps` put them, or where `MEDES_CRIU` and
    /// `MEDES_FUNCTIONS_VENV` say.
    pub fn new(node: NodeId, run_dir: &Path) -> Self {
        let named = |variable: &str, or: &str| PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| or.into()));
        Self {
            node,
            run_dir: run_dir.to_path_buf(),
            python: named("MEDES_FUNCTIONS_VENV", "/opt/medes/functions").join("bin/python"),
            functions: BTreeMap::new(),
            criu: named("MEDES_CRIU", "/opt/medes/criu/bin/criu"),
            nopause: false,
            push: Push::default(),
            fresh: false,
            sandbox_memory: None,
            randomize: false,
        }
    }
}
