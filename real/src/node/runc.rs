//! Sandboxes as OCI containers, made, checkpointed and restored by runc with our CRIU.
//!
//! A container's root is an overlay: below it, read only, the root file system of this machine (its other mounts are not in it: the functions' Python must
//! not lie on one), above it an empty folder on the agent's tmpfs. So a function sees the machine's libraries, shares their pages with all others, and what
//! it writes is its own and gone with it. It has namespaces of its own for processes, mounts, IPC and host name; the network is the machine's
//! (CRIU would have to lock a network namespace at every checkpoint), and its socket is in a folder that is mounted into it.
//!
//! Down: `runc checkpoint --leave-running`, freeze, pack, and only then the container is deleted: whatever fails before leaves it warm. Its overlay stays, as it
//! holds what was written. Up: the checkpoint's folder is rebuilt from verified pages, then `runc restore`.
//! Left out: a held process ([`super::hold`]). runc starts CRIU itself and passes no page server that this program could be, so each restore
//! pays for runc and CRIU.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::Image;
use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_engine::units::Bytes;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::warn;

use super::cgroup::Cgroup;
use super::functions::Functions;
use super::journal::{self, Made};
use super::rebuild::rebuild;
use super::{NodeOptions, folder_of, http, lock, prepare, process, unused};
use crate::ops::{Answer, Bases, Checkpointed, NodeMemory, OpError, Packed, Reduced, Restored, Sandboxes, Started};

/// Between two looks at whether a program has ended or a runner listens.
const LOOK: Duration = Duration::from_millis(1);
/// Where the runner and its socket are inside.
const INSIDE: &str = "/medes";

/// A container, or what is left of one that is reduced.
#[derive(Default)]
struct State {
    /// First process, while there is one.
    root: Option<i32>,
    group: Cgroup,
    packed: Option<Arc<Packed>>,
    dump: Bytes,
    lost: bool,
}

struct Container {
    name: String,
    function: String,
    folder: PathBuf,
    state: Mutex<State>,
}

/// Sandboxes of one node, as containers. When dropped, all of them and their folder are gone.
pub struct Containers {
    options: NodeOptions,
    functions: Functions,
    bases: Arc<dyn Bases>,
    /// Name of our folder in each cgroup hierarchy.
    group: String,
    table: Mutex<BTreeMap<SandboxId, Arc<Container>>>,
}

fn failed(what: &str, reason: impl Into<String>, gone: bool) -> OpError {
    OpError::Sandbox { what: what.into(), reason: reason.into(), gone }
}

/// The version of the runc in the path.
///
/// # Errors
/// There is none.
pub fn version() -> Result<String, OpError> {
    let mut command = Command::new("runc");
    command.arg("--version");
    let said = finish(command, "asking runc", Instant::now() + Duration::from_secs(10))?;
    Ok(said.lines().next().unwrap_or_default().trim_start_matches("runc version ").to_owned())
}

/// Runs a program to its end; what it wrote to standard output.
fn finish(mut command: Command, what: &str, deadline: Instant) -> Result<String, OpError> {
    let broken = |e: std::io::Error| failed(what, format!("runc: {e}; apt-get install runc"), false);
    // A file, as whoever it starts in the background would keep a pipe open.
    let mut said = tempfile().map_err(broken)?;
    let out = said.try_clone().map_err(broken)?;
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().map_err(broken)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(broken)? {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(OpError::Late { what: what.into() });
        }
        thread::sleep(LOOK);
    };
    if !status.success() {
        return Err(failed(what, format!("runc ended with {status}"), false));
    }
    let mut text = String::new();
    std::io::Seek::rewind(&mut said).map_err(broken)?;
    std::io::Read::read_to_string(&mut said, &mut text).map_err(broken)?;
    Ok(text)
}

