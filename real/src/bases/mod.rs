//! Base pages of the cluster: published on their node, found through the controller, read through a transport.
//!
//! | part | where | |
//! |---|---|---|
//! | [`index`] | controller | from chunks to base pages, for all bases |
//! | [`service`] | controller | the same as a gRPC service |
//! | [`ClusterBases`] | agent | publishes, packs, unpacks |
//! | [`client`] | agent | asks the controller |
//!
//! *A base* is the memory of its dump, mapped or copied once ([`ClusterBases::register`]), the region under which the transport offers it, and its
//! fingerprints at the controller. *Packing* ([`pack`]) fingerprints an image, asks for base pages in batches and reads those of
//! other nodes in merged runs; the encoder is the engine's. A packed image names for each base where its pages are read, so that a restore
//! ([`unpack`]) asks nobody but their owners. Pages of this node's own bases are taken where they lie.

pub mod client;
mod connect;
pub mod index;
mod name;
mod pack;
mod read;
mod register;
pub mod service;
mod unpack;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{Choose, Coding, Options};
use medes_engine::dedup::patch;
use medes_engine::dedup::turns::Turns;
use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use tokio::sync::mpsc;

use crate::memory::SharedMemory;
use crate::ops::{Bases, Give, OpError, Packed, Registered, Unpacked};
use crate::settings::Settings;
use crate::transport::{PeerEvent, Region, Secret, Transport};
use crate::wire::seal::Token;
use client::{GrpcIndex, IndexClient};

/// Nominal time that packing spends on a page beyond its byte difference, ns.
const BUDGET_NS: u32 = 4_000;

/// How pages are fingerprinted and packed; the same at all agents.
#[derive(Clone, Copy, Debug)]
pub struct PackSettings {
    /// How fingerprints are taken.
    pub fingerprinter: Fingerprinter,
    /// Whether pointers are followed to where they point (needed with address-space randomisation).
    pub relocate: bool,
    /// How pages are written.
    pub coding: Coding,
    /// Whether of the pages found the nearest is taken, or the first.
    pub choose: Choose,
    /// A larger patch is not used, bytes.
    pub patch_threshold: u32,
    /// Threads of one operation.
    pub threads: usize,
}

/// Settings that cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackSettingsError {
    /// Too many or too few chunks.
    #[error(transparent)]
    Chunks(#[from] medes_engine::dedup::fingerprint::ChunksOutOfRange),
    /// No such codec.
    #[error("codec is '{0}'; sandboxes can be packed with {names}", names = patch::Method::ALL.map(patch::Method::name).join(", ") + ", auto")]
    Codec(String),
}

impl PackSettings {
    /// Those of a run.
    ///
    /// # Errors
    /// A codec or number of chunks that does not exist.
    pub fn of(settings: &Settings) -> Result<Self, PackSettingsError> {
        let coding = match settings.codec.as_str() {
            "" | "auto" => Coding::Auto { budget_ns: Some(BUDGET_NS) },
            name => {
                let method = patch::Method::ALL.into_iter().find(|m| m.name() == name);
                Coding::One(method.ok_or_else(|| PackSettingsError::Codec(name.into()))?)
            }
        };
        Ok(Self {
            fingerprinter: Fingerprinter::new(Sampling::ValueSampled, settings.chunksperpage, HashKind::Fold(0))?,
            relocate: true,
            coding,
            choose: Choose::Nearest,
            patch_threshold: settings.patchthreshold,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    fn options(&self, method: Method) -> Options {
        let coding = match (method, self.coding) {
            (Method::Patches, coding) => coding,
            (Method::Compression, Coding::One(m)) if !m.needs_base() => self.coding,
            (Method::Compression, _) => Coding::One(patch::Method::Lz4),
        };
        Options { choose: self.choose, coding, patch_threshold: self.patch_threshold, threads: self.threads }
    }
}

/// How an agent asks the controller.
#[derive(Clone, Debug)]
pub struct Link {
    /// What its calls carry.
    pub token: Token,
    /// Where they run.
    pub runtime: tokio::runtime::Handle,
    /// Where it is said what the transport sees of other agents.
    pub peers: mpsc::UnboundedSender<PeerEvent>,
}

/// Where an agent serves base pages, and to whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address and port; port 0 takes any that is free, of which readers hear from the controller.
    pub listen: SocketAddr,
    /// All agents, as the cluster file says; without one only agents of this host read here.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// What the cluster shares; without it the number of the run, which is random, takes its place.
    pub secret: Option<Secret>,
}

/// Base pages of the cluster, as one agent has them.
pub struct ClusterBases {
    node: NodeId,
    transport: Arc<dyn Transport>,
    client: Arc<dyn IndexClient>,
    settings: PackSettings,
    /// Bases of this node.
    own: Mutex<BTreeMap<SandboxId, Own>>,
}

/// A base of this node.
#[derive(Clone)]
struct Own {
    region: Region,
    memory: Arc<SharedMemory>,
}

impl ClusterBases {
    /// For the agent of a node.
    pub fn new(
        node: NodeId,
        transport: Arc<dyn Transport>,
        client: Arc<dyn IndexClient>,
        settings: PackSettings,
    ) -> Self {
        Self { node, transport, client, settings, own: Mutex::default() }
    }

    /// For an agent of a cluster, with the transport and the controller of its settings.
    ///
    /// # Errors
    /// Settings that cannot be followed, or an address that cannot be used.
    pub fn connect(settings: &Settings, node: NodeId, link: Link, place: Place) -> Result<Self, OpError> {
        let pack = PackSettings::of(settings).map_err(|e| OpError::Controller(format!("its settings: {e}")))?;
        let transport = connect::transport(settings, node, link.peers, place)?;
        let client = GrpcIndex::new(&settings.controller, link.token, link.runtime)?;
        Ok(Self::new(node, transport, client, pack))
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bases for ClusterBases {
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError> {
        self.register_image(id, function, image, deadline)
    }

    fn withdraw(&self, id: SandboxId) {
        let own = self.own().remove(&id);
        if let Some(own) = own {
            self.transport.withdraw(&own.region);
        }
    }

    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError> {
        self.pack_image(image, function, method, deadline)
    }

    fn unpack(
        &self,
        file: &DedupFile<'_>,
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        self.unpack_file(file, turns, give, deadline)
    }
}

impl Drop for ClusterBases {
    fn drop(&mut self) {
        for own in std::mem::take(&mut *self.own()).into_values() {
            self.transport.withdraw(&own.region);
        }
    }
}

/// That an operation goes on only while there is time.
fn in_time(what: &str, deadline: Instant) -> Result<(), OpError> {
    if Instant::now() < deadline { Ok(()) } else { Err(OpError::Late { what: what.into() }) }
}
