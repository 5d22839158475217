//! Agents of this machine: child processes that the controller starts on loopback, starts again when they die, and ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// What an agent prints when it listens; its address follows.
pub const LISTENS: &str = "medes agent listens on ";
/// For a child to end by itself once it is told.
const LAST: Duration = Duration::from_secs(15);
/// A child that dies sooner than this after its start, this often in a row, is not started again.
const SOON: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// Why agents could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No process.
    #[error("cannot start agent {node} ({program}): {source}")]
    Start {
        /// Which.
        node: u32,
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How an agent of this machine is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program: `medes` itself.
    pub path: PathBuf,
    /// Arguments before those that are the same for all.
    pub arguments: Vec<String>,
    /// Variables to set.
    pub environment: Vec<(String, String)>,
    /// Where agents keep what they run with; each has a folder of its own there.
    pub run_dir: PathBuf,
}

/// Child processes, one a node. Ended when dropped.
pub struct LocalAgents {
    keepers: Vec<Keeper>,
    stop: Arc<AtomicBool>,
}

struct Keeper {
    address: watch::Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl LocalAgents {
    /// Starts `nodes` agents.
    ///
    /// # Errors
    /// The program cannot be started; nothing is left running.
    pub fn start(program: &Program, nodes: u32) -> Result<Self, LocalError> {
        let mut agents = Self { keepers: Vec::new(), stop: Arc::default() };
        for node in 0..nodes {
            let (to, address) = watch::channel(String::new());
            let child = spawn(program, node)?;
            let (program, stop) = (program.clone(), agents.stop.clone());
            let thread = std::thread::spawn(move || keep(&program, node, child, &to, &stop));
            agents.keepers.push(Keeper { address, thread: Some(thread) });
        }
        Ok(agents)
    }

    /// Where they are; changes when one is started again.
    pub fn addresses(&self) -> Vec<watch::Receiver<String>> {
        self.keepers.iter().map(|k| k.address.clone()).collect()
    }
}

impl Drop for LocalAgents {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for keeper in &mut self.keepers {
            if let Some(thread) = keeper.thread.take() {
                // A keeper that panicked has dropped its child's input: the child ends.
                let _ = thread.join();
            }
        }
    }
}

fn spawn(program: &Program, node: u32) -> Result<(Child, Option<ChildStdin>), LocalError> {
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .args(["--node", &node.to_string(), "--listen", "127.0.0.1:0", "--child", "--run-dir"])
        .arg(folder(&program.run_dir, node))
        .envs(program.environment.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|source| LocalError::Start {
        node,
        program: program.path.display().to_string(),
        source,
    })?;
    let input = child.stdin.take();
    Ok((child, input))
}

/// The folder of one agent.
pub fn folder(run_dir: &Path, node: u32) -> PathBuf {
    run_dir.join(format!("agent-{node}"))
}

/// Reads the child's address, waits for its end, starts it again unless it is to stop.
fn keep(
    program: &Program,
    node: u32,
    first: (Child, Option<ChildStdin>),
    address: &watch::Sender<String>,
    stop: &AtomicBool,
) {
    let mut next = Some(first);
    let mut quick = 0;
    while let Some((mut child, input)) = next.take() {
        let started = Instant::now();
        if let Some(output) = child.stdout.take() {
            let address = address.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some(at) = line.strip_prefix(LISTENS) {
                        // Nobody listens: the run is over.
                        let _ = address.send(at.trim().to_owned());
                    }
                }
            });
        }
        let status = loop {
            if stop.load(Ordering::Acquire) {
                // The end of its input is the sign to end.
                drop(input);
                end(&mut child);
                return;
            }
            match child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(e) => break e.to_string(),
            }
        };
        quick = if started.elapsed() < SOON { quick + 1 } else { 0 };
        if quick >= TRIES {
            tracing::error!("agent {node} ended {TRIES} times at once ({status}): it is not started again");
            return;
        }
        tracing::warn!("agent {node} ended ({status}): it is started again");
        next = spawn(program, node).map_err(|e| tracing::error!("{e}")).ok();
    }
}

fn end(child: &mut Child) {
    let by = Instant::now() + LAST;
    while Instant::now() < by {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // It hangs: what it leaves is cleaned up by the next start, or by `medes clean`.
    let _ = child.kill();
    let _ = child.wait();
}
