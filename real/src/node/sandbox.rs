//! One sandbox, in each of its states.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use medes_engine::dedup::image::Image;
use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_engine::units::Bytes;
use nix::sys::signal::Signal;
use tracing::warn;

use super::cgroup::Cgroup;
use super::criu::{self, Kind, Options, Purpose};
use super::filling::Behind;
use super::hold::Held;
use super::http::{self, HttpError};
use super::journal::{self, Made};
use super::nursery::{self, Birth};
use super::watch::Watch;
use super::{Node, folder_of, lock, process};
use crate::ops::{Answer, Checkpointed, OpError, Packed, Reduced, Waited};

mod restoring;
mod watching;

/// Between two looks at whether a runner listens.
const LOOK: Duration = Duration::from_micros(500);
/// After which a checkpoint that was refused is tried once more: a runner that had not closed its side of a connection has done so.
const SETTLE: Duration = Duration::from_millis(10);

/// Numbers that are read while the sandbox is at work.
#[derive(Debug, Default)]
pub struct Gauge {
    /// First process; 0 without one.
    pub root: AtomicI32,
    /// Bytes of the packed image.
    pub stored: AtomicU64,
    /// Bytes of the dump as a base.
    pub dump: AtomicU64,
}

/// How a warm sandbox is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Frozen,
    Stopped,
}

#[derive(Debug)]
enum Body {
    Warm { root: i32, pause: Pause },
    Reduced { held: Option<Held> },
    Lost,
}

#[derive(Debug)]
struct State {
    body: Body,
    packed: Option<Arc<Packed>>,
    filling: Option<Filling>,
    watch: Option<Watch>,
}

/// Fills the memory of a process that runs already; kills it if it cannot.
#[derive(Debug)]
struct Filling {
    thread: JoinHandle<()>,
    behind: Arc<Behind>,
}

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    id: SandboxId,
    function: String,
    folder: PathBuf,
    socket: PathBuf,
    group: Cgroup,
    state: Mutex<State>,
    /// What is read while it works.
    pub gauge: Gauge,
}

fn failed(what: &str, reason: impl Into<String>, gone: bool) -> OpError {
    OpError::Sandbox { what: what.into(), reason: reason.into(), gone }
}

impl Sandbox {
    /// A sandbox without a process: its folder and its cgroup.
    ///
    /// # Errors
    /// Nothing of it is left.
    pub fn new(node: &Node, id: SandboxId, function: &str) -> Result<Self, OpError> {
        let folder = folder_of(&node.options.run_dir, id);
        fs::create_dir(&folder).map_err(|e| OpError::io(&folder, &e))?;
        let name = id.to_string();
        let planned = node.cgroups.planned(&name);
        let recorded = planned.iter().try_for_each(|path| journal::record(&folder, &Made::Cgroup(path)));
        let group = recorded.map_err(|e| OpError::io(&folder, &e)).and_then(|()| {
            node.cgroups.make(&name, node.options.sandbox_memory).map_err(|(path, e)| OpError::io(&path, &e))
        });
        let group = match group {
            Ok(group) => group,
            Err(e) => {
                let _ = fs::remove_dir_all(&folder);
                return Err(e);
            }
        };
        let state = Mutex::new(State { body: Body::Lost, packed: None, filling: None, watch: None });
        let socket = folder.join("sock");
        Ok(Self { id, function: function.into(), folder, socket, group, state, gauge: Gauge::default() })
    }

