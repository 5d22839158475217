//! What real sandboxes cost on this machine: two nodes in one process, base pages between them over TCP, the index behind gRPC, as in a run.
//!
//! Of each function one sandbox on node 0 becomes a base; sandboxes on node 1 are started, run, reduced against it, restored and run again,
//! round after round, functions by turns. One thing at a time: what work beside it does to these times is the simulator's to model.
//!
//! In the same rounds, so that noise meets all alike: a sandbox of node 2 that goes on at once while its pages are pushed behind it, and a plain
//! CRIU restore of a whole dump, which deduplication is compared with.
//! Left out: the controller's own part of a start, which only a run with a controller has.

mod effort;
mod plain;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use medes_engine::config::Config;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::turns::Turns;
use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_engine::units::Bytes;
use tokio::runtime::Runtime;

pub use self::effort::Effort;
use self::effort::Growth;
use self::plain::Plain;
use crate::bases::index::{IndexSettings, PageIndex};
use crate::bases::service::IndexService;
use crate::bases::{ClusterBases, Link, Place};
use crate::host::probe_us;
use crate::load::Load;
use crate::node::process::Resident;
use crate::node::{LocalSandboxes, NodeOptions, Push};
use crate::ops::{Answer, Bases, Give, OpError, Packed, Registered, Sandboxes, Unpacked};
use crate::settings::Settings;
use crate::transport::Secret;
use crate::wire::controller_server::ControllerServer;

/// Requests before a sandbox is checkpointed: the first ones still load modules.
const SETTLED: u64 = 3;
/// Longest that one step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Times in milliseconds, one a round.
#[derive(Clone, Default)]
pub struct Samples {
    /// From nothing to where the function can run.
    pub cold: Vec<f64>,
    /// Waking a warm sandbox.
    pub wake: Vec<f64>,
    /// The function's own run in a warm sandbox; several a round.
    pub run: Vec<f64>,
    /// CRIU's part of a reduction.
    pub checkpoint: Vec<f64>,
    /// Fingerprints of a checkpoint.
    pub fingerprint: Vec<f64>,
    /// Asking the controller for base pages.
    pub lookup: Vec<f64>,
    /// Reading base pages while patches are made.
    pub pack_read: Vec<f64>,
    /// Making patches.
    pub encode: Vec<f64>,
    /// Restoring a process up to where it is held.
    pub hold: Vec<f64>,
    /// From the decision until a reduced sandbox can run, all its pages pushed before it goes on.
    pub restore: Vec<f64>,
    /// Of that, reading base pages: summed over threads.
    pub base_read: Vec<f64>,
    /// Of that, patching: summed over threads.
    pub patch: Vec<f64>,
    /// Of that, letting the process go on.
    pub resume: Vec<f64>,
    /// Base pages that a restore read from the other node.
    pub pages_read: Vec<f64>,
    /// From the decision to the first answer: of a new sandbox.
    pub cold_answer: Vec<f64>,
    /// Of a warm one.
    pub warm_answer: Vec<f64>,
    /// Of a reduced one, all its pages pushed before it goes on.
    pub dedup_answer: Vec<f64>,
    /// Of a reduced one that goes on when what it is known to touch is there, its other pages pushed behind it.
    pub behind_answer: Vec<f64>,
    /// Of that, all but waking and running: what it waited for pages.
    pub behind_start: Vec<f64>,
    /// Of that, for base pages to be read.
    pub behind_read: Vec<f64>,
    /// The same of starts as the first of a function on a node is: of what it touches only that is known which its first run did.
    pub first_answer: Vec<f64>,
    /// Of a whole dump that CRIU restores.
    pub plain_answer: Vec<f64>,
    /// Of that, CRIU's part.
    pub plain_restore: Vec<f64>,
    /// Ending a sandbox that was restored, until nothing of it is left.
    pub purge: Vec<f64>,
    /// Checkpoint of a sandbox that goes on: a base's.
    pub base_checkpoint: Vec<f64>,
    /// Cores at work while sandboxes were created.
    pub cold_effort: Effort,
    /// While they were reduced.
    pub reduce_effort: Effort,
    /// While they were restored.
    pub restore_effort: Effort,
    /// While they were ended.
    pub purge_effort: Effort,
    /// How fast the host was ([`crate::host::probe_us`]) around each of `cold`, of `hold` and of `restore`; `run` and `wake` are too short to tell.
    pub cold_host: Vec<f64>,
    /// See `cold_host`.
    pub hold_host: Vec<f64>,
    /// See `cold_host`.
    pub restore_host: Vec<f64>,
    /// Memory of a sandbox while it is created, as a share of what it has then; on average over that time.
    pub starting: f64,
    /// Memory of the reduced image.
    pub stored: Bytes,
    /// Memory of a held process.
    pub held: Bytes,
    /// Memory of a warm sandbox, with one of each function on each of two nodes of this machine; shared pages divided.
    pub memory: Bytes,
    /// The same by parts.
    pub parts: Resident,
    /// Checkpoint of the base.
    pub base: Option<Image>,
    /// Checkpoint of the last sandbox that was reduced.
    pub image: Option<Image>,
}