/// A file in memory.
fn tempfile() -> std::io::Result<fs::File> {
    let fd = rustix::fs::memfd_create("medes-runc", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(fd.into())
}

impl Containers {
    /// Prepares the run folder, as [`super::LocalSandboxes::new`].
    ///
    /// # Errors
    /// The folder cannot be used, or there is no runc.
    pub fn new(options: NodeOptions, bases: Arc<dyn Bases>) -> Result<Self, OpError> {
        version()?;
        prepare(&options.run_dir)?;
        let functions = Functions::new(&options.run_dir, &options.functions)?;
        let group = unused(&format!("medes-{}-{}", options.node, std::process::id()));
        // Of the containers' groups this is the parent; runc makes it with the first of them.
        for path in Cgroup::everywhere(&group) {
            journal::record(&options.run_dir, &Made::Cgroup(&path)).map_err(|e| OpError::io(&path, &e))?;
        }
        Ok(Self { options, functions, bases, group, table: Mutex::default() })
    }

    fn find(&self, id: SandboxId, what: &str) -> Result<Arc<Container>, OpError> {
        let found = lock(&self.table).get(&id).cloned();
        found.ok_or_else(|| failed(what, format!("there is no sandbox {id} on this node"), true))
    }

    fn runc(&self, words: &[&str], c: &Container, log: &Path, what: &str, deadline: Instant) -> Result<(), OpError> {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.options.run_dir.join("runc")).arg("--log").arg(log);
        command.arg("--criu").arg(&self.options.criu).args(words).arg(&c.name);
        finish(command, what, deadline).map(drop).map_err(|e| match e {
            OpError::Sandbox { what, reason, gone } => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let last = text.lines().next_back().map_or(String::new(), |l| format!(": {l}"));
                OpError::Sandbox { what, reason: format!("{reason}{last}"), gone }
            }
            other => other,
        })
    }

    fn start(&self, c: &Container, deadline: Instant) -> Result<(), OpError> {
        let what = format!("starting {}", c.function);
        let init = self.functions.init(&c.function).ok_or_else(|| failed(&what, "there is no such function", true))?;
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |e: std::io::Error| OpError::io(&path, &e)
        };
        for folder in ["root", "upper", "work", "io"] {
            let path = c.folder.join(folder);
            fs::create_dir(&path).map_err(io(&path))?;
        }
        let root = c.folder.join("root");
        journal::record(&c.folder, &Made::Mount(&root)).map_err(io(&root))?;
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            c.folder.join("upper").display(),
            c.folder.join("work").display()
        );
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .map_err(|e| failed(&what, format!("an overlay over / at {}: {e}", root.display()), true))?;
        let runner = c.folder.join("io/runner.py");
        fs::copy(&self.functions.runner, &runner).map_err(io(&runner))?;
        let groups = format!("/{}/{}", self.group, c.name);
        for path in Cgroup::everywhere(groups.trim_start_matches('/')) {
            journal::record(&c.folder, &Made::Cgroup(&path)).map_err(io(&path))?;
        }
        let config = c.folder.join("config.json");
        fs::write(&config, self.spec(c, &groups).to_string()).map_err(io(&config))?;
        let (bundle, pid) = (c.folder.display().to_string(), c.folder.join("pid"));
        let words = ["run", "--detach", "--bundle", &bundle, "--pid-file", &pid.display().to_string()];
        self.runc(&words, c, &c.folder.join("runc.log"), &what, deadline)?;
        let root = self.born(c)?;
        let sent = loop {
            match http::send(&self.socket(c), "/init", &init, deadline) {
                Err(http::HttpError::Io(_)) if Instant::now() >= deadline => break Err(http::HttpError::Late),
                Err(http::HttpError::Io(_)) if process::lives(root) => thread::sleep(LOOK),
                other => break other,
            }
        };
        let (status, body) = sent.and_then(|s| s.answer(deadline)).map_err(|e| broken(&what, e))?;
        if status != 200 {
            return Err(failed(&what, format!("/init answered {status}: {body}"), true));
        }
        lock(&c.state).group.freeze(true);
        Ok(())
    }

    /// The container's configuration, by the OCI runtime specification.
    fn spec(&self, c: &Container, groups: &str) -> serde_json::Value {
        let python = self.options.python.display().to_string();
        let (runner, socket) = (format!("{INSIDE}/runner.py"), format!("{INSIDE}/sock"));
        let mut args = vec![python, runner, socket];
        if !self.options.randomize {
            // The specification's `personality` has no flag for it.
            args.splice(0..0, ["/usr/bin/setarch".to_owned(), "-R".to_owned()]);
        }
        let own = |kind: &str, to: &str, options: &[&str]| serde_json::json!({"destination": to, "type": kind, "source": kind, "options": options});
        let memory = match self.options.sandbox_memory {
            Some(most) => serde_json::json!({"memory": {"limit": most.get()}}),
            None => serde_json::json!({}),
        };
        let namespaces: Vec<_> = ["pid", "mount", "ipc", "uts"].map(|t| serde_json::json!({"type": t})).into();
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/usr/bin:/bin", "HOME=/", "LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "root"},
            "hostname": "medes",
            "mounts": [
                own("proc", "/proc", &[]),
                own("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=64k"]),
                own("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                own("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"]),
                {"destination": INSIDE, "type": "bind", "source": c.folder.join("io"), "options": ["bind", "rw"]},
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": groups, "resources": memory},
        })
    }

    fn socket(&self, c: &Container) -> PathBuf {
        c.folder.join("io/sock")
    }

    /// Takes note of the first process that runc has started.
    fn born(&self, c: &Container) -> Result<i32, OpError> {
        let file = c.folder.join("pid");
        let text = fs::read_to_string(&file).map_err(|e| OpError::io(&file, &e))?;
        let root = text.trim().parse().map_err(|_| failed("starting", format!("runc wrote the id '{text}'"), true))?;
        journal::record(&c.folder, &Made::Process(root)).map_err(|e| OpError::io(&c.folder, &e))?;
        let mut state = lock(&c.state);
        state.root = Some(root);
        state.group = Cgroup::existing(&format!("{}/{}", self.group, c.name));
        Ok(root)
    }

    fn warm(&self, c: &Container, what: &str) -> Result<i32, OpError> {
        let state = lock(&c.state);
        match state.root {
            _ if state.lost => Err(failed(what, "the sandbox is lost", true)),
            Some(root) if process::lives(root) => Ok(root),
            Some(_) => Err(failed(what, "its process has ended", true)),
            None => Err(failed(what, "the sandbox is reduced", false)),
        }
    }

    /// Checkpoints to a folder and freezes again.
    fn dump(&self, c: &Container, what: &str, deadline: Instant) -> Result<(Image, Duration), OpError> {
        self.warm(c, what)?;
        let images = c.folder.join("images");
        let _ = fs::remove_dir_all(&images);
        fs::create_dir(&images).map_err(|e| OpError::io(&images, &e))?;
        let path = images.display().to_string();
        let words = ["checkpoint", "--leave-running", "--image-path", &path, "--work-path", &path];
        let group = lock(&c.state).group.clone();
        group.freeze(false);
        let began = Instant::now();
        let done = self.runc(&words, c, &c.folder.join("runc.log"), what, deadline);
        let took = began.elapsed();
        group.freeze(true);
        let opened = done.and_then(|()| Image::open(&images).map_err(|e| failed(what, e.to_string(), false)));
        if opened.is_err() {
            let _ = fs::remove_dir_all(&images);
        }
        opened.map(|image| (image, took))
    }

    /// Ends the container's processes; its overlay stays.
    fn end(&self, c: &Container) {
        let group = lock(&c.state).group.clone();
        group.freeze(false);
        let soon = Instant::now() + Duration::from_secs(10);
        if let Err(e) = self.runc(&["delete", "--force"], c, &c.folder.join("runc.log"), "deleting", soon) {
            tracing::debug!("{}: {e}", c.name);
        }
        group.remove();
        lock(&c.state).root = None;
    }

    fn discard(&self, id: SandboxId, c: &Container) {
        let dump = std::mem::take(&mut lock(&c.state).dump);
        if dump > Bytes::ZERO {
            self.bases.withdraw(id);
        }
        self.end(c);
        if let Err(e) = umount2(&c.folder.join("root"), MntFlags::MNT_DETACH) {
            tracing::debug!("{}: {e}", c.name);
        }
        if let Err(e) = journal::undo(&c.folder) {
            warn!("the folder of sandbox {id} stays: {e}");
        }
    }

    fn come_back(&self, c: &Container, packed: &Packed, deadline: Instant) -> Result<Restored, OpError> {
        const WHAT: &str = "restoring";
        let began = Instant::now();
        let images = c.folder.join("images");
        let _ = fs::remove_dir_all(&images);
        let file = DedupFile::open(&format!("image of {}", c.name), &packed.file);
        let file = file.map_err(|e| OpError::Damaged(e.to_string()))?;
        let unpacked = rebuild(&*self.bases, &file, &images, deadline)?;
        let resumed = Instant::now();
        // CRIU binds the socket anew.
        let _ = fs::remove_file(self.socket(c));
        let (bundle, path) = (c.folder.display().to_string(), images.display().to_string());
        let pid = c.folder.join("pid").display().to_string();
        let words = [
            "restore",
            "--detach",
            "--bundle",
            &bundle,
            "--image-path",
            &path,
            "--work-path",
            &path,
            "--pid-file",
            &pid,
        ];
        self.runc(&words, c, &c.folder.join("runc.log"), WHAT, deadline)?;
        self.born(c)?;
        lock(&c.state).group.freeze(true);
        let resume = resumed.elapsed();
        let _ = fs::remove_dir_all(&images);
        Ok(Restored { took: began.elapsed(), unpacked, resume })
    }
}

