//! Sandboxes: what happens to them after they are given a request, and what the policy makes of idle ones.

use super::{Engine, START_WEIGHT, UNKNOWN_DEDUP_START_MS};
use crate::config::DedupScope;
use crate::event::{Action, Method, PurgeReason};
use crate::id::{FunctionId, NodeId, SandboxId};
use crate::policy::{ClusterView, Form, FunctionView, Prewarm, SandboxView, Verdict, greedy_dual_priority};
use crate::record::{Outcome, RequestRecord, StartKind};
use crate::sandbox::{Assignment, Image, List, NIL, Sandbox, State, Transition};
use crate::units::{Bytes, Duration, Instant};

/// A policy that asks to be asked again at once is asked after this time.
const SHORTEST_STAY: Duration = Duration::from_millis(1);

/// Which of its function's counts a sandbox belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    None,
    Warm,
    Base,
    Dedup,
}

fn class(s: &Sandbox) -> Class {
    match s.state {
        State::Cold | State::Purged => Class::None,
        State::Dedup | State::InTransition(Transition::Reducing) => Class::Dedup,
        // Counted from the decision on, so that one function does not get two bases for one reason.
        State::Base | State::InTransition(Transition::Checkpointing) => Class::Base,
        _ if s.is_base => Class::Base,
        _ => Class::Warm,
    }
}

impl Engine {
    /// Moves a sandbox to another state and keeps all counts.
    #[inline]
    pub(super) fn enter(&mut self, slot: usize, next: State, now: Instant) {
        let s = &mut self.sandboxes[slot];
        // Nearly all moves are these two, and change none of the function's counts.
        match (s.state, next) {
            (State::Warm, State::Running) => {
                s.enter(next, now);
                self.population.warm -= 1;
                self.population.busy += 1;
            }
            (State::Running, State::Warm) => {
                s.enter(next, now);
                self.population.busy -= 1;
                self.population.warm += 1;
            }
            _ => self.enter_rarely(slot, next, now),
        }
    }

    fn enter_rarely(&mut self, slot: usize, next: State, now: Instant) {
        let s = &mut self.sandboxes[slot];
        let (class_before, kind_before) = (class(s), (s.state, s.is_base));
        s.enter(next, now);
        match (kind_before.0, next) {
            (_, State::Base) => s.is_base = true,
            (_, State::Purged) | (State::Base, State::Warm) => s.is_base = false,
            _ => {}
        }
        let (class_after, kind_after) = (class(s), (s.state, s.is_base));
        if class_before != class_after {
            let f = &mut self.functions[s.function.index()];
            for (class, step) in [(class_before, -1), (class_after, 1)] {
                let count = match class {
                    Class::None => continue,
                    Class::Warm => &mut f.count_warm,
                    Class::Base => &mut f.count_base,
                    Class::Dedup => &mut f.count_dedup,
                };
                *count = count.saturating_add_signed(step);
            }
        }
        if kind_before.1 != kind_after.1 {
            let owner = self.functions[self.sandboxes[slot].function.index()].spec.owner;
            let step = if kind_after.1 { 1 } else { -1 };
            let of_owner = self.bases_by_owner.entry(owner).or_default();
            *of_owner = of_owner.saturating_add_signed(step);
            self.bases = self.bases.saturating_add_signed(step);
        }
        for ((state, is_base), step) in [(kind_before, -1), (kind_after, 1)] {
            let count = match state {
                State::Cold | State::Purged => continue,
                _ if is_base => &mut self.population.base,
                State::Warm => &mut self.population.warm,
                State::Dedup => &mut self.population.dedup,
                _ => &mut self.population.busy,
            };
            *count = count.saturating_add_signed(step);
        }
    }

    pub(super) fn started(&mut self, now: Instant, id: SandboxId) {
        let Some(slot) = self.slot(id) else { return };
        if self.sandboxes[slot].state != State::Starting {
            return;
        }
        if self.sandboxes[slot].current().is_some() {
            self.enter(slot, State::Running, now);
            return;
        }
        // Created ahead of a request.
        let function = self.sandboxes[slot].function;
        self.sandboxes[slot].idle_since = now;
        self.enter(slot, State::Warm, now);
        if let Some((request, waiting)) = self.take_waiting(function) {
            self.run_warm(now, slot, request, waiting);
            return;
        }
        self.link(slot, List::Warm);
        self.settle_account(slot);
        let keep = self.functions[function.index()].prewarm_keep;
        self.set_deadline(slot, now + keep);
    }