    /// Starts its process, gives it its function, pauses it.
    ///
    /// # Errors
    /// Only [`Self::purge`] is left to do.
    pub fn start(&self, node: &Node, deadline: Instant) -> Result<(), OpError> {
        let what = &format!("starting {}", self.function);
        let init =
            &node.functions.init(&self.function).ok_or_else(|| failed(what, "there is no such function", true))?;
        let mut command = Command::new(&node.options.python);
        // CRIU mounts the namespace's own /proc below the working folder while it dumps: a folder that no other sandbox shares.
        command.arg(&node.functions.runner).arg(&self.socket).current_dir(&self.folder);
        // One thread of algebra, and no terminal: what CRIU dumps without further options.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/").env("LANG", "C.UTF-8");
        command.env("OPENBLAS_NUM_THREADS", "1").env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let birth = Birth {
            own: Some(nursery::hidden(&node.options.run_dir)),
            own_session: true,
            still_addresses: !node.options.randomize,
            cgroups: self.group.doors().map_err(|(path, e)| OpError::io(&path, &e))?,
        };
        let child = node
            .nursery
            .start(command, birth)
            .map_err(|e| failed(what, format!("{}: {e}", node.options.python.display()), true))?;
        // Waited for by its id, like those that CRIU restores.
        let root = child.id().cast_signed();
        self.gauge.root.store(root, Relaxed);
        lock(&self.state).body = Body::Warm { root, pause: Pause::Stopped };
        journal::record(&self.folder, &Made::Process(root)).map_err(|e| OpError::io(&self.folder, &e))?;
        let sent = loop {
            match http::send(&self.socket, "/init", init, deadline) {
                Err(HttpError::Io(_)) if Instant::now() >= deadline => break Err(HttpError::Late),
                Err(HttpError::Io(_)) if process::runs(root) => thread::sleep(LOOK),
                other => break other,
            }
        };
        let answer = sent.and_then(|s| s.answer(deadline));
        let (status, body) = answer.map_err(|e| self.broken(what, e))?;
        if status != 200 {
            return Err(failed(what, format!("/init answered {status}: {body}"), true));
        }
        self.watch(node, root, deadline)?;
        self.pause(root);
        Ok(())
    }

    /// Why a request was not answered.
    fn broken(&self, what: &str, error: HttpError) -> OpError {
        if let Some(why) = lock(&self.state).filling.as_ref().and_then(|f| f.behind.failure()) {
            return why;
        }
        match error {
            HttpError::Late => OpError::Late { what: what.into() },
            other if process::runs(self.gauge.root.load(Relaxed)) => failed(what, other.to_string(), true),
            _ => failed(what, "its process has ended", true),
        }
    }

    fn processes(&self, root: i32) -> Vec<i32> {
        self.group.processes().unwrap_or_else(|| process::tree(root))
    }

    fn pause(&self, root: i32) {
        let pause = if self.group.freeze(true) {
            Pause::Frozen
        } else {
            self.processes(root).into_iter().for_each(|p| process::signal(p, Signal::SIGSTOP));
            Pause::Stopped
        };
        lock(&self.state).body = Body::Warm { root, pause };
    }

    fn wake(&self, root: i32, pause: Pause) {
        match pause {
            Pause::Frozen => {
                self.group.freeze(false);
            }
            Pause::Stopped => self.processes(root).into_iter().for_each(|p| process::signal(p, Signal::SIGCONT)),
        }
    }

    /// The first process of a warm sandbox, and how it is paused.
    fn warm(&self, what: &str) -> Result<(i32, Pause), OpError> {
        match lock(&self.state).body {
            Body::Warm { root, pause } => Ok((root, pause)),
            Body::Reduced { .. } => Err(failed(what, format!("sandbox {} is reduced", self.id), false)),
            Body::Lost => Err(failed(what, format!("sandbox {} is lost", self.id), true)),
        }
    }

    /// See [`crate::ops::Sandboxes::run`].
    pub fn run(&self, node: &Node, arguments: &str, deadline: Instant) -> Result<Answer, OpError> {
        let began = Instant::now();
        let what = format!("running {}", self.function);
        let (root, pause) = self.warm(&what)?;
        let body = format!("{{\"value\":{arguments}}}");
        let filling = lock(&self.state).filling.as_ref().map(|f| f.behind.clone());
        let before = filling.as_ref().map(|f| f.waits.sum());
        self.wake(root, pause);
        let sent = http::send(&self.socket, "/run", &body, deadline).map_err(|e| self.broken(&what, e))?;
        let wake = began.elapsed();
        let (status, body) = sent.answer(deadline).map_err(|e| self.broken(&what, e))?;
        let run = began.elapsed().saturating_sub(wake);
        if self.watched(node, deadline) {
            self.pause(root);
        }
        let waited = filling.map_or_else(Waited::default, |f| {
            f.turns.release();
            // Of a request that was answered: what one that fails touches says little.
            self.missed(node, &f.seen(), f.pages);
            f.waits.split((f.waits.sum() - before.unwrap_or_default()).min(run))
        });
        Ok(Answer { status, body: body.into(), wake, run: run - waited.whole(), waited })
    }

