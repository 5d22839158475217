//! Base pages over TCP: works everywhere.
//!
//! An agent is both sides. As owner ([`owner`]) it serves published pages from threads of its own, straight from where they lie, to agents of its
//! cluster file that know the secret. As reader ([`peers`]) it keeps some connections to each owner; a read has one to itself, asks for runs
//! of pages with the next request on its way before the answer to the last one has come, and receives into the memory of whoever asks. What
//! goes over the wire is in [`wire`]; no length from there is believed.
//!
//! *Faults.* Whoever does not answer for [`Settings::peer_timeout`] is lost; so is one that cannot be reached, and for [`Settings::reconnect`] nobody
//! tries again. That is told to the agent ([`PeerEvent`]), but not that one was too slow once: the next attempt to reach it shows whether it
//! is there. Regions are named with the owner's process (a random number of each start), so those of an earlier one are refused without
//! asking. A withdrawn region is refused from the next frame (1 MiB) on, and the owner waits for the frames under way.

mod owner;
mod peers;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;

use super::{Buffer, PageRun, PeerEvent, PublishError, Region, Secret, Transport, TransportError};
use crate::memory::SharedMemory;
use owner::Owner;
use peers::Peers;

/// Settings of the transport.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All agents of the cluster: who may read from this one, and from whom it reads (`memory_nodes` of the cluster file). An owner that
    /// listens on the loopback interface serves whoever on this host knows the secret.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// What all of them know.
    pub secret: Secret,
    /// After how long an owner that does not answer is lost.
    pub peer_timeout: Duration,
    /// How long after a failed attempt to reach an owner the next one is made.
    pub reconnect: Duration,
}

impl Settings {
    /// The usual settings.
    pub fn new(peers: BTreeMap<NodeId, SocketAddr>, secret: Secret) -> Self {
        Self { peers, secret, peer_timeout: Duration::from_secs(1), reconnect: Duration::from_millis(500) }
    }
}

/// A transport: owner and reader in one.
pub struct Tcp {
    owner: Owner,
    peers: Peers,
}

impl Tcp {
    /// Starts both sides, with a socket that listens already. What reads show of other agents is told through the receiver.
    ///
    /// # Errors
    /// What the system says of the socket, of a thread, or of random numbers.
    pub fn start(node: NodeId, listener: TcpListener, settings: Settings) -> io::Result<(Self, Receiver<PeerEvent>)> {
        let (tell, events) = mpsc::channel();
        let peers = Peers::new(node, settings.clone(), tell);
        Ok((Self { owner: Owner::listen(node, listener, settings)?, peers }, events))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.owner.address()
    }
}

impl Transport for Tcp {
    fn endpoint(&self) -> String {
        self.owner.address().to_string()
    }

    fn reach(&self, peer: NodeId, endpoint: &str) {
        if let Ok(address) = endpoint.parse() {
            self.peers.reach(peer, address);
        }
    }

    fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError> {
        self.owner.publish(pages)
    }

    fn withdraw(&self, region: &Region) -> bool {
        self.owner.withdraw(region)
    }

    fn buffer(&self, bytes: usize) -> io::Result<Buffer> {
        Buffer::new(bytes)
    }

    fn read(
        &self,
        region: &Region,
        runs: &[PageRun],
        into: &mut [u8],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        region.check(runs, into.len())?;
        self.peers.read(region, runs, into, deadline)
    }
}

#[cfg(test)]
mod tests;