    pub(super) fn restored(&mut self, now: Instant, id: SandboxId) {
        let Some(slot) = self.slot(id) else { return };
        if self.sandboxes[slot].state == State::InTransition(Transition::Restoring) {
            let node = self.sandboxes[slot].node;
            self.nodes[node.index()].restores -= 1;
            self.enter(slot, State::Running, now);
            self.settle_account(slot);
        }
    }

    #[inline(always)]
    pub(super) fn finished(&mut self, now: Instant, id: SandboxId, start: Duration) {
        let slot = id.slot as usize;
        let Some(s) = self.sandboxes.get_mut(slot) else { return };
        if s.generation != id.generation || s.state != State::Running {
            return;
        }
        let Some(a) = s.take_current() else { return };
        let chosen = s.since;
        s.uses = s.uses.saturating_add(1);
        s.decisions = 0;
        s.idle_since = now;
        let (function, node) = (s.function, s.node);
        let f = &mut self.functions[function.index()];
        f.count_busy -= 1;
        let start_ms = start.as_millis_f64();
        match a.kind {
            StartKind::Warm => f.warm_start_ms += START_WEIGHT * (start_ms - f.warm_start_ms),
            StartKind::Dedup => {
                let before = f.dedup_start_ms.unwrap_or(start_ms);
                f.dedup_start_ms = Some(before + START_WEIGHT * (start_ms - before));
            }
            StartKind::Cold => {}
        }
        if self.eviction.weighs {
            let clock = self.nodes[node.index()].clock;
            s.priority = greedy_dual_priority(clock, u64::from(s.uses), f.start_cost_ms, f.memory_mb);
        }
        self.counters.answered += 1;
        self.records.push_back(RequestRecord {
            request: a.request,
            function,
            node: Some(node),
            arrived: a.arrived,
            outcome: Outcome::Answered,
            kind: Some(a.kind),
            wait: chosen.since(a.arrived),
            start,
            run: now.since(chosen).saturating_sub(start),
        });
        if s.is_base || !self.waiting.is_empty() || self.config.reuseperiod > Duration::ZERO {
            self.fall_idle(now, slot);
            if !self.waiting.is_empty() {
                self.serve_waiting(now);
            }
            return;
        }
        // Nearly always: to the end of the list of warm ones, in one go. The same as [`Self::fall_idle`].
        s.enter(State::Warm, now);
        self.population.busy -= 1;
        self.population.warm += 1;
        s.list = List::Warm;
        s.prev = std::mem::replace(&mut f.warm.tail, id.slot);
        let (before, in_heap) = (s.prev, s.heap_entry != 0);
        if !s.evictable && s.charged > Bytes::ZERO {
            s.evictable = true;
            let node = &mut self.nodes[node.index()];
            node.evictable += s.charged;
            if !node.reachable_dirty {
                node.reachable_dirty = true;
                self.reachable_dirty.push(s.node);
            }
            if !in_heap {
                self.offer_victim(slot, false);
            }
        }
        if before == NIL {
            self.functions[function.index()].warm.head = id.slot;
        } else {
            self.sandboxes[before as usize].next = id.slot;
        }
        self.ask_policy(now, slot, function, false);
    }

    /// A sandbox has no request any more: the next one of its function, or idle.
    #[inline(never)]
    fn fall_idle(&mut self, now: Instant, slot: usize) {
        let (function, is_base) = (self.sandboxes[slot].function, self.sandboxes[slot].is_base);
        self.enter(slot, if is_base { State::Base } else { State::Warm }, now);
        if !self.waiting.is_empty()
            && let Some((request, waiting)) = self.take_waiting(function)
        {
            self.run_warm(now, slot, request, waiting);
            return;
        }
        let list = match is_base {
            true => List::Base,
            false if self.config.reuseperiod > Duration::ZERO => List::Cooling,
            false => List::Warm,
        };
        self.link(slot, list);
        self.settle_list(slot);
        self.ask_policy(now, slot, function, is_base);
    }

