//! How an agent reads base pages of another, and offers its own.
//!
//! An owner publishes pages in shared memory and gets a [`Region`], which travels to readers on the control plane (gRPC); a reader hands it
//! to [`Transport::read`] with the runs of pages that it wants. Withdrawn regions are refused, and never read as something else.
//!
//! | | reads | where |
//! |---|---|---|
//! | [`local`] | by a copy, or where they lie | the same node |
//! | [`tcp`] | from a thread of the owner | everywhere |
#![cfg_attr(feature = "rdma", doc = "| [`verbs`] | one-sided, by the RDMA devices of both nodes | feature `rdma` |")]
#![cfg_attr(not(feature = "rdma"), doc = "| `verbs` | one-sided, by the RDMA devices of both nodes | feature `rdma` |")]

mod buffer;
pub mod local;
mod plan;
mod regions;
mod secret;
pub mod tcp;
#[cfg(feature = "rdma")]
pub mod verbs;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use medes_engine::id::NodeId;

pub use buffer::Buffer;
pub use plan::{PAGE, Part, PlannedRead, ReadLimits, plan};
pub use secret::Secret;

use crate::memory::SharedMemory;

/// What to do about a program without `verbs`.
pub const NOT_BUILT: &str =
    "this program was built without RDMA; `cargo build --release --features rdma` builds it with (docs/rdma.md)";

/// Whether pages at an address of this host can be read over verbs.
///
/// # Errors
/// Why not, and how to get it.
pub fn has_verbs(address: IpAddr) -> Result<(), String> {
    #[cfg(feature = "rdma")]
    return verbs::probe(address).map_err(|e| e.to_string());
    #[cfg(not(feature = "rdma"))]
    {
        let _ = address;
        Err(NOT_BUILT.into())
    }
}

/// Reads base pages of other agents, and offers one's own. All methods may be called from any number of threads.
pub trait Transport: Send + Sync {
    /// Lets the agents of the cluster read pages, until they are withdrawn.
    ///
    /// # Errors
    /// The memory cannot be offered; the message says why.
    fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError>;

    /// Takes a region back. When this returns no peer reads it any more, and the transport has let go of its memory. False if it was not
    /// there (any more).
    fn withdraw(&self, region: &Region) -> bool;

    /// Where peers reach this transport, as they need to be told; empty if they know it from the cluster file.
    fn endpoint(&self) -> String {
        String::new()
    }

    /// What [`Transport::endpoint`] says of a peer.
    fn reach(&self, _peer: NodeId, _endpoint: &str) {}

    /// Memory for a restore, into which this transport reads without a copy.
    ///
    /// # Errors
    /// No memory, or too little that may be locked.
    fn buffer(&self, bytes: usize) -> io::Result<Buffer>;

    /// Reads the pages of all runs, one behind the other in the order given, to the start of `into`. Memory of [`Transport::buffer`] is
    /// written directly, any other may cost a copy. When this returns, nothing writes to `into` any more.
    ///
    /// # Errors
    /// Not all pages arrived; `into` then has any content.
    fn read(&self, region: &Region, runs: &[PageRun], into: &mut [u8], deadline: Instant)
    -> Result<(), TransportError>;
}

/// Adjacent pages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageRun {
    /// Number of the first page.
    pub first: u32,
    /// How many, at least one.
    pub pages: u32,
}

/// Published pages, as a reader has to name them. Shown without its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Whose they are.
    pub owner: NodeId,
    /// Process of the owner: regions end with it.
    pub incarnation: u64,
    /// What the owner calls the first byte. No two regions of a process have the same.
    pub address: u64,
    /// What lets a reader read.
    pub key: u64,
    /// Pages.
    pub pages: u32,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, incarnation, address, pages, key: _ } = self;
        write!(f, "region {address:#x} of {owner} ({pages} pages, process {incarnation:016x})")
    }
}

impl Region {
    /// That the region has the pages and the buffer room for them.
    ///
    /// # Errors
    /// The first run that the region lacks, or the whole.
    pub fn check(&self, runs: &[PageRun], room: usize) -> Result<(), TransportError> {
        let beyond = runs.iter().find(|r| u64::from(r.first) + u64::from(r.pages) > self.pages.into());
        if let Some(run) = beyond {
            return Err(TransportError::OutOfRange { run: *run, pages: self.pages });
        }
        let wanted: u64 = runs.iter().map(|r| u64::from(r.pages) * plan::PAGE).sum();
        if wanted > room as u64 { Err(TransportError::NoRoom { wanted, room }) } else { Ok(()) }
    }
}

/// Why pages could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The owner does not answer or is gone, and its bases with it.
    #[error("{peer} is lost: {reason}")]
    PeerLost {
        /// The owner.
        peer: NodeId,
        /// What was seen.
        reason: String,
    },
    /// The owner does not let this reader read the region: it was withdrawn, or the key is wrong.
    #[error("refused: {region:?} was withdrawn or never offered so")]
    Refused {
        /// The region.
        region: Region,
    },
    /// Not done by the deadline.
    #[error("reading from {peer} took longer than it may")]
    Timeout {
        /// The owner.
        peer: NodeId,
    },
    /// Pages that the region does not have.
    #[error("pages {} to {} of a region of {pages}", run.first, u64::from(run.first) + u64::from(run.pages) - 1)]
    OutOfRange {
        /// The run.
        run: PageRun,
        /// Pages of the region.
        pages: u32,
    },
    /// The buffer is too small.
    #[error("{wanted} bytes into a buffer of {room}")]
    NoRoom {
        /// Bytes of all runs.
        wanted: u64,
        /// Bytes of the buffer.
        room: usize,
    },
    /// The connection cannot be made or used, for a reason that is not the owner's absence.
    #[error("reading from {peer}: {reason}")]
    Failed {
        /// The owner.
        peer: NodeId,
        /// What was seen.
        reason: String,
    },
}

/// Memory that cannot be offered.
#[derive(Debug, thiserror::Error)]
#[error("offering {bytes} bytes to peers: {reason}")]
pub struct PublishError {
    /// How much.
    pub bytes: usize,
    /// Why.
    pub reason: String,
}

/// What a transport tells the agent on its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A peer is gone, with all its bases; why.
    Lost(NodeId, String),
    /// A peer that was lost is there again, perhaps as a new process, which has none of the bases.
    Back(NodeId),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::BaseHead;

    #[test]
    fn keys_are_never_shown() {
        let key = 0x0123_4567_89ab_cdef_u64;
        let region = Region { owner: NodeId(1), incarnation: 2, address: 3, key, pages: 4 };
        let head = BaseHead { key, pages: 4, ..BaseHead::default() };
        for shown in [format!("{region:?}"), TransportError::Refused { region }.to_string(), format!("{head:?}")] {
            assert!(shown.contains('4'), "{shown}");
            assert!(!shown.contains(&key.to_string()) && !shown.contains(&format!("{key:x}")), "{shown}");
        }
    }
}