/// Checkpoints that went by, copied: a sandbox removes its own.
struct Seen {
    /// Folder of the copies.
    kept: PathBuf,
    /// Name of the sandbox that is being checkpointed.
    of: String,
    last: Option<Image>,
}

impl Seen {
    /// Copies the checkpoint that lies in the sandbox's folder below `run_dir`. One that cannot be copied is not there for
    /// whoever asks for it.
    fn keep(&mut self, run_dir: &Path) {
        let to = self.kept.join(&self.of);
        let copied = fs::create_dir_all(&to).and_then(|()| {
            for file in fs::read_dir(run_dir.join(&self.of).join("images"))?.flatten() {
                if file.file_type()?.is_file() {
                    fs::copy(file.path(), to.join(file.file_name()))?;
                }
            }
            Ok(())
        });
        self.last = copied.ok().and_then(|()| Image::open(&to).ok());
    }
}

/// [`ClusterBases`] that also keep the checkpoints that go through them.
struct Witness {
    bases: ClusterBases,
    run_dir: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    fn sees(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).keep(&self.run_dir);
    }
}

impl Bases for Witness {
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError> {
        self.sees();
        self.bases.register(id, function, image, deadline)
    }

    fn withdraw(&self, id: SandboxId) {
        self.bases.withdraw(id);
    }

    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError> {
        self.sees();
        self.bases.pack(image, function, method, deadline)
    }

    fn unpack(
        &self,
        file: &DedupFile<'_>,
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        self.bases.unpack(file, turns, give, deadline)
    }
}

/// Three nodes and an index: bases, sandboxes, and sandboxes whose pages are pushed behind them.
pub struct Rig {
    nodes: [LocalSandboxes; 3],
    options: NodeOptions,
    seen: Arc<Mutex<Seen>>,
    next: u32,
    /// Serves the index as long as this lives.
    _runtime: Runtime,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

impl Rig {
    /// Starts the nodes in folders below `folder`, which must be on a tmpfs and have a short name.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn new(folder: &Path, adjust: impl Fn(&mut NodeOptions), config: &Config) -> Result<Self, OpError> {
        let io = |e: std::io::Error| OpError::Io { path: "127.0.0.1".into(), reason: e.to_string() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(io)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(any)).map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let index = Arc::new(PageIndex::new(IndexSettings::of(config)));
        let service = ControllerServer::new(IndexService(index))
            .max_decoding_message_size(crate::wire::MAX_MESSAGE)
            .max_encoding_message_size(crate::wire::MAX_MESSAGE);
        runtime.spawn(async move {
            let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        let settings = Settings { controller: address.to_string(), ..Settings::of(config) };
        let seen = Seen { kept: folder.join("kept"), of: String::new(), last: None };
        let seen = Arc::new(Mutex::new(seen));
        let node = |n: u32| {
            let secret = Some(Secret::new("one process"));
            let place = Place { listen: any, peers: Default::default(), secret };
            // Both nodes are in this process: nothing of a peer's end is news.
            let (peers, _) = tokio::sync::mpsc::unbounded_channel();
            let link = Link { token: Default::default(), runtime: runtime.handle().clone(), peers };
            let bases = ClusterBases::connect(&settings, NodeId(n), link, place)?;
            let mut options = NodeOptions::new(NodeId(n), &folder.join(n.to_string()));
            adjust(&mut options);
            options.push = if n == 2 { Push::Behind } else { Push::First };
            let run_dir = options.run_dir.clone();
            LocalSandboxes::new(options, Arc::new(Witness { bases, run_dir, seen: seen.clone() }))
        };
        let nodes = [node(0)?, node(1)?, node(2)?];
        let mut options = NodeOptions::new(NodeId(1), &folder.join("plain"));
        adjust(&mut options);
        Ok(Self { nodes, options, seen, next: 0, _runtime: runtime })
    }

    /// The version of CRIU.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn criu_version(&self) -> Result<&str, OpError> {
        self.nodes[0].criu_version()
    }

