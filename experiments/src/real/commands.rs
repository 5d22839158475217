//! `medes agent`, `medes clean`, and what agents and controller of this machine share.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use medes_engine::config::Config;
use medes_engine::id::NodeId;
use medes_engine::units::Bytes;
use medes_real::agent::{self, AgentConfig, ControllerLink};
use medes_real::bases::index::{IndexSettings, PageIndex};
use medes_real::bases::service::IndexService;
use medes_real::bases::{self, ClusterBases, Place};
use medes_real::cluster::ClusterFile;
use medes_real::controller::local::LISTENS;
use medes_real::node::runc::Containers;
use medes_real::node::{self, LocalSandboxes, NodeOptions, Push};
use medes_real::ops::{OpError, Sandboxes};
use medes_real::settings::{SandboxKind, Settings};
use medes_real::transport::{Secret, has_verbs};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Output;
use crate::workload::Workload;

/// Arguments of `medes agent`.
#[derive(clap::Args)]
pub struct AgentArgs {
    /// Number of the node, from 0.
    #[arg(long, value_name = "N")]
    node: u32,
    /// Cluster file (the reference's cluster.json): where this agent and the others are.
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    cluster: Option<PathBuf>,
    /// Where to listen, without a cluster file; port 0 takes any that is free.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Folder for sandboxes, on a tmpfs; what an earlier agent left there is removed.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Started by a controller: end with standard input.
    #[arg(long, hide = true)]
    child: bool,
}

