//! One-sided reads over ibverbs: the owner's device answers, no processor of the owner takes part.
//!
//! An agent is both sides. As owner ([`owner`]) it registers base images once, for reading, and lets the agents of its cluster file
//! connect. As reader ([`peers`], [`link`]) it has one connection to each owner it reads from, shared by all restores; a
//! connection serves reads in one direction only, so that a refused read on one side (which breaks a connection) leaves the other
//! side's restores alone. Restore buffers come from a pool of registered memory ([`pool`]): what the device writes is what is decoded.
//!
//! Against stale memory: a withdrawn region is deregistered before its memory is given back; a region's address, as its readers name it,
//! is never used twice; a descriptor of an earlier process of the owner is refused without asking; and whoever restores compares every page
//! with its checksum.

mod greeting;
mod link;
mod owner;
mod peers;
mod pool;
mod sys;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;
use rustix::event::{EventfdFlags, eventfd};

use super::plan::{PlannedRead, ReadLimits, plan};
use super::{Buffer, PageRun, PeerEvent, PublishError, Region, Secret, Transport, TransportError};
use crate::memory::SharedMemory;
pub use link::Counts;
use link::{Failure, Order};
use owner::{Owner, Published};
use peers::Peers;
use pool::Pool;
pub use sys::CallError;
use sys::{CmId, Domain, EventChannel, Registration, make_fork_safe};

/// How a reader learns that its reads are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Completions {
    /// The device wakes it.
    #[default]
    Events,
    /// It looks all the time: some microseconds sooner, for a core while reads are under way.
    Polled,
}

/// Settings of the transport.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of this node's RDMA device and the port for readers (`memory_nodes` of the cluster file).
    pub listen: SocketAddr,
    /// All agents of the cluster: who may read from this one, and from whom it reads.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// What all of them know.
    pub secret: Secret,
    /// Reads posted on one connection at most.
    pub depth: usize,
    /// Parts of the destination that one read fills at most.
    pub scatter: usize,
    /// Bytes of one read at most.
    pub read_bytes: u32,
    /// How completions are waited for.
    pub completions: Completions,
    /// After how long an owner that does not answer is lost.
    pub peer_timeout: Duration,
    /// How long a connection may be silent before the owner is asked whether it is there.
    pub heartbeat: Duration,
    /// How long after a failed attempt to connect the next one is made.
    pub reconnect: Duration,
    /// Bytes of restore buffers kept registered while nobody uses them.
    pub pool_bytes: usize,
}

impl Settings {
    /// The usual settings.
    pub fn new(listen: SocketAddr, peers: BTreeMap<NodeId, SocketAddr>, secret: Secret) -> Self {
        Self {
            listen,
            peers,
            secret,
            depth: 128,
            scatter: 30,
            read_bytes: 1 << 20,
            completions: Completions::Events,
            peer_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(500),
            reconnect: Duration::from_millis(500),
            pool_bytes: 256 << 20,
        }
    }

    /// The largest timeout of one try, as the power of two that devices take, with which all tries stay within `peer_timeout`.
    /// (Devices may take up to four times what they are told.)
    fn ack_exponent(&self, retries: u8) -> u8 {
        let one = self.peer_timeout.as_secs_f64() / f64::from(retries + 1) / 4.096e-6;
        (one.max(1.0).log2().floor() as u8).clamp(8, 21)
    }
}