    /// Asks the policy what is to be of a sandbox that has just fallen idle.
    #[inline(always)]
    fn ask_policy(&mut self, now: Instant, slot: usize, function: FunctionId, is_base: bool) {
        let idle = self.policy.on_idle(now, function, is_base);
        if let Some(prewarm) = idle.prewarm {
            self.plan_prewarm(now, function, prewarm);
        }
        if idle.ask_in == Duration::ZERO && self.sandboxes[slot].references == 0 {
            self.counters.purged += 1;
            self.purge(now, slot, PurgeReason::Policy);
        } else {
            self.set_deadline(slot, now + idle.ask_in);
        }
    }

    #[inline(never)]
    fn plan_prewarm(&mut self, now: Instant, function: FunctionId, prewarm: Prewarm) {
        let f = &mut self.functions[function.index()];
        f.prewarm_at = now + prewarm.after;
        f.prewarm_keep = prewarm.keep;
        let at = f.prewarm_at;
        self.prewarms.push(std::cmp::Reverse((at, function)));
        self.next_deadline = self.next_deadline.min(at);
    }

    /// An entry of the timer heap fires.
    pub(super) fn timer(&mut self, now: Instant, at: Instant, slot: u32, generation: u32) {
        let Some(slot) = self.slot(SandboxId { generation, slot }) else { return };
        let s = &mut self.sandboxes[slot];
        if s.timer != at {
            return;
        }
        s.timer = Instant::FAR;
        if !s.state.is_idle() {
            return; // The deadline is set anew when it falls idle.
        }
        if s.deadline > now {
            let deadline = s.deadline;
            self.set_deadline(slot, deadline);
            return;
        }
        self.decide(now, slot);
    }

    fn decide(&mut self, now: Instant, slot: usize) {
        self.roll_rates(now);
        let s = &self.sandboxes[slot];
        let f = &self.functions[s.function.index()];
        let form = match s.state {
            State::Dedup => Form::Dedup,
            _ if s.is_base => Form::Base,
            _ => Form::Warm,
        };
        let sandbox = SandboxView {
            form,
            idle: now.since(s.idle_since),
            decisions: s.decisions,
            references: s.references,
            blacklisted: s.blacklisted,
        };
        let mean_rate = f.rates.as_ref().map_or(0.0, crate::rate::RateWindow::mean_per_s);
        let function = FunctionView {
            function: s.function,
            spec: &f.spec,
            warm: f.count_warm,
            base: f.count_base,
            dedup: f.count_dedup,
            warm_start_ms: f.warm_start_ms,
            dedup_start_ms: f.dedup_start_ms.unwrap_or(UNKNOWN_DEDUP_START_MS),
            peak_rate: f.peak_rate,
            mean_rate,
        };
        let base_ready = match self.config.dedup_scope {
            DedupScope::Function => f.count_base > 0,
            DedupScope::Owner => self.bases_by_owner.get(&f.spec.owner).is_some_and(|n| *n > 0),
            DedupScope::Cluster => self.bases > 0,
        };
        let cluster = ClusterView { memory: self.total_cap, peak_rates: self.peak_rates, base_ready };
        let verdict = self.policy.decide(now, &sandbox, &function, &cluster);
        self.sandboxes[slot].decisions = self.sandboxes[slot].decisions.saturating_add(1);
        let done = match verdict {
            Verdict::Stay(time) => {
                self.set_deadline(slot, now + time.max(SHORTEST_STAY));
                true
            }
            Verdict::Purge if sandbox.references == 0 => {
                self.counters.purged += 1;
                self.purge(now, slot, PurgeReason::Policy);
                true
            }
            Verdict::Dedup if form == Form::Warm => self.reduce(now, slot, Method::Patches),
            Verdict::Compress if form == Form::Warm => self.reduce(now, slot, Method::Compression),
            Verdict::Base if form == Form::Warm => self.checkpoint(now, slot),
            // No move of the life cycle: asked again later.
            _ => false,
        };
        if !done {
            self.set_deadline(slot, now + self.config.idletime.max(SHORTEST_STAY));
        }
        if !self.waiting.is_empty() {
            self.serve_waiting(now);
        }
    }

