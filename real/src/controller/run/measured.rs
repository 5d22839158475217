//! What nodes say of their memory.

use medes_engine::event::Input;
use medes_engine::id::NodeId;
use medes_engine::record::{HostSample, RequestRecord, StartParts};
use medes_engine::units::{Bytes, Duration, Instant};

use super::{Controller, Directory};
use crate::wire::Memory;

/// A measurement of memory is believed only when nothing was under way; after this long one is believed all the same.
const MEMORY_PATIENCE: Duration = Duration::from_secs(3);

impl<D: Directory, S: FnMut(&RequestRecord, &StartParts)> Controller<'_, D, S> {
    pub(super) fn memory_changes(&mut self, at: Instant) {
        // Up to here it was what it was before: an interval that ended meanwhile has that.
        self.passes(at);
        self.metrics.memory(self.now, self.nodes.iter().map(|n| n.used).sum());
    }

    pub(super) fn measured(&mut self, at: Instant, node: NodeId, memory: Memory, received: u64) {
        let n = &mut self.nodes[node.index()];
        if n.generation == 0 {
            return;
        }
        self.host.push(HostSample { at_s: at.as_secs_f64(), node: node.0, probe_us: memory.probe_ns as f64 / 1e3 });
        n.used = Bytes::new(memory.sandboxes + memory.bases + memory.stored + memory.agent);
        // What was measured amid orders belongs to no state that the engine knows.
        let settled = !memory.moving && received >= n.sent;
        let used = n.used;
        let believe = settled || at.since(n.believed) > MEMORY_PATIENCE;
        if believe {
            n.believed = at;
        }
        self.memory_changes(at);
        if believe {
            self.tell(at, Input::NodeMemory { node, used });
        }
    }
}