/// The transport cannot be set up, or memory not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A call of the libraries failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No memory for a buffer.
    #[error("memory for a restore buffer: {0}")]
    Memory(#[source] io::Error),
    /// No thread or descriptor.
    #[error("a thread of the transport: {0}")]
    Thread(#[source] io::Error),
    /// No random numbers.
    #[error("random numbers from the system: {0}")]
    Entropy(String),
}

impl SetupError {
    /// Whether somebody else listens at the address.
    pub fn address_in_use(&self) -> bool {
        matches!(self, Self::Call(e) if e.source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Looks whether an RDMA device of this host has an address.
///
/// # Errors
/// None has, or the system lacks something the message names.
pub fn probe(address: IpAddr) -> Result<(), SetupError> {
    make_fork_safe()?;
    let id = CmId::new(&EventChannel::new()?)?;
    id.bind(SocketAddr::new(address, 0))?;
    Domain::of(&id)?.limits()?;
    Ok(())
}

/// A transport: owner and reader in one.
pub struct Verbs {
    owner: Owner,
    peers: Arc<Peers>,
    pool: Arc<Pool>,
    limits: ReadLimits,
    node: NodeId,
    stop: OwnedFd,
    watch: Option<JoinHandle<()>>,
}

impl Verbs {
    /// Starts both sides. What happens to peers is told through the receiver.
    ///
    /// # Errors
    /// No RDMA device has the address, another program has the port, or the system lacks something the message names.
    pub fn start(node: NodeId, settings: Settings) -> Result<(Self, Receiver<PeerEvent>), SetupError> {
        make_fork_safe()?;
        let channel = EventChannel::new()?;
        let listener = CmId::new(&channel)?;
        listener.bind(settings.listen)?;
        let domain = Domain::of(&listener)?;
        let limits = domain.limits()?;
        let owner = Owner::listen(node, settings.clone(), channel, listener, domain.clone())?;
        let (tell, events) = mpsc::channel();
        let descriptor =
            || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| SetupError::Thread(e.into()));
        let (stop, wake) = (descriptor()?, descriptor()?);
        let pool = Pool::new(domain.clone(), settings.pool_bytes);
        let read_limits = ReadLimits { parts: settings.scatter.clamp(1, limits.scatter), bytes: settings.read_bytes };
        let peers = Arc::new(Peers::new(node, settings, domain, limits, tell, wake));
        let (watched, stopped) = (peers.clone(), stop.try_clone().map_err(SetupError::Thread)?);
        let watch = std::thread::Builder::new()
            .name("medes-verbs-watch".into())
            .spawn(move || watched.watch(&stopped))
            .map_err(SetupError::Thread)?;
        Ok((Self { owner, peers, pool, limits: read_limits, node, stop, watch: Some(watch) }, events))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.owner.address()
    }

    /// Reads into registered memory. Reads that were cut off by another reader's failure are made again.
    fn read_registered(
        &self,
        region: &Region,
        reads: &[PlannedRead],
        into: (Arc<Registration>, u64),
        deadline: Instant,
    ) -> Result<(), TransportError> {
        let peer = region.owner;
        let (memory, offset) = into;
        // A key that is no number of ours is nobody's key.
        let key = u32::try_from(region.key).map_err(|_| TransportError::Refused { region: *region })?;
        let order = Order { reads, address: region.address, key, memory: &memory, offset };
        let explain = |failure| match failure {
            Failure::Lost(reason) => TransportError::PeerLost { peer, reason },
            Failure::Refused => TransportError::Refused { region: *region },
            Failure::TooSlow | Failure::Interrupted => TransportError::Timeout { peer },
            Failure::Local(reason) => TransportError::Failed { peer, reason },
        };
        loop {
            let up = self.peers.link(peer, deadline).map_err(explain)?;
            if up.incarnation != region.incarnation {
                return Err(TransportError::Refused { region: *region });
            }
            let Err(failure) = up.link.read(&order, deadline) else { return Ok(()) };
            self.peers.broke(peer, &up.link, &failure);
            match failure {
                Failure::Interrupted if Instant::now() < deadline => {}
                // A process that dies gives up its regions before its connections: refused by one that is there, or by a dying one?
                Failure::Refused => return Err(explain(self.peers.link(peer, deadline).err().unwrap_or(failure))),
                _ => return Err(explain(failure)),
            }
        }
    }

    /// Numbers of the connection to a peer, if there is one.
    pub fn counts(&self, peer: NodeId) -> Option<Counts> {
        self.peers.counts(peer)
    }
}

impl Transport for Verbs {
    fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError> {
        let bytes = pages.len();
        let fail = |reason: String| PublishError { bytes, reason };
        let count = u32::try_from(bytes / PAGE_BYTES).map_err(|_| fail("more pages than a region can have".into()))?;
        let Published { address, key } = self.owner.publish(pages).map_err(|e| fail(e.to_string()))?;
        Ok(Region { owner: self.node, incarnation: self.owner.incarnation(), address, key: key.into(), pages: count })
    }

    fn withdraw(&self, region: &Region) -> bool {
        region.incarnation == self.owner.incarnation() && self.owner.withdraw(region.address)
    }

    fn buffer(&self, bytes: usize) -> io::Result<Buffer> {
        self.pool.take(bytes).map_err(io::Error::other)
    }

    fn read(
        &self,
        region: &Region,
        runs: &[PageRun],
        into: &mut [u8],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        region.check(runs, into.len())?;
        let reads = plan(runs, self.limits);
        if let Some(registered) = self.pool.find(into) {
            return self.read_registered(region, &reads, registered, deadline);
        }
        let failed = |reason: String| TransportError::Failed { peer: region.owner, reason };
        let buffer = self.buffer(into.len()).map_err(|e| failed(e.to_string()))?;
        let registered = self.pool.find(&buffer).ok_or_else(|| failed("no registered buffer".into()))?;
        self.read_registered(region, &reads, registered, deadline)?;
        let arrived: u64 = reads.iter().flat_map(|r| &r.parts).map(|p| u64::from(p.bytes)).sum();
        let arrived = arrived as usize;
        into[..arrived].copy_from_slice(&buffer[..arrived]);
        Ok(())
    }
}

impl Drop for Verbs {
    fn drop(&mut self) {
        // An eventfd takes a number at any time, but the largest one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}
