//! What the controller knows of orders that are not answered yet, and what it adds up of those that are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::metrics::StartSums;
use medes_engine::record::{HostSample, OperationSummary, StartParts, StartSummary};
use medes_engine::units::{Duration, Instant};

use crate::wire::{OrderKind, Step};

/// An order that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub kind: OrderKind,
    pub node: NodeId,
    pub sandbox: SandboxId,
    pub function: FunctionId,
    pub request: Option<RequestId>,
    /// When it was decided.
    pub chosen: Instant,
    /// The sandbox can run; the agent's time for that.
    pub started: Option<Duration>,
    pub parts: StartParts,
}

/// Orders by id, and by sandbox: at most one each.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pending: HashMap<u64, Pending>,
    of_sandbox: HashMap<SandboxId, u64>,
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    next: u64,
}

impl Orders {
    /// A new id.
    pub fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn add(&mut self, id: u64, order: Pending, deadline: Instant) {
        self.of_sandbox.insert(order.sandbox, id);
        self.pending.insert(id, order);
        self.deadlines.push(Reverse((deadline, id)));
    }

    pub fn get(&mut self, id: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&id)
    }

    pub fn remove(&mut self, id: u64) -> Option<Pending> {
        let order = self.pending.remove(&id)?;
        if self.of_sandbox.get(&order.sandbox) == Some(&id) {
            self.of_sandbox.remove(&order.sandbox);
        }
        Some(order)
    }

    /// A sandbox is gone: nothing is waited for.
    pub fn forget(&mut self, sandbox: SandboxId) {
        if let Some(id) = self.of_sandbox.remove(&sandbox) {
            self.pending.remove(&id);
        }
    }

    /// A node is gone.
    pub fn forget_node(&mut self, node: NodeId) {
        self.pending.retain(|_, o| o.node != node);
        let pending = &self.pending;
        self.of_sandbox.retain(|_, id| pending.contains_key(id));
    }

    /// When the next order is late.
    pub fn deadline(&mut self) -> Instant {
        while let Some(Reverse((at, id))) = self.deadlines.peek() {
            if self.pending.contains_key(id) {
                return *at;
            }
            self.deadlines.pop();
        }
        Instant::FAR
    }

    /// An order that is late by now.
    pub fn late(&mut self, now: Instant) -> Option<Pending> {
        let at = self.deadline();
        if at > now {
            return None;
        }
        let Reverse((_, id)) = self.deadlines.pop()?;
        self.remove(id)
    }
}

/// Bases that reduced images refer to, as the engine counts them.
#[derive(Debug, Default)]
pub(super) struct Images(HashMap<SandboxId, (NodeId, Vec<SandboxId>)>);

impl Images {
    /// A sandbox is reduced; its bases if the image is new.
    pub fn reduced(&mut self, sandbox: SandboxId, node: NodeId, bases: &[SandboxId]) -> Vec<SandboxId> {
        if self.0.contains_key(&sandbox) {
            return Vec::new();
        }
        self.0.insert(sandbox, (node, bases.to_vec()));
        bases.to_vec()
    }

    /// An image is gone: the bases that it referred to.
    pub fn gone(&mut self, sandbox: SandboxId) -> Vec<SandboxId> {
        self.0.remove(&sandbox).map(|i| i.1).unwrap_or_default()
    }

    /// A node's images are gone: the bases that they referred to, as often as they did.
    pub fn node_gone(&mut self, node: NodeId) -> Vec<SandboxId> {
        let mut bases = Vec::new();
        self.0.retain(|_, (at, b)| {
            let stays = *at != node;
            if !stays {
                bases.append(b);
            }
            stays
        });
        bases
    }
}

/// Sums of times, for means.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// Starts.
    pub starts: StartSums,
    operations: BTreeMap<(FunctionId, &'static str), OperationSum>,
}

#[derive(Debug, Default)]
struct OperationSum {
    count: u64,
    /// Operation, checkpoint, fingerprint, lookup, read, encode, hold: ms.
    times: [f64; 7],
    mb: f64,
    pages: [u64; 4],
}

impl Sums {
    pub fn operation(&mut self, function: FunctionId, name: &'static str, step: &Step) {
        let sum = self.operations.entry((function, name)).or_default();
        sum.count += 1;
        let times = [step.took, step.resume, step.fingerprint, step.lookup, step.read, step.patch, step.hold];
        for (sum, us) in sum.times.iter_mut().zip(times) {
            *sum += us as f64 / 1e3;
        }
        sum.mb += step.bytes as f64 / 1e6;
        if step.pages.len() == 4 {
            for (sum, pages) in sum.pages.iter_mut().zip(&step.pages) {
                *sum += pages;
            }
        }
    }

    pub fn rows(self, name: impl Fn(FunctionId) -> String) -> (Vec<StartSummary>, Vec<OperationSummary>) {
        let starts = self.starts.rows(&name);
        let operations = self.operations.into_iter().map(|((function, operation), s)| {
            let mean = |sum: f64| sum / s.count as f64;
            let pages = s.pages.map(|p| p as f64 / s.count as f64);
            OperationSummary {
                function: name(function),
                operation: operation.to_owned(),
                count: s.count,
                took_ms: mean(s.times[0]),
                checkpoint_ms: mean(s.times[1]),
                fingerprint_ms: mean(s.times[2]),
                lookup_ms: mean(s.times[3]),
                read_ms: mean(s.times[4]),
                encode_ms: mean(s.times[5]),
                hold_ms: mean(s.times[6]),
                stored_mb: mean(s.mb),
                same_local_pages: pages[0],
                same_remote_pages: pages[1],
                other_local_pages: pages[2],
                other_remote_pages: pages[3],
            }
        });
        (starts, operations.collect())
    }
}

/// How evenly fast the hosts were, for the reader of a run: the same work on a shared host takes now this and now that.
pub(super) fn speed(host: &[HostSample]) -> Option<String> {
    let mut probes: Vec<f64> = host.iter().map(|s| s.probe_us).collect();
    probes.sort_by(f64::total_cmp);
    let at = |share: f64| probes.get((share * (probes.len() as f64 - 1.0)).round() as usize);
    let (best, fast, median, slow) = (at(0.02)?, at(0.1)?, at(0.5)?, at(0.9)?);
    Some(format!(
        "host speed: a fixed piece of work took {median:.0} us of a core (median of {}), {fast:.0} to {slow:.0} between the 10th and the 90th \
         percentile: {:.0} % of the best at the median",
        probes.len(),
        100.0 * best / median
    ))
}