fn broken(what: &str, error: http::HttpError) -> OpError {
    match error {
        http::HttpError::Late => OpError::Late { what: what.into() },
        other => failed(what, other.to_string(), true),
    }
}

impl Sandboxes for Containers {
    fn spawn(&self, id: SandboxId, function: &str, deadline: Instant) -> Result<Started, OpError> {
        let began = Instant::now();
        let folder = folder_of(&self.options.run_dir, id);
        fs::create_dir(&folder).map_err(|e| OpError::io(&folder, &e))?;
        let (name, state) = (id.to_string(), Mutex::default());
        let container = Arc::new(Container { name, function: function.to_owned(), folder, state });
        // There from now on: its memory counts while it grows.
        lock(&self.table).insert(id, container.clone());
        if let Err(e) = self.start(&container, deadline) {
            lock(&self.table).remove(&id);
            self.discard(id, &container);
            return Err(e);
        }
        Ok(Started { took: began.elapsed() })
    }

    fn run(&self, id: SandboxId, arguments: &str, deadline: Instant) -> Result<Answer, OpError> {
        let began = Instant::now();
        let c = self.find(id, "running")?;
        let what = format!("running {}", c.function);
        self.warm(&c, &what)?;
        let group = lock(&c.state).group.clone();
        group.freeze(false);
        let body = format!("{{\"value\":{arguments}}}");
        let sent = http::send(&self.socket(&c), "/run", &body, deadline).map_err(|e| broken(&what, e))?;
        let wake = began.elapsed();
        let (status, body) = sent.answer(deadline).map_err(|e| broken(&what, e))?;
        let run = began.elapsed().saturating_sub(wake);
        group.freeze(true);
        Ok(Answer { status, body: body.into(), wake, run, ..Answer::default() })
    }

