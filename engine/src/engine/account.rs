//! Accounts: what sandboxes cost their nodes, which of them could go, lists of idle ones, rates.

use std::cmp::Reverse;

use super::{Chain, Engine, PURGED};
use crate::eviction::{Candidate, Entry, Key, warm_per_rate};
use crate::id::{FunctionId, NodeId, SandboxId};
use crate::sandbox::{List, NIL, Sandbox, State, Transition};
use crate::units::{Bytes, Duration, Instant};

impl Engine {
    /// What a sandbox in its present state costs its node.
    fn charge_of(&self, s: &Sandbox) -> Bytes {
        let spec = &self.functions[s.function.index()].spec;
        let image = s.image.as_ref().map_or(Bytes::ZERO, |i| i.stored);
        match s.state {
            State::Cold | State::Purged => Bytes::ZERO,
            State::Dedup => image + if self.config.nopause { Bytes::ZERO } else { spec.paused },
            State::InTransition(Transition::Checkpointing) => spec.memory + image + spec.dump,
            _ => spec.memory + image + s.dump,
        }
    }

    /// Brings the accounts of a sandbox's node up to date after any change of the sandbox.
    pub(super) fn settle_account(&mut self, slot: usize) {
        let charge = self.charge_of(&self.sandboxes[slot]);
        let s = &mut self.sandboxes[slot];
        let can_go = s.may_go();
        let (frees, freed) = (if can_go { charge } else { Bytes::ZERO }, s.frees());
        s.evictable = frees > Bytes::ZERO;
        if s.charged == charge && freed == frees {
            return;
        }
        let frees_less = charge < s.charged;
        let node = &mut self.nodes[s.node.index()];
        node.used = node.used + charge - s.charged;
        self.total_used = self.total_used + charge - s.charged;
        node.evictable = node.evictable + frees - freed;
        s.charged = charge;
        let node = s.node;
        self.touch_node(node);
        if can_go {
            self.offer_victim(slot, frees_less);
        }
    }

    /// As [`Self::settle_account`] where nothing but the list of a sandbox changed: running or idle, its charge is the same.
    #[inline]
    pub(super) fn settle_list(&mut self, slot: usize) {
        let s = &mut self.sandboxes[slot];
        let can_go = s.may_go() && s.charged > Bytes::ZERO;
        if s.evictable == can_go {
            return;
        }
        s.evictable = can_go;
        let node = &mut self.nodes[s.node.index()];
        node.evictable = if can_go { node.evictable + s.charged } else { node.evictable - s.charged };
        if !node.reachable_dirty {
            node.reachable_dirty = true;
            self.reachable_dirty.push(s.node);
        }
        if can_go && s.heap_entry == 0 {
            self.offer_victim(slot, false);
        }
        debug_assert_eq!(self.sandboxes[slot].charged, self.charge_of(&self.sandboxes[slot]));
    }

    /// Brings the tree of free memory up to date.
    pub(super) fn settle_free(&mut self) {
        while let Some(id) = self.free_dirty.pop() {
            let node = &mut self.nodes[id.index()];
            node.free_dirty = false;
            let free = node.cap.saturating_sub(node.used + node.foreign);
            self.free.set(id, node.alive.then_some(free));
        }
    }

    /// Brings the tree of what is free or could be freed up to date.
    pub(super) fn settle_reachable(&mut self) {
        while let Some(id) = self.reachable_dirty.pop() {
            let node = &mut self.nodes[id.index()];
            node.reachable_dirty = false;
            let free = node.cap.saturating_sub(node.used + node.foreign);
            // What is used beyond the cap (a charge that turned out larger) must be freed first.
            let over = (node.used + node.foreign).saturating_sub(node.cap);
            let reachable = (free + node.evictable).saturating_sub(over);
            self.reachable.set(id, node.alive.then_some(reachable));
        }
    }