    fn reduce(&mut self, now: Instant, slot: usize, method: Method) -> bool {
        self.unlink(slot);
        self.enter(slot, State::InTransition(Transition::Reducing), now);
        self.settle_account(slot);
        let Sandbox { node, function, ref image, .. } = self.sandboxes[slot];
        let again = image.is_some();
        self.actions.push_back(Action::Reduce { sandbox: self.id(slot), node, function, method, again });
        true
    }

    /// Demarcates a base if there is, or can be made, room for its dump.
    fn checkpoint(&mut self, now: Instant, slot: usize) -> bool {
        let Sandbox { node, function, .. } = self.sandboxes[slot];
        let dump = self.functions[function.index()].spec.dump;
        let list = self.sandboxes[slot].list;
        self.unlink(slot);
        self.settle_account(slot);
        if !self.make_room(now, node, dump) {
            self.link(slot, list);
            self.settle_account(slot);
            return false;
        }
        self.release_image(slot);
        self.enter(slot, State::InTransition(Transition::Checkpointing), now);
        self.settle_account(slot);
        self.actions.push_back(Action::Checkpoint { sandbox: self.id(slot), node, function });
        true
    }

    /// Takes the memory of an idle base's dump back; nothing depends on it.
    pub(super) fn give_up(&mut self, now: Instant, slot: usize) {
        self.counters.bases_given_up += 1;
        self.unlink(slot);
        self.enter(slot, State::Warm, now);
        self.sandboxes[slot].dump = Bytes::ZERO;
        self.link(slot, List::Warm);
        self.settle_account(slot);
        let ask_in = self.config.idletime;
        self.set_deadline(slot, now + ask_in);
        let Sandbox { node, function, .. } = self.sandboxes[slot];
        self.actions.push_back(Action::GiveUp { sandbox: self.id(slot), node, function });
    }

    pub(super) fn checkpointed(&mut self, now: Instant, id: SandboxId, dump: Bytes) {
        let Some(slot) = self.slot(id) else { return };
        if self.sandboxes[slot].state != State::InTransition(Transition::Checkpointing) {
            return;
        }
        self.counters.bases += 1;
        // Those who wait may have this one given up (see `unpin`).
        self.next_deadline = self.next_deadline.min(now);
        self.sandboxes[slot].dump = dump;
        self.enter(slot, State::Base, now);
        self.rest(now, slot, List::Base, Form::Base);
    }

    pub(super) fn reduced(&mut self, now: Instant, id: SandboxId, stored: Bytes, bases: Vec<SandboxId>) {
        let Some(slot) = self.slot(id) else { return };
        if self.sandboxes[slot].state != State::InTransition(Transition::Reducing) {
            return;
        }
        if self.sandboxes[slot].image.is_none() {
            if bases.iter().any(|b| self.get(*b).is_none_or(|b| !b.is_base)) {
                // A base went while the patches were made: they can never be applied.
                self.counters.lost += 1;
                self.purge(now, slot, PurgeReason::BaseLost);
                self.serve_waiting(now);
                return;
            }
            for base in &bases {
                let base = base.slot as usize;
                self.sandboxes[base].references += 1;
                self.settle_account(base);
            }
            self.sandboxes[slot].image = Some(Box::new(Image { stored, bases }));
        }
        self.counters.reductions += 1;
        self.enter(slot, State::Dedup, now);
        self.rest(now, slot, List::Dedup, Form::Dedup);
    }

    /// A sandbox is idle again after a transition.
    fn rest(&mut self, now: Instant, slot: usize, list: List, form: Form) {
        let function = self.sandboxes[slot].function;
        self.link(slot, list);
        self.settle_account(slot);
        let ask_in = self.policy.after_transition(function, form);
        self.set_deadline(slot, now + ask_in);
        self.serve_waiting(now);
    }

