//! Requests: given to a warm sandbox, a dedup sandbox or a new one, or made to wait.

use super::{Engine, Function, PURGED, Waiting};
use crate::ahead;
use crate::event::{Action, PurgeReason};
use crate::id::{FunctionId, NodeId, RequestId, SandboxId};
use crate::record::{Outcome, RequestRecord, StartKind};
use crate::sandbox::{Assignment, List, NIL, Sandbox, State, Transition};
use crate::units::{Bytes, Duration, Instant};

/// Dedup sandboxes of a function that are looked at for one request: those beyond are on nodes that are
/// busy restoring or full as well.
const DEDUP_CANDIDATES: usize = 8;

impl Engine {
    #[inline(always)]
    pub(super) fn arrived(&mut self, now: Instant, request: RequestId, function: FunctionId) {
        self.counters.arrived += 1;
        if self.rated {
            self.count_arrival(now, function);
        }
        let f = &mut self.functions[function.index()];
        f.prewarm_at = Instant::FAR;
        if self.tells_arrivals {
            self.policy.on_arrival(now, function, f.count_busy);
        }
        // Nearly every request. Nobody who waits could have this sandbox.
        if f.warm.tail != NIL && f.cooling.head == NIL {
            return self.run_last_used(now, request, function);
        }
        self.start_otherwise(now, request, function);
    }

    /// Starts a request that has just arrived and has no warm sandbox at hand.
    #[inline(never)]
    fn start_otherwise(&mut self, now: Instant, request: RequestId, function: FunctionId) {
        let waiting = Waiting { function, arrived: now, attempts: 0, waited: false };
        self.start_or_wait(now, request, waiting);
    }

    /// Gives a request that has just arrived to the warm sandbox of its function that was used last. The same as
    /// [`Self::run_warm`] for any of them, in one go.
    #[inline(always)]
    fn run_last_used(&mut self, now: Instant, request: RequestId, function: FunctionId) {
        let f = &mut self.functions[function.index()];
        let slot = f.warm.tail;
        let Some(s) = self.sandboxes.get_mut(slot as usize) else { return };
        f.warm.tail = s.prev;
        if s.prev == NIL {
            f.warm.head = NIL;
        }
        f.count_busy += 1;
        s.list = List::None;
        s.assign(now, Assignment { request, arrived: now, kind: StartKind::Warm, attempts: 0, waited: false });
        s.enter(State::Running, now);
        self.counters.warm += 1;
        self.population.warm -= 1;
        self.population.busy += 1;
        if std::mem::replace(&mut s.evictable, false) {
            let node = &mut self.nodes[s.node.index()];
            node.evictable -= s.charged;
            if !node.reachable_dirty {
                node.reachable_dirty = true;
                self.reachable_dirty.push(s.node);
            }
        }
        let sandbox = SandboxId { generation: s.generation, slot };
        self.actions.push_back(Action::Run { sandbox, node: s.node, function, request });
    }

    /// Starts a request, or lets it wait. Others that wait for memory go first; a warm sandbox of its own
    /// function is not theirs to take.
    #[inline]
    pub(super) fn start_or_wait(&mut self, now: Instant, request: RequestId, waiting: Waiting) {
        let started = if self.waiting.is_empty() {
            self.try_start(now, request, waiting)
        } else {
            self.try_warm(now, request, waiting)
        };
        if !started {
            self.wait(request, waiting);
        }
    }

    fn wait(&mut self, request: RequestId, waiting: Waiting) {
        if !waiting.waited {
            self.counters.queued += 1;
        }
        self.waiting.insert(request, Waiting { waited: true, ..waiting });
        let due = self.unpin_due(waiting.arrived).min(waiting.arrived + self.config.queue_deadline);
        self.next_deadline = self.next_deadline.min(due);
        let queue = &mut self.functions[waiting.function.index()].waiting;
        let at = queue.partition_point(|r| *r < request);
        queue.insert(at, request);
    }

    /// Lets waiting requests have what has become free, first come, first served.
    pub(super) fn serve_waiting(&mut self, now: Instant) {
        while let Some((request, waiting)) = self.waiting.first_key_value().map(|(r, w)| (*r, *w)) {
            if !self.try_start(now, request, waiting) {
                return;
            }
            self.forget_waiting(request, waiting);
        }
    }

    pub(super) fn forget_waiting(&mut self, request: RequestId, waiting: Waiting) {
        self.waiting.remove(&request);
        let queue = &mut self.functions[waiting.function.index()].waiting;
        let at = queue.partition_point(|r| *r < request);
        queue.remove(at);
    }

    pub(super) fn drop_waiting(&mut self, now: Instant, request: RequestId, waiting: Waiting) {
        self.forget_waiting(request, waiting);
        self.counters.dropped += 1;
        self.record_unanswered(now, request, waiting, Outcome::Dropped);
    }