    fn id(&mut self) -> SandboxId {
        self.next += 1;
        let id = SandboxId { generation: 1, slot: self.next };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).of = id.to_string();
        id
    }

    fn last_image(&self) -> Option<Image> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last.take()
    }

    /// Runs a function once, and checks the answer.
    fn right(&self, node: usize, id: SandboxId, load: &Load, seed: u64) -> Result<Answer, OpError> {
        let answer = self.nodes[node].run(id, &load.request(seed), soon())?;
        if !load.right(answer.status.into(), &answer.body) {
            let reason = format!("answered {}: {}", answer.status, answer.body);
            return Err(OpError::Sandbox { what: format!("running {}", load.action), reason, gone: false });
        }
        Ok(answer)
    }

    /// The same; waking and run, ms.
    fn ask(&self, node: usize, id: SandboxId, load: &Load, seed: u64) -> Result<(f64, f64), OpError> {
        self.right(node, id, load, seed).map(|answer| (ms(answer.wake), ms(answer.run)))
    }

    /// A base of the function, on node 0; it stays there.
    ///
    /// # Errors
    /// Whatever step failed.
    pub fn base(&mut self, load: &Load, out: &mut Samples) -> Result<SandboxId, OpError> {
        let id = self.id();
        self.nodes[0].spawn(id, &load.action, soon())?;
        for seed in 0..SETTLED {
            self.ask(0, id, load, seed)?;
        }
        let done = self.nodes[0].checkpoint(id, soon())?;
        out.base_checkpoint.push(ms(done.checkpoint));
        out.fingerprint.push(ms(done.registered.fingerprint));
        out.base = self.last_image();
        Ok(id)
    }

    /// One round on node 1.
    ///
    /// # Errors
    /// Whatever step failed.
    pub fn round(&mut self, load: &Load, round: u64, out: &mut Samples) -> Result<(), OpError> {
        let id = self.id();
        let seed = |n: u64| round * 17 + n;
        let mut hosts = vec![probe_us()];
        let mut between = move || {
            hosts.push(probe_us());
            hosts[hosts.len() - 2..].iter().sum::<f64>() / 2.0
        };
        let began = Instant::now();
        let spawned = out.cold_effort.of(|| self.nodes[1].spawn(id, &load.action, soon()))?;
        out.cold.push(ms(spawned.took));
        // A new sandbox's first run is a run as well, as in a run of a trace.
        out.run.push(self.ask(1, id, load, seed(0))?.1);
        out.cold_answer.push(ms(began.elapsed()));
        out.cold_host.push(between());
        for n in 1..=SETTLED {
            let (wake, run) = self.ask(1, id, load, seed(n))?;
            out.wake.push(wake);
            out.run.push(run);
            out.warm_answer.push(wake + run);
        }
        let reduced = out.reduce_effort.of(|| self.nodes[1].reduce(id, Method::Patches, false, soon()))?;
        out.hold_host.push(between());
        out.image = self.last_image();
        out.checkpoint.push(ms(reduced.checkpoint));
        out.hold.push(ms(reduced.hold));
        out.fingerprint.push(ms(reduced.packing.fingerprint));
        out.lookup.push(ms(reduced.packing.lookup));
        out.pack_read.push(ms(reduced.packing.read));
        out.encode.push(ms(reduced.packing.encode));
        out.stored = reduced.stored;
        out.held = self.nodes[1].memory().sandboxes;
        let began = Instant::now();
        let restored = out.restore_effort.of(|| self.nodes[1].restore(id, soon()))?;
        let run = self.ask(1, id, load, seed(SETTLED + 1))?.1;
        out.dedup_answer.push(ms(began.elapsed()));
        out.restore_host.push(between());
        out.restore.push(ms(restored.took));
        out.base_read.push(ms(restored.unpacked.read));
        out.patch.push(ms(restored.unpacked.decode));
        out.resume.push(ms(restored.resume));
        out.pages_read.push(restored.unpacked.pages[1] as f64);
        out.run.push(run);
        let began = Instant::now();
        out.purge_effort.of(|| self.nodes[1].purge(id));
        out.purge.push(ms(began.elapsed()));
        Ok(())
    }

    /// Memory of a sandbox while it is created. Being looked at slows it, so this start is no sample of anything else.
    ///
    /// # Errors
    /// It does not start.
    pub fn growth(&mut self, load: &Load, out: &mut Samples) -> Result<(), OpError> {
        let id = self.id();
        let growth = Growth::watch();
        let started = self.nodes[1].spawn(id, &load.action, soon());
        let grown = growth.end();
        started?;
        let whole = self.nodes[1].resident(id).as_mb();
        out.starting = if whole > 0.0 { (grown.as_mb() / whole).min(1.0) } else { 1.0 };
        self.nodes[1].purge(id);
        Ok(())
    }

    /// A plain restore of the function, which its starts are compared with.
    ///
    /// # Errors
    /// Whatever step failed.
    pub fn plain(&self, load: &Load) -> Result<Plain, OpError> {
        Plain::new(&self.options, load, SETTLED)
    }

    /// A dedup start of a sandbox of node 2: to where it can run, reading in it, and to the answer, ms.
    fn start_behind(&self, id: SandboxId, load: &Load, seed: u64) -> Result<[f64; 3], OpError> {
        self.nodes[2].reduce(id, Method::Patches, false, soon())?;
        let began = Instant::now();
        let restored = self.nodes[2].restore(id, soon())?;
        let answer = self.right(2, id, load, seed)?;
        let whole = began.elapsed();
        let Unpacked { read, decode, .. } = restored.unpacked;
        let share = read.as_secs_f64() / (read + decode).as_secs_f64().max(1e-9);
        let took = restored.took;
        Ok([took + answer.waited.whole(), took.mul_f64(share) + answer.waited.read, whole].map(ms))
    }

    /// The first dedup start of a new sandbox of node 2.
    fn first_start_behind(&mut self, load: &Load, seed: &dyn Fn(u64) -> u64) -> Result<[f64; 3], OpError> {
        let id = self.id();
        self.nodes[2].spawn(id, &load.action, soon())?;
        for n in 0..=SETTLED {
            self.ask(2, id, load, seed(n))?;
        }
        let times = self.start_behind(id, load, seed(SETTLED + 1));
        self.nodes[2].purge(id);
        times
    }

    /// One round of starts that others are compared with, asked as the reduced sandbox of the same round was: on node 2, where pages are pushed behind the
    /// process, once as if this were the function's first there, of which its first run was seen, and once with what was learnt in earlier rounds; and by CRIU alone.
    ///
    /// # Errors
    /// Whatever step failed.
    pub fn others_round(&mut self, plain: &Plain, load: &Load, round: u64, out: &mut Samples) -> Result<(), OpError> {
        let id = self.id();
        let seed = |n: u64| round * 17 + n;
        let known = self.nodes[2].exchange_touched(&load.action, None);
        self.nodes[2].spawn(id, &load.action, soon())?;
        self.ask(2, id, load, seed(0))?;
        self.nodes[2].purge(id);
        let fresh = self.nodes[2].exchange_touched(&load.action, None);
        self.nodes[2].exchange_touched(&load.action, known.or_else(|| fresh.clone()));
        let usual = self.first_start_behind(load, &seed)?;
        let known = self.nodes[2].exchange_touched(&load.action, fresh);
        let first = self.first_start_behind(load, &seed)?;
        self.nodes[2].exchange_touched(&load.action, known);
        // The first round is the first to use much of this program.
        if round > 0 {
            for (to, time) in
                [&mut out.behind_start, &mut out.behind_read, &mut out.behind_answer].into_iter().zip(usual)
            {
                to.push(time);
            }
            out.first_answer.push(first[2]);
        }
        let (restore, answer) = plain.answer(load, seed(SETTLED + 1))?;
        if round > 0 {
            out.plain_restore.push(ms(restore));
            out.plain_answer.push(ms(answer));
        }
        Ok(())
    }

    /// One more warm sandbox of the function, on the other node; it stays there.
    ///
    /// # Errors
    /// Whatever step failed.
    pub fn beside(&mut self, load: &Load) -> Result<(), OpError> {
        let id = self.id();
        self.nodes[1].spawn(id, &load.action, soon())?;
        (0..SETTLED).try_for_each(|seed| self.ask(1, id, load, seed).map(drop))
    }

    /// Memory of a warm sandbox of node 0: its own, and what it shares with whoever maps the same files.
    pub fn parts(&self, id: SandboxId) -> Resident {
        self.nodes[0].parts(id)
    }

    /// Memory of a warm sandbox of node 0, with whatever is beside it.
    pub fn resident(&self, id: SandboxId) -> Bytes {
        self.nodes[0].resident(id)
    }
}
