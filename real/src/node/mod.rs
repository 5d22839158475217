//! Sandboxes of one node: processes, their checkpoints by CRIU, their memory taken away and given back.
//!
//! Each sandbox is a folder on tmpfs (its socket, its record, checkpoints while they are being made), a cgroup where there are any, and a process tree with
//! namespaces of its own for processes, mounts, IPC, host name and network (an empty one): CRIU restores the ids that a process had, and in a namespace of its own
//! they are always free, however many sandboxes the machine has. Files on disks and users are the agent's: functions here are the operator's own. A stranger's
//! functions would want a container around each ([`runc`]).
//!
//! The way down: a warm sandbox is paused; [`Sandboxes::reduce`] checkpoints it to tmpfs and leaves it stopped, packs the pages, and only then ends it;
//! whatever fails before leaves the sandbox warm. Then a process is restored up to where its memory would be filled ([`hold`]). The way up:
//! [`Sandboxes::restore`] decodes and verifies the pages and pushes them into the held process; without one ([`NodeOptions::nopause`]) it writes them to
//! the pages files from which CRIU restores. Whatever fails there ends the sandbox, and nothing has run in it. Pages that the process is not known to need come
//! behind it ([`filling`]): what fails then ends it as well, before it gets past the page.

mod cgroup;
mod criu;
mod filling;
mod functions;
mod hold;
mod http;
mod journal;
mod moving;
mod nursery;
mod options;
pub mod process;
mod rebuild;
pub mod runc;
mod sandbox;
mod touched;
mod uffd;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_engine::units::Bytes;
use tracing::warn;

use self::cgroup::Cgroups;
use self::criu::Criu;
use self::functions::Functions;
use self::journal::Made;
use self::nursery::Nursery;
use self::sandbox::Sandbox;
use self::touched::Records;
use crate::ops::{Answer, Bases, Checkpointed, NodeMemory, OpError, Reduced, Restored, Sandboxes, Started};

pub use cgroup::memory_caps;
pub use functions::FUNCTIONS;
pub use journal::clean;
pub use options::{NodeOptions, Push};
pub use touched::Touched;
pub use watch::can_watch;

/// Longest that CRIU may take to say who it is.
const GREETING: Duration = Duration::from_secs(20);

/// What all sandboxes of the node use.
struct Node {
    options: NodeOptions,
    functions: Functions,
    nursery: Nursery,
    /// Without CRIU sandboxes still start and run.
    criu: Result<Criu, OpError>,
    cgroups: Cgroups,
    bases: Arc<dyn Bases>,
    touched: Records,
}

/// Sandboxes of one node, as processes of this machine. When dropped, all of them and their folder are gone.
pub struct LocalSandboxes {
    node: Arc<Node>,
    table: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalSandboxes {
    /// Prepares the run folder, which must not exist or be empty: [`clean`] removes what an earlier agent left there.
    ///
    /// # Errors
    /// The folder cannot be used. A CRIU that does not work is no error here but one of each operation that needs it.
    pub fn new(options: NodeOptions, bases: Arc<dyn Bases>) -> Result<Self, OpError> {
        let folder = &options.run_dir;
        let io = |e| OpError::io(folder, &e);
        prepare(folder)?;
        let functions = Functions::new(folder, &options.functions)?;
        let nursery = Nursery::new().map_err(io)?;
        let name = format!("medes-{}-{}", options.node, std::process::id());
        let name = unused(&name);
        let cgroups = Cgroups::new(&name, |path| journal::record(folder, &Made::Cgroup(path))).map_err(io)?;
        let criu = Criu::new(&options.criu, &nursery, Instant::now() + GREETING);
        if let Err(e) = &criu {
            warn!("sandboxes can run but not be checkpointed: {e}");
        }
        let node = Arc::new(Node { options, functions, nursery, criu, cgroups, bases, touched: Records::default() });
        Ok(Self { node, table: Mutex::default() })
    }

    /// CRIU's version.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn criu_version(&self) -> Result<&str, OpError> {
        self.node.criu.as_ref().map(|c| c.version.as_str()).map_err(Clone::clone)
    }

    /// Proportional set size of one sandbox; zero without it.
    pub fn resident(&self, id: SandboxId) -> Bytes {
        self.find(id, "measuring").map_or(Bytes::ZERO, |sandbox| sandbox.resident())
    }

    /// From now on that is known of what a function touches, or nothing; what was. For first dedup starts that are measured more than once, where
    /// addresses are not randomised.
    pub fn exchange_touched(&self, function: &str, known: Option<Arc<Touched>>) -> Option<Arc<Touched>> {
        self.node.touched.exchange(function, known)
    }

    /// One sandbox's memory, its own and what it shares; nothing without it.
    pub fn parts(&self, id: SandboxId) -> process::Resident {
        self.find(id, "measuring").map_or_else(|_| process::Resident::default(), |sandbox| sandbox.parts())
    }