    fn record_unanswered(&mut self, now: Instant, request: RequestId, waiting: Waiting, outcome: Outcome) {
        self.records.push_back(RequestRecord {
            request,
            function: waiting.function,
            node: None,
            arrived: waiting.arrived,
            outcome,
            kind: None,
            wait: now.since(waiting.arrived),
            start: Duration::ZERO,
            run: Duration::ZERO,
        });
    }

    /// Gives a request whose sandbox failed another one, or reports it failed.
    pub(super) fn retry(&mut self, now: Instant, function: FunctionId, a: Assignment) {
        let waiting = Waiting { function, arrived: a.arrived, attempts: a.attempts + 1, waited: a.waited };
        if waiting.attempts >= super::MAX_ATTEMPTS {
            self.counters.failed += 1;
            self.record_unanswered(now, a.request, waiting, Outcome::Failed);
        } else {
            self.start_or_wait(now, a.request, waiting);
        }
    }

    /// The next waiting request of a function, taken out of the queue.
    pub(super) fn take_waiting(&mut self, function: FunctionId) -> Option<(RequestId, Waiting)> {
        let request = self.functions[function.index()].waiting.pop_front()?;
        self.waiting.remove(&request).map(|w| (request, w))
    }

    #[inline]
    pub(super) fn try_start(&mut self, now: Instant, request: RequestId, waiting: Waiting) -> bool {
        self.try_warm(now, request, waiting) || self.try_others(now, request, waiting)
    }

    /// Out of the way of warm starts, which are nearly all.
    #[inline(never)]
    fn try_others(&mut self, now: Instant, request: RequestId, waiting: Waiting) -> bool {
        self.try_dedup(now, request, waiting) || self.try_cold(now, request, waiting)
    }

    #[inline]
    fn try_warm(&mut self, now: Instant, request: RequestId, waiting: Waiting) -> bool {
        if self.functions[waiting.function.index()].cooling.head != NIL {
            self.cool_down(now, waiting.function);
        }
        let f = &self.functions[waiting.function.index()];
        let slot = if f.warm.tail == NIL { f.bases.tail } else { f.warm.tail };
        if slot == NIL {
            return false;
        }
        self.run_warm(now, slot as usize, request, waiting);
        true
    }

    /// Runs a request on an idle sandbox that has its memory.
    #[inline]
    pub(super) fn run_warm(&mut self, now: Instant, slot: usize, request: RequestId, waiting: Waiting) {
        self.unlink(slot);
        self.assign(now, slot, request, waiting, StartKind::Warm);
        self.enter(slot, State::Running, now);
        self.settle_list(slot);
        let Sandbox { node, function, generation, .. } = self.sandboxes[slot];
        let sandbox = SandboxId { generation, slot: slot as u32 };
        self.actions.push_back(Action::Run { sandbox, node, function, request });
    }

    fn try_dedup(&mut self, now: Instant, request: RequestId, waiting: Waiting) -> bool {
        let mut at = self.functions[waiting.function.index()].dedup.tail;
        for _ in 0..DEDUP_CANDIDATES {
            if at == NIL {
                return false;
            }
            let slot = at as usize;
            let s = &self.sandboxes[slot];
            let node = &self.nodes[s.node.index()];
            let spec = &self.functions[s.function.index()].spec;
            let stored = s.image.as_ref().map_or(Bytes::ZERO, |i| i.stored);
            let need = (spec.memory + stored).saturating_sub(s.charged);
            let cool = s.since + self.config.reuseperiod <= now;
            let room = self.free_on(s.node) + (node.evictable.saturating_sub(s.frees()));
            if cool && node.restores < self.config.dedup_starts && room >= need {
                let id = s.node;
                let function = s.function;
                self.unlink(slot);
                self.settle_account(slot);
                if self.make_room(now, id, need) {
                    self.assign(now, slot, request, waiting, StartKind::Dedup);
                    self.enter(slot, State::InTransition(Transition::Restoring), now);
                    self.settle_account(slot);
                    self.nodes[id.index()].restores += 1;
                    self.actions.push_back(Action::Restore { sandbox: self.id(slot), node: id, function, request });
                    return true;
                }
                self.link(slot, List::Dedup);
                self.settle_account(slot);
                return false;
            }
            at = s.prev;
        }
        false
    }

    fn try_cold(&mut self, now: Instant, request: RequestId, waiting: Waiting) -> bool {
        let need = self.functions[waiting.function.index()].spec.memory;
        self.settle_free();
        let node = match self.placement.pick(&self.free, waiting.function, need) {
            Some(node) => node,
            None => {
                self.settle_reachable();
                let Some(node) = self.placement.pick(&self.reachable, waiting.function, need) else { return false };
                if !self.make_room(now, node, need) {
                    return false;
                }
                node
            }
        };
        let slot = self.spawn(now, waiting.function, node);
        self.assign(now, slot, request, waiting, StartKind::Cold);
        let (sandbox, function) = (self.id(slot), waiting.function);
        self.actions.push_back(Action::Spawn { sandbox, node, function, request: Some(request) });
        true
    }

