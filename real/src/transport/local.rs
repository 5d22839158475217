//! Base pages of the same node: the memory is mapped already, a read is a copy.
//!
//! Whoever can take pages where they lie should ([`Local::pages`]): that costs nothing.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;

use super::regions::Regions;
use super::{Buffer, PageRun, PublishError, Region, Transport, TransportError};
use crate::memory::SharedMemory;

/// Pages of one process, for itself.
pub struct Local {
    regions: Regions,
    node: NodeId,
}

impl Local {
    /// For the agent of a node.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(node: NodeId) -> io::Result<Self> {
        Ok(Self { regions: Regions::new(node)?, node })
    }
}

impl Transport for Local {
    fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError> {
        self.regions.publish(pages)
    }

    fn withdraw(&self, region: &Region) -> bool {
        // Copies end by themselves.
        self.regions.withdraw(region, Duration::from_secs(1), || ())
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
        let peer = region.owner;
        if peer != self.node {
            return Err(TransportError::Failed {
                peer,
                reason: "not this node, which is all that `local` reads".into(),
            });
        }
        if Instant::now() >= deadline {
            return Err(TransportError::Timeout { peer });
        }
        let refused = TransportError::Refused { region: *region };
        let reading = self.regions.reading(region.address, region.key).ok_or(refused.clone())?;
        if region.incarnation != self.regions.incarnation() {
            return Err(refused);
        }
        let mut rest = into;
        for run in runs {
            let pages = reading.pages().get(run.first as usize..(run.first + run.pages) as usize);
            let bytes = pages.ok_or(refused.clone())?.as_flattened();
            rest[..bytes.len()].copy_from_slice(bytes);
            rest = &mut rest[run.pages as usize * PAGE_BYTES..];
        }
        Ok(())
    }
}