    fn find(&self, id: SandboxId, what: &str) -> Result<Arc<Sandbox>, OpError> {
        lock(&self.table).get(&id).cloned().ok_or_else(|| OpError::Sandbox {
            what: what.into(),
            reason: format!("there is no sandbox {id} on this node"),
            gone: true,
        })
    }
}

/// Makes a run folder that is an agent's own.
fn prepare(folder: &Path) -> Result<(), OpError> {
    let too_long = folder.as_os_str().len() > 60 || !folder.is_absolute();
    if too_long || fs::read_dir(folder).is_ok_and(|mut f| f.next().is_some()) {
        let reason = if too_long {
            "not an absolute path of at most 60 bytes"
        } else {
            "not empty: `medes clean` removes what another run left"
        };
        return Err(OpError::Io { path: folder.display().to_string(), reason: reason.into() });
    }
    fs::create_dir_all(folder).map_err(|e| OpError::io(folder, &e))
}

/// Sees to it that a folder is on a tmpfs: one is mounted there if it is not, on record for [`clean`]. What it is on.
///
/// # Errors
/// It is on a disk, and nothing can be mounted there: another user's folder, or none of the machine's administrator.
pub fn in_memory(folder: &Path) -> Result<&'static str, OpError> {
    let io = |e: std::io::Error| OpError::io(folder, &e);
    let kind = || nix::sys::statfs::statfs(folder).map(|s| s.filesystem_type()).map_err(|e| io(e.into()));
    if kind()? == nix::sys::statfs::TMPFS_MAGIC {
        return Ok("on a tmpfs");
    }
    let note = || journal::record(folder, &Made::Mount(folder)).map_err(io);
    note()?;
    let (none, rights) = (None::<&str>, Some("mode=700"));
    nix::mount::mount(none, folder, Some("tmpfs"), nix::mount::MsFlags::empty(), rights).map_err(|e| io(e.into()))?;
    // The record above is hidden now.
    note()?;
    Ok("on a tmpfs of its own")
}

/// A name that no other agent of this program has used.
fn unused(name: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Relaxed))
}

impl Sandboxes for LocalSandboxes {
    fn spawn(&self, id: SandboxId, function: &str, deadline: Instant) -> Result<Started, OpError> {
        let began = Instant::now();
        if lock(&self.table).contains_key(&id) {
            let reason = format!("sandbox {id} is there already");
            return Err(OpError::Sandbox { what: "starting".into(), reason, gone: false });
        }
        let sandbox = Arc::new(Sandbox::new(&self.node, id, function)?);
        // There from now on: its memory counts while it grows.
        lock(&self.table).insert(id, sandbox.clone());
        if let Err(e) = sandbox.start(&self.node, deadline) {
            self.purge(id);
            return Err(e);
        }
        Ok(Started { took: began.elapsed() })
    }

    fn run(&self, id: SandboxId, arguments: &str, deadline: Instant) -> Result<Answer, OpError> {
        self.find(id, "running")?.run(&self.node, arguments, deadline)
    }

    fn checkpoint(&self, id: SandboxId, deadline: Instant) -> Result<Checkpointed, OpError> {
        self.find(id, "checkpointing")?.checkpoint(&self.node, deadline)
    }

    fn reduce(&self, id: SandboxId, method: Method, again: bool, deadline: Instant) -> Result<Reduced, OpError> {
        self.find(id, "reducing")?.reduce(&self.node, method, again, deadline)
    }

    fn restore(&self, id: SandboxId, deadline: Instant) -> Result<Restored, OpError> {
        self.find(id, "restoring")?.restore(&self.node, deadline)
    }

    fn give_up(&self, id: SandboxId) {
        if let Ok(sandbox) = self.find(id, "giving up") {
            sandbox.give_up(&self.node);
        }
    }

    fn purge(&self, id: SandboxId) {
        let found = lock(&self.table).remove(&id);
        if let Some(sandbox) = found {
            sandbox.purge(&self.node);
        }
    }

    fn memory(&self) -> NodeMemory {
        let all: Vec<Arc<Sandbox>> = lock(&self.table).values().cloned().collect();
        let mut out = NodeMemory::default();
        for sandbox in all {
            out.sandboxes += sandbox.resident();
            out.bases += Bytes::new(sandbox.gauge.dump.load(Relaxed));
            out.stored += Bytes::new(sandbox.gauge.stored.load(Relaxed));
        }
        // Packed images are on this program's heap.
        out.agent = process::own_resident().saturating_sub(out.stored);
        out
    }
}

impl Drop for LocalSandboxes {
    fn drop(&mut self) {
        let all = std::mem::take(&mut *lock(&self.table));
        for sandbox in all.values() {
            sandbox.purge(&self.node);
        }
        if let Err(e) = journal::undo(&self.node.options.run_dir) {
            warn!("the run folder stays: {e}");
        }
    }
}

/// The folder of a sandbox.
fn folder_of(run_dir: &Path, id: SandboxId) -> std::path::PathBuf {
    run_dir.join(id.to_string())
}