    /// Where checkpoints are written while they are needed.
    fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// Checkpoints to [`Self::images`] and leaves the tree stopped.
    fn dump(&self, node: &Node, what: &'static str, deadline: Instant) -> Result<Duration, OpError> {
        let criu = node.criu.as_ref().map_err(Clone::clone)?;
        let (root, pause) = self.warm(what)?;
        self.settle();
        if !process::runs(root) {
            self.lose();
            return Err(failed(what, "its process has ended", true));
        }
        let images = self.images();
        self.wake(root, pause);
        if !self.watched(node, deadline) {
            return Err(failed(what, "its memory could not be moved back", true));
        }
        let began = Instant::now();
        let once = |log_level| {
            fs::create_dir(&images).map_err(|e| OpError::io(&images, &e))?;
            let options = Options { pid: Some(root), leave_stopped: Some(true), log_level, ..Options::default() };
            let purpose = Purpose { what, gone: false };
            criu.about(&node.nursery, &images, None, Kind::Dump, options, purpose)?.finish(deadline)
        };
        let mut result = once(None);
        if matches!(result, Err(OpError::Criu { .. })) && process::runs(root) {
            let _ = fs::remove_dir_all(&images);
            journal::unmount(&self.folder);
            thread::sleep(SETTLE);
            result = once(Some(criu::ALL));
        }
        match result {
            Ok(_) => {
                lock(&self.state).body = Body::Warm { root, pause: Pause::Stopped };
                Ok(began.elapsed())
            }
            Err(e) => {
                let _ = fs::remove_dir_all(&images);
                journal::unmount(&self.folder);
                if matches!(e, OpError::Late { .. }) || !process::runs(root) {
                    // CRIU was killed at its work, and its code may still be in the process.
                    self.lose();
                    return Err(failed(what, format!("{e}; the process could not go on"), true));
                }
                self.pause(root);
                Err(e)
            }
        }
    }

    fn open(&self, what: &str) -> Result<Image, OpError> {
        Image::open(&self.images()).map_err(|e| failed(what, e.to_string(), false))
    }

    /// See [`crate::ops::Sandboxes::checkpoint`].
    pub fn checkpoint(&self, node: &Node, deadline: Instant) -> Result<Checkpointed, OpError> {
        const WHAT: &str = "checkpointing";
        let checkpoint = self.dump(node, WHAT, deadline)?;
        let done = self.open(WHAT).and_then(|image| {
            let registered = node.bases.register(self.id, &self.function, &image, deadline)?;
            let dump = Bytes::new(image.bytes());
            self.gauge.dump.store(dump.get(), Relaxed);
            Ok(Checkpointed { dump, checkpoint, registered })
        });
        // Whoever serves the pages has them, or maps them.
        let _ = fs::remove_dir_all(self.images());
        done
    }

    /// See [`crate::ops::Sandboxes::give_up`].
    pub fn give_up(&self, node: &Node) {
        if self.gauge.dump.swap(0, Relaxed) > 0 {
            node.bases.withdraw(self.id);
        }
    }

