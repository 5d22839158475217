//! `--backend real`: the cells of an experiment on machines, one after the other.

pub mod commands;
pub mod table;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration as Wall;

use anyhow::Context;
use medes_engine::policy;
use medes_engine::record::{RequestRecord, StartParts};
use medes_engine::units::Bytes;
use medes_real::cluster::ClusterFile;
use medes_real::controller::local::{LocalAgents, Program};
use medes_real::controller::{self, Arrival, Outcome, Plan};
use medes_real::settings::Settings;
use medes_real::transport::Secret;
use medes_sim::Setup;
use tokio::sync::watch;

use crate::experiment::Experiment;
use crate::workload::Workload;

/// Threads of a controller that was told no number.
const THREADS: usize = 2;
/// Longest that a cell waits for the machine to come to rest after the one before it.
const REST: Wall = Wall::from_secs(5);

/// Where the agents are, for all cells of a run.
pub struct Machines {
    addresses: Vec<watch::Receiver<String>>,
    /// Where the controller listens, and how agents reach it.
    listen: SocketAddr,
    host: String,
    secret: Option<Secret>,
    /// Folder from which files of the user's functions are found.
    folder: PathBuf,
    /// Threads of the controller.
    pub threads: usize,
    /// Ended when dropped.
    _local: Option<LocalAgents>,
    _run_dir: Option<commands::RunDir>,
}

impl Machines {
    /// The agents that a cluster file names.
    ///
    /// # Errors
    /// The file, or a secret that cannot be read.
    pub fn of_cluster(path: &Path, folder: PathBuf) -> anyhow::Result<Self> {
        let file = ClusterFile::load(path)?;
        let controller = file.controller.clone().with_context(|| {
            format!("{}: names no controller; agents must know where to ask for base pages", path.display())
        })?;
        let at = controller.resolve(path)?;
        let secret = commands::secret(file.secret_file.as_deref())?;
        let addresses = file.grpc_nodes.iter().map(|m| watch::channel(format!("{}:{}", m.addr, m.port)).1).collect();
        // On a name that is this host's own address or not, the port is the same on all interfaces.
        let any = if at.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from([0u16; 8]) };
        Ok(Self {
            addresses,
            listen: SocketAddr::new(any, at.port()),
            host: controller.addr,
            secret,
            folder,
            threads: THREADS,
            _local: None,
            _run_dir: None,
        })
    }

    /// Agents of this machine, started here and ended when this is dropped.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn local(nodes: u32, folder: PathBuf) -> anyhow::Result<Self> {
        let run_dir = commands::RunDir::new()?;
        let phrase = format!("{:016x}{:016x}", medes_real::wire::seal::number(), medes_real::wire::seal::number());
        let program = Program {
            path: std::env::current_exe().context("where this program is")?,
            arguments: vec!["agent".to_owned()],
            environment: vec![("MEDES_SECRET".to_owned(), phrase.clone())],
            run_dir: run_dir.path().to_owned(),
        };
        let local = LocalAgents::start(&program, nodes)?;
        Ok(Self {
            addresses: local.addresses(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            host: "127.0.0.1".to_owned(),
            secret: Some(Secret::new(&phrase)),
            folder,
            threads: THREADS,
            _local: Some(local),
            _run_dir: Some(run_dir),
        })
    }

    /// How many agents there are.
    pub fn nodes(&self) -> u32 {
        self.addresses.len() as u32
    }
}

/// Runs one cell.
///
/// # Errors
/// A function without an action, more nodes than there are agents, or whatever ended the run.
pub fn run_cell(
    machines: &Machines,
    experiment: &Experiment,
    workload: &Workload,
    setup: &Setup,
    arrivals: impl FnMut(&mut Vec<medes_sim::Arrival>) -> bool + Send,
    sink: impl FnMut(&RequestRecord, &StartParts),
    tick: impl FnMut(u64) -> bool,
) -> anyhow::Result<Outcome> {
    let nodes = setup.config.nodes;
    anyhow::ensure!(
        nodes <= machines.nodes(),
        "the cell has {nodes} nodes and the cluster {} agents: set `nodes`, or list more in cluster.json",
        machines.nodes()
    );
    let table = &experiment.real;
    let mut settings = Settings {
        sandbox: table.sandbox,
        transport: table.transport,
        criu: table.criu.clone(),
        // What a function touches is seen in its first run, which takes longer for it: not where nobody uses it.
        lazy: table.push == table::Push::Behind && policy::entry(setup.config.policy).is_none_or(|p| p.reduces),
        sandbox_memory: Bytes::from_mb(table.sandbox_memory_mb).get(),
        ..Settings::of(&setup.config)
    };
    let mut loads = Vec::new();
    for f in workload.functions.iter() {
        let (action, load) = table.action(&setup.profiles.function[f.profile].name, &machines.folder)?;
        if !settings.functions.iter().any(|known| known.name == action.name) {
            settings.functions.push(action);
        }
        loads.push(load);
    }
    let actions: Vec<String> = loads.iter().map(|l| l.action.clone()).collect();
    let plan = Plan {
        config: &setup.config,
        specs: setup.specs(),
        loads,
        settings,
        deadlines: table.deadlines(),
        seed: setup.seed,
        length: setup.length,
        interval: setup.interval,
        nodes: machines.addresses[..nodes as usize].to_vec(),
        listen: machines.listen,
        host: machines.host.clone(),
        secret: machines.secret.clone(),
        start_timeout: Wall::from_secs_f64(table.start_timeout_s),
        rest: REST,
        threads: machines.threads,
    };
    let mut arrivals = arrivals;
    let mut batch = Vec::new();
    let next_batch = move |out: &mut Vec<Arrival>| {
        batch.clear();
        let more = arrivals(&mut batch);
        out.extend(batch.iter().map(|a| Arrival { at: a.at, function: a.function }));
        more
    };
    let directory = Arc::new(commands::directory(&setup.config, workload, &actions));
    Ok(controller::run(&plan, directory, next_batch, sink, tick)?)
}

/// How long a trace of a length takes: for people who wait.
pub fn takes(cells: usize, length_s: f64) -> String {
    let minutes = cells as f64 * length_s / 60.0;
    format!("{cells} cells in real time, about {minutes:.0} min and what starting takes")
}