    fn checkpoint(&self, id: SandboxId, deadline: Instant) -> Result<Checkpointed, OpError> {
        let c = self.find(id, "checkpointing")?;
        let (image, checkpoint) = self.dump(&c, "checkpointing", deadline)?;
        let done = self.bases.register(id, &c.function, &image, deadline);
        let _ = fs::remove_dir_all(c.folder.join("images"));
        let registered = done?;
        let dump = Bytes::new(image.bytes());
        lock(&c.state).dump = dump;
        Ok(Checkpointed { dump, checkpoint, registered })
    }

    fn reduce(&self, id: SandboxId, method: Method, again: bool, deadline: Instant) -> Result<Reduced, OpError> {
        const WHAT: &str = "reducing";
        let c = self.find(id, WHAT)?;
        self.warm(&c, WHAT)?;
        let mut out = Reduced::default();
        let kept = lock(&c.state).packed.clone().filter(|_| again && !self.options.fresh);
        let packed = match kept {
            Some(packed) => packed,
            None => {
                let (image, checkpoint) = self.dump(&c, WHAT, deadline)?;
                let packed = self.bases.pack(&image, &c.function, method, deadline);
                let _ = fs::remove_dir_all(c.folder.join("images"));
                let packed = packed?;
                out.checkpoint = checkpoint;
                out.packing = packed.times;
                Arc::new(packed)
            }
        };
        self.end(&c);
        out.stored = Bytes::new(packed.file.len() as u64);
        out.bases.clone_from(&packed.bases);
        lock(&c.state).packed = Some(packed);
        Ok(out)
    }

    fn restore(&self, id: SandboxId, deadline: Instant) -> Result<Restored, OpError> {
        let c = self.find(id, "restoring")?;
        let packed = {
            let state = lock(&c.state);
            let reduced = state.root.is_none() && !state.lost;
            state.packed.clone().filter(|_| reduced)
        };
        let packed = packed.ok_or_else(|| failed("restoring", format!("sandbox {id} is not reduced"), false))?;
        self.come_back(&c, &packed, deadline).inspect_err(|_| {
            self.end(&c);
            lock(&c.state).lost = true;
        })
    }

    fn give_up(&self, id: SandboxId) {
        if let Ok(c) = self.find(id, "giving up")
            && std::mem::take(&mut lock(&c.state).dump) > Bytes::ZERO
        {
            self.bases.withdraw(id);
        }
    }

    fn purge(&self, id: SandboxId) {
        let found = lock(&self.table).remove(&id);
        if let Some(c) = found {
            self.discard(id, &c);
        }
    }

    fn memory(&self) -> NodeMemory {
        let all: Vec<Arc<Container>> = lock(&self.table).values().cloned().collect();
        let mut out = NodeMemory::default();
        for c in all {
            let (root, group) = {
                let state = lock(&c.state);
                out.bases += state.dump;
                out.stored += state.packed.as_ref().map_or(Bytes::ZERO, |p| Bytes::new(p.file.len() as u64));
                (state.root, state.group.clone())
            };
            let Some(root) = root else { continue };
            let processes = group.processes().unwrap_or_else(|| process::tree(root));
            out.sandboxes += processes.into_iter().map(process::proportional).sum();
        }
        out.agent = process::own_resident().saturating_sub(out.stored);
        out
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for (id, c) in std::mem::take(&mut *lock(&self.table)) {
            self.discard(id, &c);
        }
        if let Err(e) = journal::undo(&self.options.run_dir) {
            warn!("the run folder stays: {e}");
        }
    }
}