    /// See [`crate::ops::Sandboxes::reduce`].
    pub fn reduce(&self, node: &Node, method: Method, again: bool, deadline: Instant) -> Result<Reduced, OpError> {
        const WHAT: &str = "reducing";
        let (root, _) = self.warm(WHAT)?;
        self.settle();
        if !process::runs(root) {
            self.lose();
            return Err(failed(WHAT, "its process has ended", true));
        }
        let mut out = Reduced::default();
        let keep = again && !node.options.fresh && lock(&self.state).packed.is_some();
        if !keep {
            out.checkpoint = self.dump(node, WHAT, deadline)?;
            let packed = self.open(WHAT).and_then(|image| node.bases.pack(&image, &self.function, method, deadline));
            let packed = match packed {
                Ok(packed) => packed,
                Err(e) => {
                    let _ = fs::remove_dir_all(self.images());
                    return Err(e);
                }
            };
            out.packing = packed.times;
            self.gauge.stored.store(packed.file.len() as u64, Relaxed);
            lock(&self.state).packed = Some(Arc::new(packed));
        }
        self.end(root);
        lock(&self.state).body = Body::Reduced { held: None };
        if !node.options.nopause {
            let began = Instant::now();
            match self.hold(node, deadline) {
                Ok(held) => lock(&self.state).body = Body::Reduced { held: Some(held) },
                // It can be restored without.
                Err(e) => {
                    warn!("sandbox {} has no held process: {e}", self.id);
                    self.sweep();
                }
            }
            out.hold = began.elapsed();
        }
        let _ = fs::remove_dir_all(self.images());
        if let Some(packed) = &lock(&self.state).packed {
            out.stored = Bytes::new(packed.file.len() as u64);
            out.bases.clone_from(&packed.bases);
        }
        Ok(out)
    }

    fn born(&self, root: i32) -> Result<(), OpError> {
        self.gauge.root.store(root, Relaxed);
        journal::record(&self.folder, &Made::Process(root)).map_err(|e| OpError::io(&self.folder, &e))
    }

    /// Waits until all memory is there.
    fn settle(&self) {
        let filling = lock(&self.state).filling.take();
        if let Some(filling) = filling {
            filling.behind.turns.release();
            let _ = filling.thread.join();
        }
    }

    /// Ends the first process, and with it all others.
    fn end(&self, root: i32) {
        if root > 0 {
            // Version 1's freezer lets nobody die before it lets them go.
            process::signal(root, Signal::SIGKILL);
            self.group.freeze(false);
            process::end(root);
        }
        self.gauge.root.store(0, Relaxed);
    }

    /// Kills what is in the cgroup and is not the known tree: what a CRIU that failed has left.
    fn sweep(&self) {
        for pid in self.group.processes().unwrap_or_default() {
            process::signal(pid, Signal::SIGKILL);
            process::end(pid);
        }
    }

    /// Ends everything; only [`Self::purge`] is left to do.
    fn lose(&self) {
        lock(&self.state).body = Body::Lost;
        self.end(self.gauge.root.load(Relaxed));
        if let Some(watch) = &mut lock(&self.state).watch {
            watch.stop();
        }
        self.settle();
        self.sweep();
    }

    /// See [`crate::ops::Sandboxes::purge`].
    pub fn purge(&self, node: &Node) {
        self.give_up(node);
        self.lose();
        self.unwatched(node);
        node.touched.exchange(&self.own_record(), None);
        self.group.remove();
        if let Err(e) = journal::undo(&self.folder) {
            warn!("the folder of sandbox {} stays: {e}", self.id);
        }
    }

    /// What of its processes' memory is their own, and what they share with whoever maps the same files.
    pub fn parts(&self) -> process::Resident {
        let mut out = process::Resident::default();
        for pid in self.processes(self.gauge.root.load(Relaxed)) {
            let of = process::resident(pid);
            out.private += of.private;
            for (library, size) in of.files {
                let most = out.files.entry(library).or_default();
                *most = size.max(*most);
            }
        }
        out
    }

    /// Proportional set size of its processes.
    pub fn resident(&self) -> Bytes {
        let root = self.gauge.root.load(Relaxed);
        if root == 0 {
            return Bytes::ZERO;
        }
        self.processes(root).into_iter().fold(Bytes::ZERO, |sum, pid| sum + process::proportional(pid))
    }
}
