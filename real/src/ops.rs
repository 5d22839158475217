//! What an agent does on its node, as the two traits between its parts: [`Sandboxes`] holds processes and their checkpoints,
//! [`Bases`] knows base pages of the whole cluster. The agent's server carries out the engine's actions with the first, the first
//! deduplicates with the second.
//!
//! All calls block and may be made from any number of threads; calls about one sandbox come one after the other. Each ends by its
//! deadline.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::dedup::Page;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::turns::Turns;
use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_engine::units::Bytes;

/// Sandboxes of one node.
pub trait Sandboxes: Send + Sync {
    /// Starts a sandbox of a function, up to where it can run (`/init` answered), paused.
    ///
    /// # Errors
    /// Nothing of it is left.
    fn spawn(&self, id: SandboxId, function: &str, deadline: Instant) -> Result<Started, OpError>;

    /// Wakes a warm sandbox, runs its function with `arguments` (a JSON value) and pauses it.
    ///
    /// # Errors
    /// No answer by the deadline, or none at all, or memory that was still to come cannot be had: the caller purges the sandbox. A function's own error (`502`) is an answer.
    fn run(&self, id: SandboxId, arguments: &str, deadline: Instant) -> Result<Answer, OpError>;

    /// Checkpoints a warm sandbox without ending it, keeps the dump in memory and registers its pages with [`Bases::register`].
    ///
    /// # Errors
    /// The sandbox is as it was.
    fn checkpoint(&self, id: SandboxId, deadline: Instant) -> Result<Checkpointed, OpError>;

    /// Reduces a warm sandbox: checkpoint, end of its process, pages packed. With `again` its first image is kept and nothing is
    /// packed anew. Unless the agent was told `nopause`, a process is then restored up to where memory is filled and held there.
    ///
    /// # Errors
    /// The sandbox is warm as before, or, if [`OpError::gone`] says so, lost.
    fn reduce(&self, id: SandboxId, method: Method, again: bool, deadline: Instant) -> Result<Reduced, OpError>;

    /// Gives a reduced sandbox its memory back; it is warm then. Its image stays for the next reduction.
    ///
    /// # Errors
    /// The sandbox is lost; nothing ran in it.
    fn restore(&self, id: SandboxId, deadline: Instant) -> Result<Restored, OpError>;

    /// Drops the dump of a base; the sandbox stays warm.
    fn give_up(&self, id: SandboxId);

    /// Ends a sandbox in whatever state, with all it left; one that is not there is gone already.
    fn purge(&self, id: SandboxId);

    /// Measured memory.
    fn memory(&self) -> NodeMemory;
}

/// Base pages of the cluster, as one agent sees them.
pub trait Bases: Send + Sync {
    /// Publishes the pages of a dump for all agents and enters their fingerprints with the controller.
    ///
    /// # Errors
    /// Nothing is published.
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError>;

    /// Takes a base back. When this returns its pages are read by nobody.
    fn withdraw(&self, id: SandboxId);

    /// Packs an image against the base pages that the controller names; pages without one are compressed or kept whole.
    ///
    /// # Errors
    /// The image could not be packed.
    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError>;

    /// Gives the pages of a packed image back, verified, block after block (number of the first page, pages), from several threads
    /// at once, in the order that `turns` says.
    ///
    /// # Errors
    /// A base that is gone ([`OpError::BaseLost`]) or a page that is not what went in: the sandbox cannot run.
    fn unpack(
        &self,
        file: &DedupFile<'_>,
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError>;
}

/// Takes pages of an image that is being unpacked: number of the first, and the pages.
pub type Give<'a> = dyn Fn(u64, &[Page]) -> Result<(), OpError> + Sync + 'a;

/// A sandbox that can run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Started {
    /// From the call until `/init` was answered.
    pub took: Duration,
}

/// What a function answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status of `/run`.
    pub status: u16,
    /// JSON.
    pub body: Arc<str>,
    /// From the call until the request was sent: waking the process.
    pub wake: Duration,
    /// From then until the answer, without what it waited for its memory.
    pub run: Duration,
    /// Meanwhile it waited for memory that was still to be pushed.
    pub waited: Waited,
}

/// Time in which a process waited for pages of its own, in the proportion in which what was unpacked until then took reading and computing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// For base pages.
    pub read: Duration,
    /// For pages made of them.
    pub decode: Duration,
}