    /// Notes that a node's memory, or the node itself, has changed.
    pub(super) fn touch_node(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        if !std::mem::replace(&mut node.free_dirty, true) {
            self.free_dirty.push(id);
        }
        if !std::mem::replace(&mut node.reachable_dirty, true) {
            self.reachable_dirty.push(id);
        }
    }

    pub(super) fn free_on(&self, id: NodeId) -> Bytes {
        let node = &self.nodes[id.index()];
        if node.alive { node.cap.saturating_sub(node.used + node.foreign) } else { Bytes::ZERO }
    }

    fn key_of(&self, slot: usize) -> Key {
        let s = &self.sandboxes[slot];
        let f = &self.functions[s.function.index()];
        let rate = f.rates.as_ref().map_or(0.0, crate::rate::RateWindow::mean_per_s);
        let window = Duration::from_secs(60 * u64::from(self.config.window));
        let candidate = Candidate {
            idle_since: s.idle_since,
            uses: s.uses,
            priority: s.priority,
            frees: s.charged,
            warm_per_rate: warm_per_rate(f.count_warm + f.count_dedup, rate, window),
        };
        Key((self.eviction.key)(&candidate), s.idle_since)
    }

    /// Sees that an evictable sandbox has a valid entry in its node's heap, a new one if its key may have fallen.
    #[inline(never)]
    pub(super) fn offer_victim(&mut self, slot: usize, fell: bool) {
        if self.sandboxes[slot].heap_entry != 0 && !fell {
            return;
        }
        if self.sandboxes[slot].heap_entry == 0 {
            self.nodes[self.sandboxes[slot].node.index()].valid_victims += 1;
        }
        self.entries = self.entries.wrapping_add(1).max(1);
        let entry = Entry { key: self.key_of(slot), number: self.entries, sandbox: self.id(slot) };
        let s = &mut self.sandboxes[slot];
        s.heap_entry = entry.number;
        let node = &mut self.nodes[s.node.index()];
        node.victims.push(entry);
        if node.victims.len() > 2 * node.valid_victims as usize + 64 {
            let mut entries = node.victims.take();
            entries.retain(|e| self.entry_is_valid(e));
            let node = &mut self.nodes[self.sandboxes[slot].node.index()];
            node.victims.fill(entries);
        }
    }

    fn entry_is_valid(&self, e: &Entry) -> bool {
        self.get(e.sandbox).is_some_and(|s| s.heap_entry == e.number)
    }

    /// The next victim on a node, out of its heap; sandboxes in their state for less than `evict_after` come
    /// last with strategies that spare them, and are handed back through `fresh`.
    pub(super) fn next_victim(&mut self, now: Instant, id: NodeId, fresh: &mut Vec<Entry>) -> Option<usize> {
        if self.eviction.falls && self.nodes[id.index()].victims.minute != now.minute() {
            let mut entries = self.nodes[id.index()].victims.take();
            entries.retain(|e| self.entry_is_valid(e));
            for e in &mut entries {
                e.key = self.key_of(e.sandbox.slot as usize);
            }
            let victims = &mut self.nodes[id.index()].victims;
            victims.fill(entries);
            victims.minute = now.minute();
        }
        loop {
            let Some(entry) = self.nodes[id.index()].victims.pop() else {
                // Only fresh ones are left: the oldest of them first.
                return (!fresh.is_empty()).then(|| fresh.remove(0)).map(|e| e.sandbox.slot as usize);
            };
            if !self.entry_is_valid(&entry) {
                continue;
            }
            let slot = entry.sandbox.slot as usize;
            if !self.sandboxes[slot].evictable {
                self.sandboxes[slot].heap_entry = 0;
                self.nodes[id.index()].valid_victims -= 1;
                continue;
            }
            let key = self.key_of(slot);
            if !self.eviction.falls && key > entry.key {
                self.nodes[id.index()].victims.push(Entry { key, ..entry });
                continue;
            }
            if self.eviction.spares_fresh && now.since(self.sandboxes[slot].since) < self.config.evict_after {
                fresh.push(entry);
                continue;
            }
            return Some(slot);
        }
    }

