//! Nodes: what they weigh, and that they go and come back.

use medes_engine::event::Input;
use medes_engine::id::{FunctionId, NodeId, SandboxId};
use medes_engine::record::{RequestRecord, StartParts};
use medes_engine::units::{Bytes, Duration, Instant};

use super::World;
use crate::check::Watch;
use crate::cores::Work;
use crate::queue::{Event, Kind};
use crate::resident::EVERY;
use crate::setup::SimError;

impl<S: FnMut(&RequestRecord, &StartParts), W: Watch> World<'_, S, W> {
    fn agent(&self) -> Bytes {
        Bytes::from_mb(self.setup.profiles.costs.agent_mb)
    }

    /// The agent of a node takes memory that no sandbox can have.
    pub(super) fn agent_is_there(&mut self, now: Instant, node: NodeId) -> Result<(), SimError> {
        let used = self.agent();
        if used == Bytes::ZERO {
            return Ok(());
        }
        self.agents += used;
        self.tell(now, Input::NodeMemory { node, used })
    }

    pub(super) fn node_changes(&mut self, now: Instant, node: NodeId, lost: bool) -> Result<(), SimError> {
        if let Some(residents) = &mut self.residents {
            residents.is_there(node, !lost);
        }
        if !lost {
            self.tell(now, Input::NodeBack { node })?;
            return self.agent_is_there(now, node);
        }
        self.agents = self.agents.saturating_sub(self.agent());
        for base in self.memory.bases_on(node) {
            self.memory.remove_base(self.setup, base);
        }
        let there: Vec<SandboxId> = self.engine.sandboxes().filter(|s| s.2 == node).map(|s| s.0).collect();
        there.into_iter().for_each(|id| self.release(now, id));
        // Warm sandboxes elsewhere lose images that refer to the node.
        for slot in &mut self.slots {
            if slot.reduced.as_ref().is_some_and(|r| r.base.is_some_and(|(_, at)| at == node)) {
                slot.reduced = None;
            }
        }
        self.tell(now, Input::NodeLost { node })
    }

    /// What a sandbox that is being created lacks of its memory.
    pub(super) fn to_grow(&self, function: FunctionId) -> Bytes {
        self.setup.functions[function.index()].memory.scale(1.0 - self.setup.profile(function).starting)
    }

    /// A sandbox is created, or gone.
    #[inline]
    pub(super) fn has_grown(&mut self, id: SandboxId) {
        let slot = &mut self.slots[id.slot as usize];
        if std::mem::take(&mut slot.starting) {
            let function = FunctionId(slot.function);
            self.growing -= self.to_grow(function);
        }
    }

    /// A sandbox is gone; a request that it was serving may be started again.
    pub(super) fn release(&mut self, now: Instant, id: SandboxId) {
        if let Some(cores) = &mut self.cores {
            cores.stop(now, &mut self.queue, id.slot);
        }
        self.has_grown(id);
        self.resides(id, false);
        let slot = &mut self.slots[id.slot as usize];
        if std::mem::take(&mut slot.serving) {
            self.pending.insert(slot.request, slot.run);
        }
        slot.reduced = None;
        slot.generation = slot.generation.wrapping_add(1);
    }

    /// A sandbox that was purged ends.
    pub(super) fn ends(&mut self, now: Instant, id: SandboxId) {
        let slot = &self.slots[id.slot as usize];
        let (node, function) = (NodeId(slot.node), FunctionId(slot.function));
        let purge = &self.setup.profile(function).purge;
        let Some(ended) = self.ended.get_mut(node.index()).filter(|_| !purge.is_none()) else { return };
        self.operations += 1;
        let time = self.laws[self.profiles[function.index()] as usize].purge.draw(u64::MAX - self.operations);
        *ended = (*ended).max(now + time);
        if let Some(cores) = &mut self.cores {
            cores.burden(now, &mut self.queue, node, Duration::from_millis_f64(time.as_millis_f64() * purge.cores));
        }
    }

    /// How long what takes memory on a node waits for sandboxes that end there, as agents have it.
    pub(super) fn ending(&self, now: Instant, node: NodeId) -> Duration {
        self.ended.get(node.index()).map_or(Duration::ZERO, |at| at.since(now))
    }

    /// Memory of all nodes.
    #[inline]
    pub(super) fn memory_in_use(&self) -> Bytes {
        let charged = (self.engine.total_used() + self.agents).saturating_sub(self.growing);
        self.residents.as_ref().map_or(charged, |residents| residents.total(charged))
    }

    /// An operation that changes a sandbox's memory begins or ends.
    pub(super) fn moves(&mut self, id: SandboxId, begins: bool) {
        let Some(residents) = &mut self.residents else { return };
        let slot = &mut self.slots[id.slot as usize];
        if std::mem::replace(&mut slot.moving, begins) != begins {
            residents.moves(NodeId(slot.node), if begins { 1 } else { -1 });
        }
    }

    /// A sandbox has its memory from now on, or has it no more.
    pub(super) fn resides(&mut self, id: SandboxId, has: bool) {
        self.moves(id, false);
        let Some(residents) = &mut self.residents else { return };
        let slot = &mut self.slots[id.slot as usize];
        if std::mem::replace(&mut slot.resident, has) != has {
            residents.change(FunctionId(slot.function), NodeId(slot.node), if has { 1 } else { -1 });
        }
    }

    /// A node will measure its memory, where that is another than what is charged.
    pub(super) fn will_measure(&mut self, now: Instant, node: NodeId) {
        if self.residents.is_some() {
            self.queue.push(now + EVERY, SandboxId { generation: 0, slot: node.0 }, Kind::Measured);
        }
    }

    pub(super) fn measures(&mut self, now: Instant, node: NodeId) -> Result<(), SimError> {
        self.will_measure(now, node);
        let charged = self.engine.used(node) + self.agent();
        match self.residents.as_mut().and_then(|residents| residents.measured(now, node, charged)) {
            Some(used) => self.tell(now, Input::NodeMemory { node, used }),
            None => Ok(()),
        }
    }

    /// A checkpoint, drawn by the number of the operation.
    pub(super) fn checkpoint_work(&mut self, function: FunctionId) -> Work {
        self.operations += 1;
        let time = self.laws_of(function).checkpoint.draw(u64::MAX - self.operations);
        Work::of(time, self.setup.profile(function).checkpoint.cores)
    }

    /// A restore without a request: a process is brought to its paused state.
    pub(super) fn pause_work(&mut self, function: FunctionId) -> Work {
        self.operations += 1;
        let time = self.laws_of(function).restore.draw(u64::MAX - self.operations);
        Work::of(time, self.setup.profile(function).restore.cores)
    }

    /// Work on shared cores that is done happens; a request whose sandbox can run now does.
    pub(super) fn cores_are_done(&mut self, at: Instant, pool: u32) -> Result<(), SimError> {
        while let Some((sandbox, kind, began)) = self.cores.as_mut().and_then(|c| c.done(at, &mut self.queue, pool)) {
            let slot = &mut self.slots[sandbox.slot as usize];
            if slot.serving && kind != Kind::Finished {
                let alone = std::mem::replace(&mut slot.start, at.since(began));
                let (request, run, node, start) = (slot.request, slot.run, NodeId(slot.node), slot.start);
                let control_cores = self.laws[self.profiles[slot.function as usize] as usize].control_cores;
                if let Some(parts) = self.parts.as_mut().and_then(|all| all.get_mut(&request)) {
                    parts.stretch(alone, start, control_cores);
                }
                self.begin(at, sandbox, node, Kind::Finished, Work::of(run, 1.0));
            }
            self.happens(Event { at, sandbox, kind })?;
        }
        Ok(())
    }
}