    /// Creates a sandbox ahead of a request, if there is room for it without eviction.
    pub(super) fn prewarm(&mut self, now: Instant, function: FunctionId) {
        let f = &mut self.functions[function.index()];
        f.prewarm_at = Instant::FAR;
        let Function { warm, cooling, bases, .. } = f;
        let idle = [warm.head, cooling.head, bases.head].iter().any(|h| *h != NIL);
        if idle || f.count_busy > 0 || !self.waiting.is_empty() {
            return;
        }
        let need = f.spec.memory;
        self.settle_free();
        if let Some(node) = self.placement.pick(&self.free, function, need) {
            let slot = self.spawn(now, function, node);
            self.counters.prewarmed += 1;
            self.actions.push_back(Action::Spawn { sandbox: self.id(slot), node, function, request: None });
        }
    }

    fn spawn(&mut self, now: Instant, function: FunctionId, node: NodeId) -> usize {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                let generation = self.sandboxes[slot as usize].generation + 1;
                self.sandboxes[slot as usize] = Sandbox::new(generation, function, node, now);
                slot as usize
            }
            None => {
                ahead::make_room(&mut self.sandboxes);
                self.sandboxes.push(Sandbox::new(0, function, node, now));
                self.sandboxes.len() - 1
            }
        };
        self.enter(slot, State::Starting, now);
        self.settle_account(slot);
        slot
    }

    #[inline]
    fn assign(&mut self, now: Instant, slot: usize, request: RequestId, waiting: Waiting, kind: StartKind) {
        match kind {
            StartKind::Cold => self.counters.cold += 1,
            StartKind::Warm => self.counters.warm += 1,
            StartKind::Dedup => self.counters.dedup += 1,
        }
        let s = &mut self.sandboxes[slot];
        let Waiting { arrived, attempts, waited, .. } = waiting;
        s.assign(now, Assignment { request, arrived, kind, attempts, waited });
        self.functions[waiting.function.index()].count_busy += 1;
    }

    /// Evicts on a node until `need` is free; `false`, and nothing evicted, if that is out of reach.
    pub(super) fn make_room(&mut self, now: Instant, id: NodeId, need: Bytes) -> bool {
        let node = &self.nodes[id.index()];
        if !node.alive || (node.used + node.foreign + need).saturating_sub(node.evictable) > node.cap {
            return false;
        }
        let mut fresh = Vec::new();
        while self.free_on(id) < need {
            let Some(slot) = self.next_victim(now, id, &mut fresh) else { break };
            if self.sandboxes[slot].is_base {
                // Its dump first: a warm sandbox is left that still serves, and still can go.
                self.give_up(now, slot);
                continue;
            }
            let priority = self.sandboxes[slot].priority;
            let node = &mut self.nodes[id.index()];
            node.clock = node.clock.max(priority);
            self.counters.evictions += 1;
            self.purge(now, slot, PurgeReason::Evicted);
        }
        self.hand_back(id, fresh);
        self.free_on(id) >= need
    }

    /// Removes a sandbox and lets go of what it held.
    pub(super) fn purge(&mut self, now: Instant, slot: usize, reason: PurgeReason) {
        let Sandbox { node, function, .. } = self.sandboxes[slot];
        self.actions.push_back(Action::Purge { sandbox: self.id(slot), node, function, reason });
        self.remove(now, slot);
    }

    /// Removes a sandbox without telling the world.
    pub(super) fn remove(&mut self, now: Instant, slot: usize) {
        self.release_image(slot);
        self.unlink(slot);
        self.withdraw_victim(slot);
        if self.sandboxes[slot].state == State::InTransition(Transition::Restoring) {
            let node = self.sandboxes[slot].node;
            self.nodes[node.index()].restores -= 1;
        }
        if self.sandboxes[slot].take_current().is_some() {
            self.functions[self.sandboxes[slot].function.index()].count_busy -= 1;
        }
        self.enter(slot, PURGED, now);
        self.settle_account(slot);
        self.vacant.push(slot as u32);
    }

    /// Drops what was kept of a sandbox's pages, and its claim on bases.
    pub(super) fn release_image(&mut self, slot: usize) {
        let Some(image) = self.sandboxes[slot].image.take() else { return };
        for base in image.bases {
            self.release_base(base);
        }
    }

    fn release_base(&mut self, base: SandboxId) {
        if let Some(slot) = self.slot(base) {
            self.sandboxes[slot].references -= 1;
            self.settle_account(slot);
        }
    }
}