impl Waited {
    /// All together.
    pub fn whole(self) -> Duration {
        self.read + self.decode
    }
}

/// A base's dump.
#[derive(Clone, Debug, Default)]
pub struct Checkpointed {
    /// Memory of the dump.
    pub dump: Bytes,
    /// CRIU's part.
    pub checkpoint: Duration,
    /// Fingerprints, publication and entering.
    pub registered: Registered,
}

/// A published base.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registered {
    /// Pages.
    pub pages: u64,
    /// Taking fingerprints.
    pub fingerprint: Duration,
    /// Entering them with the controller.
    pub enter: Duration,
}

/// A reduced sandbox.
#[derive(Clone, Debug, Default)]
pub struct Reduced {
    /// Memory of what is kept: the packed image and what a paused process holds is counted apart by [`Sandboxes::memory`].
    pub stored: Bytes,
    /// Bases that a restore reads from, each once.
    pub bases: Vec<SandboxId>,
    /// CRIU's part; zero with `again`.
    pub checkpoint: Duration,
    /// Bringing the process to where it is held.
    pub hold: Duration,
    /// Of packing; empty with `again`.
    pub packing: PackTimes,
}

/// Where the time of packing went.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackTimes {
    /// Fingerprints.
    pub fingerprint: Duration,
    /// Asking the controller.
    pub lookup: Duration,
    /// Reading base pages.
    pub read: Duration,
    /// Writing patches.
    pub encode: Duration,
    /// Base pages of the same function on this node, of the same function elsewhere, of other functions here, of others elsewhere.
    pub base_pages: [u64; 4],
}

/// A packed image.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// A dedup file (`medes_engine::dedup::file`).
    pub file: Vec<u8>,
    /// Its bases, by position in the file.
    pub bases: Vec<SandboxId>,
    /// Where the time went.
    pub times: PackTimes,
}

/// Where the time of unpacking went, summed over its threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpacked {
    /// Reading base pages.
    pub read: Duration,
    /// Applying and verifying patches.
    pub decode: Duration,
    /// Base pages read from this node, and from others.
    pub pages: [u64; 2],
}

/// A sandbox with its memory back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    /// From the call until it could run.
    pub took: Duration,
    /// Of that, pages.
    pub unpacked: Unpacked,
    /// Of that, CRIU or the resumption of the held process.
    pub resume: Duration,
}

/// Memory of a node, measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeMemory {
    /// Proportional set size of all sandboxes' processes.
    pub sandboxes: Bytes,
    /// Dumps of bases.
    pub bases: Bytes,
    /// Packed images and what goes with them.
    pub stored: Bytes,
    /// The agent's own resident memory without the above.
    pub agent: Bytes,
}

impl NodeMemory {
    /// All together.
    pub fn total(&self) -> Bytes {
        self.sandboxes + self.bases + self.stored + self.agent
    }
}

/// Why an operation on a sandbox failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// Not done in time.
    #[error("{what} was not done by its deadline")]
    Late {
        /// The operation.
        what: String,
    },
    /// A base is gone.
    #[error("base {base} is gone: {reason}")]
    BaseLost {
        /// The base.
        base: SandboxId,
        /// What was seen.
        reason: String,
    },
    /// The process ended, did not answer, or cannot be started.
    #[error("{what}: {reason}")]
    Sandbox {
        /// The operation.
        what: String,
        /// What was seen.
        reason: String,
        /// Whether the sandbox is lost.
        gone: bool,
    },
    /// CRIU refused.
    #[error("{what} by CRIU: {reason}")]
    Criu {
        /// The operation.
        what: String,
        /// The end of its log.
        reason: String,
        /// Whether the sandbox is lost.
        gone: bool,
    },
    /// A page is not what it was: damaged patch or wrong base page.
    #[error("{0}")]
    Damaged(String),
    /// The system refused.
    #[error("{path}: {reason}")]
    Io {
        /// File or folder.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The controller could not be asked.
    #[error("asking the controller: {0}")]
    Controller(String),
}

impl OpError {
    /// Whether the sandbox is lost with it.
    pub fn gone(&self) -> bool {
        matches!(self, Self::Sandbox { gone: true, .. } | Self::Criu { gone: true, .. })
    }

    /// What the system said of a file.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), reason: error.to_string() }
    }
}