/// Runs an agent until it is told to end.
pub fn agent(args: &AgentArgs, out: &Output) -> anyhow::Result<()> {
    let node = args.node;
    let file = args.cluster.as_deref().map(|p| ClusterFile::load(p).map(|f| (p, f))).transpose()?;
    let (mut address, mut pages, mut secret_file, mut peers) = (args.listen, None, None, BTreeMap::new());
    let mut callers = Vec::new();
    if let Some((path, file)) = &file {
        let own = file.grpc_nodes.get(node as usize);
        let own = own.with_context(|| format!("{}: there is no agent {node} in grpc_nodes", path.display()))?;
        address = medes_real::cluster::Address { addr: own.addr.clone(), port: own.port }.resolve(path)?;
        secret_file = file.secret_file.clone();
        callers = file.hosts(path)?;
        for m in &file.grpc_nodes {
            if let Some(at) = file.pages_of(m.machine_id) {
                peers.insert(NodeId(m.machine_id), at.resolve(path)?);
            }
        }
        pages = peers.get(&NodeId(node)).copied();
    }
    let secret = secret(secret_file.as_deref())?;
    let run_dir = args.run_dir.clone().unwrap_or_else(|| tmpfs().join(format!("medes-agent-{node}")));
    let _alone = Alone::new(&run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Heard from here on: what is made below is removed however soon the end comes.
    let terminated = runtime.block_on(async { signal(SignalKind::terminate()) });
    node::clean(&run_dir)?;
    std::fs::create_dir_all(&run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    let memory = node::in_memory(&run_dir);
    let listener = runtime.block_on(agent::listen(node, address))?;
    let at = listener.local_addr()?;
    let verbs = match pages {
        Some(pages) => has_verbs(pages.ip()),
        None => Err("it has no cluster file".into()),
    };
    let pages = pages.unwrap_or_else(|| SocketAddr::new(at.ip(), 0));
    let (folder, shared) = (run_dir.clone(), secret.clone());
    let begin = move |settings: &Settings, link: ControllerLink| -> Result<Arc<dyn Sandboxes>, OpError> {
        sandboxes(&folder, settings, &link, pages, &peers, shared.as_ref())
    };
    // Read by the controller that started this; a reader that is gone is noticed by the end of standard input.
    let _ = writeln!(std::io::stdout(), "{LISTENS}{at}").and_then(|()| std::io::stdout().flush());
    let (place, trouble) = match memory {
        Ok(how) => (how, String::new()),
        Err(e) => ("on a disk", format!("dumps go to a disk, which is slow: {e}; give --run-dir on a tmpfs")),
    };
    out.say(format!("agent {node}: waits for a controller; its sandboxes are under {}, {place}", run_dir.display()));
    if !trouble.is_empty() {
        out.warn(format!("agent {node}: {trouble}"));
    }
    let config = AgentConfig { ends_with_lease: args.child, verbs, callers, trouble, ..AgentConfig::new(node, secret) };
    let served = runtime.block_on(agent::serve(config, listener, Arc::new(begin), stop(args.child, terminated)));
    runtime.shutdown_timeout(Duration::from_secs(2));
    node::clean(&run_dir)?;
    Ok(served?)
}

/// Ready at SIGTERM, at Ctrl-C, and, in a child, at the end of standard input.
async fn stop(child: bool, terminated: std::io::Result<Signal>) {
    let (ended, input) = tokio::sync::oneshot::channel();
    if child {
        std::thread::spawn(move || {
            // An error is an end as well.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = ended.send(());
        });
    }
    let terminated = async {
        match terminated {
            Ok(mut s) => drop(s.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let interrupted = async {
        loop {
            if tokio::signal::ctrl_c().await.is_err() {
                return std::future::pending().await;
            }
            // Of a terminal it comes to the controller as well, which ends its children in order.
            if !child {
                return;
            }
        }
    };
    let input = async {
        match child {
            true => drop(input.await),
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        () = interrupted => {}
        () = input => {}
    }
}

/// The sandboxes of one run on one node.
fn sandboxes(
    folder: &Path,
    settings: &Settings,
    link: &ControllerLink,
    pages: SocketAddr,
    peers: &BTreeMap<NodeId, SocketAddr>,
    secret: Option<&Secret>,
) -> Result<Arc<dyn Sandboxes>, OpError> {
    let node = NodeId(link.node);
    let place = Place { listen: pages, peers: peers.clone(), secret: secret.cloned() };
    let ask = bases::Link { token: link.token.clone(), runtime: link.runtime.clone(), peers: link.peers.clone() };
    let bases = Arc::new(ClusterBases::connect(settings, node, ask, place)?);
    let mut options = NodeOptions::new(node, &folder.join(format!("run-{:08x}", settings.epoch as u32)));
    options.nopause = settings.nopause;
    options.sandbox_memory = (settings.sandbox_memory > 0).then_some(Bytes::new(settings.sandbox_memory));
    options.push = if settings.lazy { Push::Behind } else { Push::First };
    if !settings.criu.is_empty() {
        options.criu = PathBuf::from(&settings.criu);
    }
    let actions = folder.join("actions");
    std::fs::create_dir_all(&actions).map_err(|e| OpError::io(&actions, &e))?;
    for action in &settings.functions {
        let shipped = node::FUNCTIONS.iter().any(|(name, code)| *name == action.name && *code == action.code);
        if !shipped {
            let path = actions.join(format!("{}.py", action.name));
            let code = match action.main.as_str() {
                "main" => action.code.clone(),
                main => format!("{}\n\nmain = {main}\n", action.code),
            };
            std::fs::write(&path, code).map_err(|e| OpError::io(&path, &e))?;
            options.functions.insert(action.name.clone(), path);
        }
    }
    Ok(match settings.sandbox {
        SandboxKind::Process => Arc::new(LocalSandboxes::new(options, bases)?),
        SandboxKind::Runc => Arc::new(Containers::new(options, bases)?),
    })
}

/// The page index of a run.
pub fn directory(config: &Config, workload: &Workload, actions: &[String]) -> IndexService {
    let owners = workload.functions.iter().zip(actions).map(|(f, a)| (a.clone(), f.owner.to_string())).collect();
    let settings = IndexSettings { owners, ..IndexSettings::of(config) };
    IndexService(Arc::new(PageIndex::new(settings)))
}

/// The cluster's secret: of the file, of `MEDES_SECRET_FILE`, or `MEDES_SECRET` itself.
pub fn secret(file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
    let named = std::env::var_os("MEDES_SECRET_FILE").map(PathBuf::from);
    if let Some(path) = file.map(Path::to_owned).or(named) {
        let home = std::env::var_os("HOME").unwrap_or_default();
        let path = path.strip_prefix("~").map_or_else(|_| path.clone(), |rest| Path::new(&home).join(rest));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("the cluster's secret: cannot read {}", path.display()))?;
        anyhow::ensure!(!text.trim().is_empty(), "the cluster's secret: {} is empty", path.display());
        return Ok(Some(Secret::new(text.trim())));
    }
    let phrase = std::env::var("MEDES_SECRET").unwrap_or_default();
    Ok((!phrase.is_empty()).then(|| Secret::new(&phrase)))
}

fn tmpfs() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// That no other agent uses a folder, as long as this lives. Goes with the process and leaves nothing.
struct Alone {
    _socket: UnixListener,
}

impl Alone {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let name = format!("medes-agent:{}", folder.display());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes())?;
        let socket = UnixListener::bind_addr(&address)
            .with_context(|| format!("another agent runs in {}: give each its own --run-dir", folder.display()))?;
        Ok(Self { _socket: socket })
    }
}

/// The folder of the agents that one controller of this machine starts. Removed when dropped.
pub struct RunDir(PathBuf);

impl RunDir {
    /// A new one; what dead runs left is removed.
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep(&tmpfs());
        // One process may have several at a time.
        let number = match NEXT.fetch_add(1, Relaxed) {
            0 => String::new(),
            n => format!("-{n}"),
        };
        let path = tmpfs().join(format!("medes-run-{}{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next start.
        let _ = remove(&self.0);
    }
}

/// Removes a folder of agents that are gone: their processes, mounts, cgroups, files. False if one of them lives.
fn remove(folder: &Path) -> anyhow::Result<bool> {
    for agent in std::fs::read_dir(folder)?.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("agent-"))
    {
        let Ok(_alone) = Alone::new(&agent.path()) else { return Ok(false) };
        node::clean(&agent.path())?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(true)
}

/// The process whose folder has a name that goes on like this: its number, and behind a dash which of its folders it is.
fn process_of(rest: &str) -> Option<i32> {
    rest.split_once('-').map_or(rest, |(process, _)| process).parse().ok()
}

/// Removes what runs and agents left that are no more. What was removed, and what could not be.
fn sweep(base: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let done = if let Some(pid) = name.strip_prefix("medes-run-").and_then(process_of) {
            let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH);
            if alive { Ok(false) } else { remove(&path) }
        } else if name.starts_with("medes-agent-") {
            match Alone::new(&path) {
                Ok(_alone) => node::clean(&path).map(|()| true).map_err(Into::into),
                Err(_) => Ok(false),
            }
        } else {
            continue;
        };
        match done {
            Ok(true) => removed.push(path),
            Ok(false) => {}
            Err(e) => failed.push(format!("{}: {e:#}", path.display())),
        }
    }
    (removed, failed)
}

/// Arguments of `medes clean`.
#[derive(clap::Args)]
pub struct CleanArgs {
    /// Folder that an agent was given; without, the folders that agents take by themselves.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// Removes what controllers and agents that are gone have left on this machine.
pub fn clean(args: &CleanArgs, out: &Output) -> anyhow::Result<()> {
    if let Some(folder) = &args.run_dir {
        let _alone = Alone::new(folder)?;
        return Ok(node::clean(folder)?);
    }
    let (removed, failed) = sweep(&tmpfs());
    if out.json {
        out.print(serde_json::to_string_pretty(&serde_json::json!({"removed": removed, "failed": failed}))?);
    } else if removed.is_empty() {
        out.print("nothing to remove");
    } else {
        removed.iter().for_each(|path| out.print(format!("removed {}", path.display())));
    }
    anyhow::ensure!(failed.is_empty(), "could not remove {}", failed.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_several_folders_and_all_are_known_as_its_own() {
        let (one, two) = (RunDir::new().unwrap(), RunDir::new().unwrap());
        assert_ne!(one.path(), two.path());
        drop(two);
        assert!(one.path().is_dir(), "the other's end is not this one's");
        let own = std::process::id().cast_signed();
        assert_eq!([&*format!("{own}"), &*format!("{own}-7")].map(process_of), [Some(own); 2]);
        assert_eq!(["", "x", "-3"].map(process_of), [None; 3]);
    }
}