    pub(super) fn hand_back(&mut self, id: NodeId, fresh: Vec<Entry>) {
        for entry in fresh {
            self.nodes[id.index()].victims.push(entry);
        }
    }

    /// A sandbox leaves the heap's account for good.
    pub(super) fn withdraw_victim(&mut self, slot: usize) {
        let s = &mut self.sandboxes[slot];
        if s.heap_entry != 0 {
            s.heap_entry = 0;
            self.nodes[s.node.index()].valid_victims -= 1;
        }
    }

    #[inline]
    fn chain(&mut self, function: FunctionId, list: List) -> Option<&mut Chain> {
        let f = &mut self.functions[function.index()];
        match list {
            List::None => None,
            List::Cooling => Some(&mut f.cooling),
            List::Warm => Some(&mut f.warm),
            List::Base => Some(&mut f.bases),
            List::Dedup => Some(&mut f.dedup),
        }
    }

    /// Appends a sandbox to one of its function's lists.
    #[inline]
    pub(super) fn link(&mut self, slot: usize, list: List) {
        let function = self.sandboxes[slot].function;
        let Some(chain) = self.chain(function, list) else { return };
        let tail = chain.tail;
        chain.tail = slot as u32;
        if tail == NIL {
            chain.head = slot as u32;
        } else {
            self.sandboxes[tail as usize].next = slot as u32;
        }
        let s = &mut self.sandboxes[slot];
        s.list = list;
        s.prev = tail;
    }

    /// Takes a sandbox out of the list it is in.
    #[inline]
    pub(super) fn unlink(&mut self, slot: usize) {
        let Sandbox { function, list, prev, next, .. } = self.sandboxes[slot];
        let Some(chain) = self.chain(function, list) else { return };
        let is_tail = chain.tail == slot as u32;
        if is_tail {
            chain.tail = prev;
        }
        if prev == NIL {
            chain.head = if is_tail { NIL } else { next };
        }
        if !is_tail {
            self.sandboxes[next as usize].prev = prev;
            if prev != NIL {
                self.sandboxes[prev as usize].next = next;
            }
        }
        self.sandboxes[slot].list = List::None;
    }

    /// Moves sandboxes whose `reuseperiod` is over to the warm list.
    pub(super) fn cool_down(&mut self, now: Instant, function: FunctionId) {
        loop {
            let head = self.functions[function.index()].cooling.head;
            if head == NIL || self.sandboxes[head as usize].since + self.config.reuseperiod > now {
                return;
            }
            self.unlink(head as usize);
            self.link(head as usize, List::Warm);
        }
    }

    /// Counts an arrival for the rates, and once a minute forgets what left the window.
    #[inline]
    pub(super) fn count_arrival(&mut self, now: Instant, function: FunctionId) {
        self.roll_rates(now);
        let f = &mut self.functions[function.index()];
        if let Some(rates) = &mut f.rates {
            if rates.is_empty() {
                self.active.push(function);
            }
            if let Some(peak) = rates.count(now.minute()) {
                self.peak_rates += peak - f.peak_rate;
                f.peak_rate = peak;
            }
        }
    }

    #[inline]
    pub(super) fn roll_rates(&mut self, now: Instant) {
        if now.minute() != self.rated_minute {
            self.forget_old_rates(now);
        }
    }

    fn forget_old_rates(&mut self, now: Instant) {
        self.rated_minute = now.minute();
        let mut active = std::mem::take(&mut self.active);
        let mut sum = 0.0;
        active.retain(|id| {
            let f = &mut self.functions[id.index()];
            let Some(rates) = &mut f.rates else { return false };
            rates.roll(now.minute());
            f.peak_rate = rates.peak_per_s();
            sum += f.peak_rate;
            !rates.is_empty()
        });
        self.active = active;
        self.peak_rates = sum;
    }