    pub(super) fn failed(&mut self, now: Instant, id: SandboxId) {
        let Some(slot) = self.slot(id) else { return };
        let Sandbox { state, function, references, .. } = self.sandboxes[slot];
        let current = self.sandboxes[slot].current();
        match state {
            State::InTransition(Transition::Checkpointing | Transition::Reducing) => {
                self.sandboxes[slot].blacklisted = true;
                self.enter(slot, State::Warm, now);
                self.link(slot, List::Warm);
                self.settle_account(slot);
                self.set_deadline(slot, now + self.config.idletime);
            }
            State::Starting | State::Running | State::InTransition(Transition::Restoring) => {
                let mut orphans: Vec<_> = current.map(|a| (function, a)).into_iter().collect();
                self.purge(now, slot, PurgeReason::Failed);
                if references > 0 {
                    self.purge_broken(now, &mut orphans, Self::needs_what_is_gone);
                }
                self.retry_all(now, orphans);
            }
            State::Cold | State::Warm | State::Base | State::Dedup | State::Purged => return,
        }
        self.serve_waiting(now);
    }

    pub(super) fn node_memory(&mut self, now: Instant, id: NodeId, used: Bytes) {
        let Some(node) = self.nodes.get_mut(id.index()) else { return };
        node.foreign = used.saturating_sub(node.used);
        self.touch_node(id);
        self.serve_waiting(now);
    }

    pub(super) fn node_lost(&mut self, now: Instant, id: NodeId) {
        if self.nodes.get(id.index()).is_none_or(|n| !n.alive) {
            return;
        }
        self.nodes[id.index()].alive = false;
        self.total_cap -= self.nodes[id.index()].cap;
        self.touch_node(id);
        let mut orphans = Vec::new();
        for slot in 0..self.sandboxes.len() {
            let s = &self.sandboxes[slot];
            if s.node == id && s.state != State::Purged {
                orphans.extend(s.current().map(|a| (s.function, a)));
                self.counters.lost += 1;
                self.remove(now, slot);
            }
        }
        self.purge_broken(now, &mut orphans, Self::needs_what_is_gone);
        self.retry_all(now, orphans);
        self.serve_waiting(now);
    }

    /// What a node has that is patched against another's bases turns cold: it cannot read them any more.
    pub(super) fn bases_lost(&mut self, now: Instant, reader: NodeId, owner: NodeId) {
        let mut orphans = Vec::new();
        let of_owner = |e: &Self, base: &SandboxId| e.get(*base).is_some_and(|b| b.node == owner);
        self.purge_broken(now, &mut orphans, |e, s, image| {
            s.node == reader && image.bases.iter().any(|base| of_owner(e, base))
        });
        self.retry_all(now, orphans);
        self.serve_waiting(now);
    }

    fn needs_what_is_gone(&self, _: &Sandbox, image: &Image) -> bool {
        image.bases.iter().any(|base| self.get(*base).is_none())
    }

    fn retry_all(&mut self, now: Instant, mut orphans: Vec<(FunctionId, Assignment)>) {
        orphans.sort_by_key(|(_, a)| a.request);
        for (function, assignment) in orphans {
            self.retry(now, function, assignment);
        }
    }

    /// Removes what is patched against pages that cannot be had: it can never be restored.
    fn purge_broken(
        &mut self,
        now: Instant,
        orphans: &mut Vec<(FunctionId, Assignment)>,
        broken: impl Fn(&Self, &Sandbox, &Image) -> bool,
    ) {
        for slot in 0..self.sandboxes.len() {
            let s = &self.sandboxes[slot];
            let broken = s.image.as_ref().is_some_and(|image| broken(self, s, image));
            if !broken || s.state == State::Purged {
                continue;
            }
            match s.state {
                State::Dedup | State::InTransition(Transition::Restoring | Transition::Reducing) => {
                    orphans.extend(s.current().map(|a| (s.function, a)));
                    self.counters.lost += 1;
                    self.purge(now, slot, PurgeReason::BaseLost);
                }
                _ => {
                    self.release_image(slot);
                    self.settle_account(slot);
                }
            }
        }
    }

    pub(super) fn node_back(&mut self, now: Instant, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id.index()) else { return };
        if !node.alive {
            self.total_cap += node.cap;
        }
        node.alive = true;
        node.foreign = Bytes::ZERO;
        self.touch_node(id);
        self.serve_waiting(now);
    }
}

impl Engine {
    /// Sandboxes of a function that are warm, base and dedup, as the policy counts them.
    pub fn counts(&self, function: FunctionId) -> (u32, u32, u32) {
        let f = &self.functions[function.index()];
        (f.count_warm, f.count_base, f.count_dedup)
    }
}
