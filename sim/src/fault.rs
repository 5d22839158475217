//! Faults as rules: nodes that are lost at a time and come back after another.

use medes_engine::id::NodeId;
use medes_engine::units::{Duration, Instant};
use serde::{Deserialize, Serialize};

/// A node is lost, with all that is on it, and comes back empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which node.
    pub node: u32,
    /// When, seconds from the start.
    pub at_s: f64,
    /// For how long, seconds; absent: for good.
    pub for_s: Option<f64>,
}

/// The changes that faults make, in the order of time: `(when, node, lost)`.
pub(crate) fn schedule(faults: &[Fault], nodes: u32) -> Vec<(Instant, NodeId, bool)> {
    let mut changes = Vec::new();
    for f in faults.iter().filter(|f| f.node < nodes) {
        let at = Instant::from_secs_f64(f.at_s);
        changes.push((at, NodeId(f.node), true));
        if let Some(time) = f.for_s {
            changes.push((at + Duration::from_secs_f64(time), NodeId(f.node), false));
        }
    }
    changes.sort_by_key(|c| (c.0, c.1));
    changes
}
