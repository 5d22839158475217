//! Memory that sandboxes take really, where the profile says who shares it.
//!
//! The engine charges each sandbox of a function the same. Really the files that it maps (interpreter, libraries) are in memory once a machine,
//! divided among all sandboxes there that map them, whatever their function: few sandboxes weigh more each than many. As an agent does, each node
//! tells the engine now and then what it measures, when nothing is under way there that changes it.
//! Left out: memory that grows with runs, files mapped in part, page cache.

use std::collections::BTreeMap;

use medes_engine::id::{FunctionId, NodeId};
use medes_engine::units::{Bytes, Duration, Instant};

use crate::setup::Setup;

/// Between two measurements of a node, as agents do.
pub(crate) const EVERY: Duration = Duration::from_millis(500);
/// After this long one is told although something is under way.
const PATIENCE: Duration = Duration::from_secs(3);

/// A function's sandbox, bytes.
#[derive(Clone, Debug)]
struct Parts {
    /// Its own memory less what it is charged.
    own: i64,
    /// Of each library's files, by the library's number.
    files: Vec<(usize, i64)>,
}

/// Sums over the sandboxes of a node.
#[derive(Clone, Debug, Default)]
struct Sums {
    own: i64,
    files: Vec<i64>,
    /// Operations under way that change memory.
    moving: u32,
    believed: Instant,
    there: bool,
}

/// What is where.
#[derive(Debug)]
pub(crate) struct Residents {
    functions: Vec<Option<Parts>>,
    nodes: Vec<Sums>,
    /// Sandboxes that map each library's files, by machine.
    sharers: Vec<Vec<i64>>,
}

impl Residents {
    /// `None` where no profile says who shares memory.
    pub fn new(setup: &Setup) -> Option<Self> {
        let mut libraries: BTreeMap<&str, usize> = BTreeMap::new();
        let mut functions = Vec::new();
        for f in setup.functions.iter() {
            let profile = &setup.profiles.function[f.profile];
            functions.push(profile.resident.as_ref().map(|r| {
                // A function of another size than its profile's has all in proportion.
                let bytes = |mb: f64| (mb / profile.memory_mb * f.memory.get() as f64).round() as i64;
                let mut files = Vec::new();
                for (library, mb) in &r.files {
                    let next = libraries.len();
                    files.push((*libraries.entry(library).or_insert(next), bytes(*mb)));
                }
                Parts { own: bytes(r.private_mb) - f.memory.get().cast_signed(), files }
            }));
        }
        if functions.iter().all(Option::is_none) {
            return None;
        }
        let nodes = setup.config.nodes as usize;
        let machines = if setup.config.shared_cores { 1 } else { nodes };
        let sums = Sums { files: vec![0; libraries.len()], there: true, ..Sums::default() };
        Some(Self { functions, nodes: vec![sums; nodes], sharers: vec![vec![0; libraries.len()]; machines] })
    }

    /// A sandbox comes (1) or goes (-1).
    pub fn change(&mut self, function: FunctionId, node: NodeId, by: i64) {
        let Some(parts) = &self.functions[function.index()] else { return };
        let machine = node.index() % self.sharers.len();
        let at = &mut self.nodes[node.index()];
        at.own += by * parts.own;
        for (library, size) in &parts.files {
            at.files[*library] += by * size;
            self.sharers[machine][*library] += by;
        }
    }

    /// What the sandboxes of a node take beyond what they are charged; less than nothing where they share much.
    fn more(&self, node: usize) -> i64 {
        let (at, sharers) = (&self.nodes[node], &self.sharers[node % self.sharers.len()]);
        at.own + at.files.iter().zip(sharers).map(|(size, n)| size / (*n).max(1)).sum::<i64>()
    }

    /// Memory of all nodes together, of which `charged` is charged.
    pub fn total(&self, charged: Bytes) -> Bytes {
        let more: i64 = (0..self.nodes.len()).map(|n| self.more(n)).sum();
        Bytes::new(charged.get().saturating_add_signed(more))
    }

    /// An operation that changes memory begins (1) or ends (-1).
    pub fn moves(&mut self, node: NodeId, by: i32) {
        let moving = &mut self.nodes[node.index()].moving;
        *moving = moving.saturating_add_signed(by);
    }

    /// A node is lost or there again.
    pub fn is_there(&mut self, node: NodeId, there: bool) {
        self.nodes[node.index()].there = there;
    }

    /// What a node measures now, of which `charged` is charged; `None` if that is not told.
    pub fn measured(&mut self, now: Instant, node: NodeId, charged: Bytes) -> Option<Bytes> {
        let more = self.more(node.index());
        let at = &mut self.nodes[node.index()];
        if !at.there || (at.moving > 0 && now.since(at.believed) <= PATIENCE) {
            return None;
        }
        at.believed = now;
        Some(Bytes::new(charged.get().saturating_add_signed(more)))
    }
}