    /// Asks the policy about a sandbox at `at`, by way of the timer heap.
    #[inline]
    pub(super) fn set_deadline(&mut self, slot: usize, at: Instant) {
        let s = &mut self.sandboxes[slot];
        s.deadline = at;
        // An entry that fires earlier is moved on when it does: a renewal costs nothing.
        if at < s.timer {
            self.set_timer(slot, at);
        }
    }

    fn set_timer(&mut self, slot: usize, at: Instant) {
        let s = &mut self.sandboxes[slot];
        s.timer = at;
        self.timers.push(Reverse((at, slot as u32, s.generation)));
        self.next_deadline = self.next_deadline.min(at);
    }

    /// Outside check, O(sandboxes): accounts, lists and counts recomputed from the table.
    ///
    /// # Errors
    /// The first thing that does not add up.
    pub fn audit(&self) -> Result<(), String> {
        let mut used = vec![Bytes::ZERO; self.nodes.len()];
        let mut evictable = used.clone();
        let mut references = vec![0u32; self.sandboxes.len()];
        for s in self.sandboxes.iter().filter(|s| s.state != PURGED) {
            let charge = self.charge_of(s);
            if charge != s.charged {
                return Err(format!(
                    "a {:?} sandbox of {} is charged {} instead of {charge}",
                    s.state, s.function, s.charged
                ));
            }
            used[s.node.index()] += s.charged;
            evictable[s.node.index()] += s.frees();
            if s.state.is_idle() != (s.list != List::None) {
                return Err(format!("a {:?} sandbox is in list {:?}", s.state, s.list));
            }
            for base in s.image.iter().flat_map(|i| &i.bases) {
                if self.get(*base).is_none_or(|b| !b.is_base) {
                    return Err(format!("an image of {} refers to {base}, which is no base", s.function));
                }
                references[base.slot as usize] += 1;
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if node.used != used[i] || node.evictable != evictable[i] {
                return Err(format!(
                    "node {i}: {} used and {} evictable by account, {} and {} by its sandboxes",
                    node.used, node.evictable, used[i], evictable[i]
                ));
            }
        }
        if self.total_used != used.iter().copied().sum() {
            return Err(format!("{} used in all by account", self.total_used));
        }
        for (s, counted) in self.sandboxes.iter().zip(references) {
            if s.state != PURGED && s.references != counted {
                return Err(format!("a base of {} counts {} references, {counted} are held", s.function, s.references));
            }
        }
        let mut count = vec![(0u32, 0u32, 0u32, 0u32); self.functions.len()];
        for s in self.sandboxes.iter().filter(|s| s.state != PURGED) {
            let c = &mut count[s.function.index()];
            match s.state {
                State::Dedup | State::InTransition(Transition::Reducing) => c.2 += 1,
                State::InTransition(Transition::Checkpointing) => c.1 += 1,
                _ if s.is_base => c.1 += 1,
                _ => c.0 += 1,
            }
            c.3 += u32::from(s.current().is_some());
        }
        for (f, c) in self.functions.iter().zip(count) {
            if (f.count_warm, f.count_base, f.count_dedup, f.count_busy) != c {
                return Err(format!(
                    "function {}: counts (warm, base, dedup, busy) {:?}, by its sandboxes {c:?}",
                    f.spec.name,
                    (f.count_warm, f.count_base, f.count_dedup, f.count_busy)
                ));
            }
        }
        Ok(())
    }

    /// Every sandbox that is there, with its function, node, state and charge.
    pub fn sandboxes(&self) -> impl Iterator<Item = (SandboxId, FunctionId, NodeId, State, Bytes)> + '_ {
        let there = self.sandboxes.iter().enumerate().filter(|(_, s)| s.state != PURGED);
        there.map(|(slot, s)| (self.id(slot), s.function, s.node, s.state, s.charged))
    }
}
